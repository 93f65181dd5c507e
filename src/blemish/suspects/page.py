"""The page of the suspects: pictures of the most suspicious images and where they are suspicious."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.modelfile import Suspicion, SuspiciousImage, TrainingRecord
from blemish.pages import Tile, counted, percent, write_page
from blemish.pictures import Picture, data_uri, overlay, thumbnail
from blemish.suspects.judging import SUSPECT

SHOWN = 48
"""Suspects that are shown with pictures."""
SHOWN_BELOW = 6
"""Images shown that are next to being suspects."""
SIDE = 240
"""Longer side of a picture, in pixels."""


@dataclass(frozen=True)
class Shown:
    """An image with pictures. `image` : uint8, H x W x 3; `suspicion_map` : float, H x W."""

    of: SuspiciousImage
    image: Picture
    suspicion_map: NDArray[np.floating]


@dataclass(frozen=True)
class _Pictured:
    name: str
    what: str
    image: str
    map: str


def page_beside(model: str | os.PathLike[str]) -> Path:
    """Where the page of a model file lies: NAME.suspects.html beside NAME.blemish."""
    return Path(model).with_suffix(".suspects.html")


def worth_showing(suspicion: Suspicion) -> list[SuspiciousImage]:
    """The images to show, the most suspicious first: suspects, and those nearest to being one."""
    below = [image for image in suspicion.ranked if not image.suspect]
    return [*suspicion.suspects[:SHOWN], *below[:SHOWN_BELOW]]


def write_page_of_suspects(
    path: str | os.PathLike[str], training: TrainingRecord, suspicion: Suspicion, shown: Sequence[Shown]
) -> None:
    """Write the page.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    role = {image.path: image.role for image in training.images}
    suspects = suspicion.suspects
    calibrating = that_calibrate(suspicion, training)

    def pictured(one: Shown) -> _Pictured:
        image, suspicion_map = thumbnail(one.image, SIDE), thumbnail(one.suspicion_map, SIDE)
        what = f"z = {one.of.z:.1f}, {role[one.of.path]}"
        return _Pictured(one.of.path, what, data_uri(image), data_uri(overlay(image, suspicion_map, suspicion.limit)))

    found = [pictured(one) for one in shown if one.of.suspect]
    content: dict[str, Any] = {
        "title": f"{training.source}: suspects",
        "subject": training.source,
        "kind": "Suspects",
        "place": "",
        "headline": in_one_line(suspicion),
        "tiles": [
            Tile(str(len(suspects)), "suspects", "look at these", "review" if suspects else "ok"),
            Tile(str(calibrating), "of them calibrate", "the others train"),
            Tile(str(len(suspicion.images)), "images looked at"),
            Tile(percent(len(suspects) / len(suspicion.images)), "are suspects"),
        ],
        "found": found,
        "below": [pictured(one) for one in shown if not one.of.suspect],
        "listed": suspects[len(found) :],
        "calibrating": calibrating,
        "facts": [
            (
                "Score",
                "how far what the teacher sees is from what it would see in a good part; the largest value of a map",
            ),
            (
                "Suspect",
                f"the logarithm of the score is more than {SUSPECT:g} robust standard deviations (1.4826 times the "
                f"median absolute deviation) above the median of all images: a score above {suspicion.limit:.4g}",
            ),
            ("Colours", "from 0 to twice that score, the same for all images"),
        ],
    }
    write_page(path, "blemish.suspects", "suspects.html.jinja", **content)


def that_calibrate(suspicion: Suspicion, training: TrainingRecord) -> int:
    """How many suspects are among the images that the threshold rests on."""
    role = {image.path: image.role for image in training.images}
    return sum("calibration" in role[image.path] for image in suspicion.suspects)


def warning(suspicion: Suspicion, training: TrainingRecord) -> str | None:
    """What suspects mean for the threshold; None if none of them calibrates."""
    number = that_calibrate(suspicion, training)
    if not number:
        return None
    return (
        f"{counted(number, 'suspect')} among the images that calibrate: if bad parts are among them, the threshold is "
        "too high and defects are missed. Take the bad ones out and train again."
    )


def in_one_line(suspicion: Suspicion) -> str:
    """How many there are."""
    images = counted(len(suspicion.images), "image")
    match len(suspicion.suspects):
        case 0:
            return f"None of {images} is a suspect."
        case 1:
            return f"1 of {images} is a suspect."
        case several:
            return f"{several} of {images} are suspects."
