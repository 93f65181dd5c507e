"""MVTec 3D-AD (Bergmann et al., VISAPP 2022), colour images only: the point clouds in xyz/ are not read."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import GOOD_NAMES, Masks, has, list_images, subfolders
from blemish.data.layout.base import Layout, categories_below, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "mvtec-3d"
TITLE = "MVTec 3D-AD, colour only: train/good/rgb/, validation/good/rgb/, test/KIND/rgb/, masks in test/KIND/gt/"

SPLITS: dict[str, Split] = {"train": "train", "validation": "train", "test": "test"}
COLOUR, TRUTH = "rgb", "gt"


def recognise(root: Path) -> bool:
    """Whether `root` is one category, or a folder of categories."""
    return root.is_dir() and (_is_category(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read the colour images of one category. The good images of validation/ count as training images.

    All but 0 marks in a mask; which values the files hold was not verified. Good images have an (empty) mask too, which
    is not needed.

    Raises
    ------
    DataError : not this layout; a folder of several categories.
    """
    if not _is_category(root):
        refuse_categories(root, categories(root))
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    samples: list[Sample] = []
    passed_over = 0
    for name, split in SPLITS.items():
        for folder in subfolders(root / name) if has(root, name) else ():
            if not has(folder, COLOUR):
                continue
            listing = list_images(folder / COLOUR)
            passed_over += listing.passed_over
            if folder.name in GOOD_NAMES:
                samples += [Sample(image, "normal", split, GOOD) for image in listing.images]
            else:
                masks = Masks((folder / TRUTH,) if has(folder, TRUTH) else ())
                samples += [
                    Sample(
                        image,
                        "anomalous",
                        split,
                        folder.name,
                        masks.of(image.relative_to(folder / COLOUR)),
                        mask_rule="non-zero",
                    )
                    for image in listing.images
                ]
    why = "colour images, split by their folders; validation/ trains too, being good images"
    return assemble(root, NAME, samples, why, passed_over)


def _is_category(root: Path) -> bool:
    return has(root, f"train/good/{COLOUR}")


def categories(root: Path) -> dict[str, Path]:
    """Each category below `root` by name; empty if `root` is one itself."""
    return categories_below(root, _is_category)


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
