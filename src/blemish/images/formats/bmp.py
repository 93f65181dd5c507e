"""BMP, uncompressed."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile

from blemish.images.formats.header import Header
from blemish.images.formats.pillow import eight_bit
from blemish.images.formats.refusals import damaged, truncated, unsupported

_HEADER_LENGTHS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})  # of the header's versions


def read_header(data: bytes) -> Header:
    """Read the header, and check that the file holds every row."""
    (length,) = struct.unpack_from("<L", data, 14)
    if length not in _HEADER_LENGTHS:
        raise damaged(f"no BMP header is {length} bytes long")
    image = BmpImageFile(BytesIO(data))
    codec, _, offset, args = image.tile[0]
    if codec != "raw" or not isinstance(args, tuple):
        raise unsupported("it is a compressed BMP")
    if offset + args[1] * image.height > len(data):
        raise truncated("the file ends before its last row")
    return Header(image.width, image.height)


def read_pixels(data: bytes, header: Header) -> NDArray[np.uint8]:
    """Decode the picture."""
    return eight_bit(BmpImageFile(BytesIO(data)))
