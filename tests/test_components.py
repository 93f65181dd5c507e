"""Components of masks against scipy.ndimage, on random masks and on those that are hard for union-find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from blemish.components import boxes, label, members

TOUCHING = np.ones((3, 3))


def spiral(size: int) -> np.ndarray:
    """One arm that winds inwards, one pixel wide, with one free pixel between windings."""
    mask = np.zeros((size + 4, size + 4), bool)
    frame = np.ones_like(mask)
    frame[1:-1, 1:-1] = False
    y, x, dy, dx = 2, 2, 0, 1
    mask[y, x] = True
    for _turn in range(2 * size):
        # The frame stands one free pixel away, like a winding.
        while not (mask | frame)[y + 2 * dy, x + 2 * dx]:
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask[2:-2, 2:-2]


def comb(size: int) -> np.ndarray:
    """Teeth that only meet in the last row."""
    mask = np.zeros((size, size), bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def serpent(size: int) -> np.ndarray:
    """Long rows joined at alternating ends."""
    mask = np.ones((size, size), bool)
    mask[1::4, :-1] = False
    mask[3::4, 1:] = False
    return mask


def checkerboard(size: int) -> np.ndarray:
    return np.indices((size, size)).sum(axis=0) % 2 == 0


def dots(size: int) -> np.ndarray:
    return (np.indices((size, size)) % 2 == 0).all(axis=0)


def numbered_by_first_pixel(labels: np.ndarray) -> np.ndarray:
    """Renumber so that labels rise in raster order of first pixels."""
    found, first = np.unique(labels[labels > 0], return_index=True)
    renumber = np.zeros(labels.max(initial=0) + 1, int)
    renumber[found[np.argsort(first)]] = np.arange(1, found.size + 1)
    return renumber[labels]


def check_against_scipy(mask: np.ndarray) -> int:
    labels, n = label(mask)
    expected, expected_n = ndimage.label(mask, structure=TOUCHING)
    assert n == expected_n
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, numbered_by_first_pixel(expected))
    return n


@pytest.mark.parametrize("density", [0.02, 0.2, 0.4, 0.5, 0.6, 0.9])
def test_random_masks(density: float) -> None:
    rng = np.random.default_rng(7)
    for height, width in [(1, 1), (1, 50), (50, 1), (37, 64), (200, 150)]:
        check_against_scipy(rng.random((height, width)) < density)


def test_the_spiral_winds() -> None:
    assert spiral(7).astype(int).tolist() == [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("shape", [spiral, comb, serpent, checkerboard, dots])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_winding_masks(shape, turns: int) -> None:
    n = check_against_scipy(np.rot90(shape(101), turns))
    assert n == (51 * 51 if shape is dots else 1)


def test_a_hundred_thousand_runs() -> None:
    assert check_against_scipy(checkerboard(500)) == 1
    assert check_against_scipy(np.random.default_rng(0).random((700, 700)) < 0.4) > 1000


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 6)])
def test_nothing_marked(shape: tuple[int, int]) -> None:
    labels, n = label(np.zeros(shape, bool))
    assert n == 0
    assert labels.shape == shape
    assert not labels.any()
    assert boxes(labels, n).shape == (0, 5)


def test_everything_marked() -> None:
    labels, n = label(np.ones((5, 9), bool))
    assert n == 1
    assert (labels == 1).all()
    assert boxes(labels, n).tolist() == [[0, 0, 9, 5, 45]]


def test_corners_touch_but_rows_do_not_wrap() -> None:
    mask = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], bool)
    labels, n = label(mask)
    assert n == 2
    assert labels.tolist() == [[0, 0, 1], [2, 0, 0], [0, 2, 0]]


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_small_mask(mask: np.ndarray) -> None:
    check_against_scipy(mask)


def test_views_are_labelled_like_copies() -> None:
    mask = np.random.default_rng(3).random((40, 60)) < 0.4
    view = mask[::2, ::-3].T
    np.testing.assert_array_equal(label(view)[0], label(view.copy())[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)), max_size=5))
def test_members_of_several_masks_number_on(masks: list[np.ndarray]) -> None:
    component, n = members(masks)
    expected, total = [np.empty(0, int)], 0
    for mask in masks:
        labels, n_here = label(mask)
        expected.append(labels[mask] - 1 + total)
        total += n_here
    assert n == total
    np.testing.assert_array_equal(component, np.concatenate(expected))


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_boxes_bound_their_components(density: float) -> None:
    mask = np.random.default_rng(11).random((80, 123)) < density
    labels, n = label(mask)
    for number, (x, y, width, height, area) in enumerate(boxes(labels, n).tolist(), start=1):
        ys, xs = np.nonzero(labels == number)
        assert (x, y, width, height) == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert area == ys.size


@pytest.mark.parametrize("bad", [np.zeros((3, 3), np.uint8), np.zeros(3, bool), np.zeros((3, 3, 1), bool)])
def test_only_bool_masks(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="bool array H x W"):
        label(bad)
