"""Metrics in bounded memory: the exact value always lies within the bound, and the bound is no excuse."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings

from blemish.metrics import Bounded, Measurement, PixelRanking, StreamingPixels, UndefinedMetric, measure
from test_metrics import (
    SCENES,
    Maps,
    blobs,
    coarse,
    constant,
    evaluation,
    joined,
    perfect,
    realistic,
    small_scenes,
    smooth,
)

ROUNDING = 1e-9
LIMITS = [0.01, 0.3, 1.0]


def streamed(maps: Maps, masks: Maps) -> StreamingPixels:
    stream = StreamingPixels()
    for one, mask in zip(maps, masks, strict=True):
        stream.update(one, mask if mask.any() else None)
    return stream


def outliers(seed: int) -> tuple[Maps, Maps]:
    """A few values of 1e30 and -1e30 beside ordinary ones, in both kinds of pixel."""
    maps, masks = realistic(seed)
    rng = np.random.default_rng(seed)
    for one in maps:
        one.ravel()[rng.integers(one.size, size=4)] = [1e30, -1e30, 3e30, -3e38]
    return maps, masks


def narrow(seed: int) -> tuple[Maps, Maps]:
    """All values in a range of a thousandth, which is eight bins: the bound has to be large."""
    maps, masks = realistic(seed)
    return [(1 + 1e-3 * np.tanh(one)).astype(np.float32) for one in maps], masks


def crowded(seed: int) -> tuple[Maps, Maps]:
    """Neighbouring float32 numbers: many values, and all in one bin."""
    rng = np.random.default_rng(seed)
    masks = [blobs(rng, (20, 20), discs) for discs in [0, 2, 3]]
    return [(np.float32(1) + np.float32(2**-23) * rng.integers(0, 900, mask.shape)).astype(np.float32)
            for mask in masks], masks  # fmt: skip


def worst_order(seed: int) -> tuple[Maps, Maps]:
    """As crowded, and in each bin every anomalous pixel lies below every normal one."""
    maps, masks = crowded(seed)
    return [
        one - np.float32(2**-23) * 900 * mask + np.float32(2**-13) for one, mask in zip(maps, masks, strict=True)
    ], masks


def best_order(seed: int) -> tuple[Maps, Maps]:
    maps, masks = worst_order(seed)
    return [-one for one in maps], masks


def one_pixel(seed: int) -> tuple[Maps, Maps]:
    return [np.float32([[seed + 1.5, 0.5]])], [np.array([[True, False]])]


ALL = [*SCENES, outliers, narrow, crowded, worst_order, best_order, one_pixel]


def both(maps: Maps, masks: Maps) -> Iterator[tuple[str, float, Bounded]]:
    """Every metric exactly and from the stream."""
    exact, stream = PixelRanking(maps, masks), streamed(maps, masks)
    yield "auroc", exact.auroc(), stream.auroc()
    yield "ap", exact.average_precision(), stream.average_precision()
    yield "f1", exact.f1_max(), stream.f1_max()
    yield "best iou", exact.best_iou(), stream.best_iou()
    for limit in LIMITS:
        yield f"aupro {limit}", exact.aupro(limit), stream.aupro(limit)
    values, _ = joined(maps, masks)
    for threshold in [*values[:20].tolist(), values.max(), values.min(), 0.0, -0.0, 0.1, -1e-3, 1e30, np.inf, -np.inf]:
        yield f"iou {threshold}", exact.iou(threshold), stream.iou(threshold)


@pytest.mark.parametrize("scene", ALL)
@pytest.mark.parametrize("seed", range(4))
def test_the_exact_value_lies_within_the_bound(scene, seed: int) -> None:
    for name, exact, (value, bound) in both(*scene(seed)):
        assert bound >= 0, name
        assert 0 <= value <= 1 + ROUNDING, name
        assert abs(exact - value) <= bound + ROUNDING, name


@given(small_scenes())
@settings(max_examples=30, deadline=None)
def test_any_small_scene_is_exact_where_every_bin_holds_one_value(scene: tuple[Maps, Maps]) -> None:
    """Whole numbers up to 30 are all in bins of their own."""
    for name, exact, (value, bound) in both(*scene):
        assert bound <= ROUNDING, name
        assert value == pytest.approx(exact, abs=ROUNDING), name


@given(small_scenes())
@settings(max_examples=30, deadline=None)
def test_any_small_scene_squeezed_into_few_bins_keeps_its_bound(scene: tuple[Maps, Maps]) -> None:
    maps, masks = scene
    squeezed = [(np.float32(1) + one * np.float32(2**-18)).astype(np.float32) for one in maps]
    for name, exact, (value, bound) in both(squeezed, masks):
        assert abs(exact - value) <= bound + ROUNDING, name


@pytest.mark.parametrize("scene", [coarse, constant])
def test_ties_are_exact(scene) -> None:
    for _, exact, (value, bound) in both(*scene(0)):
        assert bound == 0
        assert value == pytest.approx(exact, abs=ROUNDING)


@pytest.mark.parametrize("value", [1.5, -1.5, 0.0, -0.0, 3e38, -3e38])
def test_thresholds_beside_the_one_value_of_a_bin_are_told_apart(value: float) -> None:
    maps, masks = [np.full((2, 3), value, np.float32)], [np.array([[True, False, False], [True, True, False]])]
    exact, stream = PixelRanking(maps, masks), streamed(maps, masks)
    one = np.float32(value)
    for threshold in [one, np.nextafter(one, np.float32(-np.inf)), np.nextafter(one, np.float32(np.inf))]:
        assert stream.iou(float(threshold)) == (exact.iou(float(threshold)), 0)


def test_a_bin_of_several_values_in_the_worst_and_the_best_order_reaches_the_bound() -> None:
    """Of two values in one bin nobody knows which is larger: AUROC and AUPRO are at the very ends."""
    inside = np.float32([[1.0, 1 + 2**-20]])
    for mask, expected in [([[True, False]], 0.0), ([[False, True]], 1.0)]:
        stream, exact = streamed([inside], [np.array(mask)]), PixelRanking([inside], [np.array(mask)])
        assert stream.auroc() == (0.5, 0.5)
        assert exact.auroc() == expected
        value, bound = stream.aupro(1.0)
        assert (value, bound) == (0.5, 0.5)
        assert exact.aupro(1.0) == expected
        value, bound = stream.average_precision()
        assert abs(exact.average_precision() - value) <= bound <= 0.6


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_ordinary_maps_are_small(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [blobs(rng, (200, 220), discs) for discs in [0, 0, 1, 3]]
    for name, exact, (value, bound) in both([smooth(rng, mask) for mask in masks], masks):
        assert bound < 2e-3, name
        assert abs(exact - value) <= bound + ROUNDING, name


def test_order_of_images_and_merging_do_not_matter() -> None:
    maps, masks = outliers(1)
    maps, masks = [*maps, *coarse(2)[0]], [*masks, *coarse(2)[1]]
    whole = streamed(maps, masks)
    parts = [streamed(maps[i::3], masks[i::3]) for i in range(3)]
    merged = parts[2]
    merged.merge(parts[0])
    merged.merge(parts[1])
    merged.merge(StreamingPixels())
    for metric in [StreamingPixels.auroc, StreamingPixels.average_precision, StreamingPixels.f1_max,
                   StreamingPixels.best_iou, StreamingPixels.aupro, lambda stream: stream.iou(0.3)]:  # fmt: skip
        assert metric(merged) == pytest.approx(metric(whole), abs=1e-12)


def test_merging_finds_bins_that_are_of_one_value_in_each_part_only() -> None:
    low, high = np.float32([[1.0]]), np.float32([[1 + 2**-20]])
    merged = streamed([high], [np.array([[True]])])
    merged.merge(streamed([low], [np.array([[False]])]))
    assert merged.auroc() == (0.5, 0.5)


def test_metrics_follow_what_is_added_later() -> None:
    maps, masks = realistic(0)
    stream = streamed(maps[:4], masks[:4])
    before = stream.auroc()
    stream.update(maps[4], masks[4])
    stream.update(maps[5], masks[5])
    assert stream.auroc() == streamed(maps, masks).auroc() != before


def test_maps_that_are_not_contiguous() -> None:
    maps, masks = realistic(3)
    turned = streamed([one.T for one in maps], [mask.T for mask in masks])
    assert turned.aupro() == pytest.approx(streamed(maps, masks).aupro(), abs=1e-12)


@pytest.mark.parametrize("scene", [realistic, coarse, perfect, outliers])
def test_curves_run_through_points_of_the_exact_ones(scene) -> None:
    maps, masks = scene(0)
    stream, exact = streamed(maps, masks), PixelRanking(maps, masks)
    for ours, theirs in [(stream.roc_curve(), exact.roc_curve()), (stream.pro_curve(), exact.pro_curve())]:
        x, y = ours
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, pytest.approx(1), pytest.approx(1))
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) >= 0).all()
        # The exact curve at a rate runs upright from its lowest to its highest value there.
        for rate, height in zip(x, y, strict=True):
            at = np.abs(theirs[0] - rate) < 1e-12
            reach = theirs[1][at] if at.any() else np.array([np.interp(rate, *theirs)])
            assert reach.min() - 1e-9 <= height <= reach.max() + 1e-9
    assert stream.pro_curve(20)[0].size <= 20


def test_one_kind_of_pixel_is_undefined_with_a_reason() -> None:
    one = np.random.default_rng(0).random((6, 7)).astype(np.float32)
    metrics: list[Callable[[StreamingPixels], object]] = [
        StreamingPixels.auroc, StreamingPixels.average_precision, StreamingPixels.f1_max, StreamingPixels.best_iou,
        StreamingPixels.aupro, StreamingPixels.roc_curve, StreamingPixels.pro_curve,
    ]  # fmt: skip
    nothing, normal = StreamingPixels(), streamed([one], [np.zeros((6, 7), bool)])
    for stream in [nothing, normal]:
        for metric in [*metrics, lambda stream: stream.iou(0.5)]:
            with pytest.raises(UndefinedMetric, match="no anomalous pixels"):
                metric(stream)
    anomalous = streamed([one], [np.ones((6, 7), bool)])
    for metric in metrics:
        with pytest.raises(UndefinedMetric, match="no normal pixels"):
            metric(anomalous)
    assert anomalous.iou(0.5).value == pytest.approx((one > 0.5).mean())


def test_what_does_not_fit_is_refused_and_not_counted() -> None:
    maps, masks = realistic(0)
    stream = streamed(maps, masks)
    before = stream.auroc()
    for bad in [np.nan, np.inf, 1e300]:
        with pytest.raises(ValueError, match="map 6 has values that are not finite"):
            stream.update(np.full((3, 3), bad))
    with pytest.raises(ValueError, match="map 6"):
        stream.update(maps[0], masks[0].T)
    assert stream.auroc() == before
    with pytest.raises(ValueError, match="limit"):
        stream.aupro(0)
    with pytest.raises(ValueError, match="not a number"):
        stream.iou(np.nan)


# The door that chooses.


def test_measure_streams_above_the_number_of_exact_pixels_and_says_how_far_off_it_may_be() -> None:
    scores, labels, maps, masks = evaluation(4)
    pixels = sum(one.size for one in maps)
    exact = measure(scores, labels, maps, masks, 0.2, exact_pixels=pixels)
    streaming = measure(scores, labels, iter(maps), iter(masks), 0.2, exact_pixels=pixels - 1)
    assert exact.error_bounds == {}
    assert exact == measure(scores, labels, maps, masks, 0.2)
    assert list(streaming.error_bounds) == ["pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "mad", "iou", "best_iou"]
    assert 0 < streaming.error_bounds["aupro"] < 0.1
    for name, value in streaming.values.items():
        assert value == pytest.approx(exact.values[name], abs=streaming.error_bounds.get(name, 0) + ROUNDING), name
    assert streaming.image_roc == exact.image_roc
    assert len(streaming.pixel_pro[0]) <= 200
    seven = [streaming.error_bounds.get(name, 0) for name in exact.values][:7]
    assert streaming.error_bounds["mad"] == pytest.approx(sum(seven) / 7)


@pytest.mark.parametrize("exact_pixels", [0, 800, 2000])
def test_what_counts_is_the_same_in_both_forms(exact_pixels: int) -> None:
    """Images without masks, in any order, before and after the change from one form to the other."""
    scores, labels, maps, masks = evaluation()
    absent = [None if i in (0, 5) else mask for i, mask in enumerate(masks)]
    exact = measure(scores, labels, maps, absent, 0.2)
    streaming = measure(scores, labels, maps, absent, 0.2, exact_pixels=exact_pixels)
    assert streaming.without_mask == exact.without_mask == 1
    for name, value in streaming.values.items():
        assert value == pytest.approx(exact.values[name], abs=streaming.error_bounds.get(name, 0) + ROUNDING), name
    nothing = measure(scores, labels, maps, None, exact_pixels=exact_pixels)
    assert nothing.undefined["aupro"] == "no anomalous image has a mask"
    assert nothing.error_bounds == {}


def test_images_are_taken_one_at_a_time() -> None:
    scores, labels, maps, masks = evaluation()
    measurement = Measurement(0.2)
    for one in zip(scores, labels, maps, masks, strict=True):
        measurement.add(*one)
    assert measurement.measures() == measure(scores, labels, maps, masks, 0.2)
    assert measurement.measures() == measurement.measures()


def test_maps_that_are_too_few_too_many_or_only_some_are_refused() -> None:
    scores, labels, maps, masks = evaluation()
    for some in [maps[1:], [*maps, maps[0]]]:
        with pytest.raises(ValueError, match="as many as scores: 6"):
            measure(scores, labels, iter(some), masks)
        with pytest.raises(ValueError, match="as many as scores: 6"):
            measure(scores, labels, some, masks)
    measurement = Measurement()
    measurement.add(0.5, False, maps[0])
    with pytest.raises(ValueError, match="image 1 has no anomaly map, unlike those before"):
        measurement.add(0.5, False)
    measurement = Measurement()
    measurement.add(0.5, False)
    with pytest.raises(ValueError, match="image 1 has an anomaly map, unlike those before"):
        measurement.add(0.5, False, maps[0])


def test_memory_does_not_grow_with_the_number_of_maps() -> None:
    def peak(n: int) -> int:
        rng = np.random.default_rng(0)
        mask = blobs(rng, (256, 256), 2)
        tracemalloc.start()
        measure(
            np.arange(float(n)), np.arange(n) % 2 > 0,
            (1 + rng.random((256, 256), np.float32) for _ in range(n)),
            (mask if i % 2 else None for i in range(n)), exact_pixels=300_000,
        )  # fmt: skip
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(8), peak(48)
    assert many < few + 2 * 256 * 256 * 5  # two maps more at most, of forty
