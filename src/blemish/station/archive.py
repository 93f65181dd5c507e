"""The pictures of a station on disk: named by their sha256, written whole or not at all, on the disk before they count.

DATA/images/ab/abcd...      what was inspected, byte for byte
DATA/maps/ab/abcd...        anomaly maps as `encode_map` writes them
DATA/models/abcd....blemish every model file that was taken in
"""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.errors import UsageError
from blemish.pictures import COLOURS, Picture, overlay, png
from blemish.station.errors import storage_failed

Kind = Literal["images", "maps"]
KINDS: Final[tuple[Kind, ...]] = ("images", "maps")

_PARTIAL = ".partial"


class Archive:
    """The folder `data` of one running station.

    Raises
    ------
    UsageError
        The folder cannot be made, or another station runs on it.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.models = data / "models"
        self._guard = threading.Lock()
        self._pinned: Counter[str] = Counter()
        try:
            for folder in (*KINDS, "models"):
                (data / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"this folder cannot be made: {error.strerror}", where=data) from error
        self._lock = _lock(data)
        for folder in (*KINDS, "models"):
            for left_over in (data / folder).rglob(f"*{_PARTIAL}"):
                left_over.unlink()

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
        with self._guard:
            self._pinned.update(sha256 for _, sha256, _ in named)
        try:
            try:
                for kind, sha256, content in named:
                    path = self.path(kind, sha256)
                    if not path.exists():
                        write_whole(path, content)
            except OSError as error:
                raise storage_failed(error) from error
            yield [sha256 for _, sha256, _ in named]
        finally:
            with self._guard:
                self._pinned.subtract(sha256 for _, sha256, _ in named)
                self._pinned += Counter()

    def read(self, kind: Kind, sha256: str) -> bytes | None:
        """A picture; None if it is not here.

        Raises
        ------
        StationError
            storage_failed.
        """
        try:
            return self.path(kind, sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_failed(error) from error

    @contextmanager
    def discarding(self) -> Iterator[Discard]:
        """A block in which no picture can be newly kept: what no row refers to now can go."""
        with self._guard:
            yield Discard(self, frozenset(self._pinned))

    def path(self, kind: Kind, sha256: str) -> Path:
        """Where a picture is, or would be."""
        return self.data / kind / sha256[:2] / sha256

    def pictures(self) -> Iterator[tuple[Kind, str, os.stat_result]]:
        """Every picture on disk."""
        for kind in KINDS:
            for folder in (self.data / kind).iterdir():
                for path in folder.iterdir() if folder.is_dir() else ():
                    with suppress(FileNotFoundError):
                        yield kind, path.name, path.stat()


class Discard:
    """Removes pictures, but none that is just being kept."""

    def __init__(self, archive: Archive, pinned: frozenset[str]) -> None:
        self._archive = archive
        self._pinned = pinned

    def __call__(self, kind: Kind, sha256: str) -> int:
        """Remove a picture; how many bytes that frees."""
        path = self._archive.path(kind, sha256)
        if sha256 in self._pinned:
            return 0
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either complete, and on the disk, or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{threading.get_ident()}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have a new name in a folder survive a power cut."""
    if os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


# What is kept of an anomaly map: for each pixel one byte, its place on the scale from 0 to twice the threshold, that
# scale of `pictures` whose colours people see. 128 and more are exactly the marked pixels.

LAST_CALM: Final = 127
"""The last byte of an unmarked pixel."""


def encode_map(anomaly_map: NDArray[np.float32], threshold: float) -> bytes:
    """An anomaly map, H x W, as a grey PNG: one byte a pixel; 0..127 unmarked, 128..255 marked."""
    marked = anomaly_map > threshold
    relative = anomaly_map / threshold if threshold > 0 else np.where(marked, 2.0, 0.0)
    place = np.rint(np.clip(relative / 2, 0, 1) * 255)
    return png(np.where(marked, np.maximum(place, LAST_CALM + 1), np.minimum(place, LAST_CALM)).astype(np.uint8))


def decode_map(content: bytes) -> NDArray[np.uint8]:
    """What `encode_map` wrote, uint8 H x W."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("L"))


def heat_map(codes: NDArray[np.uint8]) -> Picture:
    """The colours of a decoded map, uint8 H x W x 3."""
    return COLOURS[codes]


def overlaid(image: Picture, codes: NDArray[np.uint8]) -> Picture:
    """A decoded map laid over its image, with the outline of the marked pixels."""
    return overlay(image, codes.astype(np.float32) / 127.5, 1.0, codes > LAST_CALM)
