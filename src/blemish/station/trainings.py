"""Trainings: `blemish train` in a process of its own, one at a time; what comes out is a candidate.

What a training keeps lies in DATA/trainings/NUMBER: its log, and until it is over, its state and the images it took
from the station. A training that broke off goes on from its state when it is continued.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import select, update

from blemish.errors import ModelFileError
from blemish.modelfile import SUFFIX
from blemish.station.archive import Archive
from blemish.station.errors import Code, Complaint, FieldError, StationError, storage_failed
from blemish.station.inspections import Filter, Inspections, audit_entry
from blemish.station.models import NAME, Models
from blemish.station.processes import end, start
from blemish.station.settings import Settings
from blemish.station.store import Store
from blemish.station.tables import Training, now

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Preset = Literal["auto", "fast", "paper"]

PACKAGES: Final = ("torch", "torchvision", "timm", "lightning_fabric", "safetensors", "onnx", "onnxscript")
"""What training needs beside the station, by the names they are imported by."""
INSTALL = "Run: pip install 'blemish[train]'"
MOST_IMAGES = 5000
"""Of those that people found good, the newest are taken."""
PHASES: Final = {
    "reading images": "reading",
    "looking for a method": "choosing",
    "looking for suspects": "suspects",
    "exporting": "exporting",
    "calibrating": "calibrating",
}
"""What `blemish train` is at, by what it calls it; all else are stages of the method."""
CHOSEN: Final = re.compile(r"Method ([\w+.\-]+): (.+)\.")
"""How `blemish train` says which method the images asked for, and why."""
MOST_FOLDERS = 500
MOST_LINES = 2000
LOOK_SECONDS = 5.0
WRITE_SECONDS = 2.0


@dataclass(frozen=True)
class Wanted:
    """A training as it is asked for.

    model : whose next version it becomes. folder : of images; None takes those of `model` that people found good.
    since : no older ones of these. false_alarm_rate : None is what `blemish train` takes by itself.
    """

    model: str
    folder: str | None
    method: str
    preset: Preset
    false_alarm_rate: float | None
    since: datetime | None = None


@dataclass(frozen=True)
class MethodName:
    """A method that can be chosen, by name and in words."""

    name: str
    title: str


AUTO: Final = MethodName("auto", "The method that the images ask for")


@dataclass(frozen=True)
class Line:
    """A line of a training's log. kind : say, warn or print."""

    time: str
    kind: str
    text: str


