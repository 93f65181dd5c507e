"""Metrics against scikit-learn and against slow definitions written out, on random and on hostile data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as reference

from blemish.metrics import (
    PixelRanking,
    UndefinedMetric,
    auroc,
    average_precision,
    f1_max,
    fpr_at_tpr,
    mad,
    measure,
    per_image_pro,
    roc_curve,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"
KEYS = [
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1max",
    "aupro",
    "mad",
    "iou",
    "best_iou",
    "fpr95",
]
METRICS_OF_SCORES = [auroc, average_precision, f1_max, fpr_at_tpr, roc_curve]

Maps = list[np.ndarray]


def blobs(rng: np.random.Generator, shape: tuple[int, int], discs: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    ys, xs = np.indices(shape)
    for _ in range(discs):
        y, x, radius = rng.integers(shape[0]), rng.integers(shape[1]), rng.uniform(1, 2 + 0.15 * max(shape))
        mask |= (ys - y) ** 2 + (xs - x) ** 2 < radius**2
    return mask


def smooth(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 1.5)
    return (noise + 0.3 * ndimage.gaussian_filter(mask.astype(float), 1.0)).astype(np.float32)


def realistic(seed: int) -> tuple[Maps, Maps]:
    rng = np.random.default_rng(seed)
    masks = [blobs(rng, (24, 30), discs) for discs in [0, 0, 1, 2, 3, 5]]
    return [smooth(rng, mask) for mask in masks], masks


def of_sizes(seed: int) -> tuple[Maps, Maps]:
    rng = np.random.default_rng(seed)
    masks = [blobs(rng, shape, 2) for shape in [(1, 1), (1, 30), (17, 3), (40, 25), (8, 64)]]
    return [smooth(rng, mask) for mask in masks], masks


def coarse(seed: int) -> tuple[Maps, Maps]:
    """Few distinct values: nearly every pixel is tied."""
    maps, masks = realistic(seed)
    return [np.round(one * 3).astype(np.float32) for one in maps], masks


def heavy_tailed(seed: int) -> tuple[Maps, Maps]:
    """Values over fifty orders of magnitude and of both signs: evenly spaced buckets hold nearly all of them in one."""
    maps, masks = realistic(seed)
    return [np.sign(one) * np.exp(60 * one) for one in maps], masks


def extreme(seed: int) -> tuple[Maps, Maps]:
    """The largest, the smallest and the zeros of float32."""
    rng = np.random.default_rng(seed)
    limits = np.finfo(np.float32)
    values = np.array([limits.max, -limits.max, limits.tiny, -limits.tiny, 1e-45, 0.0, -0.0, 1.0], np.float32)
    masks = [blobs(rng, (20, 20), discs) for discs in [0, 2, 3]]
    return [rng.choice(values, mask.shape) for mask in masks], masks


def constant(seed: int) -> tuple[Maps, Maps]:
    maps, masks = realistic(seed)
    return [np.full_like(one, -2.5) for one in maps], masks


def perfect(seed: int) -> tuple[Maps, Maps]:
    maps, masks = realistic(seed)
    return [one + 100 * mask for one, mask in zip(maps, masks, strict=True)], masks


def inverted(seed: int) -> tuple[Maps, Maps]:
    maps, masks = perfect(seed)
    return [-one for one in maps], masks


def touching_borders(seed: int) -> tuple[Maps, Maps]:
    """Defects that leave the image, and images that lie beside each other in memory."""
    maps, _ = realistic(seed)
    masks = [np.zeros(one.shape, bool) for one in maps]
    masks[0][-1], masks[1][0], masks[2][:, -1], masks[3][:, 0] = True, True, True, True
    masks[4][[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return maps, masks


def mostly_anomalous(seed: int) -> tuple[Maps, Maps]:
    maps, masks = realistic(seed)
    return maps, [~mask for mask in masks]


def double_precision(seed: int) -> tuple[Maps, Maps]:
    """float64 values that float32 cannot tell apart."""
    maps, masks = realistic(seed)
    return [1 + 1e-6 * one.astype(np.float64) for one in maps], masks


SCENES: list[Callable[[int], tuple[Maps, Maps]]] = [
    realistic, of_sizes, coarse, heavy_tailed, extreme, constant, perfect, inverted, touching_borders, mostly_anomalous,
    double_precision,
]  # fmt: skip


def joined(maps: Maps, masks: Maps) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([one.astype(np.float32).ravel() for one in maps]),
        np.concatenate([one.ravel() for one in masks]),
    )


def slow_f1_and_iou(values: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    f1, iou = [], []
    for threshold in np.unique(values):
        flagged = values >= threshold
        hit = int((flagged & anomalous).sum())
        f1.append(2 * hit / (flagged.sum() + anomalous.sum()))
        iou.append(hit / (flagged | anomalous).sum())
    return max(f1), max(iou)


def slow_pro_curve(maps: Maps, masks: Maps) -> tuple[np.ndarray, np.ndarray]:
    """Mean overlap of all components and false positive rate at every distinct value, one threshold after another."""
    values, anomalous = joined(maps, masks)
    components = []
    for one, mask in zip(maps, masks, strict=True):
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        components += [np.sort(one.astype(np.float32)[labels == k]) for k in range(1, n + 1)]
    normal = np.sort(values[~anomalous])
    x, y = [0.0], [0.0]
    for threshold in np.unique(values)[::-1]:
        x.append(1 - np.searchsorted(normal, threshold) / normal.size)
        y.append(float(np.mean([1 - np.searchsorted(one, threshold) / one.size for one in components])))
    return np.array(x), np.array(y)


def slow_aupro(maps: Maps, masks: Maps, limit: float) -> float:
    fpr, pro = slow_pro_curve(maps, masks)
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr[:-1], fpr[1:], pro[:-1], pro[1:], strict=True):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def slow_per_image_pro(maps: Maps, masks: Maps) -> float:
    areas = []
    for one, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        low, high = float(one.min()), float(one.max())
        x, y = [], []
        for step in range(200):
            flagged = one > low + (high - low) * step / 200
            rate = (flagged & ~mask).sum() / (~mask).sum()
            if rate < 0.3:
                x.append(rate)
                y.append(np.mean([flagged[labels == k].mean() for k in range(1, n + 1)]))
        areas.append(reference.auc(np.array(x) / max(x), y))
    return float(np.mean(areas))


# Images: scores and labels.


def scores_of(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.4
    labels[:2] = [True, False]
    scores = rng.standard_normal(60) + labels
    if kind == "tied":
        scores = np.round(scores)
    elif kind == "all equal":
        scores = np.full(60, 3.0)
    elif kind == "perfect":
        scores = scores + 50 * labels
    elif kind == "inverted":
        scores = scores - 50 * labels
    elif kind == "close":
        scores = 1 + 1e-12 * scores
    return scores, labels


@pytest.mark.parametrize("kind", ["continuous", "tied", "all equal", "perfect", "inverted", "close"])
@pytest.mark.parametrize("seed", range(4))
def test_image_metrics_agree_with_scikit_learn(kind: str, seed: int) -> None:
    scores, labels = scores_of(kind, seed)
    assert auroc(scores, labels) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(
        reference.average_precision_score(labels, scores), abs=1e-12
    )
    assert f1_max(scores, labels) == pytest.approx(slow_f1_and_iou(scores, labels)[0], abs=1e-12)
    fpr, tpr, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    for wanted in [0.01, 0.5, 0.95, 1.0]:
        assert fpr_at_tpr(scores, labels, wanted) == pytest.approx(fpr[tpr >= wanted].min(), abs=1e-12)
    x, y = roc_curve(scores, labels)
    assert reference.auc(x, y) == pytest.approx(reference.auc(fpr, tpr), abs=1e-12)
    # Both curves are the same line: each lies on the other wherever it is not upright.
    assert {*zip(fpr, tpr, strict=True)} >= {*zip(x, y, strict=True)}


def test_two_images() -> None:
    assert auroc([1.0, 0.0], [True, False]) == 1
    assert auroc([0.0, 1.0], [True, False]) == 0
    assert auroc([0.0, 0.0], [True, False]) == 0.5
    assert average_precision([0.0, 1.0], [True, False]) == 0.5
    assert f1_max([0.0, 1.0], [True, False]) == pytest.approx(2 / 3)
    assert fpr_at_tpr([0.0, 1.0], [True, False]) == 1


def test_a_tpr_that_is_reached_exactly_counts() -> None:
    # 0.07 * 100 is a little more than 7 in floating point.
    labels = np.arange(200) < 100
    scores = np.where(labels, np.where(np.arange(200) < 7, 2.0, 0.0), 1.0)
    assert fpr_at_tpr(scores, labels, 0.07) == 0


@pytest.mark.parametrize("metric", METRICS_OF_SCORES)
def test_one_class_is_undefined_with_a_reason(metric) -> None:
    with pytest.raises(UndefinedMetric, match="no anomalous images"):
        metric([0.1, 0.2], [False, False])
    with pytest.raises(UndefinedMetric, match="no normal images"):
        metric([0.1, 0.2], [True, True])
    with pytest.raises(UndefinedMetric, match="no anomalous images"):
        metric([], [])


@pytest.mark.parametrize("metric", METRICS_OF_SCORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(metric, bad: float) -> None:
    with pytest.raises(ValueError, match="score 1 is not finite") as caught:
        metric([0.1, bad, 0.3], [True, False, True])
    assert not isinstance(caught.value, UndefinedMetric)


def test_scores_and_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="labels are bool"):
        auroc([0.1, 0.2], [0, 1])
    with pytest.raises(ValueError, match="one score and one label"):
        auroc([0.1, 0.2, 0.3], [True, False])
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        fpr_at_tpr([0.1, 0.2], [True, False], 0.0)


@given(
    st.lists(st.tuples(st.integers(-40, 40), st.booleans()), min_size=2, max_size=40),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_image_metrics_know_only_the_order(pairs: list[tuple[int, bool]], shuffler) -> None:
    assume(len({label for _, label in pairs}) == 2)
    shuffled = list(pairs)
    shuffler.shuffle(shuffled)
    for metric in [auroc, average_precision, f1_max, fpr_at_tpr]:
        scores, labels = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
        value = metric(scores, labels)
        assert 0 <= value <= 1
        assert metric(np.exp(scores / 9) - 5, labels) == value
        assert metric([p[0] for p in shuffled], [p[1] for p in shuffled]) == value
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-15)


# Pixels: maps and masks.


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("seed", range(3))
def test_pixel_metrics_agree_with_scikit_learn(scene, seed: int) -> None:
    maps, masks = scene(seed)
    values, anomalous = joined(maps, masks)
    ranking = PixelRanking(maps, masks)
    with np.errstate(over="ignore", invalid="ignore"):  # scikit-learn subtracts neighbouring scores
        assert ranking.auroc() == pytest.approx(reference.roc_auc_score(anomalous, values), abs=1e-9)
        expected = reference.average_precision_score(anomalous, values)
    assert ranking.average_precision() == pytest.approx(expected, abs=1e-9)
    f1, iou = slow_f1_and_iou(values, anomalous)
    assert ranking.f1_max() == pytest.approx(f1, abs=1e-12)
    assert ranking.best_iou() == pytest.approx(iou, abs=1e-12)
    for threshold in [*np.unique(values)[[0, -1]].tolist(), *values[:5].tolist(), 0.1, -np.inf, np.inf]:
        flagged = values > np.float32(threshold)
        expected = (flagged & anomalous).sum() / (flagged | anomalous).sum()
        assert ranking.iou(threshold) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("seed", range(2))
def test_aupro_agrees_with_its_definition(scene, seed: int) -> None:
    maps, masks = scene(seed)
    ranking = PixelRanking(maps, masks)
    for limit in [0.01, 0.3, 1.0]:
        assert ranking.aupro(limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)


@pytest.mark.parametrize("scene", [realistic, of_sizes, coarse, touching_borders])
def test_per_image_pro_agrees_with_its_recipe(scene) -> None:
    maps, masks = scene(1)
    pairs = [(one, mask) for one, mask in zip(maps, masks, strict=True) if one.size > 500]
    maps, masks = [one for one, _ in pairs], [mask for _, mask in pairs]
    assert per_image_pro(maps, masks) == pytest.approx(slow_per_image_pro(maps, masks), abs=1e-9)


def test_values_of_special_maps() -> None:
    perfect_ranking, inverted_ranking = PixelRanking(*perfect(0)), PixelRanking(*inverted(0))
    assert [perfect_ranking.auroc(), perfect_ranking.aupro(), perfect_ranking.best_iou()] == [1, 1, 1]
    assert [inverted_ranking.auroc(), inverted_ranking.aupro()] == [0, 0]
    flat = PixelRanking(*constant(0))
    assert flat.auroc() == 0.5
    assert flat.aupro() == pytest.approx(0.15)  # the diagonal, up to 0.3


def test_one_pixel_of_each_kind() -> None:
    ranking = PixelRanking([np.array([[2.0, 1.0]])], [np.array([[True, False]])])
    assert [ranking.auroc(), ranking.average_precision(), ranking.f1_max(), ranking.aupro()] == [1, 1, 1, 1]
    assert [ranking.iou(1.5), ranking.iou(2.0), ranking.iou(0.0)] == [1, 0, 0.5]


def test_components_weigh_the_same_whatever_their_size() -> None:
    mask = np.zeros((1, 100, 100), bool)
    mask[0, :60, :60] = True
    mask[0, 90, 90] = True
    found = np.zeros((1, 100, 100))
    found[0, 90, 90] = 1.0  # the small one found, the large one level with the background
    assert PixelRanking(found, mask).aupro() == pytest.approx(0.5 + 0.5 * 0.15)


def test_more_pixels_than_are_counted_at_a_time() -> None:
    rng = np.random.default_rng(5)
    masks = [blobs(rng, (600, 700), discs) for discs in [0, 1, 0, 3, 2]]
    maps = [rng.standard_normal(mask.shape).astype(np.float32) + mask for mask in masks]
    values, anomalous = joined(maps, masks)
    ranking = PixelRanking(maps, masks).ranking
    thresholds, counts = np.unique(values[anomalous], return_counts=True)
    normal = np.sort(values[~anomalous])
    np.testing.assert_array_equal(ranking.true_positives, np.cumsum(counts[::-1]))
    np.testing.assert_array_equal(
        ranking.false_positives, normal.size - np.searchsorted(normal, thresholds[::-1], side="left")
    )
    np.testing.assert_array_equal(
        ranking.false_positives_above, normal.size - np.searchsorted(normal, thresholds[::-1], side="right")
    )
    assert ranking.n_normal == normal.size


def test_an_empty_mask_adds_normal_pixels_and_no_component() -> None:
    maps, masks = realistic(0)
    more = np.full((30, 30), -1e9)
    with_more = PixelRanking([*maps, more], [*masks, np.zeros((30, 30), bool)])
    without = PixelRanking(maps, masks)
    assert with_more.ranking.n_normal == without.ranking.n_normal + 900
    assert with_more.ranking.n_anomalous == without.ranking.n_anomalous
    np.testing.assert_allclose(np.unique(with_more.pro_curve()[1]), np.unique(without.pro_curve()[1]))


def pixel_metrics(ranking: PixelRanking) -> list[Callable[[], object]]:
    return [
        ranking.auroc, ranking.average_precision, ranking.f1_max, ranking.aupro, ranking.best_iou,
        ranking.roc_curve, ranking.pro_curve,
    ]  # fmt: skip


def test_one_kind_of_pixel_is_undefined_with_a_reason() -> None:
    maps = [np.random.default_rng(0).random((6, 7))] * 2
    normal = PixelRanking(maps, [np.zeros((6, 7), bool)] * 2)
    for metric in [*pixel_metrics(normal), lambda: normal.iou(0.5)]:
        with pytest.raises(UndefinedMetric, match="no anomalous pixels"):
            metric()
    anomalous = PixelRanking(maps, [np.ones((6, 7), bool)] * 2)
    for metric in pixel_metrics(anomalous):
        with pytest.raises(UndefinedMetric, match="no normal pixels"):
            metric()
    assert anomalous.iou(0.5) == pytest.approx((maps[0] > 0.5).mean())
    for metric in pixel_metrics(PixelRanking([], [])):
        with pytest.raises(UndefinedMetric, match="no anomalous pixels"):
            metric()


def test_per_image_pro_without_a_curve_is_undefined() -> None:
    mask = np.zeros((8, 8), bool)
    with pytest.raises(UndefinedMetric, match="no anomalous pixels"):
        per_image_pro([np.ones((8, 8))], [mask])
    with pytest.raises(UndefinedMetric, match="image 0 has no normal pixels"):
        per_image_pro([np.ones((8, 8))], [~mask])
    mask[2:4] = True
    for one in [np.ones((8, 8)), mask.astype(float)]:  # flat; and so good that no threshold has a false positive
        with pytest.raises(UndefinedMetric, match="no curve"):
            per_image_pro([one], [mask])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("where", [(0, 0), (5, 6)])
def test_maps_must_be_finite(bad: float, where: tuple[int, int]) -> None:
    mask = np.zeros((6, 7), bool)
    mask[0, 0] = True
    maps = [np.zeros((6, 7)), np.zeros((6, 7))]
    maps[1][where] = bad
    for call in [PixelRanking, per_image_pro]:
        with pytest.raises(ValueError, match="map 1 has values that are not finite"):
            call(maps, [mask, mask])


def test_maps_and_masks_must_fit() -> None:
    one, mask = np.zeros((6, 7)), np.zeros((6, 7), bool)
    for bad_map, bad_mask in [(one.T, mask), (one, mask.astype(np.uint8)), (one[0], mask[0]), (one[None], mask[None])]:
        with pytest.raises(ValueError, match="map 0"):
            PixelRanking([bad_map], [bad_mask])
    with pytest.raises(ValueError, match="zip"):
        PixelRanking([one, one], [mask])
    ranking = PixelRanking(*realistic(0))
    for limit in [0, -0.1, 1.1, np.nan]:
        with pytest.raises(ValueError, match="limit"):
            ranking.aupro(limit)
    with pytest.raises(ValueError, match="not a number"):
        ranking.iou(np.nan)


@st.composite
def small_scenes(draw: st.DrawFn) -> tuple[Maps, Maps]:
    """A few tiny maps of whole numbers, so that ties are common, with both kinds of pixel."""
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 4))):
        height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        cells = st.lists(
            st.tuples(st.integers(-30, 30), st.booleans()), min_size=height * width, max_size=height * width
        )
        drawn = draw(cells)
        maps.append(np.array([c[0] for c in drawn], np.float32).reshape(height, width))
        masks.append(np.array([c[1] for c in drawn]).reshape(height, width))
    anomalous = joined(maps, masks)[1]
    assume(anomalous.any() and not anomalous.all())
    return maps, masks


def all_of(maps: Maps, masks: Maps) -> np.ndarray:
    ranking = PixelRanking(maps, masks)
    values = [ranking.auroc(), ranking.average_precision(), ranking.f1_max(), ranking.best_iou()]
    return np.array([*values, ranking.aupro(), ranking.aupro(0.05)])


@given(small_scenes(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_pixel_metrics_know_only_the_order(scene: tuple[Maps, Maps], shuffler) -> None:
    maps, masks = scene
    values = all_of(maps, masks)
    assert ((values >= 0) & (values <= 1)).all()
    np.testing.assert_allclose(all_of([np.exp(one / 9) - 5 for one in maps], masks), values, atol=1e-12)
    order = list(range(len(maps)))
    shuffler.shuffle(order)
    np.testing.assert_allclose(all_of([maps[i] for i in order], [masks[i] for i in order]), values, atol=1e-12)
    np.testing.assert_allclose(
        all_of([np.rot90(one) for one in maps], [np.rot90(one) for one in masks]), values, atol=1e-12
    )


@given(small_scenes())
@settings(max_examples=100, deadline=None)
def test_any_small_scene_agrees_with_the_definitions(scene: tuple[Maps, Maps]) -> None:
    values, anomalous = joined(*scene)
    f1, iou = slow_f1_and_iou(values, anomalous)
    expected = [
        reference.roc_auc_score(anomalous, values),
        reference.average_precision_score(anomalous, values),
        f1,
        iou,
        slow_aupro(*scene, 0.3),
        slow_aupro(*scene, 0.05),
    ]
    np.testing.assert_allclose(all_of(*scene), expected, atol=1e-9)


@pytest.mark.parametrize("scene", SCENES)
def test_curves_rise_from_corner_to_corner(scene) -> None:
    maps, masks = scene(0)
    ranking = PixelRanking(maps, masks)
    for curve in [ranking.roc_curve, ranking.pro_curve]:
        full = curve()
        for x, y in [full, curve(50), curve(2)]:
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
            assert (np.diff(x) >= 0).all()
            assert (np.diff(y) >= 0).all()
            assert {*zip(x, y, strict=True)} <= {*zip(*full, strict=True)}
        assert curve(50)[0].size <= 50
        assert reference.auc(*curve(400)) == pytest.approx(reference.auc(*full), abs=0.01)
        with pytest.raises(ValueError, match="2 or more"):
            curve(1)


def test_the_pro_curve_agrees_with_its_definition() -> None:
    maps, masks = coarse(3)
    fpr, pro = slow_pro_curve(maps, masks)
    x, y = PixelRanking(maps, masks).pro_curve()
    # Where the definition's curve runs straight, ours leaves points out; it invents none.
    of_definition = {*zip(fpr.round(9), pro.round(9), strict=True)}
    assert {*zip(x.round(9), y.round(9), strict=True)} <= of_definition


# Everything together.


def evaluation(seed: int = 0) -> tuple[np.ndarray, np.ndarray, Maps, Maps]:
    maps, masks = realistic(seed)
    return np.array([one.max() for one in maps]), np.array([mask.any() for mask in masks]), maps, masks


def test_measure_gathers_everything() -> None:
    scores, labels, maps, masks = evaluation()
    found = measure(scores, labels, maps, masks, pixel_threshold=0.2, aupro_limit=0.1)
    pixels = PixelRanking(maps, masks)
    seven = [
        auroc(scores, labels), average_precision(scores, labels), f1_max(scores, labels),
        pixels.auroc(), pixels.average_precision(), pixels.f1_max(), pixels.aupro(0.1),
    ]  # fmt: skip
    others = [pixels.iou(0.2), pixels.best_iou(), fpr_at_tpr(scores, labels, 0.95)]
    assert list(found.values) == KEYS
    assert found.error_bounds == {}
    assert list(found.values.values()) == [*seven, pytest.approx(np.mean(seven)), *others]
    assert all(type(value) is float for value in found.values.values())
    assert found.undefined == {}
    assert found.without_mask == 0
    assert found.image_roc == tuple(x.tolist() for x in roc_curve(scores, labels, 200))
    assert found.pixel_pro == tuple(x.tolist() for x in pixels.pro_curve(200))
    assert len(found.pixel_pro[0]) <= 200


def test_a_normal_image_without_a_mask_is_normal_all_over() -> None:
    scores, labels, maps, masks = evaluation()
    absent = [mask if mask.any() else None for mask in masks]
    assert None in absent
    assert measure(scores, labels, maps, absent, 0.2) == measure(scores, labels, maps, masks, 0.2)


def test_an_anomalous_image_without_a_mask_is_left_out_of_pixel_metrics() -> None:
    scores, labels, maps, masks = evaluation()
    found = measure(scores, labels, maps, [*masks[:-2], None, None], 0.2)
    known = PixelRanking(maps[:-2], masks[:-2])
    assert found.values["pixel_auroc"] == known.auroc()
    assert found.values["aupro"] == known.aupro()
    assert found.values["iou"] == known.iou(0.2)
    assert found.values["image_auroc"] == auroc(scores, labels)
    assert found.without_mask == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"maps": None}, "no anomaly maps"),
        ({"masks": None}, "no anomalous image has a mask"),
        ({"labels": np.zeros(6, bool), "masks": None}, "no anomalous images"),
        ({"masks": [np.zeros((24, 30), bool)] * 6}, "no anomalous pixels"),
    ],
)
def test_what_pixels_cannot_define_is_none_with_its_reason(change: dict, reason: str) -> None:
    scores, labels, maps, masks = evaluation()
    arguments = {"scores": scores, "labels": labels, "maps": maps, "masks": masks, "pixel_threshold": 0.2}
    found = measure(**(arguments | change))
    for key in ["pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "iou"]:
        assert found.values[key] is None
        assert found.undefined[key] == reason
    assert found.values["mad"] is None
    assert "aupro" in found.undefined["mad"]
    assert found.pixel_pro is None


def test_normal_images_only() -> None:
    maps, _ = realistic(0)
    found = measure(np.arange(6.0), np.zeros(6, bool), maps, pixel_threshold=0.1)
    assert found.values == dict.fromkeys(KEYS)
    assert set(found.undefined) == set(KEYS)
    assert found.undefined["image_auroc"] == "no anomalous images"
    assert found.image_roc is None


def test_nothing_at_all() -> None:
    found = measure([], [], [], [])
    assert found.values == dict.fromkeys(KEYS)


def test_anomalous_images_only_still_have_pixel_metrics() -> None:
    _, _, maps, masks = evaluation()
    found = measure(np.arange(4.0), np.ones(4, bool), maps[2:], masks[2:])
    assert found.values["pixel_auroc"] == PixelRanking(maps[2:], masks[2:]).auroc()
    assert found.undefined["image_auroc"] == "no normal images"
    assert found.undefined["iou"] == "no pixel threshold"
    assert found.undefined["mad"] == "undefined with image_auroc, image_ap, image_f1max"


def test_measure_refuses_contradictions() -> None:
    scores, labels, maps, masks = evaluation()
    with pytest.raises(ValueError, match="image 5 is normal but its mask marks pixels"):
        measure(scores, [*labels[:-1], False], maps, masks)
    with pytest.raises(ValueError, match="as many as scores: 6"):
        measure(scores, labels, maps[1:], masks)
    with pytest.raises(ValueError, match="as many as scores: 6"):
        measure(scores, labels, maps, masks[1:])


def test_mad_is_the_mean_of_seven() -> None:
    assert mad([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]) == pytest.approx(0.4)
    with pytest.raises(UndefinedMetric, match="pixel_auroc"):
        mad([0.1, 0.2, 0.3, None, 0.5, 0.6, 0.7])
    with pytest.raises(ValueError, match="mean of 7"):
        mad([0.1, 0.2])


def test_real_masks() -> None:
    """Masks of a real dataset, with maps made from them: components that touch borders, and masks that are empty."""
    folder = SHARED / "data" / "magnetic_tile"
    if not folder.is_dir():
        pytest.skip("the magnetic tile images are not here")
    image = pytest.importorskip("PIL.Image")
    names = [*sorted(folder.glob("MT_Blowhole/Imgs/*.png"))[:4], *sorted(folder.glob("MT_Uneven/Imgs/*45042.png"))]
    masks = [np.asarray(image.open(name).convert("L")) > 127 for name in names]
    assert [mask.any() for mask in masks] == [True] * 4 + [False]
    rng = np.random.default_rng(0)
    maps = [np.round(40 * smooth(rng, mask)) for mask in masks]
    values, anomalous = joined(maps, masks)
    found = measure(np.arange(5.0), np.ones(5, bool), maps, masks).values
    assert found["pixel_auroc"] == pytest.approx(reference.roc_auc_score(anomalous, values), abs=1e-12)
    assert found["aupro"] == pytest.approx(slow_aupro(maps, masks, 0.3), abs=1e-9)
