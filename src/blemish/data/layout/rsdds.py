"""RSDDs, rail surface defects (Gan et al., IEEE Sensors Journal, 2017): there is no good image in it.

Type-I has 67 images of express rails, Type-II 128 of common and heavy haul rails, and each shows at least one defect.
So nothing can be trained on it as it is. What can be done: judge a detector trained on good rail from elsewhere, by
pixels. Work on it that needs normal images cuts them out of these, between the defects; such crops are a dataset of
one's own, for the layouts folder or csv.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.files import Masks, has, list_images
from blemish.data.layout.base import Layout, categories_below, refuse_categories
from blemish.data.samples import Dataset, Sample, assemble
from blemish.errors import DataError

NAME = "rsdds"
TITLE = "RSDDs rails: 'Rail surface images'/*.jpg and GroundTruth/*.jpg; all images are defective, so none trains"

IMAGES, TRUTH = "Rail surface images", "GroundTruth"


def recognise(root: Path) -> bool:
    """Whether `root` is one of the two types, or the folder of both."""
    return root.is_dir() and (_is_category(root) or bool(categories(root)))


def read(root: Path) -> Dataset:
    """Read one type. All images are for testing, and pixels above half of the full range are marked: masks are JPEG.

    Raises
    ------
    DataError : not this layout; the folder of both types.
    """
    if not _is_category(root):
        refuse_categories(root, categories(root))
        raise DataError(f"this is not the layout {NAME}", where=root, todo=f"Expected {TITLE}.")

    masks = Masks((root / TRUTH,))
    listing = list_images(root / IMAGES)
    samples = [
        Sample(image, "anomalous", "test", "", masks.of(image.relative_to(root / IMAGES))) for image in listing.images
    ]
    why = "every image shows a defect, so none trains; good rail for training must come from elsewhere"
    return assemble(root, NAME, samples, why, listing.passed_over)


def _is_category(root: Path) -> bool:
    return has(root, IMAGES) and has(root, TRUTH)


def categories(root: Path) -> dict[str, Path]:
    """Each type below `root` by the name of its folder; empty if `root` is one itself."""
    return categories_below(root, _is_category)


LAYOUT = Layout(NAME, TITLE, recognise, read, categories)
