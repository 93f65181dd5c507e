"""PatchCore: towards total recall in industrial anomaly detection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blemish.methods.base import AnomalyMap, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.coreset import greedy_coreset
from blemish.nn.neighbours import nearest_squared_distance, rarity
from blemish.nn.pooling import AdaptivePooling
from blemish.nn.resampling import MapHead, resize_matrix
from blemish.nn.rows import RowsInFile
from blemish.teachers import FeaturePyramid


@register("patchcore", "PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265)")
class PatchCore(Method):
    """A memory bank of normal patch features, thinned to a coreset; the map is the distance to the nearest one."""

    class Config(MethodConfig):
        """Sections 3 and 4 and the published code; the whole image is seen, without the code's centre crop."""

        image_size: int = Field(
            default=224, ge=64, le=1024, multiple_of=32, description="paper section 4.1 (there 224 cropped from 256)"
        )
        strides: tuple[int, ...] = Field(default=(8, 16), min_length=1, description="published code: layers 2 and 3")
        dimension: int = Field(
            default=1024,
            gt=0,
            description="features per patch; published code. Narrower teachers keep their own channels",
        )
        coreset: float = Field(
            default=0.1, gt=0, le=1, description="part of all patches that the bank keeps; paper section 4.1"
        )
        bank_limit: int = Field(default=20_000, gt=0, description="ours: the most patches that the bank keeps")
        neighbours: int = Field(
            default=1, gt=0, description="k, patches of the bank whose mean distance counts; published code"
        )
        reweighting: int = Field(
            default=0, ge=0, description="b of equation 7 for the score; 0 leaves it out, as published code does"
        )
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; paper section 3.3")

    config: Config
    cheap_to_fit: ClassVar = True
    extendable: ClassVar = True
    fast: ClassVar = {"bank_limit": 2000}

    bank: Tensor
    bank_norms: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        grids = teacher.grids(config.image_size)
        self.grid = grids[0]
        channels = teacher.info.channels
        wide = all(9 * c >= config.dimension for c in channels)
        # The published code pools each level's 3x3 neighbourhood (9 C values) to 1024, and both levels to 1024. For a
        # teacher with fewer channels that would repeat values; there each channel's neighbourhood mean is kept.
        self.level_dimensions = [config.dimension if wide else c for c in channels]
        self.dimension = min(config.dimension, sum(self.level_dimensions))
        self.register_buffer("bank", torch.zeros(1, self.dimension))
        self.register_buffer("bank_norms", torch.zeros(1))
        for level, grid in enumerate(grids):
            to_finest = resize_matrix(torch.ones(grid), torch.ones(self.grid))
            self.register_buffer(f"to_finest{level}", to_finest, persistent=False)
        self.pool_levels = nn.ModuleList(
            AdaptivePooling(9 * c, dimension) for c, dimension in zip(channels, self.level_dimensions, strict=True)
        )
        self.pool_patch = AdaptivePooling(sum(self.level_dimensions), self.dimension)
        self.head = MapHead([self.grid], config.image_size, config.sigma, align_corners=False)

    def embed(self, image: Tensor) -> Tensor:
        """Locally aware patch features (section 3.1): B x 3 x S x S -> B*h*w x D."""
        levels = []
        for level, (features, pool) in enumerate(zip(self.teacher(image), self.pool_levels, strict=True)):
            if pool.outputs == features.shape[1]:
                # Nine neighbours of one channel to one value.
                patches = F.avg_pool2d(features, 3, stride=1, padding=1)
            else:
                neighbourhood = F.unfold(features, 3, padding=1).transpose(1, 2)
                patches = pool(neighbourhood).transpose(1, 2).unflatten(2, features.shape[2:])
            if level > 0:
                to_finest = self.get_buffer(f"to_finest{level}")
                patches = to_finest @ patches @ to_finest.T
            levels.append(patches)
        vectors = torch.cat(levels, 1).permute(0, 2, 3, 1).flatten(0, 2)
        if vectors.shape[1] != self.dimension:
            vectors = self.pool_patch(vectors)
        return vectors

    def stages(self, images: int) -> Iterator[Stage]:
        """One pass: all patches, then the coreset of them.

        Ours: a bank that was learned before competes with the new patches for a place, and is so extended.
        """
        before = self.bank[self.bank_norms > 0]
        # In a file: of all patches, memory holds the projections that are compared, and those that are kept.
        vectors = RowsInFile(self.dimension, before.device)
        vectors.append(before)

        def finish(generator: torch.Generator, progress: Callable[[float], None]) -> None:
            wanted = len(before) + int(self.config.coreset * (len(vectors) - len(before)))
            count = max(1, min(wanted, self.config.bank_limit))
            chosen = greedy_coreset(vectors, count, generator, progress=progress)
            self.bank = vectors[chosen]
            self.bank_norms = self.bank.square().sum(1)

        yield PassStage("memory bank", lambda image: vectors.append(self.embed(image)), finish)

    def forward(self, image: Tensor) -> AnomalyMap:
        """Squared distance of each patch to the bank (section 3.3), as the published code has it.

        The score is the largest patch distance, before enlarging and smoothing; with `reweighting` its root, times the
        weight of equation 7.
        """
        patches = self.embed(image)
        distances = nearest_squared_distance(patches, self.bank, self.bank_norms, self.config.neighbours)
        distances = distances.reshape(-1, self.grid, self.grid)
        score = distances.amax((1, 2))
        if self.config.reweighting:
            farthest = distances.flatten(1).argmax(1, keepdim=True)
            index = farthest[..., None].expand(-1, -1, self.dimension)
            patch = patches.reshape(-1, self.grid**2, self.dimension).gather(1, index)[:, 0]
            score = score.sqrt() * rarity(patch, self.bank, self.bank_norms, self.config.reweighting)
        return AnomalyMap(self.head([distances]), score)
