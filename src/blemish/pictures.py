"""Pictures for people: heat maps, overlays and outlines, thumbnails, and the bytes of image files.

The colours of a heat map are anchored at the threshold, from 0 to twice its value, the same for every image. A good
part looks calm and two images can be compared; a scale stretched to each image would paint a defect on every one.
"""

from __future__ import annotations

import base64
import math
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.components import Mask

Picture = NDArray[np.uint8]

ANCHORS = (
    (0.00, (16, 18, 58)),
    (0.25, (58, 44, 138)),
    (0.50, (196, 42, 116)),
    (0.75, (247, 128, 46)),
    (1.00, (255, 238, 128)),
)
"""Place on the scale from 0 to twice the threshold, and its colour. Lightness rises all the way, so the order of the
colours can be read without telling hues apart, also in grey print."""

MASK_COLOUR = (255, 255, 255)
TRUTH_COLOUR = (64, 224, 255)

_STRONGEST = 0.75
"""Opacity of heat well above the threshold: what lies below it stays visible."""
_CALM, _ALARMING = 0.4, 1.2
"""Shares of the threshold between which heat comes up from nothing to its full opacity."""
_LINES_PER_SIDE = 160
"""The longer side of a picture in line widths."""
_WEBP_QUALITY = 85


def _colour_table() -> Picture:
    places = [place for place, _ in ANCHORS]
    channels = zip(*(colour for _, colour in ANCHORS), strict=True)
    steps = np.linspace(0, 1, 256)
    return np.stack([np.rint(np.interp(steps, places, channel)) for channel in channels], axis=1).astype(np.uint8)


COLOURS = _colour_table()
"""uint8, 256 x 3: the colours of a heat map from 0 to twice the threshold."""


def heatmap(anomaly_map: NDArray[np.floating], threshold: float) -> Picture:
    """Colour an anomaly map.

    Parameters
    ----------
    anomaly_map : float, H x W, finite.
    threshold : map value above which a pixel is marked; it gets the middle colour. If it is not positive, there is no
        scale from 0 to twice its value: what is above it gets the last colour, everything else the first.

    Returns
    -------
    uint8, H x W x 3.
    """
    place = np.rint(_relative(anomaly_map, threshold) * np.float32(255 / 2))
    # Numbers of one byte: eight bytes each would take five times as long.
    colours: Picture = np.take(COLOURS, place.astype(np.uint8), axis=0)
    return colours


def overlay(
    image: Picture,
    anomaly_map: NDArray[np.floating],
    threshold: float,
    mask: Mask | None = None,
    truth: Mask | None = None,
) -> Picture:
    """Lay the heat map over an image, with the outlines of the mask (white) and of the ground truth (cyan).

    Heat is transparent far below the threshold and comes up as the map nears it.

    Parameters
    ----------
    image : uint8, H x W x 3. anomaly_map, threshold : as for `heatmap`. mask, truth : bool, H x W.

    Returns
    -------
    uint8, H x W x 3.
    """
    way = np.clip((_relative(anomaly_map, threshold) - _CALM) / (_ALARMING - _CALM), 0, 1)
    opacity = (_STRONGEST * way * way * (3 - 2 * way))[..., None]
    blended = heatmap(anomaly_map, threshold).astype(np.float32)
    blended -= image
    blended *= opacity
    blended += image
    return outlined(np.rint(blended, out=blended).astype(np.uint8), mask, truth)


def outlined(image: Picture, mask: Mask | None = None, truth: Mask | None = None) -> Picture:
    """Draw the outlines of the mask (white) and of the ground truth (cyan) on a copy of an image.

    Parameters
    ----------
    image : uint8, H x W x 3. mask, truth : bool, H x W.

    Returns
    -------
    uint8, H x W x 3.
    """
    canvas = image.copy()
    for area, colour in ((truth, TRUTH_COLOUR), (mask, MASK_COLOUR)):
        if area is not None:
            line = outline(area)
            # A dark edge keeps the line visible on a part as light as itself.
            canvas[_grown(area, _line_width(area) + 1) & ~line & ~area] //= 3
            canvas[line] = colour
    return canvas


def outline(mask: Mask) -> Mask:
    """Line around a mask, just outside it, so that it hides nothing that is marked.

    Its width grows with the picture: one part in 160 of the longer side, at least one pixel.

    Parameters
    ----------
    mask : bool, H x W.

    Returns
    -------
    bool, H x W.
    """
    return _grown(mask, _line_width(mask)) & ~mask


def thumbnail(array: NDArray[Any], side: int) -> NDArray[Any]:
    """Shrink an image, an anomaly map or a mask so that its longer side is at most `side`; small ones stay as they are.

    An image is averaged; a map or a mask keeps the largest value of what becomes one pixel, so that the smallest defect
    stays visible.

    Parameters
    ----------
    array : uint8 H x W x 3 (image), or H x W of any type (map, mask).

    Returns
    -------
    The same type, h x w or h x w x 3. Arrays of the same H and W get the same h and w.
    """
    height, width = array.shape[:2]
    shrink = max(height, width) / side
    if shrink <= 1:
        return array
    small = max(1, round(height / shrink)), max(1, round(width / shrink))
    if array.ndim == 3:
        return np.asarray(Image.fromarray(array).resize(small[::-1], Image.Resampling.LANCZOS, reducing_gap=3))
    for axis, n in enumerate(small):
        array = np.maximum.reduceat(array, np.arange(n) * array.shape[axis] // n, axis=axis)
    return array


def png(picture: NDArray[np.uint8] | Mask) -> bytes:
    """Encode a picture (uint8 H x W x 3 or H x W, or a mask) as a PNG file, without loss."""
    # Level 1 takes a third of the default's time, for files a seventh larger.
    return _encoded(picture, "PNG", compress_level=1)


def webp(picture: Picture) -> bytes:
    """Encode a picture, uint8 H x W x 3, as a small WebP file, with loss."""
    return _encoded(picture, "WEBP", quality=_WEBP_QUALITY)


def data_uri(picture: Picture) -> str:
    """Return a picture, uint8 H x W x 3, as the address of itself, for a page that must stand alone."""
    return "data:image/webp;base64," + base64.b64encode(webp(picture)).decode("ascii")


def _encoded(picture: NDArray[Any], file_format: str, **options: int) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, file_format, **options)
    return file.getvalue()


def _relative(anomaly_map: NDArray[np.floating], threshold: float) -> NDArray[np.float32]:
    """The map in units of the threshold, from 0 to 2."""
    if threshold > 0:
        # A threshold next to nothing overflows to infinity, which is as hot as anything above it.
        with np.errstate(over="ignore"):
            return np.clip(np.asarray(anomaly_map / threshold, dtype=np.float32), 0, 2)
    return np.where(anomaly_map > threshold, np.float32(2), np.float32(0))


def _line_width(mask: Mask) -> int:
    longer: int = max(mask.shape)
    return math.ceil(longer / _LINES_PER_SIDE)


def _grown(mask: Mask, by: int) -> Mask:
    """The mask and everything up to `by` pixels from it, along rows and columns."""
    for _ in range(2):
        # Marked pixels above each; the difference of two counts says whether there is one in between.
        count = np.cumsum(np.pad(mask, ((by + 1, by), (0, 0))), axis=0, dtype=np.int32)
        mask = (count[2 * by + 1 :] > count[: -(2 * by + 1)]).T
    return mask
