"""WebP (RFC 9649)."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.WebPImagePlugin import WebPImageFile

from blemish.images.formats.header import Header
from blemish.images.formats.pillow import eight_bit
from blemish.images.formats.refusals import several_frames, truncated


def read_header(data: bytes) -> Header:
    """Read the header of the extended, the lossless or the lossy form, and check the length that it gives."""
    if len(data) < max(30, 8 + int.from_bytes(data[4:8], "little")):
        raise truncated("the file ends before the length that its header gives")
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise several_frames()
        return Header(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return Header((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header(width & 0x3FFF, height & 0x3FFF)


def read_pixels(data: bytes, header: Header) -> NDArray[np.uint8]:
    """Decode the picture."""
    return eight_bit(WebPImageFile(BytesIO(data)))
