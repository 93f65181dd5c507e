"""FCD's ten equations on hand-computed tensors; the student's positions; transformers and CNNs as graphs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.assembly import build, train
from blemish.errors import UsageError
from blemish.export import check_parity, export_graph
from blemish.images import ImageContract
from blemish.methods import GradientStage, PassStage
from blemish.methods.fcd import (
    FeatureConstrainedDistillation,
    difference,
    distillation,
    distillation_score,
    relation,
    relation_loss,
    to_anchor,
)
from blemish.modelfile import TeacherInfo, open_model_file
from blemish.nn.preparation import Preparation
from blemish.runtime.graph import OnnxRuntimeGraph
from blemish.teachers import FeaturePyramid
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, make_parts, part
from tiny import one_thread as one_thread  # applies to this module
from tiny import teacher as embedded

SHARED = Path(__file__).resolve().parents[2] / "shared" / "weights"
LEVELS = {
    "test_vit": (1, 3, 5),
    "vit_tiny_patch16_224": (3, 6, 9, 11),
    "tiny_vit_5m_224": (0, 1, 2),
    "resnet18": (1, 2, 3),
}
STRIDES = {"tiny_vit_5m_224": (4, 8, 16), "resnet18": (4, 8, 16)}


def untrained(name: str, size: int = SIZE) -> FeaturePyramid:
    """A teacher without trained weights, its class token and biases drawn at random too: timm starts some at 0."""
    torch.manual_seed(11)
    network: Any = timm.create_model(name, features_only=True, out_indices=LEVELS[name])
    if hasattr(network, "model"):
        network.model.set_input_size(img_size=(size, size))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 4:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    info = TeacherInfo(
        name=name,
        backbone=name,
        channels=tuple(network.feature_info.channels()),
        strides=STRIDES.get(name) or (16,) * len(LEVELS[name]),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.5),
        licence="none",
        source="none",
        sha256="none",
    )
    return FeaturePyramid(network, info)


def method(teacher: FeaturePyramid, **settings: Any) -> FeatureConstrainedDistillation:
    config = FeatureConstrainedDistillation.Config.model_validate({"image_size": SIZE} | settings)
    made = build(FeatureConstrainedDistillation, config, teacher, seed=0).eval()
    assert isinstance(made, FeatureConstrainedDistillation)
    if made.standardise is not None:
        for buffer in made.standardise.buffers():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return made


def distil(made: FeatureConstrainedDistillation, images: int = 8) -> GradientStage:
    *_, stage = made.stages(images)
    assert isinstance(stage, GradientStage)
    return stage


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def vit() -> FeaturePyramid:
    return untrained("test_vit")


# The equations, on tensors of two or three tokens of two channels.

TEACHER = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]])
STUDENT = torch.tensor([[[0.0, 0.0], [4.0, 4.0], [0.0, -1.0]]])
DIFFERENCES = [5 + 1, 5 + 1 - math.sqrt(0.5), 3 + 2]
"""|(3, 4)| and no direction; |(3, 4)| and an eighth of a turn; |(0, 3)| and opposite directions."""


def test_equation_1_the_anchor_is_the_mean_of_the_class_tokens(vit: FeaturePyramid, tmp_path: Path) -> None:
    files = sorted(make_parts(tmp_path / "parts", 11).iterdir())
    source = TrainingImages(files, ImageContract(), Preparation(0, 255, SIZE))
    made = method(vit, steps=1)
    Trainer("cpu", 0, None, lambda *_: None).fit(made, source)

    tokens = [vit.tokens(source.load(i)[None])[-1][0, 0] for i in range(len(source))]
    wanted = torch.stack(tokens).double().mean(0).float()
    assert wanted.norm() > 0.1
    torch.testing.assert_close(made.centre, wanted, rtol=1e-5, atol=1e-5)


def test_equation_1_for_standardised_channels(tmp_path: Path) -> None:
    """Their mean over the training images is 0, and so the anchor that no pass over the images looks for."""
    source = TrainingImages(
        sorted(make_parts(tmp_path / "parts", 11).iterdir()), ImageContract(), Preparation(0, 255, SIZE)
    )
    made = method(embedded((4, 8, 16)), steps=1)
    assert [stage.name for stage in made.stages(11)] == ["channel statistics", "distil"]
    Trainer("cpu", 0, None, lambda *_: None).fit(made, source)

    tokens = torch.cat([made.tokens(source.load(i)[None])[-1][:, 0] for i in range(len(source))])
    assert tokens.abs().max() > 0.05
    assert tokens.mean(0).abs().max() < 1e-4
    assert not made.get_buffer("centre").any()


def test_equations_2_and_7_distance_to_the_anchor() -> None:
    tokens = torch.tensor([[[4.0, 6.0], [9.0, 9.0]], [[1.0, 2.0], [9.0, 9.0]]])
    assert to_anchor(tokens, torch.tensor([1.0, 2.0])).tolist() == [5, 0]


def test_equation_3_literally() -> None:
    """|T - S| over all tokens, sqrt(25 + 25 + 9), and 1 - cos of each token added."""
    wanted = math.sqrt(59) + 1 + (1 - math.sqrt(0.5)) + 2
    assert float(distillation(TEACHER, STUDENT, literal=True)) == pytest.approx(wanted, rel=1e-6)
    twice = (torch.cat([TEACHER, TEACHER]), torch.cat([STUDENT, TEACHER]))
    assert float(distillation(*twice, literal=True)) == pytest.approx(wanted / 2, rel=1e-6)


def test_equation_3_per_token() -> None:
    assert float(distillation(TEACHER, STUDENT, literal=False)) == pytest.approx(sum(DIFFERENCES) / 3, rel=1e-6)


def test_equation_4_literally() -> None:
    first, second = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[5.0, 6.0], [7.0, 8.0]]])
    assert relation(first, second, (1, 1), literal=True)[0].tolist() == [[17, 23], [39, 53]]


def test_equation_4_of_tokens_of_length_1() -> None:
    first, second = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[[5.0, 0.0], [-3.0, 4.0]]])
    wanted = torch.tensor([[0.6, (-9 + 16) / 25], [0.0, 0.8]])
    torch.testing.assert_close(relation(first, second, (1, 1), literal=False)[0], wanted)


def test_equation_4_between_layers_of_different_shape() -> None:
    """A grid of 2 x 2 with one channel, and a grid of 1 x 1 with two: the mean of four, times two channels."""
    first = torch.tensor([[[99.0], [1.0], [2.0], [3.0], [6.0]]])
    second = torch.tensor([[[99.0, 99.0], [5.0, -1.0]]])
    assert relation(first, second, (2, 1), literal=True)[0].tolist() == [[15, -3]]
    assert relation(first, second, (2, 1), literal=False)[0].tolist() == [[1, -1]]


def test_equation_4_between_channels_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(1, 17, 3, generator=generator), torch.randn(1, 5, 2, generator=generator)
    got = relation(first, second, (4, 2), literal=True)[0]
    for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(2)).tolist():
        wanted = 0.0
        for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist():
            four = [first[0, 1 + 4 * (2 * row + a) + 2 * column + b, i] for a, b in ((0, 0), (0, 1), (1, 0), (1, 1))]
            wanted += float(sum(four)) / 4 * float(second[0, 1 + 2 * row + column, j])
        assert float(got[i, j]) == pytest.approx(wanted, rel=1e-4)


def test_equation_5() -> None:
    teacher, student = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 3.0], [4.0, 1.0]]])
    assert float(relation_loss(teacher, student, literal=True)) == 5
    # The root of the mean of 0, 9, 16 and 0.
    assert float(relation_loss(teacher, student, literal=False)) == 2.5


class Told(nn.Module):
    """Stands for a network that gives the tokens it is told."""

    def __init__(self, tokens: list[Tensor]) -> None:
        super().__init__()
        self.tokens = lambda _: tokens


@pytest.mark.parametrize("literal", [True, False])
def test_equation_6(vit: FeaturePyramid, literal: bool) -> None:
    """Two layers, the second five times the first; the anchor at (0, 0), the student's last class token at (0, 15)."""
    made = method(vit, constraint=0.5, literal=literal)
    made.register_buffer("centre", torch.zeros(2))
    student = STUDENT.clone()
    student[0, 0] = torch.tensor([0.0, 3.0])
    made.student = Told([student, 5 * student])  # type: ignore[assignment]
    made.grids = [1, 1]

    losses = made.losses([images(1), TEACHER, 5 * TEACHER])
    distances = [math.sqrt(10), 5, 3]
    turns = [1 - 4 / 5, 1 - math.sqrt(0.5), 2]
    if literal:
        wanted = (1 + 5) * math.sqrt(10 + 25 + 9) + 2 * sum(turns)
        # 5 T T^t - 5 S S^t, where T T^t = [[25, 3, 8], [3, 1, 0], [8, 0, 4]] and so for S.
        gaps = [25 - 9, 3 - 12, 8 + 3, 3 - 12, 1 - 32, 0 + 4, 8 + 3, 0 + 4, 4 - 1]
        gram = 5 * math.sqrt(sum(gap**2 for gap in gaps))
    else:
        wanted = ((1 + 5) * sum(distances) + 2 * sum(turns)) / 3
        # Cosines of tokens with each other: twice those of 1 and 2, 1 and 3, 2 and 3.
        half = math.sqrt(0.5)
        gram = math.sqrt(2 * ((0.6 - half) ** 2 + (0.8 + 1) ** 2 + (0 + half) ** 2) / 9)
    assert float(losses["distillation"]) == pytest.approx(wanted, rel=1e-5)
    assert float(losses["anchor"]) == pytest.approx(0.5 * 15, rel=1e-6)
    assert float(losses["gram"]) == pytest.approx(0.5 * gram, rel=1e-5)
    assert losses.keys() == {"distillation", "anchor", "gram"}


