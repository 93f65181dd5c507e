"""All metrics of one evaluation at once, and for each undefined one the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.components import Mask
from blemish.metrics.bins import Bounded
from blemish.metrics.bootstrap import OF_MAD, Confidence, PixelTally, resample, shared_thresholds
from blemish.metrics.pixels import PixelRanking, checked
from blemish.metrics.ranking import Floats, UndefinedMetric, rank
from blemish.metrics.streaming import StreamingPixels

EXACT_PIXELS = 80_000_000
"""Pixels up to which maps and masks are kept and ranked exactly: 5 bytes each, 400 MB. MVTec's bottle has 67e6."""
_CURVE_POINTS = 200
_METRICS = (*OF_MAD, "mad", "iou", "best_iou", "fpr95")

TITLES = {
    "image_auroc": "I-AUROC",
    "image_ap": "I-AP",
    "image_f1max": "I-F1max",
    "pixel_auroc": "P-AUROC",
    "pixel_ap": "P-AP",
    "pixel_f1max": "P-F1max",
    "aupro": "AUPRO",
    "mad": "mAD",
    "iou": "IoU",
    "best_iou": "best IoU",
    "pro_per_image": "PRO per image",
    "au_spro_05": "AU-sPRO, 5 %",
    "au_spro_30": "AU-sPRO, 30 %",
    "fpr95": "FPR95",
    "overkill": "overkill",
    "escape": "escape",
    "fps": "FPS",
}
"""Every measure by name, in the order of tables, and how people write it."""

_Item = TypeVar("_Item")
_Pair = tuple[NDArray[np.float32], Mask | None]
"""Map and mask of an image; no mask where it marks nothing."""
Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Measures:
    """Metrics of a detector on labelled images.

    Parameters
    ----------
    values : image_auroc, image_ap, image_f1max, pixel_auroc, pixel_ap, pixel_f1max, aupro, mad, iou, best_iou and
        fpr95, each in [0, 1] or None where undefined.
    undefined : for each None above, the reason.
    without_mask : number of anomalous images without a mask, which pixel metrics leave out.
    image_roc : false and true positive rates of images, at most 200 points, None where undefined.
    pixel_pro : false positive rates of pixels and mean overlaps of components, likewise.
    error_bounds : of each value that was not computed exactly, how far at most the exact one is from it; empty if
        there were no more pixels than are ranked exactly.
    """

    values: dict[str, float | None]
    undefined: dict[str, str]
    without_mask: int
    image_roc: Curve | None
    pixel_pro: Curve | None
    error_bounds: dict[str, float] = field(default_factory=dict)


