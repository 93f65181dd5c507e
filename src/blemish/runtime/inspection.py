"""What an inspection found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.components import boxes, label
from blemish.decisions import Verdict
from blemish.pictures import overlay, png


@dataclass(frozen=True)
class Region:
    """A defect region: bounding box and area in pixels of the image, the map's largest value inside."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True)
class Inspection:
    """One image judged.

    Attributes
    ----------
    path : the file, or None for bytes and arrays.
    verdict : OK, REVIEW, NG or REJECTED.
    score : grows with how abnormal the image is; its scale is the method's own. None if rejected.
    p_value : share of normal images that score at least this; in (0, 1]. None if rejected.
    reason : code of what led to the verdict: `score_in_normal_range`, `score_near_limit`, `score_above_limit`, or why
        the image was rejected. detail : the same as a sentence.
    anomaly_map : H x W float32 at the image's size. threshold : map value above which a pixel is marked.
    mask : H x W bool, the marked pixels. regions : connected marked pixels, largest peak first.
    image : H x W x 3 uint8 for display.
    """

    path: str | None
    verdict: Verdict
    reason: str
    detail: str
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    regions: tuple[Region, ...] = ()
    anomaly_map: NDArray[np.float32] | None = field(default=None, repr=False)
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    image: NDArray[np.uint8] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The inspection without its arrays, as `blemish inspect --json` prints it."""
        return {
            "path": self.path,
            "score": self.score,
            "p_value": self.p_value,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "detail": self.detail,
            "regions": [asdict(region) for region in self.regions],
        }

    def picture(self) -> NDArray[np.uint8] | None:
        """The image with its heat map and the outline of the mask, H x W x 3; None if the image was rejected."""
        if self.image is None or self.anomaly_map is None or self.threshold is None:
            return None
        return overlay(self.image, self.anomaly_map, self.threshold, self.mask)

    def _repr_png_(self) -> bytes | None:
        picture = self.picture()
        return None if picture is None else png(picture)


def find_regions(anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[Region, ...]:
    """The 8-connected regions of `mask`, largest peak first."""
    labels, n = label(mask)
    if n == 0:
        return ()
    peaks = np.full(n + 1, -np.inf, np.float32)
    np.maximum.at(peaks, labels[mask], anomaly_map[mask])
    found = [
        Region(int(x), int(y), int(width), int(height), int(area), float(peak))
        for (x, y, width, height, area), peak in zip(boxes(labels, n), peaks[1:], strict=True)
    ]
    return tuple(sorted(found, key=lambda region: -region.peak))
