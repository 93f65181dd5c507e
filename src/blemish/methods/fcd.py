"""Feature-constrained distillation with a vision transformer (paper in Chinese)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from blemish.methods.base import AnomalyMap, Features, GradientStage, MethodConfig, PassStage, Stage, register
from blemish.methods.matching import FeatureMatching
from blemish.nn.resampling import MapHead
from blemish.teachers import FeaturePyramid, open_teacher, pooled_tokens

SIGMA = 4.0
"""Smoothing of the map in pixels; ours, as the paper scores images only."""


def difference(teacher: Tensor, student: Tensor) -> Tensor:
    """|T - S| + 1 - cos(T, S) of each token (eq. 8): B x N x C twice -> B x N."""
    gap: Tensor = torch.linalg.vector_norm(teacher - student, dim=-1)
    return gap + 1 - F.cosine_similarity(teacher, student, dim=-1)


def distillation(teacher: Tensor, student: Tensor, *, literal: bool) -> Tensor:
    """Eq. 3 for one layer, mean over the batch.

    Literally the norm of all tokens together, plus the sum over tokens of 1 - cos. Else, ours, the mean over tokens of
    `difference`: the same at every size of the network and of the image.
    """
    if not literal:
        return difference(teacher, student).mean()
    norm: Tensor = torch.linalg.vector_norm(teacher - student, dim=(1, 2))
    return (norm + (1 - F.cosine_similarity(teacher, student, dim=-1)).sum(1)).mean()


def relation(first: Tensor, second: Tensor, grids: tuple[int, int], *, literal: bool) -> Tensor:
    """G = phi1 phi2^T of two layers of one network (eq. 4).

    B x (1 + N) x C twice -> B x (1 + N) x (1 + N): how like each token of one layer is to each of the other. Ours:
    where the layers differ in shape, as in networks that halve their grid, B x C1 x C2: how alike two channels lie in
    the picture, patches only, the finer layer averaged down to the grid of the coarser. Not literally, rows are scaled
    to length 1 before.
    """
    if first.shape != second.shape:
        finer = first[:, 1:].transpose(1, 2).reshape(len(first), -1, grids[0], grids[0])
        first = F.adaptive_avg_pool2d(finer, grids[1]).flatten(2)
        second = second[:, 1:].transpose(1, 2)
    if not literal:
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    return first @ second.transpose(1, 2)


def relation_loss(teacher: Tensor, student: Tensor, *, literal: bool) -> Tensor:
    """|G_T - G_S| (eq. 5), mean over the batch; not literally, the root of the mean square, in [0, 2]."""
    norm: Tensor = torch.linalg.vector_norm(teacher - student, dim=(1, 2))
    return norm.mean() if literal else norm.mean() / teacher[0].numel() ** 0.5


def to_anchor(tokens: Tensor, anchor: Tensor) -> Tensor:
    """|cls - anchor| (eq. 2, and both terms of eq. 7): B x N x C and C -> B."""
    distance: Tensor = torch.linalg.vector_norm(tokens[:, 0] - anchor, dim=-1)
    return distance


def distillation_score(differences: Tensor, k: int) -> Tensor:
    """Difference of the class token and mean of the k largest of the patches (eq. 9 for one layer): B x (1+N) -> B."""
    patches = differences[:, 1:]
    return differences[:, 0] + patches.topk(min(k, patches.shape[1]), dim=1).values.mean(1)


@register("fcd", "Feature-constrained distillation with ViT (paper in Chinese)")
class FeatureConstrainedDistillation(FeatureMatching):
    """A student of the teacher's architecture learns its tokens, layer by layer, on good images only.

    Two constraints keep the student where good images are: its last class token is drawn to the mean of the teacher's,
    the anchor, and its layers are to relate to each other as the teacher's do. A teacher without a class token is taken
    by the mean of its patches (ours); such a teacher's channels are standardised as in `FeatureMatching`.
    """

    class Config(MethodConfig):
        """The paper, sections on method and experiments; "ours" where it does not say."""

        image_size: int = Field(default=224, ge=64, le=1024, multiple_of=32, description="paper")
        layers: tuple[int, ...] = Field(
            default=(3, 6, 9, 11),
            min_length=1,
            description="layers of a plain vision transformer, counted from 0; paper. Other teachers take strides",
        )
        learning_rate: float = Field(default=0.2, gt=0, description="SGD; paper, MVTec (0.1 for CIFAR, Fashion-MNIST)")
        batch_size: int = Field(default=4, gt=0, description="paper, MVTec (32 for CIFAR, Fashion-MNIST)")
        epochs: int = Field(default=200, gt=0, description="whole passes over the training images; ours")
        steps: int | None = Field(default=None, gt=0, description="optimiser steps instead of epochs")
        constraint: float = Field(default=1.0, ge=0, description="lambda, weight of both constraints; paper")
        anchor: bool = Field(default=True, description="the anchor in loss and score; paper")
        gram: bool = Field(default=True, description="the relation between layers in the loss; paper")
        top_k: int = Field(default=20, gt=0, description="patches that make the score; paper")
        literal: bool = Field(default=False, description="sums over tokens and unscaled Gram matrices, as eq. 3 to 5")

        @field_validator("layers")
        @classmethod
        def _first_to_last(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
            if layers[0] < 0 or any(first >= second for first, second in pairwise(layers)):
                raise ValueError("layers count from 0 and must grow, such as [3, 6, 9, 11]")
            return layers

    config: Config
    fast: ClassVar = {"steps": 200, "batch_size": 8}

    @classmethod
    def open_teacher(cls, name: str, config: MethodConfig, weights: str | os.PathLike[str] | None) -> FeaturePyramid:
        """The teacher with the config's layers, or its strides where it is no plain vision transformer."""
        assert isinstance(config, cls.Config)
        size = config.image_size
        return open_teacher(name, strides=config.strides, layers=config.layers, image_size=size, weights=weights)

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        if teacher.has_class_token:
            self.standardise = None
        self.student = teacher.untrained_copy(with_positions=True)
        self.grids = teacher.grids(config.image_size)
        self.register_buffer("centre", torch.zeros(teacher.info.channels[-1]))
        self.head = MapHead(self.grids, config.image_size, SIGMA, align_corners=False)

    def tokens(self, image: Tensor) -> Features:
        """What the student is to give: B x (1 + N) x C of each layer, the class token first."""
        return pooled_tokens(self.pyramid(image)) if self.standardise is not None else self.teacher.tokens(image)

    def stages(self, images: int) -> Iterator[Stage]:
        """Distil; before it the anchor, or the channels' mean and deviation, which make the anchor 0.

        Channels that are standardised have the mean 0 over all patches of the training images, so the anchor is 0.
        """
        yield from self.statistics()
        if self.config.anchor and self.standardise is None:
            seen: list[Tensor] = []

            def learn(*_: object) -> None:
                # Eq. 1; the paper's moving average tends to the same, as the teacher does not change.
                self.get_buffer("centre").copy_(torch.cat(seen).double().mean(0))

            yield PassStage("anchor", lambda image: seen.append(self.tokens(image)[-1][:, 0]), learn)
        steps = self.config.steps or self.config.epochs * -(-images // self.config.batch_size)
        learning = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        yield GradientStage(
            "distil",
            module=self.student,
            optimizer=torch.optim.SGD(learning, lr=self.config.learning_rate, momentum=0.9),
            losses=self.losses,
            observe=lambda image: [image, *self.tokens(image)],
            steps=steps,
            batch_size=self.config.batch_size,
            # Ours: 5 of 200 epochs. The paper warms up and does not say how long.
            warm_up=steps // 40,
            clip=1.0,
        )

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """From the image and the teacher's tokens: L_distill + lambda (L_anchor + L_Gram) (eq. 6)."""
        image, *teacher = observed
        student = [tokens.float() for tokens in self.student.tokens(image)]
        literal = self.config.literal
        with torch.autocast(image.device.type, enabled=False):
            layers = [distillation(t, s, literal=literal) for t, s in zip(teacher, student, strict=True)]
            losses = {"distillation": torch.stack(layers).sum()}
            if self.config.anchor:
                losses["anchor"] = self.config.constraint * to_anchor(student[-1], self.get_buffer("centre")).mean()
            if self.config.gram and len(student) > 1:
                pairs = zip(self.relations(teacher), self.relations(student), strict=True)
                grams = [relation_loss(t, s, literal=literal) for t, s in pairs]
                losses["gram"] = self.config.constraint * torch.stack(grams).sum()
        return losses

    def relations(self, tokens: Features) -> Features:
        """Of each layer to the next one; the pairs are ours."""
        pairs = zip(pairwise(tokens), pairwise(self.grids), strict=True)
        return [relation(*layers, grids, literal=self.config.literal) for layers, grids in pairs]

    def forward(self, image: Tensor) -> AnomalyMap:
        """Score S_D + S_A (eq. 7, 9 and 10). The map, ours: sum over layers of the patches' differences, smoothed."""
        teacher, student = self.tokens(image), self.student.tokens(image)
        differences = [difference(t, s) for t, s in zip(teacher, student, strict=True)]
        score = torch.stack([distillation_score(layer, self.config.top_k) for layer in differences]).sum(0)
        if self.config.anchor:
            centre = self.get_buffer("centre")
            score = score + to_anchor(teacher[-1], centre) + to_anchor(student[-1], centre)
        maps = [layer[:, 1:].reshape(-1, g, g) for layer, g in zip(differences, self.grids, strict=True)]
        return AnomalyMap(self.head(maps), score)
