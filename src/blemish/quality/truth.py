"""What is said of the images: their masks, and how many there are of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from blemish.admission import relative_name
from blemish.console import Listener
from blemish.data import Dataset, Sample, list_images, read_mask
from blemish.data.files import MASK_NAMES
from blemish.errors import DataError, MaskSizeError
from blemish.quality.findings import Case, Finding, Kind, Severity, finding
from blemish.quality.looking import Look, in_threads

FEW = 100
"""Training images below which a false-alarm rate of 1 % is out of reach: the smallest is 1/(n+1)."""
LOPSIDED = 10
"""How many times as many there must be of one as of the other."""

MASK_SIZE = Kind(
    "mask_wrong_size",
    Severity.ERROR,
    "A mask has another size than its image",
    "Make each mask of its image's size; evaluation stops at these",
)
MASK_UNREADABLE = Kind(
    "mask_unreadable",
    Severity.ERROR,
    "A mask cannot be used",
    "Save it anew, black and white; evaluation stops at these",
)
MASK_OF_GOOD = Kind(
    "mask_of_good",
    Severity.ERROR,
    "A mask marks pixels of a good image",
    "Decide which is right: move the image to its defect, or delete the mask",
)
MASK_ALONE = Kind(
    "mask_without_image",
    Severity.WARNING,
    "A mask belongs to no image",
    "Correct its name: NAME.png or NAME_mask.png in a folder called like the image's",
)
MASK_EMPTY = Kind(
    "mask_empty",
    Severity.NOTE,
    "The mask of a bad image is empty",
    "Nothing, if the defect has no place, as unevenness of a whole part; pixel metrics then count every mark as wrong",
)
NO_MASK = Kind(
    "no_mask",
    Severity.NOTE,
    "Bad test images without a mask",
    "Pixel metrics leave them out; draw masks if they should not",
)
NO_TRAINING = Kind(
    "too_few_to_train",
    Severity.ERROR,
    "There is nothing to train on",
    "Training needs two images of good parts or more",
)
FEW_TRAINING = Kind(
    "few_training_images",
    Severity.NOTE,
    "Few training images",
    "Take more pictures of good parts: n images reach false-alarm rates down to 1/(n+1)",
)
IMBALANCE = Kind(
    "imbalance",
    Severity.NOTE,
    "Much more of one than of the other",
    "Read the figures of the smaller group with care: they rest on few images",
)


def masks(datasets: Sequence[Dataset], looks: Sequence[Look], root: Path, listener: Listener) -> list[Finding]:
    """Everything that is wrong with masks."""
    size_of = {look.sample.path.absolute(): (look.facts.height, look.facts.width) for look in looks}
    strays = [stray for dataset in datasets for stray in stray_masks(dataset)]
    work = [(look.sample, mask) for look in looks for mask in look.sample.masks]
    work += [(sample, mask) for mask, sample in strays if sample is not None and sample.label == "normal"]
    work = [(sample, mask) for sample, mask in work if sample.path.absolute() in size_of]
    cases: dict[str, list[Case]] = defaultdict(list)

    def problem(pair: tuple[Sample, Path]) -> tuple[Kind, Case] | None:
        sample, path = pair
        files = (relative_name(sample.path, root), relative_name(path, root))
        try:
            mask = read_mask(path, size_of[sample.path.absolute()], sample.mask_rule)
        except MaskSizeError as error:
            return MASK_SIZE, Case(files, error.what)
        except DataError as error:
            return MASK_UNREADABLE, Case(files, error.what)
        if sample.label == "normal":
            marked = int(mask.sum())
            return (MASK_OF_GOOD, Case(files, f"{marked} pixels are marked")) if marked else None
        return (
            None if mask.any() else (MASK_EMPTY, Case(files, f"no pixel of this {sample.kind or 'defect'} is marked"))
        )

    for found in in_threads(problem, work, "reading masks", listener):
        if found:
            cases[found[0].code].append(found[1])
    cases[MASK_ALONE.code] = [
        Case((relative_name(mask, root),), "no image has this name") for mask, sample in strays if sample is None
    ]
    cases[NO_MASK.code] = [
        Case((relative_name(sample.path, root),), f"a {sample.kind or 'bad'} one without a mask")
        for dataset in datasets
        for sample in dataset.test
        if sample.label == "anomalous" and sample.mask is None
    ]
    kinds = (MASK_SIZE, MASK_UNREADABLE, MASK_OF_GOOD, MASK_ALONE, MASK_EMPTY, NO_MASK)
    return [one for kind in kinds for one in finding(kind, cases[kind.code])]


def stray_masks(dataset: Dataset) -> Iterator[tuple[Path, Sample | None]]:
    """Masks that no sample uses, and the sample that each is named after; None where there is none.

    A mask lies below a folder called as masks' folders are, or beside an image of its name.
    """
    if not dataset.root.is_dir():
        return
    used = {path.absolute() for sample in dataset.samples for path in (sample.path, *sample.masks)}
    beside = {sample.path.absolute().with_suffix(""): sample for sample in dataset.samples}
    by_stem: dict[str, list[Sample]] = defaultdict(list)
    # Test images first: it is them that masks are made for.
    for sample in sorted(dataset.samples, key=lambda sample: sample.split):
        by_stem[sample.path.stem].append(sample)
    for path in list_images(dataset.root).images:
        if path.absolute() in used or any(path.absolute().is_relative_to(folder) for folder in used):
            continue
        if path.absolute().with_suffix("") in beside:
            yield path, beside[path.absolute().with_suffix("")]
            continue
        folders = path.relative_to(dataset.root).parts[:-1]
        place = next((i for i, folder in enumerate(folders) if folder.lower() in MASK_NAMES), None)
        if place is None:
            continue
        stem, below = path.stem.removesuffix("_mask"), folders[place + 1 :]
        named = [
            sample
            for name in dict.fromkeys((stem, path.stem))
            for sample in by_stem[name]
            if sample.path.parent.parts[len(sample.path.parent.parts) - len(below) :] == below
        ]
        yield path, named[0] if named else None


def numbers(looks: Sequence[Look], categories: Sequence[str]) -> list[Finding]:
    """Too few training images, and much more of one than of the other. Only images that can be read are counted."""
    several = len(categories) > 1
    none, few, lopsided = [], [], []
    trains = Counter(look.sample.category for look in looks if look.sample.split == "train")
    for category in categories:
        within, count = f"{category}: " if several else "", trains[category]
        if count < 2:
            none.append(Case((), f"{within}training images that can be read: {count}"))
        elif count < FEW:
            few.append(Case((), f"{within}{count} training images reach a false-alarm rate of {1 / (count + 1):.1%}"))
        test = [look.sample for look in looks if look.sample.category == category and look.sample.split == "test"]
        labels = Counter(sample.label for sample in test if sample.label is not None)
        if len(labels) == 1:
            only = "good" if "normal" in labels else "bad"
            lopsided.append(Case((), f"{within}all {labels.total()} labelled test images are {only}: no image metric"))
        elif labels and max(labels.values()) >= LOPSIDED * min(labels.values()):
            lopsided.append(Case((), f"{within}{labels['normal']} good and {labels['anomalous']} bad test images"))
    least, most = (pick(categories, key=lambda category: trains[category]) for pick in (min, max))
    if trains[least] and trains[most] >= LOPSIDED * trains[least]:
        lopsided.append(Case((), f"{trains[most]} training images of {most}, {trains[least]} of {least}"))
    return finding(NO_TRAINING, none) + finding(FEW_TRAINING, few) + finding(IMBALANCE, lopsided)
