"""Heat maps, overlays, outlines and thumbnails: what a person is shown."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from blemish.pictures import (
    COLOURS,
    MASK_COLOUR,
    TRUTH_COLOUR,
    data_uri,
    heatmap,
    outline,
    outlined,
    overlay,
    png,
    thumbnail,
    webp,
)

Array = np.ndarray[Any, np.dtype[Any]]


def photo(height: int = 60, width: int = 90) -> Array:
    """A smooth colour picture without black or white."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 100 * x / width, 80 + 60 * y / height, np.full(x.shape, 120)], -1).astype(np.uint8)


def decoded(content: bytes) -> Array:
    return np.asarray(Image.open(BytesIO(content)))


def test_colours_rise_in_lightness_so_that_grey_print_keeps_their_order() -> None:
    linear = np.where(COLOURS / 255 <= 0.04045, COLOURS / 255 / 12.92, ((COLOURS / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert COLOURS.shape == (256, 3)
    assert (np.diff(luminance) >= 0).all()
    assert luminance[-1] > 0.8
    assert luminance[0] < 0.02


def test_heatmap_is_anchored_at_the_threshold() -> None:
    colours = heatmap(np.array([[-1.0, 0.0, 0.25, 0.5, 1.0, 99.0]]), threshold=0.5)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[0], COLOURS[[0, 0, 64, 128, 255, 255]])


def test_heatmap_does_not_stretch_the_scale_to_the_image() -> None:
    calm = np.full((4, 4), 0.1)
    alone, beside_a_defect = calm.copy(), calm.copy()
    beside_a_defect[0, 0] = 50
    np.testing.assert_array_equal(heatmap(alone, 1.0)[1:], heatmap(beside_a_defect, 1.0)[1:])


@pytest.mark.parametrize("threshold", [0.0, -2.0])
def test_heatmap_without_a_positive_threshold_shows_what_is_above_it(threshold: float) -> None:
    values = np.array([[threshold - 1, threshold, threshold + 1]])
    np.testing.assert_array_equal(heatmap(values, threshold)[0], COLOURS[[0, 0, 255]])


def test_heatmap_of_a_tiny_threshold_and_a_huge_map_stays_finite() -> None:
    np.testing.assert_array_equal(heatmap(np.array([[0.0, 1e30]], np.float32), 1e-30)[0], COLOURS[[0, 255]])


def test_overlay_leaves_calm_pixels_alone_and_heats_marked_ones() -> None:
    image = photo()
    anomaly_map = np.full(image.shape[:2], 0.3)
    anomaly_map[20:30, 20:30] = 2.5
    shown = overlay(image, anomaly_map, threshold=1.0)
    hot = np.zeros(image.shape[:2], bool)
    hot[20:30, 20:30] = True
    np.testing.assert_array_equal(shown[~hot], image[~hot])
    towards = np.abs(shown[hot].astype(int) - COLOURS[255]).mean()
    assert towards < np.abs(image[hot].astype(int) - COLOURS[255]).mean() / 3


def test_overlay_grows_hotter_with_the_map_without_a_jump() -> None:
    image = np.full((1, 200, 3), 40, np.uint8)
    shown = overlay(image, np.linspace(0, 2, 200)[None], threshold=1.0).astype(int)
    change = np.abs(np.diff(shown[0], axis=0)).max()
    assert change <= 8
    half, full = shown[0, 50], shown[0, 100]
    assert np.abs(half - 40).max() < 10
    assert np.abs(full - 40).max() > 60


def test_overlay_draws_both_outlines_and_changes_nothing_it_was_given() -> None:
    image, anomaly_map = photo(), np.zeros((60, 90))
    mask, truth = np.zeros((2, 60, 90), bool)
    mask[10:20, 10:20] = True
    truth[30:40, 60:70] = True
    before = image.copy()
    shown = overlay(image, anomaly_map, 1.0, mask, truth)
    np.testing.assert_array_equal(outlined(image, mask, truth), shown)
    np.testing.assert_array_equal(image, before)
    assert (shown[9, 10:20] == MASK_COLOUR).all()
    assert (shown[29, 60:70] == TRUTH_COLOUR).all()
    np.testing.assert_array_equal(shown[mask | truth], image[mask | truth])


@pytest.mark.parametrize(("shape", "width"), [((40, 60), 1), ((160, 100), 1), ((200, 320), 2), ((30, 480), 3)])
def test_outline_lies_just_outside_and_widens_with_the_picture(shape: tuple[int, int], width: int) -> None:
    mask = np.random.default_rng(0).random(shape) > 0.995
    mask[:3, :5] = True
    grown = ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=width)
    np.testing.assert_array_equal(outline(mask), grown & ~mask)


def test_outline_of_nothing_and_of_everything_is_empty() -> None:
    assert not outline(np.zeros((20, 30), bool)).any()
    assert not outline(np.ones((20, 30), bool)).any()


@pytest.mark.parametrize(("shape", "small"), [((900, 600), (320, 213)), ((100, 5000), (6, 320)), ((1, 2000), (1, 320))])
def test_thumbnails_of_image_map_and_mask_have_one_size(shape: tuple[int, int], small: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert thumbnail(image, 320).shape == (*small, 3)
    assert thumbnail(np.zeros(shape, np.float32), 320).shape == small
    assert thumbnail(np.zeros(shape, bool), 320).shape == small


def test_thumbnail_keeps_the_smallest_defect() -> None:
    anomaly_map = np.random.default_rng(1).random((1234, 777), np.float32)
    anomaly_map[1001, 702] = 7
    mask = anomaly_map > 6
    small_map, small_mask = thumbnail(anomaly_map, 100), thumbnail(mask, 100)
    assert small_map.dtype == np.float32
    assert small_mask.dtype == np.bool_
    assert small_map.max() == 7
    assert small_mask.sum() == 1
    row, column = np.argwhere(small_mask)[0]
    assert abs(row - 1001 * 100 / 1234) <= 1
    assert abs(column - 702 * 63 / 777) <= 1
    np.testing.assert_array_equal(small_mask, small_map > 6)


def test_thumbnail_averages_an_image_and_leaves_small_ones() -> None:
    checks = np.indices((800, 800)).sum(0) % 2 * 200
    small = thumbnail(np.repeat(checks[..., None], 3, -1).astype(np.uint8), 80)
    np.testing.assert_allclose(small[5:-5, 5:-5], 100, atol=6)
    image = photo()
    np.testing.assert_array_equal(thumbnail(image, 90), image)


def test_png_is_lossless_for_pictures_and_masks() -> None:
    image = photo()
    np.testing.assert_array_equal(decoded(png(image)), image)
    np.testing.assert_array_equal(decoded(png(image[..., 0] > 100)), image[..., 0] > 100)


def test_webp_is_near_and_travels_in_an_address() -> None:
    image = photo()
    assert np.abs(decoded(webp(image)).astype(int) - image).mean() < 3
    kind, content = data_uri(image).split(",")
    assert kind == "data:image/webp;base64"
    assert base64.b64decode(content) == webp(image)
