"""BoRAD against its description: views, bank, heads, losses by hand, momentum, schedule, and what training leaves."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from blemish.export import export_graph
from blemish.images import ImageContract
from blemish.methods import GradientStage, PassStage
from blemish.methods.borad import BootstrappedRepresentations, Momentum, project, two_views
from blemish.modelfile import TeacherInfo
from blemish.nn.preparation import Preparation
from blemish.nn.projector import Projector
from blemish.nn.prototypes import Alignment, Prototypes, far_from
from blemish.teachers import FeaturePyramid
from tiny import one_thread as one_thread  # applies to this module
from tiny import teacher


def method(**settings: object) -> BootstrappedRepresentations:
    torch.manual_seed(0)
    config = BootstrappedRepresentations.Config.model_validate({"image_size": 64} | settings)
    return BootstrappedRepresentations(config, teacher((4, 8, 16)))


def stages_of(method: BootstrappedRepresentations, images: int = 8) -> tuple[GradientStage, Iterator[object]]:
    stages = method.stages(images)
    first, second = next(stages), next(stages)
    assert isinstance(first, PassStage)
    assert isinstance(second, GradientStage)
    return second, stages


# The views.


def test_every_other_batch_is_masked() -> None:
    pyramid = [torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)]
    plain = 0
    for seed in range(400):
        torch.manual_seed(seed)
        one, other = two_views(pyramid, 0.5)
        plain += one is pyramid and other is pyramid
    # 400 throws of a coin: four standard deviations are 40.
    assert abs(plain - 200) < 40


def masked_views(pyramid: list[Tensor], share: float) -> tuple[list[Tensor], list[Tensor]]:
    seed = next(s for s in range(100) if torch.manual_seed(s) and torch.rand(()).item() > 0.5)
    torch.manual_seed(seed)
    return two_views(pyramid, share)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_view_drops_locations_and_scales_nothing(share: float) -> None:
    pyramid = [torch.rand(4, 3, 32, 32) + 1, torch.rand(4, 5, 16, 16) + 1]
    views = masked_views(pyramid, share)

    kept = []
    for view in views:
        for level, features in zip(view, pyramid, strict=True):
            there = level != 0
            # A location goes with all its channels, or stays as it is.
            assert torch.equal(there, there[:, :1].expand_as(there))
            assert torch.equal(level[there], features[there])
            kept.append(there[:, 0])
    for one in kept:
        tolerance = 4 * math.sqrt(share * (1 - share) / one.numel())
        assert abs(1 - one.float().mean().item() - share) < tolerance
    for one, other in (
        (kept[0], kept[2]),
        (kept[1], kept[3]),
        (kept[0][0], kept[0][1]),
        (kept[0][:, ::2, ::2], kept[1]),
    ):
        assert not torch.equal(one, other)


def test_the_seed_decides_the_views() -> None:
    pyramid = [torch.rand(2, 3, 8, 8)]
    first, again = masked_views(pyramid, 0.5), masked_views(pyramid, 0.5)
    assert torch.equal(first[0][0], again[0][0])
    assert torch.equal(first[1][0], again[1][0])


# The bank.


def test_prototypes_are_orthonormal_at_each_location_at_first() -> None:
    torch.manual_seed(1)
    bank = Prototypes(locations=9, prototypes=7, channels=32).bank
    assert bank.shape == (9, 7, 32)
    assert torch.allclose(bank @ bank.transpose(1, 2), torch.eye(7).expand(9, 7, 7), atol=1e-5)
    assert not torch.allclose(bank[0], bank[1], atol=0.01)


def test_what_is_nearby_by_hand() -> None:
    """One image, two locations in a row, two prototypes of two channels each."""
    prototypes = Prototypes(2, 2, 2)
    with torch.no_grad():
        prototypes.bank.copy_(torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [-5.0, 0.0]]]))
    embedding = torch.tensor([[[[2.0, 4.0]], [[0.0, 3.0]]]])  # (2, 0) at the first location, (4, 3) at the second

    # Cosines 3/5 and 0, so 3/5 (3, 4); cosines 4/5 and -4/5, so 4/5 (1, 0) - 4/5 (-5, 0).
    wanted = torch.tensor([[[[1.8, 4.8]], [[2.4, 0.0]]]])
    assert torch.allclose(prototypes.nearby(embedding), wanted, atol=1e-6)


def test_what_is_nearby_location_by_location() -> None:
    torch.manual_seed(2)
    prototypes = Prototypes(6, 3, 5)
    nn.init.normal_(prototypes.bank)
    embedding = torch.randn(2, 5, 2, 3)
    bank, features = prototypes.bank.detach().numpy(), embedding.numpy()

    wanted = np.zeros((2, 5, 2, 3))
    for b, row, column in np.ndindex(2, 2, 3):
        f = features[b, :, row, column]
        for p in bank[3 * row + column]:
            wanted[b, :, row, column] += f @ p / np.linalg.norm(f) / np.linalg.norm(p) * p
    assert np.allclose(prototypes.nearby(embedding).detach().numpy(), wanted, atol=1e-5)


def test_differences_by_hand() -> None:
    """The mean embedding is not scaled to length 1, the mean prototypes are."""
    prototypes = Prototypes(2, 2, 2)
    with torch.no_grad():
        prototypes.bank.copy_(torch.tensor([[[6.0, 2.0], [0.0, 1.0]], [[0.0, 6.0], [0.0, -5.0]]]))
    embedding = torch.tensor([[[[2.0, 4.0]], [[1.0, 3.0]]]])

    # g = (3, 2); the means of the prototypes are (3, 4) and (0, -2).
    wanted = torch.tensor([[[3 - 0.6, 2 - 0.8], [3.0, 2 + 1]]])
    assert torch.allclose(prototypes.differences(embedding), wanted, atol=1e-6)


# The heads and their losses.


def test_the_distance_by_hand() -> None:
    online = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    target = torch.tensor([[[4.0, 3.0], [0.0, 7.0]]])
    assert far_from(online, target, channels=2).item() == pytest.approx((2 - 2 * 24 / 25 + 2) / 2, abs=1e-6)
    unit = (F.normalize(online, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()
    assert far_from(online, target, channels=1).item() == pytest.approx(float(unit), abs=1e-6)


def instance_norm(features: np.ndarray) -> np.ndarray:
    """B x C x S, each channel of each image over its locations, no scale and no shift."""
    mean, variance = features.mean(2, keepdims=True), features.var(2, keepdims=True)
    normed: np.ndarray = (features - mean) / np.sqrt(variance + 1e-5)
    return normed


def leaky(features: np.ndarray) -> np.ndarray:
    return np.where(features > 0, features, 0.01 * features)


@cache
def example() -> tuple[Alignment, Tensor, Tensor]:
    torch.manual_seed(3)
    alignment = Alignment(locations=6, prototypes=3, channels=4)
    return alignment, 3 * torch.randn(5, 4, 2, 3), torch.randn(5, 4, 2, 3)


def test_the_spatial_loss_against_a_plain_computation() -> None:
    alignment, online, target = example()

    def convolution(layer: nn.Module, features: np.ndarray) -> np.ndarray:
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
        return leaky(instance_norm(np.einsum("oc,bcs->bos", weight, features) + bias[:, None]))

    def mixed(embedding: Tensor) -> np.ndarray:
        together = torch.cat([embedding, alignment.prototypes.nearby(embedding)], 1).flatten(2)
        return convolution(alignment.mix[0], together.detach().numpy())

    predicted = convolution(alignment.predict_local[3], convolution(alignment.predict_local[0], mixed(online)))
    wanted = mixed(target)
    cosines = (predicted * wanted).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert alignment.spatial(online, target).item() == pytest.approx(2 - 2 * cosines.mean(), abs=1e-5)


def test_the_relative_loss_against_a_plain_computation() -> None:
    """What the published code calls InstanceNorm1d normalises each row of a matrix over its features."""
    alignment, online, target = example()
    differences = alignment.prototypes.differences(online).detach()
    rows = differences.reshape(-1, 4)
    for layer in (alignment.predict_difference[0], alignment.predict_difference[3]):
        assert isinstance(layer, nn.Linear)
        rows = F.leaky_relu(F.instance_norm((rows @ layer.weight.T + layer.bias)[None])[0], 0.01)
    wanted = alignment.prototypes.differences(target).reshape(-1, 4)
    cosines = (rows * wanted).sum(1) / rows.norm(dim=1) / wanted.norm(dim=1)
    assert alignment.relative(online, target).item() == pytest.approx(2 - 2 * cosines.mean().item(), abs=1e-5)


def test_gradients_go_through_the_online_side_only() -> None:
    alignment, online, target = copy.deepcopy(example())
    online.requires_grad_()
    target.requires_grad_()
    bank, mix = alignment.prototypes.bank, alignment.mix[0].weight
    for loss, reached in ((alignment.spatial, (bank, mix, online)), (alignment.relative, (bank, online))):
        gradients = torch.autograd.grad(loss(online, target), [*reached, target], allow_unused=True)
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients[:-1])
        assert gradients[-1] is None
    # With the target's mixture taken as given, nothing else moves the bank.
    with torch.no_grad():
        wanted = alignment.mixed(target)
    (given,) = torch.autograd.grad(far_from(alignment.predict_local(alignment.mixed(online)), wanted, 1), bank)
    (own,) = torch.autograd.grad(alignment.spatial(online, target), bank)
    assert torch.allclose(own, given, atol=1e-7)


# Momentum.


def test_momentum_by_hand() -> None:
    online = nn.ModuleList([Projector(4)])
    momentum = Momentum(online, steps=4)
    assert not any(p.requires_grad for p in momentum.parameters())
    own = [p.clone() for p in momentum.parameters()]
    for done in range(7):
        momentum.follow(online)
        keep = 0.99 + 0.009 * min(done / 4, 1)
        own = [keep * a + (1 - keep) * b.detach() for a, b in zip(own, online.parameters(), strict=True)]
        for got, wanted in zip(momentum.parameters(), own, strict=True):
            assert torch.allclose(got, wanted, atol=1e-6)
        with torch.no_grad():
            for p in online.parameters():
                p.add_(torch.randn_like(p))
    assert momentum.done.item() == 7


# The losses of the method.


@torch.no_grad()
def test_the_losses_are_those_of_two_views() -> None:
    one = method(spatial=0.5, relative=2)
    stage, _ = stages_of(one)
    one.eval()
    observed = stage.observe(torch.rand(3, 3, 64, 64))
    for p in one.projectors.parameters():
        p.mul_(1.1)

    for seed in range(4):
        torch.manual_seed(seed)
        state = copy.deepcopy(one.momentum)
        losses = one.losses(observed)
        state.follow(one.projectors)
        torch.manual_seed(seed)
        view, other = two_views(observed, 0.5)
        online = one.bottleneck(project(one.projectors, view))
        target = one.bottleneck(project(state.projectors, other))
        rebuilt = one.student(online)
        wanted = {
            # Against the levels without a mask.
            "distillation": sum(
                (1 - F.cosine_similarity(t.flatten(1), s.flatten(1))).mean().item()
                for t, s in zip(observed, rebuilt, strict=True)
            ),
            "spatial alignment": 0.5 * one.alignment.spatial(online, target).item(),
            "relative alignment": 2 * one.alignment.relative(online, target).item(),
        }
        assert losses.keys() == wanted.keys()
        for name, value in wanted.items():
            assert losses[name].item() == pytest.approx(value, rel=1e-4), name


def test_the_losses_reach_what_they_should() -> None:
    one = method()
    stage, _ = stages_of(one)
    stage.module.train()
    losses = stage.losses(stage.observe(torch.rand(3, 3, 64, 64)))
    parts: dict[str, nn.Module] = {
        "projectors": one.projectors,
        "bottleneck": one.bottleneck,
        "student": one.student,
        "bank": one.alignment.prototypes,
        "mix": one.alignment.mix,
        "local": one.alignment.predict_local,
        "difference": one.alignment.predict_difference,
    }

    def reached(loss: Tensor) -> set[str]:
        found = set()
        for name, part in parts.items():
            gradients = torch.autograd.grad(loss, [*part.parameters()], allow_unused=True, retain_graph=True)
            if any(g is not None and bool(g.any()) for g in gradients):
                found.add(name)
        return found

    network = {"projectors", "bottleneck"}
    assert reached(losses["distillation"]) == network | {"student"}
    assert reached(losses["spatial alignment"]) == network | {"bank", "mix", "local"}
    assert reached(losses["relative alignment"]) == network | {"bank", "difference"}


def test_both_views_pass_the_bottleneck_in_training() -> None:
    """As published: the running statistics of its batch normalisation are those of both."""
    one = method()
    stage, _ = stages_of(one)
    stage.module.train()
    norm = next(layer for layer in one.bottleneck.modules() if isinstance(layer, nn.BatchNorm2d))
    stage.losses(stage.observe(torch.rand(3, 3, 64, 64)))
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 2


def test_the_losses_are_float32_under_autocast() -> None:
    stage, _ = stages_of(method())
    observed = stage.observe(torch.rand(3, 3, 64, 64))
    values = []
    for enabled in (False, True):
        torch.manual_seed(9)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(stage.losses(observed))
    assert all(loss.dtype == torch.float32 for loss in values[1].values())
    for name, loss in values[0].items():
        assert values[1][name].item() == pytest.approx(loss.item(), rel=0.05, abs=0.01), name


# Training.


def test_the_schedule_is_the_published_one() -> None:
    one = method()
    stage, _ = stages_of(one, images=70)
    assert isinstance(stage.optimizer, torch.optim.Adam)
    betas = {id(p): group["betas"] for group in stage.optimizer.param_groups for p in group["params"]}
    network = [p for part in (one.projectors, one.bottleneck, one.student) for p in part.parameters()]
    assert {betas[id(p)] for p in network} == {(0.8, 0.999)}
    assert {betas[id(p)] for p in one.alignment.parameters()} == {(0.5, 0.999)}
    assert {group["lr"] for group in stage.optimizer.param_groups} == {0.005}
    assert {id(p) for p in stage.module.parameters()} == betas.keys()
    slower, _ = stages_of(method(projector_learning_rate=0.001))
    assert [group["lr"] for group in slower.optimizer.param_groups] == [0.005, 0.001, 0.005]
    assert len(slower.optimizer.param_groups[1]["params"]) == len(list(one.projectors.parameters()))
    # 100 passes of 5 batches.
    assert (stage.batch_size, stage.steps, one.momentum.steps) == (16, 500, 500)


def test_the_rate_is_constant_and_the_gradient_of_the_network_alone_is_clipped() -> None:
    one = method(clip=0.1, steps=3)
    stage, _ = stages_of(one)
    network = [p for part in (one.projectors, one.bottleneck, one.student) for p in part.parameters()]
    heads = [*one.alignment.parameters()]

    def norm(parameters: list[nn.Parameter]) -> float:
        return math.sqrt(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None))

    for _ in range(stage.steps):
        for p in [*network, *heads]:
            p.grad = torch.full_like(p, 1e-3)
        before = norm(heads)
        assert norm(network) > 0.2
        stage.optimizer.step()
        assert norm(network) == pytest.approx(0.1, rel=1e-3)
        assert norm(heads) == before
        assert {group["lr"] for group in stage.optimizer.param_groups} == {0.005}


def test_bank_heads_and_momentum_are_there_in_training_only() -> None:
    one = method()
    before = one.learned_state().keys()
    _, stages = stages_of(one)
    during = one.learned_state().keys() - before
    # All that a killed run needs is in its state.
    assert {name.partition(".")[0] for name in during} == {"alignment", "momentum"}
    assert "momentum.done" in during
    assert "alignment.prototypes.bank" in during
    assert [stage.name for stage in stages] == ["what the student leaves"]
    assert one.learned_state().keys() == before
    assert not hasattr(one, "alignment")
    assert not hasattr(one, "momentum")


def test_the_graph_has_no_parameter_of_bank_or_heads() -> None:
    """Even of a method that still is in training, whose numbers can be looked for."""
    one = method()
    stages_of(one)
    with torch.no_grad():
        for p in one.momentum.parameters():
            p.mul_(2)
    training = one.learned_state()
    graph = onnx.load_from_string(export_graph(one.eval(), Preparation(0, 255, 64), ImageContract())).graph
    inside = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    inside += [
        onnx.numpy_helper.to_array(a.t) for node in graph.node if node.op_type == "Constant" for a in node.attribute
    ]
    values = {array.ravel()[:16].astype(np.float32).tobytes() for array in inside if array.size >= 16}

    def found(prefix: str) -> list[bool]:
        ones = [t for name, t in training.items() if name.startswith(prefix) and t.numel() >= 16 and t.ndim > 1]
        assert ones
        return [t.float().flatten()[:16].numpy().tobytes() in values for t in ones]

    assert all(found("projectors."))
    assert not any(found("alignment."))
    assert not any(found("momentum."))


def test_the_map_is_that_of_the_unmasked_projected_pyramid() -> None:
    one = method().eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pyramid = one.pyramid(image)
        rebuilt = one.student(one.bottleneck(project(one.projectors, pyramid)))
        distances = [1 - F.cosine_similarity(t, s) for t, s in zip(pyramid, rebuilt, strict=True)]
        answer = one(image)
    assert torch.allclose(answer.map, one.head(distances), atol=1e-6)
    assert torch.equal(answer.score, answer.map.amax((1, 2)))


def test_an_image_too_small_for_its_strides_is_refused() -> None:
    with pytest.raises(ValidationError, match="image_size of 128 or more"):
        BootstrappedRepresentations.Config(image_size=96, strides=(8, 16, 32))
    with pytest.raises(ValidationError, match="half the size"):
        BootstrappedRepresentations.Config(strides=(4, 16))


# WideResNet-50.


class Stub(nn.Module):
    """Gives zeros of a WideResNet-50's shapes."""

    def forward(self, image: Tensor) -> list[Tensor]:
        side = image.shape[-1]
        return [image.new_zeros(len(image), c, side // s, side // s) for c, s in ((256, 4), (512, 8), (1024, 16))]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_with_wide_resnet_50_the_layers_are_the_published_ones() -> None:
    info = TeacherInfo(
        name="wide_resnet50_2",
        backbone="wide_resnet50_2",
        channels=(256, 512, 1024),
        strides=(4, 8, 16),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        licence="",
        source="",
        sha256="",
    )
    config = BootstrappedRepresentations.Config()
    # Shapes and counts alone: no memory is taken, nothing is drawn.
    with torch.device("meta"):
        network = Stub()
        one = BootstrappedRepresentations(config, FeaturePyramid(network, info))
        alignment = Alignment(one.locations, config.prototypes, 2048)
    assert one.standardise is None
    assert one.locations == 64

    def layer(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs

    def block(inputs: int, shortcut: int) -> int:
        body = layer(inputs, 512, 1) + layer(512, 512, 3) + layer(512, 2048, 1)
        return body + shortcut

    fusion = layer(256, 512, 3) + layer(512, 1024, 3) + layer(512, 1024, 3)
    assert parameters(one.bottleneck) == fusion + block(3072, layer(3072, 2048, 1)) + 2 * block(2048, 0)
    # Convolutions with bias: C -> C/2 -> C/4 -> C/2 -> C.
    wanted = sum(9 * (c * c // 2 + c // 2 * c // 4) * 2 + c // 2 + c // 4 + c // 2 + c for c in (256, 512, 1024))
    assert parameters(one.projectors) == wanted
    assert alignment.prototypes.bank.shape == (64, 7, 2048)
    square = 2048 * 2048
    assert parameters(alignment) == 64 * 7 * 2048 + 2 * square + 2048 + 2 * 2 * (square + 2048)
    # "About 26.1 M" with heads of 8.39 M each.
    assert parameters(alignment) == pytest.approx(26.1e6, rel=2e-3)
