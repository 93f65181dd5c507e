"""Runs the stages of a method on Lightning Fabric.

Every random draw is a function of (seed, stage, batch): a run that was killed and continued makes the same draws as
one that was not, so the state on disk is weights, optimiser and a step number, and the result is the same bytes.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from safetensors.torch import load, save
from torch import Tensor

from blemish.cores import usable_cores
from blemish.errors import TrainingError, UsageError
from blemish.methods import Features, GradientStage, Method, PassStage, Stage
from blemish.nn.sharing import Share, add_up_gradients, gather, networks_of, shared
from blemish.training.checkpoint import RunFolder, SavedState
from blemish.training.images import TrainingImages
from blemish.training.processes import work_together

CHECKPOINT_SECONDS = 20.0
OBSERVED_BYTES_LIMIT = 2 * 2**30


class Progress(Protocol):
    """Told how far a stage is: `done` in [0, 1]; `note` says what is worth saying (a loss)."""

    def __call__(self, stage: str, done: float, note: str = "") -> None:
        """Called often; must be cheap."""


Told = tuple[str, float, str]


@dataclass(frozen=True)
class Part:
    """What one of several processes does of a training."""

    device: str
    seed: int
    folder: RunFolder | None
    devices: int
    checkpoint_seconds: float
    method: Method
    images: TrainingImages

    def __call__(self, rank: int, tell: Callable[[object], None]) -> None:
        """Train with the others; the first process tells how far it is and at last what was learned."""

        def progress(stage: str, done: float, note: str = "") -> None:
            if rank == 0:
                tell((stage, done, note))

        trainer = Trainer(self.device, self.seed, self.folder, progress, self.devices, rank)
        trainer.checkpoint_seconds = self.checkpoint_seconds
        trainer.fit(self.method, self.images)
        if rank == 0:
            tell(save(self.method.learned_state()))


class Trainer:
    """Trains a method.

    Parameters
    ----------
    device : "auto", "cpu" or "cuda".
    seed : of every random draw.
    folder : where the state of the run is kept; None keeps none.
    progress : told how far it is.
    devices : CUDA devices that share the work, or on the CPU processes. `fit` starts a process for each.
    rank : the number of this process, where it is one of them.
    """

    def __init__(
        self,
        device: str,
        seed: int,
        folder: RunFolder | None,
        progress: Progress,
        devices: int = 1,
        rank: int | None = None,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"there is no device '{device}'", todo="Choose auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("torch sees no CUDA device", todo="Use --device cpu, or install a torch with CUDA")
        if devices < 1:
            raise UsageError(f"{devices} devices cannot train", where="--devices", todo="Give 1 or more")
        accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if accelerator == "cuda" and devices > torch.cuda.device_count():
            raise UsageError(
                f"torch sees {torch.cuda.device_count()} CUDA devices, not {devices}",
                where="--devices",
                todo="Ask for as many or fewer, or for processes on the CPU: --device cpu",
            )
        if accelerator == "cpu":
            keep_freed_memory()
            # torch knows the cores that a process is bound to, but not a limit of its control group.
            torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        # Fabric announces its precision at every start; the model file and `blemish info` say it once.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        precision = mixed_precision(accelerator)
        if rank is None:
            self.fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
            self.share = Share()
        else:
            one_machine = LightningEnvironment()
            self.fabric = Fabric(
                accelerator=accelerator, devices=devices, strategy="ddp", precision=precision, plugins=[one_machine]
            )
            self.fabric.launch()
            self.share = Share(rank, devices)
        self.seed = seed
        self.folder = folder
        self.progress = progress
        self.devices = devices
        self.checkpoint_seconds = CHECKPOINT_SECONDS

    @property
    def description(self) -> str:
        """Device and precision in words, for the run's fingerprint and the model file."""
        together = f", {self.devices} processes" if self.devices > 1 else ""
        return f"{self.fabric.device.type}, {mixed_precision(self.fabric.device.type)}{together}"

    def fit(self, method: Method, images: TrainingImages) -> None:
        """Run all stages; afterwards `method` is trained, on the CPU and in evaluation mode.

        Raises
        ------
        TrainingError
            If a loss is not finite, or a process that shares the work ends.
        """
        if self.devices > 1 and self.share.alone:
            self._fit_together(method, images)
            return
        method.to(self.fabric.device)
        saved = self.folder.load() if self.folder else None
        with repeatable():
            for number, stage in self._stages(method, len(images)):
                if saved and number <= saved.stage:
                    if number < saved.stage:
                        continue
                    method.load_learned_state(saved.learned)
                if isinstance(stage, GradientStage):
                    self._descend(method, number, stage, images, saved if saved and number == saved.stage else None)
                elif not (saved and number == saved.stage):
                    self._look_once(method, number, stage, images)
        method.cpu().eval()
        give_back_freed_memory()

    def _fit_together(self, method: Method, images: TrainingImages) -> None:
        """Let a process for each device do it, and take what they learned."""
        learned: dict[str, Tensor] = {}

        def hear(message: Told | bytes) -> None:
            if isinstance(message, bytes):
                learned.update(load(message))
            else:
                self.progress(*message)

        device = self.fabric.device.type
        work_together(
            Part(device, self.seed, self.folder, self.devices, self.checkpoint_seconds, method, images),
            self.devices,
            backend="nccl" if device == "cuda" else "gloo",
            threads=max(1, torch.get_num_threads() // self.devices),
            hear=hear,
        )
        method.load_learned_state(learned)
        method.cpu().eval()

    def _stages(self, method: Method, images: int) -> Iterator[tuple[int, Stage]]:
        """The stages by number, which seeds what a method draws before it yields a stage or while it collects."""
        stages = method.stages(images)
        for number in itertools.count():
            torch.manual_seed(self._seed(number, "stage"))
            try:
                stage = next(stages)
            except StopIteration:
                return
            yield number, stage

    def _seed(self, *place: object) -> int:
        digest = hashlib.sha256(repr((self.seed, *place)).encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def _look_once(self, method: Method, number: int, stage: PassStage, images: TrainingImages) -> None:
        method.eval()
        batches = math.ceil(len(images) / stage.batch_size)
        with torch.inference_mode(False), torch.no_grad():
            with shared(networks_of(method), self.share):
                for done, batch in enumerate(self._in_order(images, stage.batch_size)):
                    self.progress(stage.name, 0.5 * done / batches)
                    stage.collect(batch)
            generator = torch.Generator().manual_seed(self._seed(number, "finish"))
            torch.manual_seed(self._seed(number, "global"))
            stage.finish(generator, lambda done: self.progress(stage.name, 0.5 + 0.5 * done))
        self.progress(stage.name, 1.0)
        self._save(number, 0, method, None)

    def _in_order(self, images: TrainingImages, size: int) -> Iterator[Tensor]:
        """All images in batches; each process reads its part of a batch."""
        batches = [range(len(images))[start : start + size] for start in range(0, len(images), size)]
        own = images.groups([batch[self.share.part(len(batch))] for batch in batches])
        for batch, part in zip(batches, own, strict=True):
            yield self.share.whole(self._on_device(part), len(batch))

    def _save(self, number: int, step: int, method: Method, optimizer: torch.optim.Optimizer | None) -> None:
        if self.folder and self.share.rank == 0:
            self.folder.save(number, step, method.learned_state(), optimizer)

    def _descend(
        self, method: Method, number: int, stage: GradientStage, images: TrainingImages, saved: SavedState | None
    ) -> None:
        method.eval()
        stage.module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        start = 0
        if saved and saved.step:
            saved.restore(stage.optimizer)
            start = saved.step
        observed = Observed(self, stage, images)
        networks = networks_of(method)
        rates = [group["lr"] for group in stage.optimizer.param_groups]
        last_saved = time.monotonic()
        for step in range(start, stage.steps):
            for group, rate in zip(stage.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (step + 1) / max(1, stage.warm_up))
            stage.optimizer.zero_grad(set_to_none=True)
            value = 0.0
            for batch in range(step * stage.accumulate, (step + 1) * stage.accumulate):
                torch.manual_seed(self._seed(number, "step", batch))
                features = observed.batch(self._order(number, batch, stage, len(images)))
                with self.fabric.autocast(), shared(networks, self.share):
                    losses = stage.losses(features)
                loss = torch.stack(list(losses.values())).sum()
                value += loss.item() / stage.accumulate
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss is {value} at step {step + 1} of {stage.steps}",
                        where=f"stage {stage.name}",
                        todo="Try a smaller learning rate: --set learning_rate=...",
                    )
                # Every process computes the same loss, of the whole batch.
                self.fabric.backward(loss / self.share.processes)
            add_up_gradients((p for group in stage.optimizer.param_groups for p in group["params"]), self.share)
            if stage.clip is not None:
                torch.nn.utils.clip_grad_norm_(stage.module.parameters(), stage.clip)
            stage.optimizer.step()
            self.progress(stage.name, (step + 1) / stage.steps, f"{step + 1}/{stage.steps}, loss {value:.4f}")
            if self.folder and time.monotonic() - last_saved > self.checkpoint_seconds:
                self._save(number, step + 1, method, stage.optimizer)
                last_saved = time.monotonic()
        # The layout decides the last bit of what later stages compute: it must be the one of weights that were loaded.
        stage.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        # The optimiser has nothing more to do, and its state is the larger part.
        self._save(number, stage.steps, method, None)

    def _order(self, number: int, batch: int, stage: GradientStage, images: int) -> list[int]:
        """Which images make batch `batch`: shuffled whole passes, the last batch of a pass may be smaller."""
        per_pass = math.ceil(images / stage.batch_size)
        generator = torch.Generator().manual_seed(self._seed(number, "pass", batch // per_pass))
        order = torch.randperm(images, generator=generator)
        first = (batch % per_pass) * stage.batch_size
        chosen: list[int] = order[first : first + stage.batch_size].tolist()
        return chosen

    def _on_device(self, batch: Tensor) -> Tensor:
        return batch.to(self.fabric.device).contiguous(memory_format=torch.channels_last)


class Observed:
    """What a gradient stage observes of each image: computed once and kept while it fits, else again for each batch.

    Always in full precision: to be used outside autocast. Where several processes share the work, each observes and
    keeps its part of the images.
    """

    def __init__(self, trainer: Trainer, stage: GradientStage, images: TrainingImages) -> None:
        self._trainer, self._stage, self._images = trainer, stage, images
        self._known = [rows.to(trainer.fabric.device) for rows in stage.known]
        self._kept: list[Tensor] | None = None
        self._first = self._observe(next(images.batches([0], 1)))
        size = sum(level.element_size() * level.numel() for level in self._first)
        self._starts = trainer.share.starts(len(images))
        own = range(*self._starts[trainer.share.rank : trainer.share.rank + 2])
        if size * len(own) <= OBSERVED_BYTES_LIMIT:
            # Made in its layout: one that is changed to it is there twice, and both are gone through.
            self._kept = [
                torch.empty(
                    (len(own), *level.shape[1:]),
                    dtype=level.dtype,
                    device=level.device,
                    memory_format=torch.channels_last if level.ndim == 4 else torch.contiguous_format,
                )
                for level in self._first
            ]
            done = 0
            for batch in images.batches(own, 16):
                for kept, level in zip(self._kept, self._observe(batch), strict=True):
                    kept[done : done + len(batch)] = level
                done += len(batch)
                trainer.progress(f"{stage.name}: teacher", done / len(own))

    def _observe(self, batch: Tensor) -> Features:
        with torch.no_grad():
            return self._stage.observe(self._trainer._on_device(batch))

    def batch(self, indices: list[int]) -> Features:
        """What `observe` gives for these images, and what is known of them."""
        known = [rows[indices] for rows in self._known]
        if self._trainer.share.alone:
            return self._own(indices) + known
        return self._of_all(indices) + known

    def _own(self, indices: list[int]) -> Features:
        if not indices:
            return [level[:0] for level in self._first]
        if self._kept is None:
            return self._observe(next(self._images.batches(indices, len(indices))))
        start = self._starts[self._trainer.share.rank]
        return [level[[i - start for i in indices]] for level in self._kept]

    def _of_all(self, indices: list[int]) -> Features:
        """Each process gives the images that are in its part."""
        share = self._trainer.share
        owners = [bisect_right(self._starts, i) - 1 for i in indices]
        order = sorted(range(len(indices)), key=owners.__getitem__)
        counts = [owners.count(rank) for rank in range(share.processes)]
        own = self._own([i for i, owner in zip(indices, owners, strict=True) if owner == share.rank])
        # Where each image of the batch stands among what is gathered.
        places = sorted(range(len(indices)), key=order.__getitem__)
        return [gather(level, counts)[places] for level in own]


def mixed_precision(accelerator: str) -> Literal["bf16-mixed", "32-true"]:
    """ "bf16-mixed" where the device multiplies bfloat16 faster than float32, else "32-true"."""
    if accelerator == "cuda":
        gains = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        gains = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if gains else "32-true"


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep large freed blocks instead of returning them to the kernel.

    Every feature map is a fresh block of megabytes; giving it back and faulting it in again takes longer than the
    convolution that fills it (a teacher's forward pass: half the time without that). Elsewhere than on glibc nothing
    is done.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 256 * 2**20)


def give_back_freed_memory() -> None:
    """What `keep_freed_memory` kept, to the kernel: exporting needs as much, in other pieces."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Any | None:
    """A function of the C library, if it is glibc."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def repeatable() -> Iterator[None]:
    """Deterministic algorithms while training, the caller's random state and settings untouched afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tensors: Any = torch.utils.deterministic
    fills = tensors.fill_uninitialized_memory
    with torch.random.fork_rng():
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Every new tensor would be written twice: a tenth of a training step. Nothing here reads what nothing wrote.
        tensors.fill_uninitialized_memory = False
        try:
            yield
        finally:
            tensors.fill_uninitialized_memory = fills
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
