"""How a patch description network (PDN) learns from a teacher; EfficientAD stands on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_serializer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from blemish.errors import ModelFileError, UsageError
from blemish.methods.base import Features, GradientStage, Method, MethodConfig, PassStage, Stage
from blemish.nn.description import CHANNELS, PatchTargets, Readout, initialise, patch_description_network
from blemish.nn.textures import TextureFolder, synthetic_textures
from blemish.teachers import FeaturePyramid

PATCHES = 25_000
"""Of the training images, from which the PDN's last layer is fitted, and as many of textures."""


def slower_at_the_end(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """A tenth of the learning rate for the last 5 % of `steps` (EfficientAD, algorithm 1).

    The step is read from the optimiser's own state, so that a continued run has the same schedule.
    """
    rates = [group["lr"] for group in optimizer.param_groups]

    def set_rate(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        done = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate / 10 if done >= int(0.95 * steps) else rate

    optimizer.register_step_pre_hook(set_rate)


class DescribingConfig(MethodConfig):
    """EfficientAD's paper, as far as its PDN goes."""

    strides: tuple[int, ...] = Field(
        default=(8, 16), min_length=1, description="levels that the PDN learns; paper: layers 2 and 3"
    )
    size: Literal["S", "M"] = Field(default="S", description="EfficientAD-S or -M")
    learning_rate: float = Field(default=1e-4, gt=0, description="Adam, a tenth for the last 5 % of the steps; paper")
    weight_decay: float = Field(default=1e-5, ge=0, description="Adam's; paper")
    batch_size: int = Field(default=16, gt=0, description="paper, for the PDN")
    steps: int = Field(default=60_000, gt=0, description="paper, for the PDN")
    textures: Path | None = Field(
        default=None, description="folder of images of other things, paper: ImageNet; None is made-up textures (ours)"
    )

    @field_serializer("textures")
    def _name_only(self, textures: Path | None) -> str | None:
        # A model file does not say where on a machine something lay.
        return textures.name if textures else None


class Describing(Method):
    """A PDN that learns to say of a patch of 33 x 33 pixels what a teacher's pyramid says of it.

    It learns from images and as many textures of other things. The last layer starts from least squares (ours).
    """

    config: DescribingConfig

    def __init__(self, config: DescribingConfig, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        self.targets = PatchTargets(
            teacher.grids(config.image_size), teacher.info.channels, steps=config.image_size // 4
        )
        self.pdn = patch_description_network(config.size, CHANNELS)
        initialise(self.pdn)
        self.draw_textures: Callable[[int, int, torch.device], Tensor] = synthetic_textures

    def stages(self, images: int) -> Iterator[Stage]:
        """The targets, the last layer, the rest."""
        self.take_textures()
        yield from self.learn_to_describe(images, self.config.steps)

    def take_textures(self) -> None:
        """Draw textures from the folder that the config names, if it names one."""
        if self.config.textures:
            self.draw_textures = TextureFolder(self.config.textures).draw

    def learn_to_describe(self, images: int, steps: int) -> Iterator[Stage]:
        """The stages after which the PDN describes patches as the teacher does."""
        yield self._learn_targets()
        yield self._learn_readout(max(1, PATCHES // images))
        if steps:
            yield self.descend("patch description", self.pdn, steps, self._see_pyramid, self.description_losses)

    def descend(
        self,
        name: str,
        module: nn.Module,
        steps: int,
        observe: Callable[[Tensor], Features],
        losses: Callable[[Features], dict[str, Tensor]],
    ) -> GradientStage:
        """A stage that trains `module` by Adam on the paper's schedule."""
        config = self.config
        optimizer = torch.optim.Adam(
            module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        slower_at_the_end(optimizer, steps)
        return GradientStage(name, module, optimizer, losses, observe, steps, config.batch_size)

    def centred(self, image: Tensor) -> Tensor:
        """The image as the teacher's pyramid takes it."""
        return (image - self.teacher.mean) / self.teacher.std

    def _learn_targets(self) -> PassStage:
        def collect(image: Tensor) -> None:
            textures = self.textures(image)
            self.targets.add(self.teacher(torch.cat([image, textures])))

        return PassStage("targets", collect, lambda generator, _: self.targets.learn(generator))

    def _learn_readout(self, patches: int) -> PassStage:
        """The PDN's last layer by least squares, from images and as many textures."""
        readout = Readout(self.pdn)

        def collect(image: Tensor) -> None:
            both = torch.cat([image, self.textures(image)])
            readout.add(self.centred(both), self.targets(self.teacher(both)), patches)

        return PassStage("readout", collect, lambda *_: readout.solve())

    def _see_pyramid(self, image: Tensor) -> Features:
        return [image, *self.teacher(image)]

    def description_losses(self, observed: Features) -> dict[str, Tensor]:
        """Squared distance of the PDN to the projected pyramid, on the images and as many new textures."""
        image, *pyramid = observed
        textures = self.textures(image)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            target = torch.cat([self.targets(pyramid), self.targets(self.teacher(textures))])
        described = self.pdn(self.centred(torch.cat([image, textures]))).float()
        return {"description": (target - described).square().mean()}

    def textures(self, like: Tensor) -> Tensor:
        """Images of something else, as many and as large as `like`."""
        return self.draw_textures(len(like), self.config.image_size, like.device)


def read_pdn(path: Path, sha256: str, size: str, teacher: str) -> dict[str, Tensor]:
    """The weights of a file that `blemish teachers distill` wrote.

    Raises
    ------
    ModelFileError
        It is another file than `sha256` says, damaged, or holds no PDN of this size that learned from this teacher.
    """
    if sha256_of(path) != sha256:
        raise ModelFileError("it is not the PDN that the training began with: the sha256 differs", where=path)
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads((file.metadata() or {}).get("blemish.pdn", "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ModelFileError("it is no .safetensors file, or it is damaged", where=path) from error
    for what, wanted in (("size", size), ("teacher", teacher)):
        if stated.get(what) != wanted:
            raise ModelFileError(
                f"it holds no PDN of {what} {wanted}" + (f" but of {stated[what]}" if what in stated else ""),
                where=path,
                todo=f"blemish teachers distill --from {teacher} --size {size} makes one",
            )
    return weights


def sha256_of(path: Path) -> str:
    """The sha256 of a file.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=path) from error
