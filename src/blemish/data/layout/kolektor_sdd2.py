"""KolektorSDD2: surfaces with defects of many kinds (Božič et al., Computers in Industry, 2021)."""

from __future__ import annotations

import re
from pathlib import Path

from blemish.data.files import entries, list_images
from blemish.data.layout.base import Layout
from blemish.data.masks import read_values
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "kolektor-sdd2"
TITLE = "KolektorSDD2: train/NNNNN.png and test/NNNNN.png, each with NNNNN_GT.png; the good images of train/ train"

SPLITS: tuple[Split, ...] = ("train", "test")
IMAGE = re.compile(r"\d+\.png")
MASK_ENDING = "_GT.png"
MASK = re.compile(rf"\d+{MASK_ENDING}")


def recognise(root: Path) -> bool:
    """Whether `root` has train/ and test/, both with images called NNNNN_GT.png."""
    return root.is_dir() and all(
        (root / split).is_dir() and any(MASK.fullmatch(path.name) for path in entries(root / split)) for split in SPLITS
    )


def read(root: Path) -> Dataset:
    """Read all images, split as published. Every mask is opened: an image is defective if its mask is not all black.

    The defective images of train/ (246 of 2331) are left out, and the note says how many: they are there to learn
    defects from, and Blemish learns from good images. Files of other names are passed over, such as the stray copy of
    an image and of its mask that the published train/ holds.

    Raises
    ------
    DataError : not this layout; an image without a mask, or one whose mask cannot be read.
    """
    if not recognise(root):
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    samples: list[Sample] = []
    passed_over = left_out = 0
    for split in SPLITS:
        listing = list_images(root / split)
        pictures = [path for path in listing.images if IMAGE.fullmatch(path.name)]
        for image in pictures:
            mask = image.with_name(image.stem + MASK_ENDING)
            # A mask that is not there is refused here too: nothing else says whether the image is a good one.
            values, _ = read_values(mask)
            if not values.any():
                samples.append(Sample(image, "normal", split, GOOD))
            elif split == "test":
                samples.append(Sample(image, "anomalous", split, "", mask, mask_rule="non-zero"))
            else:
                left_out += 1
        passed_over += listing.passed_over + len(listing.images) - 2 * len(pictures)
    why = f"split by its folders train and test; defective images of train/ left out: {left_out}"
    return assemble(root, NAME, samples, why, passed_over)


LAYOUT = Layout(NAME, TITLE, recognise, read)
