"""Real-IAD (Wang et al., CVPR 2024, arXiv 2403.12580): lists in .json files, images in a folder per resolution."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish.data.files import entries
from blemish.data.layout.base import Layout, refuse_categories
from blemish.data.samples import GOOD, Dataset, Label, Sample, Split, assemble
from blemish.errors import DataError

NAME = "real-iad"
TITLE = "realiad_jsons/CATEGORY.json beside realiad_1024/CATEGORY/; other splits by pointing at their folder of .json"

CLEAN = "realiad_jsons"
"""The multi-view split. Folders of other splits have names that begin so: realiad_jsons_sv is of a single view."""

LABEL_FREE = f"{CLEAN}_fuiad_"
"""Splits of the fully unsupervised setting end in their share of anomalous training images: 0.0, 0.1, 0.2, 0.4."""

IMAGE_FOLDERS = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")
"""In the order of preference: the publication evaluates at 1024."""


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    anomaly_class: str
    image_path: str
    mask_path: str | None


class _Meta(BaseModel):
    model_config = ConfigDict(strict=True)

    prefix: str
    normal_class: str


class _Lists(BaseModel):
    model_config = ConfigDict(strict=True)

    meta: _Meta
    train: list[_Entry]
    test: list[_Entry]


def recognise(root: Path) -> bool:
    """Whether `root` is a category's .json file in a folder realiad_jsons..., that folder, or the dataset's folder."""
    if root.is_file():
        return root.suffix == ".json" and root.resolve().parent.name.startswith(CLEAN)
    return root.is_dir() and _folder_of_lists(root) is not None


def read(root: Path) -> Dataset:
    """Read the lists of one category, of the split in whose folder they lie.

    `root` is the .json file, or a folder that holds just one. The dataset's own folder stands for the clean multi-view
    split, realiad_jsons. The training images of a fully unsupervised split, realiad_jsons_fuiad_..., have no label
    here, as the setting is to do without. A test image is anomalous if its class is not the normal one and it has a
    mask: from some of the five sides a defect cannot be seen, and the authors' own loader counts it so too.

    Raises
    ------
    DataError : not this layout; several categories; a .json file of another form; the images are not there.
    """
    found = categories(root)
    if len(found) == 1:
        return read(*found.values())
    refuse_categories(root, found)
    if not recognise(root):
        raise DataError("this is not the layout real-iad", where=root, todo=f"Expected {TITLE}.")

    lists = _read_lists(root)
    split_name = root.resolve().parent.name
    label_free = split_name.startswith(LABEL_FREE)
    folder = _inside(_image_folder(root), lists.meta.prefix, root)
    if not folder.is_dir():
        raise DataError("the images of this list are missing", where=root, todo=f"Unpack them to {folder}.")

    def sample(entry: _Entry, split: Split) -> Sample:
        image = _inside(folder, entry.image_path, root)
        if split == "train" and label_free:
            return Sample(image, None, split, "")
        normal = entry.anomaly_class == lists.meta.normal_class or (split == "test" and entry.mask_path is None)
        label: Label = "normal" if normal else "anomalous"
        mask = _inside(folder, entry.mask_path, root) if entry.mask_path and not normal else None
        return Sample(image, label, split, GOOD if normal else entry.anomaly_class, mask)

    samples = [sample(entry, "train") for entry in lists.train] + [sample(entry, "test") for entry in lists.test]
    why = f"split by {split_name}/{root.name}" + ("; training images without labels" if label_free else "")
    return assemble(folder, NAME, samples, why, passed_over=0)


def categories(root: Path) -> dict[str, Path]:
    """The .json file of each category, by its name; empty if `root` is such a file."""
    folder = _folder_of_lists(root) if root.is_dir() else None
    return {path.stem: path for path in _lists_in(folder)} if folder else {}


def _folder_of_lists(root: Path) -> Path | None:
    """`root` if it holds lists, else its folder realiad_jsons; the archive has that within a folder of that name."""
    for folder in (root, root / CLEAN, root / CLEAN / CLEAN):
        if folder.resolve().name.startswith(CLEAN) and folder.is_dir() and _lists_in(folder):
            return folder
    return None


def _lists_in(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix == ".json" and path.is_file()]


def _image_folder(file: Path) -> Path:
    """The folder of images, beside the folder of lists or one above."""
    holders = file.resolve().parents[1:3]
    for holder in holders:
        for name in IMAGE_FOLDERS:
            if (holder / name).is_dir():
                return holder / name
    raise DataError(
        "the images of this list are missing",
        where=file,
        todo=f"Unpack them to {holders[0] / IMAGE_FOLDERS[0]}; {', '.join(IMAGE_FOLDERS[1:])} are taken too.",
    )


def _inside(folder: Path, text: str, file: Path) -> Path:
    """The path below `folder` that a list names."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f'"{text}" leads out of the folder of images', where=file, todo="Take the published file.")
    return folder / path


def _read_lists(file: Path) -> _Lists:
    try:
        return _Lists.model_validate(json.loads(file.read_bytes()))
    except OSError as error:
        raise DataError(
            f"this file cannot be read ({error.strerror})", where=file, todo="Check its permissions."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f'this is not a list of Real-IAD: at "{place}", {first["msg"][:1].lower() + first["msg"][1:]}',
            where=file,
            todo="Take the published file.",
        ) from error
    except ValueError as error:
        raise DataError(f"this is not valid JSON ({error})", where=file, todo="Take the published file.") from error


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
