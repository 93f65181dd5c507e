"""The graph at work: a model file becomes a detector that inspects images. No torch."""

from blemish.decisions import Verdict
from blemish.runtime.detector import Detector, load
from blemish.runtime.inspection import Inspection, Region

__all__ = ["Detector", "Inspection", "Region", "Verdict", "load"]
