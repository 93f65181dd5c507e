"""Pixel metrics of more maps than fit into memory: one map at a time, in a fixed amount of memory.

Every value is counted in the bin that the upper 22 bits of its float32 form name: sign, exponent and 13 bits of the
significand. So bins are 2^-13 of a value wide or narrower, whatever the range of the maps, which need not be known; and
counts of several processes can be added. Where all values of a bin are the same, that is known, and ties are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blemish.components import Mask, members
from blemish.metrics.bins import Bins, Bounded, BoundedArrays
from blemish.metrics.pixels import checked, checked_limit
from blemish.metrics.ranking import Floats, UndefinedMetric, thin
from blemish.metrics.saturation import Defect, saturating

_LOW_BITS = 10
_BINS = 1 << (32 - _LOW_BITS)
_PIECE = 1 << 16  # pixels counted at a time; what is computed of them should stay in the processor's cache
_MIXED = (1 << _LOW_BITS) + 1


class StreamingPixels:
    """All pixels of all images in 4 million bins: the metrics of `PixelRanking`, each with an error bound.

    The tables take 109 MB at most, however many maps there are, and only where values fall. A bound is computed from
    the counts: it is what the metric could change if the pixels of every bin had the best or the worst order. It is 0
    where no bin holds pixels of both kinds and of several values.
    """

    def __init__(self) -> None:
        self._pixels = np.zeros(_BINS, np.int64)
        self._anomalous = np.zeros(_BINS, np.int64)
        self._overlap = np.zeros(_BINS, np.float64)
        # Of each bin: 0 while it is empty, 1 + the lower bits of its values while these are all the same, or _MIXED.
        self._low = np.zeros(_BINS, np.uint16)
        self._n_images = 0
        self._n_components = 0
        self._settled: _Settled | None = None

    def update(self, anomaly_map: NDArray[np.floating], mask: Mask | None = None) -> None:
        """Add one image.

        Parameters
        ----------
        anomaly_map : float, H x W, finite; higher is more anomalous. It is rounded to float32.
        mask : bool, H x W, True is anomalous; None if the image is normal all over.

        Raises
        ------
        ValueError : the map is not finite (as float32), or the mask does not fit it; nothing is added.
        """
        nothing = np.broadcast_to(np.False_, anomaly_map.shape)
        self.update_checked(checked(self._n_images, anomaly_map, nothing if mask is None else mask), mask)

    def update_checked(self, values: NDArray[np.float32], mask: Mask | None) -> None:
        """Add one image whose map and mask are known to be what `update` asks for; looking twice takes time."""
        self._count(values)
        if mask is not None and mask.any():
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            keys, _ = _split(values[box][mask[box]])
            component, n = members([mask[box]])
            np.add.at(self._anomalous, keys, 1)
            np.add.at(self._overlap, keys, (1 / np.bincount(component, minlength=n))[component])
            self._n_components += n

    def update_defects(self, anomaly_map: NDArray[np.floating], defects: Sequence[Defect]) -> None:
        """Add one image whose defects saturate, in the place of components; then `aupro` is AU-sPRO.

        Parameters
        ----------
        anomaly_map : float, H x W, finite; higher is more anomalous. It is rounded to float32.
        defects : as for `SaturatedOverlap`; none for a good image.

        Raises
        ------
        ValueError : the map is not finite (as float32), a mask does not fit it, or a saturation area is not possible.
        """
        anywhere = np.zeros(anomaly_map.shape, np.bool_)
        values = checked(self._n_images, anomaly_map, anywhere)
        highest = [(saturating(self._n_images, values, defect), defect.saturation_area) for defect in defects]
        for defect in defects:
            anywhere |= defect.mask
        self._count(values)
        np.add.at(self._anomalous, _split(values[anywhere])[0], 1)
        for inside, enough in highest:
            np.add.at(self._overlap, _split(inside)[0], 1 / enough)
        self._n_components += len(defects)

    def _count(self, values: NDArray[np.float32]) -> None:
        """Count the pixels of an image, whatever they are."""
        self._settled = None
        self._n_images += 1
        flat = values.ravel()
        for start in range(0, flat.size, _PIECE):
            bits = _bits(flat[start : start + _PIECE])
            keys = _keys(bits)
            np.add.at(self._pixels, keys, 1)
            self._note(keys, bits)

    def merge(self, other: StreamingPixels) -> None:
        """Add all images of another one."""
        self._settled = None
        for mine, its in (
            (self._pixels, other._pixels),
            (self._anomalous, other._anomalous),
            (self._overlap, other._overlap),
        ):
            mine += its
        apart = (self._low != other._low) & (self._low != 0) & (other._low != 0)
        np.maximum(self._low, other._low, out=self._low)
        self._low[apart] = _MIXED
        self._n_images += other._n_images
        self._n_components += other._n_components

    def auroc(self) -> Bounded:
        """P-AUROC. Raises UndefinedMetric without both kinds of pixel, as do all metrics here but `iou`."""
        return _first(self._of_both_kinds().auroc())

    def average_precision(self) -> Bounded:
        """P-AP, the step integral."""
        return _first(self._of_both_kinds().average_precision())

    def f1_max(self) -> Bounded:
        """P-F1max over all thresholds; the value is reached, the exact one is no smaller."""
        return _first(self._of_both_kinds().f1_max())

    def best_iou(self) -> Bounded:
        """Largest intersection over union over all thresholds; the value is reached, the exact one is no smaller."""
        return _first(self._of_both_kinds().best_iou())

    def aupro(self, limit: float = 0.3) -> Bounded:
        """AUPRO, as `PixelRanking.aupro`.

        Raises
        ------
        ValueError : `limit` is not in (0, 1].
        """
        checked_limit(limit)
        return _first(self._of_both_kinds().aupro(limit))

    def iou(self, threshold: float) -> Bounded:
        """Intersection over union of the masks with `map > threshold`, as `PixelRanking.iou`."""
        if np.isnan(threshold):
            raise ValueError("the pixel threshold is not a number")
        found = self._settle()
        if not found.bins.anomalous.any():
            raise UndefinedMetric("no anomalous pixels")
        with np.errstate(over="ignore"):
            keys, low = _split(np.array([threshold], np.float32))
        cut = int(_rank(keys)[0])
        whole, split = (int(np.searchsorted(-found.rank, -cut, side=side)) for side in ("left", "right"))
        if split > whole and found.bins.tied[whole]:
            # Of two negative values, the larger one has the smaller bits.
            larger = int(found.low[whole]) - int(low[0])
            flagged = (larger if keys[0] < _BINS // 2 else -larger) > 0
            whole, split = (split, split) if flagged else (whole, whole)
        return _first(found.bins.iou(whole, split))

    def roc_curve(self, max_points: int | None = None) -> tuple[Floats, Floats]:
        """False and true positive rate between bins, from (0, 0) to (1, 1), thinned to `max_points` for a plot."""
        bins = self._of_both_kinds()
        return thin(*bins.curve_of(bins.anomalous[0] / bins.anomalous.sum()), max_points)

    def pro_curve(self, max_points: int | None = None) -> tuple[Floats, Floats]:
        """False positive rate and mean overlap between bins, likewise."""
        bins = self._of_both_kinds()
        return thin(*bins.curve_of(bins.overlap[0]), max_points)

    def _note(self, keys: NDArray[np.intp], bits: NDArray[np.uint32]) -> None:
        """Keep track of which bins hold a single value."""
        # Once a bin holds several, nothing more is to be learned of it: soon that is most of them.
        of_interest = np.flatnonzero(self._low.take(keys) != _MIXED)
        if of_interest.size:
            keys, low = keys[of_interest], _lower(bits[of_interest])
            empty = self._low[keys] == 0
            self._low[keys[empty]] = low[empty]
            self._low[keys[self._low[keys] != low]] = _MIXED

    def _of_both_kinds(self) -> Bins:
        bins = self._settle().bins
        if not bins.anomalous.any():
            raise UndefinedMetric("no anomalous pixels")
        if not bins.normal.any():
            raise UndefinedMetric("no normal pixels")
        return bins

    def _settle(self) -> _Settled:
        if self._settled is None:
            keys = np.flatnonzero(self._pixels)
            rank = _rank(keys)
            order = np.argsort(rank)[::-1]
            keys, rank = keys[order], rank[order]
            low, anomalous = self._low[keys], self._anomalous[keys]
            bins = Bins(
                normal=(self._pixels[keys] - anomalous)[None].astype(np.float64),
                anomalous=anomalous[None].astype(np.float64),
                overlap=self._overlap[keys][None] / max(self._n_components, 1),
                tied=low != _MIXED,
            )
            self._settled = _Settled(bins, rank, low)
        return self._settled


@dataclass(frozen=True)
class _Settled:
    """The bins that hold something, falling; of each its rank among all bins and the lower bits of its value."""

    bins: Bins
    rank: NDArray[np.intp]
    low: NDArray[np.uint16]


def _split(values: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.uint16]]:
    """Bin of each value, and 1 + its lower bits."""
    bits = _bits(values)
    return _keys(bits), _lower(bits)


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    # Adding zero makes -0.0 equal to 0.0 in its bits too.
    return (values + np.float32(0)).view(np.uint32)


def _keys(bits: NDArray[np.uint32]) -> NDArray[np.intp]:
    return (bits >> _LOW_BITS).astype(np.intp)


def _lower(bits: NDArray[np.uint32]) -> NDArray[np.uint16]:
    return (bits & ((1 << _LOW_BITS) - 1)).astype(np.uint16) + np.uint16(1)


def _rank(keys: NDArray[np.intp]) -> NDArray[np.intp]:
    """Bins in the order of their values: a set sign bit means negative, and there larger bits are smaller values."""
    half = _BINS // 2
    return np.where(keys < half, keys + half, _BINS - 1 - keys)


def _first(arrays: BoundedArrays) -> Bounded:
    return Bounded(float(arrays.value[0]), float(arrays.bound[0]))
