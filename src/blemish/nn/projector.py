"""The projector of RD++ (Tien et al., CVPR 2023): what it keeps of a teacher's level is for the bottleneck."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Projector(nn.Sequential):
    """Four 3x3 convolutions C -> C/2 -> C/4 -> C/2 -> C, each with instance normalisation and LeakyReLU.

    The normalisation has neither scale and shift nor running statistics. Halves and quarters are rounded down.
    """

    def __init__(self, channels: int) -> None:
        widths = (channels, channels // 2, channels // 4, channels // 2, channels)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.InstanceNorm2d(outputs), nn.LeakyReLU()]
        super().__init__(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """B x C x h x w -> the same shape."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return projected
