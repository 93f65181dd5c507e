from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blemish.assembly import build, train
from blemish.errors import TrainingError, UsageError
from blemish.images import ImageContract
from blemish.methods import AnomalyMap, Features, GradientStage, Method, MethodConfig, PassStage, Stage, find_method
from blemish.modelfile import open_model_file
from blemish.nn.preparation import Preparation
from blemish.teachers import FeaturePyramid
from blemish.training import RunFolder, Trainer, TrainingImages, trainer
from tiny import config_for, make_parts, settings_for, teacher
from tiny import one_thread as one_thread  # applies to this module

SEED = 3
STEPS = 3
BATCH = 3
IMAGES = 8


class Toy(Method):
    """Every kind of stage, in every order, with whatever draws numbers or keeps state: small enough to kill often."""

    name = "toy"

    def __init__(self, loss_factor: float = 1.0) -> None:
        super().__init__(MethodConfig(image_size=64), cast(FeaturePyramid, nn.Identity()))
        self.loss_factor = loss_factor
        self.observed: list[int] = []
        self.first = nn.Sequential(
            # No bias: before a batch normalisation its gradient is rounding alone, which Adam makes steps of.
            nn.Conv2d(3, 5, 3, padding=1, bias=False),
            nn.BatchNorm2d(5),
            nn.Dropout(0.3),
            nn.Conv2d(5, 3, 3),
        )
        self.second = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.3), nn.Conv2d(4, 3, 1))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("bank", torch.zeros(1, 3))

    def stages(self, images: int) -> Iterator[Stage]:
        seen: list[Tensor] = []
        yield PassStage("mean", lambda x: seen.append(x.mean((2, 3)) + torch.rand(3)), partial(self._mean, seen), 3)
        adam = torch.optim.Adam(self.first.parameters(), lr=0.01)
        yield GradientStage("adam", self.first, adam, partial(self._losses, self.first), self._observe, STEPS, BATCH)
        seen.clear()
        yield PassStage("bank", lambda x: seen.append(self.first(x).mean((2, 3))), partial(self._bank, seen), 3)
        with torch.no_grad():
            for parameter in self.second.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        sgd = torch.optim.SGD(self.second.parameters(), lr=0.01, momentum=0.9)
        yield GradientStage("sgd", self.second, sgd, partial(self._losses, self.second), self._observe, STEPS, BATCH)

    def _mean(self, seen: list[Tensor], generator: torch.Generator, progress: Callable[[float], None]) -> None:
        progress(0.5)
        self.get_buffer("mean").copy_(torch.cat(seen).mean(0) + torch.rand(3, generator=generator) + torch.rand(3))

    def _bank(self, seen: list[Tensor], generator: torch.Generator, progress: Callable[[float], None]) -> None:
        self.bank = torch.cat(seen)
        progress(1.0)

    def _observe(self, image: Tensor) -> Features:
        self.observed.append(len(image))
        return [image - self.get_buffer("mean").view(1, 3, 1, 1), image.mean((2, 3))]

    def _losses(self, network: nn.Module, observed: Features) -> dict[str, Tensor]:
        image, mean = observed
        square = (network(image).mean((2, 3)) - mean).square().mean()
        return {"square": square * self.loss_factor, "size": 0.1 * network(image).abs().mean()}

    def forward(self, image: Tensor) -> AnomalyMap:
        return AnomalyMap.with_max_score(self.second(self.first(image)).square().sum(1))


def toy(**changes: Any) -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return Toy(**changes)


class Killed(BaseException):
    """Stands for the end of the process."""


def watch(stage: str, done: float, note: str = "") -> None:
    """A progress that nobody watches."""


def dies_after(calls: int) -> Callable[..., None]:
    called = count(1)

    def progress(stage: str, done: float, note: str = "") -> None:
        if next(called) == calls:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TrainingImages:
    folder = make_parts(tmp_path_factory.mktemp("parts"), IMAGES)
    return TrainingImages(sorted(folder.iterdir()), ImageContract(), Preparation(0, 255, 16))


