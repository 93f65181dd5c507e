"""TIFF (revision 6.0), and BigTIFF in the byte order that Pillow reads."""

from __future__ import annotations

import struct
from enum import IntEnum
from io import BytesIO
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from blemish.errors import ImageError, Reason
from blemish.images.contract import Depth
from blemish.images.formats.header import Header
from blemish.images.formats.pillow import eight_bit, sixteen_bit_colour, upright
from blemish.images.formats.refusals import damaged, several_frames, truncated, unsupported


class _Tag(IntEnum):
    """The tags that matter."""

    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    STRIP_OFFSETS = 273
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_SIZES = 279
    PLANAR = 284
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_SIZES = 325
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339


_Directory: TypeAlias = dict[int, tuple[int, ...]]  # tag -> its numbers, at least one

_TAGS: Final = frozenset(_Tag)
_INTEGERS: Final = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}  # types of unsigned integers, as struct codes
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8}
_MOST_VALUES: Final = 2**20


def read_header(data: bytes) -> Header:
    """Read the directory, and check that the file holds the pixels that it promises."""
    tags = _directory(data)
    if _Tag.WIDTH not in tags or _Tag.HEIGHT not in tags:
        raise damaged("its directory gives no width or no height")
    if len({*tags.get(_Tag.BITS, ())}) > 1 or len({*tags.get(_Tag.SAMPLE_FORMAT, ())}) > 1:
        raise unsupported("it is a TIFF whose samples differ in depth")
    bits, photometric = _first(tags, _Tag.BITS), _first(tags, _Tag.PHOTOMETRIC, 0)
    if photometric in (5, 8, 9, 10):
        raise ImageError(Reason.WRONG_COLOUR, "it holds CMYK or Lab colours", todo="Save it as RGB")
    # 6 is YCbCr, which is safe to read only inside JPEG compression (7): elsewhere Pillow ignores its subsampling.
    if photometric not in (0, 1, 2, 3) and (photometric, _first(tags, _Tag.COMPRESSION)) != (6, 7):
        raise unsupported(f"it is a TIFF of photometric interpretation {photometric}")
    if 1 in tags.get(_Tag.EXTRA_SAMPLES, ()):
        raise unsupported("it is a TIFF with premultiplied alpha")
    if bits > 8 and _first(tags, _Tag.SAMPLES) > 1 and _first(tags, _Tag.PLANAR) != 1:
        raise unsupported(f"it is a TIFF that stores its {bits}-bit channels apart")
    depth, words = _depth(bits, _first(tags, _Tag.SAMPLE_FORMAT))
    if photometric == 0 and depth == "float32":
        raise unsupported("it is a floating-point TIFF whose zero is white")
    _check_blocks(data, tags)
    inverted = photometric == 0 and depth == "uint16"
    return Header(_first(tags, _Tag.WIDTH), _first(tags, _Tag.HEIGHT), depth, words, inverted)


def read_pixels(data: bytes, header: Header) -> NDArray[Any]:
    """Decode the picture, of any depth."""

    def open_image() -> TiffImageFile:
        try:
            image = TiffImageFile(BytesIO(data))
        except SyntaxError as error:
            raise unsupported(f"it is a TIFF of a kind that cannot be decoded ({error})") from error
        # Compressed data come in the machine's byte order, though Pillow takes floats to be in the file's.
        if image.mode == "F" and image.tile[0].codec_name == "libtiff" and isinstance(image.tile[0].args, tuple):
            image.tile = [image.tile[0]._replace(args=("F;32NF", *image.tile[0].args[1:]))]
        # Where it makes the canvas itself, Pillow warns above a pixel limit of its own; the contract's was checked.
        image.im = Image.new(image.mode, (header.width, header.height)).im
        return image

    image = open_image()
    if header.depth == "uint8":
        return eight_bit(image)
    if header.depth == "uint16" and image.mode in ("RGB", "RGBA"):
        return sixteen_bit_colour(open_image)
    if image.mode not in ("I;16", "I;16B", "F"):
        raise unsupported(f"it is a TIFF of a kind that cannot be decoded at its own depth (mode {image.mode})")
    pixels = np.array(upright(image)).astype(header.depth)
    return 65535 - pixels if header.inverted else pixels


