"""The graph at work: a model file becomes a detector that inspects images. No torch."""

from blemish.decisions import Verdict
from blemish.runtime.detector import Detector, detector_of, load
from blemish.runtime.graph import RuntimeChoice, check_runtime
from blemish.runtime.inspection import Inspection, Region

__all__ = [
    "Detector",
    "Inspection",
    "Region",
    "RuntimeChoice",
    "Verdict",
    "check_runtime",
    "detector_of",
    "load",
]
