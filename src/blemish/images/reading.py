"""One way in for paths, bytes and arrays: what they hold is decoded and checked, or refused with a reason."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.errors import ImageError, Reason, UsageError
from blemish.images.contract import DEFAULT_CONTRACT, ImageContract, is_grey
from blemish.images.formats import format_of
from blemish.images.formats.refusals import truncated

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[Any]"

_DEPTH_WORDS: Final = {"uint8": "8-bit", "uint16": "16-bit", "float32": "32-bit floating-point"}


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


def _file_pixels(data: bytes, contract: ImageContract) -> NDArray[Any]:
    """Decode the bytes of a file into H x W or H x W x 3 pixels of the contract's depth."""
    _check_bytes(len(data), contract)
    image_format = format_of(data)
    try:
        header = image_format.read_header(data)
        _check_pixels(header.width, header.height, contract)
        if header.depth != contract.depth:
            _wrong_depth(header.depth_words, contract)
        pixels = image_format.read_pixels(data, header)
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
        return truncated("the file ends before its picture does")
    return ImageError(Reason.UNREADABLE, f"it cannot be decoded ({error or type(error).__name__})")


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
    if contract.depth != "float32" and (contract.low, contract.high) == (0, np.iinfo(contract.depth).max):
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


def _as_float32(pixels: NDArray[Any]) -> NDArray[np.float32]:
    if not np.isfinite(pixels).all():
        raise ImageError(Reason.NOT_FINITE, "some of its values are NaN or infinite")
    # A float64 too large for float32 becomes infinite and is then out of range.
    with np.errstate(over="ignore"):
        return pixels.astype(np.float32, copy=False)


def _check_bytes(size: int, contract: ImageContract) -> None:
    if size > contract.max_bytes:
        raise ImageError(
            Reason.TOO_MANY_BYTES, f"{size} bytes are more than the {contract.max_bytes} that the contract allows"
        )
