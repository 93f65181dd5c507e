"""Metrics of anomaly detection: fast, in NumPy alone; exact, or with an error bound where memory is too small.

A metric that the data cannot define raises `UndefinedMetric` with the reason; `measure` notes it as None.
"""

from __future__ import annotations

from blemish.metrics.bins import Bounded
from blemish.metrics.bootstrap import Confidence, Interval
from blemish.metrics.measures import EXACT_PIXELS, TITLES, Measurement, Measures, bootstrap, mad, measure
from blemish.metrics.pixels import PixelRanking, per_image_pro
from blemish.metrics.ranking import (
    Ranking,
    UndefinedMetric,
    auroc,
    average_precision,
    f1_max,
    fpr_at_tpr,
    rank,
    roc_curve,
)
from blemish.metrics.saturation import Defect, SaturatedOverlap, saturation_area, spro
from blemish.metrics.streaming import StreamingPixels

__all__ = [
    "EXACT_PIXELS",
    "TITLES",
    "Bounded",
    "Confidence",
    "Defect",
    "Interval",
    "Measurement",
    "Measures",
    "PixelRanking",
    "Ranking",
    "SaturatedOverlap",
    "StreamingPixels",
    "UndefinedMetric",
    "auroc",
    "average_precision",
    "bootstrap",
    "f1_max",
    "fpr_at_tpr",
    "mad",
    "measure",
    "per_image_pro",
    "rank",
    "roc_curve",
    "saturation_area",
    "spro",
]
