"""VisA (Zou et al., "SPot-the-Difference", ECCV 2022), as it is published, with its one-class split."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from blemish.data.files import has, list_images
from blemish.data.layout.base import Layout, categories_below, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "visa"
TITLE = (
    "VisA: Data/Images/Normal/, Data/Images/Anomaly/, Data/Masks/Anomaly/, and split_csv/1cls.csv beside the category"
)

IMAGES = "Data/Images"
TABLE = Path("split_csv") / "1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


def recognise(root: Path) -> bool:
    """Whether `root` is one category, or a folder of categories."""
    return root.is_dir() and (_is_category(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one category, split as `split_csv/1cls.csv` beside it says: the rows whose object is the category's name.

    A mask's values are the numbers 1, 2, ... of the kinds of defect, so all but 0 marks. One mask may hold several
    kinds, and the split names none, so the kind of a defective sample is not known.

    Raises
    ------
    DataError : not this layout; a folder of several categories; no such table, or none of its rows is of the category,
        has a wrong value or names an image that is not there.
    """
    if not _is_category(root):
        refuse_categories(root, categories(root))
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    # The folder of that name, even where it is a link to somewhere else.
    category = Path(os.path.abspath(root))  # noqa: PTH100
    table = category.parent / TABLE
    samples = [_sample(row, root, category.name, where) for where, row in _rows(table, category.name)]
    listing = list_images(root / IMAGES)
    listed = {sample.path for sample in samples}
    missing = sorted(listed - set(listing.images))
    if missing:
        raise DataError(
            f"{len(missing)} of its images are not there, such as {missing[0]}",
            where=table,
            todo="Fetch them, or delete their rows.",
        )
    passed_over = listing.passed_over + len(set(listing.images) - listed)
    return assemble(root, NAME, samples, f"split by {TABLE.as_posix()}", passed_over)


def _is_category(root: Path) -> bool:
    return has(root, f"{IMAGES}/Normal")


def categories(root: Path) -> dict[str, Path]:
    """Each category below `root` by name; empty if `root` is one itself."""
    return categories_below(root, _is_category)


def _rows(table: Path, category: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of a category, each with where it stands."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise DataError(
                    f"the first line does not name the columns {', '.join(COLUMNS)}", where=table, todo="Fetch it anew."
                )
            rows = [
                (f"{table}, line {reader.line_num}", {column: row[column] or "" for column in COLUMNS})
                for row in reader
                if row["object"] == category
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        found = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(
            f"{TABLE.as_posix()}, which says what trains, {found}",
            where=table,
            todo=f"The download of VisA has it: put the folder {TABLE.parent} beside the categories.",
        ) from error
    if not rows:
        raise DataError(
            f'no row is of the object "{category}"', where=table, todo="Give the category's folder its original name."
        )
    return rows


def _sample(row: dict[str, str], root: Path, category: str, where: str) -> Sample:
    split = SPLITS.get(row["split"])
    if split is None or row["label"] not in ("normal", "anomaly") or not row["image"].startswith(f"{category}/"):
        raise DataError(
            "this row has not the split train or test, the label normal or anomaly, and an image of its object",
            where=where,
            todo="Fetch the table anew.",
        )
    image = root / row["image"].removeprefix(f"{category}/")
    if row["label"] == "normal":
        return Sample(image, "normal", split, GOOD)
    mask = root / row["mask"].removeprefix(f"{category}/")
    return Sample(image, "anomalous", split, "", mask if mask.is_file() else None, mask_rule="non-zero")


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
