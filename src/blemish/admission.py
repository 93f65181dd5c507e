"""Which images of a source can be used, and why the others cannot."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from blemish.console import Listener
from blemish.cores import usable_cores
from blemish.data import Dataset, Sample
from blemish.errors import DataError, ImageError, Reason, UsageError
from blemish.images import Depth, Facts, ImageContract, read
from blemish.modelfile import LeftOutImage


@dataclass(frozen=True)
class Admitted:
    """A training image that can be read."""

    sample: Sample
    name: str
    sha256: str
    facts: Facts


def admit(dataset: Dataset, contract: ImageContract, listener: Listener) -> tuple[list[Admitted], list[LeftOutImage]]:
    """Read every training image once: what can be used, and what is left out and why.

    Raises
    ------
    DataError
        If nothing is left to train on.
    """

    def look(sample: Sample) -> Admitted | LeftOutImage:
        name = relative_name(sample.path, dataset.root)
        try:
            facts = Facts.of(read(sample.path, contract))
            return Admitted(sample, name, hashlib.sha256(sample.path.read_bytes()).hexdigest(), facts)
        except ImageError as error:
            return LeftOutImage(path=name, reason=error.reason.value, detail=error.what)

    samples = dataset.train
    if not samples:
        raise DataError("none of these images is for training", where=dataset.root, todo=dataset.note)
    admitted: list[Admitted] = []
    left_out: list[LeftOutImage] = []
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        for done, result in enumerate(pool.map(look, samples), 1):
            if isinstance(result, Admitted):
                admitted.append(result)
            else:
                left_out.append(result)
            listener.progress("reading images", done / len(samples))
    for image in left_out:
        listener.warn(f"{image.path} is left out ({image.reason}): {image.detail}.")
    if len(admitted) < 2:
        todo = None
        if any(image.reason == Reason.WRONG_DEPTH for image in left_out):
            todo = "Say what the files hold: --depth uint16, or --depth float32 --range LOW HIGH"
        raise DataError(nothing_left(samples, left_out, len(admitted)), where=dataset.root, todo=todo)
    return admitted, left_out


def nothing_left(samples: Sequence[Sample], left_out: Sequence[LeftOutImage], admitted: int) -> str:
    """Why there is nothing to train on."""
    found = f"training needs at least two images that can be read; of {len(samples)} training images {admitted} can"
    if not left_out:
        return found
    reason, count = Counter(image.reason for image in left_out).most_common(1)[0]
    example = next(image for image in left_out if image.reason == reason)
    return f"{found}; {count} left out as {reason}, such as {example.path}: {example.detail}"


def relative_name(path: Path, root: Path) -> str:
    """The path as the model file names it: below the source, never of the machine."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def base_contract(depth: Depth, value_range: tuple[float, float] | None) -> ImageContract:
    """The image contract that the user declared."""
    low, high = value_range or (None, None)
    try:
        return ImageContract.model_validate(
            {"depth": depth, "low": low, "high": high} if value_range else {"depth": depth}
        )
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(message, where="--depth/--range") from error
