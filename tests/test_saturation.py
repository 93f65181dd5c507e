"""sPRO against its definition written out, one threshold after another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from blemish.metrics import (
    Defect,
    PixelRanking,
    SaturatedOverlap,
    StreamingPixels,
    UndefinedMetric,
    saturation_area,
    spro,
)
from test_metrics import Maps, blobs, coarse, realistic, slow_aupro, smooth


def slow_spro(maps: Maps, defects: list[list[Defect]], limit: float) -> float:
    x, y = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([one.ravel() for one in maps]))[::-1]:
        overlaps, false, normal = [], 0, 0
        for one, of_image in zip(maps, defects, strict=True):
            flagged = one >= threshold
            anywhere = np.zeros(one.shape, bool)
            for mask, enough in of_image:
                overlaps.append(min((flagged & mask).sum() / enough, 1))
                anywhere |= mask
            false += (flagged & ~anywhere).sum()
            normal += (~anywhere).sum()
        x.append(false / normal)
        y.append(float(np.mean(overlaps)))
    inside = [(a, b) for a, b in zip(x, y, strict=True) if a <= limit]
    if inside[-1][0] < limit:
        inside.append((limit, float(np.interp(limit, x, y))))
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(inside))
    return area / limit


def scene(seed: int, levels: int | None) -> tuple[Maps, list[list[Defect]]]:
    """Good images, and defects of several pieces that overlap; some saturate at one pixel, some only in full."""
    rng = np.random.default_rng(seed)
    maps, defects = [], []
    for n in [0, 1, 2, 0, 3]:
        masks = [blobs(rng, (14, 17), 2) for _ in range(n)]
        one = smooth(rng, np.any(masks, axis=0) if masks else np.zeros((14, 17), bool))
        maps.append(one if levels is None else np.round(one * levels).astype(np.float32))
        areas = [int(mask.sum()) for mask in masks]
        enough = [int(rng.choice([1, area, rng.integers(1, area + 1)])) for area in areas]
        defects.append([Defect(*pair) for pair in zip(masks, enough, strict=True)])
    return maps, defects


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(4))
def test_spro_agrees_with_its_definition(seed: int, levels: int | None) -> None:
    maps, defects = scene(seed, levels)
    overlap = SaturatedOverlap(maps, defects)
    for limit in [0.01, 0.05, 0.3, 1.0]:
        assert overlap.area(limit) == pytest.approx(slow_spro(maps, defects, limit), abs=1e-9)
    assert spro(maps, defects) == overlap.area(0.05)
    x, y = overlap.curve()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert overlap.curve(10)[0].size <= 10


@pytest.mark.parametrize("of", [realistic, coarse])
def test_defects_in_one_piece_that_saturate_in_full_make_it_aupro(of) -> None:
    from scipy import ndimage

    maps, masks = of(2)
    defects = []
    for mask in masks:
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        defects.append([Defect(labels == k, int((labels == k).sum())) for k in range(1, n + 1)])
    assert spro(maps, defects, 0.3) == pytest.approx(PixelRanking(maps, masks).aupro(0.3), abs=1e-12)
    assert spro(maps, defects, 0.3) == pytest.approx(slow_aupro(maps, masks, 0.3), abs=1e-9)


def test_by_hand() -> None:
    """A defect of four pixels of which two suffice: at 5 and 4 it is found in full, at 3 it has two false pixels."""
    maps = [np.float32([[5, 4, 1, 0], [3, 3, 2, 2]])]
    mask = np.array([[True, True, True, True], [False, False, False, False]])
    assert spro(maps, [[Defect(mask, 2)]], 1.0) == 1
    assert spro(maps, [[Defect(mask, 4)]], 1.0) == pytest.approx(0.5)
    # With three, the third pixel lies below all normal ones.
    assert spro(maps, [[Defect(mask, 3)]], 1.0) == pytest.approx(2 / 3)


def test_good_images_count_among_the_normal_pixels() -> None:
    maps, defects = scene(1, None)
    good = [np.full((14, 17), 1e6, np.float32)]
    assert spro([*maps, *good], [*defects, []], 0.05) == pytest.approx(
        slow_spro([*maps, *good], [*defects, []], 0.05), abs=1e-9
    )
    assert spro([*maps, *good], [*defects, []], 0.05) < spro(maps, defects, 0.05)


@pytest.mark.parametrize(
    ("area", "threshold", "relative", "expected"),
    [(1000, 400, False, 400), (300, 400, False, 300), (1001, 0.5, True, 500), (7, 1.0, True, 7), (3, 0.1, True, 1)],
)
def test_saturation_areas(area: int, threshold: float, relative: bool, expected: int) -> None:
    assert saturation_area(area, threshold, relative) == expected


def test_what_is_undefined_or_does_not_fit() -> None:
    maps, defects = scene(0, None)
    with pytest.raises(UndefinedMetric, match="no anomalous pixels"):
        spro(maps, [[]] * 5)
    with pytest.raises(UndefinedMetric, match="no normal pixels"):
        spro(maps[:1], [[Defect(np.ones((14, 17), bool), 5)]])
    for enough in [0, 239]:
        with pytest.raises(ValueError, match=f"image 0 has a defect of 238 pixels and a saturation area of {enough}"):
            spro(maps[:1], [[Defect(np.ones((14, 17), bool), enough)]])
    with pytest.raises(ValueError, match="a defect of 0 pixels"):
        spro(maps[:1], [[Defect(np.zeros((14, 17), bool), 1)]])
    with pytest.raises(ValueError, match="map 1"):
        spro(maps, [[], [Defect(np.ones((17, 14), bool), 5)], [], [], []])
    with pytest.raises(ValueError, match="map 0 has values that are not finite"):
        spro([np.full((14, 17), np.nan)], [[Defect(np.ones((14, 17), bool), 5)]])
    with pytest.raises(ValueError, match="zip"):
        spro(maps, defects[1:])
    with pytest.raises(ValueError, match="limit"):
        spro(maps, defects, 0)


def test_counted_in_bins_it_is_the_same_within_its_bound() -> None:
    rng = np.random.default_rng(5)
    maps, defects = [], []
    for number in range(6):
        maps.append(rng.normal(size=(40, 50)).astype(np.float32))
        of_image = []
        for _ in range(number % 3):
            y, x = rng.integers(0, 30, size=2)
            mask = np.zeros((40, 50), bool)
            mask[y : y + 9, x : x + 12] = True
            maps[-1][mask] += 1.5
            of_image.append(Defect(mask, int(rng.integers(1, mask.sum() + 1))))
        defects.append(of_image)
    stream = StreamingPixels()
    for one, of_image in zip(maps, defects, strict=True):
        stream.update_defects(one, of_image)

    for limit in (0.05, 0.3, 1.0):
        value, bound = stream.aupro(limit)
        assert abs(value - spro(maps, defects, limit)) <= bound + 1e-12
        assert bound < 1e-3
    with pytest.raises(ValueError, match="a saturation area of 0"):
        stream.update_defects(maps[0], [Defect(np.ones((40, 50), bool), 0)])
