"""EfficientAD: accurate visual anomaly detection at millisecond-level latencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blemish.methods.base import AnomalyMap, Features, GradientStage, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.description import (
    CHANNELS,
    MARGIN,
    PatchTargets,
    Readout,
    autoencoder,
    initialise,
    patch_description_network,
)
from blemish.nn.moments import Moments
from blemish.nn.resampling import resize_matrix
from blemish.nn.textures import synthetic_textures
from blemish.teachers import FeaturePyramid


def hard_feature_loss(distance: Tensor) -> Tensor:
    """Mean of the values at or above the 0.999 quantile of each image's own: B x C x h x w -> one number.

    Counted off by size, since `torch.quantile` takes at most 16 million values, and all images in one go.
    """
    values = distance.flatten(1)
    hard = values.shape[1] - math.ceil(0.999 * (values.shape[1] - 1))
    return values.topk(hard, dim=1, sorted=False).values.mean()


def jitter(image: Tensor) -> Tensor:
    """Brightness, contrast or saturation of each image, one of them, changed by a factor of 0.8 to 1.2."""
    count = len(image)
    grey = (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    bases = torch.stack([torch.zeros_like(grey), grey.mean((2, 3), keepdim=True).expand_as(grey), grey])
    base = bases[torch.randint(3, (count,)), torch.arange(count)]
    factor = (0.8 + 0.4 * torch.rand(count, 1, 1, 1)).to(image)
    return (base + factor * (image - base)).clamp(0, 1)


def slower_at_the_end(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """A tenth of the learning rate for the last 5 % of `steps` (paper, algorithm 1).

    The step is read from the optimiser's own state, so that a continued run has the same schedule.
    """
    rates = [group["lr"] for group in optimizer.param_groups]

    def set_rate(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        done = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate / 10 if done >= int(0.95 * steps) else rate

    optimizer.register_step_pre_hook(set_rate)


PATCHES = 25_000
"""Of the training images, from which the PDN's last layer is fitted, and as many of textures."""


