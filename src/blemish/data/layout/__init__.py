"""How a dataset can lie on disk: one module per layout."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from blemish.data.files import IMAGE_SUFFIXES, is_image_name
from blemish.data.layout import (
    aitex,
    btad,
    cifar10,
    cifar100,
    csv_file,
    dagm,
    fabric,
    fashion_mnist,
    folder,
    kolektor_sdd,
    kolektor_sdd2,
    magnetic_tile,
    mvtec,
    mvtec_3d,
    mvtec_loco,
    nanotwice,
    real_iad,
    rsdds,
    visa,
    woven_textures,
)
from blemish.data.layout.base import Layout
from blemish.data.samples import Dataset
from blemish.errors import DataError, UsageError

# In the order in which they are tried: a user's own table before all, `mvtec` after those whose folders it would take
# too, and `folder` takes what no other layout claims.
LAYOUTS: dict[str, Layout] = {
    module.LAYOUT.name: module.LAYOUT
    for module in (
        csv_file,
        mvtec_loco,
        mvtec_3d,
        visa,
        btad,
        kolektor_sdd,
        kolektor_sdd2,
        aitex,
        rsdds,
        nanotwice,
        real_iad,
        cifar10,
        cifar100,
        fashion_mnist,
        dagm,
        woven_textures,
        fabric,
        mvtec,
        magnetic_tile,
        folder,
    )
}


def layouts() -> dict[str, str]:
    """Name of each layout -> one line on what it looks like."""
    return {name: layout.title for name, layout in LAYOUTS.items()}


def open_dataset(source: str | os.PathLike[str], layout: str = "auto") -> Dataset:
    """List the images of a dataset. None is opened, so broken ones are listed too.

    The Kolektor datasets are the exception to names alone: their masks are opened, as nothing else says which images
    are good.

    Parameters
    ----------
    source : a folder, or a .csv file.
    layout : a name that `layouts` gives, or "auto": the first that recognises the source, which the note then names.

    Raises
    ------
    UsageError : there is no such layout.
    DataError : the source does not exist, is not of the layout, or has no images.
    """
    root = Path(source)
    return _read(_find(root, layout), root)


def open_categories(source: str | os.PathLike[str], layout: str = "auto") -> dict[str, Dataset]:
    """List the images of every category of a dataset, by name; one that has no categories goes by its own name.

    Each sample knows its category. Parameters and errors as `open_dataset`.
    """
    root = Path(source)
    chosen = _find(root, layout)
    found = dict(chosen.categories(root)) or {root.resolve().stem: root}
    return {name: _in_category(name, _read(chosen, path)) for name, path in found.items()}


def combine(datasets: Mapping[str, Dataset], name: str = "all") -> Dataset:
    """All samples of several datasets as one, each knowing its category.

    Raises
    ------
    DataError : there is none.
    """
    if not datasets:
        raise DataError("there are no datasets to put together")
    together = {name: _in_category(name, dataset) for name, dataset in datasets.items()}
    samples = tuple(
        replace(sample, path=sample.path.absolute()) for dataset in together.values() for sample in dataset.samples
    )
    root = Path(os.path.commonpath([dataset.root.absolute() for dataset in together.values()]))
    layouts_of = {dataset.layout for dataset in together.values()}
    note = f"{len(together)} datasets together: {', '.join(together)}; {len(samples)} images."
    return Dataset(name, root, ", ".join(sorted(layouts_of)), samples, note)


def _in_category(category: str, dataset: Dataset) -> Dataset:
    samples = tuple(replace(sample, category=category) for sample in dataset.samples)
    return replace(dataset, name=category, samples=samples)


def _find(root: Path, layout: str) -> Layout:
    """The layout called so, or the first that recognises `root`."""
    if layout != "auto" and layout not in LAYOUTS:
        close = difflib.get_close_matches(layout.lower(), LAYOUTS, n=1)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        raise UsageError(f'there is no layout "{layout}"', todo=f"Known are auto, {', '.join(LAYOUTS)}.{meant}")
    if not root.exists():
        raise DataError("this folder does not exist", where=root, todo="Check the path.")
    if not root.is_dir() and not any(
        layout in ("auto", module.NAME) and module.recognise(root) for module in (csv_file, real_iad)
    ):
        if layout != "auto":
            raise DataError(
                f"this is a file, not of the layout {layout}", where=root, todo=f"Expected {LAYOUTS[layout].title}."
            )
        what = (
            "this is a single image, not a dataset"
            if is_image_name(root)
            else "this is neither a folder nor a .csv file"
        )
        raise DataError(what, where=root, todo=f"Point at a folder of images, for example {root.absolute().parent}.")

    return LAYOUTS[layout] if layout != "auto" else next(known for known in LAYOUTS.values() if known.recognise(root))


def _read(chosen: Layout, root: Path) -> Dataset:
    dataset = chosen.read(root)
    if not dataset.samples:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            "there are no images", where=root, todo=f"Looked for files that end in {suffixes}. {dataset.note}"
        )
    return dataset
