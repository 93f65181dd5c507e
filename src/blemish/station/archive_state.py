"""How the place of the pictures stands, for people who want to know whether it will last."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from datetime import datetime

from blemish.station.archive import Archive
from blemish.station.errors import StationError

PATIENCE_SECONDS = 3.0


@dataclass(frozen=True)
class Standing:
    """What is known of where the pictures lie.

    place : without a password. remote : whether it is a store of which nobody can say how full it is.
    total, free : bytes of its disk; None where it is remote. written : when a picture was last stored, since the start.
    answered_ms : how long it took to answer; None if it did not. problem : why it did not; None also while it is waited
        for longer than anybody at a page should.
    """

    place: str
    remote: bool
    total: int | None
    free: int | None
    written: datetime | None
    answered_ms: float | None
    problem: str | None


class Looking:
    """Asks the place of the pictures for a sign of life, at most once at a time: a store may be silent for minutes."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._guard = threading.Lock()
        self._asked: _Asked | None = None

    def standing(self) -> Standing:
        """How it stands; it takes three seconds at most."""
        archive = self.archive
        with self._guard:
            if self._asked is None or self._asked.over.is_set():
                self._asked = _Asked(archive)
            asked = self._asked
        asked.over.wait(PATIENCE_SECONDS)
        answered = asked.answered_ms if asked.over.is_set() else None
        total, free = None, None
        if archive.local and answered is not None:
            total, _, free = shutil.disk_usage(archive.root)
        return Standing(archive.place, not archive.local, total, free, archive.written, answered, asked.problem)


class _Asked:
    """One question, in a thread that nobody waits for at the end."""

    def __init__(self, archive: Archive) -> None:
        self.over = threading.Event()
        self.answered_ms: float | None = None
        self.problem: str | None = None
        threading.Thread(target=self._ask, args=(archive,), name="sign of life", daemon=True).start()

    def _ask(self, archive: Archive) -> None:
        start = time.monotonic()
        try:
            archive.probe()
            self.answered_ms = 1000 * (time.monotonic() - start)
        except StationError as error:
            self.problem = error.what
        finally:
            self.over.set()