def _directory(data: bytes) -> _Directory:
    """Return the numbers of the tags that matter, of the only directory."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2] == 43
    word, inline, entry = ("Q", 8, 20) if big else ("L", 4, 12)
    (directory,) = struct.unpack_from(order + word, data, inline)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    at = directory + (8 if big else 2)
    if at + count * entry + inline > len(data):
        raise truncated("the file ends before its directory does")
    tags: _Directory = {}
    for _ in range(count):
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", data, at)
        size = values * _SIZES.get(kind, 0)
        place = at + 4 + inline
        if size > inline:
            (place,) = struct.unpack_from(order + word, data, place)
        if place + size > len(data):
            raise truncated(f"the file ends before the data of its tag {tag}")
        if tag in _TAGS and kind in _INTEGERS:
            if values > _MOST_VALUES:
                raise damaged(f"its tag {tag} has {values} values")
            tags[tag] = struct.unpack_from(f"{order}{values}{_INTEGERS[kind]}", data, place)
        at += entry
    if struct.unpack_from(order + word, data, at) != (0,):
        raise several_frames()
    return {tag: values for tag, values in tags.items() if values}


def _first(tags: _Directory, tag: _Tag, default: int = 1) -> int:
    return tags.get(tag, (default,))[0]


def _depth(bits: int, sample_format: int) -> tuple[Depth | None, str]:
    """Return the depth, None if it is none of the contract's, and the words for it."""
    if sample_format == 3:
        return ("float32" if bits == 32 else None), f"{bits}-bit floating-point"
    if sample_format != 1:
        return None, f"signed or untyped {bits}-bit"
    # A 12-bit file is declared as uint16 with high=4095.
    depth: Depth | None = "uint8" if bits <= 8 else "uint16" if bits <= 16 else None
    return depth, f"{bits}-bit"


def _check_blocks(data: bytes, tags: _Directory) -> None:
    """Check that the strips or tiles lie inside the file and cover the picture: Pillow would leave gaps black."""
    width, height = _first(tags, _Tag.WIDTH), _first(tags, _Tag.HEIGHT)
    samples = _first(tags, _Tag.SAMPLES)
    tiled = _Tag.TILE_WIDTH in tags
    offsets = tags.get(_Tag.TILE_OFFSETS if tiled else _Tag.STRIP_OFFSETS, ())
    sizes = tags.get(_Tag.TILE_SIZES if tiled else _Tag.STRIP_SIZES, ())
    if not offsets or len(offsets) != len(sizes):
        raise damaged("its directory does not say where its pixels are")
    if any(offset + size > len(data) for offset, size in zip(offsets, sizes, strict=True)):
        raise truncated("the file ends before its last pixels")
    block_width = _first(tags, _Tag.TILE_WIDTH, width)
    block_height = _first(tags, _Tag.TILE_HEIGHT if tiled else _Tag.ROWS_PER_STRIP, height)
    if not (block_width and block_height):
        raise damaged("its strips or tiles are empty")
    if tiled and block_width * block_height > 4 * max(width * height, 2**20):
        raise damaged("its tiles are far larger than its picture")
    blocks = -(-width // block_width) * -(-height // block_height)
    if _first(tags, _Tag.PLANAR) != 1:
        blocks *= samples
    row_bits = width * samples * _first(tags, _Tag.BITS)
    uncompressed = _first(tags, _Tag.COMPRESSION) == 1
    if len(offsets) < blocks or 0 in sizes or (uncompressed and sum(sizes) < -(-row_bits // 8) * height):
        raise damaged("its strips or tiles do not cover its picture")
