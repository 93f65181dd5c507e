"""Files that survive a power cut."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"
"""What the name of a file ends in that is being written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either complete, and on the disk, or not there.

    Its folder is made if that is missing, but not the one above: a disk that is not mounted is not written beside.
    """
    if not path.parent.exists():
        with suppress(FileExistsError):
            path.parent.mkdir()
        sync_folder(path.parent.parent)
    partial = path.with_name(f"{path.name}.{threading.get_ident()}{PARTIAL}")
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