def test_equation_8() -> None:
    assert difference(TEACHER, STUDENT)[0].tolist() == pytest.approx(DIFFERENCES, rel=1e-6)


def test_equation_9() -> None:
    """The class token's difference, 10, and the mean of the k largest of the patches'."""
    differences = torch.tensor([[10.0, 1.0, 4.0, 3.0, 2.0]])
    assert [float(distillation_score(differences, k)) for k in (1, 2, 4, 20)] == [14, 13.5, 12.5, 12.5]


def test_equation_10(vit: FeaturePyramid) -> None:
    """Score and map of two images, by loops over what teacher and student give."""
    made = method(vit, top_k=5)
    made.get_buffer("centre").copy_(torch.randn(64))
    with torch.no_grad():
        answer = made(images())
        pairs = list(zip(vit.tokens(images()), made.student.tokens(images()), strict=True))
    maps = torch.zeros(2, SIZE, SIZE)
    for image in range(2):
        score = 0.0
        for layer, (t, s) in enumerate(pairs):
            gaps = [
                float((a - b).norm() + 1 - a @ b / a.norm() / b.norm()) for a, b in zip(t[image], s[image], strict=True)
            ]
            score += gaps[0] + sum(sorted(gaps[1:])[-5:]) / 5
            grid = torch.tensor(gaps[1:]).reshape(1, 1, 4, 4)
            maps[image] += F.interpolate(grid, SIZE, mode="bilinear", align_corners=False)[0, 0]
            if layer == len(pairs) - 1:
                score += float((t[image, 0] - made.centre).norm() + (s[image, 0] - made.centre).norm())
        assert float(answer.score[image]) == pytest.approx(score, rel=1e-4)
    # Smoothing keeps the mean of a map, nearly: it mirrors at the border.
    torch.testing.assert_close(answer.map.mean((1, 2)), maps.mean((1, 2)), rtol=1e-4, atol=0)
    ndimage = pytest.importorskip("scipy.ndimage")
    smoothed = np.stack([ndimage.gaussian_filter(one, 4) for one in maps.numpy()])
    np.testing.assert_allclose(answer.map.numpy(), smoothed, rtol=1e-4)


