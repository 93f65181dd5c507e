"""STPM: student-teacher feature pyramid matching for anomaly detection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from blemish.methods.base import AnomalyMap, Features, GradientStage, MethodConfig, Stage, register
from blemish.methods.matching import FeatureMatching
from blemish.nn.resampling import MapHead
from blemish.teachers import FeaturePyramid


def unit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Half the squared distance of unit vectors at each location: B x C x h x w twice -> B x h x w, in [0, 2].

    It equals 1 - cosine, but does not lose its digits where the two are close, which a product of maps would show.
    """
    return 0.5 * (F.normalize(teacher) - F.normalize(student)).square().sum(1)


@register("stpm", "Student-teacher feature pyramid matching (Wang et al., BMVC 2021, arXiv 2103.04257)")
class StudentTeacherPyramid(FeatureMatching):
    """A student of the teacher's architecture, untrained at first, learns the teacher's pyramid on good images only.

    Where the two differ at every scale, the student has never seen anything like it.
    """

    class Config(MethodConfig):
        """Section 4.1 of the paper."""

        learning_rate: float = Field(default=0.4, gt=0, description="SGD; paper section 4.1")
        momentum: float = Field(default=0.9, ge=0, lt=1, description="paper section 4.1")
        weight_decay: float = Field(default=1e-4, ge=0, description="paper section 4.1")
        batch_size: int = Field(default=32, gt=0, description="paper section 4.1")
        epochs: int = Field(default=100, gt=0, description="paper section 4.1; whole passes over the training images")
        steps: int | None = Field(default=None, gt=0, description="optimiser steps instead of epochs")

    config: Config
    fast: ClassVar = {"steps": 200, "batch_size": 16}

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        self.student = teacher.untrained_copy()
        self.head = MapHead(teacher.grids(config.image_size), config.image_size, 0, align_corners=False)

    def stages(self, images: int) -> Iterator[Stage]:
        """Distil; before it, for teachers outside the ResNets, learn the channels' mean and deviation."""
        yield from self.statistics()
        batches = -(-images // self.config.batch_size)
        optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=self.config.learning_rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        yield GradientStage(
            "distil",
            module=self.student,
            optimizer=optimizer,
            losses=self.losses,
            observe=lambda image: [image, *self.pyramid(image)],
            steps=self.config.steps or self.config.epochs * batches,
            batch_size=self.config.batch_size,
        )

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """From the image and the teacher's pyramid: distance, mean over locations, summed over scales.

        With the paper's factor 1/2, which the published code leaves out.
        """
        image, *pyramid = observed
        # In float32: the student is to come closer than bfloat16 can tell, and the gradient of the depthwise
        # convolutions of small networks takes a CPU twice as long in bfloat16.
        with torch.autocast(image.device.type, enabled=False):
            scales = zip(pyramid, self.student(image), strict=True)
            return {"distillation": torch.stack([unit_distance(t, s).mean() for t, s in scales]).sum()}

    def gaps(self, image: Tensor) -> Features:
        """The distances of teacher and student: B x h x w per scale."""
        return [unit_distance(t, s) for t, s in zip(self.pyramid(image), self.student(image), strict=True)]

    def forward(self, image: Tensor) -> AnomalyMap:
        """Product over scales of the distances, enlarged; the score is the maximum."""
        return AnomalyMap.with_max_score(self.head.enlarge(self.gaps(image)).prod(0))
