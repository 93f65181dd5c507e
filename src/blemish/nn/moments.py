"""Mean and deviation of feature channels over a data set, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor


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
