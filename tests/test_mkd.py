"""MKDAD against its description: cloner, losses and score by hand, and the written-out gradient against autograd."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from blemish.export import check_parity, export_graph
from blemish.images import ImageContract
from blemish.methods import GradientStage, PassStage
from blemish.methods.mkd import (
    MultiresolutionDistillation,
    build_cloner,
    direction,
    level_gradient,
    opening,
    value,
)
from blemish.modelfile import TeacherInfo
from blemish.nn.plain import input_gradient, is_plain, outputs
from blemish.nn.preparation import Preparation
from blemish.runtime.graph import OnnxRuntimeGraph
from blemish.teachers import FeaturePyramid, open_teacher
from tiny import SIZE, part
from tiny import one_thread as one_thread  # applies to this module
from tiny import teacher as embedded

SHARED = Path(__file__).parents[2] / "shared" / "weights"
STRIDES = (2, 4, 8, 16)


# Networks in a row, and the way back through them.


def plain_network() -> list[nn.Module]:
    """In float64, so that autograd's answer can be met to many digits."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 5, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return [layer.double() for layer in layers]


def test_the_gradient_is_autograds() -> None:
    layers = plain_network()
    image = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    through = outputs(layers, image)
    weights = {tap: torch.randn_like(through[tap]) for tap in (3, 8)}
    (wanted,) = torch.autograd.grad(sum((through[tap] * w).sum() for tap, w in weights.items()), image)

    got = input_gradient(layers, through, weights, softness=1e-12)
    assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_outputs_are_what_each_layer_gives() -> None:
    layers = plain_network()
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    through = outputs(layers, image)

    assert len(through) == 9
    assert torch.equal(through[-1], nn.Sequential(*layers)(image))
    assert float(through[1].detach().min()) < 0  # the ReLU after it, in place, must not touch it


def test_a_small_change_changes_the_gradient_little() -> None:
    """Across a ReLU's kink and a pooling's tie, where autograd jumps."""
    layers = [nn.ReLU(), nn.MaxPool2d(2)]
    one = torch.ones(1, 1, 1, 1)

    def gradient(*pixels: float) -> Tensor:
        through = outputs(layers, torch.tensor(pixels).reshape(1, 1, 2, 2))
        return input_gradient(layers, through, {2: one}, softness=0.1).flatten()

    assert gradient(1.0, 1.0, 0.0, 0.0).tolist() == pytest.approx([0.5, 0.5, 0, 0])
    assert gradient(1.0, 1 + 1e-5, 0.0, 0.0).tolist() == pytest.approx([0.5, 0.5, 0, 0], abs=1e-3)
    assert gradient(1.0, 0.8, 0.0, 0.0).tolist() == [1, 0, 0, 0]

    def behind_a_relu(pixel: float) -> float:
        through = outputs([nn.ReLU()], torch.tensor([pixel, 1.0]).reshape(1, 1, 1, 2))
        return float(input_gradient([nn.ReLU()], through, {1: torch.ones(1, 1, 1, 2)}, softness=0.1)[..., 0])

    assert behind_a_relu(-0.3) == 0
    assert behind_a_relu(1e-6) == pytest.approx(0, abs=1e-4)
    assert behind_a_relu(0.3) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        nn.MaxPool2d(3, 2, 1),
        nn.BatchNorm2d(3),
        nn.GELU(),
    ],
)
def test_what_it_cannot_go_back_through_is_not_plain(layer: nn.Module) -> None:
    assert is_plain(plain_network())
    assert not is_plain([*plain_network(), layer])


# The cloner.


def test_the_cloner_has_the_published_layers() -> None:
    network = build_cloner(STRIDES, (128, 256, 512, 512), pooled=True)
    # 16,16,M, 16,128,M, 16,16,256,M, 16,16,512,M, 16,16,512,M
    wanted = [(3, 16), (16, 16), (16, 16), (16, 128), (128, 16), (16, 16), (16, 256)]
    wanted += [(256, 16), (16, 16), (16, 512), (512, 16), (16, 16), (16, 512)]

    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == wanted
    assert sum(p.numel() for p in network.parameters()) == sum(9 * i * o + o for i, o in wanted) == 345_280
    assert all(isinstance(network[tap - 1], nn.MaxPool2d) for tap in network.taps)
    assert [tuple(x.shape[1:]) for x in network.levels(torch.zeros(1, 3, 64, 64))] == [
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]


