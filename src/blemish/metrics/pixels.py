"""How well anomaly maps rank anomalous pixels above normal ones: pixel metrics, AUPRO and IoU, exact.

The anomalous pixels, few as a rule, are sorted. The normal ones never are: what is asked of them is how many lie at or
above each anomalous value, and a table over evenly spaced buckets of the value range answers that in one step for all
but a few, at the same pace on every processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.components import Mask, members
from blemish.metrics.ranking import Counts, Floats, Ranking, UndefinedMetric, thin

_PIECE = 1 << 20  # pixels counted at a time: large against the tables, small against memory
_BUCKETS = 1 << 20  # at most; the table of buckets (4 bytes each) should stay in the processor's cache
_PER_IMAGE_THRESHOLDS = 200
_PER_IMAGE_LIMIT = 0.3


class PixelRanking:
    """All pixels of all images in one ranking: one set of thresholds, every distinct value of an anomalous pixel.

    Parameters
    ----------
    maps : float, H x W each, finite; higher is more anomalous. They are compared as float32: float64 maps are rounded.
        They must not change while the ranking is in use.
    masks : bool, H x W each, as large as their map; True is anomalous. All False is right for a normal image, and is
        taken at its word for an anomalous one: its pixels count as normal and it adds no component.

    Raises
    ------
    ValueError : a map is not finite (as float32), or masks and maps do not fit.
    """

    def __init__(self, maps: Sequence[NDArray[np.floating]], masks: Sequence[Mask]) -> None:
        self._maps = [checked(i, *pair) for i, pair in enumerate(zip(maps, masks, strict=True))]
        marked = [i for i, mask in enumerate(masks) if mask.any()]
        values = np.concatenate([np.empty(0, np.float32), *(self._maps[i][masks[i]] for i in marked)])
        component, n_components = members([masks[i] for i in marked])
        # An anomalous pixel adds its share of its component to the mean overlap of the components.
        share = 1 / (n_components * np.bincount(component, minlength=n_components))

        order = np.argsort(values)[::-1]
        self._values: NDArray[np.float32] = values[order]
        last = np.flatnonzero(self._values != np.append(self._values[1:], np.float32(-np.inf)))
        self._overlap: Floats = np.minimum(np.cumsum(share[component[order]])[last], 1.0)
        self._overlap[-1:] = 1.0
        thresholds = self._values[last][::-1]
        at_or_above, above = count(normal_values(self._maps, masks), thresholds)
        self.ranking = Ranking(
            true_positives=(last + 1).astype(np.int64),
            false_positives=at_or_above[::-1],
            false_positives_above=above[::-1],
            n_normal=sum(one.size for one in self._maps) - values.size,
            items="pixels",
        )

    def auroc(self) -> float:
        """P-AUROC. Raises UndefinedMetric without both kinds of pixel, as do all metrics here."""
        return self.ranking.auroc()

    def average_precision(self) -> float:
        """P-AP, the step integral."""
        return self.ranking.average_precision()

    def f1_max(self) -> float:
        """P-F1max over all thresholds."""
        return self.ranking.f1_max()

    def aupro(self, limit: float = 0.3) -> float:
        """Area under the mean overlap of components, over the false positive rate from 0 to `limit`, divided by it.

        Overlap is averaged over all 8-connected components of all masks and the false positive rate counts the normal
        pixels of all images, both at one threshold for all (Bergmann et al., "The MVTec anomaly detection dataset",
        IJCV 2021). The curve is exact at every threshold, straight between two, also at the limit.

        Raises
        ------
        ValueError : `limit` is not in (0, 1].
        """
        return area_up_to(*self.pro_curve(), checked_limit(limit))

    def iou(self, threshold: float) -> float:
        """Intersection over union of the masks with `map > threshold`, over all pixels of all images.

        The threshold is rounded to float32, as NumPy does for that comparison. Undefined only without anomalous pixels.
        """
        if np.isnan(threshold):
            raise ValueError("the pixel threshold is not a number")
        if not self.ranking.n_anomalous:
            raise UndefinedMetric("no anomalous pixels")
        cut = np.float32(threshold)
        flagged = sum(int(np.count_nonzero(one > cut)) for one in self._maps)
        hit = int(np.count_nonzero(self._values > cut))
        return hit / (flagged + self.ranking.n_anomalous - hit)

    def best_iou(self) -> float:
        """Largest intersection over union over all thresholds."""
        return self.ranking.iou_max()

    def roc_curve(self, max_points: int | None = None) -> tuple[Floats, Floats]:
        """False and true positive rate from (0, 0) to (1, 1), thinned to `max_points` for a plot."""
        return self.ranking.roc_curve(max_points)

    def pro_curve(self, max_points: int | None = None) -> tuple[Floats, Floats]:
        """False positive rate and mean overlap from (0, 0) to (1, 1), thinned to `max_points` for a plot."""
        self.ranking.require_both_kinds()
        return thin(*self.ranking.curve_of(self._overlap), max_points)


def per_image_pro(maps: Sequence[NDArray[np.floating]], masks: Sequence[Mask]) -> float:
    """Compute the PRO that RD4AD (arXiv 2201.10703) and its family print, to compare with their papers; not AUPRO.

    Each image with anomalous pixels on its own: 200 thresholds evenly from its map's minimum, its maximum left out;
    mean overlap of its 8-connected components with `map > threshold` over the false positive rate among its own normal
    pixels; the thresholds with a rate under 0.3; the trapezoid area, rates divided by the largest of them, without
    anchors at either end. The mean of that over images.

    Parameters
    ----------
    maps : float, H x W each, finite.
    masks : bool, H x W each; images without an anomalous pixel take no part.

    Raises
    ------
    ValueError : a map is not finite (as float32), or masks and maps do not fit.
    UndefinedMetric : no anomalous pixels at all, or an image on which that recipe has no curve.
    """
    pairs = [(checked(i, one, mask), mask) for i, (one, mask) in enumerate(zip(maps, masks, strict=True))]
    areas = [_pro_of_one_image(i, one, mask) for i, (one, mask) in enumerate(pairs) if mask.any()]
    if not areas:
        raise UndefinedMetric("no anomalous pixels")
    return float(np.mean(areas))


def _pro_of_one_image(i: int, anomaly_map: NDArray[np.float32], mask: Mask) -> float:
    component, n = members([mask])
    share = 1 / (n * np.bincount(component, minlength=n))
    normal, anomalous = np.sort(anomaly_map[~mask]), anomaly_map[mask]
    if not normal.size:
        raise UndefinedMetric(f"image {i} has no normal pixels")
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    thresholds = low + (high - low) * np.arange(_PER_IMAGE_THRESHOLDS) / _PER_IMAGE_THRESHOLDS
    fpr = (normal.size - np.searchsorted(normal, thresholds, side="right")) / normal.size
    order = np.argsort(anomalous)
    missed = np.concatenate([[0.0], np.cumsum(share[component[order]])])
    pro = 1 - missed[np.searchsorted(anomalous[order], thresholds, side="right")]
    kept = fpr < _PER_IMAGE_LIMIT
    fpr, pro = fpr[kept][::-1], pro[kept][::-1]
    if fpr.size < 2 or fpr[-1] == 0:
        raise UndefinedMetric(f"image {i} has no curve below a false positive rate of {_PER_IMAGE_LIMIT}")
    return _area(fpr / fpr[-1], pro)


def checked(i: int, anomaly_map: ArrayLike, mask: Mask) -> NDArray[np.float32]:
    """Take map `i` as float32, certain to be finite and to fit its mask."""
    with np.errstate(over="ignore"):
        values = np.asarray(anomaly_map, dtype=np.float32)
    if values.ndim != 2 or values.shape != mask.shape or mask.dtype != np.bool_:
        raise ValueError(f"map {i} is {values.shape} and its mask {mask.dtype} {mask.shape}; bool H x W was expected")
    if not np.isfinite(values).all():
        raise ValueError(f"map {i} has values that are not finite as float32")
    return values


def normal_values(maps: Sequence[NDArray[np.float32]], masks: Sequence[Mask]) -> Iterator[NDArray[np.float32]]:
    """All pixels, piece by piece, anomalous ones as minus infinity; each piece is overwritten by the next."""
    piece, used = np.empty(_PIECE, np.float32), 0
    for one, mask in zip(maps, masks, strict=True):
        values = (np.where(mask, np.float32(-np.inf), one) if mask.any() else one).ravel()
        while values.size:
            n = min(values.size, piece.size - used)
            piece[used : used + n] = values[:n]
            values, used = values[n:], used + n
            if used == piece.size:
                yield piece
                used = 0
    yield piece[:used]


def count(pieces: Iterator[NDArray[np.float32]], thresholds: NDArray[np.float32]) -> tuple[Counts, Counts]:
    """Count how many of all values lie at or above each threshold, and how many strictly above.

    Parameters
    ----------
    pieces : float32, the values, no NaN, in any order.
    thresholds : float32, D, finite, distinct, rising.

    Returns
    -------
    Two int64 arrays, D.
    """
    d = thresholds.size
    if d == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    bucket_of = _Buckets(thresholds)
    inside = np.bincount(bucket_of(thresholds), minlength=bucket_of.n + 1)
    # The one threshold of its bucket that a value must still be compared with, or else the first of a later bucket,
    # which lies above it anyhow. Values of a bucket with several thresholds ("crowded") are left for the end.
    crowded = d + 1
    candidate = (np.cumsum(inside) - inside).astype(np.int32)
    candidate[inside > 1] = crowded
    bound = np.append(thresholds, np.full(2, np.inf, np.float32))

    reached, tied = np.zeros(d + 2, np.int64), np.zeros(d + 2, np.int64)
    left = [np.empty(0, np.float32)]
    for values in pieces:
        at = candidate[bucket_of(values)].astype(np.intp)
        limit = bound[at]
        left.append(values[at == crowded])
        if (ties := at[values == limit]).size:
            tied += np.bincount(ties, minlength=d + 2)
        at += values >= limit
        reached += np.bincount(at, minlength=d + 2)
    # reached[k] values have exactly the k lowest thresholds at or below them.
    at_or_above = np.cumsum(reached[d:0:-1])[::-1]
    rest = np.sort(np.concatenate(left))
    return (
        at_or_above + (rest.size - np.searchsorted(rest, thresholds, side="left")),
        at_or_above - tied[:d] + (rest.size - np.searchsorted(rest, thresholds, side="right")),
    )


class _Buckets:
    """A rising map from values to bucket numbers 0 to n; no threshold is in bucket 0."""

    def __init__(self, thresholds: NDArray[np.float32]) -> None:
        d = thresholds.size
        self.n = min(4 * d, _BUCKETS)
        self._first = thresholds[0]
        # A few far outliers must not squeeze all others into one bucket.
        span = float(thresholds[999 * (d - 1) // 1000]) - float(self._first)
        tiny, huge = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
        self._scale = np.float32(min(max(self.n / max(span, tiny), tiny), huge))

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.intp]:
        with np.errstate(over="ignore"):  # what overflows belongs to the last bucket
            position: NDArray[np.float32] = values - self._first
            position *= self._scale
        position += np.float32(1)
        np.clip(position, 0, self.n, out=position)
        return position.astype(np.intp)


def checked_limit(limit: float) -> float:
    """Take a limit of the false positive rate, certain to be in (0, 1]."""
    if not 0 < limit <= 1:
        raise ValueError(f"the limit of the false positive rate lies in (0, 1], not {limit}")
    return limit


def area_up_to(x: Floats, y: Floats, limit: float) -> float:
    """Area under straight lines between points, x from 0 to `limit`, divided by it; at most 1."""
    n = int(np.searchsorted(x, limit, side="right"))
    if n < x.size:
        x, y = np.append(x[:n], limit), np.append(y[:n], np.interp(limit, x[n - 1 : n + 1], y[n - 1 : n + 1]))
    return min(_area(x, y) / limit, 1.0)


def _area(x: Floats, y: Floats) -> float:
    """Area under straight lines between points (trapezoids); x rises."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
