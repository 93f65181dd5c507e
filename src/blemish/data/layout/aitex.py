"""AITEX, the fabric image database AFID (Silvestre-Blanes et al., AUTEX Research Journal, 2019)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from blemish.data.files import has, list_images
from blemish.data.layout.base import Layout
from blemish.data.samples import GOOD, Dataset, Sample, assemble
from blemish.data.splits import train_share
from blemish.errors import DataError

NAME = "aitex"
TITLE = "AITEX: NODefect_images/*/, Defect_images/NNNN_DDD_FF.png, Mask_images/NNNN_DDD_FF_mask.png; 80 % of good train"

GOOD_FOLDER, BAD_FOLDER, MASK_FOLDER = "NODefect_images", "Defect_images", "Mask_images"
KINDS = {
    "002": "broken end",
    "006": "broken yarn",
    "010": "broken pick",
    "016": "weft curling",
    "019": "fuzzyball",
    "022": "cut selvage",
    "023": "crease",
    "025": "warp ball",
    "027": "knots",
    "029": "contamination",
    "030": "nep",
    "036": "weft crack",
}
"""By the code in the middle of an image's name; the last part is the code of the fabric."""


def recognise(root: Path) -> bool:
    """Whether `root` has NODefect_images/ and Defect_images/."""
    return root.is_dir() and has(root, GOOD_FOLDER) and has(root, BAD_FOLDER)


def read(root: Path) -> Dataset:
    """Read the images of all fabrics; the publication brings no split, so 80 % of NODefect_images train.

    Two images have two masks (NAME_mask1.png, NAME_mask2.png), which add up; one, 0100_025_08, has none.

    Raises
    ------
    DataError : not this layout.
    """
    if not recognise(root):
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    good, bad = list_images(root / GOOD_FOLDER), list_images(root / BAD_FOLDER)
    masks: defaultdict[str, list[Path]] = defaultdict(list)
    passed_over = good.passed_over + bad.passed_over
    if has(root, MASK_FOLDER):
        listing = list_images(root / MASK_FOLDER)
        passed_over += listing.passed_over
        for path in listing.images:
            image, _, _ = path.stem.rpartition("_mask")
            masks[image].append(path)
    trains = train_share(good.images)
    samples = [Sample(path, "normal", "train" if path in trains else "test", GOOD) for path in good.images]
    for path in bad.images:
        parts = masks.pop(path.stem, [])
        first = parts[0] if parts else None
        samples.append(Sample(path, "anomalous", "test", _kind(path), first, more_masks=tuple(parts[1:])))
    passed_over += sum(len(orphans) for orphans in masks.values())
    why = f"80 % of {GOOD_FOLDER} train, chosen by the hash of their names"
    return assemble(root, NAME, samples, why, passed_over)


def _kind(image: Path) -> str:
    parts = image.stem.split("_")
    code = parts[1] if len(parts) == 3 else ""
    return KINDS.get(code, code)


LAYOUT = Layout(NAME, TITLE, recognise, read)
