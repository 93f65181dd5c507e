"""A table of images: one row each."""

from __future__ import annotations

import csv
import difflib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from blemish.data.files import GOOD_NAMES, entries
from blemish.data.layout.base import Layout
from blemish.data.samples import GOOD, Dataset, Label, Sample, Split, assemble
from blemish.data.splits import train_share
from blemish.errors import DataError

NAME = "csv"
TITLE = "a .csv file, or a folder with one: columns image_path and, if known, label, split, mask_path"

COLUMNS = ("image_path", "label", "split", "mask_path")
NORMAL_WORDS = GOOD_NAMES | {"0"}
ANOMALOUS_WORDS = frozenset({"anomalous", "bad", "ng", "defect", "1"})


def recognise(root: Path) -> bool:
    """Whether `root` is a .csv file, or a folder with one whose first line names a column image_path.

    A folder with several is recognised too, and `read` refuses it: what the tables know must not be passed over.
    """
    if root.is_file():
        return root.suffix.lower() == ".csv"
    return any(_lists_images(table) for table in _tables(root))


def read(root: Path) -> Dataset:
    """Read a table; paths in it are absolute or relative to its folder.

    A label is normal, good, ok or 0; or anomalous, bad, ng, defect or 1; or the name of a defect; or empty, for not
    known. A row whose split is empty is split here: unlabelled rows train, anomalous rows are for testing, and of the
    normal rows 80 % train if any row is anomalous, else all. Columns are separated by comma, semicolon or tab.

    Raises
    ------
    DataError : no table; a missing or unknown column; a row with a wrong value, with a file that is not there, or with
        an image that an earlier row has.
    """
    table = _find_table(root)
    rows = _read_rows(table)
    has_anomalous = any(row.label == "anomalous" for row in rows)
    unsplit = [row.image for row in rows if row.split is None and row.label == "normal"]
    trains = train_share(unsplit) if has_anomalous else frozenset(unsplit)
    samples = [Sample(row.image, row.label, row.split or _own_split(row, trains), row.kind, row.mask) for row in rows]
    if all(row.split is not None for row in rows):
        why = f"{table.name}, split by its column"
    elif has_anomalous:
        why = f"{table.name}; of its normal rows without a split 80 % train, chosen by the hash of their names"
    else:
        why = f"{table.name}; its rows without a split train, as none is anomalous"
    return assemble(table.parent, NAME, samples, why, passed_over=0)


@dataclass(frozen=True)
class _Row:
    image: Path
    label: Label | None
    kind: str
    split: Split | None
    mask: Path | None


def _own_split(row: _Row, trains: frozenset[Path]) -> Split:
    return "train" if row.label is None or row.image in trains else "test"


def _find_table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = [table for table in _tables(root) if _lists_images(table)] or _tables(root)
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise DataError("this is not the layout csv: there is no .csv file", where=root, todo=f"Expected {TITLE}.")
    names = ", ".join(table.name for table in tables)
    raise DataError(f"there are {len(tables)} .csv files: {names}", where=root, todo="Point at one of them.")


def _tables(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() == ".csv" and path.is_file()]


def _read_rows(table: Path) -> list[_Row]:
    reader = csv.reader(io.StringIO(_text(table), newline=""), delimiter=_delimiter(_first_line(table)))
    rows: list[_Row] = []
    line_of: dict[str, int] = {}
    try:
        columns = _columns(next(reader, []), table)
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            where = f"{table}, line {reader.line_num}"
            if len(values) > len(columns):
                raise DataError(
                    f"this row has {len(values)} values for {len(columns)} columns",
                    where=where,
                    todo="Put quotation marks around a value that contains the separator.",
                )
            row = _row(dict(zip(columns, values, strict=False)), table, where)
            identity = os.path.realpath(row.image)
            if identity in line_of:
                raise DataError(
                    f"the same image as in line {line_of[identity]}", where=where, todo="Delete one of the rows."
                )
            line_of[identity] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise DataError(
            f"this line is not valid csv ({error})", where=f"{table}, line {reader.line_num}", todo="Correct it."
        ) from error
    return rows


def _text(table: Path) -> str:
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(
            f"this file cannot be read ({error.strerror})", where=table, todo="Check its permissions."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            "the text is not encoded as UTF-8", where=f"{table}, line {line}", todo='Save it as "CSV UTF-8".'
        ) from error


def _first_line(table: Path) -> str:
    with table.open(encoding="utf-8-sig", errors="replace") as lines:
        return lines.readline(10_000)


def _delimiter(first_line: str) -> str:
    return max(",;\t", key=first_line.count)


def _lists_images(table: Path) -> bool:
    first_line = _first_line(table)
    return COLUMNS[0] in [word.strip(' "\n').lower() for word in first_line.split(_delimiter(first_line))]


def _columns(header: list[str], table: Path) -> list[str]:
    columns = [name.strip().lower() for name in header]
    where, todo = (
        f"{table}, line 1",
        f"The first line names the columns: {', '.join(COLUMNS)}; only image_path must be there.",
    )
    for name in columns:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, set(COLUMNS) - set(columns), n=1)
            meant = f"; {close[0]} was meant?" if close else ""
            raise DataError(f'unknown column "{name}"{meant}', where=where, todo=todo)
    if len(set(columns)) < len(columns):
        raise DataError("a column is named twice", where=where, todo=todo)
    if COLUMNS[0] not in columns:
        raise DataError("there is no column image_path", where=where, todo=todo)
    return columns


def _row(values: dict[str, str], table: Path, where: str) -> _Row:
    if not values["image_path"]:
        raise DataError("image_path is empty", where=where, todo="Fill it in or delete the row.")
    label, kind = _label(values.get("label", ""))
    mask = _existing(values["mask_path"], table, where) if values.get("mask_path") else None
    return _Row(
        image=_existing(values["image_path"], table, where),
        label=label,
        kind=kind,
        split=_split(values.get("split", ""), where),
        # A normal sample's mask is empty by definition.
        mask=None if label == "normal" else mask,
    )


def _label(text: str) -> tuple[Label | None, str]:
    """Label and kind."""
    word = text.lower()
    if not word:
        return None, ""
    if word in NORMAL_WORDS:
        return "normal", GOOD
    return "anomalous", "" if word in ANOMALOUS_WORDS else text


def _split(text: str, where: str) -> Split | None:
    match text.lower():
        case "":
            return None
        case "train":
            return "train"
        case "test":
            return "test"
    raise DataError(f'unknown split "{text}"', where=where, todo="Write train or test, or leave it empty.")


def _existing(text: str, table: Path, where: str) -> Path:
    path = table.parent / text
    if not path.exists() and "\\" in text:
        # Written on Windows, read elsewhere.
        path = table.parent / text.replace("\\", "/")
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise DataError(
            f'"{text}" {problem}', where=where, todo=f"Paths are absolute or relative to {table.parent.resolve()}."
        )
    return path


LAYOUT = Layout(NAME, TITLE, recognise, read)
