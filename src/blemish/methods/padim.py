"""PaDiM: a patch distribution modelling framework for anomaly detection and localization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from blemish.errors import TrainingError
from blemish.methods.base import AnomalyMap, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.resampling import MapHead
from blemish.teachers import FeaturePyramid


@register("padim", "PaDiM, patch distribution modelling (Defard et al., ICPR 2020, arXiv 2011.08785)")
class PatchDistributions(Method):
    """One Gaussian per location over the teacher's features there; the map is the Mahalanobis distance."""

    class Config(MethodConfig):
        """Sections 3 and 4; the numbers of features are the paper's for ResNet-18 and WideResNet-50."""

        features: int = Field(
            default=100, gt=0, description="randomly chosen channels; paper 4.1: 100 (ResNet-18), 550 (WideResNet-50)"
        )
        grid_stride: int | None = Field(
            default=None, gt=0, description="ours: pixels per Gaussian; None is the finest level, as in the paper"
        )
        regularisation: float = Field(default=0.01, gt=0, description="added to the covariance's diagonal; paper eq. 1")
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; paper section 4.2")

    config: Config
    cheap_to_fit: ClassVar = True
    fast: ClassVar = {"features": 256, "grid_stride": 16}

    chosen: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        grids = teacher.grids(config.image_size)
        stride = config.grid_stride or 1
        self.grid = min(grids[0], -(-config.image_size // stride))
        for level, grid in enumerate(grids):
            # ONNX has no adaptive pooling; a matrix for each axis does the same.
            average = F.adaptive_avg_pool1d(torch.eye(grid), self.grid).T.contiguous() if grid > self.grid else None
            self.register_buffer(f"average{level}", average, persistent=False)
        total = sum(teacher.info.channels)
        self.features = min(config.features, total)
        # Drawn with torch's global generator, which the trainer seeds before it builds a method.
        chosen = torch.sort(torch.randperm(total)[: self.features]).values
        self.register_buffer("chosen", chosen)
        self.register_buffer("mean", torch.zeros(self.grid**2, self.features, 1))
        self.register_buffer("whitening", torch.zeros(self.grid**2, self.features, self.features))
        self.head = MapHead([self.grid], config.image_size, config.sigma, align_corners=False)

    def select(self, image: Tensor) -> Tensor:
        """The chosen channels of all levels on one grid: B x 3 x S x S -> B x D x h x w.

        Coarser levels are repeated, as in the paper; finer ones are averaged.
        """
        levels = []
        last = 0
        for i, features in enumerate(self.teacher(image)):
            # Chosen before they are enlarged: half of the channels or more are never looked at.
            first, last = last, last + features.shape[1]
            begin, end = torch.searchsorted(self.chosen, torch.tensor([first, last], device=image.device)).tolist()
            if begin == end:
                continue
            features = features[:, self.chosen[begin:end] - first].contiguous(memory_format=torch.channels_last)
            average = getattr(self, f"average{i}")
            if average is None:
                levels.append(F.interpolate(features, (self.grid, self.grid), mode="nearest"))
            else:
                levels.append(average @ features @ average.T)
        return torch.cat(levels, 1)

    def stages(self, images: int) -> Iterator[Stage]:
        """One pass: sums, then means and covariances."""
        count = 0
        shift = torch.zeros_like(self.mean).transpose(1, 2)
        total = torch.zeros_like(shift)
        # Where the whitening will be: of the largest tensors there is one at any time.
        squares = self.whitening.zero_()

        def collect(image: Tensor) -> None:
            nonlocal count
            x = self.select(image).flatten(2).permute(2, 0, 1)
            if count == 0:
                # Sums around the first images' mean: around zero, float32 would cancel.
                shift.copy_(x.mean(1, keepdim=True))
            x = torch.sub(x, shift, out=x.new_empty(x.shape))
            total.add_(x.sum(1, keepdim=True))
            squares.baddbmm_(x.transpose(1, 2), x)
            count += image.shape[0]

        def finish(_: torch.Generator, progress: Callable[[float], None]) -> None:
            if count < 2:
                raise TrainingError("PaDiM needs at least two training images", todo="Add images")
            mean = total.div_(count)
            covariance = squares.baddbmm_(mean.transpose(1, 2), mean, alpha=-count).div_(count - 1)
            covariance.diagonal(dim1=1, dim2=2).add_(self.config.regularisation)
            self.mean.copy_((shift + mean).transpose(1, 2))
            # With covariance = L Lt, the distance is |L^-1 (x - mean)|: half the work of the inverse, never negative.
            identity = torch.eye(self.features, device=covariance.device)
            for start in range(0, len(covariance), 256):
                part = covariance[start : start + 256]
                part.copy_(torch.linalg.solve_triangular(torch.linalg.cholesky(part), identity, upper=False))
                progress(min(1.0, (start + 256) / len(covariance)))

        yield PassStage("gaussians", collect, finish)

    def forward(self, image: Tensor) -> AnomalyMap:
        """Mahalanobis distance at each location (eq. 2), enlarged and smoothed; the score is the maximum."""
        features = self.select(image).flatten(2).permute(2, 1, 0)
        white = self.whitening @ (features - self.mean)
        distance = white.square().sum(1).sqrt().T.reshape(-1, self.grid, self.grid)
        return AnomalyMap.with_max_score(self.head([distance]))
