"""How sure the metrics are, given so few images: bootstrap intervals (Efron, "Bootstrap methods", 1979).

Images are drawn with replacement, good and bad ones each among themselves, and every metric is taken again. Nothing is
sorted anew for a draw: each image is reduced once to its counts between shared thresholds, and a draw is a weighted sum
of those. Image metrics lose nothing by that. Pixel metrics lose what `Bins` bounds, and nothing where the anomalous
pixels have few enough distinct values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.components import Mask, members
from blemish.metrics.bins import Bins, BoundedArrays
from blemish.metrics.pixels import count
from blemish.metrics.ranking import Floats, rank

_THRESHOLDS = 800
"""Thresholds shared by all images that are chosen by the values of anomalous pixels."""
_NORMAL_THRESHOLDS = 200
"""Those chosen by the values of normal pixels, the highest ones closest together."""
_SAMPLED = 1 << 20  # normal pixels looked at to choose those
_AT_ONCE = 64  # draws; what is computed of them should stay in the processor's cache

OF_MAD = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")


class Interval(NamedTuple):
    """Range of a metric over draws.

    `undefined` draws had no value and were skipped. `error` is how far at most the value of any draw may be from the
    exact one, because pixels were counted between thresholds; 0 for image metrics.
    """

    low: float
    high: float
    undefined: int
    error: float


@dataclass(frozen=True)
class Confidence:
    """Percentile bootstrap intervals of all metrics.

    Parameters
    ----------
    draws : number of times that images were drawn. seed : of the draws. level : probability between the two ends.
    intervals : by the names of `Measures.values`; None for a metric that no draw could define.
    """

    draws: int
    seed: int
    level: float
    intervals: dict[str, Interval | None]


def resample(
    scores: ArrayLike,
    labels: ArrayLike,
    tally: PixelTally | None,
    aupro_limit: float = 0.3,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval | None]:
    """Draw images again and again, and see how far each metric moves.

    Parameters
    ----------
    scores, labels : as of `rank`.
    tally : one entry for each image, in the same order; None leaves pixel metrics out.
    draws, level : 1 or more, and in (0, 1).

    Raises
    ------
    ValueError : draws or level are out of range, and as `rank`.
    """
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws are 1 or more and a level lies in (0, 1), not {draws} and {level}")
    rank(scores, labels)  # refuses what does not fit
    values, anomalous = np.asarray(scores, np.float64), np.asarray(labels, np.bool_)
    if not values.size:
        return {}
    rng = np.random.default_rng(seed)
    times = np.zeros((draws, values.size))
    for label in (False, True):
        (chosen,) = np.nonzero(anomalous == label)
        if chosen.size:
            times[:, chosen] = rng.multinomial(chosen.size, np.full(chosen.size, 1 / chosen.size), size=draws)
    of_images = _ImageBins(values, anomalous)
    found: dict[str, list[BoundedArrays]] = {}
    for start in range(0, draws, _AT_ONCE):
        some = times[start : start + _AT_ONCE]
        metrics = of_images.metrics(some)
        if tally is not None:
            metrics |= tally.metrics(some, aupro_limit)
            seven = [metrics[name] for name in OF_MAD]
            metrics["mad"] = BoundedArrays(*(np.mean([one[k] for one in seven], axis=0) for k in (0, 1)))
        for name, one in metrics.items():
            found.setdefault(name, []).append(one)
    return {name: _interval(parts, level) for name, parts in found.items()}


def _interval(parts: Sequence[BoundedArrays], level: float) -> Interval | None:
    values = np.concatenate([part.value for part in parts])
    defined = ~np.isnan(values)
    if not defined.any():
        return None
    low, high = np.quantile(values[defined], [(1 - level) / 2, (1 + level) / 2])
    error = float(np.concatenate([part.bound for part in parts])[defined].max())
    return Interval(float(low), float(high), int(values.size - np.count_nonzero(defined)), error)


class _ImageBins:
    """Images by their score: a bin for each distinct one, so that nothing is unknown."""

    def __init__(self, scores: Floats, anomalous: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._anomalous = anomalous[self._order]
        self._starts = np.flatnonzero(np.diff(scores[self._order], prepend=np.nan) != 0)

    def metrics(self, times: Floats) -> dict[str, BoundedArrays]:
        """Image metrics with image i taken times[r, i] times, r over draws."""
        drawn = times[:, self._order]
        anomalous = self._per_score(drawn * self._anomalous)
        bins = Bins(
            self._per_score(drawn * ~self._anomalous), anomalous, anomalous, np.ones(anomalous.shape[1], np.bool_)
        )
        return {
            "image_auroc": bins.auroc(),
            "image_ap": bins.average_precision(),
            "image_f1max": bins.f1_max(),
            "fpr95": bins.fpr_at_tpr(0.95),
        }

    def _per_score(self, drawn: Floats) -> Floats:
        if not self._starts.size:
            return drawn
        summed: Floats = np.add.reduceat(drawn, self._starts, axis=1)
        return summed


class PixelTally:
    """Of each image, its pixels and parts of components between and at shared thresholds.

    Parameters
    ----------
    thresholds : float32, rising, from `shared_thresholds`.
    pixel_threshold : for IoU; None leaves it out.
    """

    def __init__(self, thresholds: NDArray[np.float32], pixel_threshold: float | None) -> None:
        self._thresholds = thresholds
        self._pixel_threshold = pixel_threshold
        # From the highest values down: above the last threshold, at it, between it and the one before, at that ...
        self._tied = np.arange(2 * thresholds.size + 1) % 2 == 1
        self._normal: list[NDArray[np.uint32]] = []
        self._anomalous: dict[int, tuple[NDArray[np.uint32], Floats, int]] = {}

    def add(self, pair: tuple[NDArray[np.float32], Mask] | None) -> None:
        """Count the map and mask of an image; None stands for an anomalous one without a mask, which counts nothing."""
        if pair is None:
            self._normal.append(np.zeros(self._tied.size, np.uint32))
            return
        anomaly_map, mask = pair
        anomalous = mask.any()
        normal = anomaly_map[~mask] if anomalous else anomaly_map.ravel()
        at_or_above, above = count(iter([normal]), self._thresholds)
        self._normal.append(self._between(at_or_above, above, normal.size).astype(np.uint32))
        if anomalous:
            component, n = members([mask])
            values = anomaly_map[mask]
            order = np.argsort(values)
            values = values[order]
            # parts[k] is what the values from the k-th smallest on make up, of components counted as 1 each.
            parts = np.append(np.cumsum((1 / np.bincount(component))[component[order]][::-1])[::-1], 0.0)
            at, over = (np.searchsorted(values, self._thresholds, side=side) for side in ("left", "right"))
            self._anomalous[len(self._normal) - 1] = (
                self._between(values.size - at, values.size - over, values.size).astype(np.uint32),
                self._between(parts[at], parts[over], parts[0]),
                n,
            )

    def metrics(self, times: Floats, aupro_limit: float) -> dict[str, BoundedArrays]:
        """Pixel metrics with image i taken times[r, i] times, r over draws."""
        marked = times[:, list(self._anomalous)]
        shape = (len(self._anomalous), self._tied.size)
        pixels = np.array([one for one, _, _ in self._anomalous.values()], np.float64).reshape(shape)
        parts = np.array([one for _, one, _ in self._anomalous.values()], np.float64).reshape(shape)
        n_components = marked @ np.array([n for _, _, n in self._anomalous.values()], np.float64)
        bins = Bins(
            normal=_weighted_sum(times, self._normal, self._tied.size),
            anomalous=marked @ pixels,
            overlap=marked @ parts / np.maximum(n_components, 1)[:, None],
            tied=self._tied,
        )
        found = {
            "pixel_auroc": bins.auroc(),
            "pixel_ap": bins.average_precision(),
            "pixel_f1max": bins.f1_max(),
            "aupro": bins.aupro(aupro_limit),
            "best_iou": bins.best_iou(),
        }
        if self._pixel_threshold is not None:
            flagged = self._flagged(np.float32(self._pixel_threshold))
            found["iou"] = bins.iou(flagged, flagged)
        return found

    def _flagged(self, threshold: np.float32) -> int:
        """How many bins lie above a threshold that is one of the shared ones, or infinite."""
        if np.isinf(threshold):
            return 0 if threshold > 0 else self._tied.size
        return 2 * int(np.count_nonzero(self._thresholds > threshold)) + 1

    def _between(self, at_or_above: NDArray[np.generic], above: NDArray[np.generic], total: float) -> Floats:
        """What is counted downwards at each threshold, as parts between and at them, from the highest values down."""
        down = np.stack([above[::-1], at_or_above[::-1]], axis=1).ravel()
        parts: Floats = np.diff(np.concatenate([[0], down, [total]]))
        return parts


def _weighted_sum(times: Floats, rows: Sequence[NDArray[np.uint32]], width: int) -> Floats:
    """times @ rows, in blocks: as float64, all rows together would take twice their memory."""
    total = np.zeros((times.shape[0], width))
    for start in range(0, len(rows), _AT_ONCE):
        block = np.array(rows[start : start + _AT_ONCE], np.float64)
        total += times[:, start : start + _AT_ONCE] @ block
    return total


def shared_thresholds(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[Mask], pixel_threshold: float | None
) -> NDArray[np.float32]:
    """Thresholds that cut both kinds of pixel, and the components, into small parts.

    Where anomalous pixels have no more than 400 distinct values, all of these are among them, and no metric loses
    anything.

    Returns
    -------
    float32, about 1,000 at most, rising, distinct.
    """
    chosen = [np.empty(0, np.float32)]
    if marked := [i for i, mask in enumerate(masks) if mask.any()]:
        component, n = members([masks[i] for i in marked])
        values = np.concatenate([maps[i][masks[i]] for i in marked])
        order = np.argsort(values)
        values, parts = values[order], np.cumsum((1 / np.bincount(component, minlength=n))[component[order]])
        distinct, half = np.unique(values), _THRESHOLDS // 2
        if distinct.size <= half:
            chosen.append(distinct)
        else:
            evenly = np.linspace(0, 1, half)
            chosen.append(values[(evenly * (values.size - 1)).astype(np.intp)])
            chosen.append(values[np.searchsorted(parts[:-1], parts[-1] * evenly)])
    step = max(1, sum(one.size for one in maps) // _SAMPLED)
    normal = np.sort(np.concatenate([chosen[0], *(one[~mask][::step] for one, mask in zip(maps, masks, strict=True))]))
    if normal.size:
        chosen.append(normal[normal.size - np.geomspace(1, normal.size, _NORMAL_THRESHOLDS).astype(np.intp)])
    if pixel_threshold is not None and np.isfinite(np.float32(pixel_threshold)):
        chosen.append(np.array([pixel_threshold], np.float32))
    return np.unique(np.concatenate(chosen))
