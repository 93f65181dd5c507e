"""Pictures through Pillow.

Its readers are called one by one instead of through Image.open, which would look at other formats too and warn about
large pictures that the contract allows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from blemish.images.formats.refusals import unsupported

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: ImageFile) -> Image.Image:
    """Decode a picture and turn it as its EXIF orientation says."""
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def eight_bit(image: ImageFile) -> NDArray[np.uint8]:
    """Return the colour of an 8-bit picture, H x W if it stores one channel, else H x W x 3."""
    picture = upright(image)
    # With it, Pillow would warn that the transparency of a palette gets lost, as it is meant to.
    picture.info.pop("transparency", None)
    return np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"), dtype=np.uint8)


def sixteen_bit_colour(open_image: Callable[[], ImageFile]) -> NDArray[np.uint16]:
    """Return 16-bit RGB, H x W x 3.

    Pillow keeps one byte of each such sample, the high one for the byte order of the file. Read in the other byte
    order, the same file yields the low bytes.
    """
    high, low = open_image(), open_image()
    low.tile = [tile._replace(args=_other_byte_order(tile.args)) for tile in low.tile]
    high_bytes, low_bytes = (np.array(upright(image))[..., :3].astype(np.uint16) for image in (high, low))
    return high_bytes << np.uint16(8) | low_bytes


def _other_byte_order(args: Any) -> Any:
    if isinstance(args, tuple):
        return (_other_byte_order(args[0]), *args[1:])
    match = re.fullmatch(r"(RGB[AX]?;16)([BLN])", str(args))
    if match is None:
        raise unsupported(f"this version of Pillow does not decode 16-bit colour of its kind ({args})")
    kind, order = match.groups()
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    return kind + ("B" if little else "L")
