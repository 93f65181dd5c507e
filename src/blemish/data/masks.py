"""Masks: which pixels of an image are anomalous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish import images
from blemish.data.files import list_images
from blemish.data.samples import MaskRule, Sample
from blemish.errors import DataError, ImageError, MaskSizeError, Reason

DEPTHS = (images.ImageContract(depth="uint8"), images.ImageContract(depth="uint16"))


def true_mask(sample: Sample, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Read all masks of a sample, by the rule that it declares.

    Parameters
    ----------
    shape : height and width of the sample's image.

    Returns
    -------
    H x W, true on anomalous pixels; None if the sample has no mask.

    Raises
    ------
    DataError : see `read_mask`.
    """
    if not sample.masks:
        return None
    parts = [read_mask(path, shape, sample.mask_rule) for path in sample.masks]
    together: NDArray[np.bool_] = np.logical_or.reduce(parts)
    return together


def read_mask(path: Path, shape: tuple[int, int], rule: MaskRule = "upper half") -> NDArray[np.bool_]:
    """Read a mask: an 8-bit or 16-bit image, anomalous where any channel is marked.

    Parameters
    ----------
    path : the image, or a folder of images that each mark some of the pixels.
    shape : height and width of the image that the mask belongs to.
    rule : which values mark: those above half of the full range, or all but 0.

    Returns
    -------
    H x W, true on anomalous pixels; empty if the mask is all black.

    Raises
    ------
    MaskSizeError : the mask has another size than its image.
    DataError : the mask cannot be read; or, where half of the range is the rule, it holds small numbers only, such as 0
        and 1: taken at its word it would be empty, and its defect would count as good.
    """
    if path.is_dir():
        parts = [read_mask(part, shape, rule) for part in list_images(path).images]
        if not parts:
            raise DataError("there is no mask in this folder", where=path, todo="Put the image's masks there.")
        together: NDArray[np.bool_] = np.logical_or.reduce(parts)
        return together
    values, high = read_values(path, shape)
    if rule == "non-zero":
        return values > 0
    mask: NDArray[np.bool_] = values > high / 2
    if values.any() and not mask.any():
        raise DataError(
            f"the mask's largest value is {values.max()} of {high:g}, so it cannot be told which pixels are meant",
            where=path,
            todo="Save the mask in black (0) and white (the largest value).",
        )
    return mask


def read_values(path: Path, shape: tuple[int, int] | None = None) -> tuple[NDArray[Any], float]:
    """Read the numbers in a mask image.

    Parameters
    ----------
    shape : height and width that it must have; None for any.

    Returns
    -------
    H x W, the largest of each pixel's channels, uint8 or uint16 as the file is; and the largest value there can be.

    Raises
    ------
    MaskSizeError : the image has another size. DataError : it cannot be read.
    """
    pixels, high = _read(path)
    if shape is not None and pixels.shape[:2] != shape:
        height, width = pixels.shape[:2]
        raise MaskSizeError(
            f"the mask is {width} x {height} pixels, its image {shape[1]} x {shape[0]}",
            where=path,
            todo="Make a mask of the image's size.",
        )
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    # Twenty times as fast as the maximum over an axis of three.
    return np.maximum(np.maximum(red, green), blue), high


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
