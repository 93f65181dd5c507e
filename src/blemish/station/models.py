"""The models of a station: taken in from a folder, numbered, activated, rolled back.

A model file NAME.blemish in the folder is checked, copied to where no one overwrites it, and becomes the next version
of NAME. The first version of a name is active at once; a later one is a candidate until a person activates it. A file
that is broken changes nothing, and is reported until it is replaced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from blemish.decisions import Calibration
from blemish.errors import ModelFileError
from blemish.modelfile import SUFFIX, ModelFile, open_model_file
from blemish.runtime import Detector, detector_of
from blemish.station.archive import Archive
from blemish.station.durable import sync_folder
from blemish.station.errors import Code, StationError
from blemish.station.inspections import audit_entry
from blemish.station.settings import Settings
from blemish.station.store import Store
from blemish.station.tables import Activation, ModelVersion, Rates, now
from blemish.station.worker import Judged, RetiredError, Version, Worker

log = logging.getLogger(__name__)

NAME = re.compile(r"[\w][\w.\-]{0,99}")
SPARE_WORKERS = 2
"""Workers that are kept running beside those of the active versions."""


@dataclass(frozen=True)
class ModelState:
    """A model as it stands.

    active : None if none could be loaded. problem : why the file in the folder, or the active version, cannot be used.
    """

    name: str
    versions: tuple[ModelVersion, ...]
    active: int | None
    ready: bool
    waiting: int
    problem: str | None


class Models:
    """The models of one station, ready to judge.

    Reading and judging go on while versions are loaded; only those who change something wait for each other.
    """

    def __init__(self, settings: Settings, store: Store, archive: Archive) -> None:
        self.settings = settings
        self.store = store
        self.archive = archive
        self._changing = threading.Lock()
        self._guard = threading.Lock()
        self._versions: dict[str, dict[int, ModelVersion]] = {}
        self._active: dict[str, int] = {}
        self._rates: dict[tuple[str, int], tuple[float, float]] = {}
        self._workers: OrderedDict[tuple[str, int], Worker] = OrderedDict()
        self._retired: list[Worker] = []
        self._seen: dict[Path, tuple[int, int]] = {}
        self._problems: dict[str, str] = {}
        self._stopped = False

    def start(self) -> None:
        """Load what was active when the station last ran, then look at the folder.

        Raises
        ------
        StationError
            database_unavailable.
        """
        with self._changing:
            self._refresh()
            with self.store.read() as session:
                newest = select(func.max(Activation.id)).where(Activation.station == self.settings.name)
                rows = session.scalars(
                    select(Activation).where(Activation.id.in_(newest.group_by(Activation.model)))
                ).all()
                newest = select(func.max(Rates.id)).where(Rates.station == self.settings.name)
                rates = session.scalars(
                    select(Rates).where(Rates.id.in_(newest.group_by(Rates.model, Rates.version)))
                ).all()
            self._active = {row.model: row.version for row in rows}
            self._rates = {(row.model, row.version): (row.false_alarm_rate, row.review_rate) for row in rates}
            for name, number in self._active.items():
                try:
                    self._worker(name, number)
                except StationError as error:
                    self._problems[name] = str(error)
                    log.error("Model %s is not ready: %s", name, error)
        self.scan()

    def stop(self, seconds: float) -> None:
        """Answer what waits, then end, but no later than in so many seconds."""
        with self._guard:
            self._stopped = True
            workers = [*self._workers.values(), *self._retired]
            self._workers.clear()
        for worker in workers:
            worker.retire()
        for worker in workers:
            worker.join(seconds / len(workers))

    # The folder

    def scan(self) -> None:
        """Take in model files that are new in the folder, or have changed.

        Raises
        ------
        StationError
            database_unavailable; what it left undone, the next scan does.
        """
        with self._changing:
            self._retired = [worker for worker in self._retired if not worker.idle]
            for path in sorted(self.settings.models.glob(f"*{SUFFIX}")):
                try:
                    status = path.stat()
                except OSError:
                    continue
                stamp = (status.st_mtime_ns, status.st_size)
                if self._seen.get(path) == stamp:
                    continue
                self._take_in(path)
                self._seen[path] = stamp

    def _take_in(self, path: Path) -> None:
        name = path.name.removesuffix(SUFFIX)
        try:
            if not NAME.fullmatch(name):
                raise ModelFileError(
                    "its name cannot be a model's", where=path, todo="Use letters, digits, and _ . - between them"
                )
            file = self._copied(path)
            # The copy is what will run, so it must run before it is registered.
            detector = self._detector(file.sha256)
            version = self._registered(name, file, "station", {})
        except (ModelFileError, OSError) as error:
            self._problems[name] = str(error)
            log.error("Model %s was not taken in: %s", name, error)
            return
        self._problems.pop(name, None)
        if self._active.get(name) in (None, version.version):
            self._start_worker(version, detector)
        if name not in self._active:
            self._activate(name, version.version, "station", "activate")

    def add_candidate(self, name: str, path: Path, by: str, detail: dict[str, Any]) -> ModelVersion:
        """Make a model file the next version of a name; also a first one judges nothing until it is activated.

        Parameters
        ----------
        detail : what the audit log says of where it comes from.

        Raises
        ------
        ModelFileError, OSError
            The file cannot be used.
        StationError
            database_unavailable.
        """
        with self._changing:
            file = self._copied(path)
            self._detector(file.sha256)
            return self._registered(name, file, by, detail)

    def _copied(self, path: Path) -> ModelFile:
        """Copy a model file to where it stays, unless it is there already, and open the copy."""
        with path.open("rb") as source:
            known = self.path(hashlib.file_digest(source, "sha256").hexdigest())
        if known.exists():
            with suppress(ModelFileError):
                return open_model_file(known)
        partial = self.archive.models / f"{os.getpid()}.partial"
        try:
            shutil.copyfile(path, partial)
            try:
                file = open_model_file(partial)
            except ModelFileError as error:
                # It is the file in the folder that a person can do something about.
                raise ModelFileError(error.what, where=path, todo=error.todo) from error
            with partial.open("rb+") as copy:
                os.fsync(copy.fileno())
            partial.replace(self.path(file.sha256))
            sync_folder(self.archive.models)
        finally:
            partial.unlink(missing_ok=True)
        return file

    def _registered(self, name: str, file: ModelFile, by: str, origin: dict[str, Any]) -> ModelVersion:
        known = next((v for v in self._versions.get(name, {}).values() if v.sha256 == file.sha256), None)
        while known is None:
            # Another station may number a version at the same moment; then this one looks again.
            with suppress(IntegrityError), self.store.write() as session:
                of_name = select(ModelVersion).where(ModelVersion.model == name)
                known = session.scalar(of_name.where(ModelVersion.sha256 == file.sha256))
                if known is None:
                    last = session.scalar(select(func.max(ModelVersion.version)).where(ModelVersion.model == name))
                    added = ModelVersion(
                        model=name,
                        version=(last or 0) + 1,
                        sha256=file.sha256,
                        manifest=file.manifest.model_dump(mode="json"),
                        added=now(),
                    )
                    session.add(added)
                    detail = {"version": added.version, "sha256": added.sha256, **origin}
                    session.add(audit_entry(self.settings.name, by, "register", f"model {name}", detail))
                    session.flush()
                    known = added
            self._refresh()
        return known

    def _refresh(self) -> None:
        with self.store.read() as session:
            rows = session.scalars(select(ModelVersion).order_by(ModelVersion.model, ModelVersion.version)).all()
        versions: dict[str, dict[int, ModelVersion]] = {}
        for row in rows:
            if self.path(row.sha256).exists():
                versions.setdefault(row.model, {})[row.version] = row
        self._versions = versions

    def path(self, sha256: str) -> Path:
        """Where the model file with this sha256 is, or would be."""
        return self.archive.models / f"{sha256}{SUFFIX}"

    # Activating

    def activate(self, name: str, number: int, by: str) -> None:
        """Judge with this version from now on; it must load first.

        Raises
        ------
        StationError
            no_such_model, no_such_version, model_broken, database_unavailable. The active version stays active.
        """
        with self._changing:
            self.version(name, number)
            self._activate(name, number, by, "activate")

    def roll_back(self, name: str, by: str) -> int:
        """Judge again with the version that was active before the present one.

        Rolling back twice is where it was before. Returns the version that is now active.

        Raises
        ------
        StationError
            As `activate`; nothing_to_roll_back_to if no other version was ever active.
        """
        with self._changing:
            self._known(name)
            before = select(Activation.version).where(
                Activation.station == self.settings.name,
                Activation.model == name,
                Activation.version != self._active.get(name),
            )
            with self.store.read() as session:
                number = session.scalar(before.order_by(Activation.id.desc()).limit(1))
            if number is None:
                raise StationError(
                    Code.NOTHING_TO_ROLL_BACK_TO, f"no other version of {name} was ever active", todo="Activate one"
                )
            self._activate(name, number, by, "roll back")
            return number

    def _activate(self, name: str, number: int, by: str, action: str) -> None:
        try:
            self._worker(name, number)
        except StationError as error:
            if error.code is Code.MODEL_NOT_READY:
                raise StationError(Code.MODEL_BROKEN, error.what, where=error.where, todo=error.todo) from error
            raise
        with self.store.write() as session:
            station = self.settings.name
            session.add(Activation(time=now(), station=station, model=name, version=number, by=by))
            detail = {"version": number, "before": self._active.get(name)}
            session.add(audit_entry(station, by, action, f"model {name}", detail))
        self._active[name] = number
        self._problems.pop(name, None)
        self._retire_spare()

    # Rates

    def calibration(self, version: ModelVersion) -> Calibration:
        """How a version judges here: its calibration, with the rates that were chosen for it at this station."""
        of_file = Calibration.model_validate(version.manifest["calibration"])
        rates = self._rates.get((version.model, version.version))
        return of_file if rates is None else of_file.with_rates(*rates)

    def choose_rates(self, name: str, number: int, false_alarm_rate: float, review_rate: float, by: str) -> None:
        """Judge with these rates from now on; images that already wait are judged by those they came under.

        Raises
        ------
        UsageError
            Rates that the calibration images do not reach, or that contradict each other.
        StationError
            no_such_model, no_such_version, database_unavailable.
        """
        with self._changing:
            version = self.version(name, number)
            before = self.calibration(version)
            after = before.with_rates(false_alarm_rate, review_rate)
            station = self.settings.name
            with self.store.write() as session:
                chosen = {"false_alarm_rate": after.false_alarm_rate, "review_rate": after.review_rate}
                session.add(Rates(time=now(), station=station, model=name, version=number, by=by, **chosen))
                were = {"false_alarm_rate": before.false_alarm_rate, "review_rate": before.review_rate}
                detail = {"version": number, **chosen, "before": were}
                session.add(audit_entry(station, by, "choose rates", f"model {name}", detail))
            self._rates[name, number] = (after.false_alarm_rate, after.review_rate)
            with self._guard:
                running = self._workers.get((name, number))
                if running is not None and not self._stopped:
                    self._workers[name, number] = self._rated(version, running.version, running.detector)
                    running.retire()
                    self._retired.append(running)

    def _rated(self, row: ModelVersion, version: Version, detector: Detector) -> Worker:
        """A worker on a detector's graph, with the rates that hold now."""
        rated = Detector(detector.graph, detector.contract, self.calibration(row), detector.manifest)
        return Worker(version, rated, self.settings.queue)

    # Judging

    def submit(self, name: str, number: int | None, images: list[bytes]) -> list[Future[Judged]]:
        """Queue images for a model, by its active version or the one named; all of them or none.

        Raises
        ------
        StationError
            no_such_model, no_such_version, model_not_ready, queue_full, too_many_images, draining.
        """
        while True:
            worker = self._worker(name, self.version(name, number).version)
            # A worker may retire between being found and being asked.
            with suppress(RetiredError):
                return worker.submit(images)

    def version(self, name: str, number: int | None) -> ModelVersion:
        """A version of a model; None is the active one.

        Raises
        ------
        StationError
            no_such_model, no_such_version, model_not_ready.
        """
        versions = self._known(name)
        wanted = self._active.get(name) if number is None else number
        if wanted is None:
            raise StationError(
                Code.MODEL_NOT_READY,
                f"no version of model {name} is active",
                todo=self._problems.get(name, "Activate one, or name it"),
            )
        if wanted not in versions:
            raise StationError(
                Code.NO_SUCH_VERSION,
                f"model {name} has no version {wanted} here",
                todo=f"Name one of {', '.join(map(str, versions))}",
            )
        return versions[wanted]

    def only(self) -> str:
        """The name of the model, where only one is at work.

        Raises
        ------
        StationError
            model_needed, no_such_model.
        """
        # One that was trained and never activated does not make the one at work ambiguous.
        names = sorted(self._versions.keys() & self._active.keys() or self._versions)
        if len(names) == 1:
            return names[0]
        if not names:
            raise StationError(
                Code.NO_SUCH_MODEL, "the station has no model", todo=f"Put a model file into {self.settings.models}"
            )
        raise StationError(Code.MODEL_NEEDED, "there are several models", todo=f"Name one of {', '.join(names)}")

    def ready(self, name: str, number: int | None) -> bool:
        """Whether a version (None: the active one) is loaded, or can be.

        Raises
        ------
        StationError
            no_such_model, no_such_version.
        """
        try:
            version = self.version(name, number)
        except StationError as error:
            if error.code is Code.MODEL_NOT_READY:
                return False
            raise
        return not self._stopped and ((name, version.version) in self._workers or number is not None)

    def states(self) -> list[ModelState]:
        """Every model, and every file in the folder that could not become one, by name."""
        names = sorted({*self._versions, *self._problems, *self._active})
        return [self._state(name) for name in names]

    def state(self, name: str) -> ModelState:
        """One model.

        Raises
        ------
        StationError
            no_such_model.
        """
        if name not in self._problems:
            self._known(name)
        return self._state(name)

    @property
    def idle(self) -> bool:
        """Whether no image waits or is being judged."""
        with self._guard:
            workers = [*self._workers.values(), *self._retired]
        return all(worker.idle for worker in workers)

    def _state(self, name: str) -> ModelState:
        active = self._active.get(name)
        with self._guard:
            worker = None if active is None else self._workers.get((name, active))
        return ModelState(
            name=name,
            versions=tuple(self._versions.get(name, {}).values()),
            active=active,
            ready=worker is not None,
            waiting=0 if worker is None else worker.waiting,
            problem=self._problems.get(name),
        )

    def _known(self, name: str) -> dict[int, ModelVersion]:
        if name not in self._versions:
            names = ", ".join(sorted(self._versions))
            todo = f"There is {names}" if names else "Put a model file into the models folder, or train one"
            raise StationError(Code.NO_SUCH_MODEL, f"there is no model {name}", todo=todo)
        return self._versions[name]

    # Workers

    def _worker(self, name: str, number: int) -> Worker:
        """The worker of a version, started if it does not run."""
        with self._guard:
            running = self._workers.get((name, number))
            if running is not None:
                self._workers.move_to_end((name, number))
                return running
        version = self.version(name, number)
        try:
            detector = self._detector(version.sha256)
        except ModelFileError as error:
            raise StationError(
                Code.MODEL_NOT_READY,
                f"version {number} of {name} cannot be loaded: {error.what}",
                todo="Activate another version, or put the model file into the folder again",
            ) from error
        worker = self._start_worker(version, detector)
        self._retire_spare()
        return worker

    def _start_worker(self, version: ModelVersion, detector: Detector) -> Worker:
        key = (version.model, version.version)
        with self._guard:
            if self._stopped:
                raise StationError(Code.DRAINING, "the station is shutting down", retry_after=5)
            if key not in self._workers:
                made = Version(version.model, version.version, version.sha256)
                self._workers[key] = self._rated(version, made, detector)
            return self._workers[key]

    def _retire_spare(self) -> None:
        """Let the workers end that were not asked for the longest time, but for the active ones and a few."""
        with self._guard:
            active = set(self._active.items())
            spare = [key for key in self._workers if key not in active]
            for key in spare[: max(0, len(spare) - SPARE_WORKERS)]:
                worker = self._workers.pop(key)
                worker.retire()
                self._retired.append(worker)

    def _detector(self, sha256: str) -> Detector:
        file = open_model_file(self.path(sha256))
        if file.sha256 != sha256:
            raise ModelFileError("it is not what was taken in: the sha256 differs", where=file.path)
        models = {path.name.removesuffix(SUFFIX) for path in self.settings.models.glob(f"*{SUFFIX}")} | {*self._active}
        return detector_of(file, threads=self.settings.threads_for(len(models)), runtime=self.settings.runtime)
