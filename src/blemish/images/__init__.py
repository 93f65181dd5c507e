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

from blemish.images.contract import (
    DEFAULT_CONTRACT,
    Depth,
    Facts,
    ImageContract,
    contract_for,
    is_grey,
    scale,
    to_display,
)
from blemish.images.reading import ImageSource, read

__all__ = [
    "DEFAULT_CONTRACT",
    "Depth",
    "Facts",
    "ImageContract",
    "ImageSource",
    "contract_for",
    "is_grey",
    "read",
    "scale",
    "to_display",
]