@register("efficientad", "EfficientAD (Batzner et al., WACV 2024, arXiv 2303.14535)")
class EfficientAD(Method):
    """A small network describes patches, a student imitates it on good images; an autoencoder sees the whole image.

    Where the student fails to imitate, a patch is wrong; where it disagrees with the autoencoder, the arrangement is.
    The describing network (PDN) is the paper's teacher. The paper distils it from a WideResNet-101 on ImageNet; ours is
    distilled from Blemish's feature pyramid on the training images and as many synthetic textures, and the same
    textures stand for the paper's ImageNet images in the penalty. The pyramid is not needed after training.
    """

    class Config(MethodConfig):
        """Algorithm 1 of the paper and the unofficial code that repeats its figures (nelson1425/EfficientAd)."""

        strides: tuple[int, ...] = Field(
            default=(8, 16), min_length=1, description="levels that the PDN learns; paper: layers 2 and 3"
        )
        size: Literal["S", "M"] = Field(default="S", description="EfficientAD-S or -M")
        learning_rate: float = Field(
            default=1e-4, gt=0, description="Adam, a tenth for the last 5 % of the steps; paper"
        )
        weight_decay: float = Field(default=1e-5, ge=0, description="Adam's; paper")
        batch_size: int = Field(default=1, gt=0, description="paper")
        steps: int = Field(default=70_000, gt=0, description="of student and autoencoder; paper")
        description_steps: int | None = Field(
            default=None, ge=0, description="ours: of the PDN after its least-squares start; None is as many as `steps`"
        )

    fast: ClassVar = {
        "image_size": 128,
        "steps": 150,
        "description_steps": 0,
        "batch_size": 2,
        "learning_rate": 1e-3,
    }

    enlarge: Tensor
    mean: Tensor
    deviation: Tensor
    quantiles: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        self.config = config
        steps = config.image_size // 4
        enlarge = resize_matrix(torch.ones(steps), torch.ones(config.image_size))[:, MARGIN:-MARGIN]
        self.register_buffer("enlarge", enlarge.contiguous(), persistent=False)
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("deviation", torch.ones(1, CHANNELS, 1, 1))
        self.register_buffer("quantiles", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.targets = PatchTargets(teacher.grids(config.image_size), teacher.info.channels, steps)
        self.pdn = patch_description_network(config.size, CHANNELS)
        self.student = patch_description_network(config.size, 2 * CHANNELS)
        self.autoencoder = autoencoder(config.image_size)
        for network in (self.pdn, self.student, self.autoencoder):
            initialise(network)

    def stages(self, images: int) -> Iterator[Stage]:
        """Make the PDN and standardise its channels; train student and autoencoder and scale their maps."""
        config = self.config
        yield self._learn_targets()
        yield self._learn_readout(max(1, PATCHES // images))
        steps = config.steps if config.description_steps is None else config.description_steps
        if steps:
            yield self._descend("patch description", self.pdn, steps, self._see_pyramid, self.description_losses)
        moments = Moments()

        def standardise(*_: object) -> None:
            self.mean.copy_(moments.mean.view(1, -1, 1, 1))
            self.deviation.copy_(moments.deviation.clamp(min=1e-6).view(1, -1, 1, 1))

        yield PassStage("channel statistics", lambda image: moments.add(self.pdn(self.centred(image))), standardise)
        trained = nn.ModuleList([self.student, self.autoencoder])
        yield self._descend("student", trained, config.steps, self._see_description, self.losses)
        maps: list[tuple[Tensor, Tensor]] = []

        def scale(*_: object) -> None:
            for i, of_all_images in enumerate(zip(*maps, strict=True)):
                values = torch.cat(of_all_images).cpu().numpy()
                self.quantiles[i] = torch.from_numpy(np.quantile(values, (0.9, 0.995)))

        # The paper holds a tenth of the images out for this. On the images just learned, both maps are smaller than on
        # new ones; only their proportion counts, since the threshold comes from images that Blemish holds out.
        yield PassStage("map statistics", lambda image: maps.append(self.maps(image)), scale)

    def _descend(
        self,
        name: str,
        module: nn.Module,
        steps: int,
        observe: Callable[[Tensor], Features],
        losses: Callable[[Features], dict[str, Tensor]],
    ) -> GradientStage:
        config = self.config
        optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        slower_at_the_end(optimizer, steps)
        return GradientStage(name, module, optimizer, losses, observe, steps, config.batch_size)

    def centred(self, image: Tensor) -> Tensor:
        """The image as the teacher's pyramid takes it."""
        return (image - self.teacher.mean) / self.teacher.std

    # The PDN, which is ours in what it learns from.

    def _learn_targets(self) -> PassStage:
        def collect(image: Tensor) -> None:
            textures = synthetic_textures(len(image), self.config.image_size, image.device)
            self.targets.add(self.teacher(torch.cat([image, textures])))

        return PassStage("targets", collect, lambda generator, _: self.targets.learn(generator))

    def _learn_readout(self, patches: int) -> PassStage:
        """The PDN's last layer by least squares, from images and as many textures."""
        readout = Readout(self.pdn)

        def collect(image: Tensor) -> None:
            both = torch.cat([image, synthetic_textures(len(image), self.config.image_size, image.device)])
            readout.add(self.centred(both), self.targets(self.teacher(both)), patches)

        return PassStage("readout", collect, lambda *_: readout.solve())

    def _see_pyramid(self, image: Tensor) -> Features:
        return [image, *self.teacher(image)]

    def description_losses(self, observed: Features) -> dict[str, Tensor]:
        """Squared distance of the PDN to the projected pyramid, on the images and as many new textures."""
        image, *pyramid = observed
        textures = synthetic_textures(len(image), self.config.image_size, image.device)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            target = torch.cat([self.targets(pyramid), self.targets(self.teacher(textures))])
        described = self.pdn(self.centred(torch.cat([image, textures]))).float()
        return {"description": (target - described).square().mean()}

    # Student and autoencoder, which are the paper's.

    def described(self, image: Tensor) -> Tensor:
        """The PDN's output, each channel standardised over the training images."""
        described: Tensor = self.pdn(self.centred(image)).float()
        return (described - self.mean) / self.deviation

    def _see_description(self, image: Tensor) -> Features:
        return [image, self.described(image)]

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """Algorithm 1: hard features, penalty, autoencoder, and the student's second half after the autoencoder."""
        image, described = observed
        textures = synthetic_textures(len(image), self.config.image_size, image.device)
        changed = jitter(image)
        with torch.no_grad():
            described_changed = self.described(changed)
        imitated, _ = self.student(self.centred(image)).float().chunk(2, 1)
        outside, _ = self.student(self.centred(textures)).float().chunk(2, 1)
        _, predicted = self.student(self.centred(changed)).float().chunk(2, 1)
        rebuilt = self.autoencoder(self.centred(changed)).float()
        return {
            "hard features": hard_feature_loss((described - imitated).square()),
            "penalty": outside.square().mean(),
            "autoencoder": (described_changed - rebuilt).square().mean(),
            "student of autoencoder": (rebuilt - predicted).square().mean(),
        }

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared distance over channels, of the student to the PDN and to the autoencoder."""
        imitated, predicted = self.student(self.centred(image)).chunk(2, 1)
        local = (self.described(image) - imitated).square().mean(1)
        arrangement = (self.autoencoder(self.centred(image)) - predicted).square().mean(1)
        return local, arrangement

    def gaps(self, image: Tensor) -> Features:
        """Mean squared distance of student and PDN; beyond the PDN's border, that of the nearest location."""
        local, _ = self.maps(image)
        return [F.pad(local[:, None], [MARGIN] * 4, mode="replicate")[:, 0]]

    def forward(self, image: Tensor) -> AnomalyMap:
        """Mean of both maps, each 0 at its 0.9 quantile and 0.1 at its 0.995; 0 at the border; score is the maximum."""
        pairs = zip(self.maps(image), self.quantiles, strict=True)
        fused = torch.stack([0.1 * (each - low) / (high - low) for each, (low, high) in pairs]).mean(0)
        return AnomalyMap.with_max_score(self.enlarge @ fused @ self.enlarge.T)
