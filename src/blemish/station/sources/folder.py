"""A watched folder: every complete image file that lies in it is inspected once.

FOLDER/part.png                whoever writes it is done once it has not changed for a while
FOLDER/taken/NUMBER-part.png   taken, being inspected
FOLDER/done/NUMBER-part.png    inspected, and stored
FOLDER/refused/...             what cannot be read, is larger than a request may be, or breaks the graph

That a file was inspected is written in the transaction of its inspection, under the name that it has in `taken`. So
after kill -9 a file there is either moved on or inspected, and never both. The folder is looked at again and again
rather than watched through the operating system: that works on network shares too, and a file has to be left alone for
`settle_seconds` anyway.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from blemish.data.files import is_image_name
from blemish.errors import UsageError
from blemish.station.connections.kinds import FolderSource
from blemish.station.durable import sync_folder
from blemish.station.sources.base import Backoff, Judge, Progress, StoppedError, patiently
from blemish.station.store import Store
from blemish.station.tables import TakenFile

log = logging.getLogger(__name__)

LONGEST_LOOK = 0.5
"""Seconds between two looks at the folder, at most."""
OWN: Final = re.compile(r"\d{20}-")
"""How the names of files begin that were taken here."""


class Folder:
    """Watches one folder, once it is there and things can be moved in it."""

    def __init__(self, settings: FolderSource, judge: Judge, store: Store, station: str, max_bytes: int) -> None:
        self.settings = settings
        self.progress = Progress({"inspected": 0, "refused": 0})
        self._judge = judge
        self._store = store
        self._station = station
        self._max_bytes = max_bytes
        self._taken, self._done, self._refused = (settings.path / name for name in ("taken", "done", "refused"))
        self._seen: dict[str, tuple[tuple[int, int, int], float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source {settings.name}", daemon=True)
        self.busy = False
        self._ready = False

    def prepare(self) -> None:
        """See that files can be moved in the folder.

        Raises
        ------
        UsageError
            The folder is not there, or nothing can be moved in it.
        """
        key = f"sources.{self.settings.name}.path"
        if not self.settings.path.is_dir():
            raise UsageError(f"{self.settings.path} is no folder", where=key, todo="Make it, or name another")
        try:
            for folder in (self._taken, self._done, self._refused):
                folder.mkdir(exist_ok=True)
                (folder / ".blemish").touch()
                (folder / ".blemish").unlink()
        except OSError as error:
            raise UsageError(
                f"nothing can be moved inside {self.settings.path}: {error.strerror}",
                where=key,
                todo="Let the station write there: inspected files move to the folder done inside it",
            ) from error
        self._ready = True

    def try_out(self) -> dict[str, int]:
        """Whether the folder can be watched, and how many images lie in it; nothing is changed.

        Raises
        ------
        OSError
        """
        images = sum(is_image_name(path) and path.is_file() for path in self.settings.path.iterdir())
        with tempfile.TemporaryFile(dir=self.settings.path):
            return {"images": images}

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no other file."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            try:
                if not self._ready:
                    self.prepare()
                self._finish_what_was_taken()
                for path in self._complete():
                    self._inspect(self._take(path))
                self.progress.connected = True
                self.progress.problem = None
                backoff.reset()
                self._stop.wait(min(LONGEST_LOOK, self.settings.settle_seconds / 2))
            except StoppedError:
                return
            except Exception as error:  # The share is away, the database is: whatever it is, the thread lives on.
                self.progress.connected = not isinstance(error, OSError | UsageError)
                # Once it is back, it may lack the folders inside it.
                self._ready = self._ready and self.progress.connected
                self.progress.trouble(self.settings.name, error)
                try:
                    backoff.wait()
                except StoppedError:
                    return

    def _complete(self) -> Iterator[Path]:
        """The files that have not changed for long enough, in the order in which they were last written."""
        moment = time.monotonic()
        seen: dict[str, tuple[tuple[int, int, int], float]] = {}
        ready: list[tuple[int, Path]] = []
        for entry in os.scandir(self.settings.path):
            if entry.name.startswith(".") or not is_image_name(Path(entry.name)):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            before, since = self._seen.get(entry.name, (None, moment))
            seen[entry.name] = (stamp, since if stamp == before else moment)
            if stamp == before and moment - since >= self.settings.settle_seconds:
                ready.append((status.st_mtime_ns, Path(entry.path)))
        self._seen = seen
        for _, path in sorted(ready):
            if self._stop.is_set():
                raise StoppedError
            yield path

    def _take(self, path: Path) -> Path:
        """Move a file to where nobody writes another under its name."""
        taken = self._taken / f"{time.time_ns():020}-{_shortened(path.name)}"
        path.rename(taken)
        # A power cut must not put it back once its inspection is stored.
        sync_folder(self._taken)
        sync_folder(self.settings.path)
        self._seen.pop(path.name, None)
        return taken

    def _inspect(self, taken: Path) -> None:
        self.busy = True
        try:
            try:
                if taken.stat().st_size > self._max_bytes:
                    raise _UnfitError(f"it is larger than the {self._max_bytes} bytes that are allowed")
                content = taken.read_bytes()
            except (_UnfitError, PermissionError, IsADirectoryError) as error:
                self._refuse(taken, error)
                return

            def also(session: Session) -> None:
                session.add(TakenFile(station=self._station, source=self.settings.name, name=taken.name))

            name = _printable(taken.name.partition("-")[2])
            settings = self.settings
            try:
                patiently(
                    settings.name,
                    self.progress,
                    self._stop,
                    lambda: self._judge(content, name, settings.model, settings.name, also),
                )
            except StoppedError:
                raise
            except IntegrityError:
                # An earlier attempt was stored after all, only that the database was gone before it could say so.
                self.progress.inspected()
                self.progress.problem = None
            except Exception as error:  # An image at which the graph breaks must not keep all others waiting.
                self._refuse(taken, error)
                return
            self._finish(taken)
        finally:
            self.busy = False

    def _refuse(self, taken: Path, error: Exception) -> None:
        log.error("Source %s: %s is not inspected: %s", self.settings.name, taken.name, error)
        taken.rename(self._refused / taken.name)
        self.progress.count("refused")

    def _finish_what_was_taken(self) -> None:
        """Deal with files that were taken by a run that ended early."""
        taken = sorted(path for path in self._taken.iterdir() if OWN.match(path.name) and path.is_file())
        with self._store.read() as session:
            rows = select(TakenFile.name).where(
                TakenFile.station == self._station, TakenFile.source == self.settings.name
            )
            inspected = set(session.scalars(rows))
        for path in taken:
            if path.name in inspected:
                self._finish(path)
            else:
                self._inspect(path)
        # Their files have moved on; only the end of the process came in between.
        for name in inspected - {path.name for path in taken}:
            self._forget(name)

    def _finish(self, taken: Path) -> None:
        if self.settings.after == "delete":
            taken.unlink()
        else:
            taken.rename(self._done / taken.name)
            sync_folder(self._done)
        sync_folder(self._taken)
        self._forget(taken.name)

    def _forget(self, name: str) -> None:
        row = delete(TakenFile).where(
            TakenFile.station == self._station, TakenFile.source == self.settings.name, TakenFile.name == name
        )
        with self._store.write() as session:
            session.execute(row)


class _UnfitError(Exception):
    """A file that no request could carry."""


def _shortened(name: str) -> str:
    """A name that leaves room for a number in front of it, for file systems take 255 bytes, and that is text."""
    return os.fsencode(name)[-200:].decode("utf-8", "replace")


def _printable(name: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in name) or "?"
