"""RD++: revisiting reverse distillation for anomaly detection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from blemish.methods.base import Features, GradientStage, Stage, register
from blemish.methods.rd import ReverseDistillation
from blemish.nn.cosine import image_cosine
from blemish.nn.noise import add_in_rectangle, octaves
from blemish.nn.projector import Projector
from blemish.nn.remainder import local_distance
from blemish.nn.transport import sinkhorn_divergence
from blemish.teachers import FeaturePyramid


def with_noise(image: Tensor) -> Tensor:
    """The image, B x 3 x S x S in [0, 1], with simplex noise in one random rectangle: a made-up defect.

    At 256 pixels the sides are 10 to 31, the coarsest octave varies over 32; other sizes in proportion.
    """
    size = image.shape[-1]
    noise = octaves(len(image), size // 8 - 1, period=size / 8, octaves=6, persistence=0.6)
    return add_in_rectangle(image, 0.2 * noise, smallest=10 * size // 256)


def transport(projected: Features) -> Tensor:
    """L_SSOT: Sinkhorn divergence of the batch and the shuffled batch, summed over levels B x C x h x w.

    As in the published code, where each image is one point: its level as a softmax over all channels and locations.
    The order of points means nothing to the divergence, so this is 0, and so is its gradient.
    """
    order = torch.randperm(len(projected[0])).to(projected[0].device)
    clouds = [level.flatten(1).softmax(1) for level in projected]
    return sinkhorn_divergence([(points, points[order]) for points in clouds]).sum()


def reconstruction(wiped: Features, normal: Features) -> Tensor:
    """L_rec: the projected noised image should be like the projected image, at each location; summed over levels."""
    return torch.stack([local_distance(w, n).mean() for w, n in zip(wiped, normal, strict=True)]).sum()


def contrast(noised: Features, normal: Features) -> Tensor:
    """L_con: the projected image should not be like what the teacher sees in the noised one; summed over levels.

    What the cosine of the two, each one vector per image, has above a margin of 1/2.
    """
    cosines = [image_cosine(t, n) for t, n in zip(noised, normal, strict=True)]
    return (torch.stack(cosines) - 0.5).clamp(min=0).mean(1).sum()


@register("rd++", "RD++, reverse distillation revisited (Tien et al., CVPR 2023)")
class ReverseDistillationPlusPlus(ReverseDistillation):
    """Reverse distillation with a projector between each level of the teacher and the bottleneck.

    The projectors learn to keep what good parts have and to wipe out made-up defects. The student still rebuilds the
    teacher's own levels.
    """

    class Config(ReverseDistillation.Config):
        """The published code."""

        learning_rate: float = Field(default=0.005, gt=0, description="Adam, bottleneck and student; published code")
        projector_learning_rate: float = Field(default=0.001, gt=0, description="Adam; published code")
        projection: float = Field(default=0.2, ge=0, description="weight of the projectors' losses; published code")
        accumulate: int = Field(default=2, gt=0, description="batches per optimiser step; published code")
        epochs: int = Field(
            default=200, gt=0, description="ours: published code takes 10 to 300, chosen per class on test images"
        )

    config: Config
    fast: ClassVar = {"steps": 200, "accumulate": 1}

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        self.projectors = nn.ModuleList([Projector(channels) for channels in teacher.info.channels])

    def project(self, pyramid: Features) -> Features:
        """Each level through its projector; the same shapes."""
        return [project(level) for project, level in zip(self.projectors, pyramid, strict=True)]

    def embed(self, pyramid: Features) -> Tensor:
        """The embedding of the projected `pyramid`."""
        return super().embed(self.project(pyramid))

    def stages(self, images: int) -> Iterator[Stage]:
        """Distil and project; for other teachers than ResNets what `rd` learns before and after it."""
        yield from self.statistics()
        distilling = nn.ModuleList([self.bottleneck, self.student])
        groups: list[dict[str, Any]] = [
            {"params": distilling.parameters()},
            {"params": self.projectors.parameters(), "lr": self.config.projector_learning_rate},
        ]
        batches = -(-images // self.config.batch_size)
        yield GradientStage(
            "distil",
            module=nn.ModuleList([distilling, self.projectors]),
            optimizer=torch.optim.Adam(groups, lr=self.config.learning_rate, betas=(0.5, 0.999), fused=True),
            losses=self.losses,
            observe=lambda image: [image, *self.pyramid(image)],
            steps=self.config.steps or -(-self.config.epochs * batches // self.config.accumulate),
            batch_size=self.config.batch_size,
            accumulate=self.config.accumulate,
        )
        yield from self.unexplained()

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """From the image and the teacher's pyramid: L_distil + 0.2 (L_SSOT + 0.01 L_rec + 0.1 L_con) / 1.11."""
        image, *pyramid = observed
        # In float32, as what was observed of the image: else rounding alone would tell the two apart, everywhere.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            noised = self.pyramid(with_noise(image))
        projected = self.project(pyramid)
        rebuilt = self.student(super().embed(projected))
        normal = [level.float() for level in projected]
        wiped = [level.float() for level in self.project(noised)]
        weight = self.config.projection / 1.11
        return {
            "distillation": self.distillation(pyramid, rebuilt),
            "transport": weight * transport(normal),
            "reconstruction": weight * 0.01 * reconstruction(wiped, normal),
            "contrast": weight * 0.1 * contrast(noised, normal),
        }
