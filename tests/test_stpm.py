"""STPM against its description: distance, loss and map by hand, and a student that is the teacher untrained."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.methods import GradientStage, PassStage
from blemish.methods.stpm import StudentTeacherPyramid, unit_distance
from blemish.modelfile import TeacherInfo
from blemish.teachers import FeaturePyramid
from tiny import one_thread as one_thread  # applies to this module
from tiny import teacher as embedded


def vectors(*columns: list[float]) -> Tensor:
    """One image of 1 x n locations, each with the channels of one column."""
    return torch.tensor(columns).T[None, :, None, :]


def test_the_distance_by_hand() -> None:
    teacher = vectors([3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, 5.0])
    student = vectors([4.0, 3.0], [9.0, 0.0], [-1.0, 0.0], [1.0, 1.0])

    # (0.6 - 0.8)^2 + (0.8 - 0.6)^2 = 0.08; the same direction; the opposite one: 2^2; an eighth of a turn.
    expected = [0.04, 0, 2, 1 - math.sqrt(0.5)]
    assert unit_distance(teacher, student)[0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_distance_keeps_its_digits_where_it_is_small() -> None:
    angle = 1e-4
    distance = float(unit_distance(vectors([1.0, 0.0]), vectors([math.cos(angle), math.sin(angle)])))

    assert distance == pytest.approx(angle**2 / 2, rel=1e-3)


# The student.


def resnet18() -> FeaturePyramid:
    torch.manual_seed(5)
    network = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
    info = TeacherInfo(
        name="resnet18",
        backbone="resnet18",
        channels=(64, 128, 256),
        strides=(4, 8, 16),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.5),
        licence="none",
        source="none",
        sha256="none",
    )
    return FeaturePyramid(network, info)


@pytest.fixture(scope="module", params=["resnet18", "embedded"])
def teacher(request: pytest.FixtureRequest) -> FeaturePyramid:
    return resnet18() if request.param == "resnet18" else embedded((4, 8, 16))


def test_the_student_has_the_teachers_layers_and_none_of_its_weights(teacher: FeaturePyramid) -> None:
    torch.manual_seed(1)
    student = teacher.untrained_copy()

    wanted, got = teacher.network.state_dict(), student.network.state_dict()
    assert {name: t.shape for name, t in got.items()} == {name: t.shape for name, t in wanted.items()}
    kernels = [name for name, tensor in wanted.items() if tensor.ndim == 4]
    assert kernels
    assert not any(torch.equal(got[name], wanted[name]) for name in kernels)
    means = [name for name in got if name.endswith("running_mean")]
    assert means
    assert all(not got[name].any() for name in means)


def test_the_seed_draws_the_student(teacher: FeaturePyramid) -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return next(teacher.untrained_copy().parameters())

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_student_with_the_teachers_weights_sees_what_the_teacher_sees(teacher: FeaturePyramid) -> None:
    student = teacher.untrained_copy().eval()
    student.network.load_state_dict(teacher.network.state_dict())
    image = torch.rand(2, 3, 64, 64)

    with torch.no_grad():
        for t, s in zip(teacher(image), student(image), strict=True):
            assert torch.equal(t, s)


def test_the_student_learns_and_the_teacher_does_not(teacher: FeaturePyramid) -> None:
    method = method_on(teacher).train()

    assert all(parameter.requires_grad for parameter in method.student.parameters())
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    norms = [[m for m in part.modules() if isinstance(m, nn.BatchNorm2d)] for part in (method.student, method.teacher)]
    assert norms[0]
    assert all(norm.training for norm in norms[0])
    assert not any(norm.training for norm in norms[1])
    before = [norm.running_mean.clone() for part in norms for norm in part if norm.running_mean is not None]
    stage_of(method).losses(stage_of(method).observe(torch.rand(2, 3, 64, 64)))["distillation"].backward()
    after = [norm.running_mean for part in norms for norm in part if norm.running_mean is not None]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True] * len(norms[0]) + [False] * len(norms[1])


def test_the_learned_state_is_the_student(teacher: FeaturePyramid) -> None:
    state = method_on(teacher).learned_state()

    parts = {"student"} if teacher.info.backbone == "resnet18" else {"student", "standardise"}
    assert {name.partition(".")[0] for name in state} == parts


# Loss, schedule and map.


def method_on(teacher: FeaturePyramid, **settings: object) -> StudentTeacherPyramid:
    torch.manual_seed(2)
    config = StudentTeacherPyramid.Config.model_validate({"image_size": 64} | settings)
    method = StudentTeacherPyramid(config, teacher).eval()
    if method.standardise is not None:
        for buffer in method.standardise.buffers():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return method


def stage_of(method: StudentTeacherPyramid, images: int = 8) -> GradientStage:
    *before, stage = method.stages(images)
    assert isinstance(stage, GradientStage)
    assert [type(one) for one in before] == ([] if method.teacher.info.backbone == "resnet18" else [PassStage])
    return stage


def distances(method: StudentTeacherPyramid, image: Tensor) -> list[Tensor]:
    """By loops over images and locations."""
    maps = []
    pyramid = method.teacher(image)
    if method.standardise is not None:
        mean, deviation = ([method.standardise.get_buffer(f"{n}{k}") for k in range(3)] for n in ("mean", "deviation"))
        pyramid = [(level - m) / d for level, m, d in zip(pyramid, mean, deviation, strict=True)]
    for t, s in zip(pyramid, method.student(image), strict=True):
        distance = torch.zeros(len(image), *t.shape[2:])
        for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in distance.shape)).tolist():
            difference = t[b, :, i, j] / t[b, :, i, j].norm() - s[b, :, i, j] / s[b, :, i, j].norm()
            distance[b, i, j] = difference @ difference / 2
        maps.append(distance)
    return maps


def test_the_loss_is_the_sum_over_scales_of_mean_distances(teacher: FeaturePyramid) -> None:
    method = method_on(teacher)
    stage = stage_of(method)
    image = torch.rand(2, 3, 64, 64)

    losses = stage.losses(stage.observe(image))
    with torch.no_grad():
        expected = sum(float(level.mean()) for level in distances(method, image))
    assert losses.keys() == {"distillation"}
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_in_float32_under_autocast(teacher: FeaturePyramid) -> None:
    stage = stage_of(method_on(teacher))
    observed = stage.observe(torch.rand(2, 3, 64, 64))
    plain = stage.losses(observed)["distillation"]

    with torch.autocast("cpu", torch.bfloat16):
        cast = stage.losses(observed)["distillation"]
    assert cast.dtype == torch.float32
    assert cast.item() == plain.item()


def test_the_map_is_the_product_of_the_enlarged_distances(teacher: FeaturePyramid) -> None:
    method = method_on(teacher)
    image = torch.rand(2, 3, 64, 64)

    with torch.no_grad():
        anomaly_map, score = method(image)
        expected = torch.ones(2, 64, 64)
        for distance in distances(method, image):
            expected *= F.interpolate(distance[:, None], 64, mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(anomaly_map, expected, rtol=1e-3, atol=1e-6)
    assert score.tolist() == anomaly_map.amax((1, 2)).tolist()


def test_the_schedule_is_the_papers() -> None:
    stage = stage_of(method_on(embedded((4, 8, 16))), images=70)

    assert isinstance(stage.optimizer, torch.optim.SGD)
    group = stage.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)
    assert (stage.batch_size, stage.steps) == (32, 100 * 3)
    assert stage_of(method_on(embedded((4, 8, 16)), steps=7)).steps == 7
