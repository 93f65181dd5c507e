"""Passwords and secrets that were entered at the page: each in a file that nobody but the station may read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from blemish.station.errors import storage_failed


class Secrets:
    """A folder of secrets, which are named at random."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, secret: str) -> str:
        """Write a secret into a file; its name.

        Raises
        ------
        StationError
            storage_failed.
        """
        name = secrets.token_hex(16)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(secret + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_failed(error) from error
        return name

    def path(self, name: str | None) -> Path | None:
        """Where a secret lies."""
        return None if name is None else self.folder / name

    def forget(self, name: str) -> None:
        """Remove a secret."""
        with suppress(OSError):
            (self.folder / name).unlink()

    def tidy(self, used: Collection[str | None]) -> None:
        """Remove what the end of a process left behind: all but those in use."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in used:
                    self.forget(path.name)
