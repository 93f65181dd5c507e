"""CDO: collaborative discrepancy optimization for reliable image anomaly localization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from blemish.methods.base import AnomalyMap, Features, GradientStage, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.moments import Moments, Standardise
from blemish.nn.resampling import MapHead, aligned_matrix
from blemish.teachers import FeaturePyramid

AS_PUBLISHED = ("hrnet", "resnet", "wide_resnet")
"""The families of the published code, whose features are taken as they are."""

MOST_SQUARES = 4
LARGEST_RATIO = 100.0
SMALLEST = 1e-12


def white_noise_squares(image: Tensor) -> tuple[Tensor, Tensor]:
    """Put up to four rectangles of white noise into each image, drawn by torch's global generator.

    The number is 0 to 4, half a side 1/40 to 1/10 of the image's; they lie inside the image and may overlap.

    Parameters
    ----------
    image : B x 3 x S x S in [0, 1].

    Returns
    -------
    The images, and a bool mask B x S x S of where they are noise.
    """
    count, _, size, _ = image.shape
    # On the CPU, so that every device draws the same.
    wanted = torch.arange(MOST_SQUARES) < torch.randint(MOST_SQUARES + 1, (count, 1))
    half = torch.randint(size // 40, size // 10, (count, MOST_SQUARES, 2, 1))
    centre = half + (torch.rand(half.shape) * (size - 2 * half)).long()
    position = torch.arange(size)
    rows, columns = ((centre - half <= position) & (position < centre + half)).unbind(2)
    mask = (wanted[..., None, None] & rows[..., :, None] & columns[..., None, :]).any(1).to(image.device)
    return torch.where(mask[:, None], torch.rand(image.shape).to(image.device), image), mask


def discrepancy(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared distance of unit feature vectors: B x C x h x w twice -> B x h x w, in [0, 4]."""
    return (F.normalize(teacher) - F.normalize(student)).square().sum(1)


def overlap_weights(distance: Tensor, synthetic: Tensor, gamma: float) -> Tensor:
    """How much each location counts: the more, the deeper it lies where normal and synthetic distances overlap.

    (d / mean)^gamma for a normal location, (mean / d)^gamma for a synthetic one, the mean over all locations of its
    kind. Ours: a ratio is at most 100, and a kind that has no location or only distances of 0 has weights of 0, where
    the published code divides by zero.

    Parameters
    ----------
    distance : any shape, at least 0. synthetic : bool, the same shape.

    Returns
    -------
    Tensor of the same shape, in [0, 100^gamma]; no gradient passes it.
    """
    distance = distance.detach()
    normal_mean = (distance * ~synthetic).sum() / (~synthetic).sum().clamp(min=1)
    synthetic_mean = (distance * synthetic).sum() / synthetic.sum().clamp(min=1)
    ratio = torch.where(
        synthetic,
        synthetic_mean / distance.clamp(min=SMALLEST),
        distance / normal_mean.clamp(min=SMALLEST),
    )
    return ratio.clamp(max=LARGEST_RATIO) ** gamma


def collaborative_loss(distance: Tensor, synthetic: Tensor, gamma: float) -> Tensor:
    """Weighted mean of the distances, those of synthetic locations with a minus: a scalar in [-4, 4].

    The published code multiplies it by the batch size, which Adam's step does not depend on.
    """
    weight = overlap_weights(distance, synthetic, gamma)
    signed = torch.where(synthetic, -distance, distance)
    return (weight * signed).sum() / weight.sum().clamp(min=SMALLEST)


@register("cdo", "CDO, collaborative discrepancy optimization (Cao et al., IEEE TII 2023)")
class CollaborativeDiscrepancy(Method):
    """A student learns the teacher's features on good pixels and to differ from them on synthetic anomalies."""

    class Config(MethodConfig):
        """The published code, rewritten by its authors; the teacher there is HRNet-32."""

        gamma: float = Field(default=2.0, ge=0, le=8, description="how sharply weights favour overlap; published code")
        learning_rate: float = Field(
            default=1e-3, gt=0, description="Adam; published code. A tenth of it in the last fifth of the steps"
        )
        batch_size: int = Field(default=32, gt=0, description="published code")
        epochs: int = Field(default=100, gt=0, description="whole passes over the training images; published code")
        steps: int | None = Field(default=None, gt=0, description="optimiser steps instead of epochs")
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; published code")

    config: Config
    fast: ClassVar = {"steps": 300, "batch_size": 8}

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        grids = teacher.grids(config.image_size)
        self.standardise = Standardise(teacher.info.channels)
        self.student = teacher.untrained_copy()
        for level, grid in enumerate(grids):
            self.register_buffer(f"to_finest{level}", aligned_matrix(grid, grids[0]), persistent=False)
        self.head = MapHead(grids[:1], config.image_size, config.sigma, align_corners=False)

    def stages(self, images: int) -> Iterator[Stage]:
        """Channel statistics for teachers outside the published families; four fifths of the steps; the rest."""
        if not self.teacher.info.backbone.startswith(AS_PUBLISHED):
            moments = [Moments() for _ in self.teacher.info.channels]

            def collect(image: Tensor) -> None:
                for level, features in zip(moments, self.teacher(image), strict=True):
                    level.add(features)

            yield PassStage("channel statistics", collect, lambda *_: self.standardise.learn(moments))
        steps = self.config.steps or self.config.epochs * -(-images // self.config.batch_size)
        last = steps // 5
        for name, rate, part in (("distil", 1.0, steps - last), ("distil, slower", 0.1, last)):
            if part:
                yield GradientStage(
                    name,
                    module=self.student,
                    optimizer=torch.optim.Adam(
                        self.student.parameters(), lr=rate * self.config.learning_rate, betas=(0.5, 0.999), fused=True
                    ),
                    losses=self.losses,
                    observe=lambda image: [image],
                    steps=part,
                    batch_size=self.config.batch_size,
                )

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """The collaborative loss of each scale, on images with synthetic anomalies that both networks see."""
        image, synthetic = white_noise_squares(observed[0])
        with torch.no_grad():
            pyramid = self.standardise(self.teacher(image))
        rebuilt = self.student(image)
        with torch.autocast(image.device.type, enabled=False):
            scales = self.discrepancies(pyramid, rebuilt)
            there = F.interpolate(synthetic[:, None].float(), scales[0].shape[1:], mode="nearest")[:, 0] > 0
            losses = [collaborative_loss(distance, there, self.config.gamma) for distance in scales]
        return {f"scale{i}": loss for i, loss in enumerate(losses)}

    def discrepancies(self, pyramid: Features, rebuilt: Features) -> Features:
        """The discrepancy of each scale on the finest grid, to which the features are enlarged: B x h x w each."""
        scales = []
        for i, (teacher, student) in enumerate(zip(pyramid, rebuilt, strict=True)):
            matrix = self.get_buffer(f"to_finest{i}")
            enlarged = [matrix @ features.float() @ matrix.T for features in (teacher, student)]
            scales.append(discrepancy(*enlarged))
        return scales

    def gaps(self, image: Tensor) -> Features:
        """The discrepancies of teacher and student: B x h x w per scale, all on the finest grid."""
        return self.discrepancies(self.standardise(self.teacher(image)), self.student(image))

    def forward(self, image: Tensor) -> AnomalyMap:
        """Sum of the discrepancies over scales, enlarged and smoothed; the score is the maximum.

        The maximum is ours; the rewritten code takes the mean of the largest hundredth.
        """
        return AnomalyMap.with_max_score(self.head([torch.stack(self.gaps(image)).sum(0)]))
