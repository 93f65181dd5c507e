"""What can be told of a source or a sink before it is used: what speaks against it, and whether it works."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from blemish.errors import UsageError
from blemish.station.connections.kinds import CameraSource, CsvSink, FolderSource, MqttSink, Sink, Source
from blemish.station.errors import Complaint
from blemish.station.models import Models
from blemish.station.outbox import Outbox
from blemish.station.settings import Settings, is_url
from blemish.station.sinks.delivery import RefusedError, UnreachableError
from blemish.station.sinks.senders import delivery
from blemish.station.sources import Sources

LONGEST_TRIAL = 10.0
"""Seconds that whoever answers has at a trial, whatever they have later."""


@dataclass(frozen=True)
class Found:
    """What came of a trial. facts : numbers that tell of it. complaint : why it does not work; None if it does."""

    facts: dict[str, int]
    complaint: Complaint | None = None


class Checks:
    """What a station lets people enter.

    Parameters
    ----------
    models : that a source may name.
    """

    def __init__(self, settings: Settings, models: Models) -> None:
        self.settings = settings
        self.models = models

    def complaints(self, settings: Source | Sink, sources: Sources, outbox: Outbox) -> list[Complaint]:
        """What speaks against a connection that could be one, and can be told without a network."""
        if (outside := self.outside(settings)) is not None:
            return [outside]
        found: list[Complaint | None] = []
        if isinstance(settings, FolderSource | CameraSource):
            found.append(self._model(settings.model))
        if isinstance(settings, FolderSource):
            others = [sources.settings_of(state.name) for state in sources.states() if state.name != settings.name]
            found.append(_folder(settings, sources, [one.path for one in others if isinstance(one, FolderSource)]))
        if isinstance(settings, CameraSource):
            found.append(_camera(settings))
        if isinstance(settings, CsvSink):
            others_too = [one for one in outbox.sinks.values() if one.name != settings.name]
            found.append(_table(settings, [one.path for one in others_too if isinstance(one, CsvSink)]))
        if isinstance(settings, MqttSink) and settings.ca_file is not None and not settings.ca_file.is_file():
            found.append(Complaint("ca_file", "no_such_file", f"there is no file {settings.ca_file}"))
        return [one for one in found if one is not None]

    def outside(self, settings: Source | Sink) -> Complaint | None:
        """Why the page may not have the station use this path of its machine."""
        field, path = _path(settings)
        if path is None:
            return None
        try:
            real = path.resolve()
        except (OSError, RuntimeError):
            return Complaint(field, "no_such_folder", f"there is no {path}")
        own = [self.settings.data, self.settings.models]
        if self.settings.pictures is not None and not is_url(self.settings.pictures):
            own.append(Path(self.settings.pictures))
        if real.parent == real or any(real.is_relative_to(folder.resolve()) for folder in own):
            return Complaint(field, "folder_of_station", "the station keeps its own things there")
        allowed = self.settings.connection_folders
        if allowed is None or any(real.is_relative_to(root) for root in allowed):
            return None
        names = ", ".join(map(str, allowed)) or "–"
        return Complaint(field, "folder_not_allowed", f"only folders within {names} may be used", {"folders": names})

    def _model(self, name: str | None) -> Complaint | None:
        known = sorted(state.name for state in self.models.states() if state.versions)
        if name is None and len(known) > 1:
            return Complaint("model", "model_needed", "there are several models, so one must be named")
        if name is not None and name not in known:
            return Complaint("model", "no_such_model", f"there is no model {name}")
        return None


def tried(settings: Source | Sink, sources: Sources) -> Found:
    """Use a connection once: take a frame, post a greeting, sign in at a broker, look whether a file can be written."""
    field = {"camera": "url", "webhook": "url", "mqtt": "host"}.get(settings.kind, "path")
    if settings.kind == "camera" and settings.url is None:
        field = "device"
    for name in ("timeout_seconds", "patience_seconds"):
        if hasattr(settings, name):
            settings = settings.model_copy(update={name: min(LONGEST_TRIAL, getattr(settings, name))})
    way = sources.make(settings) if isinstance(settings, FolderSource | CameraSource) else None
    try:
        return Found(way.try_out() if way is not None else _sink_tried(settings))
    except (UsageError, UnreachableError, RefusedError, OSError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Found({}, Complaint(field, "does_not_work", what, {"problem": what}))


def _sink_tried(settings: Source | Sink) -> dict[str, int]:
    if isinstance(settings, FolderSource | CameraSource):
        raise AssertionError("it is a source")
    way = delivery(settings)
    try:
        return way.try_out()
    finally:
        way.close()


def _path(settings: Source | Sink) -> tuple[str, Path | None]:
    """The field that names a path of this machine, and that path."""
    if isinstance(settings, FolderSource | CsvSink):
        return "path", settings.path
    if isinstance(settings, CameraSource) and settings.url is not None and settings.url.startswith("file:"):
        return "url", Path(urlsplit(settings.url).path)
    return "ca_file", settings.ca_file if isinstance(settings, MqttSink) else None


def _folder(settings: FolderSource, sources: Sources, others: list[Path]) -> Complaint | None:
    path = settings.path
    if not path.is_dir():
        return Complaint("path", "no_such_folder", f"there is no folder {path}")
    if any(_same(path, other) for other in others):
        return Complaint("path", "watched_already", f"{path} is watched already")
    try:
        sources.make(settings).try_out()
    except OSError as error:
        what = error.strerror or str(error)
        return Complaint("path", "folder_unusable", f"nothing can be moved inside {path}: {what}", {"problem": what})
    return None


def _camera(settings: CameraSource) -> Complaint | None:
    if importlib.util.find_spec("cv2") is None:
        return Complaint("kind", "camera_not_installed", "a camera needs OpenCV: pip install 'blemish[camera]'")
    return None


def _table(settings: CsvSink, others: list[Path]) -> Complaint | None:
    if any(_same(settings.path, other) for other in others):
        return Complaint("path", "written_already", f"{settings.path} is written by another sink")
    try:
        delivery(settings).try_out()
    except (UnreachableError, RefusedError) as error:
        return Complaint("path", "file_unusable", str(error), {"problem": str(error)})
    return None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
