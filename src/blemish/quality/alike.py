"""Images that are there twice: the same pixels, or the same picture taken or saved again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from blemish.quality.findings import Case, Finding, Kind, Severity, finding
from blemish.quality.looking import DETAIL_SIDE, Look

ALIKE = 0.98
"""Correlation from which two images are one picture. Copies saved as JPEG of quality 50, at half the size, with less
contrast or with noise correlate at 0.978 or more (median 0.995) on MVTec AD's bottle and grid and on magnetic tiles;
different bottles at 0.970 or less, different grids at 0.940 or less, and tiles above it are the same tile taken again.
"""
FEWEST = 8
"""Images of a category from which what they share can be told from what makes each of them itself."""
_BLOCK = 1024

CONFLICTING_LABELS = Kind(
    "conflicting_labels",
    Severity.ERROR,
    "The same picture is called good and bad",
    "Decide what it shows and delete the other file",
)
LEAK = Kind(
    "duplicate_train_test",
    Severity.ERROR,
    "The same picture is in train and test",
    "Delete it from one of them: figures of images that training has seen are too good",
)
ACROSS_CATEGORIES = Kind(
    "duplicate_categories",
    Severity.WARNING,
    "The same picture is in several categories",
    "Keep it where it belongs",
)
IN_TRAIN = Kind(
    "duplicate_train",
    Severity.WARNING,
    "The same picture is in train more than once",
    "Keep one: a copy may train while its twin calibrates, and the false-alarm rate is then promised too low",
)
IN_TEST = Kind(
    "duplicate_test",
    Severity.NOTE,
    "The same picture is in test more than once",
    "Keep one: it counts more than once in every figure",
)
NEAR_LEAK = Kind(
    "near_duplicate_train_test",
    Severity.WARNING,
    "Nearly the same picture is in train and test",
    "Keep all pictures of one part on one side; figures of parts that training has seen are too good",
)
NEAR = Kind(
    "near_duplicate",
    Severity.NOTE,
    "Nearly the same picture more than once",
    "If they are one part taken again, count them as one: they say less than different parts do",
)


def duplicates(looks: Sequence[Look]) -> list[Finding]:
    """Groups of images with the same pixels, by the worst that each is; conflicting labels come on top."""
    cases: dict[str, list[Case]] = defaultdict(list)
    for group in same_pixels(looks):
        files = tuple(look.name for look in group)
        how = "the same file" if len({look.file_sha256 for look in group}) == 1 else "different files, the same pixels"
        if {"normal", "anomalous"} <= {look.sample.label for look in group}:
            labels = " and ".join(sorted({_truth(look) for look in group}))
            cases[CONFLICTING_LABELS.code].append(Case(files, f"{how}, called {labels}"))
        splits = {look.sample.split for look in group}
        if len(splits) > 1:
            kind = LEAK
        elif len({look.sample.category for look in group}) > 1:
            kind = ACROSS_CATEGORIES
        else:
            kind = IN_TRAIN if splits == {"train"} else IN_TEST
        cases[kind.code].append(Case(files, how))
    kinds = (CONFLICTING_LABELS, LEAK, ACROSS_CATEGORIES, IN_TRAIN, IN_TEST)
    return [one for kind in kinds for one in finding(kind, cases[kind.code])]


def near_duplicates(looks: Sequence[Look]) -> list[Finding]:
    """Groups of images that are nearly the same, apart from those with the same pixels."""
    once = list({look.pixels_sha256: look for look in reversed(looks)}.values())[::-1]
    leaks: list[Case] = []
    others: list[Case] = []
    for group, correlation in nearly_same(once):
        how = f"correlation {correlation:.3f}" + (" or more, each with another" if len(group) > 2 else "")
        splits = {look.sample.split for look in group}
        (leaks if len(splits) > 1 else others).append(Case(tuple(look.name for look in group), how))
    return finding(NEAR_LEAK, leaks) + finding(NEAR, others)


def same_pixels(looks: Iterable[Look]) -> list[list[Look]]:
    """Groups of two or more."""
    groups: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        groups[look.pixels_sha256].append(look)
    return [group for group in groups.values() if len(group) > 1]


def nearly_same(looks: Sequence[Look]) -> list[tuple[list[Look], float]]:
    """Groups of two or more, each image alike with another of its group, and the smallest correlation that joined them.

    All images of a product look alike. So what a category shares, the mean of its details, is taken out of both
    images, and what is left of them is correlated: this is what makes a part itself. Two images of different
    categories must be alike without the one's mean and without the other's. A category with fewer than 8 images has
    no mean to speak of and is passed over. All pairs are compared, a block of rows at a time.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for place, look in enumerate(looks):
        members[look.sample.category].append(place)
    usable = {category: places for category, places in members.items() if len(places) >= FEWEST}
    means = {category: _shared([looks[i] for i in places]) for category, places in usable.items()}
    joined: list[tuple[int, int, float]] = []
    for one, other in combinations_with_replacement(usable, 2):
        for rows in _blocks(usable[one]):
            for columns in _blocks(usable[other]):
                if one == other and columns[0] < rows[0]:
                    continue
                alike: NDArray[np.float32] = np.full((len(rows), len(columns)), np.inf, np.float32)
                for category in {one, other}:
                    left, right = (_particular([looks[i] for i in block], means[category]) for block in (rows, columns))
                    alike = np.minimum(alike, left @ right.T)
                joined += [
                    (rows[i], columns[j], float(alike[i, j]))
                    for i, j in np.argwhere(alike >= ALIKE)
                    if one != other or rows[i] < columns[j]
                ]
    return [([looks[i] for i in places], least) for places, least in _groups(joined)]


def _shared(looks: Sequence[Look]) -> NDArray[np.float32]:
    """The mean of the details."""
    total = np.zeros(DETAIL_SIDE**2)
    for look in looks:
        total += look.detail
    mean: NDArray[np.float32] = (total / len(looks)).astype(np.float32)
    return mean


def _particular(looks: Sequence[Look], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Details without what the category shares, one row an image, of length 1; 0 where nothing is left."""
    details: NDArray[np.float32] = np.stack([look.detail for look in looks]).astype(np.float32)
    shows = details.any(axis=1, keepdims=True)
    details = np.where(shows, details - mean, np.float32(0))
    length = np.linalg.norm(details, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(details, length, out=np.zeros_like(details), where=length > 1e-3)
    return unit


def _blocks(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[begin : begin + _BLOCK] for begin in range(0, len(places), _BLOCK)]


def _groups(pairs: Sequence[tuple[int, int, float]]) -> list[tuple[list[int], float]]:
    """Connected components of pairs, and the smallest value in each; the most alike first."""
    root: dict[int, int] = {}

    def find(place: int) -> int:
        while root.setdefault(place, place) != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    for one, other, _ in pairs:
        root[find(other)] = find(one)
    places: dict[int, list[int]] = defaultdict(list)
    least: dict[int, float] = {}
    for place in sorted(root):
        places[find(place)].append(place)
    for one, _, value in pairs:
        least[find(one)] = min(value, least.get(find(one), value))
    return sorted(((group, least[head]) for head, group in places.items()), key=lambda found: -found[1])


def _truth(look: Look) -> str:
    return "good" if look.sample.label == "normal" else look.sample.kind or "bad"
