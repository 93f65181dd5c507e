"""CDD: domains, who teaches whom, what the model file keeps, and the suspects that it names."""

from __future__ import annotations

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
from blemish.nn.remainder import local_distance
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
    first, second, *_ = one.stages(images)
    assert isinstance(first, PassStage)
    assert isinstance(second, GradientStage)
    return second


# The domains.


@pytest.mark.parametrize(("images", "sizes"), [(12, [4, 4, 4]), (14, [4, 5, 5]), (6, [2, 2, 2])])
def test_the_images_are_dealt_evenly(images: int, sizes: list[int]) -> None:
    (domain,) = stage_of(method(), images).known

    assert sorted(torch.bincount(domain).tolist()) == sizes


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


@pytest.mark.parametrize(
    ("without", "wanted"),
    [(None, [1111 / 4, 2 * 1111 / 4, 3 * 1111 / 4, 1111 / 4]), ([0, 1, 3, 0], [370, 2 * 1101 / 3, 3 * 111 / 3, 370])],
)
def test_pseudo_normal_features_are_the_mean_of_the_students(without: list[int] | None, wanted: list[float]) -> None:
    one = method(domains=4)
    one.students = nn.ModuleList([Says(1), Says(10), Says(100), Says(1000)])
    first = torch.tensor([1.0, 2, 3, 1])
    pyramid = [first[:, None, None, None] + torch.zeros(4, 3, side, side) for side in (8, 4)]

    targets = one.pseudo_normal(pyramid, None if without is None else torch.tensor(without))
    for level, target in zip(pyramid, targets, strict=True):
        assert target.shape == level.shape
        torch.testing.assert_close(target, torch.tensor(wanted)[:, None, None, None].expand_as(target))


def observed(images: int, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(images, c, side, side) for c, side in ((24, 16), (40, 8), (112, 4))]


def test_a_target_depends_on_no_other_image_and_takes_no_gradient() -> None:
    one = method().train()
    pyramid, domain = observed(4), torch.tensor([0, 1, 2, 1])
    one.domains_loss(pyramid, domain)  # so that there are statistics

    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    together = one.pseudo_normal(pyramid, domain)
    alone = one.pseudo_normal([level[2:3] for level in pyramid], domain[2:3])
    assert one.students.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    for a, b in zip(together, alone, strict=True):
        assert not a.requires_grad
        assert torch.allclose(a[2:3], b, atol=1e-4)


def targets_of(one: CrossDomainDistillation, pyramid: Features, normal: Features, share: float) -> Features:
    return corrected(pyramid, normal, one.doubts(pyramid, normal, share))


def test_the_teacher_is_doubted_where_it_is_farthest_from_the_students() -> None:
    """One image of four has a corner, 1/16 of it, that the students would have the other way round."""
    one = method(sigma=0)
    pyramid = [torch.ones(4, 3, side, side) for side in (16, 8, 4)]
    normal = [2 * level for level in pyramid]
    for level in normal:
        corner = level.shape[2] // 4
        level[2, :, :corner, :corner] *= -1
    share = 1 / 64

    for target, level in zip(targets_of(one, pyramid, normal, share), pyramid, strict=True):
        wanted = level.clone()
        corner = level.shape[2] // 4
        wanted[2, :, :corner, :corner] = -1  # the students' direction, the teacher's length
        torch.testing.assert_close(target, wanted)


def test_the_share_says_how_much_of_a_batch_is_doubted() -> None:
    one = method()
    pyramid, normal = observed(4), observed(4, seed=2)

    for share in (0.1, 0.5, 1):
        for target, level, expected in zip(targets_of(one, pyramid, normal, share), pyramid, normal, strict=True):
            believed = (target == level).all(1)
            assert (~believed).float().mean().item() == pytest.approx(share, abs=1 / believed.numel())
            students = local_distance(target, expected) < 1e-5
            assert torch.equal(students, ~believed)
            torch.testing.assert_close(target.norm(dim=1), level.norm(dim=1))


