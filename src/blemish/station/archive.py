"""The pictures of a station: named by their sha256, and stored, whole, before they count.

PICTURES/images/ab/abcd...  what was inspected, byte for byte
PICTURES/maps/ab/abcd...    anomaly maps as `blemish.station.maps` writes them
DATA/models/abcd....blemish every model file that was taken in

PICTURES is DATA, unless a station is told another folder or the URL of a store. Either is one file system of fsspec;
the calls are the same. DATA is always a folder of this machine; `DATA/trainings` is what `blemish.station.trainings`
keeps.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from blemish.errors import UsageError
from blemish.station.durable import PARTIAL, write_whole
from blemish.station.errors import StationError, storage_failed
from blemish.station.media import suffix_of

Kind = Literal["images", "maps"]
KINDS: Final[tuple[Kind, ...]] = ("images", "maps")

OWNER: Final = "owner"
"""The file in DATA and in PICTURES that says whose pictures these are."""

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_CHANGED: Final = ("mtime", "LastModified", "last_modified", "updated", "modify", "created")
"""What file systems call the time of a file."""


@dataclass(frozen=True)
class Kept:
    """A picture that is stored. size : in bytes. changed : seconds since 1970; 0 if the store does not say."""

    kind: Kind
    sha256: str
    size: int
    changed: float


class Archive:
    """The folder `data` of one running station, and where its pictures are.

    Parameters
    ----------
    pictures : a folder, or a URL that fsspec knows; None is `data`.

    Attributes
    ----------
    place : where the pictures are, without a password. root : the same in the words of its file system.
    local : whether that is a disk of this machine. written : when a picture was last stored, since the start.

    Raises
    ------
    UsageError
        The folder cannot be made, or another station runs on it; the store of pictures cannot be reached or written,
        or holds those of another station.
    """

    def __init__(self, data: Path, pictures: str | None = None) -> None:
        self.data = data
        self.models = data / "models"
        self._scratch = data / "scratch"
        self._changed = threading.Condition()
        self._pinned: Counter[str] = Counter()
        self._going: set[str] = set()
        self.written: datetime | None = None
        try:
            for folder in (self.models, self._scratch):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"this folder cannot be made: {error.strerror}", where=data) from error
        self._lock = _lock(data)
        try:
            self._open(str(data.absolute()) if pictures is None else pictures)
            for left_over in self.models.rglob(f"*{PARTIAL}"):
                left_over.unlink()
            for folder in self._scratch.iterdir():
                shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            self.close()
            raise

    def _open(self, place: str) -> None:
        """Reach the store, and see that it can be used, before anything is promised."""
        self._password = _password(place)
        self.place = self._hidden(place)
        try:
            self._files, root = url_to_fs(place)
            self.root = root.rstrip("/")
            self.local = isinstance(self._files, LocalFileSystem)
            # What is asked from an event loop takes any thread; others may have one connection, and one caller at a
            # time. The same picture is never written by two.
            self._turns = [threading.Lock() for _ in range(64 if self.local or self._files.async_impl else 1)]
            for folder in (self.root, *(f"{self.root}/{kind}" for kind in KINDS)):
                if folder and not self._files.exists(folder):
                    # Not its parents: where a disk is not mounted, or a bucket is missing, none is made instead.
                    with suppress(FileExistsError):
                        self._files.mkdir(folder, create_parents=False)
            theirs = self._owner()
            if not self.local:
                check = f"{self.root}/check"
                self._put(check, b"check")
                self._files.rm_file(check)
        except Exception as error:  # Each store has exceptions of its own.
            raise UsageError(
                f"the pictures cannot be stored there: {self._words(error)}",
                where=self.place,
                todo="See that it exists, can be reached and may be written, and that what it needs to sign in is set",
            ) from error
        if theirs != (self.data / OWNER).read_bytes():
            raise UsageError(
                "another station keeps its pictures there",
                where=self.place,
                todo="Give this one a place of its own. If it is the same station with a new --data folder, copy the "
                f"file {OWNER} from there into that folder",
            )
        if self.local:
            for kind in KINDS:
                for left_over in Path(self.root, kind).rglob(f"*{PARTIAL}"):
                    left_over.unlink()

    def _owner(self) -> bytes:
        """Who keeps pictures there; it is this station if nobody did."""
        own = self.data / OWNER
        if not own.exists():
            write_whole(own, secrets.token_hex(16).encode())
        place = f"{self.root}/{OWNER}"
        try:
            return bytes(self._files.cat_file(place))
        except FileNotFoundError:
            self._put(place, own.read_bytes())
            return bytes(self._files.cat_file(place))

    def close(self) -> None:
        """Let another station have the folder."""
        self._lock.close()

    @contextmanager
    def keep(self, pictures: Iterable[tuple[Kind, bytes]]) -> Iterator[list[str]]:
        """Write pictures and give their sha256; within the block `discard` spares them, so that rows can be written.

        Raises
        ------
        StationError
            storage_failed.
        """
        named = [(kind, hashlib.sha256(content).hexdigest(), content) for kind, content in pictures]
        names = [sha256 for _, sha256, _ in named]
        with self._changed:
            self._changed.wait_for(lambda: self._going.isdisjoint(names))
            self._pinned.update(names)
        try:
            for kind, sha256, content in named:
                with self._refusing(), self._turn(sha256):
                    path = self.path(kind, sha256)
                    # One of another size was cut short by the end of a station, or of a connection.
                    if self._size(path) != len(content):
                        self._put(path, content)
                        self.written = datetime.now(UTC)
            yield names
        finally:
            with self._changed:
                self._pinned.subtract(names)
                self._pinned += Counter()

    def read(self, kind: Kind, sha256: str) -> bytes | None:
        """A picture; None if it is not here.

        Raises
        ------
        StationError
            storage_failed: also where the store itself is not there any more.
        """
        with self._refusing(), self._turn(sha256):
            try:
                return bytes(self._files.cat_file(self.path(kind, sha256)))
            except FileNotFoundError:
                if self._files.exists(f"{self.root}/{OWNER}"):
                    return None
                raise

    def probe(self) -> None:
        """Ask the store for a sign of life: for the file that says whose pictures these are.

        Raises
        ------
        StationError
            storage_failed.
        """
        with self._refusing(), self._turn("00"):
            self._files.invalidate_cache()
            self._files.cat_file(f"{self.root}/{OWNER}")

    def copy(self, kind: Kind, sha256: str, folder: Path) -> Path | None:
        """Give a picture a file in a folder of this machine, named as its content is; None if it is not here.

        Raises
        ------
        StationError
            storage_failed.
        """
        if self.local:
            source = Path(self.path(kind, sha256))
            with suppress(OSError):  # a file system without links, another disk, or there is no such picture
                with source.open("rb") as file:
                    target = folder / f"{sha256}{suffix_of(file.read(16))}"
                os.link(source, target)
                return target
        content = self.read(kind, sha256)
        if content is None:
            return None
        target = folder / f"{sha256}{suffix_of(content)}"
        try:
            target.write_bytes(content)
        except OSError as error:
            raise storage_failed(error) from error
        return target

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder in `data` for as long as the block lasts; the next start removes what a killed station left."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            yield Path(folder)

    @contextmanager
    def discarding(self, pictures: Iterable[tuple[Kind, str]]) -> Iterator[Discard]:
        """A block in which none of these pictures can be newly kept: those that no row refers to now can go."""
        with self._changed:
            names = {sha256 for _, sha256 in pictures} - set(self._pinned)
            self._going |= names
        try:
            yield Discard(self, names)
        finally:
            with self._changed:
                self._going -= names
                self._changed.notify_all()

    def path(self, kind: Kind, sha256: str) -> str:
        """Where a picture is, or would be, in the file system."""
        return f"{self.root}/{kind}/{sha256[:2]}/{sha256}"

    def pictures(self) -> Iterator[Kept]:
        """Every picture that is stored; what else lies there is none of the station's.

        Raises
        ------
        StationError
            storage_failed.
        """
        for kind in KINDS:
            for folder in self._listed(f"{self.root}/{kind}"):
                for found in self._listed(folder["name"]) if folder["type"] == "directory" else ():
                    name = str(found["name"]).rpartition("/")[2]
                    if _NAME.fullmatch(name) and found["type"] == "file":
                        yield Kept(kind, name, found["size"] or 0, _when(found))

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        with self._refusing(), self._turn("00"):
            self._files.invalidate_cache()
            try:
                return list(self._files.ls(folder, detail=True))
            except FileNotFoundError:
                return []

    def _size(self, path: str) -> int | None:
        self._files.invalidate_cache()
        try:
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None

    def _put(self, path: str, content: bytes) -> None:
        """Store a file. On a disk of this machine, it is complete and on the disk, or not there."""
        if self.local:
            write_whole(Path(path), content)
            return
        try:
            self._files.pipe_file(path, content)
        except Exception:  # Not all that have folders say FileNotFoundError where one is missing.
            folder = path.rpartition("/")[0]
            if self._files.exists(folder):
                raise
            with suppress(FileExistsError):
                self._files.mkdir(folder, create_parents=False)
            self._files.pipe_file(path, content)

    def _turn(self, sha256: str) -> threading.Lock:
        return self._turns[int(sha256[:2], 16) % len(self._turns)]

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except StationError:
            raise
        except Exception as error:  # Each store has exceptions of its own.
            raise storage_failed(self._words(error), remote=not self.local) from error

    def _words(self, error: Exception) -> str:
        return self._hidden((isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__)

    def _hidden(self, text: str) -> str:
        return text.replace(self._password, "***") if self._password else text


class Discard:
    """Removes pictures, but none that is just being kept."""

    def __init__(self, archive: Archive, names: set[str]) -> None:
        self._archive = archive
        self._names = names

    def __call__(self, kind: Kind, sha256: str) -> int:
        """Remove a picture; how many bytes that frees.

        Raises
        ------
        StationError
            storage_failed.
        """
        archive = self._archive
        if sha256 not in self._names:
            return 0
        path = archive.path(kind, sha256)
        with archive._refusing(), archive._turn(sha256):
            size = archive._size(path)
            if size is not None:
                archive._files.rm_file(path)
        return size or 0


def _when(found: dict[str, Any]) -> float:
    """When a file was changed last, by what its file system tells of it."""
    time = next((found[key] for key in _CHANGED if found.get(key) is not None), None)
    if isinstance(time, datetime):
        return time.timestamp()
    return float(time) if isinstance(time, int | float) else 0.0


def _password(place: str) -> str:
    """The password in a URL, which nobody is shown."""
    found = re.search(r"://[^/@:]*:([^/]+)@", place)
    return found[1] if found else ""


def _lock(data: Path) -> sqlite3.Connection:
    """Hold the folder for this process. The lock of a database file goes with the process, however that ends."""
    lock = sqlite3.connect(data / "lock", timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        raise UsageError(
            "another station runs on this folder, or it cannot be written",
            where=data,
            todo="Stop that one, or give this one a --data of its own",
        ) from error
    return lock
