"""All metrics of one evaluation at once, and for each undefined one the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.components import Mask
from blemish.metrics.pixels import PixelRanking
from blemish.metrics.ranking import Floats, UndefinedMetric, rank

_CURVE_POINTS = 200
_OF_MAD = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Measures:
    """Metrics of a detector on labelled images.

    Parameters
    ----------
    values : image_auroc, image_ap, image_f1max, pixel_auroc, pixel_ap, pixel_f1max, aupro, mad and iou, each in [0, 1]
        or None where undefined.
    undefined : for each None above, the reason.
    without_mask : number of anomalous images without a mask, which pixel metrics leave out.
    image_roc : false and true positive rates of images, at most 200 points, None where undefined.
    pixel_pro : false positive rates of pixels and mean overlaps of components, likewise.
    """

    values: dict[str, float | None]
    undefined: dict[str, str]
    without_mask: int
    image_roc: Curve | None
    pixel_pro: Curve | None


def measure(
    scores: ArrayLike,
    labels: ArrayLike,
    maps: Sequence[NDArray[np.floating]] | None = None,
    masks: Sequence[Mask | None] | None = None,
    pixel_threshold: float | None = None,
    aupro_limit: float = 0.3,
) -> Measures:
    """Measure everything that the data can define.

    Parameters
    ----------
    scores : float, n, finite; higher is more anomalous.
    labels : bool, n; True is anomalous.
    maps : anomaly maps, float, H x W each.
    masks : bool, H x W each, as large as their map, True is anomalous; or None. A normal image without a mask is normal
        all over. An anomalous image without one is left out of pixel metrics, never taken for normal.
    pixel_threshold : a pixel is flagged if its map is above it; IoU is undefined without.
    aupro_limit : false positive rate in (0, 1] up to which AUPRO integrates.

    Raises
    ------
    ValueError : arguments do not fit together, a value is not finite, or the mask of a normal image marks pixels.
    """
    ranking = rank(scores, labels)
    anomalous = [bool(label) for label in np.asarray(labels)]
    masks = [None] * len(anomalous) if masks is None else masks
    if len(masks) != len(anomalous) or (maps is not None and len(maps) != len(anomalous)):
        raise ValueError(f"maps and masks are as many as scores: {len(anomalous)}")

    @cache
    def pixels() -> PixelRanking:
        return _rank_pixels(anomalous, maps, masks)

    def iou() -> float:
        if pixel_threshold is None:
            raise UndefinedMetric("no pixel threshold")
        return pixels().iou(pixel_threshold)

    metrics: dict[str, Callable[[], float]] = {
        "image_auroc": ranking.auroc,
        "image_ap": ranking.average_precision,
        "image_f1max": ranking.f1_max,
        "pixel_auroc": lambda: pixels().auroc(),
        "pixel_ap": lambda: pixels().average_precision(),
        "pixel_f1max": lambda: pixels().f1_max(),
        "aupro": lambda: pixels().aupro(aupro_limit),
        "mad": lambda: mad([values[name] for name in _OF_MAD]),
        "iou": iou,
    }
    values: dict[str, float | None] = {}
    undefined: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            values[name] = metric()
        except UndefinedMetric as reason:
            values[name], undefined[name] = None, str(reason)
    return Measures(
        values=values,
        undefined=undefined,
        without_mask=sum(label and mask is None for label, mask in zip(anomalous, masks, strict=True)),
        image_roc=_as_lists(lambda: ranking.roc_curve(_CURVE_POINTS)),
        pixel_pro=_as_lists(lambda: pixels().pro_curve(_CURVE_POINTS)),
    )


def mad(seven: Sequence[float | None]) -> float:
    """Mean of I-AUROC, I-AP, I-F1max, P-AUROC, P-AP, P-F1max and AUPRO.

    Raises
    ------
    UndefinedMetric : one of them is None.
    ValueError : there are not seven.
    """
    if len(seven) != len(_OF_MAD):
        raise ValueError(f"mAD is the mean of {len(_OF_MAD)} metrics, not of {len(seven)}")
    defined = [value for value in seven if value is not None]
    if len(defined) < len(seven):
        missing = (name for name, value in zip(_OF_MAD, seven, strict=True) if value is None)
        raise UndefinedMetric(f"undefined with {', '.join(missing)}")
    return sum(defined) / len(defined)


def _rank_pixels(
    anomalous: Sequence[bool], maps: Sequence[NDArray[np.floating]] | None, masks: Sequence[Mask | None]
) -> PixelRanking:
    """Rank the pixels of the images whose truth is known."""
    if maps is None:
        raise UndefinedMetric("no anomaly maps")
    kept_maps, kept_masks, n_anomalous = [], [], 0
    for i, (label, one, mask) in enumerate(zip(anomalous, maps, masks, strict=True)):
        if label and mask is None:
            continue
        if not label and mask is not None and mask.any():
            raise ValueError(f"image {i} is normal but its mask marks pixels")
        n_anomalous += label
        kept_maps.append(one)
        kept_masks.append(np.broadcast_to(np.False_, one.shape) if mask is None else mask)
    if not any(anomalous):
        raise UndefinedMetric("no anomalous images")
    if not n_anomalous:
        raise UndefinedMetric("no anomalous image has a mask")
    return PixelRanking(kept_maps, kept_masks)


def _as_lists(curve: Callable[[], tuple[Floats, Floats]]) -> Curve | None:
    try:
        x, y = curve()
    except UndefinedMetric:
        return None
    return x.tolist(), y.tolist()