@pytest.fixture(scope="module")
def undisturbed(images: TrainingImages) -> bytes:
    method = toy()
    Trainer("cpu", SEED, None, watch).fit(method, images)
    return save(method.learned_state())


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1)


def calls_of_a_run(images: TrainingImages) -> int:
    called: list[str] = []
    Trainer("cpu", SEED, None, lambda stage, *_: called.append(stage)).fit(toy(), images)
    return len(called)


# The run folder.


def channels_last_network() -> nn.Module:
    """As the trainer lays a network out."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def trained_pair(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = channels_last_network()
    optimizer = optimizer_of(kind, network)
    for _ in range(3):
        descend(network, optimizer)
    return network, optimizer


def optimizer_of(kind: str, network: nn.Module) -> torch.optim.Optimizer:
    match kind:
        case "adam":
            return torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.999))
        case "fused adam":
            return torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.999), fused=True)
        case "adamw":
            return torch.optim.AdamW(network.parameters(), lr=0.01, amsgrad=True)
        case "momentum":
            return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    return torch.optim.SGD(network.parameters(), lr=0.01)


def descend(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    x = torch.linspace(0, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    (network(x) * torch.arange(4).view(1, 4, 1, 1)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["adam", "fused adam", "adamw", "momentum", "plain"])
def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path: Path, kind: str) -> None:
    network, optimizer = trained_pair(kind)
    folder = RunFolder(tmp_path / "run", "this one")
    learned = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    folder.save(2, 3, learned, optimizer)

    saved = folder.load()
    assert saved is not None
    assert (saved.stage, saved.step) == (2, 3)
    assert save(saved.learned) == save(learned)
    copy = channels_last_network()
    copy.load_state_dict(saved.learned)
    restored = optimizer_of(kind, copy)
    saved.restore(restored)
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            got = restored.state_dict()["state"][index][key]
            assert torch.equal(got, value) if isinstance(value, Tensor) else got == value, key
    for _ in range(2):
        descend(network, optimizer)
        descend(copy, restored)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), copy.parameters(), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run", "this one")
    folder.save(1, 5, {"weight": torch.arange(1000.0)}, None)
    return folder


def test_a_saved_state_comes_back(folder: RunFolder) -> None:
    saved = folder.load()
    assert saved is not None
    assert (saved.stage, saved.step) == (1, 5)
    assert torch.equal(saved.learned["weight"], torch.arange(1000.0))
    assert [path.name for path in folder.path.iterdir()] == ["checkpoint.safetensors"]


def test_the_state_saved_last_counts(folder: RunFolder) -> None:
    folder.save(1, 6, {"weight": torch.zeros(1)}, None)
    saved = folder.load()
    assert saved is not None
    assert (saved.step, saved.learned["weight"].tolist()) == (6, [0.0])


def test_a_state_of_another_run_is_not_continued(folder: RunFolder) -> None:
    assert RunFolder(folder.path, "another").load() is None


def test_nothing_saved_is_nothing_to_continue(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "none", "this one").load() is None


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_state_cut_short_is_not_continued(folder: RunFolder, kept: float) -> None:
    content = folder.file.read_bytes()
    folder.file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert folder.load() is None


@pytest.mark.parametrize(
    "content", [b"\xff" * 4000, b"\0" * 4000, b"no state of anything " * 100, b"\x02" + b"\0" * 7 + b"{}"]
)
def test_what_is_no_state_is_not_continued(folder: RunFolder, content: bytes) -> None:
    folder.file.write_bytes(content)
    assert folder.load() is None


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_a_state_with_a_changed_bit_is_not_continued(folder: RunFolder, place: float) -> None:
    content = bytearray(folder.file.read_bytes())
    content[int(place * len(content))] ^= 1
    folder.file.write_bytes(content)
    assert folder.load() is None


def test_a_state_that_cannot_be_saved_is_a_clear_error_and_the_last_one_stays(folder: RunFolder) -> None:
    folder.file.with_suffix(".partial").mkdir()
    with pytest.raises(TrainingError, match=r"the state of the run cannot be saved.* goes on from the state"):
        folder.save(1, 6, {"weight": torch.zeros(1)}, None)
    saved = folder.load()
    assert saved is not None
    assert saved.step == 5


def test_a_state_that_was_not_written_to_its_end_is_never_read(folder: RunFolder) -> None:
    whole = folder.file.read_bytes()
    folder.file.rename(folder.file.with_suffix(".partial"))
    assert folder.load() is None
    folder.file.write_bytes(whole)
    folder.file.with_suffix(".partial").write_bytes(whole[: len(whole) // 2])
    saved = folder.load()
    assert saved is not None
    assert saved.step == 5
    folder.save(1, 6, {"weight": torch.zeros(1)}, None)
    assert [path.name for path in folder.path.iterdir()] == ["checkpoint.safetensors"]


def test_a_run_that_is_over_leaves_nothing(folder: RunFolder) -> None:
    folder.remove()
    assert not folder.path.exists()
    folder.remove()


# Killed and started again, within one process.


@pytest.mark.usefixtures("every_step")
def test_killed_anywhere_it_ends_with_the_same(tmp_path: Path, images: TrainingImages, undisturbed: bytes) -> None:
    calls = calls_of_a_run(images)
    assert calls > 2 * STEPS + 4
    for call in range(1, calls + 1):
        folder = RunFolder(tmp_path / str(call), "this one")
        with pytest.raises(Killed):
            Trainer("cpu", SEED, folder, dies_after(call)).fit(toy(), images)
        method = toy()
        Trainer("cpu", SEED, folder, watch).fit(method, images)
        assert save(method.learned_state()) == undisturbed, f"killed at call {call} of {calls}"


@pytest.mark.usefixtures("every_step")
def test_killed_again_and_again_it_ends_with_the_same(
    tmp_path: Path, images: TrainingImages, undisturbed: bytes
) -> None:
    folder = RunFolder(tmp_path / "run", "this one")
    killed = 0
    while True:
        method = toy()
        try:
            Trainer("cpu", SEED, folder, dies_after(killed + 1)).fit(method, images)
            break
        except Killed:
            killed += 1
    assert killed > 4
    assert save(method.learned_state()) == undisturbed


@pytest.mark.usefixtures("every_step")
def test_a_killed_run_does_not_begin_anew(tmp_path: Path, images: TrainingImages) -> None:
    folder = RunFolder(tmp_path / "run", "this one")
    calls = calls_of_a_run(images)
    with pytest.raises(Killed):
        Trainer("cpu", SEED, folder, dies_after(calls - 1)).fit(toy(), images)
    saved = folder.load()
    assert saved is not None
    # Killed as the last step but one was being reported, before it was saved.
    assert (saved.stage, saved.step) == (3, STEPS - 2)
    stages: list[str] = []
    Trainer("cpu", SEED, folder, lambda stage, *_: stages.append(stage)).fit(toy(), images)
    assert stages == ["sgd: teacher", "sgd", "sgd"]


@pytest.mark.usefixtures("every_step")
def test_a_finished_run_is_not_trained_again(tmp_path: Path, images: TrainingImages, undisturbed: bytes) -> None:
    folder = RunFolder(tmp_path / "run", "this one")
    Trainer("cpu", SEED, folder, watch).fit(toy(), images)
    stages: list[str] = []
    method = toy()
    Trainer("cpu", SEED, folder, lambda stage, *_: stages.append(stage)).fit(method, images)
    assert "sgd" not in stages
    assert save(method.learned_state()) == undisturbed


@pytest.mark.usefixtures("every_step")
def test_the_state_of_another_run_changes_nothing(tmp_path: Path, images: TrainingImages, undisturbed: bytes) -> None:
    with pytest.raises(Killed):
        Trainer("cpu", SEED + 1, RunFolder(tmp_path, "another"), dies_after(15)).fit(toy(), images)
    assert RunFolder(tmp_path, "another").load() is not None
    method = toy()
    Trainer("cpu", SEED, RunFolder(tmp_path, "this one"), watch).fit(method, images)
    assert save(method.learned_state()) == undisturbed


def test_keeping_the_state_changes_nothing(tmp_path: Path, images: TrainingImages, undisturbed: bytes) -> None:
    method = toy()
    Trainer("cpu", SEED, RunFolder(tmp_path, "this one"), watch).fit(method, images)
    assert save(method.learned_state()) == undisturbed
    saved = RunFolder(tmp_path, "this one").load()
    assert saved is not None
    assert (saved.stage, saved.step) == (3, STEPS)


# What training is.


def test_the_seed_decides(images: TrainingImages, undisturbed: bytes) -> None:
    method = toy()
    Trainer("cpu", SEED + 1, None, watch).fit(method, images)
    assert save(method.learned_state()) != undisturbed


def test_every_image_is_seen_once_in_a_pass(images: TrainingImages) -> None:
    method = toy()
    one = Trainer("cpu", SEED, None, watch)
    stage = next(stage for stage in method.stages(IMAGES) if isinstance(stage, GradientStage))
    passes = [[one._order(1, step, stage, IMAGES) for step in range(3 * k, 3 * k + 3)] for k in range(4)]
    for batches in passes:
        assert [len(batch) for batch in batches] == [3, 3, 2]
        assert sorted(i for batch in batches for i in batch) == list(range(IMAGES))
    assert len({str(batches) for batches in passes}) == 4


def test_progress_only_grows(images: TrainingImages) -> None:
    heard: dict[str, list[float]] = {}
    Trainer("cpu", SEED, None, lambda stage, done, note="": heard.setdefault(stage, []).append(done)).fit(toy(), images)
    assert list(heard) == ["mean", "adam: teacher", "adam", "bank", "sgd: teacher", "sgd"]
    for stage, values in heard.items():
        assert values == sorted(values), stage
        assert values[0] >= 0
        assert values[-1] == 1


class Slow(Method):
    """One gradient stage whose steps add the gradients of several batches; nothing in it depends on the batch."""

    name = "slow"

    def __init__(self, batch_size: int, accumulate: int, steps: int) -> None:
        super().__init__(MethodConfig(image_size=64), cast(FeaturePyramid, nn.Identity()))
        self.settings = (steps, batch_size, accumulate)
        self.network = nn.Conv2d(3, 2, 3)
        self.gradients: list[Tensor] = []

    def stages(self, images: int) -> Iterator[Stage]:
        steps, batch_size, accumulate = self.settings
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        optimizer.register_step_pre_hook(lambda *_: self.gradients.append(self.network.weight.grad.clone()))  # type: ignore[union-attr]
        yield GradientStage(
            "slow", self.network, optimizer, self._losses, lambda image: [image], steps, batch_size, accumulate
        )

    def _losses(self, observed: Features) -> dict[str, Tensor]:
        return {"noisy": (self.network(observed[0]) + 0 * torch.rand(1)).square().mean((1, 2, 3)).sum()}


def slow(batch_size: int, accumulate: int, steps: int) -> Slow:
    torch.manual_seed(SEED)
    return Slow(batch_size, accumulate, steps)


def test_gradients_of_accumulated_batches_are_added(images: TrainingImages) -> None:
    """A pass of all images in four batches and in one batch: the same sum of losses, so the same gradient."""
    quarters, whole = slow(2, 4, 2), slow(IMAGES, 1, 2)
    for method in (quarters, whole):
        Trainer("cpu", SEED, None, watch).fit(method, images)

    assert len(quarters.gradients) == len(whole.gradients) == 2
    for a, b in zip(quarters.gradients, whole.gradients, strict=True):
        assert torch.allclose(a, b, rtol=0.02, atol=0.02 * float(b.abs().max()))
    assert not torch.equal(whole.gradients[0], whole.gradients[1])


@pytest.mark.usefixtures("every_step")
def test_killed_between_accumulated_batches_it_ends_with_the_same(tmp_path: Path, images: TrainingImages) -> None:
    undisturbed = slow(3, 2, 4)
    Trainer("cpu", SEED, None, watch).fit(undisturbed, images)
    observed = 0

    class Dies(Slow):
        def _losses(self, observed_images: Features) -> dict[str, Tensor]:
            nonlocal observed
            observed += 1
            # In the second batch of the third step.
            if observed == 6:
                raise Killed
            return super()._losses(observed_images)

    torch.manual_seed(SEED)
    folder = RunFolder(tmp_path / "run", "this one")
    with pytest.raises(Killed):
        Trainer("cpu", SEED, folder, watch).fit(Dies(3, 2, 4), images)
    saved = folder.load()
    assert saved is not None
    assert saved.step == 2
    method = slow(3, 2, 4)
    Trainer("cpu", SEED, folder, watch).fit(method, images)
    assert save(method.learned_state()) == save(undisturbed.learned_state())


class Warm(Method):
    """A gradient stage with a rising learning rate and a limit to the gradient."""

    name = "warm"

    def __init__(self, warm_up: int, clip: float | None) -> None:
        super().__init__(MethodConfig(image_size=64), cast(FeaturePyramid, nn.Identity()))
        self.settings = warm_up, clip
        self.network = nn.Conv2d(3, 2, 3)
        self.rates: list[list[float]] = []
        self.norms: list[float] = []

    def stages(self, images: int) -> Iterator[Stage]:
        warm_up, clip = self.settings
        groups = [{"params": [self.network.weight]}, {"params": [self.network.bias], "lr": 0.01}]
        optimizer = torch.optim.SGD(groups, lr=0.04, momentum=0.9)
        optimizer.register_step_pre_hook(lambda *_: self._look(optimizer))
        yield GradientStage(
            "warm",
            self.network,
            optimizer,
            lambda observed: {"large": 100 * self.network(observed[0]).square().mean()},
            lambda image: [image],
            steps=6,
            batch_size=4,
            warm_up=warm_up,
            clip=clip,
        )

    def _look(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        gradients = [parameter.grad.flatten() for parameter in self.network.parameters() if parameter.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))


def warm(warm_up: int = 4, clip: float | None = 0.5) -> Warm:
    torch.manual_seed(SEED)
    return Warm(warm_up, clip)


def test_the_learning_rate_rises_and_long_gradients_are_shortened(images: TrainingImages) -> None:
    method, plain = warm(), warm(0, None)
    for one in (method, plain):
        Trainer("cpu", SEED, None, watch).fit(one, images)

    for group, rate in ((0, 0.04), (1, 0.01)):
        wanted = [rate / 4, rate / 2, 3 * rate / 4, rate, rate, rate]
        assert [rates[group] for rates in method.rates] == pytest.approx(wanted)
        assert [rates[group] for rates in plain.rates] == [rate] * 6
    assert plain.norms[0] > 5
    assert method.norms[0] == pytest.approx(0.5, rel=1e-3)
    assert max(method.norms) <= 0.5001


@pytest.mark.usefixtures("every_step")
def test_killed_while_the_learning_rate_rises_it_ends_with_the_same(tmp_path: Path, images: TrainingImages) -> None:
    undisturbed = warm()
    Trainer("cpu", SEED, None, watch).fit(undisturbed, images)
    folder = RunFolder(tmp_path / "run", "this one")
    with pytest.raises(Killed):
        Trainer("cpu", SEED, folder, dies_after(4)).fit(warm(), images)
    saved = folder.load()
    assert saved is not None
    assert 0 < saved.step < 4
    method = warm()
    Trainer("cpu", SEED, folder, watch).fit(method, images)
    assert method.rates == undisturbed.rates[saved.step :]
    assert save(method.learned_state()) == save(undisturbed.learned_state())


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training(images: TrainingImages, factor: float) -> None:
    with pytest.raises(TrainingError, match=r"stage adam: the loss is (nan|inf) at step 1 of 3.*learning_rate"):
        Trainer("cpu", SEED, None, watch).fit(toy(loss_factor=factor), images)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of another C library is left to itself")
def test_memory_that_training_freed_is_given_back() -> None:
    script = """
