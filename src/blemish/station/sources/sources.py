"""All sources of a station."""

from __future__ import annotations

from collections.abc import Sequence

from blemish.station.connections import FolderSource, Source
from blemish.station.errors import Code, StationError
from blemish.station.sources.base import Judge, SourceState
from blemish.station.sources.camera import Camera
from blemish.station.sources.folder import Folder
from blemish.station.store import Store


class Sources:
    """Watched folders and cameras, each with threads of its own.

    Parameters
    ----------
    max_bytes : of a file.

    Raises
    ------
    UsageError
        A folder cannot be used, or what a camera needs is not installed.
    """

    def __init__(self, settings: Sequence[Source], judge: Judge, store: Store, station: str, max_bytes: int) -> None:
        self._sources = [
            Folder(one, judge, store, station, max_bytes) if isinstance(one, FolderSource) else Camera(one, judge)
            for one in settings
        ]

    def start(self) -> None:
        """Begin to have images inspected."""
        for source in self._sources:
            source.start()

    def stop(self) -> None:
        """Begin no other image."""
        for source in self._sources:
            source.stop()

    def join(self, seconds: float) -> None:
        """Wait for the ends of all threads."""
        for source in self._sources:
            source.join(seconds)

    @property
    def idle(self) -> bool:
        """Whether no image of a source is being inspected."""
        return not any(source.busy for source in self._sources)

    def frame(self, name: str) -> tuple[bytes, str | None]:
        """A frame that a camera took after it was asked for, as a PNG file; and the model it is for.

        Raises
        ------
        StationError
            not_found, invalid_request, source_unavailable.
        """
        for source in self._sources:
            if source.settings.name == name:
                if isinstance(source, Folder):
                    raise StationError(
                        Code.INVALID_REQUEST, f"{name} is a folder; its files are taken by themselves", where="source"
                    )
                return source.frame(), source.settings.model
        raise StationError(Code.NOT_FOUND, f"there is no source {name}")

    def states(self) -> list[SourceState]:
        """All sources, in the order of the configuration."""
        return [
            SourceState(
                name=source.settings.name,
                kind=source.settings.kind,
                address=str(source.settings.path) if isinstance(source, Folder) else source.settings.address,
                model=source.settings.model,
                connected=source.progress.connected,
                counts=dict(source.progress.counts),
                last=source.progress.last,
                problem=source.progress.problem,
            )
            for source in self._sources
        ]
