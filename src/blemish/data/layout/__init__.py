"""How a dataset can lie on disk: one module per layout."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Protocol

from blemish.data.files import IMAGE_SUFFIXES, is_image_name
from blemish.data.layout import csv_file, folder, magnetic_tile, mvtec
from blemish.data.samples import Dataset
from blemish.errors import DataError, UsageError


class Layout(Protocol):
    """What each module of this package offers."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """Name for `--layout`."""

    @property
    def TITLE(self) -> str:  # noqa: N802
        """One line on what it looks like."""

    def recognise(self, root: Path) -> bool:
        """Whether `root` looks like this layout. Looks at names (and a csv's first line), opens no image."""

    def read(self, root: Path) -> Dataset:
        """Read it. Raises DataError if `root` is not of this layout."""


# In the order in which they are tried: `folder` takes what no other layout claims.
LAYOUTS: dict[str, Layout] = {layout.NAME: layout for layout in (csv_file, mvtec, magnetic_tile, folder)}


def layouts() -> dict[str, str]:
    """Name of each layout -> one line on what it looks like."""
    return {name: layout.TITLE for name, layout in LAYOUTS.items()}


def open_dataset(source: str | os.PathLike[str], layout: str = "auto") -> Dataset:
    """List the images of a dataset. No image is opened, so broken ones are listed too.

    Parameters
    ----------
    source : a folder, or a .csv file.
    layout : a name that `layouts` gives, or "auto": the first that recognises the source, which the note then names.

    Raises
    ------
    UsageError : there is no such layout.
    DataError : the source does not exist, is not of the layout, or has no images.
    """
    if layout != "auto" and layout not in LAYOUTS:
        close = difflib.get_close_matches(layout.lower(), LAYOUTS, n=1)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        raise UsageError(f'there is no layout "{layout}"', todo=f"Known are auto, {', '.join(LAYOUTS)}.{meant}")
    root = Path(source)
    if not root.exists():
        raise DataError("this folder does not exist", where=root, todo="Check the path.")
    if not root.is_dir() and not (layout in ("auto", csv_file.NAME) and csv_file.recognise(root)):
        if layout != "auto":
            raise DataError(
                f"this is a file, not of the layout {layout}", where=root, todo=f"Expected {LAYOUTS[layout].TITLE}."
            )
        what = (
            "this is a single image, not a dataset"
            if is_image_name(root)
            else "this is neither a folder nor a .csv file"
        )
        raise DataError(what, where=root, todo=f"Point at a folder of images, for example {root.absolute().parent}.")

    chosen = LAYOUTS[layout] if layout != "auto" else next(known for known in LAYOUTS.values() if known.recognise(root))
    dataset = chosen.read(root)
    if not dataset.samples:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            "there are no images", where=root, todo=f"Looked for files that end in {suffixes}. {dataset.note}"
        )
    return dataset
