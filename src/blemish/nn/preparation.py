"""From the decoded image to what a network sees; part of the graph, so training and inspection cannot differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blemish.nn.resampling import along_rows, length, resize_matrix


class Preparation(nn.Module):
    """Scales the declared range to [0, 1] and resizes to a square.

    Parameters
    ----------
    low, high : the declared range of the pixel values.
    size : side of the square.
    """

    def __init__(self, low: float, high: float, size: int) -> None:
        super().__init__()
        self.low, self.high, self.size = low, high, size
        self.register_buffer("side", torch.ones(size), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """B x H x W x 3 of any of the contract's types -> B x 3 x size x size, float32; or 1 in the place of 3."""
        side = self.get_buffer("side")
        # Rows first, as they lie: after that there is little left to convert, to rearrange and to resize.
        by_rows = along_rows(resize_matrix(length(image, 1), side), image.flatten(2))
        by_rows = by_rows.reshape(*by_rows.shape[:2], -1, image.shape[3])
        by_columns = along_rows(resize_matrix(length(image, 2), side), by_rows.permute(0, 3, 2, 1))
        return (by_columns.transpose(2, 3) - self.low) / (self.high - self.low)