class Measurement:
    """Images and maps that come one at a time, in bounded memory.

    Maps and masks are kept while they have no more than `exact_pixels` pixels together, and pixel metrics are exact.
    Once they have more, all are counted in the bins of `StreamingPixels` and none is kept.

    Parameters
    ----------
    pixel_threshold : a pixel is flagged if its map is above it; IoU is undefined without.
    aupro_limit : false positive rate in (0, 1] up to which AUPRO integrates.
    exact_pixels : 0 or more.
    confidence : be ready for `confidence`. It takes about 8 kB an image, 32 with defects. For more than `exact_pixels`
        pixels the shared thresholds are chosen by the images up to there.
    """

    def __init__(
        self,
        pixel_threshold: float | None = None,
        aupro_limit: float = 0.3,
        *,
        exact_pixels: int = EXACT_PIXELS,
        confidence: bool = False,
    ) -> None:
        self._pixel_threshold = pixel_threshold
        self._aupro_limit = aupro_limit
        self._exact_pixels = exact_pixels
        self._confidence = confidence
        self._scores: list[float] = []
        self._labels: list[bool] = []
        self._with_map = 0
        self._without_mask = 0
        self._kept: list[_Pair | None] = []
        self._n_kept = 0
        self._stream: StreamingPixels | None = None
        self._tally: PixelTally | None = None

    def add(
        self, score: float, anomalous: bool, anomaly_map: NDArray[np.floating] | None = None, mask: Mask | None = None
    ) -> None:
        """Add an image.

        Parameters
        ----------
        score : finite; higher is more anomalous.
        anomaly_map : float, H x W, finite. All images have one, or none has. It may be kept: do not change it later.
        mask : bool, H x W, True is anomalous. A normal image without one is normal all over; an anomalous image
            without one is left out of pixel metrics, never taken for normal.

        Raises
        ------
        ValueError : map and mask do not fit together, the map is not finite (as float32), the mask of a normal image
            marks pixels, or only some images have a map.
        """
        i = len(self._scores)
        if (anomaly_map is not None) != (self._with_map == i) and i:
            raise ValueError(f"image {i} has {'no' if anomaly_map is None else 'an'} anomaly map, unlike those before")
        pair = None
        if anomaly_map is not None and not (anomalous and mask is None):
            pair = checked(i, anomaly_map, _whole(anomaly_map, mask)), mask if mask is not None and mask.any() else None
            if not anomalous and pair[1] is not None:
                raise ValueError(f"image {i} is normal but its mask marks pixels")
        self._scores.append(float(score))
        self._labels.append(bool(anomalous))
        self._with_map += anomaly_map is not None
        self._without_mask += anomalous and mask is None
        if anomaly_map is not None:
            self._take(pair)

    def measures(self) -> Measures:
        """Measure everything that the images so far can define.

        Raises
        ------
        ValueError : a score is not finite.
        """
        ranking = rank(self._scores, np.array(self._labels, np.bool_))
        exact = cache(lambda: PixelRanking(*self._maps_and_masks()))

        def of_pixels(
            of_ranking: Callable[[PixelRanking], float], of_stream: Callable[[StreamingPixels], Bounded]
        ) -> Callable[[], Bounded]:
            def metric() -> Bounded:
                self._require_masks()
                if self._stream is not None:
                    return of_stream(self._stream)
                return Bounded(of_ranking(exact()), 0.0)

            return metric

        def iou() -> Bounded:
            threshold = self._pixel_threshold
            if threshold is None:
                raise UndefinedMetric("no pixel threshold")
            return of_pixels(lambda pixels: pixels.iou(threshold), lambda stream: stream.iou(threshold))()

        limit = self._aupro_limit
        metrics: dict[str, Callable[[], Bounded]] = {
            "image_auroc": lambda: Bounded(ranking.auroc(), 0.0),
            "image_ap": lambda: Bounded(ranking.average_precision(), 0.0),
            "image_f1max": lambda: Bounded(ranking.f1_max(), 0.0),
            "pixel_auroc": of_pixels(PixelRanking.auroc, StreamingPixels.auroc),
            "pixel_ap": of_pixels(PixelRanking.average_precision, StreamingPixels.average_precision),
            "pixel_f1max": of_pixels(PixelRanking.f1_max, StreamingPixels.f1_max),
            "aupro": of_pixels(lambda pixels: pixels.aupro(limit), lambda stream: stream.aupro(limit)),
            "mad": lambda: Bounded(
                mad([values[name] for name in OF_MAD]), sum(bounds.get(name, 0.0) for name in OF_MAD) / len(OF_MAD)
            ),
            "iou": iou,
            "best_iou": of_pixels(PixelRanking.best_iou, StreamingPixels.best_iou),
            "fpr95": lambda: Bounded(ranking.fpr_at_tpr(0.95), 0.0),
        }
        values: dict[str, float | None] = {}
        undefined: dict[str, str] = {}
        bounds: dict[str, float] = {}
        for name, metric in metrics.items():
            try:
                values[name], bound = metric()
            except UndefinedMetric as reason:
                values[name], undefined[name] = None, str(reason)
            else:
                if self._stream is not None and not (name.startswith("image") or name == "fpr95"):
                    bounds[name] = bound

        def pro_curve() -> tuple[Floats, Floats]:
            self._require_masks()
            return (self._stream or exact()).pro_curve(_CURVE_POINTS)

        return Measures(
            values=values,
            undefined=undefined,
            without_mask=self._without_mask,
            image_roc=_as_lists(lambda: ranking.roc_curve(_CURVE_POINTS)),
            pixel_pro=_as_lists(pro_curve),
            error_bounds=bounds,
        )

    def confidence(self, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Confidence:
        """Bootstrap intervals of all metrics: images drawn with replacement, good and bad ones each among themselves.

        Parameters
        ----------
        draws : number of times. level : probability between the ends of the percentile intervals, in (0, 1).

        Raises
        ------
        ValueError : draws or level are out of range, a score is not finite, or the measurement was not told to be
            ready for this.
        """
        if not self._confidence:
            raise ValueError("pass confidence=True to the measurement to take its intervals")
        tally = self._tally
        if tally is None and self._with_map:
            tally = self._tally_kept()
        labels = np.array(self._labels, np.bool_)
        found = resample(self._scores, labels, tally, self._aupro_limit, draws=draws, seed=seed, level=level)
        return Confidence(draws, seed, level, {name: found.get(name) for name in _METRICS})

    def _take(self, pair: _Pair | None) -> None:
        """Keep, or count, the map and mask of the latest image."""
        self._kept.append(pair)
        self._n_kept += 0 if pair is None else pair[0].size
        if self._stream is None and self._n_kept > self._exact_pixels:
            if self._confidence:
                self._tally = self._tally_kept()
            self._stream = StreamingPixels()
            # Each is let go of before the next is counted.
            self._kept.reverse()
            while self._kept:
                if (one := self._kept.pop()) is not None:
                    self._stream.update_checked(*one)
        elif self._stream is not None:
            self._kept.clear()
            if pair is not None:
                self._stream.update_checked(*pair)
            if self._tally is not None:
                self._tally.add(pair and (pair[0], _whole(*pair)))

    def _tally_kept(self) -> PixelTally:
        tally = PixelTally(shared_thresholds(*self._maps_and_masks(), self._pixel_threshold), self._pixel_threshold)
        for pair in self._kept:
            tally.add(pair and (pair[0], _whole(*pair)))
        return tally

    def _require_masks(self) -> None:
        """Raise UndefinedMetric unless there is something for pixel metrics to look at."""
        if self._scores and not self._with_map:
            raise UndefinedMetric("no anomaly maps")
        if not any(self._labels):
            raise UndefinedMetric("no anomalous images")
        if sum(self._labels) == self._without_mask:
            raise UndefinedMetric("no anomalous image has a mask")

    def _maps_and_masks(self) -> tuple[list[NDArray[np.float32]], list[Mask]]:
        pairs = [pair for pair in self._kept if pair is not None]
        return [one for one, _ in pairs], [_whole(*pair) for pair in pairs]


def measure(
    scores: ArrayLike,
    labels: ArrayLike,
    maps: Iterable[NDArray[np.floating]] | None = None,
    masks: Iterable[Mask | None] | None = None,
    pixel_threshold: float | None = None,
    aupro_limit: float = 0.3,
    *,
    exact_pixels: int = EXACT_PIXELS,
) -> Measures:
    """Measure everything that the data can define.

    Parameters
    ----------
    scores : float, n, finite; higher is more anomalous.
    labels : bool, n; True is anomalous.
    maps : anomaly maps, float, H x W each; also an iterator, which is consumed, and has to give new arrays each time.
    masks : bool, H x W each, as large as their map, True is anomalous; or None. A normal image without a mask is normal
        all over. An anomalous image without one is left out of pixel metrics, never taken for normal.
    pixel_threshold : a pixel is flagged if its map is above it; IoU is undefined without.
    aupro_limit : false positive rate in (0, 1] up to which AUPRO integrates.
    exact_pixels : up to so many pixels the metrics of pixels are exact; with more, they have error bounds and no map is
        kept.

    Raises
    ------
    ValueError : arguments do not fit together, a value is not finite, or the mask of a normal image marks pixels.
    """
    measurement = Measurement(pixel_threshold, aupro_limit, exact_pixels=exact_pixels)
    _add_all(measurement, scores, labels, maps, masks)
    return measurement.measures()


def bootstrap(
    scores: ArrayLike,
    labels: ArrayLike,
    maps: Iterable[NDArray[np.floating]] | None = None,
    masks: Iterable[Mask | None] | None = None,
    pixel_threshold: float | None = None,
    aupro_limit: float = 0.3,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    exact_pixels: int = EXACT_PIXELS,
) -> Confidence:
    """Bootstrap intervals of everything that `measure` measures; parameters and errors as `measure` and `Measurement`.

    Every draw takes as many images as there are, with replacement, the normal and the anomalous ones each among
    themselves; the interval of a metric runs between the percentiles of its values over the draws.
    """
    measurement = Measurement(pixel_threshold, aupro_limit, exact_pixels=exact_pixels, confidence=True)
    _add_all(measurement, scores, labels, maps, masks)
    return measurement.confidence(draws, seed, level)


def _add_all(
    measurement: Measurement,
    scores: ArrayLike,
    labels: ArrayLike,
    maps: Iterable[NDArray[np.floating]] | None,
    masks: Iterable[Mask | None] | None,
) -> None:
    rank(scores, labels)  # refuses what does not fit, before any map is looked at
    values, anomalous = np.asarray(scores, np.float64), np.asarray(labels, np.bool_)
    of_maps: Iterator[NDArray[np.floating] | None] = _as_many(maps, values.size)
    of_masks: Iterator[Mask | None] = _as_many(masks, values.size)
    for score, label, anomaly_map, mask in zip(values, anomalous, of_maps, of_masks, strict=True):
        measurement.add(float(score), bool(label), anomaly_map, mask)


def mad(seven: Sequence[float | None]) -> float:
    """Mean of I-AUROC, I-AP, I-F1max, P-AUROC, P-AP, P-F1max and AUPRO.

    Raises
    ------
    UndefinedMetric : one of them is None.
    ValueError : there are not seven.
    """
    if len(seven) != len(OF_MAD):
        raise ValueError(f"mAD is the mean of {len(OF_MAD)} metrics, not of {len(seven)}")
    defined = [value for value in seven if value is not None]
    if len(defined) < len(seven):
        missing = (name for name, value in zip(OF_MAD, seven, strict=True) if value is None)
        raise UndefinedMetric(f"undefined with {', '.join(missing)}")
    return sum(defined) / len(defined)


def _whole(anomaly_map: NDArray[np.floating], mask: Mask | None) -> Mask:
    """The mask, or one as large as the map that marks nothing and takes no memory."""
    return np.broadcast_to(np.False_, anomaly_map.shape) if mask is None else mask


def _as_many(items: Iterable[_Item] | None, n: int) -> Iterator[_Item | None]:
    """The items, or None n times; certain to be n, at once where they have a length, and else at their end."""
    if items is None:
        return repeat(None, n)
    if isinstance(items, Sized) and len(items) != n:
        raise ValueError(f"maps and masks are as many as scores: {n}")
    return _exactly(items, n)


def _exactly(items: Iterable[_Item], n: int) -> Iterator[_Item]:
    seen = 0
    for seen, item in enumerate(items, start=1):
        if seen > n:
            break
        yield item
    if seen != n:
        raise ValueError(f"maps and masks are as many as scores: {n}")


def _as_lists(curve: Callable[[], tuple[Floats, Floats]]) -> Curve | None:
    try:
        x, y = curve()
    except UndefinedMetric:
        return None
    return x.tolist(), y.tolist()
