"""What a dataset is: samples, each an image file with what is known about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Label = Literal["normal", "anomalous"]
Split = Literal["train", "test"]
MaskRule = Literal["upper half", "non-zero"]
"""Which values of a mask mark a pixel: those above half of the full range, or all but 0."""

GOOD = "good"
"""The kind of every normal sample."""


@dataclass(frozen=True)
class Sample:
    """One image file and what is known about it.

    Parameters
    ----------
    path : the image.
    label : None where nobody said what the image shows.
    split : what the image may be used for. Nothing is ever fitted or calibrated on "test".
    kind : "good", or the defect's name, or "" where it is not known.
    mask : image of the defect's pixels, or a folder of such images, which add up. None where it is not known, and for a
        normal sample, whose mask is empty by definition. The mask of an anomalous sample may be empty: some defects
        have no place.
    category : the product, where several are mixed; "" where there is one.
    mask_rule : which of the mask's values mark a pixel. "non-zero" is for data whose masks hold small numbers, such as
        the number of the defect's type.
    more_masks : further images that add up with `mask`, where they have no folder of their own.
    """

    path: Path
    label: Label | None
    split: Split
    kind: str
    mask: Path | None = None
    category: str = ""
    mask_rule: MaskRule = "upper half"
    more_masks: tuple[Path, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """All its masks."""
        return () if self.mask is None else (self.mask, *self.more_masks)


@dataclass(frozen=True)
class Dataset:
    """Samples in the order of their paths, and how they were found.

    Parameters
    ----------
    name : name of the folder.
    root : the folder that holds the samples.
    layout : name of the layout that was taken.
    samples : sorted by path relative to the root, so the order is the same on every machine.
    note : one sentence for the user: which layout was taken, how the images were split, what was passed over.
    """

    name: str
    root: Path
    layout: str
    samples: tuple[Sample, ...]
    note: str

    @property
    def train(self) -> tuple[Sample, ...]:
        """Samples to learn and calibrate from."""
        return tuple(sample for sample in self.samples if sample.split == "train")

    @property
    def test(self) -> tuple[Sample, ...]:
        """Samples that only evaluation may look at."""
        return tuple(sample for sample in self.samples if sample.split == "test")


def assemble(root: Path, layout: str, samples: list[Sample], why: str, passed_over: int) -> Dataset:
    """Sort `samples`, count them and put the note together.

    Parameters
    ----------
    why : what the layout was known by and how it splits; becomes part of the note, so no full stop.
    passed_over : how many files were left aside.
    """
    # Paths below the root first, by their relative path; a csv may also name files elsewhere.
    ordered = sorted(samples, key=lambda sample: (not sample.path.is_relative_to(root), _relative(sample.path, root)))
    parts = [f"Layout {layout} ({why}): {_counts(ordered, 'train')}, {_counts(ordered, 'test')}"]
    contaminating = sum(sample.split == "train" and sample.label == "anomalous" for sample in ordered)
    if contaminating:
        parts.append(f"{contaminating} of the training images {'is' if contaminating == 1 else 'are'} known to be bad")
    anomalous = [sample for sample in ordered if sample.label == "anomalous" and sample.split == "test"]
    unmasked = sum(sample.mask is None for sample in anomalous)
    if anomalous:
        parts.append("no masks" if unmasked == len(anomalous) else f"{len(anomalous) - unmasked} with masks")
    if passed_over:
        parts.append(f"{passed_over} other {'file' if passed_over == 1 else 'files'} passed over")
    return Dataset(root.resolve().name, root, layout, tuple(ordered), "; ".join(parts) + ".")


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _counts(samples: list[Sample], split: Split) -> str:
    """In words, such as 83 images test (20 good, 63 scratch)."""
    kinds = Counter(_kind_in_words(sample) for sample in samples if sample.split == split)
    total = sum(kinds.values())
    text = f"{total} {'image' if total == 1 else 'images'} {split}"
    if set(kinds) <= {GOOD}:
        return text + (", all good" if kinds and split == "test" else "")
    in_order = sorted(kinds, key=lambda kind: (kind != GOOD, kind))
    return f"{text} ({', '.join(f'{kinds[kind]} {kind}' for kind in in_order)})"


def _kind_in_words(sample: Sample) -> str:
    return sample.kind or ("unlabelled" if sample.label is None else "defective")
