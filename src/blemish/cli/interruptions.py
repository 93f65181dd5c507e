"""What a verb says when it is interrupted by Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from blemish.errors import BlemishError

P = ParamSpec("P")
R = TypeVar("R")


class InterruptionError(BlemishError):
    """A person has interrupted a verb."""

    exit_status = 130


def when_interrupted(kept: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a verb.

    Parameters
    ----------
    kept : what is kept of its work, and what the same command does next; sentences without the last full stop.
    """

    def decorated(verb: Callable[P, R]) -> Callable[P, R]:
        @wraps(verb)
        def interruptible(*arguments: P.args, **options: P.kwargs) -> R:
            try:
                return verb(*arguments, **options)
            except KeyboardInterrupt as interruption:
                raise InterruptionError("interrupted", todo=f"{kept}.") from interruption

        return interruptible

    return decorated
