"""Images that stand out from their category: by size, colour, brightness, sharpness, or by what a teacher sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.quality.findings import Case, Finding, Kind, Severity, finding
from blemish.quality.looking import Look

FAR = 3.5
"""Robust z-score from which a value is an outlier (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). None
of the 1,235 training images of MVTec AD's bottle and grid and of the magnetic tiles is as far by brightness or
sharpness; blurred with a standard deviation of one pixel, they are."""
FAR_UNLIKE = 5.0
"""The same for how unlike the rest an image is. This is a maximum over places, so even among good images it has a
longer tail on the right: with that of a Gumbel distribution, 1 good image in 400 lies beyond."""
FEWEST = 10
"""Images of a category from which one of them can be called an outlier."""
NEARLY_ALL = 0.9
"""Share of the images that must have one size, for another size to be an outlier."""

# Spread below which a category counts as even: differences as small are no outliers however rare they are.
_EVEN_BRIGHTNESS = 0.01
_EVEN_LOGARITHM = 0.1

REFERENCES = 8192
"""Patches that stand for the category in the search for what is unlike it."""

SIZE = Kind(
    "size_outlier",
    Severity.WARNING,
    "Another size than the rest",
    "Deliver all images at one scale: everything is resized to one square, which changes how large a part appears",
)
COLOUR = Kind(
    "colour_outlier",
    Severity.WARNING,
    "Grey images among colour ones",
    "Deliver all images alike: a detector learns the difference as if it were one of the parts",
)
BRIGHTNESS = Kind(
    "brightness_outlier",
    Severity.WARNING,
    "Much brighter or darker than the rest",
    "Look at them: a lamp, the exposure or another part; take them out unless production looks so too",
)
SHARPNESS = Kind(
    "sharpness_outlier",
    Severity.WARNING,
    "Much sharper or more blurred than the rest",
    "Look at them: focus, motion or dirt on the lens; take them out unless production looks so too",
)
UNLIKE = Kind(
    "unlike_the_rest",
    Severity.WARNING,
    "Possibly bad parts among the good ones",
    "Look at them, and move the bad ones to the test images",
)

Tell = Callable[[float], None]
Embed = Callable[[Sequence[Look], Tell], NDArray[np.float16]]
"""What a teacher sees of images: N x patches x C, float16. It tells how far it is, in [0, 1]."""


@dataclass(frozen=True)
class Ranked:
    """How unlike the rest of its category a training image is: the distance of its strangest patch, and its z-score."""

    name: str
    distance: float
    z: float


def robust_z(values: ArrayLike, even: float) -> NDArray[np.float64]:
    """Distance from the median in robust standard deviations: 1.4826 times the median absolute deviation.

    Parameters
    ----------
    even : the standard deviation is not taken smaller than this.
    """
    numbers = np.asarray(values, np.float64)
    median = np.median(numbers)
    return np.asarray((numbers - median) / max(1.4826 * float(np.median(np.abs(numbers - median))), even))


def sizes(looks: Sequence[Look]) -> list[Case]:
    """Images of one category whose size is another than nearly all have; where sizes vary, those far from them."""
    if len(looks) < FEWEST:
        return []
    count = Counter((look.facts.width, look.facts.height) for look in looks)
    usual, number = count.most_common(1)[0]
    if number >= NEARLY_ALL * len(looks):
        return [
            Case((look.name,), f"{_size(look)}; {number} of {len(looks)} are {usual[0]} x {usual[1]}")
            for look in looks
            if (look.facts.width, look.facts.height) != usual
        ]
    width, height = (np.array([getattr(look.facts, side) for look in looks], float) for side in ("width", "height"))
    scale = robust_z(np.log(width * height) / 2, _EVEN_LOGARITHM)
    aspect = robust_z(np.log(width / height), _EVEN_LOGARITHM)
    middle = f"the middle of the rest is {np.median(width):.0f} x {np.median(height):.0f}"
    return [
        Case((look.name,), f"{_size(look)}; {middle}")
        for look, far in zip(looks, np.maximum(np.abs(scale), np.abs(aspect)), strict=True)
        if far > FAR
    ]


def colours(looks: Sequence[Look]) -> list[Case]:
    """Where a category has grey images and colour ones, the fewer of them."""
    grey = [look for look in looks if look.facts.grey]
    colour = [look for look in looks if not look.facts.grey]
    few, called, others = (grey, "grey", colour) if len(grey) <= len(colour) else (colour, "in colour", grey)
    return [Case((look.name,), f"{called}; {len(others)} of {len(looks)} are not") for look in few]


def brightness(looks: Sequence[Look]) -> list[Case]:
    """Good images of one category that are much brighter or darker than the rest."""
    return _far(
        looks, "brightness", _EVEN_BRIGHTNESS, ("darker", "brighter"), lambda value: f"mean {100 * value:.0f} %"
    )


def sharpness(looks: Sequence[Look]) -> list[Case]:
    """Good images of one category that are much sharper or more blurred than the rest."""
    return _far(
        looks, "sharpness", _EVEN_LOGARITHM, ("more blurred", "sharper"), lambda value: f"sharpness {value:.1f}"
    )


def _far(
    looks: Sequence[Look], measure: str, even: float, words: tuple[str, str], shown: Callable[[float], str]
) -> list[Case]:
    # A defect may well change these, so only what is called good is held against the good.
    good = [look for look in looks if look.sample.label != "anomalous"]
    if len(good) < FEWEST:
        return []
    values = np.array([getattr(look, measure) for look in good])
    found = sorted(zip(robust_z(values, even), good, strict=True), key=lambda one: -abs(one[0]))
    middle = shown(float(np.median(values)))
    return [
        Case(
            (look.name,), f"{words[int(z > 0)]}: {shown(getattr(look, measure))}, the rest about {middle}; z = {z:.1f}"
        )
        for z, look in found
        if abs(z) > FAR
    ]


def rank(looks: Sequence[Look], embed: Embed, tell: Tell) -> list[Ranked]:
    """Training images of one category, those least like the rest first.

    Every patch of an image is compared with patches of all the others, and the one that has nothing like it among
    them counts: a defect is small, and a mean over the image would hide it. At most half of the patches of an image, at
    random, stand for it; so two bad parts of a kind do not always excuse each other.
    """
    if len(looks) < FEWEST:
        return []
    distance = strangeness(embed(looks, tell))
    z = robust_z(np.log(np.maximum(distance, 1e-12)), _EVEN_LOGARITHM)
    return [Ranked(looks[i].name, float(distance[i]), float(z[i])) for i in np.argsort(-distance, kind="stable")]


def unlike(ranking: Sequence[Ranked]) -> list[Finding]:
    """Those that are too far from the rest to be by chance."""
    return finding(
        UNLIKE,
        [
            Case((one.name,), f"a place in it is like nothing in the other images; z = {one.z:.1f}")
            for one in ranking
            if one.z > FAR_UNLIKE
        ],
    )


def strangeness(patches: NDArray[np.floating]) -> NDArray[np.float64]:
    """For each image the largest distance that one of its patches has to the nearest reference of another image.

    Parameters
    ----------
    patches : N x P x C; N at least 2.

    Returns
    -------
    N, float64.
    """
    farthest: NDArray[np.float64] = nearest_distances(patches).max(axis=1)
    return farthest


def nearest_distances(patches: NDArray[np.floating]) -> NDArray[np.float64]:
    """The distance of each patch to the nearest reference of another image.

    At most half of the patches of an image, at random, are references, and about 8192 in all.

    Parameters
    ----------
    patches : N x P x C; N at least 2.

    Returns
    -------
    N x P, float64.
    """
    n, in_image, channels = patches.shape
    rng = np.random.default_rng(0)
    each = max(1, min(in_image // 2, REFERENCES // n))
    images = rng.choice(n, REFERENCES, replace=False) if n > REFERENCES else np.arange(n)
    chosen = np.stack([rng.permutation(in_image)[:each] for _ in images])
    references = patches[images[:, None], chosen].reshape(-1, channels).astype(np.float32)
    owner = np.repeat(images, each)
    squares = (references**2).sum(axis=1)
    nearest = np.empty((n, in_image))
    for i in range(n):
        own = patches[i].astype(np.float32)
        squared = (own**2).sum(axis=1)[:, None] + squares - 2 * own @ references.T
        squared[:, owner == i] = np.inf
        nearest[i] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return nearest


def _size(look: Look) -> str:
    return f"{look.facts.width} x {look.facts.height}"
