"""KolektorSDD: surfaces of commutators (Tabernik et al., Journal of Intelligent Manufacturing, 2020).

The version whose labels are boxes, published later, lies in the same way.
"""

from __future__ import annotations

import re
from pathlib import Path

from blemish.data.files import entries, loose_images, subfolders
from blemish.data.layout.base import Layout
from blemish.data.masks import read_values
from blemish.data.samples import GOOD, Dataset, Sample, assemble
from blemish.data.splits import train_share
from blemish.errors import DataError

NAME = "kolektor-sdd"
TITLE = "KolektorSDD: kosNN/PartN.jpg, each with PartN_label.bmp; the good images of 80 % of the parts train"

PART = re.compile(r"kos\d+")
LABEL_ENDING = "_label.bmp"


def recognise(root: Path) -> bool:
    """Whether `root` has a folder kosNN/ with a label image."""
    return root.is_dir() and any(
        path.name.endswith(LABEL_ENDING) for folder in _part_folders(root)[:1] for path in entries(folder)
    )


def read(root: Path) -> Dataset:
    """Read all images. Every label image is opened: an image is defective if its label is not all black.

    The publication's folds are for learning from defects too. Like them, this split keeps the images of one part
    together: the good images of 80 % of the parts train, those of the others are for testing, and so are all defective
    images.

    Raises
    ------
    DataError : not this layout; an image without a label, or one whose label cannot be read.
    """
    if not recognise(root):
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    folders = _part_folders(root)
    trains = train_share(folders)
    samples: list[Sample] = []
    passed_over = 0
    for folder in folders:
        pictures = [path for path in loose_images(folder) if path.suffix.lower() in {".jpg", ".jpeg"}]
        for image in pictures:
            label = image.with_name(image.stem + LABEL_ENDING)
            # A label that is not there is refused here too: nothing else says whether the image is a good one.
            values, _ = read_values(label)
            if values.any():
                samples.append(Sample(image, "anomalous", "test", "", label, mask_rule="non-zero"))
            else:
                samples.append(Sample(image, "normal", "train" if folder in trains else "test", GOOD))
        passed_over += sum(path.is_file() for path in entries(folder)) - 2 * len(pictures)
    why = "good by their black labels; those of 80 % of the folders train, chosen by the hash of the folders' names"
    return assemble(root, NAME, samples, why, passed_over)


def _part_folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if PART.fullmatch(folder.name)]


LAYOUT = Layout(NAME, TITLE, recognise, read)
