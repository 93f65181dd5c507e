"""Which image files lie below a folder, and which masks go with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from blemish.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

GOOD_NAMES = frozenset({"good", "ok", "normal"})
MASK_NAMES = frozenset({"ground_truth", "masks"})


@dataclass(frozen=True)
class Listing:
    """Image files below a folder.

    Parameters
    ----------
    images : sorted by posix path relative to the folder. Chosen by name alone: a broken image is listed too, so that
        whoever reads it can report it.
    passed_over : number of files left aside: hidden ones and those whose name is not an image's.
    """

    images: tuple[Path, ...]
    passed_over: int


def list_images(folder: Path) -> Listing:
    """List the images below `folder`, at any depth.

    Links to folders are followed, but each folder is listed once, under its own name where it has one below `folder`:
    a loop of links ends, and no image is found twice by two ways. Hidden folders are not entered.

    Raises
    ------
    DataError : a folder cannot be read.
    """
    images: list[Path] = []
    passed_over = 0
    folders, links = [folder], list[Path]()
    seen: set[str] = set()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        for path in entries(here):
            hidden = path.name.startswith(".")
            if path.is_dir():
                if not hidden:
                    (links if path.is_symlink() else folders).append(path)
            # A pipe or a device would block whoever opens it. A link to nowhere is a broken image.
            elif not hidden and is_image_name(path) and (path.is_file() or not path.exists()):
                images.append(path)
            else:
                passed_over += 1
    images.sort(key=lambda path: path.relative_to(folder).as_posix())
    return Listing(tuple(images), passed_over)


def is_image_name(path: Path) -> bool:
    """Whether the name ends like an image's, in whatever case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def entries(folder: Path) -> list[Path]:
    """Everything directly in `folder`, sorted by name.

    Raises
    ------
    DataError : `folder` cannot be read.
    """
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"this folder cannot be read ({error.strerror})", where=folder, todo="Check its permissions."
        ) from error


def subfolders(folder: Path) -> tuple[Path, ...]:
    """Folders directly in `folder` that are not hidden, sorted by name.

    Raises
    ------
    DataError : `folder` cannot be read.
    """
    return tuple(path for path in entries(folder) if path.is_dir() and not path.name.startswith("."))


def loose_images(folder: Path) -> tuple[Path, ...]:
    """Images directly in `folder`, sorted by name."""
    return tuple(
        path for path in entries(folder) if is_image_name(path) and not path.is_dir() and not path.name.startswith(".")
    )


def named(folders: tuple[Path, ...], names: frozenset[str]) -> tuple[Path, ...]:
    """Those of `folders` that have one of the lower-case `names`, in whatever case."""
    return tuple(folder for folder in folders if folder.name.lower() in names)


def has(folder: Path, inside: str) -> bool:
    """Whether `folder` has the file or folder `inside`, a relative path; not if that cannot be looked up."""
    try:
        return (folder / inside).exists()
    except OSError:
        return False


class Masks:
    """The masks below a folder such as ground_truth/, by the image they belong to.

    The mask of `scratch/001.png` is `scratch/001_mask.png` or `scratch/001.png`, with any image suffix.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._by_name = {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for folder in folders
            for path in list_images(folder).images
        }

    def of(self, image: Path) -> Path | None:
        """Mask of `image`, a path that begins with the defect's name; None if there is none."""
        name = image.with_suffix("").as_posix()
        return self._by_name.get(f"{name}_mask") or self._by_name.get(name)
