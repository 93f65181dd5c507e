"""Stored images scored by a version other than the one that judged them, without disturbing those that come in."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blemish.errors import ModelFileError
from blemish.modelfile import open_model_file
from blemish.station.archive import Archive
from blemish.station.errors import Code, StationError, storage_failed
from blemish.station.models import Models
from blemish.station.processes import end, start
from blemish.station.tables import Inspection, ModelVersion

REMEMBERED = 20_000
"""Scores kept in memory: what was looked at once is soon looked at again."""


@dataclass(frozen=True)
class Scored:
    """What a graph makes of an image. score, largest : the score and the map's largest value; None if rejected."""

    score: float | None
    largest: float | None


REJECTED = Scored(None, None)


class Rescoring:
    """Scores stored images in a process of its own, one request at a time."""

    def __init__(self, archive: Archive, models: Models) -> None:
        self.archive = archive
        self.models = models
        self._one = threading.Lock()
        self._guard = threading.Lock()
        self._running: subprocess.Popen[str] | None = None
        self._stopped = False
        self._graphs: dict[str, str] = {}
        self._known: OrderedDict[tuple[str, str], Scored] = OrderedDict()

    def stop(self) -> None:
        """End what runs."""
        with self._guard:
            self._stopped = True
            running = self._running
        if running is not None:
            end(running)

    def score(
        self, version: ModelVersion, inspections: Sequence[Inspection], *, maxima: bool = False
    ) -> dict[int, Scored]:
        """What the graph of a version makes of inspected images, by the id of the inspection.

        An image whose picture is not here any more is left out, unless its row says it: that of a version with the same
        graph, as recalibrated ones have.

        Parameters
        ----------
        maxima : whether the maps' largest values are needed, which no row holds.

        Raises
        ------
        StationError
            busy: another request is at it; no_such_version, model_broken, draining, storage_failed.
        """
        graph = self._graph(version.sha256)
        if graph is None:
            raise StationError(Code.MODEL_BROKEN, f"version {version.version} of {version.model} cannot be opened")
        found: dict[int, Scored] = {}
        missing: dict[str, list[int]] = {}
        for row in inspections:
            known = self._known.get((graph, row.image_sha256))
            if known is not None:
                found[row.id] = known
            elif not maxima and self._graph(row.model_sha256) == graph:
                found[row.id] = Scored(row.score, None)
            elif row.pictures_removed is None:
                missing.setdefault(row.image_sha256, []).append(row.id)
        if missing:
            for image_sha256, scored in self._scored(version, list(missing)).items():
                self._known[graph, image_sha256] = scored
                found |= dict.fromkeys(missing[image_sha256], scored)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _graph(self, model_sha256: str) -> str | None:
        """What decides the scores of a model file: its graph, and which images it takes; None if it is not here."""
        if model_sha256 not in self._graphs:
            try:
                file = open_model_file(self.models.path(model_sha256))
            except ModelFileError:
                return None
            digest = hashlib.sha256(file.graph + file.manifest.images.model_dump_json().encode())
            self._graphs[model_sha256] = digest.hexdigest()
        return self._graphs[model_sha256]

    def _scored(self, version: ModelVersion, images: list[str]) -> dict[str, Scored]:
        """Those of the images whose pictures are here, by their sha256."""
        if not self._one.acquire(blocking=False):
            raise StationError(
                Code.BUSY, "stored images are being scored for someone else", todo="Try again later", retry_after=10
            )
        found: dict[str, Scored] = {}
        try:
            with self.archive.scratch() as folder:
                for image in images:
                    # One at a time: what is fetched from afar need not all fit on this disk.
                    path = self.archive.copy("images", image, folder)
                    if path is not None:
                        found[image] = self._ask(self._started(version), version, path)
                        path.unlink()
        except OSError as error:
            raise storage_failed(error) from error
        finally:
            with self._guard:
                running, self._running = self._running, None
            if running is not None:
                end(running)
                for pipe in (running.stdin, running.stdout):
                    with suppress(OSError):
                        if pipe is not None:
                            pipe.close()
            self._one.release()
        return found

    def _started(self, version: ModelVersion) -> subprocess.Popen[str]:
        """The process that scores by this version, from the first image on."""
        with self._guard:
            if self._stopped:
                raise StationError(Code.DRAINING, "the station is shutting down", retry_after=5)
            if self._running is None:
                self._running = start("station-score", 1)
                _tell(self._running, {"model": str(self.models.path(version.sha256)), "threads": 1})
            return self._running

    def _ask(self, process: subprocess.Popen[str], version: ModelVersion, image: Path) -> Scored:
        _tell(process, str(image))
        said = ""
        for line in process.stdout or ():
            if line.startswith('{"score"'):
                return _checked(**json.loads(line))
            said += line
        if self._stopped:
            raise StationError(Code.DRAINING, "the station is shutting down", retry_after=5)
        name = f"version {version.version} of {version.model}"
        raise StationError(Code.MODEL_BROKEN, f"{name} could not score images: {said[-500:].strip()}")


def _tell(process: subprocess.Popen[str], document: object) -> None:
    """Tell a process something; why it does not listen any more, if so, stands in what it says."""
    if process.stdin is None:
        raise AssertionError("it was started with pipes")
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(document) + "\n")
        process.stdin.flush()


def _checked(score: float | None, largest: float | None) -> Scored:
    """A score that is no number rejects an image, as it does when it is inspected."""
    if score is None or largest is None or not (math.isfinite(score) and math.isfinite(largest)):
        return REJECTED
    return Scored(score, largest)
