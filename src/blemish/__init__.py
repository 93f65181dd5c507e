"""Blemish: visual anomaly detection for industrial inspection.

>>> import blemish
>>> detector = blemish.train("parts/", "part.blemish")  # needs blemish[train]
>>> detector = blemish.load("part.blemish")
>>> detector.inspect("new_part.png").verdict
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blemish.assembly import train
    from blemish.errors import BlemishError
    from blemish.evaluation import Evaluation, evaluate
    from blemish.runtime import Detector, Inspection, Region, Verdict, load

__version__ = "0.1.0"

# Official builds of ONNX Runtime report to their maker what they run, and keep an identifier of the machine below
# ~/.cache, unless told otherwise before they start. Blemish reports nothing to anyone; set it to 0 to have it back.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BlemishError",
    "Detector",
    "Evaluation",
    "Inspection",
    "Region",
    "Verdict",
    "__version__",
    "evaluate",
    "load",
    "train",
]

_HOMES = {
    "BlemishError": "blemish.errors",
    "Detector": "blemish.runtime",
    "Evaluation": "blemish.evaluation",
    "Inspection": "blemish.runtime",
    "Region": "blemish.runtime",
    "Verdict": "blemish.runtime",
    "evaluate": "blemish.evaluation",
    "load": "blemish.runtime",
    "train": "blemish.assembly",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `import blemish` must cost nothing, and inspecting must never meet torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'blemish' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
