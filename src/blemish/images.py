"""The image contract: a path, bytes or an array in, a checked H x W x 3 array out, or a reason why not.

What is taken: PNG, JPEG, BMP, TIFF and WebP, one picture a file, grey or colour, 8-bit, 16-bit or float32.

* The depth is the file's own, read from its header, and must be the one that the contract declares. Nothing is ever
  guessed from the largest value, and nothing is ever reduced to 8 bits on the way.
* Alpha is dropped, not blended: what stays is the colour that the camera recorded. Colour profiles are not applied.
  Premultiplied alpha, CMYK and Lab are refused, because the recorded colour cannot be had back from them.
* A file counts as grey when it stores a single channel; a palette is colour. `colour="rgb"` refuses single-channel
  images, `colour="grey"` takes them and also colour images whose three channels are equal.
* Values must lie in the declared range. A 12-bit camera declared as 0..4095 that delivers 65000 is broken, not bright.
* A file that ends early is refused even where a decoder would fill in what is missing. JPEG has no checksum: damage
  that leaves its structure whole cannot be told from a picture.
* A JPEG with more pictures behind its own, as telephones write them, counts as its own.
* The caps on bytes and pixels are checked before anything is decoded.

Everything here may be called from several threads at once; no setting of Pillow is touched.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from blemish.errors import ImageError, Reason, UsageError

Depth = Literal["uint8", "uint16", "float32"]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[Any]"

_LARGEST: Final[dict[str, float]] = {"uint8": 255.0, "uint16": 65535.0}
_DEPTH_WORDS: Final = {"uint8": "8-bit", "uint16": "16-bit", "float32": "32-bit floating-point"}


class ImageContract(BaseModel):
    """What an image must be to be looked at; it is declared once, at training, and stands in the model file.

    The range [low, high] maps onto [0, 1]. Without one, an integer depth takes the full range of its type; float32 has
    no range of its own, so it must be given.

    Raises
    ------
    pydantic.ValidationError : an empty or impossible range, float32 without a range, bounds the wrong way round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    depth: Depth = Field(default="uint8", description="type of the samples, as the file or array stores them")
    low: float = Field(default=0.0, description="value that maps onto 0; anything below it is refused")
    high: float = Field(default=255.0, description="value that maps onto 1; anything above it is refused")
    colour: Literal["any", "grey", "rgb"] = Field(
        default="any", description="grey: one channel, or three equal ones; rgb: three channels"
    )
    width: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="smallest and largest width taken, in pixels"
    )
    height: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="smallest and largest height taken, in pixels"
    )
    max_bytes: PositiveInt = Field(default=256 * 2**20, description="largest file read")
    max_pixels: PositiveInt = Field(default=100_000_000, description="largest image decoded, width x height")

    @model_validator(mode="before")
    @classmethod
    def _range_of_the_depth(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = {name: value for name, value in data.items() if name not in ("low", "high") or value is not None}
        depth = given.get("depth", "uint8")
        if depth == "float32" and not {"low", "high"} <= given.keys():
            raise ValueError("float32 images need a declared range: give both low and high, in the unit of the images")
        if isinstance(depth, str) and depth in _LARGEST:
            return {"low": 0.0, "high": _LARGEST[depth], **given}
        return given

    @model_validator(mode="after")
    def _possible(self) -> ImageContract:
        if not self.high > self.low:
            raise ValueError(f"the range {self.low:g}..{self.high:g} is empty: high must be above low")
        if self.depth in _LARGEST and not (self.low >= 0 and self.high <= _LARGEST[self.depth]):
            raise ValueError(f"the range {self.low:g}..{self.high:g} is wider than {self.depth} can hold")
        if self.depth == "float32":
            with np.errstate(over="ignore"):
                span = np.float32(self.high) - np.float32(self.low)
            if not 0 < span < np.inf:
                raise ValueError(f"float32 cannot hold the range {self.low:g}..{self.high:g}")
        for name, bounds in (("width", self.width), ("height", self.height)):
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the smallest side {bounds[0]} is above the largest {bounds[1]}")
        return self


DEFAULT_CONTRACT: Final = ImageContract()


@dataclass(frozen=True)
class Facts:
    """What a training image tells about the images to come: its sides in pixels, and whether it is grey."""

    width: int
    height: int
    grey: bool

    @classmethod
    def of(cls, image: NDArray[Any]) -> Facts:
        """Facts of an image (H x W x 3) as `read` returns it."""
        return cls(width=image.shape[1], height=image.shape[0], grey=is_grey(image))


def read(source: ImageSource, contract: ImageContract = DEFAULT_CONTRACT) -> NDArray[Any]:
    """Return the image of a file, of a file's bytes or of an array, checked against the contract.

    Parameters
    ----------
    source : a path; the bytes of a PNG, JPEG, BMP, TIFF or WebP file; or an array, H x W, H x W x 1, H x W x 3 (RGB) or
        H x W x 4 (RGB and alpha), of the contract's depth. float32 takes an array of any floating-point type.
    contract : what the image must be.

    Returns
    -------
    H x W x 3, C-contiguous, writable, dtype of the contract's depth, values in [low, high], RGB, upright by its EXIF
    orientation; grey is repeated in all three channels. It never shares memory with `source`.

    Raises
    ------
    ImageError : the image is refused; `reason` says why. Content of no known image format is UNREADABLE; a known format
        that is not among the five is UNSUPPORTED_FORMAT; an empty file is TRUNCATED.
    UsageError : `source` is none of the three kinds.
    """
    where: object = "array" if isinstance(source, np.ndarray) else "bytes" if isinstance(source, bytes) else source
    try:
        if isinstance(source, np.ndarray):
            pixels = _array_pixels(source, contract)
        elif isinstance(source, bytes):
            pixels = _file_pixels(source, contract)
        elif isinstance(source, str | os.PathLike):
            pixels = _file_pixels(_content(Path(source), contract), contract)
        else:
            raise UsageError(f"an image is a path, bytes or a numpy array, not {type(source).__name__}")
        return _checked(pixels, contract)
    except ImageError as error:
        raise ImageError(error.reason, error.what, where=where, todo=error.todo) from error.__cause__


def is_grey(image: NDArray[Any]) -> bool:
    """Whether the three channels of an image (H x W x 3) are equal everywhere."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return bool(np.array_equal(red, green) and np.array_equal(red, blue))


def contract_for(base: ImageContract, facts: Iterable[Facts]) -> ImageContract:
    """Narrow a contract to what the training images were; what `base` sets already is kept.

    The colour becomes 'grey' if all images are grey and 'rgb' if none is. Sides may be from half the smallest to twice
    the largest one seen: an image far from that scale is not what the model was trained on.
    """
    seen = list(facts)
    if not seen:
        return base
    greys = {fact.grey for fact in seen}
    narrowed: dict[str, object] = {}
    if base.colour == "any" and len(greys) == 1:
        narrowed["colour"] = "grey" if greys == {True} else "rgb"
    if base.width is None:
        narrowed["width"] = _around([fact.width for fact in seen])
    if base.height is None:
        narrowed["height"] = _around([fact.height for fact in seen])
    return base.model_copy(update=narrowed)


def scale(image: NDArray[Any], contract: ImageContract) -> NDArray[np.float32]:
    """Map an image that `read` returned onto [0, 1], float32: (x - low) / (high - low)."""
    scaled: NDArray[np.float32] = np.subtract(image, contract.low, dtype=np.float32)
    scaled /= np.float32(contract.high - contract.low)
    # The division may round to just above 1.
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled


def to_display(image: NDArray[Any], contract: ImageContract) -> NDArray[np.uint8]:
    """Return an image that `read` returned as uint8 to look at: H x W x 3, the declared range spread over 0..255."""
    return np.rint(scale(image, contract) * 255).astype(np.uint8)


def _around(sides: list[int]) -> tuple[int, int]:
    return max(1, min(sides) // 2), 2 * max(sides)


# What every image must pass, wherever it came from.


def _checked(pixels: NDArray[Any], contract: ImageContract) -> NDArray[Any]:
    """Check size, colour and values of H x W or H x W x 3 pixels of the right depth; return a new H x W x 3 array."""
    height, width = pixels.shape[:2]
    for name, side, bounds in (("width", width, contract.width), ("height", height, contract.height)):
        if bounds is not None and not bounds[0] <= side <= bounds[1]:
            raise ImageError(
                Reason.WRONG_SIZE,
                f"its {name} of {side} pixels is outside {bounds[0]}..{bounds[1]}, the scale the contract declares",
                todo="Deliver images at the scale of the training images",
            )
    if contract.colour == "rgb" and pixels.ndim == 2:
        raise ImageError(Reason.WRONG_COLOUR, "it has a single channel, and the contract declares colour images")
    if contract.colour == "grey" and pixels.ndim == 3 and not is_grey(pixels):
        raise ImageError(Reason.WRONG_COLOUR, "it has colours, and the contract declares grey images")
    _check_values(pixels, contract)
    colour = pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (height, width, 3))
    return np.array(colour, dtype=contract.depth, order="C")


def _check_values(pixels: NDArray[Any], contract: ImageContract) -> None:
    if contract.depth in _LARGEST and (contract.low, contract.high) == (0.0, _LARGEST[contract.depth]):
        return
    least, most = pixels.min(), pixels.max()
    # In float32, 0.1 is above the 0.1 that the contract holds.
    edge = np.float32 if contract.depth == "float32" else float
    if least < edge(contract.low) or most > edge(contract.high):
        raise ImageError(
            Reason.OUT_OF_RANGE,
            f"its values {least:g}..{most:g} leave the declared range {contract.low:g}..{contract.high:g}",
            todo="Check the camera's settings, or declare the range that it really delivers",
        )


def _check_pixels(width: int, height: int, contract: ImageContract) -> None:
    if width * height > contract.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"{width} x {height} pixels are more than the {contract.max_pixels} that the contract allows",
        )


def _wrong_depth(held: str, contract: ImageContract) -> NoReturn:
    raise ImageError(
        Reason.WRONG_DEPTH,
        f"it holds {held} samples, and the contract declares {_DEPTH_WORDS[contract.depth]} ones ({contract.depth})",
        todo="Deliver images of the declared depth; they are never converted, because the range would be a guess",
    )


def _array_pixels(array: NDArray[Any], contract: ImageContract) -> NDArray[Any]:
    """Return the colour of an array, H x W or H x W x 3, in the contract's depth."""
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or array.size == 0:
        shape = " x ".join(map(str, array.shape)) or "()"
        raise ImageError(Reason.WRONG_SHAPE, f"an array of shape {shape} is no image; H x W and H x W x 1, 3 or 4 are")
    _check_pixels(array.shape[1], array.shape[0], contract)
    pixels = array if array.ndim == 2 else array[..., 0] if array.shape[2] == 1 else array[..., :3]
    if contract.depth == "float32" and array.dtype.kind == "f":
        return _as_float32(pixels)
    if array.dtype != np.dtype(contract.depth).newbyteorder(array.dtype.byteorder):
        _wrong_depth(array.dtype.name, contract)
    return pixels


def _as_float32(pixels: NDArray[Any]) -> NDArray[np.float32]:
    if not np.isfinite(pixels).all():
        raise ImageError(Reason.NOT_FINITE, "some of its values are NaN or infinite")
    # A float64 too large for float32 becomes infinite and is then out of range.
    with np.errstate(over="ignore"):
        return pixels.astype(np.float32, copy=False)


# Files.


def _content(path: Path, contract: ImageContract) -> bytes:
    """Read a regular file of at most `max_bytes`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(Reason.UNREADABLE, f"it is {kind}")
        _check_bytes(status.st_size, contract)
        with path.open("rb") as file:
            return file.read(status.st_size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(Reason.NOT_FOUND, "there is no such file") from error
    # ValueError: a path with a null character.
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError(Reason.UNREADABLE, f"the file cannot be read ({why})") from error


def _check_bytes(size: int, contract: ImageContract) -> None:
    if size > contract.max_bytes:
        raise ImageError(
            Reason.TOO_MANY_BYTES, f"{size} bytes are more than the {contract.max_bytes} that the contract allows"
        )


@dataclass(frozen=True)
class _Header:
    """What the header of a file says of its picture, before EXIF turns it."""

    width: int
    height: int
    depth: Depth | None = "uint8"
    depth_words: str = _DEPTH_WORDS["uint8"]
    inverted: bool = False  # 16-bit TIFF whose 0 is white


class _Format(NamedTuple):
    """A file format: what reads and checks its header, what gives its pixels (H x W or H x W x 3)."""

    header: Callable[[bytes], _Header]
    pixels: Callable[[bytes, _Header], NDArray[Any]]


def _file_pixels(data: bytes, contract: ImageContract) -> NDArray[Any]:
    """Decode the bytes of a file into H x W or H x W x 3 pixels of the contract's depth."""
    _check_bytes(len(data), contract)
    image_format = _format_of(data)
    try:
        header = image_format.header(data)
        _check_pixels(header.width, header.height, contract)
        if header.depth != contract.depth:
            _wrong_depth(header.depth_words, contract)
        pixels = image_format.pixels(data, header)
    except ImageError:
        raise
    # Decoders meet damage in more ways than they document; whatever they raise, there is no image.
    except Exception as error:
        raise _failure(error) from error
    return _as_float32(pixels) if contract.depth == "float32" else pixels


def _failure(error: Exception) -> ImageError:
    """Return the refusal for what a decoder raised."""
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(Reason.TOO_MANY_PIXELS, "it has more pixels than Pillow decodes")
    ended = isinstance(error, struct.error) or isinstance(error.__cause__, struct.error | IndexError | EOFError)
    if ended or re.search("truncated|not enough", str(error), re.IGNORECASE):
        return _truncated("before its picture does")
    return ImageError(Reason.UNREADABLE, f"it cannot be decoded ({error or type(error).__name__})")


_WRITE_WHOLE: Final = "Check that it was written and copied to its end"


def _truncated(where: str) -> ImageError:
    return ImageError(Reason.TRUNCATED, f"the file ends {where}", todo=_WRITE_WHOLE)


def _damaged(what: str) -> ImageError:
    return ImageError(Reason.UNREADABLE, f"the file is damaged: {what}")


def _unsupported(what: str) -> ImageError:
    return ImageError(Reason.UNSUPPORTED_FORMAT, what, todo="Save it as PNG, or for float32 as a TIFF of one channel")


def _several_frames() -> ImageError:
    return ImageError(
        Reason.SEVERAL_FRAMES, "it holds several pictures or an animation", todo="Save one picture per file"
    )


# Pictures through Pillow. Its readers are called one by one instead of through Image.open, which would look at other
# formats too and warn about large pictures that the contract allows.

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """Return the colour of an 8-bit picture, H x W if it stores one channel, else H x W x 3."""
    upright = _upright(image)
    # With it, Pillow would warn that the transparency of a palette gets lost, as it is meant to.
    upright.info.pop("transparency", None)
    return np.asarray(upright.convert("L" if upright.mode in ("1", "L", "LA") else "RGB"), dtype=np.uint8)


def _sixteen_bit_colour(open_image: Callable[[], ImageFile.ImageFile]) -> NDArray[np.uint16]:
    """Return 16-bit RGB, H x W x 3.

    Pillow keeps one byte of each such sample, the high one for the byte order of the file. Read in the other byte
    order, the same file yields the low bytes.
    """
    high, low = open_image(), open_image()
    low.tile = [tile._replace(args=_other_byte_order(tile.args)) for tile in low.tile]
    high_bytes, low_bytes = (np.array(_upright(image))[..., :3].astype(np.uint16) for image in (high, low))
    return high_bytes << np.uint16(8) | low_bytes


def _other_byte_order(args: Any) -> Any:
    if isinstance(args, tuple):
        return (_other_byte_order(args[0]), *args[1:])
    native = "L" if sys.byteorder == "little" else "B"
    match = re.fullmatch(r"(RGB[AX]?;16)([BLN])", str(args))
    if match is None:
        raise _unsupported(f"this version of Pillow does not decode 16-bit colour of its kind ({args})")
    order = match[2].replace("N", native)
    return match[1] + ("B" if order == "L" else "L")


# PNG (W3C Recommendation, third edition).

_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of every chunk up to IEND, each with its checksum verified."""
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        if end + 4 > len(data):
            break
        name = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise _damaged(f"the checksum of its {name.decode('latin-1')} chunk is wrong")
        yield name, view[at + 8 : end]
        if name == b"IEND":
            return
        at = end + 4
    raise _truncated("before its IEND chunk")


def _png_header(data: bytes) -> _Header:
    names = {name for name, _ in _png_chunks(data)}
    if data[12:16] != b"IHDR":
        raise _damaged("its first chunk is not IHDR")
    if b"acTL" in names:
        raise _several_frames()
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    depth: Depth = "uint16" if bits == 16 else "uint8"
    return _Header(width, height, depth, _DEPTH_WORDS[depth])


def _png_pixels(data: bytes, header: _Header) -> NDArray[Any]:
    bits, colour_type = data[24], data[25]
    _check_png_rows(data, header.width, header.height, bits * _PNG_CHANNELS[colour_type])
    if bits < 16:
        return _eight_bit(PngImageFile(BytesIO(data)))
    if colour_type in (2, 6):
        return _sixteen_bit_colour(lambda: PngImageFile(BytesIO(data)))
    image = PngImageFile(BytesIO(data))
    if colour_type == 0:
        return np.array(_upright(image)).astype(np.uint16)
    # Grey and alpha of 16 bits take as many bytes as RGBA of 8: read so, the grey is the first two, high byte first.
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    grey = np.array(_upright(image)).astype(np.uint16)
    return grey[..., 0] << np.uint16(8) | grey[..., 1]


def _check_png_rows(data: bytes, width: int, height: int, pixel_bits: int) -> None:
    """Check that the compressed data hold every row: Pillow would leave the missing ones black."""
    passes = _ADAM7 if data[28] else ((0, 0, 1, 1),)
    missing = 0
    for x, y, x_step, y_step in passes:
        columns, rows = -(-(width - x) // x_step), -(-(height - y) // y_step)
        if columns > 0:
            missing += rows * (1 + -(-columns * pixel_bits // 8))
    inflate = zlib.decompressobj()
    for name, content in _png_chunks(data):
        rest: bytes | memoryview = content if name == b"IDAT" else b""
        while rest and missing > 0 and not inflate.eof:
            missing -= len(inflate.decompress(rest, 2**20))
            rest = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise _truncated("before its last row")


# JPEG (ITU-T T.81).

_JPEG_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # neither stuffed bytes nor restart markers
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_header(data: bytes) -> _Header:
    header = None
    at = 2
    while match := _JPEG_MARKER.search(data, at):
        marker, start = match[0][1], match.end()
        if marker == 0xD9:
            if header is None:
                raise _damaged("it has no frame header")
            return header
        if marker in _JPEG_FRAMES and header is None:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, start + 2)
            if channels == 4:
                raise ImageError(Reason.WRONG_COLOUR, "it holds CMYK inks", todo="Save it as RGB")
            if bits != 8:
                raise _unsupported(f"it is a JPEG of {bits} bits a sample")
            header = _Header(width, height)
        (length,) = struct.unpack_from(">H", data, start)
        at = start + length
    raise _truncated("before its end marker")


def _jpeg_pixels(data: bytes, header: _Header) -> NDArray[Any]:
    return _eight_bit(JpegImageFile(BytesIO(data)))


# BMP.

_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})  # lengths of the header's versions


def _bmp_header(data: bytes) -> _Header:
    (length,) = struct.unpack_from("<L", data, 14)
    if length not in _BMP_HEADERS:
        raise _damaged(f"no BMP header is {length} bytes long")
    image = BmpImageFile(BytesIO(data))
    codec, _, offset, args = image.tile[0]
    if codec != "raw" or not isinstance(args, tuple):
        raise _unsupported("it is a compressed BMP")
    if offset + args[1] * image.height > len(data):
        raise _truncated("before its last row")
    return _Header(image.width, image.height)


def _bmp_pixels(data: bytes, header: _Header) -> NDArray[Any]:
    return _eight_bit(BmpImageFile(BytesIO(data)))


# WebP (RFC 9649).


def _webp_header(data: bytes) -> _Header:
    if len(data) < max(30, 8 + int.from_bytes(data[4:8], "little")):
        raise _truncated("before the length that its header gives")
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise _several_frames()
        return _Header(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return _Header((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return _Header(width & 0x3FFF, height & 0x3FFF)


def _webp_pixels(data: bytes, header: _Header) -> NDArray[Any]:
    return _eight_bit(WebPImageFile(BytesIO(data)))


# TIFF (revision 6.0), and BigTIFF in the byte order that Pillow reads.

_TIFF_TYPES: Final = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}  # unsigned integers, as struct codes
_TIFF_SIZES: Final = {2: 1, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 17: 8}  # bytes of the other types
_TIFF_MOST_VALUES: Final = 2**20
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 278, 284, 322, 323, 338, 339
_OFFSETS, _BYTE_COUNTS = (273, 324), (279, 325)  # of strips, of tiles
_TIFF_TAGS: Final = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT}
    | {_EXTRA_SAMPLES, _SAMPLE_FORMAT, *_OFFSETS, *_BYTE_COUNTS}
)


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the numbers of the tags that matter, of the only directory."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2] == 43
    word, inline, entry = ("Q", 8, 20) if big else ("L", 4, 12)
    (directory,) = struct.unpack_from(order + word, data, inline)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    at = directory + (8 if big else 2)
    if at + count * entry + inline > len(data):
        raise _truncated("before its directory does")
    tags: dict[int, tuple[int, ...]] = {}
    for _ in range(count):
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", data, at)
        size = values * (struct.calcsize("=" + _TIFF_TYPES[kind]) if kind in _TIFF_TYPES else _TIFF_SIZES.get(kind, 0))
        place = at + 4 + inline
        if size > inline:
            (place,) = struct.unpack_from(order + word, data, place)
        if place + size > len(data):
            raise _truncated(f"before the data of its tag {tag}")
        if tag in _TIFF_TAGS and kind in _TIFF_TYPES:
            if values > _TIFF_MOST_VALUES:
                raise _damaged(f"its tag {tag} has {values} values")
            tags[tag] = struct.unpack_from(f"{order}{values}{_TIFF_TYPES[kind]}", data, place)
        at += entry
    if struct.unpack_from(order + word, data, at) != (0,):
        raise _several_frames()
    return {tag: values for tag, values in tags.items() if values}


def _tiff_header(data: bytes) -> _Header:
    tags = _tiff_tags(data)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise _damaged("its directory gives no width or no height")
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    samples = tags.get(_SAMPLES, (1,))[0]
    if len({*tags.get(_BITS, (1,))}) > 1 or len({*tags.get(_SAMPLE_FORMAT, (1,))}) > 1:
        raise _unsupported("it is a TIFF whose samples differ in depth")
    bits, sample_format = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
    photometric, compression = tags.get(_PHOTOMETRIC, (0,))[0], tags.get(_COMPRESSION, (1,))[0]
    if photometric in (5, 8, 9, 10):
        raise ImageError(Reason.WRONG_COLOUR, "it holds CMYK or Lab colours", todo="Save it as RGB")
    # 6 is YCbCr, which is safe to read only inside JPEG compression (7): elsewhere Pillow ignores its subsampling.
    if photometric not in (0, 1, 2, 3) and (photometric, compression) != (6, 7):
        raise _unsupported(f"it is a TIFF of photometric interpretation {photometric}")
    if 1 in tags.get(_EXTRA_SAMPLES, ()):
        raise _unsupported("it is a TIFF with premultiplied alpha")
    if bits > 8 and samples > 1 and tags.get(_PLANAR, (1,))[0] != 1:
        raise _unsupported(f"it is a TIFF that stores its {bits}-bit channels apart")
    depth, words = _tiff_depth(bits, sample_format)
    if photometric == 0 and depth == "float32":
        raise _unsupported("it is a floating-point TIFF whose zero is white")
    _check_tiff_data(data, tags, width * samples * bits, height)
    return _Header(width, height, depth, words, inverted=photometric == 0 and depth == "uint16")


def _tiff_depth(bits: int, sample_format: int) -> tuple[Depth | None, str]:
    """Return the depth, None if it is none of the contract's, and the words for it."""
    if sample_format == 3:
        return ("float32" if bits == 32 else None), f"{bits}-bit floating-point"
    if sample_format != 1:
        return None, f"signed or untyped {bits}-bit"
    # A 12-bit file is declared as uint16 with high=4095.
    depth: Depth | None = "uint8" if bits <= 8 else "uint16" if bits <= 16 else None
    return depth, f"{bits}-bit"


def _check_tiff_data(data: bytes, tags: dict[int, tuple[int, ...]], row_bits: int, height: int) -> None:
    """Check that the strips or tiles lie inside the file and cover the picture: Pillow would leave gaps black."""
    tiled = _TILE_WIDTH in tags
    offsets, sizes = tags.get(_OFFSETS[tiled], ()), tags.get(_BYTE_COUNTS[tiled], ())
    if not offsets or len(offsets) != len(sizes):
        raise _damaged("its directory does not say where its pixels are")
    if any(offset + size > len(data) for offset, size in zip(offsets, sizes, strict=True)):
        raise _truncated("before its last pixels")
    width, samples = tags[_WIDTH][0], tags.get(_SAMPLES, (1,))[0]
    block_width = tags[_TILE_WIDTH][0] if tiled else width
    block_height = tags.get(_TILE_HEIGHT if tiled else _ROWS_PER_STRIP, (height,))[0]
    if not (block_width and block_height):
        raise _damaged("its strips or tiles are empty")
    if tiled and block_width * block_height > 4 * max(width * height, 2**20):
        raise _damaged("its tiles are far larger than its picture")
    blocks = -(-width // block_width) * -(-height // block_height)
    if tags.get(_PLANAR, (1,))[0] != 1:
        blocks *= samples
    uncompressed = tags.get(_COMPRESSION, (1,))[0] == 1
    if len(offsets) < blocks or 0 in sizes or (uncompressed and sum(sizes) < -(-row_bits // 8) * height):
        raise _damaged("its strips or tiles do not cover its picture")


def _tiff_pixels(data: bytes, header: _Header) -> NDArray[Any]:
    def open_image() -> TiffImageFile:
        try:
            image = TiffImageFile(BytesIO(data))
        except SyntaxError as error:
            raise _unsupported(f"it is a TIFF of a kind that cannot be decoded ({error})") from error
        # Compressed data come in the machine's byte order, though Pillow takes floats to be in the file's.
        if image.mode == "F" and image.tile[0].codec_name == "libtiff" and isinstance(image.tile[0].args, tuple):
            image.tile = [image.tile[0]._replace(args=("F;32NF", *image.tile[0].args[1:]))]
        # Where it makes the canvas itself, Pillow warns above a pixel limit of its own; the contract's was checked.
        image.im = Image.new(image.mode, (header.width, header.height)).im
        return image

    image = open_image()
    if header.depth == "uint8":
        return _eight_bit(image)
    if header.depth == "uint16" and image.mode in ("RGB", "RGBA"):
        return _sixteen_bit_colour(open_image)
    if image.mode not in ("I;16", "I;16B", "F"):
        raise _unsupported(f"it is a TIFF of a kind that cannot be decoded at its own depth (mode {image.mode})")
    pixels = np.array(_upright(image)).astype(header.depth)
    return 65535 - pixels if header.inverted else pixels


_FORMATS: Final = {
    b"\x89PNG\r\n\x1a\n": _Format(_png_header, _png_pixels),
    b"\xff\xd8\xff": _Format(_jpeg_header, _jpeg_pixels),
    b"BM": _Format(_bmp_header, _bmp_pixels),
    b"RIFF": _Format(_webp_header, _webp_pixels),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0"), _Format(_tiff_header, _tiff_pixels)),
}
_OTHER_FORMATS: Final = {
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"MM\0+": "big-endian BigTIFF",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"qoif": "QOI",
    b"%PDF": "PDF",
    b"\0\0\1\0": "ICO",
}


def _format_of(data: bytes) -> _Format:
    """Return the format that the first bytes name; the name of a file is never looked at."""
    if not data:
        raise ImageError(Reason.TRUNCATED, "the file is empty", todo=_WRITE_WHOLE)
    for magic, image_format in _FORMATS.items():
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            return image_format
    name = "HEIF or AVIF" if data[4:8] == b"ftyp" else None
    name = name or next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    if name is not None:
        raise _unsupported(f"it is a {name} file, and only PNG, JPEG, BMP, TIFF and WebP are read")
    raise ImageError(Reason.UNREADABLE, "its content is that of no known image format")
