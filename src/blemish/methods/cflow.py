"""CFLOW-AD: real-time unsupervised anomaly detection with localization via conditional normalizing flows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blemish.methods.base import AnomalyMap, Features, GradientStage, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.flows import ConditionalFlow
from blemish.nn.moments import Moments, Standardise
from blemish.nn.positions import sine_codes
from blemish.nn.resampling import MapHead
from blemish.teachers import FeaturePyramid


@register("cflow", "CFLOW-AD, conditional normalising flows (Gudovskiy et al., WACV 2022, arXiv 2107.12571)")
class ConditionalFlows(Method):
    """Per scale, a flow gives the likelihood of the teacher's features at a location; the map is its complement."""

    class Config(MethodConfig):
        """The published code; its inputs are 256 or 512 pixels by category."""

        strides: tuple[int, ...] = Field(default=(8, 16, 32), min_length=1, description="published code: layers 2 to 4")
        blocks: int = Field(default=8, gt=0, description="coupling blocks of each flow; published code")
        position: int = Field(
            default=128, gt=0, multiple_of=4, description="length of a location's code; published code"
        )
        clamp: float = Field(default=1.9, gt=0, description="largest log-scale of a block; published code")
        learning_rate: float = Field(
            default=2e-4, gt=0, description="Adam; published code. Constant, without its warm-up and cosine (ours)"
        )
        batch_size: int = Field(default=32, gt=0, description="images that a step draws from; published code")
        vectors: int = Field(default=256, gt=0, description="vectors of each scale in a step; published code")
        epochs: int = Field(
            default=200, gt=0, description="passes over the finest level's vectors; published code: 25 times 8"
        )
        steps: int | None = Field(default=None, gt=0, description="optimiser steps instead of epochs")

    config: Config
    fast: ClassVar = {"steps": 1000, "learning_rate": 2e-3, "batch_size": 8}

    highest: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        channels = teacher.info.channels
        self.grids = teacher.grids(config.image_size)
        self.standardise = Standardise(channels)
        self.flows = nn.ModuleList(ConditionalFlow(c, config.position, config.blocks, config.clamp) for c in channels)
        for level, grid in enumerate(self.grids):
            self.register_buffer(f"codes{level}", sine_codes(config.position, grid, grid), persistent=False)
        self.register_buffer("highest", torch.zeros(len(channels)))
        self.head = MapHead(self.grids, config.image_size, sigma=0, align_corners=True)

    def vectors(self, image: Tensor) -> Features:
        """The teacher's features by location, B x hw x C per scale.

        Each channel is standardised over the training images. Ours: a flow that starts near the identity reaches
        channels of any size in fewer steps; likelihoods change by one constant per scale.
        """
        return [level.flatten(2).transpose(1, 2) for level in self.standardise(self.teacher(image))]

    def stages(self, images: int) -> Iterator[Stage]:
        """Channel statistics, the flows, and the likelihood that each scale's map is measured against."""
        moments = [Moments() for _ in self.grids]

        def collect(image: Tensor) -> None:
            for level, features in zip(moments, self.teacher(image), strict=True):
                level.add(features)

        yield PassStage("channel statistics", collect, lambda *_: self.standardise.learn(moments))

        per_epoch = math.ceil(images * self.grids[0] ** 2 / self.config.vectors)
        yield GradientStage(
            "flows",
            module=self.flows,
            optimizer=torch.optim.Adam(self.flows.parameters(), lr=self.config.learning_rate, fused=True),
            losses=self.losses,
            observe=self.vectors,
            steps=self.config.steps or self.config.epochs * per_epoch,
            batch_size=self.config.batch_size,
        )

        found: list[Tensor] = []

        def look(image: Tensor) -> None:
            found.append(torch.stack([level.amax() for level in self.log_likelihoods(self.vectors(image))]))

        def keep_highest(*_: object) -> None:
            self.highest.copy_(torch.stack(found).amax(0))

        yield PassStage("highest likelihoods", look, keep_highest)

    def losses(self, vectors: Features) -> dict[str, Tensor]:
        """-log sigmoid(log p / C), mean over vectors drawn from all images and locations of the batch.

        The published code goes through a batch's vectors group by group and scale by scale, a step each. Here a step
        draws one group of every scale.
        """
        losses = {}
        for i, (flow, level) in enumerate(zip(self.flows, vectors, strict=True)):
            images, locations, _ = level.shape
            drawn = torch.randperm(images * locations, device=level.device)[: self.config.vectors]
            codes = self.get_buffer(f"codes{i}")[drawn % locations]
            # In float32: eight blocks add up what bfloat16 rounds, and on matrices this small it is no faster.
            with torch.autocast(level.device.type, enabled=False):
                density = flow(level.flatten(0, 1)[drawn], codes)
            losses[f"scale{i}"] = -F.logsigmoid(density / level.shape[2]).mean()
        return losses

    def log_likelihoods(self, vectors: Features) -> Features:
        """log p / C at each location: B x hw x C per scale -> B x hw per scale."""
        return [
            flow(level, self.get_buffer(f"codes{i}")) / level.shape[2]
            for i, (flow, level) in enumerate(zip(self.flows, vectors, strict=True))
        ]

    def forward(self, image: Tensor) -> AnomalyMap:
        """Sum over scales of 1 - p, p = exp(log p / C - highest) at most 1; the score is the maximum.

        `highest` is the scale's largest log p / C of all training images. Ours: the published code takes the largest
        of the whole test set, so that an image's score depends on the others.
        """
        maps = []
        for i, level in enumerate(self.log_likelihoods(self.vectors(image))):
            probability = torch.exp((level - self.highest[i]).clamp(max=0))
            maps.append((1 - probability).reshape(-1, self.grids[i], self.grids[i]))
        return AnomalyMap.with_max_score(self.head(maps))