import os
import platform
from pathlib import Path
import torch
from blemish.training.trainer import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

keep_freed_memory()
before = resident()
maps = [torch.ones(2**20) for _ in range(50)]
del maps
kept = resident()
give_back_freed_memory()
print(kept - before, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 190  # Else there would be nothing to give back.
    assert left < 20


@pytest.mark.parametrize(("device", "message"), [("gpu", "choose auto, cpu or cuda"), ("cuda", "cuda device")])
def test_a_device_that_is_not_there_is_refused(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"(?i){message}"):
        Trainer(device, 0, None, watch)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("ends", ["well", "killed"])
def test_the_callers_random_state_and_settings_stay(images: TrainingImages, deterministic: bool, ends: str) -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    torch.use_deterministic_algorithms(deterministic, warn_only=False)
    try:
        if ends == "well":
            Trainer("cpu", SEED, None, watch).fit(toy(), images)
        else:
            with pytest.raises(Killed):
                Trainer("cpu", SEED, None, dies_after(8)).fit(toy(), images)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.is_grad_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.rand(3), wanted)


def test_the_callers_random_state_decides_nothing(images: TrainingImages, undisturbed: bytes) -> None:
    torch.manual_seed(99)
    method = toy()
    Trainer("cpu", SEED, None, watch).fit(method, images)
    assert save(method.learned_state()) == undisturbed


