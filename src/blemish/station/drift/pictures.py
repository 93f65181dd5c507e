"""What an image is like as a whole: a few numbers that light, lens and camera decide."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

STATISTICS: Final = ("brightness", "sharpness", "warmth", "tint")

_LOOKED_AT: Final = 512
"""Rows and columns that are looked at, at most; the same ones in every image of a size."""


def statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Brightness, sharpness and colour of an image, uint8 H x W x 3.

    brightness : mean of the grey values, 0 to 255.
    sharpness : mean absolute difference of neighbouring grey values, by the mean brightness, so that a lamp that fades
        does not count as a lens that is out of focus. Neighbours are neighbours of the image itself.
    warmth : mean of red minus blue. tint : mean of green minus half of red and blue.
    """
    rows, columns = (max(1, -(-side // _LOOKED_AT)) for side in image.shape[:2])
    looked_at = image[::rows, ::columns].astype(np.float32)
    red, green, blue = (float(channel.mean()) for channel in np.moveaxis(looked_at, -1, 0))
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    beside = image[::rows, 1::columns, 1].astype(np.float32)
    shared = looked_at[:, : beside.shape[1], 1]
    contrast = float(np.abs(beside - shared).mean()) if beside.size else 0.0
    return {
        "brightness": brightness,
        "sharpness": contrast / (brightness + 1),
        "warmth": red - blue,
        "tint": green - (red + blue) / 2,
    }
