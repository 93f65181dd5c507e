"""The contamination harness: its `cdd` is that of `blemish train`, alone and beside others."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from blemish.assembly import build
from blemish.data import Label, Sample
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


def test_the_truth_doubts_the_defects_or_their_images(harness: ModuleType, images: TrainingImages) -> None:
    """What is doubted when the labels are known: the places that hold a defect, or all places of its image."""
    names = ["rd", "truth nothing", "truth images"]
    truth = torch.zeros(len(images), SIZE, SIZE, dtype=torch.bool)
    truth[1, 0, 0] = True

    class OnePanel(harness.Panel):  # type: ignore[misc, name-defined]
        variants: ClassVar = {name: harness.VARIANTS[name] for name in names}
        truth: ClassVar

    OnePanel.truth = truth
    one = trained(OnePanel, images)
    places = one.doubted_by(harness.VARIANTS["truth nothing"], torch.arange(3))
    whole = one.doubted_by(harness.VARIANTS["truth images"], torch.arange(3))
    assert places.flatten(1).sum(1).tolist() == [0, 1, 0]
    assert places[1, 0, 0]
    assert whole.flatten(1).all(1).tolist() == [False, True, False]
    assert whole.flatten(1).any(1).tolist() == [False, True, False]
    assert not same(one.get_submodule("globals.rd"), one.get_submodule("globals.truth images"))

    OnePanel.truth = torch.zeros_like(truth)
    clean = trained(OnePanel, images)
    for name in names[1:]:
        assert same(clean.get_submodule("globals.rd"), clean.get_submodule(f"globals.{name}"))


def test_defects_of_an_image(harness: ModuleType, tmp_path: Path) -> None:
    """Where its mask is, at another size: any defect in a cell; everywhere, if it is bad and has no mask."""
    image, mask = tmp_path / "bad.png", tmp_path / "mask.png"
    Image.new("L", (8, 4)).save(image)
    marked = Image.new("L", (8, 4))
    marked.putpixel((7, 0), 255)
    marked.save(mask)

    def found(label: Label, masks: Path | None) -> list[list[bool]]:
        answer: list[list[bool]] = harness.defects(Sample(image, label, "test", "", masks), 2).tolist()
        return answer

    assert found("anomalous", mask) == [[False, True], [False, False]]
    assert found("anomalous", None) == [[True, True], [True, True]]
    assert found("normal", None) == [[False, False], [False, False]]
