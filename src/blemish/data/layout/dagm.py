"""The made-up textures of the DAGM 2007 competition (Wieler and Hahn, Heidelberg, 2007), as they are published."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import list_images, loose_images, named, subfolders
from blemish.data.layout.base import Layout, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "dagm"
TITLE = "ClassN/Train/*.PNG and ClassN/Test/*.PNG, a defect's mask in Label/NAME_label.PNG beside them"

SPLITS: tuple[Split, ...] = ("train", "test")
LABEL_FOLDER = frozenset({"label"})
LABEL_ENDING = "_label"
DEFECT = "defect"


def recognise(root: Path) -> bool:
    """Whether `root` is one class, with Train/ and Test/ of which one has a folder Label/; or a folder of classes."""
    return root.is_dir() and (_is_class(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one class. An image is defective if it has a label image.

    The competition was one of weakly supervised learning: defective images are among those to train on. A model of
    what is normal must not learn them, so they are left out, and the note says how many. The masks are weak labels,
    ellipses drawn generously around the defects.

    Raises
    ------
    DataError : not this layout; a folder of several classes.
    """
    if not _is_class(root):
        refuse_categories(root, categories(root))
        raise DataError("this is not the layout dagm", where=root, todo=f"Expected {TITLE}.")

    samples: list[Sample] = []
    left_out = 0
    passed_over = 0
    for split in SPLITS:
        for folder in named(subfolders(root), frozenset({split})):
            images = loose_images(folder)
            masks = _masks(folder)
            passed_over += len(masks.keys() - {image.stem for image in images})
            for image in images:
                if image.stem not in masks:
                    samples.append(Sample(image, "normal", split, GOOD))
                elif split == "test":
                    samples.append(Sample(image, "anomalous", "test", DEFECT, masks[image.stem]))
                else:
                    left_out += 1
    why = "split by its folders Train and Test"
    if left_out:
        why += f"; {left_out} defective {'image' if left_out == 1 else 'images'} of Train left out"
    return assemble(root, NAME, samples, why, passed_over)


def categories(root: Path) -> dict[str, Path]:
    """Each class below `root` by name; empty if `root` is one itself."""
    return {} if _is_class(root) else {folder.name: folder for folder in subfolders(root) if _is_class(folder)}


def _is_class(root: Path) -> bool:
    parts = [named(subfolders(root), frozenset({split})) for split in SPLITS]
    return all(parts) and any(named(subfolders(folder), LABEL_FOLDER) for folders in parts for folder in folders)


def _masks(folder: Path) -> dict[str, Path]:
    """Label images, by the stem of the image they belong to."""
    return {
        path.stem.removesuffix(LABEL_ENDING): path
        for labels in named(subfolders(folder), LABEL_FOLDER)
        for path in list_images(labels).images
        if path.stem.endswith(LABEL_ENDING)
    }


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
