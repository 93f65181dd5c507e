"""JPEG (ITU-T T.81)."""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from blemish.errors import ImageError, Reason
from blemish.images.formats.header import Header
from blemish.images.formats.pillow import eight_bit
from blemish.images.formats.refusals import damaged, truncated, unsupported

_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # neither stuffed bytes nor restart markers
_END: Final = 0xD9
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def read_header(data: bytes) -> Header:
    """Read the frame header, and look for the end marker behind it: what comes later is of another picture."""
    header = None
    at = 2
    while match := _MARKER.search(data, at):
        marker, start = match[0][1], match.end()
        if marker == _END:
            if header is None:
                raise damaged("it has no frame header")
            return header
        if marker in _FRAMES and header is None:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, start + 2)
            if channels == 4:
                raise ImageError(Reason.WRONG_COLOUR, "it holds CMYK inks", todo="Save it as RGB")
            if bits != 8:
                raise unsupported(f"it is a JPEG of {bits} bits a sample")
            header = Header(width, height)
        (length,) = struct.unpack_from(">H", data, start)
        at = start + length
    raise truncated("the file ends before its end marker")


def read_pixels(data: bytes, header: Header) -> NDArray[np.uint8]:
    """Decode the picture."""
    return eight_bit(JpegImageFile(BytesIO(data)))
