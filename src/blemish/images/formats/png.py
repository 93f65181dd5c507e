"""PNG (W3C Recommendation, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from blemish.images.formats.header import Header
from blemish.images.formats.pillow import eight_bit, sixteen_bit_colour, upright
from blemish.images.formats.refusals import damaged, several_frames, truncated

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6  # colour types
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_header(data: bytes) -> Header:
    """Read the header, and verify the checksum of every chunk."""
    names = {name for name, _ in _chunks(data)}
    if data[12:16] != b"IHDR":
        raise damaged("its first chunk is not IHDR")
    if b"acTL" in names:
        raise several_frames()
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return Header(width, height, "uint16", "16-bit") if bits == 16 else Header(width, height)


def read_pixels(data: bytes, header: Header) -> NDArray[Any]:
    """Decode the picture, of up to 8 bits or of 16."""
    bits, colour_type = data[24], data[25]
    _check_rows(data, header, bits * _CHANNELS[colour_type])
    if bits < 16:
        return eight_bit(PngImageFile(BytesIO(data)))
    if colour_type in (_RGB, _RGBA):
        return sixteen_bit_colour(lambda: PngImageFile(BytesIO(data)))
    image = PngImageFile(BytesIO(data))
    if colour_type == _GREY:
        return np.array(upright(image)).astype(np.uint16)
    # Grey and alpha of 16 bits take as many bytes as RGBA of 8: read so, the grey is the first two, high byte first.
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    grey = np.array(upright(image)).astype(np.uint16)
    return grey[..., 0] << np.uint16(8) | grey[..., 1]


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of every chunk up to IEND, each with its checksum verified."""
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        if end + 4 > len(data):
            break
        name = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise damaged(f"the checksum of its {name.decode('latin-1')} chunk is wrong")
        yield name, view[at + 8 : end]
        if name == b"IEND":
            return
        at = end + 4
    raise truncated("the file ends before its IEND chunk")


def _check_rows(data: bytes, header: Header, pixel_bits: int) -> None:
    """Check that the compressed data hold every row: Pillow would leave the missing ones black."""
    missing = 0
    for x, y, x_step, y_step in _ADAM7 if data[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(header.width - x) // x_step), -(-(header.height - y) // y_step)
        if columns > 0:
            missing += rows * (1 + -(-columns * pixel_bits // 8))
    inflate = zlib.decompressobj()
    for name, content in _chunks(data):
        rest: bytes | memoryview = content if name == b"IDAT" else b""
        while rest and missing > 0 and not inflate.eof:
            missing -= len(inflate.decompress(rest, 2**20))
            rest = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise truncated("the file ends before its last row")
