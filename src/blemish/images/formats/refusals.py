"""Refusals for which every format has the same words."""

from __future__ import annotations

from blemish.errors import ImageError, Reason


def truncated(what: str) -> ImageError:
    """The file lacks its end."""
    return ImageError(Reason.TRUNCATED, what, todo="Check that it was written and copied to its end")


def damaged(what: str) -> ImageError:
    """The file contradicts its format."""
    return ImageError(Reason.UNREADABLE, f"the file is damaged: {what}")


def unsupported(what: str) -> ImageError:
    """The file may be whole, but is of a kind that is not read."""
    return ImageError(Reason.UNSUPPORTED_FORMAT, what, todo="Save it as PNG, or for float32 as a TIFF of one channel")


def several_frames() -> ImageError:
    """The file holds more than one picture."""
    return ImageError(
        Reason.SEVERAL_FRAMES, "it holds several pictures or an animation", todo="Save one picture per file"
    )
