"""CDD: domains, who teaches whom, what the model file keeps, and the suspects that it names."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from blemish.assembly import build, train
from blemish.errors import UsageError
from blemish.images import ImageContract
from blemish.methods import Features, GradientStage, NamesSuspects, PassStage, find_method
from blemish.methods.cdd import CrossDomainDistillation, corrected
from blemish.modelfile import open_model_file
from blemish.nn.preparation import Preparation
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, config_for, make_parts, settings_for, teacher
from tiny import one_thread as one_thread  # applies to this module

SEED = 5


def method(**settings: object) -> CrossDomainDistillation:
    config = CrossDomainDistillation.Config.model_validate({"image_size": SIZE} | settings)
    built = build(CrossDomainDistillation, config, teacher((4, 8, 16)), SEED)
    assert isinstance(built, CrossDomainDistillation)
    return built


def stage_of(one: CrossDomainDistillation, images: int, seed: int = 0) -> GradientStage:
    torch.manual_seed(seed)
    *looks, last = itertools.islice(one.stages(images), 6)
    # The channels; twice what is usual and what is strange.
    assert [type(look) for look in looks] == [PassStage] * 5
    assert isinstance(last, GradientStage)
    return last


# The domains.


@pytest.mark.parametrize(("images", "sizes"), [(12, [4, 4, 4]), (14, [4, 5, 5]), (6, [2, 2, 2])])
def test_the_images_are_dealt_evenly(images: int, sizes: list[int]) -> None:
    domain, doubted = stage_of(method(), images).known

    assert sorted(torch.bincount(domain).tolist()) == sizes
    assert len(doubted) == images


def test_the_seed_decides_who_is_in_which_domain() -> None:
    def dealt(seed: int) -> list[int]:
        values: list[int] = stage_of(method(), 30, seed).known[0].tolist()
        return values

    assert dealt(1) == dealt(1)
    assert dealt(1) != dealt(2)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"9 training images are too few for 5 domains.*(?s:.)*fewer domains"):
        stage_of(method(domains=5), 9)


# Who teaches whom.


class Says(nn.Module):
    """A student that gives the same number everywhere, times the number in the image's first place."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, pyramid: Features) -> Features:
        return [self.number * level[:, :1, :1, :1] + torch.zeros_like(level) for level in pyramid]


def test_pseudo_normal_features_are_the_mean_of_the_students() -> None:
    one = method(domains=4)
    one.students = nn.ModuleList([Says(1), Says(10), Says(100), Says(1000)])
    first = torch.tensor([1.0, 2, 3, 1])
    pyramid = [first[:, None, None, None] + torch.zeros(4, 3, side, side) for side in (8, 4)]

    for level, target in zip(pyramid, one.pseudo_normal(pyramid), strict=True):
        assert target.shape == level.shape
        torch.testing.assert_close(target, (first * 1111 / 4)[:, None, None, None].expand_as(target))


def observed(images: int, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(images, c, side, side) for c, side in ((24, 16), (40, 8), (112, 4))]


