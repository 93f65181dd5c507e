"""What every source is: a thread that has images inspected, and counts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.orm import Session

from blemish.station.connections.kinds import Origin
from blemish.station.errors import StationError
from blemish.station.tables import Inspection, now

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds until a source that failed tries again; each wait is twice the one before."""


class Judge(Protocol):
    """The way to an inspection, the same as that of the API."""

    def __call__(
        self,
        content: bytes,
        file: str | None,
        model: str | None,
        source: str,
        also: Callable[[Session], None] | None = None,
    ) -> Inspection:
        """Have an image judged and stored. `also` writes in the same transaction.

        Raises
        ------
        StationError
            The image was neither judged nor stored; trying again later may help.
        """


@dataclass(frozen=True)
class SourceState:
    """A source as it stands. counts : since the start of the station. problem : why it gives nothing; None if it does.

    options : what was said of it, without its secrets. last : when the newest inspection was stored.
    """

    name: str
    kind: str
    address: str
    model: str | None
    origin: Origin
    paused: bool
    options: dict[str, Any]
    connected: bool
    counts: dict[str, int]
    last: datetime | None
    problem: str | None


class StoppedError(Exception):
    """The station is shutting down."""


@dataclass
class Progress:
    """What a source has done so far."""

    counts: dict[str, int]
    connected: bool = False
    last: datetime | None = None
    problem: str | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, by: int = 1) -> None:
        """Count something."""
        with self.guard:
            self.counts[name] += by

    def inspected(self) -> None:
        """Count an inspection."""
        self.count("inspected")
        self.last = now()

    def trouble(self, name: str, problem: object) -> None:
        """Remember what is wrong; the log has it once."""
        if self.problem is None:
            log.warning("Source %s: %s", name, problem)
        self.problem = str(problem)

    def standstill(self) -> Progress:
        """What remains of it once its threads have ended."""
        return Progress(dict(self.counts), last=self.last)


class Backoff:
    """How long to wait before the next attempt."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._seconds = FIRST_WAIT

    def wait(self) -> None:
        """Wait, the next time twice as long.

        Raises
        ------
        StoppedError
        """
        if self._stop.wait(self._seconds):
            raise StoppedError
        self._seconds = min(2 * self._seconds, LONGEST_WAIT)

    def reset(self) -> None:
        """It worked."""
        self._seconds = FIRST_WAIT


def patiently(name: str, progress: Progress, stop: threading.Event, what: Callable[[], Inspection]) -> Inspection:
    """Inspect, and again for as long as the station cannot: its queue is full, or its database is away.

    Raises
    ------
    StoppedError
        The image is not inspected.
    """
    backoff = Backoff(stop)
    while not stop.is_set():
        try:
            row = what()
        except StationError as error:
            progress.trouble(name, error)
            backoff.wait()
            continue
        progress.inspected()
        progress.problem = None
        return row
    raise StoppedError