@pytest.mark.parametrize("strides", [(4, 8, 16), (1, 16), (8,)])
def test_the_cloner_gives_any_levels(strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels = tuple(5 + i for i in range(len(strides)))
    network = build_cloner(strides, channels, pooled=False)

    levels = network.levels(torch.randn(2, 3, 32, 32))
    assert [tuple(level.shape) for level in levels] == [
        (2, c, 32 // s, 32 // s) for s, c in zip(strides, channels, strict=True)
    ]
    assert all((level < 0).any() for level in levels)


# Loss and score.


def test_direction_and_value_by_hand() -> None:
    teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).reshape(2, 1, 1, 2)
    student = torch.tensor([[4.0, 3.0], [0.0, 5.0]]).reshape(2, 1, 1, 2)

    assert direction(teacher, student).tolist() == pytest.approx([1 - 24 / 25, 1], abs=1e-6)
    assert value(teacher, student).tolist() == [1, 13]


def test_the_gradient_of_a_level_is_autograds() -> None:
    torch.manual_seed(0)
    teacher, student = (torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    total = (direction(teacher, student) + 0.7 * value(teacher, student)).sum()
    by_teacher, by_student = torch.autograd.grad(total, (teacher, student))

    assert torch.allclose(level_gradient(teacher, student, 0.7), by_student, atol=1e-9)
    assert torch.allclose(level_gradient(student, teacher, 0.7), by_teacher, atol=1e-9)


def test_a_level_of_zeros_has_a_finite_gradient() -> None:
    assert level_gradient(torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), 0.5).isfinite().all()
    assert level_gradient(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), 0.5).abs().max() == 0


def test_the_opening_is_scipys() -> None:
    torch.manual_seed(0)
    anomaly_map = torch.rand(2, 20, 20)
    wanted = [ndimage.grey_opening(one.numpy(), size=(3, 3), mode="constant", cval=0) for one in anomaly_map]

    # Beyond the border there is nothing here, and zeros in scipy: compared where neither is seen.
    assert np.allclose(opening(anomaly_map, 3)[:, 2:-2, 2:-2], np.stack(wanted)[:, 2:-2, 2:-2])


CHANNELS = (6, 7, 8, 9)


class SmallVgg(nn.Sequential):
    """VGG16's layers in timm's form, with few channels."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for block, widths in enumerate([(4, 4), (4, 6), (5, 5, 7), (5, 5, 8), (5, 5, 9)]):
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = width
            if block < 4:
                layers.append(nn.MaxPool2d(2, 2))
        super().__init__(*layers)
        poolings = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        self.ends = [i - 1 for i in (*poolings[1:], len(layers))]

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]  # as timm's: the levels
        levels = []
        for i, layer in enumerate(self):
            x = layer(x)
            if i in self.ends:
                levels.append(x)
        return levels


def vgg() -> FeaturePyramid:
    torch.manual_seed(5)
    info = TeacherInfo(
        name="vgg",
        backbone="vgg16",
        channels=CHANNELS,
        strides=STRIDES,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.5),
        licence="none",
        source="none",
        sha256="none",
    )
    return FeaturePyramid(SmallVgg(), info)


@pytest.mark.parametrize(
    ("backbone", "plain"), [("vgg16", True), ("vgg11", True), ("vgg16_bn", False), ("resnet18", False)]
)
def test_of_timms_networks_vggs_are_plain(backbone: str, plain: bool) -> None:
    with torch.device("meta"):
        network = timm.create_model(backbone, features_only=True, out_indices=(1, 2, 3, 4))
    assert is_plain(list(network.children())) == plain


@pytest.fixture(scope="module", params=["vgg", "embedded"])
def method(request: pytest.FixtureRequest) -> MultiresolutionDistillation:
    teacher = vgg() if request.param == "vgg" else embedded(STRIDES)
    torch.manual_seed(2)
    made = MultiresolutionDistillation(MultiresolutionDistillation.Config(image_size=SIZE), teacher).eval()
    assert made.published == (request.param == "vgg")
    return made


def stage_of(method: MultiresolutionDistillation, images: int) -> GradientStage:
    *before, stage = method.stages(images)
    assert isinstance(stage, GradientStage)
    assert [type(one) for one in before] == ([] if method.published else [PassStage])
    return stage


def levels_by_hand(method: MultiresolutionDistillation, image: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Teacher's and cloner's levels."""
    levels = [F.max_pool2d(level, 2) if method.published else level for level in method.teacher(image)]
    x, cloned = (image - method.teacher.mean) / method.teacher.std, []
    for number, layer in enumerate(method.cloner, 1):
        x = layer(x)
        if number in method.cloner.taps:
            cloned.append(x.clone())
    return list(zip(levels, cloned, strict=True))


