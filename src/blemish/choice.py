"""Which method a set of training images asks for, where the user leaves it to Blemish (`--method auto`).

docs/methods/auto.md says how often each rule is right and wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish.console import Listener
from blemish.data import Sample
from blemish.quality.outliers import nearest_distances, robust_z

AUTO = "auto"
MIXED, CONTAMINATED, FEW, USUAL = "borad", "cdd", "patchcore", "rd"
"""The methods that are chosen among, by what they are chosen for."""

FEW_IMAGES = 20
"""Fewer images than this are few, and say nothing of clusters or of outliers."""
LOOKED_AT = 500
"""Images that are compared with each other; of more, as many are drawn."""

SILHOUETTE = 0.5
"""Mean silhouette from which images lie in clusters; "a reasonable structure" for Kaufman and Rousseeuw (Finding Groups
in Data, 1990)."""
MOST_PRODUCTS = 20
SHARE = 1 / 3
"""Smallest part of its equal share that a product's cluster may hold: smaller ones are outliers or another batch."""

FAR = 5.0
"""Robust z-score from which an image is far from the rest."""
FAR_IMAGES = 0.02
"""Share of the images above which so many far ones are no chance."""
EVEN = 0.02
"""Robust deviation of the logarithm of distances below which images count as even."""
STRANGEST = 0.01
"""Share of an image's patches that say how strange it is."""

Patches = NDArray[np.floating]
Embed = Callable[[Sequence[Path], Callable[[float], None]], Patches]
"""What a teacher sees of image files: N x patches x C. It tells how far it is, in [0, 1]."""


@dataclass(frozen=True)
class Choice:
    """A method's name and, in half a sentence, why it was taken."""

    method: str
    why: str

    def __str__(self) -> str:
        return f"Method {self.method}: {self.why}."


def choose(samples: Sequence[Sample], embed: Embed, *, contaminated: bool, listener: Listener) -> Choice:
    """The method for these training images: by what is known of them, else by how a teacher sees them.

    Parameters
    ----------
    samples : the training images.
    embed : called only where nothing else decides.
    contaminated : whether the user says that bad parts are among them.
    """
    bad = sum(sample.label == "anomalous" for sample in samples)
    categories = sorted({sample.category for sample in samples})
    if contaminated:
        return Choice(CONTAMINATED, "bad parts are among the images, as --contaminated says")
    if len(categories) > 1:
        return Choice(MIXED, f"the images are of {len(categories)} categories")
    if bad:
        return Choice(CONTAMINATED, f"{bad} of the {len(samples)} training images are known to be bad")
    if len(samples) < FEW_IMAGES:
        return Choice(FEW, f"{len(samples)} images are few")
    drawn = np.random.default_rng(0).permutation(len(samples))[:LOOKED_AT]
    paths = [samples[i].path for i in sorted(drawn)]
    patches = embed(paths, lambda done: listener.progress("looking for a method", done))
    number = products(patches)
    if number > 1:
        return Choice(MIXED, f"the images lie in {number} clusters, as those of several products do")
    far = int((strangeness_z(patches) > FAR).sum())
    if far > max(1, FAR_IMAGES * len(paths)):
        return Choice(CONTAMINATED, f"{far} of {len(paths)} images have places like nothing in the others")
    return Choice(USUAL, f"one product, and {far} of {len(paths)} images far from the rest")


def products(patches: Patches) -> int:
    """Number of clusters that images clearly lie in, 1 if they do not: N x P x C."""
    clear, number = clusters(patches)
    return number if clear > SILHOUETTE else 1


def clusters(patches: Patches) -> tuple[float, int]:
    """Mean silhouette and number of the best clusters of images, by mean and deviation of their features.

    The number, from 2 to 20, is that of the highest mean silhouette among those whose clusters all hold a third of an
    equal share or more; -1 and 1 if there is none.

    Parameters
    ----------
    patches : N x P x C.
    """
    images = np.concatenate([patches.mean(1, dtype=np.float64), patches.std(1, dtype=np.float64)], axis=1)
    squares = (images**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * images @ images.T, 0))
    best = (-1.0, 1)
    for k in range(2, min(MOST_PRODUCTS, len(images) // 2) + 1):
        label = k_means(images, k)
        if np.bincount(label, minlength=k).min() >= max(2, SHARE * len(images) / k):
            best = max(best, (silhouette(distance, label), k))
    return best


def k_means(points: NDArray[np.float64], k: int, steps: int = 50) -> NDArray[np.intp]:
    """The cluster of each point, 0 to k - 1, by Lloyd's algorithm; the same for the same points.

    It starts from the point farthest from the mean and, in turn, those farthest from all taken before.
    """
    centres = points[[((points - points.mean(0)) ** 2).sum(1).argmax()]]
    for _ in range(k - 1):
        centres = np.concatenate([centres, points[[_squared(points, centres).min(1).argmax()]]])
    label = _nearest(points, centres)
    for _ in range(steps):
        centres = np.stack([points[label == i].mean(0) if (label == i).any() else centres[i] for i in range(k)])
        before, label = label, _nearest(points, centres)
        if np.array_equal(before, label):
            break
    return label


def _nearest(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.asarray(_squared(points, centres).argmin(1))


def _squared(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([((points - centre) ** 2).sum(1) for centre in centres], axis=1)


def silhouette(distance: NDArray[np.float64], label: NDArray[np.intp]) -> float:
    """Mean over points of (b - a) / max(a, b), in [-1, 1] (Rousseeuw, 1987).

    a is a point's mean distance to the others of its cluster, b that to the nearest other cluster.

    Parameters
    ----------
    distance : N x N. label : N, from 0; each cluster has two points or more.
    """
    member = np.eye(label.max() + 1)[label]
    size = member.sum(0)
    total = distance @ member
    own = np.arange(len(label)), label
    a = total[own] / (size[label] - 1)
    mean = total / size
    mean[own] = np.inf
    b = mean.min(1)
    return float(((b - a) / np.maximum(np.maximum(a, b), 1e-12)).mean())


def strangeness_z(patches: Patches) -> NDArray[np.float64]:
    """How far each image is from the others by its strangest patches, in robust standard deviations.

    A patch's distance to the nearest of another image is divided by the geometric mean of what is usual at its place
    and over all places: borders and busy places do not outshine a defect elsewhere.

    Parameters
    ----------
    patches : N x P x C; the places P are the same in all images.

    Returns
    -------
    N, float64.
    """
    distance = nearest_distances(patches)
    usual = np.median(distance, axis=0)
    relative = distance / np.maximum(np.sqrt(usual * np.median(usual)), 1e-12)
    count = max(1, round(STRANGEST * relative.shape[1]))
    strangest = np.sort(relative, axis=1)[:, -count:].mean(1)
    return robust_z(np.log(np.maximum(strangest, 1e-12)), EVEN)
