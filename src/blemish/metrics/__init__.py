"""Metrics of anomaly detection: exact, fast, in NumPy alone.

A metric that the data cannot define raises `UndefinedMetric` with the reason; `measure` notes it as None.
"""

from __future__ import annotations

from blemish.metrics.measures import Measures, mad, measure
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

__all__ = [
    "Measures",
    "PixelRanking",
    "Ranking",
    "UndefinedMetric",
    "auroc",
    "average_precision",
    "f1_max",
    "fpr_at_tpr",
    "mad",
    "measure",
    "per_image_pro",
    "rank",
    "roc_curve",
]
