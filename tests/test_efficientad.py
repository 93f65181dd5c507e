"""EfficientAD against its published description: layers, losses, maps, schedule; and our own textures and targets."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from blemish.assembly import build
from blemish.export import export_graph
from blemish.images import ImageContract
from blemish.methods import GradientStage, PassStage
from blemish.methods.describing import slower_at_the_end
from blemish.methods.efficientad import EfficientAD, hard_feature_loss, jitter
from blemish.nn.description import CHANNELS, Readout, Resize, autoencoder, patch_description_network
from blemish.nn.preparation import Preparation
from blemish.nn.textures import synthetic_textures
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, config_for, teacher
from tiny import one_thread as one_thread  # applies to this module

CPU = torch.device("cpu")
GRID = SIZE // 4 - 8


@cache
def method() -> EfficientAD:
    """Untrained, 64 pixels; tests that change it restore it."""
    config = config_for(EfficientAD)
    built = build(EfficientAD, config, teacher(config.strides), seed=0)
    assert isinstance(built, EfficientAD)
    return built.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The published layers: inputs, outputs, kernel.
PDN_S = [(3, 128, 4), (128, 256, 4), (256, 256, 3), (256, CHANNELS, 4)]
PDN_M = [(3, 256, 4), (256, 512, 4), (512, 512, 1), (512, 512, 3), (512, CHANNELS, 4), (CHANNELS, CHANNELS, 1)]
STUDENT_S = [*PDN_S[:-1], (256, 768, 4)]
STUDENT_M = [*PDN_M[:-2], (512, 768, 4), (768, 768, 1)]
AUTOENCODER = [(3, 32, 4), (32, 32, 4), (32, 64, 4), (64, 64, 4), (64, 64, 4), (64, 64, 8)]
AUTOENCODER += [(64, 64, 4)] * 6 + [(64, 64, 3), (64, CHANNELS, 3)]


def published(layers: list[tuple[int, int, int]]) -> int:
    return sum(inputs * outputs * kernel**2 + outputs for inputs, outputs, kernel in layers)


@pytest.mark.parametrize(
    ("size", "outputs", "layers"),
    [("S", CHANNELS, PDN_S), ("M", CHANNELS, PDN_M), ("S", 768, STUDENT_S), ("M", 768, STUDENT_M)],
)
def test_a_pdn_has_the_published_parameters_and_grid(
    size: Literal["S", "M"], outputs: int, layers: list[tuple[int, int, int]]
) -> None:
    with torch.device("meta"):
        network = patch_description_network(size, outputs)
        assert network(torch.empty(2, 3, 256, 256)).shape == (2, outputs, 56, 56)
        assert network(torch.empty(1, 3, 96, 96)).shape == (1, outputs, 16, 16)
    assert parameters(network) == published(layers)


@pytest.mark.parametrize("size", ["S", "M"])
def test_an_output_of_a_pdn_sees_33_pixels(size: Literal["S", "M"]) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 44, 44, requires_grad=True)
    patch_description_network(size, 8)(image)[0, :, 1, 2].sum().backward()
    assert image.grad is not None
    rows, columns = torch.nonzero(image.grad.abs().sum((0, 1)), as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 36, 8, 40)


def test_the_autoencoder_has_the_published_layers() -> None:
    with torch.device("meta"):
        network = autoencoder(256)
        assert network(torch.empty(2, 3, 256, 256)).shape == (2, CHANNELS, 56, 56)
        code = network[:11](torch.empty(2, 3, 256, 256))
    assert code.shape == (2, 64, 1, 1)
    assert parameters(network) == published(AUTOENCODER)
    sides = [len(layer.get_buffer("matrix")) for layer in network if isinstance(layer, Resize)]
    assert sides == [3, 8, 15, 32, 63, 127, 56]


@pytest.mark.parametrize("size", [64, 96, 128, 288])
def test_the_autoencoder_takes_other_sizes(size: int) -> None:
    with torch.device("meta"):
        network = autoencoder(size)
        assert network[:11](torch.empty(1, 3, size, size)).shape == (1, 64, 1, 1)
        assert network(torch.empty(1, 3, size, size)).shape == (1, CHANNELS, size // 4 - 8, size // 4 - 8)


# Losses.


@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (2, 4, 25, 10), (1, 1, 7, 143)])
def test_the_hard_feature_loss_is_the_mean_from_the_quantile_up(shape: tuple[int, ...]) -> None:
    distance = torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.stack([one[one >= one.quantile(0.999)].mean() for one in distance]).mean()
    assert hard_feature_loss(distance).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_the_hard_feature_loss_by_hand() -> None:
    # 2000 values: the quantile lies between the third largest and the second, so two are hard.
    distance = torch.zeros(1, 2, 20, 50)
    distance[0, 1, 3, 4], distance[0, 0, 0, 0], distance[0, 0, 7, 7] = 8.0, 4.0, 2.0
    assert hard_feature_loss(distance).item() == 6.0


def test_the_losses_are_those_of_algorithm_1() -> None:
    ours, batch = method(), images(2)
    with torch.no_grad():
        described = ours.described(batch)
    torch.manual_seed(3)
    given = ours.losses([batch, described])

    torch.manual_seed(3)
    textures = synthetic_textures(2, SIZE, CPU)
    changed = jitter(batch)
    centred = [(x - ours.teacher.mean) / ours.teacher.std for x in (batch, changed, textures)]
    t, t_changed = (ours.pdn(x) for x in centred[:2])
    s, s_changed, s_textures = (ours.student(x) for x in centred)
    a = ours.autoencoder(centred[1])
    hard = []
    for one in (t - s[:, :384]) ** 2:
        hard.append(one[one >= one.quantile(0.999)].mean())
    wanted = {
        "hard features": torch.stack(hard).mean(),
        "penalty": (s_textures[:, :384] ** 2).mean(),
        "autoencoder": ((t_changed - a) ** 2).mean(),
        "student of autoencoder": ((a - s_changed[:, 384:]) ** 2).mean(),
    }
    assert given.keys() == wanted.keys()
    for name, value in wanted.items():
        assert given[name].item() == pytest.approx(value.item(), rel=1e-5), name
    torch.stack(list(given.values())).sum().backward()
    learning = {name.partition(".")[0] for name, weight in ours.named_parameters() if weight.grad is not None}
    ours.zero_grad()
    assert learning == {"student", "autoencoder"}


def test_jitter_changes_brightness_contrast_or_saturation() -> None:
    image = 0.3 + 0.4 * images(40)
    torch.manual_seed(0)
    changed = jitter(image)
    grey = 0.299 * image[:, :1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:]
    kinds = {"brightness": torch.zeros_like(image), "contrast": grey.mean((1, 2, 3), keepdim=True), "saturation": grey}
    found = []
    for i in range(len(image)):
        for kind, base in kinds.items():
            away, was = changed[i] - base[min(i, len(base) - 1)], image[i] - base[min(i, len(base) - 1)]
            factor = (away * was).sum() / was.square().sum()
            if torch.allclose(away, factor * was, atol=1e-6):
                found.append(kind)
                assert 0.8 <= factor <= 1.2
    assert len(found) == len(image)
    assert set(found) == kinds.keys()


def test_the_learning_rate_falls_for_the_last_twentieth_also_when_continued() -> None:
    def run(steps: int, saved: dict[str, object] | None = None) -> tuple[list[float], dict[str, object]]:
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.Adam([weight], lr=0.1)
        slower_at_the_end(optimizer, 40)
        if saved:
            optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
        rates = []
        for _ in range(steps):
            weight.grad = torch.ones(1)
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates, optimizer.state_dict()["state"]

    assert run(40)[0] == pytest.approx([0.1] * 38 + [0.01] * 2)
    assert run(1, run(37)[1])[0] == pytest.approx([0.1])
    assert run(1, run(38)[1])[0] == pytest.approx([0.01])


# The PDN's targets.


def test_targets_have_mean_0_and_deviation_1() -> None:
    ours, batch = method(), images(3)
    stage = next(ours.stages(3))
    assert isinstance(stage, PassStage)
    before = ours.learned_state()
    torch.manual_seed(5)
    with torch.no_grad():
        stage.collect(batch[:2])
        stage.collect(batch[2:])
    stage.finish(torch.Generator().manual_seed(0), lambda _: None)
    torch.manual_seed(5)
    textures = torch.cat([synthetic_textures(n, SIZE, CPU) for n in (2, 1)])
    with torch.no_grad():
        patches = ours.targets.patches(ours.teacher(torch.cat([batch, textures])))
        target = ours.targets(ours.teacher(torch.cat([batch, textures]))).transpose(0, 1).flatten(1)
    projected = ours.targets.projection.clone()
    ours.load_learned_state(before)
    assert target.shape == (CHANNELS, 6 * GRID**2)
    assert target.mean(1).abs().max() < 1e-3
    assert (target.std(1, correction=0) - 1).abs().max() < 1e-3
    # Seen from standardised channels, each target is along a row of a matrix whose columns are orthonormal.
    directions = projected[:, :, 0, 0] * patches.transpose(0, 1).flatten(1).std(1, correction=0)
    drawn = nn.init.orthogonal_(torch.empty(directions.shape), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.T @ drawn, torch.eye(len(drawn.T)), atol=1e-5)
    assert F.cosine_similarity(directions, drawn).min() > 0.9999


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_readout_is_the_ridge_regression_of_the_last_layer(kernel: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, kernel))
    image = torch.rand(6, 3, 12, 12)
    side = 11 - kernel
    target = torch.randn(6, 5, side, side)
    with torch.no_grad():
        readout = Readout(network)
        readout.add(image[:4], target[:4], side**2)
        readout.add(image[4:], target[4:], side**2)
        readout.solve(ridge=0.2)
        inputs = F.unfold(network[:2](image), kernel).transpose(1, 2).flatten(0, 1).double().numpy()
        given = network(image).flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    wanted = Ridge(alpha=0.2 * (inputs**2).sum(0).mean())
    wanted.fit(inputs, target.flatten(2).transpose(1, 2).flatten(0, 1).numpy())
    assert np.abs(given - wanted.predict(inputs)).max() < 1e-4


def test_the_readout_takes_as_many_places_as_it_is_told() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1))
    image = torch.arange(1.0, 26).reshape(1, 1, 5, 5)
    torch.manual_seed(0)
    with torch.no_grad():
        readout = Readout(network)
        readout.add(image, 3 * image - 7, 6)
        assert readout._products[-1, -1] == 6
        readout.solve(ridge=0)
        # Any six places give the line.
        assert torch.allclose(network(image), 3 * image - 7, atol=1e-3)


def test_patches_lie_where_the_pdn_looks() -> None:
    ours = method()
    # Each value says at which pixel its cell has its middle.
    fine = (8 * torch.arange(SIZE / 8) + 4).expand(1, 1, SIZE // 8, SIZE // 8)
    coarse = torch.zeros(1, 2, SIZE // 16, SIZE // 16)
    patches = ours.targets.patches([fine, coarse])
    assert patches.shape == (1, 3, GRID, GRID)
    # Output i of a PDN sees pixels 4 i to 4 i + 32; the step of 4 pixels there has its middle at 4 i + 18.
    assert torch.allclose(patches[0, 0], (4 * torch.arange(float(GRID)) + 18).expand(GRID, GRID))
    assert (patches[0, 1:] == 0).all()


@pytest.mark.parametrize("size", [64, 96])
def test_textures_are_images_and_can_be_drawn_again(size: int) -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return synthetic_textures(30, size, CPU)

    textures = draw(0)
    assert textures.shape == (30, 3, size, size)
    assert textures.min() >= 0
    assert textures.max() <= 1
    assert torch.equal(textures, draw(0))
    assert not torch.equal(textures, draw(1))
    for one, other in pairwise(textures):
        assert (one - other).abs().mean() > 0.01
    assert textures.std((2, 3)).amax(1).min() > 0.01
    # Ground, ink and speckle are coloured.
    assert (textures.amax(1) - textures.amin(1)).mean() > 0.1


# The maps.


def test_each_map_is_scaled_by_its_quantiles_over_the_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = method()
    rng = torch.Generator().manual_seed(0)
    local, arrangement = (k * torch.rand(7, GRID, GRID, generator=rng) ** 3 for k in (2.0, 500.0))
    before = ours.learned_state()
    *_, last = ours.stages(7)
    assert isinstance(last, PassStage)
    for part in (slice(0, 4), slice(4, 7)):
        monkeypatch.setattr(ours, "maps", lambda _, part=part: (local[part], arrangement[part]))
        last.collect(torch.zeros(1))
    last.finish(torch.Generator(), lambda _: None)
    answer = ours(torch.zeros(3, 3, SIZE, SIZE))
    ours.load_learned_state(before)

    fused = torch.zeros(3, GRID, GRID)
    for each in (local, arrangement):
        low, high = np.quantile(each.numpy(), 0.9), np.quantile(each.numpy(), 0.995)
        fused += 0.5 * (0.1 * (each[4:] - low) / (high - low))
    wanted = F.interpolate(F.pad(fused, (4, 4, 4, 4))[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)
    assert torch.allclose(answer.map, wanted[:, 0], atol=1e-5)
    assert torch.allclose(answer.score, wanted.amax((1, 2, 3)), atol=1e-5)


def test_maps_are_of_student_to_pdn_and_to_autoencoder() -> None:
    ours, batch = method(), images(2)
    with torch.no_grad():
        local, arrangement = ours.maps(batch)
        x = (batch - ours.teacher.mean) / ours.teacher.std
        student = ours.student(x)
        wanted_local = ((ours.described(batch) - student[:, :384]) ** 2).sum(1) / 384
        wanted_arrangement = ((ours.autoencoder(x) - student[:, 384:]) ** 2).sum(1) / 384
    assert torch.allclose(local, wanted_local, rtol=1e-4)
    assert torch.allclose(arrangement, wanted_arrangement, rtol=1e-4)


def test_stages_come_in_order() -> None:
    stages = list(method().stages(8))
    names = ["targets", "readout", "patch description", "channel statistics", "student", "map statistics"]
    assert [stage.name for stage in stages] == names
    assert [stage.steps for stage in stages if isinstance(stage, GradientStage)] == [3, 3]


def test_the_fast_preset_takes_the_pdn_as_the_readout_leaves_it() -> None:
    config = EfficientAD.Config.model_validate(EfficientAD.fast | {"image_size": SIZE})
    stages = build(EfficientAD, config, teacher(config.strides), seed=0).stages(8)
    assert [(type(stage), stage.name) for stage in stages] == [
        (PassStage, "targets"),
        (PassStage, "readout"),
        (PassStage, "channel statistics"),
        (GradientStage, "student"),
        (PassStage, "map statistics"),
    ]


def test_the_graph_holds_three_small_networks_and_no_teacher() -> None:
    ours = method()
    graph = onnx.load_from_string(export_graph(ours, Preparation(0, 255, SIZE), ImageContract())).graph
    held = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    needed = sum(map(parameters, (ours.pdn, ours.student, ours.autoencoder)))
    # Equal tensors, such as biases that are all zero, are held once.
    assert abs(held - needed) < 20_000
    assert not [tensor.name for tensor in graph.initializer if "teacher" in tensor.name]
    with_values = [node for node in graph.node if node.op_type == "Constant"]
    assert sum(attribute.ByteSize() for node in with_values for attribute in node.attribute) < 200_000


# What it finds.


def discs(*middles: int, seed: int) -> Tensor:
    """A grey square with a bright disc at each of the columns, 3 x 64 x 64, a little rough."""
    noise = 0.02 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    bright = torch.stack([(y - 32) ** 2 + (x - middle) ** 2 < 50 for middle in middles]).any(0)
    return 0.3 + 0.4 * bright + noise


class Discs(TrainingImages):
    """Two discs, each image with noise of its own."""

    def __init__(self) -> None:
        super().__init__([Path(str(i)) for i in range(8)], ImageContract(), Preparation(0, 1, SIZE))

    def load(self, index: int) -> Tensor:
        return discs(20, 44, seed=index)


def test_a_part_too_many_scores_far_above_all_good_ones() -> None:
    """After ten steps. A part that is missing takes a longer training: that is for the benchmark."""
    config = EfficientAD.Config(image_size=SIZE, steps=10, batch_size=2, learning_rate=1e-3)
    ours = build(EfficientAD, config, teacher(config.strides), seed=0)
    Trainer("cpu", 0, None, lambda *_: None).fit(ours, Discs())
    good = torch.stack([discs(20, 44, seed=100 + i) for i in range(6)])
    wrong = torch.stack([discs(20, 32, 44, seed=200 + i) for i in range(3)])
    with torch.inference_mode():
        assert ours(wrong).score.min() > 2 * ours(good).score.max()
