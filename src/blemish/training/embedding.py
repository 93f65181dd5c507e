"""What a teacher sees of images, small enough to keep for all of them: for comparing images with one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from blemish.images import ImageContract
from blemish.nn.preparation import Preparation
from blemish.teachers import FeaturePyramid
from blemish.training.images import TrainingImages

STRIDES = (8, 16)
"""Levels of the pyramid: the two that PatchCore (Roth et al., CVPR 2022) found best."""
SIZE = 224
WIDTH = 64
"""Channels that are kept, by a random projection: it preserves distances (Johnson and Lindenstrauss, 1984)."""
BATCH = 8


class Embedding:
    """Features of an image's patches.

    Both levels are averaged over 3 x 3 positions as in PatchCore, brought to the coarser grid, put side by side and
    projected at random, always the same way.

    Parameters
    ----------
    teacher : with the levels `STRIDES`.
    contract : how images are read.
    """

    def __init__(self, teacher: FeaturePyramid, contract: ImageContract) -> None:
        self.teacher = teacher
        self.contract = contract
        self.grid = teacher.grids(SIZE)[-1]
        # On the CPU, so that every machine projects alike.
        generator = torch.Generator().manual_seed(0)
        channels = sum(teacher.info.channels)
        self.projection = torch.randn(channels, WIDTH, generator=generator) / WIDTH**0.5

    def __call__(self, paths: Sequence[Path], tell: Callable[[float], None]) -> NDArray[np.float32]:
        """Read image files and return N x patches x WIDTH; `tell` how far it is, in [0, 1].

        Raises
        ------
        ImageError : a file can no longer be read.
        """
        preparation = Preparation(self.contract.low, self.contract.high, SIZE)
        images = TrainingImages(paths, self.contract, preparation)
        features = np.empty((len(images), self.grid**2, WIDTH), np.float32)
        done = 0
        for batch in images.batches(range(len(images)), BATCH):
            with torch.inference_mode():
                features[done : done + len(batch)] = self._patches(batch).numpy()
            done += len(batch)
            tell(done / len(images))
        return features

    def _patches(self, batch: torch.Tensor) -> torch.Tensor:
        levels = [F.avg_pool2d(level, 3, stride=1, padding=1) for level in self.teacher(batch)]
        levels = [F.adaptive_avg_pool2d(level, self.grid) for level in levels]
        together: torch.Tensor = torch.cat(levels, dim=1).flatten(2).transpose(1, 2) @ self.projection
        return together
