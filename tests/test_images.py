"""The image contract: what is taken, at which values, and the reason for everything that is not."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from blemish.errors import ImageError, Reason, UsageError
from blemish.images import DEFAULT_CONTRACT, Depth, Facts, ImageContract, contract_for, is_grey, read, scale, to_display

SHARED = Path(__file__).resolve().parents[2] / "shared"
UINT16 = ImageContract(depth="uint16")
FLOAT32 = ImageContract(depth="float32", low=-10, high=10)
Array = np.ndarray[Any, np.dtype[Any]]


def noise(*shape: int, dtype: str = "uint8") -> Array:
    """Random pixels over the full range of an integer type."""
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height: int = 24, width: int = 40) -> Array:
    """A gentle colour picture, which JPEG and WebP keep almost unchanged."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 3 * x, 60 + 4 * y, 200 - 2 * x - 2 * y], axis=-1).astype(np.uint8)


def encoded(pixels: Array | Image.Image, file_format: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_rows(pixels: Array, filtered: bool) -> bytes:
    """Rows of PNG, each with its filter byte: 0 everywhere, or 1 (left) and 2 (above) in turn."""
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.frombuffer(big_endian.tobytes(), np.uint8).reshape(len(pixels), -1)
    if not filtered:
        return np.pad(rows, ((0, 0), (1, 0))).tobytes()
    step = len(rows[0]) // pixels.shape[1]
    left, above = rows.copy(), rows.copy()
    left[:, step:] -= rows[:, :-step]
    above[1:] -= rows[:-1]
    return b"".join(bytes([1 + i % 2]) + (left, above)[i % 2][i].tobytes() for i in range(len(rows)))


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(pixels: Array, *, interlaced: bool = False, filtered: bool = False) -> bytes:
    """Write PNG of 8 or 16 bits by the specification, independently of Pillow."""
    height, width = pixels.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [pixels]
    content = b"".join(png_rows(part, filtered) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    pixels: Array,
    *,
    order: str = "<",
    big: bool = False,
    deflate: bool = False,
    predictor: bool = False,
    rows_per_strip: int = 7,
    tags: dict[int, tuple[int, ...]] | None = None,
    strips: list[bytes] | None = None,
) -> bytes:
    """Write TIFF (or BigTIFF) in strips by the specification, independently of Pillow; the directory comes last."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    stored = pixels.copy()
    if predictor:
        stored[:, 1:] -= pixels[:, :-1]
    raw = stored.astype(pixels.dtype.newbyteorder("<" if order == "<" else ">"))
    if strips is None:
        strips = [raw[y : y + rows_per_strip].tobytes() for y in range(0, height, rows_per_strip)]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    head = 16 if big else 8
    offsets = [head + sum(map(len, strips[:i])) for i in range(len(strips))]
    values: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (8 * pixels.itemsize,) * samples,
        259: (8 if deflate else 1,),
        262: (2 if samples >= 3 else 1,),
        273: tuple(offsets),
        277: (samples,),
        278: (rows_per_strip,),
        279: tuple(map(len, strips)),
        317: (2 if predictor else 1,),
        338: (2,) if samples in (2, 4) else (),
        339: ({"u": 1, "i": 2, "f": 3}[pixels.dtype.kind],) * samples,
    } | (tags or {})
    values = {tag: numbers for tag, numbers in sorted(values.items()) if numbers}
    word, inline = ("Q", 8) if big else ("L", 4)
    directory = head + sum(map(len, strips))
    beyond = directory + (8 if big else 2) + len(values) * (20 if big else 12) + inline
    entries, outside = b"", b""
    for tag, numbers in values.items():
        packed = struct.pack(f"{order}{len(numbers)}L", *numbers)
        if len(packed) > inline:
            field = struct.pack(order + word, beyond + len(outside))
            outside += packed
        else:
            field = packed.ljust(inline, b"\0")
        entries += struct.pack(f"{order}HH{word}", tag, 4, len(numbers)) + field
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    start = struct.pack(order + "HHQ", 8, 0, directory) if big else struct.pack(order + "L", directory)
    count = struct.pack(order + ("Q" if big else "H"), len(values))
    return magic + start + b"".join(strips) + count + entries + struct.pack(order + word, 0) + outside


def refusal(source: Any, contract: ImageContract = DEFAULT_CONTRACT) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(source, contract)
    return caught.value


def reason(source: Any, contract: ImageContract = DEFAULT_CONTRACT) -> Reason:
    return refusal(source, contract).reason


def reason_if_refused(source: Any) -> Reason | None:
    try:
        read(source)
    except ImageError as error:
        return error.reason
    return None


def assert_image(image: Array, expected: Array, contract: ImageContract = DEFAULT_CONTRACT) -> None:
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    assert image.dtype == contract.depth
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, expected)


# What is taken.


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_colour_and_grey_come_back_exactly(file_format: str, tmp_path: Path) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    for pixels in (noise(17, 23, 3), noise(17, 23)):
        data = encoded(pixels, file_format, **options)
        path = tmp_path / "picture.of.some.name"
        path.write_bytes(data)
        assert_image(read(data), pixels)
        assert_image(read(path), pixels)
        assert_image(read(str(path)), pixels)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(file_format: str) -> None:
    image = read(encoded(smooth(), file_format, quality=95))
    assert image.shape == (24, 40, 3)
    assert np.abs(image.astype(int) - smooth()).mean() < 4


def test_jpeg_with_more_pictures_behind_it_is_its_first() -> None:
    behind = Image.fromarray(smooth()[::-1])
    data = encoded(Image.fromarray(smooth()), "MPO", save_all=True, append_images=[behind])
    np.testing.assert_array_equal(read(data), read(encoded(smooth(), "JPEG")))


def test_jpeg_grey_and_progressive() -> None:
    grey = read(encoded(smooth()[..., 0], "JPEG", quality=95))
    assert is_grey(grey)
    plain, progressive = (read(encoded(smooth(), "JPEG", progressive=flag)) for flag in (False, True))
    np.testing.assert_array_equal(plain, progressive)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_not_blended(file_format: str) -> None:
    pixels = noise(9, 11, 4)
    pixels[..., 3] = np.arange(99).reshape(9, 11) * 255 // 98
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    assert_image(read(encoded(pixels, file_format, **options)), pixels[..., :3])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_with_alpha(file_format: str) -> None:
    image = Image.fromarray(noise(9, 11))
    image.putalpha(Image.fromarray(noise(9, 11) // 2))
    assert image.mode == "LA"
    assert_image(read(encoded(image, file_format)), noise(9, 11))


@pytest.mark.parametrize("transparency", [None, 0, bytes(range(200))])
@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_palette(file_format: str, transparency: int | bytes | None) -> None:
    colours, indices = noise(256, 3), noise(8, 12) // 2
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    options = {"transparency": transparency} if file_format == "PNG" and transparency is not None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_image(read(encoded(image, file_format, **options)), colours[indices])


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_one_bit(file_format: str) -> None:
    bits = noise(10, 13) > 127
    assert_image(read(encoded(Image.fromarray(bits), file_format)), np.where(bits, 255, 0).astype(np.uint8))


def test_two_and_four_bit_png_span_the_full_range() -> None:
    for bits in (2, 4):
        levels = np.arange(8 // bits, dtype=np.uint8)
        packed = int("".join(f"{level:0{bits}b}" for level in levels), 2)
        header = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, packed]))) + chunk(b"IEND", b"")
        assert_image(read(b"\x89PNG\r\n\x1a\n" + body), levels[None] * np.uint8(255 // (2**bits - 1)))


@pytest.mark.parametrize("channels", [None, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
def test_png_of_sixteen_bits_keeps_every_bit(channels: int | None, interlaced: bool, filtered: bool) -> None:
    pixels = noise(*((19, 21) if channels is None else (19, 21, channels)), dtype="uint16")
    expected = pixels if channels is None else pixels[..., 0] if channels == 2 else pixels[..., :3]
    assert_image(read(png(pixels, interlaced=interlaced, filtered=filtered), UINT16), expected, UINT16)


@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("coding", [{}, {"deflate": True}, {"deflate": True, "predictor": True}])
def test_tiff_of_sixteen_bits_keeps_every_bit(channels: int | None, order: str, coding: dict[str, Any]) -> None:
    pixels = noise(*((19, 21) if channels is None else (19, 21, channels)), dtype="uint16")
    expected = pixels if channels is None else pixels[..., :3]
    assert_image(read(tiff(pixels, order=order, **coding), UINT16), expected, UINT16)


def test_big_tiff() -> None:
    for channels in ((), (3,)):
        pixels = noise(19, 21, *channels, dtype="uint16")
        assert_image(read(tiff(pixels, big=True), UINT16), pixels, UINT16)
        assert reason(tiff(pixels, big=True, order=">"), UINT16) == Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_whose_zero_is_white(order: str, deflate: bool) -> None:
    pixels = noise(9, 11, dtype="uint16")
    data = tiff(pixels, order=order, deflate=deflate, tags={262: (0,)})
    if order == ">":
        assert reason(data, UINT16) == Reason.UNSUPPORTED_FORMAT
    else:
        assert_image(read(data, UINT16), 65535 - pixels, UINT16)
    eight = noise(9, 11)
    assert_image(read(tiff(eight, order=order, deflate=deflate, tags={262: (0,)})), 255 - eight)


def test_tiff_of_twelve_bits_is_sixteen_bit_data() -> None:
    values = noise(6, 8, dtype="uint16") // 16
    pairs = values.reshape(6, 4, 2).astype(np.uint32)
    packed = pairs[..., 0] << 12 | pairs[..., 1]
    rows = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)
    contract = ImageContract(depth="uint16", high=4095)
    data = tiff(values, tags={258: (12,), 278: (6,)}, strips=[rows.tobytes()])
    assert_image(read(data, contract), values, contract)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_of_floats(order: str, deflate: bool) -> None:
    pixels = np.linspace(-10, 10, 9 * 11, dtype=np.float32).reshape(9, 11)
    assert_image(read(tiff(pixels, order=order, deflate=deflate), FLOAT32), pixels, FLOAT32)


def test_tiff_with_channels_apart() -> None:
    pixels = noise(9, 11, 3)
    planes = [pixels[..., channel].tobytes() for channel in range(3)]
    for deflate in (False, True):
        data = tiff(pixels, deflate=deflate, strips=planes, tags={284: (2,), 278: (9,)})
        assert_image(read(data), pixels)
    one_strip = tiff(pixels, tags={284: (2,), 278: (9,), 273: (8,), 279: (297,)})
    assert reason(one_strip) == Reason.UNREADABLE
    sixteen = noise(9, 11, 3, dtype="uint16")
    planes = [sixteen[..., channel].tobytes() for channel in range(3)]
    for deflate in (False, True):
        data = tiff(sixteen, deflate=deflate, strips=planes, tags={284: (2,), 278: (9,)})
        assert reason(data, UINT16) == Reason.UNSUPPORTED_FORMAT


def test_tiff_in_tiles() -> None:
    pixels = noise(20, 40, dtype="uint16")
    padded = np.pad(pixels, ((0, 12), (0, 8)))
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    whole = tiff(pixels, strips=tiles, tags={278: ()})
    sizes = {322: (16,), 323: (16,), 324: tuple(8 + 512 * i for i in range(6)), 325: (512,) * 6}
    tiled = tiff(pixels, strips=tiles, tags={273: (), 278: (), 279: (), **sizes})
    assert_image(read(tiled, UINT16), pixels, UINT16)
    assert reason(whole, UINT16) != Reason.WRONG_DEPTH


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_compressed_tiff(compression: str) -> None:
    options = {"quality": 98} if compression == "jpeg" else {}
    image = read(encoded(smooth(), "TIFF", compression=compression, **options))
    assert np.abs(image.astype(int) - smooth()).max() < (12 if compression == "jpeg" else 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :16] = 250  # a bright corner, top left
    lying = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    image = read(encoded(np.ascontiguousarray(lying), file_format, exif=exif))
    assert image.shape == (24, 40, 3)
    assert np.abs(image.astype(int) - upright).mean() < 10


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_orientation_of_sixteen_bits(orientation: int, channels: tuple[int, ...]) -> None:
    pixels = noise(9, 11, *channels, dtype="uint16")
    expected = np.rot90(pixels, 2 if orientation == 3 else -1)
    for data in (tiff(pixels, tags={274: (orientation,)}), tiff(pixels, order=">", tags={274: (orientation,)})):
        assert_image(read(data, UINT16), expected, UINT16)


def test_bmp_from_the_top_down() -> None:
    data = bytearray(encoded(smooth(), "BMP"))
    struct.pack_into("<i", data, 22, -24)
    assert_image(read(bytes(data)), smooth()[::-1])


# Arrays.


@pytest.mark.parametrize(
    ("contract", "dtype"), [(DEFAULT_CONTRACT, "uint8"), (UINT16, "uint16"), (UINT16, ">u2"), (FLOAT32, "float32")]
)
def test_arrays_of_every_shape(contract: ImageContract, dtype: str) -> None:
    pixels = (noise(7, 9, 4) / 32).astype(dtype)
    assert_image(read(pixels, contract), pixels[..., :3], contract)
    assert_image(read(pixels[..., :3], contract), pixels[..., :3], contract)
    assert_image(read(pixels[..., :1], contract), pixels[..., 0], contract)
    assert_image(read(pixels[..., 0], contract), pixels[..., 0], contract)
    assert_image(read(pixels.transpose(1, 0, 2), contract), pixels[..., :3].transpose(1, 0, 2), contract)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floating_arrays_become_float32(dtype: str) -> None:
    pixels = np.linspace(-8, 8, 63).reshape(7, 9).astype(dtype)
    assert_image(read(pixels, FLOAT32), pixels.astype(np.float32), FLOAT32)


def test_an_array_is_never_shared() -> None:
    pixels = noise(7, 9, 3)
    image = read(pixels)
    kept = image.copy()
    pixels[:] = 0
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("shape", [(), (5,), (0, 5), (5, 0, 3), (5, 5, 0), (5, 5, 2), (5, 5, 5), (1, 5, 5, 3)])
def test_arrays_that_are_no_images(shape: tuple[int, ...]) -> None:
    assert reason(np.zeros(shape, np.uint8)) == Reason.WRONG_SHAPE


@pytest.mark.parametrize("contract", [DEFAULT_CONTRACT, UINT16, FLOAT32])
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "int64", "float64", "complex64", "O", "U3"]
)
def test_arrays_of_another_depth(contract: ImageContract, dtype: str) -> None:
    array = np.zeros((4, 4), dtype)
    if dtype == contract.depth or (dtype, contract.depth) == ("float64", "float32"):
        read(array, contract)
    else:
        error = refusal(array, contract)
        assert error.reason == Reason.WRONG_DEPTH
        assert array.dtype.name in error.what
        assert contract.depth in error.what


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    pixels = np.zeros((5, 6), np.float32)
    pixels[4, 5] = bad
    assert reason(pixels, FLOAT32) == Reason.NOT_FINITE
    assert reason(tiff(pixels), FLOAT32) == Reason.NOT_FINITE


@pytest.mark.parametrize("bad", [10.001, -10.001, 1e300])
def test_floats_outside_the_declared_range(bad: float) -> None:
    pixels = np.zeros((5, 6))
    pixels[4, 5] = bad
    assert reason(pixels, FLOAT32) == Reason.OUT_OF_RANGE


def test_integers_outside_the_declared_range() -> None:
    camera = ImageContract(depth="uint16", low=16, high=4095)
    fine, above, below = (np.full((5, 6), value, np.uint16) for value in (4095, 65000, 15))
    assert_image(read(fine, camera), fine, camera)
    for pixels in (above, below):
        assert reason(pixels, camera) == Reason.OUT_OF_RANGE
        assert reason(png(pixels), camera) == Reason.OUT_OF_RANGE
    assert "65000" in refusal(above, camera).what


@pytest.mark.parametrize("source", [None, 3, 2.5, ["a"], bytearray(b"x")])
def test_other_sources_are_wrong_use(source: Any) -> None:
    with pytest.raises(UsageError):
        read(source)


# Depth.


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (png(noise(5, 6)), "uint8"),
        (png(np.zeros((5, 6), np.uint16)), "uint16"),
        (png(np.zeros((5, 6, 3), np.uint16)), "uint16"),
        (png(np.zeros((5, 6, 4), np.uint16)), "uint16"),
        (tiff(noise(5, 6)), "uint8"),
        (tiff(np.zeros((5, 6, 3), np.uint16)), "uint16"),
        (tiff(np.zeros((5, 6), np.float32)), "float32"),
        (encoded(smooth(), "JPEG"), "uint8"),
        (encoded(smooth(), "BMP"), "uint8"),
        (encoded(smooth(), "WEBP"), "uint8"),
    ],
)
def test_the_depth_is_the_files(data: bytes, held: str) -> None:
    words = {"uint8": "8-bit", "uint16": "16-bit", "float32": "32-bit floating-point"}
    for contract in (DEFAULT_CONTRACT, UINT16, FLOAT32):
        if contract.depth == held:
            read(data, contract)
        else:
            error = refusal(data, contract)
            assert error.reason == Reason.WRONG_DEPTH
            assert f"holds {words[held]} samples" in error.what
            assert f"declares {words[contract.depth]} ones" in error.what


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float16", "float64"])
@pytest.mark.parametrize("contract", [DEFAULT_CONTRACT, UINT16, FLOAT32])
def test_tiff_of_depths_that_no_contract_has(dtype: str, contract: ImageContract) -> None:
    assert reason(tiff(np.zeros((5, 6), dtype)), contract) == Reason.WRONG_DEPTH


@pytest.mark.parametrize(
    "data",
    [
        tiff(np.zeros((5, 6, 2), np.uint16)),
        tiff(np.zeros((5, 6, 4), np.uint16), tags={338: (1,)}),
        tiff(np.zeros((5, 6, 3), np.uint16), tags={258: (16, 8, 16)}),
        tiff(np.zeros((5, 6), np.uint16), tags={258: (10,)}),
    ],
)
def test_sixteen_bit_tiff_that_cannot_be_decoded_truly_is_refused(data: bytes) -> None:
    assert reason(data, UINT16) == Reason.UNSUPPORTED_FORMAT


def test_floating_tiff_whose_zero_is_white_is_refused() -> None:
    data = tiff(np.zeros((5, 6), np.float32), tags={262: (0,)})
    assert reason(data, FLOAT32) == Reason.UNSUPPORTED_FORMAT


def test_subsampled_and_raw_sensor_tiff_is_refused() -> None:
    assert reason(tiff(noise(6, 6, 3), tags={262: (6,)})) == Reason.UNSUPPORTED_FORMAT
    assert reason(tiff(noise(6, 6), tags={262: (32803,)})) == Reason.UNSUPPORTED_FORMAT


def test_premultiplied_alpha_is_refused() -> None:
    assert reason(tiff(noise(5, 6, 4), tags={338: (1,)})) == Reason.UNSUPPORTED_FORMAT


def test_colour_tiff_of_floats_is_refused() -> None:
    assert reason(tiff(np.zeros((5, 6, 3), np.float32)), FLOAT32) == Reason.UNSUPPORTED_FORMAT


# Colour and size.


def test_colour() -> None:
    grey, rgb = ImageContract(colour="grey"), ImageContract(colour="rgb")
    equal = np.repeat(noise(5, 6, 1), 3, axis=2)
    for one_channel in (noise(5, 6), noise(5, 6, 1), encoded(noise(5, 6), "PNG"), encoded(noise(8, 8), "JPEG")):
        assert is_grey(read(one_channel))
        assert is_grey(read(one_channel, grey))
        assert reason(one_channel, rgb) == Reason.WRONG_COLOUR
    for three_equal in (equal, encoded(equal, "PNG")):
        assert_image(read(three_equal, grey), equal)
        assert_image(read(three_equal, rgb), equal)
    for colourful in (noise(5, 6, 3), encoded(noise(5, 6, 3), "PNG")):
        read(colourful)
        read(colourful, rgb)
        assert reason(colourful, grey) == Reason.WRONG_COLOUR


def test_is_grey_looks_at_every_channel() -> None:
    for channel in range(3):
        image = np.full((4, 5, 3), 9, np.uint8)
        assert is_grey(image)
        image[3, 4, channel] = 10
        assert not is_grey(image)


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_inks_are_refused(file_format: str) -> None:
    assert reason(encoded(Image.new("CMYK", (8, 8)), file_format)) == Reason.WRONG_COLOUR


def test_lab_is_refused() -> None:
    assert reason(encoded(Image.new("LAB", (8, 8)), "TIFF")) == Reason.WRONG_COLOUR


def test_size_bounds_are_inclusive() -> None:
    contract = ImageContract(width=(10, 20), height=(5, 5))
    for width in (10, 20):
        read(noise(5, width), contract)
    for shape in ((5, 9), (5, 21), (4, 10), (6, 10)):
        assert reason(noise(*shape), contract) == Reason.WRONG_SIZE
        assert reason(encoded(noise(*shape), "PNG"), contract) == Reason.WRONG_SIZE


def test_size_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(noise(5, 10), "PNG", exif=exif)
    read(data, ImageContract(width=(5, 5), height=(10, 10)))


# Caps.


def test_cap_on_bytes_comes_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would need a terabyte
    with monkeypatch.context() as patched:
        patched.delattr(Path, "open")
        assert reason(path) == Reason.TOO_MANY_BYTES
    data = encoded(smooth(), "PNG")
    assert reason(data, ImageContract(max_bytes=len(data) - 1)) == Reason.TOO_MANY_BYTES
    read(data, ImageContract(max_bytes=len(data)))


def test_cap_on_pixels() -> None:
    exact, less = ImageContract(max_pixels=24 * 40), ImageContract(max_pixels=24 * 40 - 1)
    files = [encoded(smooth(), name) for name in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")]
    files.append(encoded(smooth(), "WEBP", lossless=True))
    files.append(encoded(np.dstack([smooth(), noise(24, 40)]), "WEBP"))
    sources: list[Any] = [smooth(), *files]
    for source in sources:
        read(source, exact)
        assert reason(source, less) == Reason.TOO_MANY_PIXELS


def test_bombs_are_refused_by_their_header_alone() -> None:
    side = 50_000
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    bomb_png = b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b"")
    bomb_jpeg = bytearray(encoded(smooth(), "JPEG"))
    struct.pack_into(">HH", bomb_jpeg, bomb_jpeg.index(b"\xff\xc0") + 5, side, side)
    bomb_webp = bytearray(encoded(np.dstack([smooth(), noise(24, 40)]), "WEBP"))
    bomb_webp[24:30] = struct.pack("<L", 2**24 - 1)[:3] * 2
    bomb_tiff = tiff(noise(5, 6), deflate=True, rows_per_strip=side, tags={256: (side,), 257: (side,)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bomb in (bomb_png, bytes(bomb_jpeg), bytes(bomb_webp), bomb_tiff):
            assert reason(bomb) == Reason.TOO_MANY_PIXELS


def test_a_tiff_whose_tile_dwarfs_its_picture_is_refused() -> None:
    side = 4096
    tiles = {273: (), 278: (), 279: (), 322: (side,), 323: (side,), 324: (8,)}
    content = bytes(side * side)
    data = tiff(noise(16, 16), deflate=True, strips=[content], tags={**tiles, 325: (len(zlib.compress(content)),)})
    assert reason(data) == Reason.UNREADABLE


def test_a_tiff_tag_without_end_is_refused() -> None:
    assert reason(tiff(noise(5, 6), tags={339: (1,) * (2**20 + 1)})) == Reason.UNREADABLE


def test_a_text_chunk_that_explodes_is_refused() -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50 * 2**20)))
    data = encoded(smooth(), "PNG")
    assert reason(data[:33] + text + data[33:]) == Reason.UNREADABLE


@pytest.mark.parametrize("limit", [500, 100])
def test_pillows_own_pixel_limit_neither_warns_nor_escapes(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    files = {name: encoded(smooth(), name) for name in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")}
    files["compressed TIFF"] = encoded(smooth(), "TIFF", compression="tiff_lzw")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, data in files.items():
            if name == "WEBP" and limit == 100:
                # Some versions of Pillow check it here, and some do not.
                assert reason_if_refused(data) in (None, Reason.TOO_MANY_PIXELS)
            else:
                assert read(data).shape == (24, 40, 3)


# Broken files.


@cache
def whole_files() -> dict[str, tuple[bytes, ImageContract]]:
    palette = Image.fromarray(noise(24, 40))
    palette.putpalette(noise(256, 3).tobytes())
    eight = {
        "png": encoded(smooth(), "PNG"),
        "palette png": encoded(palette, "PNG", transparency=bytes(99)),
        "interlaced png": png(noise(24, 40, 3), interlaced=True),
        "jpeg": encoded(smooth(), "JPEG"),
        "grey jpeg": encoded(smooth()[..., 0], "JPEG", quality=30),
        "progressive jpeg": encoded(smooth(), "JPEG", progressive=True),
        "jpeg with exif": encoded(smooth(), "JPEG", exif=b"Exif\0\0" + tiff(noise(2, 2), tags={274: (6,)})),
        "bmp": encoded(smooth(), "BMP"),
        "palette bmp": encoded(palette, "BMP"),
        "tiff": encoded(smooth(), "TIFF"),
        "tiff, directory last": tiff(smooth()),
        "lzw tiff": encoded(smooth(), "TIFF", compression="tiff_lzw"),
        "packbits tiff": encoded(smooth(), "TIFF", compression="packbits"),
        "jpeg tiff": encoded(smooth(), "TIFF", compression="jpeg"),
        "group 4 tiff": encoded(Image.fromarray(noise(24, 40) > 99), "TIFF", compression="group4"),
        "webp": encoded(smooth(), "WEBP"),
        "lossless webp": encoded(smooth(), "WEBP", lossless=True),
        "webp with alpha": encoded(np.dstack([smooth(), noise(24, 40)]), "WEBP"),
    }
    sixteen = {
        "16-bit png": png(noise(24, 40, dtype="uint16")),
        "16-bit rgb png": png(noise(24, 40, 3, dtype="uint16"), filtered=True),
        "16-bit tiff": tiff(noise(24, 40, dtype="uint16")),
        "16-bit rgb tiff": tiff(noise(24, 40, 3, dtype="uint16"), deflate=True),
        "big tiff": tiff(noise(24, 40, dtype="uint16"), big=True),
    }
    floats = {"float tiff": tiff(np.linspace(-1, 1, 24 * 40, dtype=np.float32).reshape(24, 40), deflate=True)}
    return (
        {name: (data, DEFAULT_CONTRACT) for name, data in eight.items()}
        | {name: (data, UINT16) for name, data in sixteen.items()}
        | {name: (data, FLOAT32) for name, data in floats.items()}
    )


@pytest.mark.parametrize("name", whole_files())
def test_a_cut_file_never_comes_back(name: str) -> None:
    data, contract = whole_files()[name]
    read(data, contract)
    lengths = {1, 2, 3, 4, 6, 8, 10, 14, 20, 26, 30, 33, 40, 60, 100}
    lengths |= {len(data) - missing for missing in (1, 2, 3, 5, 8, 12, 20)}
    lengths |= {len(data) * share // 16 for share in range(16)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in sorted(length for length in lengths if length < len(data)):
            why = reason(data[:length], contract)
            known = len(data[:length]) >= 16
            assert why == Reason.TRUNCATED or (not known and why == Reason.UNREADABLE), (length, why)


def test_a_cut_file_is_refused_even_if_pillow_is_told_to_fill_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    for name, (data, contract) in whole_files().items():
        for length in (len(data) // 2, len(data) * 3 // 4, len(data) - 2):
            assert reason(data[:length], contract) == Reason.TRUNCATED, name


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_png_whose_rows_are_missing_though_its_checksums_hold(interlaced: bool, dtype: Depth) -> None:
    contract = ImageContract(depth=dtype)
    whole = png(noise(24, 40, 3, dtype=dtype), interlaced=interlaced)
    read(whole, contract)
    taller = whole[:8] + chunk(b"IHDR", struct.pack(">II", 40, 25) + whole[24:29]) + whole[33:]
    assert reason(taller, contract) == Reason.TRUNCATED
    start = whole.index(b"IDAT")
    content = whole[start + 4 : -16]
    cut = whole[: start - 4] + chunk(b"IDAT", content[: len(content) // 2]) + chunk(b"IEND", b"")
    assert reason(cut, contract) == Reason.TRUNCATED


def test_a_png_that_does_not_begin_with_its_header() -> None:
    data = encoded(smooth(), "PNG")
    assert reason(data[:8] + chunk(b"tEXt", b"Comment\0first") + data[8:]) == Reason.UNREADABLE


def test_a_png_that_fails_its_checksum() -> None:
    data = bytearray(encoded(smooth(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    error = refusal(bytes(data))
    assert error.reason == Reason.UNREADABLE
    assert "IDAT" in error.what


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    "tags",
    [
        {273: (8,), 279: (100,)},
        {273: (8,), 279: (960,)},
        {279: (10,) * 4},
        {257: (25,)},
        {273: (), 279: ()},
        {279: (0,) * 4},
        {278: (0,)},
        {256: ()},
    ],
)
def test_a_tiff_that_does_not_hold_its_whole_picture(tags: dict[int, tuple[int, ...]], deflate: bool) -> None:
    data = tiff(noise(24, 40), deflate=deflate, rows_per_strip=6, tags=tags)
    assert reason(data) in (Reason.UNREADABLE, Reason.TRUNCATED)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_several_frames(file_format: str) -> None:
    frames = [Image.fromarray(frame) for frame in (smooth(), smooth()[::-1], smooth()[:, ::-1])]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert reason(data) == Reason.SEVERAL_FRAMES


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", Reason.TRUNCATED),
        (b"this is text, whatever its name says\n", Reason.UNREADABLE),
        (b"BMW is a car maker, not a bitmap, and this is a sentence", Reason.UNREADABLE),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), Reason.UNREADABLE),
        (bytes(1000), Reason.UNREADABLE),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Reason.UNREADABLE),
        (encoded(smooth(), "GIF"), Reason.UNSUPPORTED_FORMAT),
        (encoded(smooth(), "JPEG2000"), Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x20ftypavif" + bytes(100), Reason.UNSUPPORTED_FORMAT),
        (b"8BPS" + bytes(100), Reason.UNSUPPORTED_FORMAT),
    ],
)
def test_other_content(content: bytes, expected: Reason, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    error = refusal(path)
    assert error.reason == expected
    assert str(path) in str(error)
    assert reason(content) == expected


def test_twelve_bit_jpeg_is_refused() -> None:
    data = bytearray(encoded(smooth(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    assert reason(bytes(data)) == Reason.UNSUPPORTED_FORMAT


def test_compressed_bmp_is_refused() -> None:
    data = bytearray(encoded(noise(8, 8), "BMP"))
    struct.pack_into("<L", data, 30, 1)
    assert reason(bytes(data)) == Reason.UNSUPPORTED_FORMAT


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert reason(tmp_path / "missing.png") == Reason.NOT_FOUND
    assert reason(tmp_path / "file" / "below.png") == Reason.NOT_FOUND
    assert reason(tmp_path) == Reason.UNREADABLE
    assert reason("with\0null") == Reason.UNREADABLE
    assert reason(os.devnull) == Reason.UNREADABLE


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(smooth(), "PNG"))

    def deny(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    error = refusal(path)
    assert error.reason == Reason.UNREADABLE
    assert "Permission denied" in error.what


# Nothing but an image or an ImageError.


def assert_image_or_refusal(data: bytes, contract: ImageContract) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read(data, contract)
        except ImageError:
            return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == contract.depth
    assert image.flags.c_contiguous
    assert scale(image, contract).min() >= 0
    assert scale(image, contract).max() <= 1


SMALL_CAPS = {"max_pixels": 10**6, "max_bytes": 10**6}
MAGICS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"RIFF\0\0\0\0WEBPVP8 "]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=200))
@example(magic=b"", rest=b"")
def test_random_bytes_never_escape(magic: bytes, rest: bytes) -> None:
    assert_image_or_refusal(magic + rest, DEFAULT_CONTRACT.model_copy(update=SMALL_CAPS))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(whole_files())),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    early=st.booleans(),
)
def test_mutated_files_never_escape(name: str, changes: list[tuple[float, int]], early: bool) -> None:
    whole, contract = whole_files()[name]
    data = bytearray(whole)
    reach = min(len(data), 200) if early else len(data)
    for place, value in changes:
        data[int(place * (reach - 1))] = value
    assert_image_or_refusal(bytes(data), contract.model_copy(update=SMALL_CAPS))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    name=st.sampled_from([name for name in sorted(whole_files()) if "png" in name]),
    place=st.floats(0, 1),
    value=st.integers(0, 255),
)
def test_mutated_png_with_right_checksums_never_escapes(name: str, place: float, value: int) -> None:
    whole, contract = whole_files()[name]
    data, at = b"\x89PNG\r\n\x1a\n", 8
    position = 8 + int(place * (len(whole) - 9))
    changed = whole[:position] + bytes([value]) + whole[position + 1 :]
    while at < len(whole):
        length = int.from_bytes(whole[at : at + 4], "big")
        data += chunk(changed[at + 4 : at + 8], changed[at + 8 : at + 8 + length])
        at += 12 + length
    assert_image_or_refusal(data, contract.model_copy(update=SMALL_CAPS))


def test_threads_agree() -> None:
    files = list(whole_files().values()) * 4
    expected = [read(data, contract) for data, contract in files]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda file: read(*file), files))
    for image, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(image, other)


# The contract itself.


def test_range_follows_the_depth() -> None:
    assert (DEFAULT_CONTRACT.low, DEFAULT_CONTRACT.high) == (0.0, 255.0)
    assert (UINT16.low, UINT16.high) == (0.0, 65535.0)
    assert ImageContract(depth="uint16", high=4095).high == 4095.0
    assert ImageContract.model_validate({"depth": "uint16", "low": None, "high": None}).high == 65535.0
    assert isinstance(ImageContract(depth="uint16", high=4095).high, float)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": "float32"}, "float32 images need a declared range"),
        ({"depth": "float32", "high": 1}, "float32 images need a declared range"),
        ({"low": 5, "high": 5}, "empty"),
        ({"low": 9, "high": 5}, "empty"),
        ({"high": 256}, "wider than uint8"),
        ({"low": -1}, "wider than uint8"),
        ({"depth": "uint16", "high": 65536}, "wider than uint16"),
        ({"depth": "float32", "low": 0, "high": float("nan")}, "finite"),
        ({"depth": "float32", "low": 0, "high": 1e39}, "cannot hold"),
        ({"depth": "float32", "low": 1e9, "high": 1e9 + 1}, "cannot hold"),
        ({"depth": "int32"}, "depth"),
        ({"depth": ["uint8"]}, "depth"),
        ({"width": (20, 10)}, "width"),
        ({"height": (0, 10)}, "height"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"color": "grey"}, "color"),
    ],
)
def test_impossible_contracts(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageContract(**fields)


def test_a_contract_survives_json() -> None:
    contract = ImageContract(depth="float32", low=-1.5, high=2, colour="grey", width=(3, 9))
    assert ImageContract.model_validate_json(contract.model_dump_json()) == contract
    with pytest.raises(ValidationError):
        contract.low = 0.0


def test_contract_for_training_images() -> None:
    images = [noise(30, 41), noise(50, 60)]
    facts = [Facts.of(read(image)) for image in images]
    assert facts[0] == Facts(width=41, height=30, grey=True)
    narrowed = contract_for(DEFAULT_CONTRACT, facts)
    assert narrowed == ImageContract(colour="grey", width=(20, 120), height=(15, 100))
    for image in images:
        read(image, narrowed)
    colourful = Facts.of(read(noise(1, 1, 3)))
    assert contract_for(DEFAULT_CONTRACT, [colourful]) == ImageContract(colour="rgb", width=(1, 2), height=(1, 2))
    assert contract_for(DEFAULT_CONTRACT, [*facts, colourful]).colour == "any"


def test_contract_for_keeps_what_is_set() -> None:
    base = ImageContract(depth="uint16", high=4095, colour="rgb", width=(1, 5), max_pixels=7)
    narrowed = contract_for(base, [Facts(width=10, height=20, grey=True)])
    assert narrowed == base.model_copy(update={"height": (10, 40)})
    assert contract_for(base, []) == base


def test_scale() -> None:
    camera = ImageContract(depth="uint16", low=100, high=4100)
    image = read(np.array([[100, 2100, 4100]], np.uint16), camera)
    scaled = scale(image, camera)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, :, 0], [0, 0.5, 1], atol=1e-7)
    np.testing.assert_array_equal(to_display(image, camera)[0, :, 0], [0, 128, 255])


def test_scale_stays_in_the_unit_interval() -> None:
    for low, high in ((0.1, 0.7), (-3.3, 1e-3), (1.73, 2.38)):
        contract = ImageContract(depth="float32", low=low, high=high)
        ends = np.array([[low, high]], np.float32)
        scaled = scale(read(ends, contract), contract)
        assert scaled.min() >= 0
        assert scaled.max() <= 1


def test_display_of_eight_bits_is_the_image() -> None:
    image = read(np.arange(256, dtype=np.uint8)[None])
    np.testing.assert_array_equal(to_display(image, DEFAULT_CONTRACT), image)


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys, blemish.images; print([name for name in ('torch', 'onnxruntime', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Real images.


@pytest.mark.skipif(not (SHARED / "data" / "mvtec").is_dir(), reason="the shared MVTec images are not here")
def test_mvtec_images() -> None:
    paths = sorted((SHARED / "data" / "mvtec" / "bottle" / "test").rglob("*.png"))[:3]
    for path in paths:
        image = read(path)
        np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB")))
        assert not is_grey(image)


@pytest.mark.skipif(
    not (SHARED / "data" / "magnetic_tile").is_dir(), reason="the shared magnetic-tile images are not here"
)
def test_magnetic_tile_images() -> None:
    paths = sorted((SHARED / "data" / "magnetic_tile" / "MT_Free").rglob("*.jpg"))[:20]
    contract = contract_for(DEFAULT_CONTRACT, [Facts.of(read(path)) for path in paths])
    assert contract.colour == "grey"
    for path in paths:
        np.testing.assert_array_equal(read(path, contract)[..., 1], np.asarray(Image.open(path).convert("L")))
