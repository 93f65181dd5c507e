"""MKDAD: multiresolution knowledge distillation for anomaly detection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from blemish.methods.base import AnomalyMap, Features, GradientStage, MethodConfig, Stage, register
from blemish.methods.matching import FeatureMatching
from blemish.nn.description import initialise
from blemish.nn.plain import input_gradient, is_plain, outputs
from blemish.nn.resampling import MapHead
from blemish.teachers import FeaturePyramid

NARROW = 16
"""Channels of the cloner's layers that the teacher is not compared with; published code."""
SCORED = 3
"""Levels that make the score, the deepest; published code."""
OPENING = 5
"""Side of the opening's square in pixels; ours."""
SOFTNESS = 0.1
"""Rounding of the gradient's jumps, in means of a layer's values; ours."""


def direction(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cosine of the two levels B x C x h x w, each flattened to one vector per image: B, in [0, 2]."""
    return 1 - F.cosine_similarity(teacher.flatten(1), student.flatten(1))


def value(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared difference of the two levels B x C x h x w: B."""
    return (teacher - student).flatten(1).square().mean(1)


def level_gradient(teacher: Tensor, student: Tensor, weight: float) -> Tensor:
    """Gradient of `direction` + weight * `value` with respect to the student's level, in its shape.

    Both terms are symmetric: with the two exchanged it is the gradient with respect to the teacher's level.
    """
    t, s = teacher.flatten(1), student.flatten(1)
    t_norm, s_norm = (v.norm(dim=1, keepdim=True).clamp(min=1e-8) for v in (t, s))
    cosine = (t * s).sum(1, keepdim=True) / (t_norm * s_norm)
    gradient: Tensor = (cosine * s / s_norm - t / t_norm) / s_norm + 2 * weight / t.shape[1] * (s - t)
    return gradient.reshape(student.shape)


def opening(anomaly_map: Tensor, size: int) -> Tensor:
    """Grey opening of B x S x S by a square: bright spots that hold no `size` x `size` pixels are taken off."""
    eroded = -F.max_pool2d(-anomaly_map[:, None], size, stride=1, padding=size // 2)
    opened: Tensor = F.max_pool2d(eroded, size, stride=1, padding=size // 2)[:, 0]
    return opened


class Cloner(nn.Sequential):
    """Layers, of which those before `taps` give what the teacher's levels are."""

    by_rows: ClassVar = ("levels",)

    def __init__(self, layers: list[nn.Module], taps: list[int]) -> None:
        super().__init__(*layers)
        self.taps = taps

    def levels(self, x: Tensor) -> Features:
        """B x 3 x S x S -> B x C x S/stride x S/stride per level."""
        through = outputs(self.children(), x)
        return [through[tap] for tap in self.taps]


def build_cloner(strides: tuple[int, ...], channels: tuple[int, ...], *, pooled: bool) -> Cloner:
    """VGG16's layers with few channels, but for the layers that give what the teacher's levels are.

    Parameters
    ----------
    strides, channels : of the teacher's levels.
    pooled : whether a level is what the pooling after it gives, as in the paper; else it is the convolution's output,
        which may be negative as the features of most networks may.
    """
    width_at = dict(zip(strides, channels, strict=True))
    layers: list[nn.Module] = []
    taps: list[int] = []
    inputs, stride = 3, 1
    while len(taps) < len(strides):
        widths = [NARROW] * (2 if stride < 4 else 3)
        widths[-1] = width_at.get(stride, NARROW)
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
        if stride in width_at:
            taps.append(len(layers) - (0 if pooled else 2))
        stride *= 2
    return Cloner(layers[: taps[-1]], taps)


@register("mkd", "Multiresolution knowledge distillation (Salehi et al., CVPR 2021, arXiv 2011.11108)")
class MultiresolutionDistillation(FeatureMatching):
    """A small network, the cloner, learns values and directions of the teacher's activations on good images only.

    The score is their discrepancy at several depths; the map is how the score changes with the pixels. The published
    teacher is VGG16, and the gradient runs back through both networks. Ours: of another teacher nothing is known but
    its levels, so the gradient runs back through the cloner alone, the levels being held.
    """

    class Config(MethodConfig):
        """The published code, its settings for MVTec AD."""

        image_size: int = Field(default=128, ge=64, le=1024, multiple_of=32, description="published code")
        strides: tuple[int, ...] = Field(
            default=(2, 4, 8, 16),
            min_length=1,
            description="the teacher's levels: before pooling 2 to 5 of VGG16; published code",
        )
        value_weight: float = Field(default=0.5, ge=0, description="of values against directions; published code")
        learning_rate: float = Field(default=1e-3, gt=0, description="Adam; published code")
        batch_size: int = Field(default=64, gt=0, description="published code")
        epochs: int = Field(default=601, gt=0, description="whole passes over the training images; published code")
        steps: int | None = Field(default=None, gt=0, description="optimiser steps instead of epochs")
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; ours")

        @field_validator("strides")
        @classmethod
        def _of_vgg(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
            if not {*strides} <= {1, 2, 4, 8, 16}:
                raise ValueError("the cloner has levels at strides 1, 2, 4, 8 and 16 only")
            return strides

    config: Config
    fast: ClassVar = {"steps": 300, "batch_size": 16}

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        teacher.grids(config.image_size)  # refuses sizes that the teacher does not take
        layers = list(teacher.network.children())
        self.published = is_plain(layers)
        if self.published:
            self.standardise = None
        # Not a module list: the layers are the teacher's and no part of what is learned.
        self.teacher_layers = (*layers, nn.MaxPool2d(2)) if self.published else ()
        poolings = [i + 1 for i, layer in enumerate(self.teacher_layers) if isinstance(layer, nn.MaxPool2d)]
        self.teacher_taps = [poolings[stride.bit_length() - 1] for stride in config.strides if self.published]
        self.cloner = build_cloner(teacher.info.strides, teacher.info.channels, pooled=self.published)
        initialise(self.cloner)
        self.head = MapHead([config.image_size], config.image_size, config.sigma, align_corners=False)

    def stages(self, images: int) -> Iterator[Stage]:
        """Distil; before it, for teachers whose features are not taken as they are, learn the channels' moments."""
        yield from self.statistics()
        batches = -(-images // self.config.batch_size)
        yield GradientStage(
            "distil",
            module=self.cloner,
            optimizer=torch.optim.Adam(self.cloner.parameters(), lr=self.config.learning_rate, fused=True),
            losses=self.losses,
            observe=lambda image: [self.normalised(image), *self.levels(image)],
            steps=self.config.steps or self.config.epochs * batches,
            batch_size=self.config.batch_size,
        )

    def normalised(self, image: Tensor) -> Tensor:
        """The image as both networks take it."""
        return (image - self.teacher.mean) / self.teacher.std

    def levels(self, image: Tensor) -> Features:
        """What the cloner is to give: VGG's levels after their pooling, or another teacher's, standardised."""
        levels = self.pyramid(image)
        return [F.max_pool2d(level, 2) for level in levels] if self.published else levels

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """Mean over the batch of the discrepancy of directions and of values, summed over levels."""
        image, *levels = observed
        cloned = self.cloner.levels(image)
        pairs = [(level, clone.float()) for level, clone in zip(levels, cloned, strict=True)]
        return {
            "direction": torch.stack([direction(t, s).mean() for t, s in pairs]).sum(),
            "value": self.config.value_weight * torch.stack([value(t, s).mean() for t, s in pairs]).sum(),
        }

    def forward(self, image: Tensor) -> AnomalyMap:
        """The size of the score's gradient at each pixel, summed over colours, smoothed and opened; the score itself.

        As in the published code the score leaves out the finest of four levels.
        """
        score, gradient = self.score_and_gradient(image)
        return AnomalyMap(opening(self.head([gradient.abs().sum(1)]), OPENING), score)

    def score_and_gradient(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The score, B, and its gradient with respect to the normalised image, B x 3 x S x S."""
        weight = self.config.value_weight
        x = self.normalised(image)
        through = outputs(self.cloner.children(), x)
        if self.published:
            teacher_through = outputs(self.teacher_layers, x)
            levels = [teacher_through[tap] for tap in self.teacher_taps]
        else:
            levels = self.levels(image)
        scored = range(len(levels))[-SCORED:]
        pairs = [(levels[i], through[self.cloner.taps[i]]) for i in scored]
        score = torch.stack([direction(t, s) + weight * value(t, s) for t, s in pairs]).sum(0)
        back = {self.cloner.taps[i]: level_gradient(t, s, weight) for i, (t, s) in zip(scored, pairs, strict=True)}
        gradient = input_gradient([*self.cloner], through, back, SOFTNESS)
        if self.published:
            back = {self.teacher_taps[i]: level_gradient(s, t, weight) for i, (t, s) in zip(scored, pairs, strict=True)}
            gradient = gradient + input_gradient(self.teacher_layers, teacher_through, back, SOFTNESS)
        return score, gradient
