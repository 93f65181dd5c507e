"""What the bytes of a picture are."""

from __future__ import annotations

from typing import Final

_SUFFIXES: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "image/webp": ".webp",
}


def media_type(content: bytes) -> str:
    """The media type by the first bytes; what is no image must not be shown as one."""
    for start, name in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"BM", "image/bmp"),
        (b"II", "image/tiff"),
        (b"MM", "image/tiff"),
    ):
        if content.startswith(start):
            return name
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else "application/octet-stream"


def suffix_of(content: bytes) -> str:
    """What the name of a file with this content ends in; nothing, if it is no image."""
    return _SUFFIXES.get(media_type(content), "")
