"""RD4AD: anomaly detection via reverse distillation from one-class embedding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.methods.base import AnomalyMap, Features, GradientStage, MethodConfig, PassStage, Stage, register
from blemish.methods.matching import FeatureMatching
from blemish.modelfile import TeacherInfo
from blemish.nn.cosine import image_cosine
from blemish.nn.remainder import Remainder, distances
from blemish.nn.resampling import MapHead
from blemish.nn.reverse import Bottleneck, Decoder, StudentShape, initialise
from blemish.teachers import FeaturePyramid

RESNETS = {
    "resnet18": StudentShape("basic", 1, 2, (2, 2, 2), signed=False),
    "resnet34": StudentShape("basic", 1, 3, (3, 4, 6), signed=False),
    "resnet50": StudentShape("bottleneck", 1 / 4, 3, (3, 4, 6), signed=False),
    "wide_resnet50_2": StudentShape("bottleneck", 1 / 2, 3, (3, 4, 6), signed=False),
}
"""The students of the published code, by teacher."""


def student_shape(teacher: TeacherInfo) -> StudentShape:
    """The published student of a ResNet; for every other teacher, ours: ResNet-18's blocks at the teacher's widths, as
    many stages as it has levels, and outputs that may be negative.

    Raises
    ------
    UsageError
        The published students rebuild three levels.
    """
    levels = len(teacher.channels)
    shape = RESNETS.get(teacher.backbone.partition(".")[0], StudentShape("basic", 1, 2, (2,) * levels, signed=True))
    if levels != len(shape.decoder_blocks):
        raise UsageError(
            f"the student for {teacher.name} rebuilds three levels, not {levels}", todo="Set three strides"
        )
    return shape


def image_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cosine of the two maps B x C x h x w, each flattened to one vector per image; mean over the batch.

    The published code's loss; the paper's equation averages the cosine over locations instead.
    """
    return (1 - image_cosine(teacher, student)).mean()


@register("rd", "Reverse distillation from one-class embedding (Deng and Li, CVPR 2022, arXiv 2201.10703)")
class ReverseDistillation(FeatureMatching):
    """The teacher encodes the image; the student decodes the teacher's pyramid from a compact embedding of it.

    The embedding has no room for the details of an anomaly, so where teacher and student differ, something is wrong.

    Ours: outside the ResNets, whose features are standardised there, the map allows for what the student leaves
    unexplained of the training images. A standardised feature vector that is shorter than that is ordinary, and its
    direction is chance; a plain cosine would see nothing else.
    """

    class Config(MethodConfig):
        """Section 4.1 and the published code."""

        learning_rate: float = Field(default=0.005, gt=0, description="Adam; paper section 4.1")
        batch_size: int = Field(default=16, gt=0, description="paper section 4.1")
        epochs: int = Field(default=200, gt=0, description="paper section 4.1; whole passes over the training images")
        steps: int | None = Field(default=None, gt=0, description="optimiser steps instead of epochs")
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; published code")

        @field_validator("strides")
        @classmethod
        def _doubling(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
            if any(2 * fine != coarse for fine, coarse in pairwise(strides)):
                raise ValueError("reverse distillation needs each level to be half the size of the one before")
            return strides

    config: Config
    fast: ClassVar = {"steps": 300}

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        channels = teacher.info.channels
        self.shape = student_shape(teacher.info)
        self.bottleneck = Bottleneck(channels, self.shape)
        self.student = Decoder(channels, self.shape)
        initialise(self.bottleneck)
        initialise(self.student)
        self.remainder = None if self.standardise is None else Remainder(len(channels))
        self.head = MapHead(teacher.grids(config.image_size), config.image_size, config.sigma, align_corners=True)

    def embed(self, pyramid: Features) -> Tensor:
        """The embedding of `pyramid`, B x C x h x w, half the deepest grid."""
        embedding: Tensor = self.bottleneck(pyramid)
        return embedding

    def rebuild(self, pyramid: Features) -> Features:
        """What the student makes of the embedding of `pyramid`; the same shapes."""
        rebuilt: Features = self.student(self.embed(pyramid))
        return rebuilt

    def stages(self, images: int) -> Iterator[Stage]:
        """Distil; for teachers outside the ResNets learn the channels' mean and deviation before it, and after it
        what the student leaves unexplained.
        """
        yield from self.statistics()
        yield self.distil([self.bottleneck, self.student], images)
        yield from self.unexplained()

    def distil(self, networks: list[nn.Module], images: int, known: tuple[Tensor, ...] = ()) -> GradientStage:
        """The stage that trains `networks` on `images` images by `losses`."""
        trained = nn.ModuleList(networks)
        batches = -(-images // self.config.batch_size)
        return GradientStage(
            "distil",
            module=trained,
            optimizer=torch.optim.Adam(
                trained.parameters(), lr=self.config.learning_rate, betas=(0.5, 0.999), fused=True
            ),
            losses=self.losses,
            observe=self.pyramid,
            steps=self.config.steps or self.config.epochs * batches,
            batch_size=self.config.batch_size,
            known=known,
        )

    def unexplained(self) -> Iterator[Stage]:
        """The stage that measures what the student leaves unexplained, where the map allows for it."""
        if (remainder := self.remainder) is not None:

            def collect(image: Tensor) -> None:
                pyramid = self.pyramid(image)
                remainder.add(pyramid, self.rebuild(pyramid))

            yield PassStage("what the student leaves", collect, lambda *_: remainder.learn())

    def losses(self, pyramid: Features) -> dict[str, Tensor]:
        """Distance of the rebuilt pyramid to the teacher's, summed over scales (eq. 2 as in the published code)."""
        return {"distillation": self.distillation(pyramid, self.rebuild(pyramid))}

    def distillation(self, pyramid: Features, rebuilt: Features) -> Tensor:
        """Distance of a rebuilt pyramid to the teacher's, summed over scales."""
        scales = zip(pyramid, rebuilt, strict=True)
        return torch.stack([image_distance(t, s) for t, s in scales]).sum()

    def gaps(self, image: Tensor) -> Features:
        """The local distances of teacher and student (eq. 1): B x h x w per scale."""
        pyramid = self.pyramid(image)
        return distances(pyramid, self.rebuild(pyramid), self.remainder)

    def embedding(self, image: Tensor) -> Tensor:
        """The embedding of the image, B x C x h x w."""
        return self.embed(self.pyramid(image))

    def forward(self, image: Tensor) -> AnomalyMap:
        """Sum over scales of the local distances, smoothed (eq. 3); the score is the maximum."""
        return AnomalyMap.with_max_score(self.head(self.gaps(image)))
