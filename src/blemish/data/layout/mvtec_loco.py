"""MVTec LOCO AD: structural and logical anomalies (Bergmann et al., IJCV 2022).

Each anomaly has a mask image of its own, and an anomaly may be found without all of its mask being marked: how much
suffices, its saturation area, is in `defects_config.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish.data.files import GOOD_NAMES, has, list_images, subfolders
from blemish.data.layout.base import Layout, categories_below, refuse_categories
from blemish.data.masks import read_values
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "mvtec-loco"
TITLE = "MVTec LOCO AD: train/good/, validation/good/, test/KIND/NNN.png, masks ground_truth/KIND/NNN/*.png"

SPLITS: dict[str, Split] = {"train": "train", "validation": "train", "test": "test"}
TRUTH = "ground_truth"
CONFIG = "defects_config.json"


def recognise(root: Path) -> bool:
    """Whether `root` is one category, or a folder of categories."""
    return root.is_dir() and (_is_category(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one category. The good images of validation/ count as training images.

    A mask's values name the kind of defect (255, 254, ...), so all but 0 marks.

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
            listing = list_images(folder)
            passed_over += listing.passed_over
            if folder.name in GOOD_NAMES:
                samples += [Sample(image, "normal", split, GOOD) for image in listing.images]
            else:
                samples += [
                    Sample(image, "anomalous", split, folder.name, _masks(root, image), mask_rule="non-zero")
                    for image in listing.images
                ]
    return assemble(root, NAME, samples, "split by its folders; validation/ trains too, being good images", passed_over)


def loco_regions(sample: Sample, shape: tuple[int, int]) -> list[tuple[NDArray[np.bool_], int]]:
    """The regions of a sample of this layout, each with its saturation area, as the dataset's evaluation defines them.

    Every mask image is one region, connected or not. Its saturation area is, by the kind of defect that its value
    names, the saturation threshold as a share of the region's area, rounded down; or as a number of pixels, but no more
    than the region has. It is at least 1.

    Parameters
    ----------
    shape : height and width of the sample's image. Thresholds in pixels are meant for the image's own size.

    Returns
    -------
    For each mask image, by name: H x W, true on the region; and its saturation area in pixels. Empty for a normal
    sample.

    Raises
    ------
    DataError : an anomalous sample has no masks; a mask cannot be read, has another size, or has not exactly one value
        other than 0; `defects_config.json` is missing, damaged, or does not know a value.
    """
    if sample.label == "normal":
        return []
    if sample.mask is None or not sample.mask.is_dir():
        raise DataError("this image has no folder of masks", where=sample.path, todo=f"Expected {TITLE}.")
    config = sample.mask.parents[2] / CONFIG
    thresholds = _thresholds(config)
    regions = []
    for path in list_images(sample.mask).images:
        values, _ = read_values(path, shape)
        region = values > 0
        found = np.unique(values[region]).tolist()
        if len(found) != 1 or found[0] not in thresholds:
            raise DataError(
                f"the values of this mask are {found}, where one is expected that {CONFIG} knows",
                where=path,
                todo=f"Compare it with {config}, or fetch the dataset anew.",
            )
        threshold, relative = thresholds[found[0]]
        area = int(region.sum())
        # A share that rounds down to no pixel would leave nothing to find.
        regions.append((region, max(1, int(threshold * area) if relative else min(int(threshold), area))))
    return regions


def _is_category(root: Path) -> bool:
    return has(root, "train/good") and (has(root, CONFIG) or has(root, "test/logical_anomalies"))


def categories(root: Path) -> dict[str, Path]:
    """Each category below `root` by name; empty if `root` is one itself."""
    return categories_below(root, _is_category)


def _masks(root: Path, image: Path) -> Path | None:
    folder = root / TRUTH / image.parent.name / image.stem
    return folder if folder.is_dir() else None


def _thresholds(config: Path) -> dict[int, tuple[float, bool]]:
    """By the value in a mask: the saturation threshold, and whether it is a share of the region's area."""
    try:
        entries = json.loads(config.read_text(encoding="utf-8"))
        return {
            int(entry["pixel_value"]): (float(entry["saturation_threshold"]), bool(entry["relative_saturation"]))
            for entry in entries
        }
    except FileNotFoundError as error:
        raise DataError("this file is not there", where=config, todo="It is part of the download.") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"this file cannot be used ({type(error).__name__}: {error})", where=config, todo="Fetch it anew."
        ) from error


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