class Trainings:
    """The trainings of one station."""

    def __init__(
        self, settings: Settings, store: Store, archive: Archive, models: Models, inspections: Inspections
    ) -> None:
        self.settings = settings
        self.store = store
        self.archive = archive
        self.models = models
        self.inspections = inspections
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._current: tuple[int, subprocess.Popen[str] | None] | None = None
        self._asking: threading.Thread | None = None
        self._methods: list[MethodName] | None = None
        self._thread = threading.Thread(target=self._work, name="trainings", daemon=True)

    def recover(self) -> None:
        """Say of what ran when the station ended that it was interrupted.

        Raises
        ------
        StationError
            database_unavailable.
        """
        with self.store.write() as session:
            session.execute(self._change("running").values(state="interrupted", ended=now()))

    def start(self) -> None:
        """Begin to work on what is queued."""
        self._thread.start()

    def stop(self) -> None:
        """End what runs; it can be continued later."""
        with self._guard:
            self._stopped.set()
            running = self._current
        self._news.set()
        if running is not None and running[1] is not None:
            end(running[1])
        if self._thread.is_alive():
            self._thread.join(10)

    # What can be asked for

    def unavailable(self) -> str | None:
        """Why nothing can be trained here; None if it can."""
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        return f"training needs {', '.join(missing)}, which this installation lacks" if missing else None

    def _need_packages(self) -> None:
        if (missing := self.unavailable()) is not None:
            raise StationError(Code.TRAINING_NOT_INSTALLED, missing, todo=INSTALL)

    def methods(self) -> list[MethodName] | None:
        """The methods there are; None while that is being found out, in a process of its own, which takes seconds."""
        with self._guard:
            if self._methods is None and self._asking is None and self.unavailable() is None:
                self._asking = threading.Thread(target=self._ask, name="methods", daemon=True)
                self._asking.start()
            return self._methods

    def _ask(self) -> None:
        try:
            process = start("methods", 1, "--json")
            said, _ = process.communicate()
            # What libraries print comes before the document.
            rows = json.loads(said[said.index("[\n") :])
            self._methods = [AUTO, *(MethodName(row["name"], row["title"]) for row in rows)]
        except (OSError, ValueError) as error:
            log.error("The methods cannot be listed: %s", error)
        with self._guard:
            # Where it failed, the next one who asks tries it again.
            self._asking = None

    def folders(self) -> list[str]:
        """The folders that may be trained on: those that were allowed, and what lies directly in them."""
        found: list[str] = []
        for root in self.settings.training_folders:
            with suppress(OSError):
                inside = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
                found += [str(root), *sorted(map(str, inside))]
        return found[:MOST_FOLDERS]

    def add(self, wanted: Wanted, by: str) -> Training:
        """Queue a training.

        Raises
        ------
        UsageError
            A name that cannot be a model's.
        StationError
            training_not_installed; folder_not_allowed, no_such_folder; no_such_model, not_enough_images; draining,
            database_unavailable. A method that there is not is found out by the training, which then fails.
        """
        if self._stopped.is_set():
            raise StationError(Code.DRAINING, "the station is shutting down", retry_after=5)
        if not NAME.fullmatch(wanted.model):
            raise FieldError(
                Complaint("model", "model_signs", f"{wanted.model!r} cannot be a model's name"),
                todo="Use letters, digits, and _ . - between them",
            )
        self._need_packages()
        options: dict[str, Any] = {"method": wanted.method, "preset": wanted.preset}
        if wanted.false_alarm_rate is not None:
            options["false_alarm_rate"] = wanted.false_alarm_rate
        folder = None
        if wanted.folder is not None:
            folder = str(confined(wanted.folder, self.settings.training_folders))
        else:
            self.models.state(wanted.model)
            options["images"] = self._good_images(wanted.model, wanted.since)
        with self.store.write() as session:
            training = Training(
                added=now(),
                station=self.settings.name,
                by=by,
                model=wanted.model,
                source="reviewed" if folder is None else "folder",
                folder=folder,
                options=options,
                state="queued",
                stage="",
                progress=0.0,
                problem="",
            )
            session.add(training)
            session.flush()
            detail = {"model": wanted.model, "folder": folder, **options}
            detail["images"] = len(options.get("images", ()))
            session.add(audit_entry(self.settings.name, by, "train", f"training {training.id}", detail))
        self._news.set()
        return training

    def _good_images(self, model: str, since: datetime | None) -> list[str]:
        """The newest images of a model that people found good, by sha256; but none of those that are to calibrate."""
        query = Filter(model=model, station=self.settings.name, reviewed=True, label="normal", since=since)
        found: dict[str, None] = {}
        for inspection, _ in self.inspections.everything(query):
            if inspection.pictures_removed is None and not self.inspections.audited(inspection.image_sha256):
                found[inspection.image_sha256] = None
            if len(found) == MOST_IMAGES:
                break
        if len(found) < 2:
            raise StationError(
                Code.NOT_ENOUGH_IMAGES,
                f"people found {len(found)} images of {model} good that may be trained on",
                todo="Review more images; those of the audit sample are kept for calibrating",
            )
        return sorted(found)

    # Looking

    def page(self, before: int | None, limit: int) -> list[Training]:
        """The newest trainings whose id is below `before`, newest first."""
        statement = select(Training).where(Training.station == self.settings.name).order_by(Training.id.desc())
        if before is not None:
            statement = statement.where(Training.id < before)
        with self.store.read() as session:
            return list(session.scalars(statement.limit(limit)))

    def get(self, number: int) -> Training:
        """One training.

        Raises
        ------
        StationError
            no_such_training.
        """
        statement = select(Training).where(Training.id == number, Training.station == self.settings.name)
        with self.store.read() as session:
            found = session.scalar(statement)
        if found is None:
            raise StationError(Code.NO_SUCH_TRAINING, f"there is no training {number} at this station")
        return found

    def log(self, number: int) -> list[Line]:
        """The last lines of a training's log.

        Raises
        ------
        StationError
            no_such_training, storage_failed.
        """
        self.get(number)
        try:
            lines = (self._folder(number) / "log.jsonl").read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_failed(error) from error
        found = []
        for line in lines[-MOST_LINES:]:
            # A line that a power cut left half written.
            with suppress(ValueError, TypeError):
                found.append(Line(**json.loads(line)))
        return found

    # Changing

    def cancel(self, number: int, by: str) -> Training:
        """End a training for good; what it has learned is thrown away.

        Raises
        ------
        StationError
            no_such_training, wrong_state if it is over.
        """
        with self._guard:
            self._set(number, ("queued", "running", "interrupted"), "cancelled", by, "cancel training")
            running = self._current
            if running == (number, None):
                self._current = None
        if running is not None and running[0] == number:
            # The thread that is at work for it clears away what it leaves.
            if running[1] is not None:
                running[1].terminate()
        else:
            self._clear(number)
        return self.get(number)

    def resume(self, number: int, by: str) -> Training:
        """Queue a training again that was interrupted or failed; it goes on where its state was last saved.

        Raises
        ------
        StationError
            no_such_training; wrong_state if it was neither; training_not_installed; draining.
        """
        if self._stopped.is_set():
            raise StationError(Code.DRAINING, "the station is shutting down", retry_after=5)
        self._need_packages()
        self._set(number, ("interrupted", "failed"), "queued", by, "continue training")
        self._news.set()
        return self.get(number)

    def _set(self, number: int, of: tuple[State, ...], to: State, by: str, action: str) -> None:
        present = self.get(number).state
        ended = None if to == "queued" else now()
        with self.store.write() as session:
            change = self._change(*of).where(Training.id == number)
            if session.scalar(change.values(state=to, ended=ended, problem="")) is None:
                raise StationError(
                    Code.WRONG_STATE, f"training {number} is {present}, and not {' or '.join(of)}", todo="Start another"
                )
            session.add(audit_entry(self.settings.name, by, action, f"training {number}", {"before": present}))

    def _change(self, *of: State) -> Any:
        own = update(Training).where(Training.station == self.settings.name, Training.state.in_(of))
        return own.returning(Training.id)

    # Working

    def _work(self) -> None:
        while not self._stopped.is_set():
            training = None
            try:
                training = self._next()
                if training is not None:
                    self._run(training)
                    continue
            except StationError as error:
                log.warning("Trainings: %s", error)
            except Exception:  # A thread that ends would train nothing any more.
                log.exception("Trainings failed")
                if training is not None:
                    self._over(training.id, "failed", problem="the station failed at it; its own log says why")
            self._news.wait(LOOK_SECONDS)
            self._news.clear()

    def _next(self) -> Training | None:
        queued = select(Training).where(Training.station == self.settings.name, Training.state == "queued")
        with self.store.read() as session:
            return session.scalar(queued.order_by(Training.id).limit(1))

    def _run(self, training: Training) -> None:
        number = training.id
        folder = self._folder(number)
        result = folder / f"{training.model}{SUFFIX}"
        with self._guard:
            if self._stopped.is_set():
                return
            with self.store.write() as session:
                change = self._change("queued").where(Training.id == number)
                started = {"state": "running", "started": now(), "progress": 0.0, "stage": "", "note": None}
                if session.scalar(change.values(started)) is None:
                    return
            self._current = (number, None)
        process, problem = None, ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            source = self._images(training) if training.folder is None else Path(training.folder)
            with self._guard:
                if self._wanted(number) and not result.exists():
                    process = start("station-train", self.settings.threads_for_training)
                self._current = None if process is None else (number, process)
        except (OSError, StationError) as error:
            with self._guard:
                self._current = None
            refused = error if isinstance(error, StationError) else storage_failed(error)
            self._over(number, "failed", problem=str(refused))
        if process is not None:
            options = {key: value for key, value in training.options.items() if key != "images"}
            order = {"source": str(source), "out": str(result), **options}
            try:
                problem = self._follow(number, process, order)
            finally:
                end(process)
                for pipe in (process.stdin, process.stdout):
                    # What it was not there to read any more is lost.
                    with suppress(OSError):
                        if pipe is not None:
                            pipe.close()
                with self._guard:
                    self._current = None
        if self._state(number) == "running":
            if result.exists() and not problem:
                self._take(training, result)
            elif self._stopped.is_set():
                self._over(number, "interrupted")
            else:
                status = None if process is None else process.returncode
                self._over(number, "failed", problem=problem or f"it ended with status {status}; its log may say why")
        if self._state(number) in ("done", "cancelled"):
            self._clear(number)

    def _follow(self, number: int, process: subprocess.Popen[str], order: dict[str, Any]) -> str:
        """Tell a process what to train, and note what it says until it ends; why it failed, if it says so."""
        if process.stdin is None or process.stdout is None:
            raise AssertionError("it was started with pipes")
        problem, stage, next_write = "", None, 0.0
        # What breaks the pipe is its early end, and of that the log tells.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            event = _event(line)
            if event["kind"] == "progress":
                if event["stage"] != stage or time.monotonic() >= next_write:
                    stage, next_write = event["stage"], time.monotonic() + WRITE_SECONDS
                    self._note_progress(number, {"stage": stage, "progress": event["done"], "note": event["note"]})
                continue
            if order["method"] == AUTO.name and (chosen := CHOSEN.fullmatch(event["text"])):
                self._note_progress(number, {"chosen": chosen[1], "why": chosen[2]})
            if event["kind"] == "failed":
                problem = event["text"]
            self._note(number, event["kind"], event["text"])
        process.wait()
        return problem

    def _note_progress(self, number: int, found: dict[str, Any]) -> None:
        # The next one will be written, or the one after it.
        with suppress(StationError), self.store.write() as session:
            change = self._change("running").where(Training.id == number)
            session.execute(change.values(**found))

    def _note(self, number: int, kind: str, text: str) -> None:
        line = json.dumps({"time": now().isoformat(), "kind": kind, "text": text})
        with suppress(OSError), (self._folder(number) / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _take(self, training: Training, result: Path) -> None:
        """Make the result a candidate."""
        while True:
            try:
                version = self.models.add_candidate(training.model, result, training.by, {"training": training.id})
                break
            except (ModelFileError, OSError) as error:
                self._over(training.id, "failed", problem=f"its model file cannot be used: {error}")
                return
            except StationError:
                if self._stopped.wait(LOOK_SECONDS):
                    return
        self._over(training.id, "done", version=version.version, progress=1.0)

    def _state(self, number: int) -> str | None:
        """How a training stands. While the database is down, wait for it; None if the station stops meanwhile."""
        while True:
            try:
                return self.get(number).state
            except StationError:
                if self._stopped.wait(LOOK_SECONDS):
                    return None

    def _over(self, number: int, state: State, **values: Any) -> None:
        """Write how it ended, unless it was cancelled meanwhile. While the database is down, wait for it."""
        while True:
            try:
                with self.store.write() as session:
                    change = self._change("running").where(Training.id == number)
                    session.execute(change.values(state=state, ended=now(), **values))
                return
            except StationError:
                # The next start says that it was interrupted.
                if self._stopped.wait(LOOK_SECONDS):
                    return

    # On disk

    def _folder(self, number: int) -> Path:
        return self.archive.data / "trainings" / str(number)

    def _images(self, training: Training) -> Path:
        """A folder of the images that a training takes from the station; retention does not reach into it."""
        folder = self._folder(training.id) / "images"
        if folder.exists():
            return folder
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for sha256 in training.options["images"]:
            if not self._wanted(training.id):
                break
            self.archive.copy("images", sha256, partial)
        else:
            partial.rename(folder)
        return folder

    def _wanted(self, number: int) -> bool:
        """Whether the training whose turn it is was neither cancelled, nor stops with the station."""
        return self._current is not None and self._current[0] == number and not self._stopped.is_set()

    def _clear(self, number: int) -> None:
        """Remove all but the log."""
        folder = self._folder(number)
        for path in folder.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "log.jsonl":
                path.unlink(missing_ok=True)


def phase_of(stage: str) -> str:
    """What a training is at: starting, reading, choosing, teacher, learning, suspects, exporting, calibrating."""
    if not stage:
        return "starting"
    return "teacher" if stage.endswith(": teacher") else PHASES.get(stage, "learning")


def confined(folder: str, roots: Iterable[Path]) -> Path:
    """A folder as it is once links are followed, if that lies in one of `roots`.

    Raises
    ------
    StationError
        folder_not_allowed; no_such_folder, of which only those within are told.
    """
    allowed = tuple(roots)
    refused = StationError(
        Code.FOLDER_NOT_ALLOWED,
        f"{folder} lies in no folder that may be trained on",
        todo=f"Name one in {', '.join(map(str, allowed))}"
        if allowed
        else "None is allowed: whoever runs the station names them (training_folders)",
    )
    try:
        path = Path(folder).resolve()
        if not Path(folder).is_absolute() or not any(path.is_relative_to(root) for root in allowed):
            raise refused
        if not path.is_dir():
            raise StationError(Code.NO_SUCH_FOLDER, f"there is no folder {folder}")
    except (OSError, RuntimeError, ValueError):  # names too long, links in a circle, zero bytes
        raise refused from None
    return path


def _event(line: str) -> dict[str, Any]:
    """A line of a process as it is meant; what is no document of ours was printed by a library."""
    with suppress(ValueError):
        document = json.loads(line)
        if isinstance(document, dict) and "kind" in document:
            return document
    return {"kind": "print", "text": line.rstrip()}
