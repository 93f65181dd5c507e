"""File formats: one module for each that is read."""

from __future__ import annotations

from typing import Any, Final, Protocol

from numpy.typing import NDArray

from blemish.errors import ImageError, Reason
from blemish.images.formats import bmp, jpeg, png, tiff, webp
from blemish.images.formats.header import Header
from blemish.images.formats.refusals import truncated, unsupported


class Format(Protocol):
    """What the module of a format offers.

    Both may raise anything, for damage that they do not look for; ImageError where they know what is wrong.
    """

    def read_header(self, data: bytes) -> Header:
        """Read the header of a file, and check what can be checked before the contract has allowed decoding."""

    def read_pixels(self, data: bytes, header: Header) -> NDArray[Any]:
        """Decode a file into upright pixels, H x W or H x W x 3, of the header's depth."""


_FORMATS: Final[dict[bytes, Format]] = {
    b"\x89PNG\r\n\x1a\n": png,
    b"\xff\xd8\xff": jpeg,
    b"BM": bmp,
    b"RIFF": webp,
    b"II*\0": tiff,
    b"MM\0*": tiff,
    b"II+\0": tiff,
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


def format_of(data: bytes) -> Format:
    """Return the format that the first bytes name; the name of a file is never looked at.

    Raises
    ------
    ImageError : TRUNCATED without a byte, UNSUPPORTED_FORMAT for a known format that is not read, else UNREADABLE.
    """
    if not data:
        raise truncated("the file is empty")
    for magic, image_format in _FORMATS.items():
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            return image_format
    name = "HEIF or AVIF" if data[4:8] == b"ftyp" else None
    name = name or next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    if name is not None:
        raise unsupported(f"it is a {name} file, and only PNG, JPEG, BMP, TIFF and WebP are read")
    raise ImageError(Reason.UNREADABLE, "its content is that of no known image format")
