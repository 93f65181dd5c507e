"""Pixel metrics of values that were only counted in bins, each with the largest error that this can cause.

Between two bins everything is known: how many pixels of each kind and how much of the components lie above. Inside a
bin nothing is, unless all its values are the same. So every metric has a lowest and a highest value over all orders
that the pixels of each bin may have; the exact one lies between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.metrics.ranking import Floats


class Bounded(NamedTuple):
    """A value, and how far at most the exact one is from it, rounding of floating point (under 1e-9) aside."""

    value: float
    bound: float


class BoundedArrays(NamedTuple):
    """`Bounded` for several data sets at once, float64 R each; NaN where it is undefined."""

    value: Floats
    bound: Floats


@dataclass(frozen=True)
class Bins:
    """Counts of R data sets in the same B bins, the bin of the highest values first.

    Parameters
    ----------
    normal : float64 R x B, normal pixels of each bin.
    anomalous : float64 R x B, anomalous pixels.
    overlap : float64 R x B, what the bin's pixels add to the mean overlap of the components; sums to 1 over bins.
    tied : bool B, the bin's values are known to be all the same.
    """

    normal: Floats
    anomalous: Floats
    overlap: Floats
    tied: NDArray[np.bool_]

    def auroc(self) -> BoundedArrays:
        """P-AUROC."""
        pairs = self.anomalous.sum(axis=1) * self.normal.sum(axis=1)
        below = self.normal.sum(axis=1, keepdims=True) - np.cumsum(self.normal, axis=1)
        unknown = self.normal * self.anomalous / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            value = ((self.anomalous * below).sum(axis=1) + unknown.sum(axis=1)) / pairs
            return BoundedArrays(value, unknown[:, ~self.tied].sum(axis=1) / pairs)

    def average_precision(self) -> BoundedArrays:
        """P-AP.

        The i-th of a bin's anomalous pixels has T + i anomalous ones at or above it, and at least i/(i + all normal
        ones) of the bin's; where all are tied above the bin's normal ones, they share the best precision.
        """
        true, false = _before(self.anomalous), _before(self.normal)
        new, all_false = self.anomalous, false + self.normal
        with np.errstate(invalid="ignore", divide="ignore"):
            tied = np.where(new > 0, new * (true + new) / (true + new + all_false), 0)
            high = np.where(new > 0, new * (true + new) / (true + new + false), 0)
            # The precision is concave in i: its integral over [1/2, n + 1/2] is no larger than its sum over 1 ... n.
            low = np.maximum(new - all_false * np.log1p(new / (true + 0.5 + all_false)), 0)
            middle = true + (new + 1) / 2
            even = np.clip(new * middle / (middle + false + self.normal / 2), low, high)
            n = new.sum(axis=1)
            value = np.where(self.tied, tied, even).sum(axis=1) / n
            above = (high - even)[:, ~self.tied].sum(axis=1) / n
            below = (even - low)[:, ~self.tied].sum(axis=1) / n
        return BoundedArrays(_where_both_kinds(self, value), np.maximum(above, below))

    def f1_max(self) -> BoundedArrays:
        """P-F1max; the value is reached by a threshold between bins."""
        n = self.anomalous.sum(axis=1, keepdims=True)
        return self._largest(lambda true, false: 2 * true / (n + true + false))

    def best_iou(self) -> BoundedArrays:
        """Largest intersection over union; the value is reached by a threshold between bins."""
        n = self.anomalous.sum(axis=1, keepdims=True)
        return self._largest(lambda true, false: true / (n + false))

    def _largest(self, of: Callable[[Floats, Floats], Floats]) -> BoundedArrays:
        """Maximum over thresholds of what grows with true positives and falls with false ones."""
        true = np.cumsum(self.anomalous, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = of(true, np.cumsum(self.normal, axis=1)).max(axis=1, initial=0)
            high = of(true, _before(self.normal))[:, ~self.tied].max(axis=1, initial=0)
        return BoundedArrays(_where_both_kinds(self, value), np.maximum(high - value, 0))

    def aupro(self, limit: float) -> BoundedArrays:
        """AUPRO, as `PixelRanking.aupro`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            width = self.normal / self.normal.sum(axis=1, keepdims=True)
            start, height = _before(width), _before(self.overlap)
            reached = np.clip(limit - start, 0, width)
            share = np.where(width > 0, reached / width, 0)
            unknown = (reached * self.overlap)[:, ~self.tied] / limit
            share_unknown = share[:, ~self.tied] / 2
            value = (reached * (height + self.overlap * share / 2)).sum(axis=1) / limit
        above, below = (unknown * (1 - share_unknown)).sum(axis=1), (unknown * share_unknown).sum(axis=1)
        return BoundedArrays(_where_both_kinds(self, np.minimum(value, 1)), np.maximum(above, below))

    def fpr_at_tpr(self, tpr: float) -> BoundedArrays:
        """Smallest share of normal items above a threshold between bins that detects at least a share `tpr`."""
        true, false = np.cumsum(self.anomalous, axis=1), np.cumsum(self.normal, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            enough = np.argmax(true / true[:, -1:] >= tpr, axis=1)[:, None]
            value = (np.take_along_axis(false, enough, axis=1) / false[:, -1:])[:, 0]
        return BoundedArrays(_where_both_kinds(self, value), np.zeros(value.size))

    def iou(self, whole: int, split: int) -> BoundedArrays:
        """Intersection over union of the first `whole` bins and an unknown part of those from there to `split`."""
        n = self.anomalous.sum(axis=1)
        true, some_true = (self.anomalous[:, :k].sum(axis=1) for k in (whole, split))
        false, some_false = (self.normal[:, :k].sum(axis=1) for k in (whole, split))
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = true / (n + some_false), some_true / (n + false)
            even = (true + some_true) / 2 / (n + (false + some_false) / 2)
        return BoundedArrays(np.where(n > 0, even, np.nan), np.maximum(high - even, even - low))

    def curve_of(self, height: Floats) -> tuple[Floats, Floats]:
        """False positive rate and cumulated `height` (float64 B) of the first data set between all bins."""
        x = np.cumsum(self.normal[0]) / self.normal[0].sum()
        y = np.cumsum(height)
        return np.concatenate([[0.0], np.minimum(x, 1)]), np.concatenate([[0.0], np.minimum(y, 1)])


def _where_both_kinds(bins: Bins, value: Floats) -> Floats:
    return np.where((bins.anomalous.sum(axis=1) > 0) & (bins.normal.sum(axis=1) > 0), value, np.nan)


def _before(of_bins: Floats) -> Floats:
    """Sum of all earlier bins."""
    total = np.cumsum(of_bins, axis=1)
    return np.concatenate([np.zeros_like(total[:, :1]), total[:, :-1]], axis=1)
