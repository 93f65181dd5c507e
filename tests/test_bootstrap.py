"""Bootstrap intervals against brute force: every draw put together as a data set of its own and measured exactly."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.metrics import Measurement, bootstrap, measure
from test_metrics import KEYS, Maps, blobs, evaluation, smooth

IMAGE_METRICS = ["image_auroc", "image_ap", "image_f1max", "fpr95"]


def line(seed: int, n: int = 14, levels: int | None = None) -> tuple[np.ndarray, np.ndarray, Maps, Maps]:
    """Scores with ties, half the images with defects, each of its own size of map."""
    rng = np.random.default_rng(seed)
    masks = [blobs(rng, (12 + i % 3, 15), int(rng.integers(1, 4)) if i % 2 else 0) for i in range(n)]
    maps = [smooth(rng, mask) for mask in masks]
    if levels is not None:
        maps = [np.round(one * levels).astype(np.float32) for one in maps]
    labels = np.array([mask.any() for mask in masks])
    return np.round(rng.standard_normal(n) + labels, 1), labels, maps, masks


def drawn(labels: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """The images of each draw: the normal ones drawn among themselves first, then the anomalous ones."""
    rng = np.random.default_rng(seed)
    times = np.zeros((draws, labels.size), int)
    for label in (False, True):
        chosen = np.flatnonzero(labels == label)
        times[:, chosen] = rng.multinomial(chosen.size, [1 / chosen.size] * chosen.size, size=draws)
    return [np.repeat(np.arange(labels.size), row) for row in times]


def brute_force(
    scores: np.ndarray, labels: np.ndarray, maps: Maps, masks: list, draws: int, seed: int
) -> dict[str, np.ndarray]:
    values = []
    for chosen in drawn(labels, draws, seed):
        found = measure(scores[chosen], labels[chosen], [maps[i] for i in chosen], [masks[i] for i in chosen], 0.2)
        values.append(found.values)
    return {name: np.array([np.nan if one[name] is None else one[name] for one in values]) for name in KEYS}


@pytest.mark.parametrize(("seed", "n"), [(0, 14), (1, 14), (2, 90)])
def test_few_distinct_values_make_every_draw_exact(seed: int, n: int) -> None:
    scores, labels, maps, masks = line(seed, n, levels=20)
    found = bootstrap(scores, labels, maps, masks, 0.2, draws=70, seed=seed, level=0.8)
    expected = brute_force(scores, labels, maps, masks, 70, seed)
    assert (found.draws, found.seed, found.level) == (70, seed, 0.8)
    assert list(found.intervals) == KEYS
    for name, interval in found.intervals.items():
        assert interval is not None, name
        assert interval[:2] == pytest.approx(np.quantile(expected[name], [0.1, 0.9]), abs=1e-9), name
        assert interval.undefined == 0
        assert interval.error <= 1e-9, name


def test_many_distinct_values_stay_within_the_error_that_is_stated() -> None:
    scores, labels, maps, masks = line(3, n=40)
    assert np.unique(np.concatenate([one[mask] for one, mask in zip(maps, masks, strict=True)])).size > 400
    found = bootstrap(scores, labels, maps, masks, 0.2, draws=60, seed=5)
    expected = brute_force(scores, labels, maps, masks, 60, 5)
    for name, interval in found.intervals.items():
        assert interval is not None, name
        assert interval.error < 0.02, name
        assert (interval.error == 0) == (name in [*IMAGE_METRICS, "iou"]), name
        exact = np.quantile(expected[name], [0.025, 0.975])
        assert interval[:2] == pytest.approx(exact, abs=interval.error + 1e-9), name
        assert interval.low < interval.high


@pytest.mark.parametrize("exact_pixels", [0, 1500, 10**9])
def test_intervals_are_the_same_whether_maps_are_kept_or_not(exact_pixels: int) -> None:
    """The shared thresholds are other ones, chosen by fewer images; the stated errors cover that."""
    scores, labels, maps, masks = line(4, n=20)
    kept = bootstrap(scores, labels, maps, masks, 0.2, draws=100)
    found = bootstrap(scores, labels, iter(maps), iter(masks), 0.2, draws=100, exact_pixels=exact_pixels)
    for name, interval in found.intervals.items():
        other = kept.intervals[name]
        assert interval is not None, name
        assert other is not None, name
        assert interval[:2] == pytest.approx(other[:2], abs=interval.error + other.error + 1e-9), name
        assert interval.error < 0.5, name


def test_draws_without_a_value_are_skipped_and_counted() -> None:
    """Two of three anomalous images have no pixel metrics: (2/3)^3 of all draws take those alone."""
    scores, labels, maps, masks = line(6, n=8)
    chosen = [*np.flatnonzero(~labels), *np.flatnonzero(labels)[:3]]
    scores, labels, maps = scores[chosen], labels[chosen], [maps[i] for i in chosen]
    some = [*(masks[i] for i in chosen[:-2]), None, np.zeros(maps[-1].shape, bool)]
    found = bootstrap(scores, labels, maps, some, 0.2, draws=300, seed=1)
    expected = brute_force(scores, labels, maps, some, 300, 1)
    for name, interval in found.intervals.items():
        assert interval is not None, name
        missing = int(np.isnan(expected[name]).sum())
        assert interval.undefined == missing, name
        assert (missing > 0) == (name not in IMAGE_METRICS), name
        exact = np.nanquantile(expected[name], [0.025, 0.975])
        assert interval[:2] == pytest.approx(exact, abs=interval.error + 1e-9), name
    assert 50 < found.intervals["iou"].undefined < 130


def test_what_no_draw_defines_has_no_interval() -> None:
    scores, labels, maps, masks = evaluation()
    without_maps = bootstrap(scores, labels, draws=20)
    assert {name for name, interval in without_maps.intervals.items() if interval} == set(IMAGE_METRICS)
    assert list(without_maps.intervals) == KEYS
    without_threshold = bootstrap(scores, labels, maps, masks, draws=20)
    assert {name for name, interval in without_threshold.intervals.items() if not interval} == {"iou"}
    good = bootstrap(scores, np.zeros(6, bool), maps, pixel_threshold=0.1, draws=20)
    assert set(good.intervals.values()) == {None}
    assert set(bootstrap([], [], draws=20).intervals.values()) == {None}


@pytest.mark.parametrize("threshold", [np.inf, -np.inf, 1e9, -1e9, 0.0])
def test_any_pixel_threshold(threshold: float) -> None:
    scores, labels, maps, masks = line(2)
    interval = bootstrap(scores, labels, maps, masks, threshold, draws=30).intervals["iou"]
    expected = [
        measure(scores[k], labels[k], [maps[i] for i in k], [masks[i] for i in k], threshold).values["iou"]
        for k in drawn(labels, 30, 0)
    ]
    assert interval[:2] == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-9)


def test_the_interval_of_a_share_is_as_wide_as_it_should_be() -> None:
    """FPR at 95 % of images whose detections are all alike is a share of n = 400: its deviation is known."""
    rng = np.random.default_rng(0)
    labels = np.arange(500) < 100
    scores = np.where(labels, 1.0, np.where(rng.random(500) < 0.2, 2.0, 0.0))
    interval = bootstrap(scores, labels, draws=4000).intervals["fpr95"]
    share = (scores[~labels] == 2).mean()
    deviation = np.sqrt(share * (1 - share) / 400)
    # The ends are quantiles of 4,000 draws of a discrete share; both vary by a few hundredths of the deviation.
    assert interval.low == pytest.approx(share - 1.96 * deviation, abs=0.2 * deviation)
    assert interval.high == pytest.approx(share + 1.96 * deviation, abs=0.2 * deviation)


def test_the_same_seed_gives_the_same_intervals() -> None:
    arguments = line(1)
    assert bootstrap(*arguments, 0.2, draws=50, seed=3) == bootstrap(*arguments, 0.2, draws=50, seed=3)
    assert bootstrap(*arguments, 0.2, draws=50, seed=3) != bootstrap(*arguments, 0.2, draws=50, seed=4)


def test_wrong_use_is_refused() -> None:
    scores, labels, maps, masks = evaluation()
    for wrong in [{"draws": 0}, {"level": 0.0}, {"level": 1.0}]:
        with pytest.raises(ValueError, match="draws are 1 or more"):
            bootstrap(scores, labels, maps, masks, **wrong)
    measurement = Measurement(0.2)
    measurement.add(0.5, False, maps[0])
    with pytest.raises(ValueError, match="confidence=True"):
        measurement.confidence()
