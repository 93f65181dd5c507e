"""One look at every image: all that the checks need of it, a few kilobytes, so that no image is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.admission import relative_name
from blemish.console import Listener
from blemish.cores import usable_cores
from blemish.data import Sample
from blemish.errors import ImageError, Reason
from blemish.images import Facts, ImageContract, read

DETAIL_SIDE = 64
"""Side of the thumbnail that tells images apart."""
DETAIL_RADIUS = 4
"""What is wider than the square of this radius around a pixel of the thumbnail is shading, and taken out."""
_FLATTEST = 5e-4
"""Contrast, as a share of the range, below which a thumbnail shows nothing: an eighth of an 8-bit step."""
_DIMMEST = 1e-12

Given = TypeVar("Given")
Got = TypeVar("Got")


@dataclass(frozen=True)
class Look:
    """What is kept of an image that can be read.

    Parameters
    ----------
    name : path below the source.
    file_sha256, pixels_sha256 : of the file, and of what it decodes to.
    brightness : mean, as a share of the declared range.
    sharpness : natural logarithm of the variance of the Laplacian of the grey image; the measure LAPV of Pertuz, Puig
        and Garcia (Pattern Recognition, 2013). It falls where an image is out of focus.
    detail : float16, DETAIL_SIDE squared; the thumbnail without its shading, mean 0 and length 1; 0 if it is flat.
    """

    sample: Sample
    name: str
    file_sha256: str
    pixels_sha256: str
    facts: Facts
    brightness: float
    sharpness: float
    detail: NDArray[np.float16]


@dataclass(frozen=True)
class Refused:
    """An image that cannot be read, and why. `size` : bytes of its file, 0 if it is not there."""

    sample: Sample
    name: str
    reason: Reason
    detail: str
    size: int


def look_at_all(
    samples: Sequence[Sample], root: Path, contract: ImageContract, listener: Listener
) -> tuple[list[Look], list[Refused]]:
    """Read every image once, in threads: the looks, and the refused ones; each in the order of `samples`."""
    seen = in_threads(lambda sample: look_at(sample, root, contract), samples, "reading images", listener)
    return [one for one in seen if isinstance(one, Look)], [one for one in seen if isinstance(one, Refused)]


def in_threads(work: Callable[[Given], Got], items: Sequence[Given], stage: str, listener: Listener) -> list[Got]:
    """`work` of every item, in order, while `listener` is told how far it is."""
    results: list[Got] = []
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        for done, result in enumerate(pool.map(work, items), 1):
            results.append(result)
            listener.progress(stage, done / len(items))
    return results


def look_at(sample: Sample, root: Path, contract: ImageContract) -> Look | Refused:
    """Read an image as training would."""
    name = relative_name(sample.path, root)
    try:
        image = read(sample.path, contract)
    except ImageError as error:
        size = sample.path.stat().st_size if sample.path.is_file() else 0
        return Refused(sample, name, error.reason, error.what, size)
    grey = (image.mean(axis=2, dtype=np.float32) - np.float32(contract.low)) / np.float32(contract.high - contract.low)
    pixels = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    pixels.update(image.tobytes())
    return Look(
        sample=sample,
        name=name,
        file_sha256=hashlib.sha256(sample.path.read_bytes()).hexdigest(),
        pixels_sha256=pixels.hexdigest(),
        facts=Facts.of(image),
        brightness=float(grey.mean()),
        sharpness=sharpness(grey),
        detail=detail(grey),
    )


def sharpness(grey: NDArray[np.float32]) -> float:
    """Logarithm of the variance of the Laplacian of a grey image, H x W in [0, 1]."""
    if min(grey.shape) < 3:
        return float(np.log(_DIMMEST))
    middle = grey[1:-1, 1:-1]
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * middle
    return float(np.log(laplacian.var() + _DIMMEST))


def detail(grey: NDArray[np.float32]) -> NDArray[np.float16]:
    """The thumbnail of a grey image, H x W in [0, 1], without its shading, as a vector of mean 0 and length 1.

    Shading goes because it is the same in all images under one lamp; what is left tells them apart.
    """
    small = np.asarray(Image.fromarray(grey).resize((DETAIL_SIDE, DETAIL_SIDE), Image.Resampling.BILINEAR))
    vector = (small - _box_mean(small, DETAIL_RADIUS)).ravel()
    vector -= vector.mean()
    if vector.std() < _FLATTEST:
        return np.zeros(vector.size, np.float16)
    result: NDArray[np.float16] = (vector / np.linalg.norm(vector)).astype(np.float16)
    return result


def _box_mean(picture: NDArray[Any], radius: int) -> NDArray[np.float32]:
    """Mean of the square around every pixel; the edge is repeated outwards."""
    side = 2 * radius + 1
    padded = np.pad(picture.astype(np.float64), ((radius + 1, radius), (radius + 1, radius)), mode="edge")
    total = padded.cumsum(axis=0).cumsum(axis=1)
    boxes = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    mean: NDArray[np.float32] = (boxes / side**2).astype(np.float32)
    return mean
