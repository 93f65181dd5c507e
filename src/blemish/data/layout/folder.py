"""A plain folder of images, as people have them."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import GOOD_NAMES, MASK_NAMES, Masks, list_images, loose_images, named, subfolders
from blemish.data.layout.base import Layout
from blemish.data.samples import GOOD, Dataset, Sample, assemble
from blemish.data.splits import train_share
from blemish.errors import DataError

NAME = "folder"
TITLE = "images of good parts only, at any depth; or good/ beside one folder per defect, masks in ground_truth/DEFECT/"

BAD_NAMES = frozenset({"bad", "ng", "nok", "ko", "anomaly", "anomalous", "abnormal", "defect", "defects", "defective"})
SPLIT_NAMES = frozenset({"train", "test", "val", "valid", "validation"})
TELLING_NAMES = GOOD_NAMES | BAD_NAMES | SPLIT_NAMES | MASK_NAMES


def recognise(root: Path) -> bool:
    """Whether `root` is a folder; any will do."""
    return root.is_dir()


def read(root: Path) -> Dataset:
    """Read a folder.

    With a folder good/ (or ok/, normal/, in whatever case) directly in `root`, every other folder but the masks' is a
    defect. If there are images of defects, 80 % of the good ones train and the rest are for testing, else all train.
    Without a folder good/, every image at any depth is taken as one of a good part and trains.

    Raises
    ------
    DataError : the names of the folders say that not every image is one of a good part, but not which.
    """
    good_folders = named(subfolders(root), GOOD_NAMES)
    return _read_kinds(root, good_folders) if good_folders else _read_good_only(root)


def _read_kinds(root: Path, good_folders: tuple[Path, ...]) -> Dataset:
    splits = named(subfolders(root), SPLIT_NAMES)
    if splits:
        raise DataError(
            f"a folder {splits[0].name}/ beside {good_folders[0].name}/ is neither good nor a defect",
            where=root,
            todo="Move it away, or arrange all as train/good/, test/good/ and test/DEFECT/.",
        )
    mask_folders = named(subfolders(root), MASK_NAMES)
    masks = Masks(mask_folders)
    loose = loose_images(root)
    passed_over = len(loose)
    good: list[Path] = []
    samples: list[Sample] = []
    for folder in subfolders(root):
        if folder in mask_folders:
            continue
        listing = list_images(folder)
        passed_over += listing.passed_over
        if folder in good_folders:
            good += listing.images
        else:
            samples += [
                Sample(path, "anomalous", "test", folder.name, masks.of(path.relative_to(root)))
                for path in listing.images
            ]
    trains = train_share(good) if samples else frozenset(good)
    names = " and ".join(f"{folder.name}/" for folder in good_folders)
    why = (
        f"80 % of {names} train, chosen by the hash of their names"
        if samples
        else f"only {names} has images, so all train"
    )
    if loose:
        why += f"; images outside of the folders are not used: {len(loose)}"
    samples += [Sample(path, "normal", "train" if path in trains else "test", GOOD) for path in good]
    return assemble(root, NAME, samples, why, passed_over)


def _read_good_only(root: Path) -> Dataset:
    listing = list_images(root)
    holders = {path.parent.relative_to(root) for path in listing.images}
    for holder in sorted(holders):
        for depth, part in enumerate(holder.parts):
            if part.lower() in TELLING_NAMES:
                telling = Path(*holder.parts[: depth + 1]).as_posix()
                raise DataError(
                    f"{telling}/ suggests that not all images are of good parts of one product, but there is no folder "
                    "good/ here",
                    where=root,
                    todo="Point at the folder that holds good/, or at one with pictures of good parts only.",
                )
    if not holders or holders == {Path()}:
        why = "images only, all taken as good"
    else:
        names = sorted(f"{holder.as_posix()}/" for holder in holders if holder != Path())
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        why = f"no folder good/, so all images are taken as good, also those in {shown}"
    samples = [Sample(path, "normal", "train", GOOD) for path in listing.images]
    return assemble(root, NAME, samples, why, listing.passed_over)


LAYOUT = Layout(NAME, TITLE, recognise, read)
