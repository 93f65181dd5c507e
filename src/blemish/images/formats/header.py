"""What the header of a file says."""

from __future__ import annotations

from dataclasses import dataclass

from blemish.images.contract import Depth


@dataclass(frozen=True)
class Header:
    """What the header of a file says of its picture, before EXIF turns it.

    `depth` is None for samples that no contract declares; `depth_words` name them all the same.
    """

    width: int
    height: int
    depth: Depth | None = "uint8"
    depth_words: str = "8-bit"
    inverted: bool = False  # 16-bit TIFF whose 0 is white
