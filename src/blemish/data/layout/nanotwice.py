"""NanoTWICE: nanofibres under a scanning electron microscope (Carrera et al., IEEE Trans. Ind. Informatics, 2017)."""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import has, list_images
from blemish.data.layout.base import Layout
from blemish.data.samples import GOOD, Dataset, Sample, assemble
from blemish.errors import DataError

NAME = "nanotwice"
TITLE = "NanoTWICE: Normal/*.tif, Anomalous/images/*.tif, masks in Anomalous/gt/NAME_gt.png; Normal trains"

NORMAL, ANOMALOUS, TRUTH = "Normal", "Anomalous/images", "Anomalous/gt"
MASK_ENDING = "_gt"


def recognise(root: Path) -> bool:
    """Whether `root` has Normal/ and Anomalous/images/."""
    return root.is_dir() and has(root, NORMAL) and has(root, ANOMALOUS)


def read(root: Path) -> Dataset:
    """Read the 5 normal images, which train, and the 40 anomalous ones, which are for testing.

    No normal image is left for testing, so figures for images are not defined, only those for pixels. All but 0 marks
    in a mask: so do other readers take it; which values the files hold was not verified.

    Raises
    ------
    DataError : not this layout.
    """
    if not recognise(root):
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    normal, anomalous = list_images(root / NORMAL), list_images(root / ANOMALOUS)
    masks = {path.stem: path for path in list_images(root / TRUTH).images} if has(root, TRUTH) else {}
    samples = [Sample(path, "normal", "train", GOOD) for path in normal.images]
    samples += [
        Sample(path, "anomalous", "test", "", masks.get(path.stem + MASK_ENDING), mask_rule="non-zero")
        for path in anomalous.images
    ]
    why = f"{NORMAL} trains, {ANOMALOUS} is for testing"
    return assemble(root, NAME, samples, why, normal.passed_over + anomalous.passed_over)


LAYOUT = Layout(NAME, TITLE, recognise, read)