def test_mixed_precision_doubts_the_same_places() -> None:
    one = method()
    pyramid, normal = observed(4), observed(4, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = one.doubts(pyramid, normal, 0.1)

    assert all(torch.equal(a, b) for a, b in zip(mixed, one.doubts(pyramid, normal, 0.1), strict=True))


def test_the_targets_are_what_the_global_student_is_taught() -> None:
    one = method(doubted=0.3).train()
    pyramid, domain = observed(6), torch.tensor([0, 1, 0, 1, 2, 2])
    targets = targets_of(one, pyramid, one.pseudo_normal(pyramid), 0.3)
    wanted = one.distillation(targets, one.rebuild(pyramid))

    assert one.losses([*pyramid, domain])["aggregation"].item() == pytest.approx(wanted.item(), rel=1e-5)


def reached(loss: Tensor, part: nn.Module) -> list[Tensor]:
    """The gradients of the part's parameters that there are."""
    gradients = torch.autograd.grad(loss, [*part.parameters()], allow_unused=True, retain_graph=True)
    return [gradient for gradient in gradients if gradient is not None and bool(gradient.any())]


def test_each_loss_reaches_its_students_only() -> None:
    one = method().train()
    losses = one.losses([*observed(6), torch.tensor([0, 1, 0, 1, 2, 2])])

    assert losses.keys() == {"domains", "aggregation"}
    world = nn.ModuleList([one.bottleneck, one.student])
    assert [bool(reached(losses["domains"], part)) for part in (one.students, world)] == [True, False]
    assert [bool(reached(losses["aggregation"], part)) for part in (one.students, world)] == [False, True]
    assert all(not parameter.requires_grad for parameter in one.teacher.parameters())


def test_a_domains_student_learns_from_its_own_images() -> None:
    one = method().train()
    pyramid, domain = observed(7), torch.tensor([0, 1, 0, 1, 2, 0, 1])
    others = [torch.where((domain == 0)[:, None, None, None], level, -level) for level in pyramid]
    before = [reached(one.domains_loss(some, domain), one.students[0]) for some in (pyramid, others)]

    assert before[0]
    assert all(torch.equal(a, b) for a, b in zip(*before, strict=True))
    # The third domain has one image here: too few for the statistics of a batch.
    assert reached(one.domains_loss(pyramid, domain), one.students[1])
    assert not reached(one.domains_loss(pyramid, domain), one.students[2])


def test_its_loss_is_that_of_rd_on_those_images() -> None:
    one = method(domains=2).train()
    pyramid, domain = observed(5), torch.tensor([0, 1, 1, 0, 1])

    got = one.domains_loss(pyramid, domain)
    wanted = 0.0
    for k in (0, 1):
        mine = [level[domain == k] for level in pyramid]
        rd = build(find_method("rd"), config_for(find_method("rd")), teacher((4, 8, 16)), 0).train()
        rd.get_submodule("bottleneck").load_state_dict(one.students[k][0].state_dict())  # type: ignore[index]
        rd.get_submodule("student").load_state_dict(one.students[k][1].state_dict())  # type: ignore[index]
        wanted += rd.losses(mine)["distillation"].item()  # type: ignore[operator]
    assert got.item() == pytest.approx(wanted, rel=1e-5)


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


def test_no_student_that_is_asked_has_seen_the_image() -> None:
    one = method().eval()
    one.domain = torch.tensor([2, 0, 1])
    image = torch.rand(4, 3, SIZE, SIZE)

    assert isinstance(one, NamesSuspects)
    with torch.no_grad():
        answer = one.suspicion(image, torch.tensor([0, 2, 3, 7]))
        pyramid = one.pyramid(image)
        said = [student(pyramid) for student in one.students]
        # Of domains 2 and 1; the others were not trained on, 3 and 7 are dealt into 0 and 1.
        for i, (a, b) in enumerate([(0, 1), (0, 2), (1, 2), (0, 2)]):
            normal = [(said[a][level] + said[b][level]) / 2 for level in range(3)]
            wanted = one.head([local_distance(t, n)[i : i + 1] for t, n in zip(pyramid, normal, strict=True)])
            torch.testing.assert_close(answer.map[i : i + 1], wanted, rtol=1e-3, atol=1e-4)
            assert answer.score[i] == answer.map[i].max()


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