def test_without_the_constraints(vit: FeaturePyramid) -> None:
    plain, both = method(vit, anchor=False, gram=False), method(vit)
    assert [stage.name for stage in plain.stages(8)] == ["distil"]
    assert [stage.name for stage in both.stages(8)] == ["anchor", "distil"]
    stage = distil(plain)
    assert stage.losses(stage.observe(images())).keys() == {"distillation"}
    assert "gram" not in distil(method(embedded((16,)), strides=[16])).losses([images(), torch.rand(2, 17, 112)])
    with torch.no_grad():
        plain.student.load_state_dict(both.student.state_dict())
        anchored = both(images()).score - plain(images()).score
        tokens = [network.tokens(images())[-1][:, 0] for network in (vit, both.student)]
    torch.testing.assert_close(anchored, sum(token.norm(dim=1) for token in tokens), rtol=1e-3, atol=1e-3)


# The student and its training.


def test_the_student_has_the_teacher_s_positions_and_keeps_them(vit: FeaturePyramid, tmp_path: Path) -> None:
    made = method(vit, steps=3, batch_size=4, learning_rate=0.2)
    wanted = {name: tensor.clone() for name, tensor in vit.network.named_parameters()}
    before = {name: tensor.clone() for name, tensor in made.student.network.named_parameters()}
    assert before.keys() == wanted.keys()
    same = {name for name in before if torch.equal(before[name], wanted[name])}
    assert same == {"model.pos_embed"}
    source = TrainingImages(
        sorted(make_parts(tmp_path / "parts", 8).iterdir()), ImageContract(), Preparation(0, 255, SIZE)
    )
    Trainer("cpu", 0, None, lambda *_: None).fit(made, source)

    after = dict(made.student.network.named_parameters())
    assert torch.equal(after["model.pos_embed"], wanted["model.pos_embed"])
    assert {name for name in after if torch.equal(after[name], before[name])} == {"model.pos_embed"}


