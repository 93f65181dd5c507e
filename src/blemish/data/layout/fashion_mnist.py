"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747): 70,000 grey images of 28 x 28 pixels, 10 classes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blemish.data.layout.base import Layout
from blemish.data.layout.unpacked import Packed, class_name, read_unpacked
from blemish.data.samples import Dataset, Split
from blemish.errors import DataError

NAME = "fashion-mnist"
TITLE = (
    "a folder named for Fashion-MNIST with train-images-idx3-ubyte.gz and its three fellows, .gz or not; unpacked once"
)

SIDE = 28
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGE_MAGIC, LABEL_MAGIC = 0x0803, 0x0801
MOST_IMAGES = 1_000_000
"""A header that claims more is damaged; without a limit it could ask for any amount of memory."""

PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}


def recognise(root: Path) -> bool:
    """Whether `root` has the four files and it or its parent is named for the dataset: MNIST's are called alike."""
    place = root.resolve()
    return all(file.is_file() for file in _files(root)) and any(
        "fashion" in name.lower() for name in (place.name, place.parent.name)
    )


def read(root: Path) -> Dataset:
    """Read the four files.

    Raises
    ------
    DataError : not this layout; a file that is cut short or damaged.
    """
    if not all(file.is_file() for file in _files(root)):
        raise DataError("this is not the layout fashion-mnist", where=root, todo=f"Expected {TITLE}.")
    return read_unpacked(NAME, _files(root), lambda: unpack(root))


def _files(root: Path) -> list[Path]:
    return [file for split in PREFIXES for file in _pair(root, split)]


def _pair(root: Path, split: Split) -> tuple[Path, Path]:
    """The images and the labels of a split, compressed as they are published, or not."""
    images, labels = (root / f"{PREFIXES[split]}-{what}-ubyte" for what in ("images-idx3", "labels-idx1"))
    return _compressed_if_there(images), _compressed_if_there(labels)


def _compressed_if_there(file: Path) -> Path:
    compressed = file.with_name(file.name + ".gz")
    return file if file.is_file() and not compressed.is_file() else compressed


def unpack(root: Path) -> Iterator[Packed]:
    """The images of the four files, training images first.

    Raises
    ------
    DataError : a file is cut short or damaged.
    """
    for split in PREFIXES:
        images_file, labels_file = _pair(root, split)
        images = _idx(images_file, IMAGE_MAGIC, (SIDE, SIDE)).reshape(-1, SIDE, SIDE)
        labels = _idx(labels_file, LABEL_MAGIC, ())
        if len(labels) != len(images):
            raise DataError(
                f"there are {len(labels)} labels for {len(images)} images",
                where=labels_file,
                todo="Download all four files again.",
            )
        for pixels, number in zip(images, labels, strict=True):
            yield Packed(split, class_name(CLASSES, int(number), labels_file), pixels)


def _idx(file: Path, magic: int, shape: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The bytes after the header of an idx file: magic number, count and `shape`, each 4 bytes, most significant first.

    Raises
    ------
    DataError : the header is another one, or there are more or fewer bytes than it says.
    """
    again = "Download it again."
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(8 + 4 * len(shape))
            found, count, *sizes = (int.from_bytes(header[at : at + 4]) for at in range(0, len(header), 4))
            if found != magic or tuple(sizes) != shape or count > MOST_IMAGES:
                raise DataError("this is not an idx file of the expected form", where=file, todo=again)
            size = count * int(np.prod(shape, dtype=int))
            # One byte more than there should be, to see whether there is one.
            values = stream.read(size + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"this file is damaged or was cut short ({error})", where=file, todo=again) from error
    if len(values) != size:
        what = "fewer" if len(values) < size else "more"
        raise DataError(f"this file holds {what} values than its header says", where=file, todo=again)
    return np.frombuffer(values, np.uint8)


LAYOUT = Layout(NAME, TITLE, recognise, read)
