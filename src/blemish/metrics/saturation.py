"""Saturated per-region overlap (sPRO), the metric of MVTec LOCO.

Bergmann et al., "Beyond dents and scratches: logical constraints in unsupervised anomaly detection and localization",
IJCV 2022. Some defects, a missing part for one, have no single right region: once so many pixels as the part would
take are found in the region where it may lie, the defect counts as found in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.components import Mask
from blemish.metrics.pixels import area_up_to, checked, checked_limit, count, normal_values
from blemish.metrics.ranking import Floats, Ranking, thin


class Defect(NamedTuple):
    """One defect of an image, connected or not: bool H x W, and how many of its pixels suffice (1 to all of them)."""

    mask: Mask
    saturation_area: int


def saturation_area(area: int, threshold: float, relative: bool) -> int:
    """Pixels of a region that suffice, from the `saturation_threshold` and `relative_saturation` of its defect.

    Parameters
    ----------
    area : pixels of the region, 1 or more.
    threshold : a number of pixels, at most all of which are asked for; or if `relative` a share in (0, 1] of `area`,
        rounded down as in the official evaluation, yet never to none.
    """
    return max(1, int(threshold * area) if relative else min(int(threshold), area))


class SaturatedOverlap:
    """Mean saturated overlap of all defects of all images over the false positive rate, exact at every threshold.

    The overlap of a defect is min(found pixels / saturation area, 1). A pixel that no defect of its image covers is
    normal; the false positive rate counts those of all images, good ones too. Both at one threshold for all.

    Parameters
    ----------
    maps : float, H x W each, finite; higher is more anomalous. They are compared as float32.
    defects : of each image its defects, none for a good one. They may overlap.

    Raises
    ------
    ValueError : a map is not finite (as float32), a mask does not fit, or a saturation area is not in 1 ... area.
    """

    def __init__(self, maps: Sequence[NDArray[np.floating]], defects: Sequence[Sequence[Defect]]) -> None:
        values, shares = [np.empty(0, np.float32)], [np.empty(0)]
        kept, anomalous = [], []
        for i, (one, of_image) in enumerate(zip(maps, defects, strict=True)):
            anywhere = np.zeros(one.shape, np.bool_) if of_image else np.broadcast_to(np.False_, one.shape)
            one = checked(i, one, anywhere)
            for mask, enough in of_image:
                values.append(saturating(i, one, Defect(mask, enough)))
                shares.append(np.full(enough, 1 / enough))
                anywhere |= mask
            kept.append(one)
            anomalous.append(anywhere)
        joined = np.concatenate(values)
        order = np.argsort(joined)[::-1]
        joined = joined[order]
        last = np.flatnonzero(joined != np.append(joined[1:], np.float32(-np.inf)))
        n_defects = max(len(values) - 1, 1)
        self._overlap: Floats = np.minimum(np.cumsum(np.concatenate(shares)[order])[last] / n_defects, 1.0)
        at_or_above, above = count(normal_values(kept, anomalous), joined[last][::-1])
        self._ranking = Ranking(
            true_positives=(last + 1).astype(np.int64),
            false_positives=at_or_above[::-1],
            false_positives_above=above[::-1],
            n_normal=sum(int(np.count_nonzero(~mask)) for mask in anomalous),
            items="pixels",
        )

    def curve(self, max_points: int | None = None) -> tuple[Floats, Floats]:
        """False positive rate and mean saturated overlap from (0, 0) to (1, 1), thinned to `max_points` for a plot.

        Raises
        ------
        UndefinedMetric : no defect, or no normal pixel.
        """
        self._ranking.require_both_kinds()
        return thin(*self._ranking.curve_of(self._overlap), max_points)

    def area(self, limit: float = 0.05) -> float:
        """AU-sPRO: area under the curve from 0 to `limit`, divided by it; papers use 0.05 and 0.3.

        Raises
        ------
        UndefinedMetric : no defect, or no normal pixel.
        ValueError : `limit` is not in (0, 1].
        """
        return area_up_to(*self.curve(), checked_limit(limit))


def saturating(i: int, anomaly_map: NDArray[np.float32], defect: Defect) -> NDArray[np.float32]:
    """The highest values in a defect of image `i`, as many as suffice: whatever else is found of it adds nothing.

    Raises
    ------
    ValueError : the mask does not fit, or the saturation area is not in 1 ... area.
    """
    inside, enough = checked(i, anomaly_map, defect.mask)[defect.mask], defect.saturation_area
    if not 1 <= enough <= inside.size:
        raise ValueError(f"image {i} has a defect of {inside.size} pixels and a saturation area of {enough}")
    highest: NDArray[np.float32] = np.partition(inside, inside.size - enough)[inside.size - enough :]
    return highest


def spro(maps: Sequence[NDArray[np.floating]], defects: Sequence[Sequence[Defect]], limit: float = 0.05) -> float:
    """AU-sPRO; parameters and errors as `SaturatedOverlap` and its `area`."""
    return SaturatedOverlap(maps, defects).area(limit)