def places(images: int, share: float, seed: int = 3) -> Tensor:
    """Doubted places by chance."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(images, 16, 16, generator=generator) < share


def believed(one: CrossDomainDistillation, pyramid: Features) -> list[Tensor]:
    return one.doubts(pyramid, places(len(pyramid[0]), 0))


def test_a_target_depends_on_no_other_image_and_takes_no_gradient() -> None:
    one = method().train()
    pyramid, domain = observed(4), torch.tensor([0, 1, 2, 1])
    one.domains_loss(pyramid, domain, believed(one, pyramid))  # so that there are statistics

    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    together = one.pseudo_normal(pyramid)
    alone = one.pseudo_normal([level[2:3] for level in pyramid])
    assert one.students.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    for a, b in zip(together, alone, strict=True):
        assert not a.requires_grad
        assert torch.allclose(a[2:3], b, atol=1e-4)


def test_a_place_is_doubted_in_every_level_that_it_reaches() -> None:
    """One place of 16 x 16: its four in a finer level, itself, and the one of a coarser level that covers it."""
    doubted = torch.zeros(2, 16, 16, dtype=torch.bool)
    doubted[1, 5, 2] = True
    levels = [torch.zeros(2, 3, side, side) for side in (32, 16, 4)]
    found = [torch.nonzero(level[:, 0]).tolist() for level in method().doubts(levels, doubted)]

    assert found == [[[1, 10, 4], [1, 10, 5], [1, 11, 4], [1, 11, 5]], [[1, 5, 2]], [[1, 1, 0]]]


def test_at_doubted_places_the_students_teach_at_the_teachers_length() -> None:
    one = method()
    pyramid, normal = observed(4), observed(4, seed=2)
    doubts = one.doubts(pyramid, places(4, 0.05))

    for target, level, expected, doubted in zip(
        corrected(pyramid, normal, doubts), pyramid, normal, doubts, strict=True
    ):
        wanted = torch.where(doubted, nn.functional.normalize(expected) * level.norm(dim=1, keepdim=True), level)
        assert doubted.any()
        torch.testing.assert_close(target, wanted)


def test_what_is_strange_to_other_domains_is_doubted(tmp_path: Path) -> None:
    """Of 24 parts one has a defect: there, and hardly anywhere else, the teacher is not believed."""
    parts = make_parts(tmp_path / "parts", 23)
    make_parts(parts, 1, first=100, defect=True)
    images = TrainingImages(sorted(parts.iterdir()), ImageContract(), Preparation(0, 255, SIZE))
    one = method(steps=1, batch_size=8)
    Trainer("cpu", SEED, None, lambda *_: None).fit(one, images)
    doubted = one.doubted.flatten(1).float().mean(1)

    assert doubted.shape == (24,)
    assert doubted.argmax() == sorted(path.name for path in parts.iterdir()).index("100.png")
    assert doubted.max() > 3 * doubted.median()


def test_the_targets_are_what_the_global_student_is_taught() -> None:
    one = method().train()
    pyramid, domain, doubted = observed(6), torch.tensor([0, 1, 0, 1, 2, 2]), places(6, 0.3)
    targets = corrected(pyramid, one.pseudo_normal(pyramid), one.doubts(pyramid, doubted))
    wanted = one.distillation(targets, one.rebuild(pyramid))

    assert one.losses([*pyramid, domain, doubted])["aggregation"].item() == pytest.approx(wanted.item(), rel=1e-5)


def reached(loss: Tensor, part: nn.Module) -> list[Tensor]:
    """The gradients of the part's parameters that there are."""
    gradients = torch.autograd.grad(loss, [*part.parameters()], allow_unused=True, retain_graph=True)
    return [gradient for gradient in gradients if gradient is not None and bool(gradient.any())]


def test_each_loss_reaches_its_students_only() -> None:
    one = method().train()
    losses = one.losses([*observed(6), torch.tensor([0, 1, 0, 1, 2, 2]), places(6, 0.2)])

    assert losses.keys() == {"domains", "aggregation"}
    world = nn.ModuleList([one.bottleneck, one.student])
    assert [bool(reached(losses["domains"], part)) for part in (one.students, world)] == [True, False]
    assert [bool(reached(losses["aggregation"], part)) for part in (one.students, world)] == [False, True]
    assert all(not parameter.requires_grad for parameter in one.teacher.parameters())


def test_a_domains_student_learns_from_its_own_images() -> None:
    one = method().train()
    pyramid, domain = observed(7), torch.tensor([0, 1, 0, 1, 2, 0, 1])
    others = [torch.where((domain == 0)[:, None, None, None], level, -level) for level in pyramid]
    doubts = believed(one, pyramid)
    before = [reached(one.domains_loss(some, domain, doubts), one.students[0]) for some in (pyramid, others)]

    assert before[0]
    assert all(torch.equal(a, b) for a, b in zip(*before, strict=True))
    # The third domain has one image here: too few for the statistics of a batch.
    assert reached(one.domains_loss(pyramid, domain, doubts), one.students[1])
    assert not reached(one.domains_loss(pyramid, domain, doubts), one.students[2])


def test_its_loss_is_that_of_rd_on_those_images() -> None:
    one = method(domains=2).train()
    pyramid, domain = observed(5), torch.tensor([0, 1, 1, 0, 1])

    got = one.domains_loss(pyramid, domain, believed(one, pyramid))
    wanted = 0.0
    for k in (0, 1):
        mine = [level[domain == k] for level in pyramid]
        rd = build(find_method("rd"), config_for(find_method("rd")), teacher((4, 8, 16)), 0).train()
        rd.get_submodule("bottleneck").load_state_dict(one.students[k][0].state_dict())  # type: ignore[index]
        rd.get_submodule("student").load_state_dict(one.students[k][1].state_dict())  # type: ignore[index]
        wanted += rd.losses(mine)["distillation"].item()  # type: ignore[operator]
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_a_domains_student_is_not_taught_what_is_doubted() -> None:
    """Other features there as targets, the same input: the same loss."""
    one = method(domains=2).train()
    pyramid, domain = observed(4), torch.tensor([0, 1, 1, 0])
    doubted = places(4, 0.05)
    doubted[:, :4, :4] = False  # where these students look
    doubts = one.doubts(pyramid, doubted)
    other = [torch.where(somewhere, -7 * level, level) for level, somewhere in zip(pyramid, doubts, strict=True)]
    one.students = nn.ModuleList([Says(1), Says(2)])

    got = [one.domains_loss(some, domain, doubts).item() for some in (pyramid, other)]
    assert got[0] == pytest.approx(got[1], rel=1e-6)
    wide = one.domains_loss(other, domain, believed(one, pyramid)).item()
    assert abs(wide - got[0]) > 0.01


