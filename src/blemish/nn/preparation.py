"""From the decoded image to what a network sees; part of the graph, so training and inspection cannot differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blemish.nn.resampling import resize


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
        """B x H x W x 3 of any of the contract's types -> B x 3 x size x size, float32."""
        channels_first = image.permute(0, 3, 1, 2).to(torch.float32)
        side = self.get_buffer("side")
        return (resize(channels_first, side, side) - self.low) / (self.high - self.low)
