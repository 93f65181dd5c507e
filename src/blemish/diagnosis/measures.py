"""What the diagnostics rest on: pixels by the cells of a grid, silhouette, linear probe, d'. Numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

FOLDS = 5
"""Of the linear probe."""
RIDGE = 1e-3
"""Of the linear probe: its penalty, as a share of the mean squared length of the centred embeddings."""


def pixels_of_cells(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.int64]:
    """How many marked pixels of a mask H x W lie in each cell of a grid h x w over it.

    A pixel belongs to the cell that its centre lies in, so that every pixel counts once.
    """
    down, across = (
        np.eye(cells)[((2 * np.arange(size) + 1) * cells) // (2 * size)]
        for size, cells in zip(mask.shape, grid, strict=True)
    )
    counts: NDArray[np.int64] = np.rint(down.T @ mask @ across).astype(np.int64)
    return counts


def silhouette(points: Array, groups: NDArray[np.int64]) -> float:
    """Mean silhouette of points n x d in groups 0, 1, ..., in [-1, 1] (Rousseeuw, J. Comput. Appl. Math. 20, 1987).

    For each point, (b - a) / max(a, b): a is its mean Euclidean distance to the others of its group, b the smallest
    mean distance to another group; 0 for a point that is alone in its group.
    """
    points = np.asarray(points, np.float64)
    sizes = np.bincount(groups)
    indicator = np.eye(len(sizes))[groups]
    values = np.zeros(len(points))
    for i, (point, group) in enumerate(zip(points, groups, strict=True)):
        totals = np.sqrt(((points - point) ** 2).sum(1)) @ indicator
        if sizes[group] == 1:
            continue
        own = totals[group] / (sizes[group] - 1)
        nearest = np.delete(totals / sizes, group).min()
        values[i] = (nearest - own) / max(own, nearest) if max(own, nearest) > 0 else 0.0
    return float(values.mean())


def folds_of(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each point: the points of each group are dealt out to the folds in turn."""
    folds = np.empty_like(groups)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        folds[members] = np.arange(len(members)) % FOLDS
    return folds


def probe_accuracy(points: Array, groups: NDArray[np.int64]) -> float:
    """How well a linear classifier tells the groups of points n x d apart, in [0, 1]; chance is 1 / groups.

    Ridge regression of the groups' indicators (1 and -1) in closed form, the largest wins; each point is judged by the
    classifier of the other folds. The share of right answers is taken for each group, then averaged.
    """
    points = np.asarray(points, np.float64)
    folds = folds_of(groups)
    indicator = 2 * np.eye(int(groups.max()) + 1)[groups] - 1
    right = np.zeros(len(points), bool)
    for fold in range(FOLDS):
        inside, outside = folds != fold, folds == fold
        mean, level = points[inside].mean(0), indicator[inside].mean(0)
        centred = points[inside] - mean
        # In the space of points, of which there are fewer than channels.
        inner = centred @ centred.T
        penalty = penalty_of(centred)
        weights = centred.T @ np.linalg.solve(inner + penalty * np.eye(len(inner)), indicator[inside] - level)
        right[outside] = ((points[outside] - mean) @ weights + level).argmax(1) == groups[outside]
    return float(np.mean([right[groups == group].mean() for group in np.unique(groups)]))


def penalty_of(centred: Array) -> float:
    """The probe's penalty for centred points n x d; never 0, so that equal points are no error."""
    return max(RIDGE * float((centred**2).sum(1).mean()), 1e-12)


def d_prime(normal: Array, anomalous: Array) -> float | None:
    """(mean of anomalous - mean of normal) / root of the mean of both variances; None where nothing varies.

    Variances divide by n - 1, so each side needs two values.
    """
    spread = np.sqrt((np.var(normal, ddof=1) + np.var(anomalous, ddof=1)) / 2)
    if spread == 0:
        return None
    return float((np.mean(anomalous) - np.mean(normal)) / spread)
