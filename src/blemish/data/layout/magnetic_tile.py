"""The magnetic tile surface defects of Huang, Qiu and Yuan (The Visual Computer, 2020), as they are published."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import list_images, subfolders
from blemish.data.layout.base import Layout
from blemish.data.samples import GOOD, Dataset, Sample, assemble
from blemish.data.splits import train_share
from blemish.errors import DataError

NAME = "magnetic-tile"
TITLE = "MT_Free/Imgs/*.jpg and MT_DEFECT/Imgs/*.jpg, each with a .png mask of the same name; 80 % of MT_Free train"

PREFIX = "MT_"
FREE = Path("MT_Free") / "Imgs"


def recognise(root: Path) -> bool:
    """Whether `root` has MT_Free/Imgs/."""
    return (root / FREE).is_dir()


def read(root: Path) -> Dataset:
    """Read the six classes; the publication brings no split, so 80 % of MT_Free (762 of 952) train.

    Four images of MT_Uneven have an empty mask. They stay anomalous, with that mask: what is uneven
    about a whole tile has no place.

    Raises
    ------
    DataError : not this layout.
    """
    if not recognise(root):
        raise DataError("this is not the layout magnetic-tile", where=root, todo=f"Expected {TITLE}.")

    samples: list[Sample] = []
    passed_over = 0
    for folder in subfolders(root):
        if not folder.name.startswith(PREFIX):
            continue
        listing = list_images(folder / "Imgs")
        images = [path for path in listing.images if path.suffix.lower() in {".jpg", ".jpeg"}]
        masks = {path.with_suffix(""): path for path in listing.images if path.suffix.lower() == ".png"}
        orphans = masks.keys() - {path.with_suffix("") for path in images}
        passed_over += listing.passed_over + len(orphans)
        if folder.name == FREE.parts[0]:
            trains = train_share(images)
            samples += [Sample(path, "normal", "train" if path in trains else "test", GOOD) for path in images]
        else:
            kind = folder.name.removeprefix(PREFIX).lower()
            samples += [Sample(path, "anomalous", "test", kind, masks.get(path.with_suffix(""))) for path in images]
    return assemble(root, NAME, samples, "80 % of MT_Free train, chosen by the hash of their names", passed_over)


LAYOUT = Layout(NAME, TITLE, recognise, read)
