"""Results in a CSV file, for whoever opens it in a spreadsheet or reads it into another system."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from blemish.station.connections.kinds import CsvSink
from blemish.station.sinks.delivery import RefusedError, UnreachableError
from blemish.station.tables import Inspection, OutboxEntry, now

COLUMNS: Final = ("event", *(column.key for column in Inspection.__table__.columns if column.key != "pictures_removed"))


class CsvFile:
    """Appends each result as a line that is on the disk before it counts as delivered.

    The file is opened for each: it may be moved away at any time, and a new one begins with its header.
    """

    def __init__(self, settings: CsvSink) -> None:
        self.settings = settings

    def deliver(self, entry: OutboxEntry) -> None:
        """Append an entry."""
        if "inspection" not in entry.body:
            raise RefusedError("a CSV file holds inspections only")
        values = {"event": entry.event, **entry.body["inspection"]}
        path = Path(str(self.settings.path).replace("{date}", values["time"][:10]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                text = "" if size else _line(COLUMNS)
                if size:
                    file.seek(-1, os.SEEK_END)
                    # The line before was cut short; it has no event of its own, for it was not delivered.
                    text = "" if file.read(1) == b"\n" else "\r\n"
                file.write((text + _line([cell(values[column]) for column in COLUMNS])).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UnreachableError(f"{path} cannot be written: {error.strerror or error}") from error

    def try_out(self) -> dict[str, int]:
        """Whether the file of today can be written; nothing is written, and no folder made."""
        path = Path(str(self.settings.path).replace("{date}", now().date().isoformat()))
        try:
            if path.exists():
                with path.open("rb+") as file:
                    begin = file.readline()
                if begin not in (b"", _line(COLUMNS).encode()):
                    raise RefusedError(f"{path} is another file, which does not begin as those of the station do")
                return {}
            folder = next(one for one in path.parents if one.exists())
            with tempfile.TemporaryFile(dir=folder):
                return {}
        except OSError as error:
            raise UnreachableError(f"{path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Nothing stays open between two results."""


def cell(value: Any) -> Any:
    """A value for a cell: a list as JSON, a time as ISO 8601 has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(value)
    # A spreadsheet would take it for a formula, and what it says is anyone's to choose.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
