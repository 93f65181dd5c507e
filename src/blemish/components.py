"""Connected components of masks, 8-connected: two pixels belong together if they touch by a side or a corner.

A mask is taken as its horizontal runs, and runs that touch are the edges of a graph. Its components are found in
rounds: each root hooks onto its smallest neighbour, then every path is shortened (the family of Liu and Tarjan, "Simple
concurrent labeling algorithms for connected components", 2019). A root that absorbs no other in one round has a smaller
neighbour in the next, so two rounds at least halve the roots that have neighbours, whatever the shape of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def label(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Number the 8-connected components of a mask.

    Parameters
    ----------
    mask : bool, H x W.

    Returns
    -------
    int32 H x W, 0 where the mask is False and 1 to n in the raster order of each component's first pixel; and n.

    Raises
    ------
    ValueError : not a bool array of two dimensions.
    """
    component, n = members([mask])
    labels = np.zeros(mask.shape, np.int32)
    labels[mask] = component + 1
    return labels, n


def members(masks: Sequence[Mask]) -> tuple[NDArray[np.int32], int]:
    """Say to which component each True pixel of several masks belongs.

    Parameters
    ----------
    masks : bool, H x W each; sizes may differ.

    Returns
    -------
    int32, one entry for each True pixel (mask after mask, raster order): its component, 0 to n - 1, counted over all
    masks in the order of first pixels; and n.

    Raises
    ------
    ValueError : a mask is not a bool array of two dimensions.
    """
    for mask in masks:
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"a mask is a bool array H x W, this one is {mask.dtype} {mask.shape}")
    # All masks stand below one another on one line of positions; a free row and column keep them apart.
    stride = max((mask.shape[1] for mask in masks), default=0) + 1
    starts, stops, offset = [], [], 0
    for mask in masks:
        row, left, right, _ = _runs(mask)
        row = row * stride + offset
        starts.append(row + left)
        stops.append(row + right)
        offset += (mask.shape[0] + 1) * stride
    start = np.concatenate([*starts, np.empty(0, np.intp)])
    stop = np.concatenate([*stops, np.empty(0, np.intp)])

    # Runs i and j touch if start[j] <= stop[i] + stride and stop[j] >= start[i] + stride: those of j in [first, last).
    first = np.searchsorted(stop, start + stride, side="left")
    last = np.searchsorted(start, stop + stride, side="right")
    touching = last - first
    upper = np.repeat(np.arange(start.size), touching)
    lower = np.arange(upper.size) + np.repeat(first - np.cumsum(touching) + touching, touching)

    root = _roots(start.size, upper, lower)
    # A root is its component's first run, so counting roots in order numbers components by their first pixel.
    number = np.cumsum(root == np.arange(root.size), dtype=np.int32) - np.int32(1)
    return np.repeat(number[root], stop - start), int(number[-1]) + 1 if number.size else 0


def boxes(labels: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """Bound each component with a box.

    Parameters
    ----------
    labels : integers, H x W, as from `label`: every number from 1 to n occurs.
    n : number of components.

    Returns
    -------
    int64, n x 5: x and y of the upper left pixel, width, height, and area, all in pixels.
    """
    row, left, right, number = _runs(labels)
    component = number.astype(np.intp) - 1
    x, y = np.full(n, labels.shape[1]), np.full(n, labels.shape[0])
    end_x, end_y, area = np.zeros((3, n), np.int64)
    np.minimum.at(x, component, left)
    np.minimum.at(y, component, row)
    np.maximum.at(end_x, component, right)
    np.maximum.at(end_y, component, row + 1)
    np.add.at(area, component, right - left)
    return np.stack([x, y, end_x - x, end_y - y, area], axis=1)


def _runs(
    image: NDArray[np.bool_] | NDArray[np.integer],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_] | NDArray[np.integer]]:
    """Horizontal runs of equal non-zero values, in raster order: row, first column, column after the last, value."""
    height, width = image.shape
    # One zero before the image and one after each row: every run starts and stops at a change.
    line = np.zeros(1 + height * (width + 1), image.dtype)
    line[1:].reshape(height, width + 1)[:, :width] = image
    change = np.flatnonzero(line[1:] != line[:-1])
    value = line[1:][change[:-1]]
    inside = value != 0
    start, stop = change[:-1][inside], change[1:][inside]
    row = start // (width + 1)
    return row, start - row * (width + 1), stop - row * (width + 1), value[inside]


def _roots(n: int, low: NDArray[np.intp], high: NDArray[np.intp]) -> NDArray[np.intp]:
    """Smallest node of the component of each of n nodes, for edges low[i] < high[i]."""
    root = np.arange(n)
    while low.size:
        np.minimum.at(root, high, low)
        while not np.array_equal(shorter := root[root], root):
            root = shorter
        # Edges now join roots; those inside one component have done their work.
        one, other = root[low], root[high]
        apart = one != other
        one, other = one[apart], other[apart]
        low, high = np.minimum(one, other), np.maximum(one, other)
    return root
