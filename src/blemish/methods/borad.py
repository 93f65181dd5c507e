"""BoRAD: bootstrap your own representations for multi-class anomaly detection."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from blemish.methods.base import Features, GradientStage, Stage, register
from blemish.methods.rd import RESNETS, ReverseDistillation
from blemish.nn.projector import Projector
from blemish.nn.prototypes import Alignment
from blemish.nn.reverse import Bottleneck
from blemish.teachers import FeaturePyramid


def two_views(pyramid: Features, masked: float) -> tuple[Features, Features]:
    """Two views of the same levels B x C x h x w: for every other batch, by chance, each with other locations at 0.

    Each location of each image, level and view is dropped with probability `masked`; the rest is not scaled up.
    """

    def view() -> Features:
        # On the CPU, so that every device draws the same.
        return [level * (torch.rand(len(level), 1, *level.shape[2:]) >= masked).to(level) for level in pyramid]

    if torch.rand(()).item() <= 0.5:
        return pyramid, pyramid
    return view(), view()


class Momentum(nn.Module):
    """Projectors that follow the learning ones slowly: theta <- a theta + (1 - a) online, a from 0.99 to 0.999.

    `done` counts the optimiser's steps, so that a continued run follows as one that was not killed.
    """

    done: Tensor

    def __init__(self, projectors: nn.ModuleList, steps: int) -> None:
        super().__init__()
        self.projectors = deepcopy(projectors).requires_grad_(False)
        self.steps = steps
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, projectors: nn.ModuleList) -> None:
        """Once before each step of the optimiser: take in what the step before it changed (nothing, at first)."""
        keep = 0.99 + 0.009 * min(self.done.item() / self.steps, 1)
        for own, online in zip(self.projectors.parameters(), projectors.parameters(), strict=True):
            own.lerp_(online, 1 - keep)
        self.done += 1


def project(projectors: nn.ModuleList, pyramid: Features) -> Features:
    """Each level through its projector; the same shapes."""
    return [projector(level) for projector, level in zip(projectors, pyramid, strict=True)]


@register("borad", "BoRAD, bootstrapped representations for one model of all (Hoang et al., arXiv 2606.14129)")
class BootstrappedRepresentations(ReverseDistillation):
    """Reverse distillation of many products by one model, without labels of which is which.

    Two views of an image's embedding are aligned through a bank of prototypes that all products share: at each
    location, so that the details of an anomaly are not copied, and as a whole as seen from each prototype, so that
    products are not confused. Bank and heads are there in training only.
    """

    class Config(ReverseDistillation.Config):
        """The published code, configuration for MVTec AD."""

        learning_rate: float = Field(default=0.005, gt=0, description="Adam, constant; published code")
        projector_learning_rate: float = Field(
            default=0.005, gt=0, description="Adam; published code. The fast preset takes that of RD++, 0.001"
        )
        epochs: int = Field(default=100, gt=0, description="whole passes over the training images; published code")
        prototypes: int = Field(default=7, gt=0, description="of each location; published code")
        masked: float = Field(default=0.5, ge=0, lt=1, description="share of locations dropped; published code")
        spatial: float = Field(default=1.0, ge=0, description="weight of the spatial alignment; published code")
        relative: float = Field(
            default=1.0, ge=0, description="weight of the prototype-relative alignment; published code"
        )
        clip: float = Field(default=5.0, gt=0, description="largest gradient norm of the network; published code")

        @model_validator(mode="after")
        def _several_locations(self) -> BootstrappedRepresentations.Config:
            if self.image_size < 4 * self.strides[-1]:
                raise ValueError(f"strides to {self.strides[-1]} need an image_size of {4 * self.strides[-1]} or more")
            return self

    config: Config
    fast: ClassVar = {"image_size": 128, "steps": 1000, "projector_learning_rate": 0.001}
    alignment: Alignment
    momentum: Momentum

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        # With the ResNets, thinner than RD4AD's and drawn as torch draws it. Others keep the bottleneck of `rd`.
        if self.shape in RESNETS.values():
            self.bottleneck = Bottleneck(teacher.info.channels, replace(self.shape, width=1 / 4))
        self.projectors = nn.ModuleList([Projector(channels) for channels in teacher.info.channels])
        self.locations = ((teacher.grids(config.image_size)[-1] + 1) // 2) ** 2

    def embed(self, pyramid: Features) -> Tensor:
        """The embedding of the projected `pyramid`."""
        return super().embed(project(self.projectors, pyramid))

    def stages(self, images: int) -> Iterator[Stage]:
        """Distil and align; for other teachers than ResNets what `rd` learns before and after it."""
        yield from self.statistics()
        steps = self.config.steps or self.config.epochs * -(-images // self.config.batch_size)
        device = self.teacher.mean.device
        embedding = 2 * self.teacher.info.channels[-1]
        self.alignment = Alignment(self.locations, self.config.prototypes, embedding).to(device)
        self.momentum = Momentum(self.projectors, steps)
        network = nn.ModuleList([self.projectors, self.bottleneck, self.student])
        groups: list[dict[str, Any]] = [
            {"params": [*self.bottleneck.parameters(), *self.student.parameters()], "betas": (0.8, 0.999)},
            {
                "params": self.projectors.parameters(),
                "betas": (0.8, 0.999),
                "lr": self.config.projector_learning_rate,
            },
            {"params": self.alignment.parameters(), "betas": (0.5, 0.999)},
        ]
        optimizer = torch.optim.Adam(groups, lr=self.config.learning_rate, fused=True)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(network.parameters(), self.config.clip)

        optimizer.register_step_pre_hook(clip)
        yield GradientStage(
            "distil",
            module=nn.ModuleList([network, self.alignment]),
            optimizer=optimizer,
            losses=self.losses,
            observe=self.pyramid,
            steps=steps,
            batch_size=self.config.batch_size,
        )
        del self.alignment, self.momentum
        yield from self.unexplained()

    def losses(self, pyramid: Features) -> dict[str, Tensor]:
        """L_cos against the unmasked pyramid, L_s and L_g."""
        self.momentum.follow(self.projectors)
        view, other = two_views(pyramid, self.config.masked)
        online = self.embed(view)
        with torch.no_grad():
            # Through the same bottleneck, as published: its batch statistics are those of both views.
            target = super().embed(project(self.momentum.projectors, other))
        rebuilt = self.student(online)
        with torch.autocast(online.device.type, enabled=False):
            return {
                "distillation": self.distillation(pyramid, rebuilt),
                "spatial alignment": self.config.spatial * self.alignment.spatial(online.float(), target.float()),
                "relative alignment": self.config.relative * self.alignment.relative(online.float(), target.float()),
            }
