"""CFLOW-AD's flows against autograd, quadrature and a closed form; its loss and map by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.methods import PassStage
from blemish.methods.cflow import ConditionalFlows
from blemish.nn.flows import ConditionalFlow, CouplingBlock, random_rotation
from blemish.nn.positions import sine_codes
from tiny import SIZE, teacher
from tiny import one_thread as one_thread  # applies to this module


def stirred(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With parameters far from where they begin, in double precision, so that no term of a test is nearly nothing."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def block(dimension: int, condition: int = 4, clamp: float = 1.9) -> CouplingBlock:
    torch.manual_seed(dimension)
    made = stirred(CouplingBlock(dimension, condition, clamp))
    assert isinstance(made, CouplingBlock)
    return made


def flow(dimension: int, condition: int = 4, blocks: int = 3) -> ConditionalFlow:
    torch.manual_seed(dimension)
    made = stirred(ConditionalFlow(dimension, condition, blocks, clamp=1.9))
    assert isinstance(made, ConditionalFlow)
    return made


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Coupling blocks


@pytest.mark.parametrize("dimension", [2, 3, 6, 7])
def test_the_log_determinant_is_that_of_the_jacobian(dimension: int) -> None:
    """A rotation in float32 has a determinant of 1 to seven digits."""
    step, condition = block(dimension), draw(4)
    for x in draw(5, dimension, seed=1):
        jacobian = torch.autograd.functional.jacobian(lambda v: step(v, condition)[0], x)
        assert step(x, condition)[1].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-5)


def test_a_flow_adds_up_the_log_determinants() -> None:
    chain, condition = flow(5), draw(4)
    for x in draw(5, 5, seed=1):
        jacobian = torch.autograd.functional.jacobian(lambda v: chain.transform(v, condition)[0], x)
        wanted = torch.linalg.slogdet(jacobian)[1].item()
        assert chain.transform(x, condition)[1].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("dimension", [2, 5, 8])
def test_a_block_can_be_undone(dimension: int) -> None:
    step, condition, x = block(dimension), draw(30, 4), draw(30, dimension, seed=1)
    y = step(x, condition)[0]

    scale = 0.1 * torch.log1p(torch.exp(0.5 * step.scale)) / 0.5
    coupled = (torch.linalg.solve(step.rotation.T, y.T).T - step.shift) / scale
    kept, moved = coupled[:, : step.kept], coupled[:, step.kept :]
    perceptron = torch.nn.Sequential(step.hidden, torch.nn.ReLU(), step.out)
    raw = perceptron(torch.cat([kept, condition], 1)) / 10
    log_scale = 1.9 * raw[:, : step.moved].tanh()
    undone = torch.cat([kept, (moved - raw[:, step.moved :]) * torch.exp(-log_scale)], 1)

    assert (y - x).abs().max() > 0.1
    torch.testing.assert_close(undone, x)


def test_widths_are_the_published_ones() -> None:
    """Of 7 features 4 are kept; with a code of 128 the perceptron has 132 inputs, 264 hidden values and 6 outputs."""
    step = CouplingBlock(7, 128, 1.9)
    assert [tuple(layer.weight.shape) for layer in (step.hidden, step.out)] == [(264, 132), (6, 264)]
    assert step.shift.shape == step.scale.shape == (7,)


def test_the_scale_of_a_coupling_is_clamped() -> None:
    step = block(4, clamp=0.5)
    with torch.no_grad():
        step.out.weight.mul_(1e6)
        step.scale.fill_(2 * math.log(math.expm1(5)))
        changes = step(draw(50, 4, seed=1), draw(50, 4))[1]
    assert changes.abs().max() <= 2 * 0.5 + 1e-9
    assert changes.abs().max() > 0.9


def test_an_untrained_block_turns_without_scaling() -> None:
    torch.manual_seed(0)
    step = CouplingBlock(6, 4, 1.9)
    with torch.no_grad():
        step.out.weight.zero_()
        step.out.bias.zero_()
        x = torch.randn(9, 6)
        y, change = step(x, torch.randn(9, 4))
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(change, torch.zeros(9), rtol=0, atol=1e-5)


def test_the_condition_is_broadcast() -> None:
    chain, x, codes = flow(5), draw(3, 7, 5), draw(7, 4, seed=1)
    one_by_one = torch.stack([torch.stack([chain(x[b, i], codes[i]) for i in range(7)]) for b in range(3)])
    torch.testing.assert_close(chain(x, codes), one_by_one)


def test_rotations_are_orthogonal_and_drawn() -> None:
    torch.manual_seed(1)
    first, second = random_rotation(9), random_rotation(9)
    torch.testing.assert_close(first @ first.T, torch.eye(9))
    assert not torch.allclose(first, second)
    torch.manual_seed(1)
    assert torch.equal(random_rotation(9), first)


# Densities


def test_a_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    chain = ConditionalFlow(2, 4, 3, clamp=1.9).double()
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        side = torch.linspace(-25, 25, 501, dtype=torch.float64)
        for condition in draw(2, 4):
            density = chain(torch.cartesian_prod(side, side), condition).exp()
            assert float(density.sum() * 0.1**2) == pytest.approx(1, abs=2e-3)


def test_it_learns_a_density_that_depends_on_the_condition() -> None:
    """x = (c, -c) + a correlated normal. The best mean log density is minus the entropy, 1 + log(2 pi) + log|S| / 2."""
    torch.manual_seed(0)
    factor = torch.tensor([[0.5, 0.0], [0.4, 0.3]])

    def batch(count: int) -> tuple[Tensor, Tensor]:
        condition = torch.randn(count, 4)
        return condition[:, :1] * torch.tensor([1.0, -1.0]) + torch.randn(count, 2) @ factor.T, condition

    chain = ConditionalFlow(2, 4, 4, clamp=1.9)
    optimizer = torch.optim.Adam(chain.parameters(), lr=2e-2)
    for _ in range(200):
        loss = -chain(*batch(256)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        reached = float(chain(*batch(20_000)).mean())
    best = -(1 + math.log(2 * math.pi) + math.log(0.5 * 0.3))
    # 20 000 draws leave a standard error of 0.007.
    assert best - 0.1 < reached < best + 0.03


# Codes of locations


def test_the_code_of_a_location_by_hand() -> None:
    """Eight values: frequencies 1 and 1/100, for the column first, then for the row."""
    codes = sine_codes(8, 2, 3).reshape(2, 3, 8)
    column = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    row = [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]
    assert codes[1, 2].tolist() == pytest.approx(column + row, abs=1e-6)
    assert codes[0, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_no_two_locations_have_the_same_code() -> None:
    codes = sine_codes(128, 64, 48)
    assert codes.shape == (64 * 48, 128)
    assert torch.pdist(codes[::7].double()).min() > 0.1
    neighbours = (codes.reshape(64, 48, 128)[:, 1:] - codes.reshape(64, 48, 128)[:, :-1]).norm(dim=2)
    assert neighbours.min() > 0.1


# The method


def method(**settings: int) -> ConditionalFlows:
    config = ConditionalFlows.Config.model_validate({"image_size": SIZE, "blocks": 2} | settings)
    torch.manual_seed(4)
    return ConditionalFlows(config, teacher(config.strides)).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_it_takes_the_published_levels_and_eight_blocks() -> None:
    made = ConditionalFlows(ConditionalFlows.Config(image_size=SIZE), teacher((8, 16, 32)))
    assert made.grids == [SIZE // 8, SIZE // 16, SIZE // 32]
    assert [(len(one.blocks), one.dimension) for one in made.flows] == [(8, c) for c in made.teacher.info.channels]


@torch.no_grad()
def test_likelihoods_are_those_of_each_vector_at_its_place() -> None:
    made = method()
    pyramid = made.teacher(images(2))
    for i, (level, given) in enumerate(zip(pyramid, made.log_likelihoods(made.vectors(images(2))), strict=True)):
        grid = level.shape[2]
        codes = sine_codes(128, grid, grid)
        for b, row, column in [(0, 0, 0), (1, 0, grid - 1), (0, grid - 1, 0), (1, grid - 1, grid - 1)]:
            z, change = made.flows[i].transform(level[b, :, row, column], codes[row * grid + column])
            normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
            wanted = (normal + change) / level.shape[1]
            assert float(given[b, row * grid + column]) == pytest.approx(float(wanted), rel=1e-4)


@torch.no_grad()
def test_the_loss_by_hand() -> None:
    """Where a step draws more vectors than there are, it takes all."""
    made = method(vectors=10_000)
    vectors = made.vectors(images(3))
    losses = made.losses(vectors)
    assert list(losses) == ["scale0", "scale1", "scale2"]
    for loss, level in zip(losses.values(), made.log_likelihoods(vectors), strict=True):
        wanted = sum(math.log1p(math.exp(-value)) for value in level.flatten().tolist()) / level.numel()
        assert float(loss) == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_a_step_draws_as_many_vectors_as_asked_for() -> None:
    made = method(vectors=5)
    vectors = made.vectors(images(3))
    likelihoods = made.log_likelihoods(vectors)[0].flatten()
    torch.manual_seed(9)
    drawn = torch.randperm(len(likelihoods))[:5]
    torch.manual_seed(9)
    assert float(made.losses(vectors)["scale0"]) == pytest.approx(float(-F.logsigmoid(likelihoods[drawn]).mean()))


@torch.no_grad()
def test_the_loss_is_computed_in_float32_whatever_the_precision() -> None:
    made = method(vectors=10_000)
    vectors = made.vectors(images(2))
    wanted = made.losses(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = made.losses(vectors)
    for name in wanted:
        assert given[name].dtype == torch.float32
        # bfloat16 has three digits.
        torch.testing.assert_close(given[name], wanted[name], rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_map_by_hand() -> None:
    made = method()
    vectors = made.vectors(images(2))
    likelihoods = made.log_likelihoods(vectors)
    made.highest.copy_(torch.stack([level.median() for level in likelihoods]))
    wanted = torch.zeros(2, SIZE, SIZE)
    for level, highest, grid in zip(likelihoods, made.highest, made.grids, strict=True):
        probability = torch.where(level > highest, 1.0, torch.exp(level - highest)).reshape(2, 1, grid, grid)
        enlarged = F.interpolate(probability, SIZE, mode="bilinear", align_corners=True)[:, 0]
        wanted += 1 - enlarged
    anomaly_map, score = made(images(2))
    torch.testing.assert_close(anomaly_map, wanted, rtol=0, atol=1e-5)
    assert score.tolist() == anomaly_map.amax((1, 2)).tolist()
    assert 0 < wanted.max() < 3


@torch.no_grad()
def test_it_measures_against_the_training_images() -> None:
    """The last stage keeps the highest likelihood of all batches; the first standardises the channels."""
    made = method()
    statistics, _, highest = made.stages(images=6)
    assert isinstance(statistics, PassStage)
    assert isinstance(highest, PassStage)
    for stage in (statistics, highest):
        for start in (0, 4):
            stage.collect(images(6)[start : start + 4])
        stage.finish(torch.Generator(), lambda _: None)

    vectors = made.vectors(images(6))
    for level, limit in zip(vectors, made.highest, strict=True):
        torch.testing.assert_close(level.flatten(0, 1).mean(0), torch.zeros(level.shape[2]), rtol=0, atol=1e-4)
        assert limit.isfinite()
    torch.testing.assert_close(made.highest, torch.stack([level.max() for level in made.log_likelihoods(vectors)]))


def test_an_epoch_sees_as_many_vectors_as_the_finest_level_has() -> None:
    """10 images of 8 x 8 locations are 640 vectors, three steps of 256."""
    steps = []
    for settings in ({"epochs": 1}, {"epochs": 7}, {"steps": 5}):
        _, descent, _ = method(**settings).stages(images=10)
        steps.append(descent.steps)  # type: ignore[union-attr]
    assert steps == [3, 21, 5]
