"""Methods trained by one process and by several, for tests that compare the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from blemish.assembly import build
from blemish.methods import Method, MethodConfig, find_method
from blemish.training import Trainer, TrainingImages, trainer
from blemish.training.processes import work_together
from tiny import settings_for, teacher


def gentle_config(method: type[Method]) -> MethodConfig:
    """Tiny, with steps a hundredth of the paper's or less: in longer ones rounding grows until it hides all else."""
    rates = {
        name: min(field.default / 100, 4e-4)
        for name, field in method.Config.model_fields.items()
        if name.endswith("learning_rate")
    }
    return method.Config.model_validate(settings_for(method) | rates)


def started(name: str) -> Method:
    """An untrained method, the same in every process."""
    method = find_method(name)
    config = gentle_config(method)
    return build(method, config, teacher(config.strides), 0)


@dataclass
class Curve:
    """A progress that keeps the losses."""

    losses: list[float]

    def __call__(self, stage: str, done: float, note: str = "") -> None:
        if note:
            self.losses.append(float(note.rpartition("loss ")[2]))


@dataclass(frozen=True)
class TrainAll:
    """Train methods one after the other; the last process tells of each its losses and what was learned.

    In float32: what bfloat16 rounds would hide what goes wrong.
    """

    names: tuple[str, ...]
    images: TrainingImages
    processes: int

    def __call__(self, rank: int, tell: Callable[[object], None]) -> None:
        trainer.mixed_precision = lambda _: "32-true"
        for name in self.names:
            method, curve = started(name), Curve([])
            Trainer("cpu", 0, None, curve, self.processes, rank).fit(method, self.images)
            if rank == self.processes - 1:
                tell((name, curve.losses, save(method.learned_state())))


Learned = tuple[list[float], Method]


def by_one(name: str, images: TrainingImages) -> Learned:
    """The losses and the trained method; the caller sees to float32."""
    method, curve = started(name), Curve([])
    Trainer("cpu", 0, None, curve).fit(method, images)
    return curve.losses, method


def by_several(names: tuple[str, ...], images: TrainingImages, processes: int) -> dict[str, Learned]:
    """The losses and the trained method, by name; one start of the processes for all of them."""
    found: dict[str, Learned] = {}

    def hear(message: Any) -> None:
        name, losses, state = message
        method = started(name)
        method.load_learned_state(load(state))
        found[name] = losses, method.eval()

    work_together(TrainAll(names, images, processes), processes, backend="gloo", threads=1, hear=hear)
    return found


def apart(got: Tensor, wanted: Tensor, untrained: Tensor) -> float:
    """How far two results of a training are apart, in parts of how far the training went."""
    return float(torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted - untrained))
