"""What the methods share in which a student learns to give the teacher's feature pyramid."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from blemish.methods.base import Features, Method, MethodConfig, PassStage, Stage
from blemish.nn.moments import Moments, Standardise
from blemish.teachers import FeaturePyramid

AS_THEY_ARE = frozenset({"resnet18", "resnet34", "resnet50", "wide_resnet50_2"})
"""The papers' teachers, whose features are taken as they are."""


class FeatureMatching(Method):
    """A method that compares the directions of teacher's and student's feature vectors.

    Ours: outside the ResNets each channel of the teacher is standardised over the training images. Channels of very
    different size, as networks without a final activation have, would leave the direction to the few largest.
    """

    def __init__(self, config: MethodConfig, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        plain = teacher.info.backbone.partition(".")[0] in AS_THEY_ARE
        self.standardise = None if plain else Standardise(teacher.info.channels)

    def pyramid(self, image: Tensor) -> Features:
        """The teacher's pyramid, which the student is to give."""
        levels: Features = self.teacher(image)
        if self.standardise is not None:
            levels = self.standardise(levels)
        return levels

    def statistics(self) -> Iterator[Stage]:
        """The stage that learns the channels' mean and deviation, where they are needed."""
        if self.standardise is not None:
            moments = [Moments() for _ in self.teacher.info.channels]
            learn = self.standardise.learn
            yield PassStage("channel statistics", partial(self._collect, moments), lambda *_: learn(moments))

    def _collect(self, moments: list[Moments], image: Tensor) -> None:
        for level, features in zip(moments, self.teacher(image), strict=True):
            level.add(features)