def test_without_students_nothing_is_taught_at_doubted_places() -> None:
    """Whatever the teacher says there: the loss and its gradient are the same, and there are no other students."""
    one = method(taught="nothing").eval()  # a batch's statistics would carry what is fed at doubted places
    pyramid, domain, doubted = observed(4), torch.tensor([0, 1, 2, 0]), places(4, 0.05)
    rebuilt = one.rebuild(pyramid)
    one.rebuild = lambda _: rebuilt  # type: ignore[method-assign]
    doubts = one.doubts(pyramid, doubted)
    other = [torch.where(somewhere, -7 * level, level) for level, somewhere in zip(pyramid, doubts, strict=True)]

    assert not list(one.students.parameters())
    losses = [one.losses([*some, domain, doubted]) for some in (pyramid, other)]
    assert [list(loss) for loss in losses] == [["distillation"]] * 2
    assert losses[0]["distillation"].item() == pytest.approx(losses[1]["distillation"].item(), rel=1e-6)
    believing = one.losses([*other, domain, torch.zeros_like(doubted)])["distillation"].item()
    assert abs(believing - losses[1]["distillation"].item()) > 0.01


# What is left of it.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An rd, hardly trained, and a cdd of the same size, from the same parts, of which two are bad."""
    root = tmp_path_factory.mktemp("line")
    source = make_parts(root / "parts", 22)
    make_parts(source, 2, first=100, defect=True)
    files = {}
    for name, steps in (("rd", 2), ("cdd", 30)):
        files[name] = root / f"{name}.blemish"
        settings = settings_for(find_method(name)) | {"steps": steps, "batch_size": 8, "strides": [8, 16]}
        train(source, files[name], method=name, settings=settings, hold_out=0.25, device="cpu")
    return files


def test_a_detector_is_as_large_as_that_of_rd(models: dict[str, Path]) -> None:
    rd, cdd = (open_model_file(models[name]) for name in ("rd", "cdd"))

    assert {n: t.shape for n, t in load(cdd.weights()).items()} == {n: t.shape for n, t in load(rd.weights()).items()}
    assert abs(len(cdd.graph) - len(rd.graph)) < 1000


def test_the_bad_parts_are_the_most_suspicious(models: dict[str, Path]) -> None:
    manifest = open_model_file(models["cdd"]).manifest

    assert manifest.suspicion is not None
    assert [image.path for image in manifest.suspicion.ranked[:2]] in (
        ["100.png", "101.png"],
        ["101.png", "100.png"],
    )
    assert {image.path for image in manifest.suspicion.images} == {image.path for image in manifest.training.images}
    assert open_model_file(models["rd"]).manifest.suspicion is None


# How suspicious an image is.


def test_an_image_is_judged_by_the_images_of_other_domains() -> None:
    one = method().eval()
    one.domain = torch.tensor([2, 0, 1])
    image = torch.rand(4, 3, SIZE, SIZE)
    pyramid = one.pyramid(image)
    one.strangeness.add(pyramid, torch.tensor([0, 1, 2, 0]))
    one.strangeness.learn()

    assert isinstance(one, NamesSuspects)
    with torch.no_grad():
        answer = one.suspicion(image, torch.tensor([0, 2, 3, 7]))
        # Of domains 2 and 1; the others were not trained on, 3 and 7 are dealt into 0 and 1.
        wanted = one.strangeness(pyramid, torch.tensor([2, 1, 0, 1]))
    assert answer.map.shape == (4, SIZE, SIZE)
    torch.testing.assert_close(answer.map, one.strange_head([wanted]))
    assert torch.equal(answer.score, answer.map.amax((1, 2)))


def test_images_that_training_did_not_have_are_measured_alike(tmp_path: Path) -> None:
    """Good parts that trained score like good parts that did not: no student judges what it has learned."""
    parts = sorted(make_parts(tmp_path / "parts", 48).iterdir())
    images = TrainingImages(parts, ImageContract(), Preparation(0, 255, SIZE))
    one = method(steps=20, batch_size=8)
    Trainer("cpu", SEED, None, lambda *_: None).fit(
        one, TrainingImages(parts[:24], images.contract, images.preparation)
    )
    with torch.inference_mode():
        (batch,) = images.batches(range(48), 48)
        scores = one.suspicion(batch, torch.arange(48)).score.log()
    # The means differ by less than three standard errors.
    error = (scores[:24].var() / 24 + scores[24:].var() / 24).sqrt()
    assert (scores[:24].mean() - scores[24:].mean()).abs() < 3 * error
