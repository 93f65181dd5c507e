"""What a method is: a torch module that says what it learns, in stages, and how it maps an image.

The trainer does the rest (devices, checkpoints, resume, progress), and the exporter turns `forward` into the graph
that every prediction runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from blemish.errors import ModelFileError
from blemish.teachers import FeaturePyramid, open_teacher

Features = list[Tensor]


class AnomalyMap(NamedTuple):
    """A method's answer: `map`, B x S x S, and `score`, B; both grow with how abnormal the image is."""

    map: Tensor
    score: Tensor

    @classmethod
    def with_max_score(cls, anomaly_map: Tensor) -> AnomalyMap:
        """The score of an image is the largest value of its map."""
        return cls(anomaly_map, anomaly_map.amax((-2, -1)))


class MethodConfig(BaseModel):
    """Hyper-parameters of a method; the defaults are the paper's, each field's description says where from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(
        default=256, ge=64, le=1024, multiple_of=32, description="side of the square the network sees"
    )
    strides: tuple[int, ...] = Field(
        default=(4, 8, 16), min_length=1, description="the teacher's levels, finest first: pixels of the image per step"
    )

    @field_validator("strides")
    @classmethod
    def _finest_first(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        if any(fine >= coarse for fine, coarse in pairwise(strides)):
            raise ValueError("strides must grow, such as [8, 16]")
        return strides


@dataclass(frozen=True)
class GradientStage:
    """Learning by gradient steps.

    losses : from what `observe` gave for a batch (device and batch as the trainer chose) to named scalar losses,
        which are added.
    module : what is put into training mode; all its parameters belong to `optimizer`.
    steps : optimiser steps in all.
    accumulate : batches per optimiser step; their gradients are added, not averaged.
    warm_up : first steps, over which the learning rate rises linearly from 1/warm_up of itself.
    clip : largest norm of the whole gradient; a longer one is shortened to it.
    observe : image batch B x 3 x S x S in [0, 1] -> the tensors that `losses` takes; it must not depend on anything
        that is being trained, so that the trainer may compute it once per image and keep it.
    known : what is known of the training images without looking, a row for each; the rows of a batch follow what was
        observed of it.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Callable[[Features], dict[str, Tensor]]
    observe: Callable[[Tensor], Features]
    steps: int
    batch_size: int
    accumulate: int = 1
    known: tuple[Tensor, ...] = ()
    warm_up: int = 0
    clip: float | None = None


@dataclass(frozen=True)
class PassStage:
    """Learning by one look at every training image: a memory bank, a Gaussian, a mean.

    collect : called once per batch (B x 3 x S x S in [0, 1]), in the order of the training images.
    finish : called once, after the last batch, with a generator seeded for this stage. May take long; it reports
        its progress through the callback it is given, a fraction in [0, 1].
    """

    name: str
    collect: Callable[[Tensor], None]
    finish: Callable[[torch.Generator, Callable[[float], None]], None]
    batch_size: int = 16


Stage = GradientStage | PassStage


class Method(nn.Module):
    """Base of all methods. A subclass has `Config`, `stages` and `forward`.

    Attributes
    ----------
    config, teacher : what it was made with.
    name : as on the command line; title : the paper's name and source.
    extendable : True where a trained method, trained again on other images, adds them to what it knows.
    fast : what the fast preset changes in the config.
    cheap_to_fit : True where fitting takes about one look at the images, so that it can be done once per fold.
    only_for_training : how the names begin of what was learned and the map does not need.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    cheap_to_fit: ClassVar[bool] = False
    only_for_training: ClassVar[tuple[str, ...]] = ()
    extendable: ClassVar[bool] = False
    fast: ClassVar[dict[str, Any]] = {}
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    config: MethodConfig
    teacher: FeaturePyramid

    def __init__(self, config: MethodConfig, teacher: FeaturePyramid) -> None:
        super().__init__()
        self.config = config
        self.teacher = teacher

    @classmethod
    def open_teacher(cls, name: str, config: MethodConfig, weights: str | os.PathLike[str] | None) -> FeaturePyramid:
        """Teacher `name` with the levels that `config` asks for; raises what `blemish.teachers.open_teacher` does."""
        return open_teacher(name, strides=config.strides, weights=weights)

    def stages(self, images: int) -> Iterator[Stage]:
        """What training does, in order, with `images` training images."""
        raise TypeError(f"{type(self).__name__} says nothing of its stages")

    def forward(self, image: Tensor) -> AnomalyMap:
        """Float image batch B x 3 x S x S in [0, 1] -> anomaly map B x S x S and score B."""
        raise TypeError(f"{type(self).__name__} says nothing of its map")

    def learned_state(self) -> dict[str, Tensor]:
        """Everything training produced: parameters and buffers, without the teacher's."""
        return {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith("teacher.")
        }

    def detector_state(self) -> dict[str, Tensor]:
        """What the map needs of `learned_state`."""
        return {n: tensor for n, tensor in self.learned_state().items() if not n.startswith(self.only_for_training)}

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Take the state of `learned_state` or `detector_state`.

        A buffer that grew in training (a memory bank) takes its saved shape.

        Raises
        ------
        ModelFileError
            If names or shapes of parameters do not fit this method and config.
        """
        for name, buffer in list(self.named_buffers()):
            if name in state and not name.startswith("teacher.") and buffer.shape != state[name].shape:
                owner, _, leaf = name.rpartition(".")
                self.get_submodule(owner).register_buffer(leaf, torch.empty_like(state[name], device=buffer.device))
        try:
            missing, unexpected = self.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ModelFileError(f"the weights do not fit method {self.name}: {error}") from error
        missing = [name for name in missing if not name.startswith(("teacher.", *self.only_for_training))]
        if missing or unexpected:
            raise ModelFileError(f"the weights do not fit method {self.name}: {(missing + unexpected)[0]}")


@runtime_checkable
class NamesSuspects(Protocol):
    """A method that says of the images it has, just after training, how suspicious they are."""

    def suspicion(self, image: Tensor, number: Tensor) -> AnomalyMap:
        """Float image batch B x 3 x S x S in [0, 1] -> map B x S x S and score B, positive, growing with suspicion.

        number : B, integers: an image's number in the order of the training images; images that training did not have
            are numbered on from there. The scores of both must compare.
        """


@runtime_checkable
class TeacherStudent(Protocol):
    """A method in which a student imitates a teacher, and which shows where it fails to."""

    def gaps(self, image: Tensor) -> Features:
        """Image batch as for `forward` -> how far student and teacher are apart, B x h x w per scale, at least 0.

        Unsmoothed; the cells of a scale divide the image evenly.
        """


@runtime_checkable
class Embeds(Protocol):
    """A method that makes a compact embedding of an image."""

    def embedding(self, image: Tensor) -> Tensor:
        """Image batch as for `forward` -> B x C x h x w."""


REGISTRY: dict[str, type[Method]] = {}


def register(name: str, title: str) -> Callable[[type[Method]], type[Method]]:
    """Class decorator: make a method known under `name`."""

    def add(method: type[Method]) -> type[Method]:
        method.name, method.title = name, title
        REGISTRY[name] = method
        return method

    return add
