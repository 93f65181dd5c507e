"""The contamination harness: its `cdd` is that of `blemish train`, alone and beside others."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from blemish.assembly import build
from blemish.images import ImageContract
from blemish.methods import Method
from blemish.methods.cdd import CrossDomainDistillation
from blemish.nn.preparation import Preparation
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, make_parts, teacher
from tiny import one_thread as one_thread  # applies to this module

SEED = 5
SETTINGS = {"image_size": SIZE, "strides": [8, 16], "steps": 3, "batch_size": 6}


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        return importlib.import_module("contamination")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TrainingImages:
    parts = make_parts(tmp_path_factory.mktemp("parts"), 14)
    return TrainingImages(sorted(parts.iterdir()), ImageContract(), Preparation(0, 255, SIZE))


def trained(method: type[CrossDomainDistillation], images: TrainingImages) -> CrossDomainDistillation:
    one: Method = build(method, method.Config.model_validate(SETTINGS), teacher((8, 16)), SEED)
    assert isinstance(one, CrossDomainDistillation)
    Trainer("cpu", SEED, None, lambda *_: None).fit(one, images)
    return one


def same(a: nn.Module, b: nn.Module) -> bool:
    first: dict[str, Tensor] = a.state_dict()
    second: dict[str, Tensor] = b.state_dict()
    return all(torch.equal(x, y) for x, y in zip(first.values(), second.values(), strict=True))


@pytest.mark.parametrize("beside", [[], ["rd"], ["everywhere", "nothing"]])
def test_a_variant_is_trained_as_if_alone(harness: ModuleType, images: TrainingImages, beside: list[str]) -> None:
    """To the last bit: training is chaotic, and a difference there is one of points in the end."""
    panel = type("OnePanel", (harness.Panel,), {"variants": {n: harness.VARIANTS[n] for n in [*beside, "cdd"]}})
    one, wanted = trained(panel, images), trained(CrossDomainDistillation, images)

    assert torch.equal(one.domain, wanted.domain)
    assert same(one.students, wanted.students)
    assert same(one.get_submodule("globals.cdd"), nn.Sequential(wanted.bottleneck, wanted.student))
