"""Masks: which pixels of an image are anomalous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.data.files import list_images
from blemish.errors import DataError, ImageError, MaskSizeError, Reason

DEPTHS = (images.ImageContract(depth="uint8"), images.ImageContract(depth="uint16"))


def read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a mask: an 8-bit or 16-bit image, anomalous where any channel is above half of its full range.

    Parameters
    ----------
    path : the image, or a folder of images that each mark some of the pixels.
    shape : height and width of the image that the mask belongs to.

    Returns
    -------
    H x W, true on anomalous pixels; empty if the mask is all black.

    Raises
    ------
    MaskSizeError : the mask has another size than its image.
    DataError : the mask cannot be read, or holds small numbers only, such as 0 and 1: taken at its word it would be
        empty, and its defect would count as good.
    """
    if path.is_dir():
        parts = [read_mask(part, shape) for part in list_images(path).images]
        if not parts:
            raise DataError("there is no mask in this folder", where=path, todo="Put the image's masks there.")
        together: NDArray[np.bool_] = np.logical_or.reduce(parts)
        return together
    pixels, high = _read(path)
    if pixels.shape[:2] != shape:
        height, width = pixels.shape[:2]
        raise MaskSizeError(
            f"the mask is {width} x {height} pixels, its image {shape[1]} x {shape[0]}",
            where=path,
            todo="Make a mask of the image's size.",
        )
    strongest = pixels.max(axis=2)
    mask: NDArray[np.bool_] = strongest > high / 2
    if strongest.any() and not mask.any():
        raise DataError(
            f"the mask's largest value is {strongest.max()} of {high:g}, so it cannot be told which pixels are meant",
            where=path,
            todo="Save the mask in black (0) and white (the largest value).",
        )
    return mask


def _read(path: Path) -> tuple[NDArray[Any], float]:
    """Pixels, H x W x 3, and the largest value they can have."""
    for contract in DEPTHS:
        try:
            return images.read(path, contract), contract.high
        except ImageError as error:
            refused = error
            if error.reason is not Reason.WRONG_DEPTH:
                break
    raise DataError(f"the mask cannot be used: {refused.what}", where=path, todo=refused.todo) from refused