def test_a_network_without_positions_copies_nothing() -> None:
    student = method(untrained("resnet18")).student
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_the_teacher_s_features(vit: FeaturePyramid) -> None:
    """Those of transformers with a class token and of ResNets as they are; others standardised."""
    for teacher, name in ((vit, "test_vit"), (untrained("resnet18"), "resnet18")):
        made = method(teacher)
        assert made.standardise is None, name
        assert all(torch.equal(a, b) for a, b in zip(made.tokens(images()), teacher.tokens(images()), strict=True))
    made = method(embedded((8, 16)), strides=[8, 16])
    assert made.standardise is not None
    for level, tokens in enumerate(made.tokens(images())):
        mean, deviation = (made.standardise.get_buffer(f"{what}{level}") for what in ("mean", "deviation"))
        wanted = (embedded((8, 16))(images())[level] - mean) / deviation
        torch.testing.assert_close(tokens[:, 1:], wanted.flatten(2).transpose(1, 2))
        torch.testing.assert_close(tokens[:, 0], wanted.mean((2, 3)))


def test_the_schedule(vit: FeaturePyramid) -> None:
    stage = distil(method(vit), images=70)
    assert isinstance(stage.optimizer, torch.optim.SGD)
    group = stage.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.9, 0)
    assert (stage.batch_size, stage.steps, stage.warm_up, stage.clip) == (4, 200 * 18, 5 * 18, 1.0)
    assert not isinstance(stage, PassStage)


@pytest.mark.parametrize("layers", [[3, 3], [6, 3], [-1, 3], []])
def test_layers_that_are_none(layers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must grow|at least 1"):
        FeatureConstrainedDistillation.Config.model_validate({"layers": layers})


# As a graph, and from the command's function to a model file.


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tiny_vit_5m_224", "resnet18"])
def test_the_graph_agrees_one_and_three_at_a_time(name: str) -> None:
    made = method(untrained(name))
    made.get_buffer("centre").copy_(torch.randn(made.teacher.info.channels[-1]))
    assert made.teacher.has_class_token == name.startswith("vit")
    preparation = Preparation(0, 255, SIZE)
    graph = OnnxRuntimeGraph(export_graph(made, preparation, ImageContract()))
    parity = check_parity(graph, made, preparation, [part(100 + i) for i in range(3)])
    assert (parity.images, parity.batch_sizes) == (3, (1, 3))


def test_a_vision_transformer_from_a_weights_folder(tmp_path: Path) -> None:
    """Also at another size than it was made for, 160: its position embedding is interpolated, and is the student's."""
    from safetensors.torch import load, save_file

    torch.manual_seed(4)
    whole: Any = timm.create_model("test_vit", pretrained=False)
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file({name: tensor.clone() for name, tensor in whole.state_dict().items()}, weights / "test_vit.safetensors")
    settings = {"image_size": 96, "steps": 1, "batch_size": 4, "layers": [0, 2, 5]}
    options: dict[str, Any] = {"method": "fcd", "teacher": "test_vit", "weights": weights, "hold_out": 0.25}
    parts = make_parts(tmp_path / "parts", 11)
    detector = train(parts, tmp_path / "part.blemish", preset="paper", settings=settings, device="cpu", **options)

    assert detector.manifest is not None
    info = detector.manifest.teacher
    assert (info.channels, info.strides) == ((64,) * 3, (16,) * 3)
    assert len(info.sha256) == 64
    learned = load(open_model_file(tmp_path / "part.blemish").weights())
    assert learned["student.network.model.pos_embed"].shape == (1, 37, 64)
    with pytest.raises(UsageError, match="it has no layer 9, only 0 to 5"):
        train(parts, tmp_path / "b", preset="paper", settings={**settings, "layers": [2, 9]}, device="cpu", **options)


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no folder of real weights")
def test_real_transformer_weights() -> None:
    """TinyViT: what it knows of positions, relative to each other, is the student's too, and frozen."""
    config = FeatureConstrainedDistillation.Config(image_size=64)
    teacher = FeatureConstrainedDistillation.open_teacher("tiny_vit_5m_224", config, SHARED)
    assert (teacher.info.channels, teacher.info.strides) == ((64, 128, 160), (4, 8, 16))
    assert teacher.info.sha256.startswith("8ee79f8c")

    made = method(teacher)
    known = dict(teacher.network.named_parameters())
    frozen = {name: p for name, p in made.student.network.named_parameters() if not p.requires_grad}
    assert frozen.keys() == {name for name in known if name.endswith("attention_biases")}
    assert len(frozen) == 8
    assert all(torch.equal(parameter, known[name]) for name, parameter in frozen.items())
    with torch.no_grad():
        assert made(images()).score.isfinite().all()
