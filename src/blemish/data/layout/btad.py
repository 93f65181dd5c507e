"""BTAD, the beanTech anomaly detection dataset (Mishra et al., "VT-ADL", ISIE 2021)."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import Masks, has, list_images
from blemish.data.layout.base import Layout, categories_below, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "btad"
TITLE = "BTAD: folders 01, 02 and 03, each with train/ok/, test/ok/, test/ko/ and masks in ground_truth/ko/"

PRODUCTS = frozenset({"01", "02", "03"})
GOOD_FOLDERS: tuple[tuple[str, Split], ...] = (("train/ok", "train"), ("test/ok", "test"))
BAD_FOLDER = "test/ko"
TRUTH = "ground_truth/ko"


def recognise(root: Path) -> bool:
    """Whether `root` is one of the three products, or a folder that holds them.

    Other folders that say ok and ko are the business of the layout mvtec, which also knows names of defects.
    """
    return root.is_dir() and (_is_product(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one product. Masks are .png or .bmp, by product; nothing says of which kind a defect is.

    Pixels above half of the full range are marked; that no mask holds other values than 0 and 255 was not verified.

    Raises
    ------
    DataError : not this layout; a folder of several products.
    """
    if not _is_category(root):
        refuse_categories(root, categories(root))
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    samples: list[Sample] = []
    passed_over = 0
    for name, split in GOOD_FOLDERS:
        if has(root, name):
            listing = list_images(root / name)
            passed_over += listing.passed_over
            samples += [Sample(image, "normal", split, GOOD) for image in listing.images]
    masks = Masks((root / TRUTH,) if has(root, TRUTH) else ())
    listing = list_images(root / BAD_FOLDER)
    passed_over += listing.passed_over
    samples += [
        Sample(image, "anomalous", "test", "", masks.of(image.relative_to(root / BAD_FOLDER)))
        for image in listing.images
    ]
    return assemble(root, NAME, samples, "split by its folders train and test", passed_over)


def _is_category(root: Path) -> bool:
    return has(root, "train/ok") and has(root, BAD_FOLDER)


def _is_product(root: Path) -> bool:
    return root.resolve().name in PRODUCTS and _is_category(root)


def categories(root: Path) -> dict[str, Path]:
    """Each product below `root` by name; empty if `root` is one itself."""
    return categories_below(root, _is_product)


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
