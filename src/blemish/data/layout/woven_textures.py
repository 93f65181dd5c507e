"""The two woven fabric textures of Bergmann et al. (VISAPP 2019, arXiv 1807.02011).

The layout is the one that public code reads: texture_1/ and texture_2/, each with train/good/, test/good/,
test/defective/ and ground_truth/defective/. Some of that code has the masks in test/defective/ground_truth/ beside
test/defective/test_images/, which is taken too. How the archive itself names its masks could not be verified: a mask
goes by its image's name, with or without "_mask".
"""

from __future__ import annotations

import re
from pathlib import Path

from blemish.data.files import GOOD_NAMES, MASK_NAMES, Masks, list_images, named, subfolders
from blemish.data.layout.base import Layout, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "woven-textures"
TITLE = "texture_1/ and texture_2/ with train/good/, test/good/ and test/defective/, masks in ground_truth/defective/"

TEXTURE = re.compile(r"texture_\d+")
SPLITS: tuple[Split, ...] = ("train", "test")
DEFECTIVE = "defective"


def recognise(root: Path) -> bool:
    """Whether `root` is a folder texture_N with test/defective/, or holds such folders."""
    return root.is_dir() and (_is_texture(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one texture.

    Raises
    ------
    DataError : not this layout; a folder of several textures.
    """
    if not _is_texture(root):
        refuse_categories(root, categories(root))
        raise DataError("this is not the layout woven-textures", where=root, todo=f"Expected {TITLE}.")

    defective = root / "test" / DEFECTIVE
    inner_masks = named(subfolders(defective), MASK_NAMES)
    beside = Masks(named(subfolders(root), MASK_NAMES))
    within = Masks(inner_masks)
    samples: list[Sample] = []
    passed_over = 0
    for split in SPLITS:
        for folder in named(subfolders(root / split), GOOD_NAMES):
            listing = list_images(folder)
            passed_over += listing.passed_over
            samples += [Sample(image, "normal", split, GOOD) for image in listing.images]
    listing = list_images(defective)
    passed_over += listing.passed_over
    for image in listing.images:
        if not any(image.is_relative_to(folder) for folder in inner_masks):
            mask = beside.of(image.relative_to(root / "test")) or within.of(Path(image.name))
            samples.append(Sample(image, "anomalous", "test", DEFECTIVE, mask))
    return assemble(root, NAME, samples, "split by its folders train and test", passed_over)


def categories(root: Path) -> dict[str, Path]:
    """Each texture below `root` by name; empty if `root` is one itself."""
    return {} if _is_texture(root) else {folder.name: folder for folder in subfolders(root) if _is_texture(folder)}


def _is_texture(root: Path) -> bool:
    return TEXTURE.fullmatch(root.resolve().name) is not None and (root / "test" / DEFECTIVE).is_dir()


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
