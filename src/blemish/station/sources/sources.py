"""All sources of a station; they come and go while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from blemish.station.connections.kinds import FolderSource, Origin, Source, shown
from blemish.station.errors import Code, StationError
from blemish.station.sources.base import Judge, Progress, SourceState
from blemish.station.sources.camera import Camera
from blemish.station.sources.folder import Folder
from blemish.station.store import Store

log = logging.getLogger(__name__)

LONGEST_END = 30.0
"""Seconds that a source which is taken away has to finish the image that it is at."""


@dataclass
class _Placed:
    """A source, who named it, and whether it is to rest."""

    source: Folder | Camera
    origin: Origin
    paused: bool


class Sources:
    """Watched folders and cameras, each with threads of its own.

    Parameters
    ----------
    settings : of those that the configuration file names. max_bytes : of a file.

    Raises
    ------
    UsageError
        A folder of the configuration file cannot be used, or what a camera needs is not installed.
    """

    def __init__(self, settings: Sequence[Source], judge: Judge, store: Store, station: str, max_bytes: int) -> None:
        self._judge = judge
        self._store = store
        self._station = station
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._running = False
        self._placed: dict[str, _Placed] = {}
        for one in settings:
            self.put(one, "file")
            self._placed[one.name].source.prepare()

    def make(self, settings: Source) -> Folder | Camera:
        """A source that is not started."""
        if isinstance(settings, FolderSource):
            return Folder(settings, self._judge, self._store, self._station, self._max_bytes)
        return Camera(settings, self._judge)

    def put(self, settings: Source, origin: Origin, *, paused: bool = False, progress: Progress | None = None) -> None:
        """Take a source in, under a name that no other has. It runs if the others do, unless it is paused.

        Parameters
        ----------
        progress : of the one that it takes the place of.
        """
        source = self.make(settings)
        if progress is not None and progress.counts.keys() == source.progress.counts.keys():
            source.progress = progress.standstill()
        with self._guard:
            self._placed = {**self._placed, settings.name: _Placed(source, origin, paused)}
            if self._running and not paused:
                source.start()

    def take(self, name: str) -> Progress:
        """Let a source go, once it has finished the image that it is at; what it has done."""
        with self._guard:
            source = self._placed[name].source
            self._placed = {other: placed for other, placed in self._placed.items() if other != name}
        source.stop()
        source.join(LONGEST_END)
        if source.busy:
            log.warning("The source %s is still at an image", name)
        return source.progress

    def settings_of(self, name: str) -> Source | None:
        """What was said of a source; None if there is none of this name."""
        placed = self._placed.get(name)
        return None if placed is None else placed.source.settings

    def start(self) -> None:
        """Begin to have images inspected."""
        with self._guard:
            self._running = True
            for placed in self._placed.values():
                if not placed.paused:
                    placed.source.start()

    def stop(self) -> None:
        """Begin no other image."""
        with self._guard:
            self._running = False
        for placed in self._placed.values():
            placed.source.stop()

    def join(self, seconds: float) -> None:
        """Wait for the ends of all threads."""
        for placed in self._placed.values():
            placed.source.join(seconds)

    @property
    def idle(self) -> bool:
        """Whether no image of a source is being inspected."""
        return not any(placed.source.busy for placed in self._placed.values())

    def frame(self, name: str) -> tuple[bytes, str | None]:
        """A frame that a camera took after it was asked for, as a PNG file; and the model it is for.

        Raises
        ------
        StationError
            not_found, invalid_request, source_unavailable.
        """
        placed = self._placed.get(name)
        if placed is None:
            raise StationError(Code.NOT_FOUND, f"there is no source {name}")
        source = placed.source
        if isinstance(source, Folder):
            raise StationError(
                Code.INVALID_REQUEST, f"{name} is a folder; its files are taken by themselves", where="source"
            )
        if placed.paused:
            raise StationError(Code.SOURCE_UNAVAILABLE, f"the camera {name} is paused", todo="Let it go on first")
        return source.frame(), source.settings.model

    def states(self) -> list[SourceState]:
        """All sources: those of the configuration file in its order, then the others."""
        return [
            SourceState(
                name=name,
                kind=placed.source.settings.kind,
                address=placed.source.settings.address,
                model=placed.source.settings.model,
                origin=placed.origin,
                paused=placed.paused,
                options=shown(placed.source.settings),
                connected=placed.source.progress.connected,
                counts=dict(placed.source.progress.counts),
                last=placed.source.progress.last,
                problem=placed.source.progress.problem,
            )
            for name, placed in self._placed.items()
        ]
