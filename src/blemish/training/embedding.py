"""What a teacher sees of images, small enough to keep for all of them: for comparing images with one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from blemish.errors import UsageError
from blemish.images import ImageContract
from blemish.nn.preparation import Preparation
from blemish.teachers import FeaturePyramid
from blemish.training.images import TrainingImages

STRIDES = (8, 16)
"""Levels of the pyramid: the two that PatchCore (Roth et al., CVPR 2022) found best."""
SIZES = (320, 224)
"""Sides that images are resized to, the first that the teacher takes."""
WIDTH = 128
"""Channels that are kept, by a random projection: it nearly preserves distances (Johnson and Lindenstrauss, 1984)."""
BATCH = 8


class Embedding:
    """Features of an image's patches.

    Both levels are averaged over 3 x 3 positions as in PatchCore, brought to the coarser grid, put side by side and
    projected at random, always the same way.

    Parameters
    ----------
    teacher : with the levels `STRIDES`.
    contract : how images are read.

    Raises
    ------
    UsageError : the teacher takes images of neither size.
    """

    def __init__(self, teacher: FeaturePyramid, contract: ImageContract) -> None:
        self.teacher = teacher
        self.contract = contract
        self.size, self.grid = _fitting(teacher)
        # On the CPU, so that every machine projects alike.
        generator = torch.Generator().manual_seed(0)
        channels = sum(teacher.info.channels)
        self.projection = torch.randn(channels, WIDTH, generator=generator) / WIDTH**0.5

    def __call__(self, paths: Sequence[Path], tell: Callable[[float], None]) -> NDArray[np.float16]:
        """Read image files and return N x patches x WIDTH, float16; `tell` how far it is, in [0, 1].

        Raises
        ------
        ImageError : a file can no longer be read.
        """
        preparation = Preparation(self.contract.low, self.contract.high, self.size)
        images = TrainingImages(paths, self.contract, preparation)
        features = np.empty((len(images), self.grid**2, WIDTH), np.float16)
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


def _fitting(teacher: FeaturePyramid) -> tuple[int, int]:
    """The first of SIZES that a teacher takes, and the grid of its last level."""
    for size in SIZES[:-1]:
        try:
            return size, teacher.grids(size)[-1]
        except UsageError:
            continue
    return SIZES[-1], teacher.grids(SIZES[-1])[-1]
