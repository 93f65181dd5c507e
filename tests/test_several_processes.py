"""A training that several processes share: it ends as that of one, and all of them end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import blemish
from blemish.assembly import train
from blemish.errors import ImageError, TrainingError, UsageError
from blemish.images import ImageContract
from blemish.methods import find_method
from blemish.modelfile import open_model_file
from blemish.nn.preparation import Preparation
from blemish.training import RunFolder, Trainer, TrainingImages
from blemish.training.processes import work_together
from test_training import COMMAND, SEED, Killed, dies_after, step_of, toy, wait_for, watch
from tiny import make_parts, part, settings_for
from tiny import one_thread as one_thread  # applies to this module

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TrainingImages:
    """Seven, so that no part of anything is as large as another."""
    folder = make_parts(tmp_path_factory.mktemp("parts"), 7)
    return TrainingImages(sorted(folder.iterdir()), ImageContract(), Preparation(0, 255, 16))


def test_every_kind_of_stage_killed_and_continued(tmp_path: Path, images: TrainingImages) -> None:
    alone, undisturbed, method = toy(), toy(), toy()
    Trainer("cpu", SEED, None, watch).fit(alone, images)
    Trainer("cpu", SEED, None, watch, devices=2).fit(undisturbed, images)
    for name, tensor in alone.learned_state().items():
        got = undisturbed.learned_state()[name]
        assert got.shape == tensor.shape
        assert torch.allclose(got, tensor, rtol=0.01, atol=0.01 * float(tensor.float().abs().max())), name

    folder = RunFolder(tmp_path / "run", "this one")
    trainer = Trainer("cpu", SEED, folder, dies_after(8), devices=2)
    trainer.checkpoint_seconds = -1
    with pytest.raises(Killed):
        trainer.fit(toy(), images)
    saved = folder.load()
    assert saved is not None
    assert saved.stage >= 1
    Trainer("cpu", SEED, folder, watch, devices=2).fit(method, images)
    assert not method.training
    assert save(method.learned_state()) == save(undisturbed.learned_state())


def test_an_error_in_one_process_is_the_training_s(tmp_path: Path, images: TrainingImages) -> None:
    """The last image, which the second process reads, is not there any more."""
    paths = [*images.paths[:-1], tmp_path / "gone.png"]
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"gone\.png") as raised:
        Trainer("cpu", SEED, None, watch, devices=2).fit(
            toy(), TrainingImages(paths, images.contract, images.preparation)
        )
    assert raised.value.reason == "not_found"
    assert time.monotonic() - began < 120


@dataclass(frozen=True)
class Fails:
    """The second process fails in some way while the first waits for it."""

    how: str

    def __call__(self, rank: int, tell: Callable[[object], None]) -> None:
        tell(os.getpid())
        if rank == 1 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1 and self.how == "a fault":
            raise ZeroDivisionError("nothing\nto divide by")
        if rank == 1 and self.how == "an exit":
            os._exit(7)
        print("what a library prints disturbs nothing")
        if self.how == "asleep":
            time.sleep(600)
        torch.distributed.barrier()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("killed", "process 2 of 2 was killed, as the system does where memory runs out. Give the same command again"),
        ("a fault", "process 2 of 2 failed: ZeroDivisionError: nothing. "),
        ("an exit", "process 2 of 2 ended with status 7. "),
    ],
)
def test_a_process_that_ends_ends_all(how: str, sentence: str) -> None:
    pids: list[int] = []
    with pytest.raises(TrainingError) as raised:
        work_together(Fails(how), 2, backend="gloo", threads=1, hear=pids.append)
    assert str(raised.value).startswith(sentence)
    assert ("ZeroDivisionError" in "".join(getattr(raised.value, "__notes__", []))) == (how == "a fault")
    assert pids
    assert not any(map(alive, pids))


def test_work_that_cannot_be_given_to_a_process_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"cannot be given to other processes.*module that can be imported"):
        work_together(lambda rank, tell: None, 2, backend="gloo", threads=1, hear=watch)


def alive(pid: int) -> bool:
    """True for a process that runs, not for one that ended and was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


ASLEEP = """
from blemish.training.processes import work_together
from test_several_processes import Fails
work_together(Fails("asleep"), 2, backend="gloo", threads=1, hear=lambda pid: print(pid, flush=True))
"""


def test_processes_end_when_their_caller_is_killed() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    caller = subprocess.Popen([sys.executable, "-c", ASLEEP], stdout=subprocess.PIPE, text=True, env=environment)
    assert caller.stdout is not None
    pids = [int(caller.stdout.readline()) for _ in range(2)]
    assert all(map(alive, pids))
    caller.kill()
    caller.wait()
    caller.stdout.close()
    until = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("devices", [0, -2])
def test_no_device_at_all_is_refused(devices: int, images: TrainingImages) -> None:
    with pytest.raises(UsageError, match=rf"--devices: {devices} devices cannot train\. Give 1 or more"):
        Trainer("cpu", 0, None, watch, devices=devices)


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UsageError, match=r"torch sees 3 CUDA devices, not 4\. .*--device cpu"):
        Trainer("cuda", 0, None, watch, devices=4)


# The whole way, by the command line.


def test_interrupted_and_continued_it_ends_with_the_same_file(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", 10)
    settings = settings_for(find_method("rd")) | {"steps": 8, "learning_rate": 1e-4}
    alone, undisturbed, out = (tmp_path / f"{name}.blemish" for name in ("alone", "undisturbed", "part"))
    train(parts, alone, method="rd", settings=settings, device="cpu")
    train(parts, undisturbed, method="rd", settings=settings, device="cpu", devices=2)

    options = [f"--set={name}={value}" for name, value in settings.items()]
    config = tmp_path / "options.yaml"
    config.write_text("devices: 2\ndevice: cpu\n")
    command = [sys.executable, "-c", COMMAND, "train", str(parts), "--out", str(out), "--config", str(config), *options]
    state = tmp_path / "part.blemish.training" / "checkpoint.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    first = run()
    wait_for(state, step=1, process=first)
    working = children_of(first.pid)
    assert len(working) == 2
    first.send_signal(signal.SIGINT)
    printed, said = first.communicate(timeout=120)
    assert (first.returncode, printed) == (130, "")
    assert "interrupted. No model file was written" in said
    assert "Traceback" not in said
    assert not any(map(alive, working))
    assert not out.exists()
    assert 1 <= step_of(state) < 8

    second = run()
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert "Going on where this training stopped: stage 2, step " in said
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not state.parent.exists()

    one, two = (open_model_file(path).manifest for path in (alone, out))
    assert two.training.device == f"{one.training.device}, 2 processes"
    assert two.training.fingerprint == one.training.fingerprint
    assert two.calibration.scores == pytest.approx(one.calibration.scores, rel=0.01)
    new = [part(100 + i, defect=i % 2 == 1) for i in range(4)]
    scores: list[list[Any]] = [[i.score for i in blemish.load(path).inspect(new)] for path in (alone, out)]
    assert scores[1] == pytest.approx(scores[0], rel=0.01)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
