"""The patterned fabrics of Tsang, Ngan and Pang (Pattern Recognition 51, 2016): dot-, star- and box-patterned.

Surveys call it the fabric dataset. It is to be had from its authors, and how their archive lies on disk could not be
verified. What this reads is known from public code that works on it: one folder per pattern, in which the name of a
defective image is bad_CODENUMBER, such as bad_tn3.png for the third thin bar. How good images are named there is not
known, so an image counts as good only where its name or a folder's says so; any other is refused, not guessed.
"""

from __future__ import annotations

import re
from pathlib import Path

from blemish.data.files import GOOD_NAMES, MASK_NAMES, list_images, named, subfolders
from blemish.data.layout.base import Layout, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, assemble
from blemish.data.splits import train_share
from blemish.errors import DataError

NAME = "fabric"
TITLE = "star/, dot/ and box/ with images bad_CODENUMBER, and good ones called good... or in a folder good/ or train/"

PATTERN = re.compile(r"(dot|star|box)([ _-]?pattern(ed)?)?", re.IGNORECASE)
BAD = re.compile(r"bad_([a-z]+)\d+", re.IGNORECASE)
GOOD_FILE = re.compile(r"(good|ok|normal)([ _-]?\d+)?", re.IGNORECASE)
TRAIN = "train"

_COMMON = {"bn": "broken end", "he": "hole", "nn": "netting multiple", "tk": "thick bar", "tn": "thin bar"}
KINDS = {
    "star": _COMMON,
    "box": _COMMON,
    "dot": {
        "b": "broken end",
        "h": "hole",
        "k": "knots",
        "n": "netting multiple",
        "tt": "thick bar",
        "t": "thin bar",
        "l": "loose pick",
        "m": "miss pick",
        "op": "oil warp",
        "ot": "oil weft",
    },
}
"""What the codes stand for, by pattern; a code that is not here is the kind's name itself."""


def recognise(root: Path) -> bool:
    """Whether `root` is the folder of a pattern with an image bad_CODENUMBER, or holds such folders."""
    return root.is_dir() and (_is_pattern(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one pattern.

    No split is published. Good images in a folder train/ train; if there is no such folder, 80 % of the good ones do.
    A mask has its image's name, with or without "_mask", in a folder ground_truth/ or masks/.

    Raises
    ------
    DataError : not this layout; a folder of several patterns; an image whose name says neither good nor bad.
    """
    if not _is_pattern(root):
        refuse_categories(root, categories(root))
        raise DataError("this is not the layout fabric", where=root, todo=f"Expected {TITLE}.")

    codes = KINDS[_pattern(root)]
    listing = list_images(root)
    masks = {
        path.stem.removesuffix("_mask"): path
        for path in listing.images
        if named(tuple(path.relative_to(root).parents), MASK_NAMES)
    }
    good: list[Path] = []
    samples: list[Sample] = []
    for image in listing.images:
        if image in masks.values():
            continue
        bad = BAD.fullmatch(image.stem)
        if bad:
            code = bad[1].lower()
            samples.append(Sample(image, "anomalous", "test", codes.get(code, code), masks.get(image.stem)))
        elif _says_good(image.relative_to(root)):
            good.append(image)
        else:
            raise DataError(
                "its name says neither good nor bad",
                where=image,
                todo="Call it good_NUMBER or bad_CODENUMBER, or put good images into a folder good/.",
            )
    if named(subfolders(root), frozenset({TRAIN})):
        trains = frozenset(path for path in good if path.relative_to(root).parts[0].lower() == TRAIN)
        why = "its good images in the folder train train"
    else:
        trains = train_share(good)
        why = "80 % of the good images train, chosen by the hash of their names"
    samples += [Sample(path, "normal", "train" if path in trains else "test", GOOD) for path in good]
    return assemble(root, NAME, samples, why, listing.passed_over)


def categories(root: Path) -> dict[str, Path]:
    """Each pattern below `root` by name; empty if `root` is one itself."""
    return {} if _is_pattern(root) else {folder.name: folder for folder in subfolders(root) if _is_pattern(folder)}


def _is_pattern(root: Path) -> bool:
    return PATTERN.fullmatch(root.resolve().name) is not None and any(
        BAD.fullmatch(image.stem) for image in list_images(root).images
    )


def _pattern(root: Path) -> str:
    match = PATTERN.fullmatch(root.resolve().name)
    assert match is not None
    return match[1].lower()


def _says_good(image: Path) -> bool:
    folders = {folder.lower() for folder in image.parts[:-1]}
    return bool(folders & (GOOD_NAMES | {TRAIN})) or GOOD_FILE.fullmatch(image.stem) is not None


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
