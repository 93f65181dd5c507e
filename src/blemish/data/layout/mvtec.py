"""MVTec AD's layout (Bergmann et al., CVPR 2019), which many industrial datasets share."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import GOOD_NAMES, MASK_NAMES, Masks, list_images, loose_images, named, subfolders
from blemish.data.layout.base import Layout, refuse_categories
from blemish.data.samples import GOOD, Dataset, Sample, Split, assemble
from blemish.errors import DataError

NAME = "mvtec"
TITLE = "train/good/, test/good/ and test/DEFECT/, masks in ground_truth/DEFECT/NAME_mask.png; masks may be missing"

SPLITS: tuple[Split, ...] = ("train", "test")


def recognise(root: Path) -> bool:
    """Whether `root` is one category, or a folder of categories (which `read` refuses with advice)."""
    return root.is_dir() and (_is_category(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one category.

    Folder names are compared in lower case, and "ok" and "normal" mean "good". A folder in train/ other than
    train/good/ is taken as training images that are known to be bad.

    Raises
    ------
    DataError : not this layout; a folder of several categories; images directly in train/ or test/.
    """
    if not _is_category(root):
        refuse_categories(root, categories(root))
        raise DataError("this is not the layout mvtec", where=root, todo=f"Expected {TITLE}.")

    masks = Masks(named(subfolders(root), MASK_NAMES))
    samples: list[Sample] = []
    passed_over = 0
    for split in SPLITS:
        for split_folder in named(subfolders(root), frozenset({split})):
            if loose_images(split_folder):
                raise DataError(
                    f"images lie directly in {split_folder.name}/, where it cannot be told good from bad",
                    where=split_folder,
                    todo=f"Move the good ones to {split_folder / GOOD} and each defect's to a folder of its name.",
                )
            for kind_folder in subfolders(split_folder):
                listing = list_images(kind_folder)
                passed_over += listing.passed_over
                is_good = kind_folder.name.lower() in GOOD_NAMES
                samples += [
                    Sample(image, "normal", split, GOOD)
                    if is_good
                    else Sample(image, "anomalous", split, kind_folder.name, masks.of(image.relative_to(split_folder)))
                    for image in listing.images
                ]
    return assemble(root, NAME, samples, "split by its folders train and test", passed_over)


def _is_category(root: Path) -> bool:
    folders = subfolders(root)
    trains = any(named(subfolders(train), GOOD_NAMES) for train in named(folders, frozenset({"train"})))
    return trains or any(subfolders(test) for test in named(folders, frozenset({"test"})))


def categories(root: Path) -> dict[str, Path]:
    """Each category below `root` by name; empty if `root` is one itself."""
    return {} if _is_category(root) else {folder.name: folder for folder in subfolders(root) if _is_category(folder)}


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
