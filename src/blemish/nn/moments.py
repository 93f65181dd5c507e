"""Mean and deviation of feature channels over a data set, in one pass, and channels standardised by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Moments:
    """Running mean and deviation of each channel; batches are merged as Chan, Golub and LeVeque (1983) do."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Add B x C x h x w."""
        values = features.double().transpose(0, 1).flatten(1)
        count, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        total = self.count + count
        shift = mean - self.mean
        self._squares = self._squares + squares + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, C."""
        return (self._squares / self.count).sqrt()


class Standardise(nn.Module):
    """Subtracts each channel's mean and divides by its deviation; the identity until `learn` is called.

    Parameters
    ----------
    channels : of each level of the pyramid.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        for level, width in enumerate(channels):
            self.register_buffer(f"mean{level}", torch.zeros(1, width, 1, 1))
            self.register_buffer(f"deviation{level}", torch.ones(1, width, 1, 1))

    def learn(self, moments: list[Moments]) -> None:
        """Take the statistics of each level."""
        for i, level in enumerate(moments):
            self.get_buffer(f"mean{i}").copy_(level.mean.view(1, -1, 1, 1))
            self.get_buffer(f"deviation{i}").copy_(level.deviation.clamp(min=1e-6).view(1, -1, 1, 1))

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """One B x C x h x w tensor per level -> the same shapes."""
        return [
            (level - self.get_buffer(f"mean{i}")) / self.get_buffer(f"deviation{i}") for i, level in enumerate(pyramid)
        ]
