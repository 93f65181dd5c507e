"""Measures that some papers print in terms of their own, beside those that all share."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blemish import metrics
from blemish.components import Mask
from blemish.data import Sample, loco_regions
from blemish.metrics import Defect, Measures, StreamingPixels

AU_SPRO = {"au_spro_05": 0.05, "au_spro_30": 0.3}
"""AU-sPRO by the false positive rate up to which it integrates."""


class OwnTerms:
    """PRO per image, as RD4AD and its family print it, and AU-sPRO for the defects of MVTec LOCO.

    Parameters
    ----------
    saturating : whether the samples are of the layout mvtec-loco.
    """

    def __init__(self, saturating: bool) -> None:
        self._per_image: list[float] = []
        self._why_not = "no anomalous image with a mask that marks pixels"
        self._saturated = StreamingPixels() if saturating else None

    def add(self, sample: Sample, anomaly_map: NDArray[np.float32], mask: Mask | None) -> None:
        """Add an image that was judged."""
        if mask is not None and mask.any():
            try:
                self._per_image.append(metrics.per_image_pro([anomaly_map], [mask]))
            except metrics.UndefinedMetric as reason:
                self._per_image.append(math.nan)
                self._why_not = f"{sample.path.name}: {reason}"
        if self._saturated is not None and (sample.label == "normal" or sample.masks):
            regions = loco_regions(sample, anomaly_map.shape)
            self._saturated.update_defects(anomaly_map, [Defect(*region) for region in regions])

    def beside(self, measures: Measures) -> Measures:
        """The measures with these beside them."""
        values, undefined, bounds = dict(measures.values), dict(measures.undefined), dict(measures.error_bounds)
        mean = float(np.mean(self._per_image)) if self._per_image else math.nan
        values["pro_per_image"] = None if math.isnan(mean) else mean
        if math.isnan(mean):
            undefined["pro_per_image"] = self._why_not
        if self._saturated is not None:
            for name, limit in AU_SPRO.items():
                try:
                    values[name], bounds[name] = self._saturated.aupro(limit)
                except metrics.UndefinedMetric as reason:
                    values[name], undefined[name] = None, str(reason)
        return replace(measures, values=values, undefined=undefined, error_bounds=bounds)
