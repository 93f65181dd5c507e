"""CIFAR-100 (Krizhevsky, 2009): 60,000 colour images of 32 x 32 pixels, 100 classes in 20 superclasses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blemish.data.layout.base import Layout
from blemish.data.layout.cifar10 import PIXELS, planes
from blemish.data.layout.unpacked import Packed, class_name, class_names, content, read_unpacked
from blemish.data.samples import Dataset, Split
from blemish.errors import DataError

NAME = "cifar-100"
TITLE = "the binary version of CIFAR-100 with train.bin, test.bin and fine_label_names.txt; unpacked once"

IMAGES: dict[Split, int] = {"train": 50_000, "test": 10_000}
FINE, FINE_CLASSES = "fine_label_names.txt", 100
COARSE, COARSE_CLASSES = "coarse_label_names.txt", 20
FILES = (*(f"{split}.bin" for split in IMAGES), FINE, COARSE)
PICKLES = (*IMAGES, "meta")


def recognise(root: Path) -> bool:
    """Whether `root` has the binary files, or the pickles of the Python version, which `read` refuses."""
    return _has(root, FILES) or _has(root, PICKLES)


def read(root: Path) -> Dataset:
    """Read the binary version (cifar-100-binary).

    The kind of a sample is its fine class. The superclass is the name of the folder that holds its class's folder.

    Raises
    ------
    DataError : not this layout; the Python version, whose pickles can run any code when read; a file that is cut short
        or damaged.
    """
    if _has(root, FILES):
        return read_unpacked(NAME, [root / name for name in FILES], lambda: _binary(root))
    if _has(root, PICKLES):
        raise DataError(
            "this is the Python version of CIFAR-100, whose files can run any code when they are read",
            where=root,
            todo="Take the binary version, cifar-100-binary.tar.gz.",
        )
    raise DataError("this is not the layout cifar-100", where=root, todo=f"Expected {TITLE}.")


def _has(root: Path, names: tuple[str, ...]) -> bool:
    return all((root / name).is_file() for name in names)


def _binary(root: Path) -> Iterator[Packed]:
    """A file is records of 1 byte superclass, 1 byte class and 3072 bytes pixels, after the authors' page."""
    fine, coarse = class_names(root / FINE, FINE_CLASSES), class_names(root / COARSE, COARSE_CLASSES)
    for split, count in IMAGES.items():
        file = root / f"{split}.bin"
        records = np.frombuffer(content(file, count * (2 + PIXELS)), np.uint8).reshape(count, -1)
        for (group, number), pixels in zip(records[:, :2], planes(records[:, 2:]), strict=True):
            kind = class_name(fine, int(number), file)
            yield Packed(split, kind, pixels, group=class_name(coarse, int(group), file))


LAYOUT = Layout(NAME, TITLE, recognise, read)
