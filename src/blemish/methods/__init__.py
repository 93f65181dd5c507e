"""The methods, one file each; importing this package registers them all."""

from __future__ import annotations

import difflib

from blemish.errors import UsageError
from blemish.methods import (  # noqa: F401  (registers them)
    borad,
    cdd,
    cdo,
    cflow,
    cpr,
    efficientad,
    fcd,
    mkd,
    padim,
    patchcore,
    rd,
    rd_plus_plus,
    spade,
    stpm,
)
from blemish.methods.base import (
    REGISTRY,
    AnomalyMap,
    Embeds,
    Features,
    GradientStage,
    Method,
    MethodConfig,
    NamesSuspects,
    PassStage,
    Stage,
    TeacherStudent,
)

__all__ = [
    "AnomalyMap",
    "Embeds",
    "Features",
    "GradientStage",
    "Method",
    "MethodConfig",
    "NamesSuspects",
    "PassStage",
    "Stage",
    "TeacherStudent",
    "find_method",
    "list_methods",
]


def list_methods() -> dict[str, type[Method]]:
    """Every registered method, by name."""
    return dict(sorted(REGISTRY.items()))


def find_method(name: str) -> type[Method]:
    """The method called `name`.

    Raises
    ------
    UsageError
        If there is none; names the closest.
    """
    if name not in REGISTRY:
        close = difflib.get_close_matches(name, REGISTRY, n=1)
        known = ", ".join(sorted(REGISTRY))
        raise UsageError(
            f"there is no method '{name}'", todo=f"Did you mean {close[0]}?" if close else f"Known are {known}"
        )
    return REGISTRY[name]
