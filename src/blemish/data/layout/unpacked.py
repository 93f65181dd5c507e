"""Datasets published as a few binary files: their images are unpacked once, as PNG files in a cache folder.

Everything that reads a sample reads an image file. The cache is the folder that BLEMISH_CACHE names, else
~/.cache/blemish; in it, each dataset has a folder with the sha256 of its files as name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.data.samples import Dataset, Sample, Split
from blemish.errors import DataError

FORM = b"1"
"""Changes when images are to be unpacked otherwise than before, so that older folders are not taken."""

COUNT_FILE = "count.txt"


@dataclass(frozen=True)
class Packed:
    """One image of a binary file.

    Parameters
    ----------
    split : as published. kind : name of its class.
    pixels : H x W (grey) or H x W x 3 (RGB), uint8.
    group : folders between the split's and the kind's, such as a superclass; "" for none.
    """

    split: Split
    kind: str
    pixels: NDArray[np.uint8]
    group: str = ""


def read_unpacked(layout: str, files: Sequence[Path], unpack: Callable[[], Iterable[Packed]]) -> Dataset:
    """The dataset in `files`; `unpack` gives its images and is called only if they are not in the cache yet.

    An image becomes SPLIT/KIND/NUMBER.png, counted from 0 within its split; what no folder can be called is replaced
    in KIND. Samples carry the class as their kind and no label: which class is normal is for a protocol to say.

    Raises
    ------
    DataError : a file cannot be read; what `unpack` raises; the cache cannot be written, or images in it are missing.
    """
    root = cache_folder() / _digest(layout, files)
    if not root.is_dir():
        _write(root, unpack())
    images = _images(root)
    count_file = root / COUNT_FILE
    if not count_file.is_file() or count_file.read_text("utf-8").strip() != str(len(images)):
        raise DataError("images are missing from this cache folder", where=root, todo="Delete it and start again.")
    samples = tuple(Sample(root / image, None, _split_of(image), _kind_of(image)) for image in images)
    counts = Counter(sample.split for sample in samples)
    note = (
        f"Layout {layout} (unpacked from its binary files, split as published): {counts['train']} images train, "
        f"{counts['test']} images test, of {len({sample.kind for sample in samples})} classes; no labels, as no class "
        "is normal in itself."
    )
    return Dataset(layout, root, layout, samples, note)


def cache_folder() -> Path:
    """The folder that BLEMISH_CACHE names, else ~/.cache/blemish; it need not exist."""
    named = os.environ.get("BLEMISH_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "blemish"


def content(file: Path, size: int) -> bytes:
    """All bytes of a file that must have `size` of them.

    Raises
    ------
    DataError : it cannot be read or has another size.
    """
    try:
        found = file.stat().st_size
        if found == size:
            return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error
    raise DataError(
        f"this file has {found:,} bytes instead of {size:,}" + (": it was cut short" if found < size else ""),
        where=file,
        todo="Download it again.",
    )


def class_names(file: Path, count: int) -> tuple[str, ...]:
    """The names of classes in a text file, one a line.

    Raises
    ------
    DataError : it cannot be read, or does not hold `count` different names.
    """
    try:
        names = tuple(file.read_text("ascii").split())
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise DataError("this is not a list of class names", where=file, todo="Download it again.") from error
    if len(set(names)) != count or len(names) != count:
        raise DataError(f"this file holds {len(names)} class names, not {count}", where=file, todo="Download it again.")
    return names


def class_name(names: Sequence[str], number: int, file: Path) -> str:
    """The name of class `number`.

    Raises
    ------
    DataError : there is no such class.
    """
    if number >= len(names):
        raise DataError(
            f"an image is of class {number}, but there are only {len(names)}", where=file, todo="Download it again."
        )
    return names[number]


def _digest(layout: str, files: Sequence[Path]) -> str:
    """sha256 of what is unpacked and how: the layout and the content of the files, in order."""
    total = hashlib.sha256(b"\0".join([FORM, layout.encode()]))
    for path in files:
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise _unreadable(path, error) from error
    return total.hexdigest()


def _write(root: Path, images: Iterable[Packed]) -> None:
    """Write the images to a temporary folder, then give it the name `root`: what is there is complete."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=root.parent) as temporary:
            fresh = Path(temporary) / root.name
            fresh.mkdir()
            numbers: Counter[Split] = Counter()
            for image in images:
                folder = fresh / image.split / image.group / _as_folder(image.kind)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.pixels).save(folder / f"{numbers[image.split]:05}.png", compress_level=1)
                numbers[image.split] += 1
            (fresh / COUNT_FILE).write_text(f"{numbers.total()}\n", "ascii")
            try:
                fresh.rename(root)
            except OSError:
                # Another process was faster: the same files have become the same images.
                if not root.is_dir():
                    raise
    except OSError as error:
        raise DataError(
            f"its images cannot be unpacked to the cache ({error.strerror})",
            where=root.parent,
            todo="Make room, or name another folder in the environment variable BLEMISH_CACHE.",
        ) from error


def _images(root: Path) -> list[str]:
    """Images below `root`, as sorted posix paths. Unlike `list_images` it asks for no file's kind: there are 60,000."""
    found = [(Path(folder).relative_to(root).as_posix(), names) for folder, _, names in os.walk(root)]
    return sorted(f"{folder}/{name}" for folder, names in found for name in names if name.endswith(".png"))


def _as_folder(kind: str) -> str:
    # A slash is the only character of the published names that no folder may have; "%" undoes it without a table.
    return kind.replace("/", "%2F")


def _kind_of(image: str) -> str:
    return image.split("/")[-2].replace("%2F", "/")


def _split_of(image: str) -> Split:
    return "train" if image.startswith("train/") else "test"


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(f"this file cannot be read ({error.strerror})", where=file, todo="Check its permissions.")
