"""What a layout is: how to know it by its names, and how to list its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blemish.data.files import subfolders
from blemish.data.samples import Dataset
from blemish.errors import DataError


def one_category(root: Path) -> Mapping[str, Path]:
    """No categories: the folder is one dataset."""
    return {}


def categories_below(root: Path, is_category: Callable[[Path], bool]) -> dict[str, Path]:
    """Each category directly below `root` by name; empty if `root` is one itself."""
    return {} if is_category(root) else {folder.name: folder for folder in subfolders(root) if is_category(folder)}


def refuse_categories(root: Path, found: Mapping[str, Path]) -> None:
    """Raise DataError, with advice, if a folder that was to be read as one dataset holds several categories."""
    if found:
        raise DataError(
            f"this folder holds {len(found)} categories, each a dataset of its own: {', '.join(found)}",
            where=root,
            todo=f"Point at one of them, for example {next(iter(found.values()))}.",
        )


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on disk.

    Parameters
    ----------
    name : for `--layout`. title : one line on what it looks like.
    recognise : whether a folder (or a csv file) looks like this layout; also true of a folder of its categories. Looks
        at names only and opens no image.
    read : lists the samples of one category. Raises DataError if the folder is not of this layout, or holds several
        categories.
    categories : each category below a folder, by name, as the path that `read` takes; empty where the folder is itself
        one dataset.
    """

    name: str
    title: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Dataset]
    categories: Callable[[Path], Mapping[str, Path]] = one_category
