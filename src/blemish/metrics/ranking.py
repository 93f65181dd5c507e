"""How well a score ranks anomalous items above normal ones: the metrics of a ranking, exact, ties included.

Every metric here is decided by what stands at or above each distinct score of an *anomalous* item. A threshold between
two of those detects nothing more and can only add false alarms, and the curves run straight there. So a ranking keeps
counts at those thresholds alone, however many normal items there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class UndefinedMetric(ValueError):  # noqa: N818 - a state of the data, not a failure
    """The data cannot define the metric; the message is the reason."""


@dataclass(frozen=True)
class Ranking:
    """Counts at each of the D distinct scores of anomalous items, taken as thresholds from the highest down.

    Parameters
    ----------
    true_positives : int64 D, anomalous items at or above the threshold.
    false_positives : int64 D, normal items at or above the threshold.
    false_positives_above : int64 D, normal items strictly above the threshold.
    n_normal : number of normal items.
    items : what is ranked, for the reasons of undefined metrics: "images" or "pixels".
    """

    true_positives: Counts
    false_positives: Counts
    false_positives_above: Counts
    n_normal: int
    items: str

    @property
    def n_anomalous(self) -> int:
        """Number of anomalous items."""
        return int(self.true_positives[-1]) if self.true_positives.size else 0

    def require_both_kinds(self) -> None:
        """Raise UndefinedMetric unless there are anomalous and normal items."""
        if not self.n_anomalous:
            raise UndefinedMetric(f"no anomalous {self.items}")
        if not self.n_normal:
            raise UndefinedMetric(f"no normal {self.items}")

    def auroc(self) -> float:
        """Area under the ROC curve: how often an anomalous item outranks a normal one, ties counting half."""
        self.require_both_kinds()
        new = np.diff(self.true_positives, prepend=0)
        # Twice the pairs ranked rightly: whole numbers, so that only the last division rounds.
        twice = new @ (2 * self.n_normal - self.false_positives - self.false_positives_above)
        return int(twice) / (2 * self.n_anomalous * self.n_normal)

    def average_precision(self) -> float:
        """Mean over anomalous items of the precision at their score (the step integral, without interpolation)."""
        self.require_both_kinds()
        new = np.diff(self.true_positives, prepend=0)
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(np.sum(new * precision) / self.n_anomalous)

    def f1_max(self) -> float:
        """Largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds."""
        self.require_both_kinds()
        f1 = 2 * self.true_positives / (self.n_anomalous + self.true_positives + self.false_positives)
        return float(f1.max())

    def iou_max(self) -> float:
        """Largest intersection over union TP / (TP + FP + FN) over all thresholds."""
        self.require_both_kinds()
        return float((self.true_positives / (self.n_anomalous + self.false_positives)).max())

    def fpr_at_tpr(self, tpr: float = 0.95) -> float:
        """Smallest share of normal items flagged by a threshold that detects at least a share `tpr` in (0, 1]."""
        self.require_both_kinds()
        if not 0 < tpr <= 1:
            raise ValueError(f"tpr lies in (0, 1], not {tpr}")
        enough = int(np.argmax(self.true_positives / self.n_anomalous >= tpr))
        return int(self.false_positives[enough]) / self.n_normal

    def roc_curve(self, max_points: int | None = None) -> tuple[Floats, Floats]:
        """False and true positive rate at every threshold, from (0, 0) to (1, 1), both rising.

        `max_points` thins the curve for a plot: at most so many of its points, its ends among them.
        """
        self.require_both_kinds()
        return thin(*self.curve_of(self.true_positives / self.n_anomalous), max_points)

    def curve_of(self, height: Floats) -> tuple[Floats, Floats]:
        """Curve of a quantity over the false positive rate, from (0, 0) to (1, 1).

        `height`, float D, is what the quantity rises to at each threshold; it stays there until the next. Normal items
        tied with a threshold make the rise slanted, all others make it upright.
        """
        x = np.stack([self.false_positives_above, self.false_positives], axis=1).ravel() / self.n_normal
        y = np.stack([np.concatenate([[0.0], height[:-1]]), height], axis=1).ravel()
        return np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])


def rank(scores: ArrayLike, labels: ArrayLike) -> Ranking:
    """Rank images by their anomaly score.

    Parameters
    ----------
    scores : float, n, finite; higher is more anomalous.
    labels : bool, n; True is anomalous.

    Raises
    ------
    ValueError : lengths differ, a score is not finite, or labels are not bool.
    """
    values, anomalous = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if anomalous.size == 0:
        anomalous = anomalous.astype(np.bool_)  # an empty list has no type to object to
    if anomalous.dtype != np.bool_:
        raise ValueError(f"labels are bool, True for anomalous, not {anomalous.dtype}")
    if values.ndim != 1 or values.shape != anomalous.shape:
        raise ValueError(f"one score and one label an image, not {values.shape} scores and {anomalous.shape} labels")
    if not np.isfinite(values).all():
        raise ValueError(f"score {int(np.argmin(np.isfinite(values)))} is not finite")
    normal = np.sort(values[~anomalous])
    thresholds, counts = np.unique(values[anomalous], return_counts=True)
    return Ranking(
        true_positives=np.cumsum(counts[::-1], dtype=np.int64),
        false_positives=normal.size - np.searchsorted(normal, thresholds[::-1], side="left"),
        false_positives_above=normal.size - np.searchsorted(normal, thresholds[::-1], side="right"),
        n_normal=normal.size,
        items="images",
    )


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve; parameters and errors as `rank`, UndefinedMetric without both kinds of image."""
    return rank(scores, labels).auroc()


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision, the step integral; parameters and errors as `rank`, UndefinedMetric without both kinds.

    Without normal images it would be 1 whatever the scores are: that says nothing of them, so it counts as undefined.
    """
    return rank(scores, labels).average_precision()


def f1_max(scores: ArrayLike, labels: ArrayLike) -> float:
    """Largest F1 over all thresholds; parameters and errors as `rank`, UndefinedMetric without both kinds of image."""
    return rank(scores, labels).f1_max()


def fpr_at_tpr(scores: ArrayLike, labels: ArrayLike, tpr: float = 0.95) -> float:
    """Smallest false positive rate that detects a share `tpr` in (0, 1]; parameters and errors as `rank`."""
    return rank(scores, labels).fpr_at_tpr(tpr)


def roc_curve(scores: ArrayLike, labels: ArrayLike, max_points: int | None = None) -> tuple[Floats, Floats]:
    """False and true positive rate from (0, 0) to (1, 1); parameters and errors as `rank`.

    `max_points` thins the curve for a plot: at most so many of its points, its ends among them.
    """
    return rank(scores, labels).roc_curve(max_points)


def thin(x: Floats, y: Floats, max_points: int | None) -> tuple[Floats, Floats]:
    """Keep at most `max_points` (two or more) of a rising curve's points, evenly along its path, both ends included."""
    if max_points is None or x.size <= max_points:
        return x, y
    if max_points < 2:
        raise ValueError(f"a curve keeps its two ends, so max_points is 2 or more, not {max_points}")
    way = x + y
    keep = np.unique(np.searchsorted(way, np.linspace(way[0], way[-1], max_points)))
    return x[keep], y[keep]