# What a gradient stage observes.


def observed_bytes() -> int:
    """Of all images: 3 x 16 x 16 and 3 floats each."""
    return IMAGES * 4 * (3 * 16 * 16 + 3)


@pytest.mark.parametrize(("limit", "kept"), [(observed_bytes(), True), (observed_bytes() - 1, False)])
def test_observations_are_kept_while_they_fit(
    images: TrainingImages, undisturbed: bytes, limit: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "OBSERVED_BYTES_LIMIT", limit)
    method = toy()
    Trainer("cpu", SEED, None, watch).fit(method, images)
    # The first image is looked at once more, to know the size.
    in_each_stage = [1, IMAGES] if kept else [1, 3, 3, 2]
    assert method.observed == 2 * in_each_stage
    assert save(method.learned_state()) == undisturbed


def test_observations_made_anew_are_those_that_were_kept(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    rd = find_method("rd")
    config = config_for(rd)
    method = build(rd, config, teacher(config.strides), SEED).eval()
    stage = next(stage for stage in method.stages(IMAGES) if isinstance(stage, GradientStage))
    prepared = TrainingImages(images.paths, images.contract, Preparation(0, 255, 64))
    one = Trainer("cpu", SEED, None, watch)
    kept = trainer.Observed(one, stage, prepared).batch([5, 0, 3])
    monkeypatch.setattr(trainer, "OBSERVED_BYTES_LIMIT", 0)
    anew = trainer.Observed(one, stage, prepared).batch([5, 0, 3])
    assert len(kept) == len(config.strides)
    # Not the same bits: a convolution of 16 images may add in another order than one of 3.
    for a, b in zip(kept, anew, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_observed_is_in_full_precision(
    images: TrainingImages, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether features are kept or made anew decides nothing; only what is being trained is in mixed precision."""
    monkeypatch.setattr(trainer, "mixed_precision", lambda accelerator: "bf16-mixed")
    if not kept:
        monkeypatch.setattr(trainer, "OBSERVED_BYTES_LIMIT", 0)
    frozen, network = nn.Conv2d(3, 4, 3).requires_grad_(False), nn.Conv2d(4, 2, 1)
    types: list[tuple[torch.dtype, torch.dtype]] = []

    def losses(observed: Features) -> dict[str, Tensor]:
        learned = network(observed[0])
        types.append((observed[0].dtype, learned.dtype))
        return {"size": learned.float().square().mean()}

    class Watched(Toy):
        def stages(self, images: int) -> Iterator[Stage]:
            sgd = torch.optim.SGD(network.parameters(), lr=0.01)
            yield GradientStage("watched", network, sgd, losses, lambda x: [frozen(x)], STEPS, BATCH)

    Trainer("cpu", SEED, None, watch).fit(Watched(), images)
    assert types == [(torch.float32, torch.bfloat16)] * STEPS


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_known_of_the_images_of_a_batch_follows_what_was_observed(
    images: TrainingImages, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(trainer, "OBSERVED_BYTES_LIMIT", 0)
    stage = next(stage for stage in slow(2, 1, 1).stages(IMAGES) if isinstance(stage, GradientStage))
    known = (torch.arange(IMAGES), 10.0 + torch.arange(2.0 * IMAGES).view(IMAGES, 2))
    one = Trainer("cpu", SEED, None, watch)
    observed, number, row = trainer.Observed(one, replace(stage, known=known), images).batch([5, 0, 3])
    assert torch.equal(observed, torch.stack([images.load(i) for i in (5, 0, 3)]))
    assert number.tolist() == [5, 0, 3]
    assert row.tolist() == [[20, 21], [10, 11], [16, 17]]


# Killed and started again, for real.

COMMAND = """
import signal
# A shell that runs the tests in the background lets its children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
import blemish.training.trainer as trainer
trainer.CHECKPOINT_SECONDS = 0
from blemish.cli import main
main()
"""


def test_interrupted_and_killed_it_ends_with_the_same_file(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", 10)
    settings = settings_for(find_method("rd")) | {"steps": 16}
    undisturbed = tmp_path / "undisturbed.blemish"
    train(parts, undisturbed, method="rd", settings=settings, device="cpu")

    out = tmp_path / "part.blemish"
    options = [f"--set={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-c", COMMAND, "train", str(parts), "--out", str(out), "--device", "cpu", *options]
    state = tmp_path / "part.blemish.training" / "checkpoint.safetensors"

    def run() -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    first = run()
    wait_for(state, step=2, process=first)
    first.send_signal(signal.SIGINT)
    printed, said = first.communicate(timeout=120)
    assert first.returncode == 130
    assert printed == ""
    assert said.endswith(
        "blemish: interrupted. No model file was written. "
        "The training goes on from its last saved state when the same command is given again.\n"
    )
    assert "Traceback" not in said

    second = run()
    wait_for(state, step=5, process=second)
    second.kill()
    second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL
    assert not out.exists()
    assert step_of(state) < 16

    third = run()
    _, said = third.communicate(timeout=300)
    assert third.returncode == 0, said
    assert said.count("Warning") == said.count("n = 2 is few") == 1
    assert "Going on where this training stopped: stage 2, step " in said
    assert open_model_file(out).weights() == open_model_file(undisturbed).weights()
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not state.parent.exists()


def step_of(state: Path) -> int:
    """Steps of the gradient stage that the state has behind it; -1 before it."""
    if not state.exists():
        return -1
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]) if metadata["stage"] == "1" else -1


def wait_for(state: Path, step: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while step_of(state) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
