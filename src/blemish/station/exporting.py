"""Inspections as CSV and as Parquet, a batch at a time: a year of them takes no more memory than an hour."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final

from blemish.station.errors import Code, StationError
from blemish.station.inspections import Row

Value = Any
ROW_GROUP = 5000

# What is exported, in this order: name, Parquet's type, and how a row gives it.
_PLAIN: Final = (
    ("id", "int64"),
    ("time", "time"),
    ("station", "string"),
    ("source", "string"),
    ("file", "string"),
    ("model", "string"),
    ("version", "int32"),
    ("model_sha256", "string"),
    ("image_sha256", "string"),
    ("image_bytes", "int64"),
    ("verdict", "string"),
    ("reason", "string"),
    ("detail", "string"),
    ("score", "double"),
    ("p_value", "double"),
    ("threshold", "double"),
    ("false_alarm_rate", "double"),
    ("review_rate", "double"),
    ("waited_ms", "double"),
    ("judged_ms", "double"),
    ("pictures_removed", "time"),
)
_REVIEW: Final = (("answer", "string"), ("label", "string"), ("by", "string"), ("note", "string"))
COLUMNS: Final = (*_PLAIN, ("regions", "string"), *((f"review_{name}", kind) for name, kind in _REVIEW))
"""Name and type of each column; regions are JSON."""


def values(row: Row) -> list[Value]:
    """What a row has in `COLUMNS`."""
    inspection, review = row
    return [
        *(getattr(inspection, name) for name, _ in _PLAIN),
        json.dumps(inspection.regions),
        *(None if review is None else getattr(review, name) for name, _ in _REVIEW),
    ]


def csv_lines(rows: Iterator[Row]) -> Iterator[str]:
    """The lines of a CSV file; the first is its header."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([name for name, _ in COLUMNS])
    for row in rows:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow([_cell(value) for value in values(row)])
    yield text.getvalue()


def has_parquet() -> bool:
    """Whether Parquet can be written here."""
    return importlib.util.find_spec("pyarrow") is not None


def parquet_pieces(rows: Iterator[Row]) -> Iterator[bytes]:
    """The bytes of a Parquet file, as they come to be; the first piece comes once rows can be had.

    Raises
    ------
    StationError
        parquet_not_installed.
    """
    if not has_parquet():
        raise StationError(
            Code.PARQUET_NOT_INSTALLED,
            "Parquet needs pyarrow, which this installation lacks",
            todo="Run: pip install 'blemish[parquet]', or export CSV",
        )
    return _parquet(rows)


def _parquet(rows: Iterator[Row]) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    types: dict[str, Callable[[], Any]] = {
        "int32": pa.int32,
        "int64": pa.int64,
        "double": pa.float64,
        "string": pa.string,
        "time": lambda: pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]()) for name, kind in COLUMNS])
    out = _Outbox()
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while batch := list(islice(rows, ROW_GROUP)):
            columns = zip(*map(values, batch), strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            yield out.taken()
    yield out.taken()


class _Outbox(io.RawIOBase):
    """A file whose bytes are taken away while it grows."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        """It can be written."""
        return True

    def write(self, content: Any) -> int:
        """Add bytes."""
        self._waiting.append(bytes(content))
        self._written += len(self._waiting[-1])
        return len(self._waiting[-1])

    def tell(self) -> int:
        """How many bytes were written in all."""
        return self._written

    def taken(self) -> bytes:
        """The bytes that have come since this was last called."""
        taken = b"".join(self._waiting)
        self._waiting.clear()
        return taken


def _cell(value: Value) -> Value:
    if isinstance(value, datetime):
        return value.isoformat()
    # A spreadsheet would take it for a formula, and what it says is anyone's to choose.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