def test_losses_sum_over_four_levels_and_the_score_over_three(method: MultiresolutionDistillation) -> None:
    image = torch.rand(3, 3, SIZE, SIZE)
    stage = stage_of(method, 3)
    with torch.no_grad():
        losses = stage.losses(stage.observe(image))
        score = method(image).score
        pairs = levels_by_hand(method, image)

    assert len(pairs) == 4
    directions = torch.stack([1 - F.cosine_similarity(t.flatten(1), s.flatten(1)) for t, s in pairs])
    values = torch.stack([((t - s) ** 2).mean((1, 2, 3)) for t, s in pairs])
    assert losses.keys() == {"direction", "value"}
    assert losses["direction"].item() == pytest.approx(directions.mean(1).sum().item(), rel=1e-4)
    assert losses["value"].item() == pytest.approx(0.5 * values.mean(1).sum().item(), rel=1e-4)
    assert score.tolist() == pytest.approx((directions + 0.5 * values)[1:].sum(0).tolist(), rel=1e-4)


def test_the_map_is_near_autograds(method: MultiresolutionDistillation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly a rounding it is autograd's: through both networks, or with the levels of the teacher held."""
    monkeypatch.setattr("blemish.methods.mkd.SOFTNESS", 1e-9)
    image = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    pairs = levels_by_hand(method, image)
    kept = [(t if method.published else t.detach(), s) for t, s in pairs[1:]]
    total = sum(direction(t, s).sum() + 0.5 * value(t, s).sum() for t, s in kept)
    (wanted,) = torch.autograd.grad(total, image)
    wanted = wanted * method.teacher.std
    with torch.no_grad():
        _, got = method.score_and_gradient(image)
        anomaly_map = method(image).map

    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-3
    smooth = [ndimage.gaussian_filter(one.abs().sum(0).numpy(), 4) for one in wanted]
    opened = np.stack([ndimage.grey_opening(one, size=(5, 5), mode="nearest") for one in smooth])
    assert np.allclose(anomaly_map.numpy()[:, 4:-4, 4:-4], opened[:, 4:-4, 4:-4], rtol=1e-2, atol=1e-3 * opened.max())


def test_rounding_moves_the_gradient_a_little(method: MultiresolutionDistillation) -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        one, other = method(image).map, method(image + 1e-6).map
    assert float((one - other).abs().max() / one.max()) < 1e-4


def test_the_graph_agrees(method: MultiresolutionDistillation) -> None:
    preparation = Preparation(0, 255, SIZE)
    graph = OnnxRuntimeGraph(export_graph(method, preparation, ImageContract()))
    parity = check_parity(graph, method, preparation, [part(i, defect=i == 1) for i in range(3)])
    assert parity.largest_map_difference < 1e-3


def test_what_is_learned_is_the_cloner(method: MultiresolutionDistillation) -> None:
    parts = {name.partition(".")[0] for name in method.learned_state()}
    assert parts == ({"cloner"} if method.published else {"cloner", "standardise"})


def test_the_schedule_is_the_published_one(method: MultiresolutionDistillation) -> None:
    stage = stage_of(method, images=130)
    group = stage.optimizer.param_groups[0]
    assert isinstance(stage.optimizer, torch.optim.Adam)
    assert (group["lr"], stage.batch_size, stage.steps) == (1e-3, 64, 601 * 3)
    assert MultiresolutionDistillation.Config().image_size == 128


@pytest.mark.parametrize("settings", [{"strides": (4, 8, 32)}, {"strides": (14,)}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="strides 1, 2, 4, 8 and 16 only"):
        MultiresolutionDistillation.Config.model_validate(settings)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs VGG16's weights in ../shared/weights")
def test_the_published_teacher_learns_and_finds_a_defect() -> None:
    """A few steps on parts: the loss falls, and the map of a defective part is highest at the defect."""
    teacher = open_teacher("vgg16", strides=STRIDES, weights=SHARED)
    torch.manual_seed(0)
    method = MultiresolutionDistillation(MultiresolutionDistillation.Config(image_size=SIZE), teacher)
    preparation = Preparation(0, 255, SIZE)
    good = preparation(torch.from_numpy(np.stack([part(i) for i in range(8)])))
    stage = stage_of(method, 8)
    observed = stage.observe(good)
    history = []
    for _ in range(60):
        stage.optimizer.zero_grad()
        loss = torch.stack(list(stage.losses(observed).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        stage.optimizer.step()
        history.append(loss.item())
    assert all(math.isfinite(loss) for loss in history)
    assert history[-1] < 0.7 * history[0]

    with torch.no_grad():
        pair = preparation(torch.from_numpy(np.stack([part(50), part(50, defect=True)])))
        anomaly_map, score = method.eval()(pair)
    assert score[1] > score[0]
    row, column = divmod(int((anomaly_map[1] - anomaly_map[0]).argmax()), SIZE)
    # The defect is at rows 36 to 50 and columns 40 to 50 of 72 x 80 pixels.
    assert 24 <= row * 72 / SIZE <= 62
    assert 28 <= column * 80 / SIZE <= 62
