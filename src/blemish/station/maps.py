"""How an anomaly map is stored and shown.

What is kept of it: for each pixel one byte, its place on the scale from 0 to twice the threshold, that scale of
`pictures` whose colours people see. 128 and more are exactly the marked pixels.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.pictures import COLOURS, Picture, overlay, png

LAST_CALM: Final = 127
"""The last byte of an unmarked pixel."""


def encode_map(anomaly_map: NDArray[np.float32], threshold: float) -> bytes:
    """An anomaly map, H x W, as a grey PNG: one byte a pixel; 0..127 unmarked, 128..255 marked."""
    marked = anomaly_map > threshold
    relative = anomaly_map / threshold if threshold > 0 else np.where(marked, 2.0, 0.0)
    place = np.rint(np.clip(relative / 2, 0, 1) * 255)
    return png(np.where(marked, np.maximum(place, LAST_CALM + 1), np.minimum(place, LAST_CALM)).astype(np.uint8))


def decode_map(content: bytes) -> NDArray[np.uint8]:
    """What `encode_map` wrote, uint8 H x W."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("L"))


def heat_map(codes: NDArray[np.uint8]) -> Picture:
    """The colours of a decoded map, uint8 H x W x 3."""
    return COLOURS[codes]


def overlaid(image: Picture, codes: NDArray[np.uint8]) -> Picture:
    """A decoded map laid over its image, with the outline of the marked pixels."""
    return overlay(image, codes.astype(np.float32) / 127.5, 1.0, codes > LAST_CALM)
