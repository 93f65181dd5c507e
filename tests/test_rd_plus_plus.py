"""RD++ against its description: projectors, made-up defects, losses by hand, schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.methods import GradientStage, PassStage
from blemish.methods.rd_plus_plus import (
    ReverseDistillationPlusPlus,
    contrast,
    reconstruction,
    transport,
    with_noise,
)
from blemish.nn.noise import TABLE, add_in_rectangle, octaves, simplex_noise
from blemish.nn.projector import Projector
from blemish.nn.transport import halved_squared_distances, sinkhorn_divergence, temperatures
from tiny import one_thread as one_thread  # applies to this module
from tiny import teacher

# The projector.


def convolution(inputs: int, outputs: int) -> int:
    """Parameters of a 3x3 convolution with bias; the normalisation after it has none."""
    return 9 * inputs * outputs + outputs


@pytest.mark.parametrize("channels", [256, 512, 1024])
def test_a_projector_has_the_published_number_of_parameters(channels: int) -> None:
    projector = Projector(channels)

    half, quarter = channels // 2, channels // 4
    wanted = convolution(channels, half) + convolution(half, quarter)
    wanted += convolution(quarter, half) + convolution(half, channels)
    assert sum(p.numel() for p in projector.parameters()) == wanted
    assert list(projector.buffers()) == []


@pytest.mark.parametrize(("channels", "grid"), [(256, 8), (24, 16), (7, 5)])
def test_a_projector_keeps_the_shape_and_normalises_each_image(channels: int, grid: int) -> None:
    torch.manual_seed(0)
    projector = Projector(channels)
    features = torch.randn(2, channels, grid, grid)
    before_activation: list[Tensor] = []
    norm = [layer for layer in projector if isinstance(layer, nn.InstanceNorm2d)][-1]
    norm.register_forward_hook(lambda *call: before_activation.append(call[2]))

    projected = projector(features)
    assert projected.shape == features.shape
    assert torch.equal(projected, torch.where(before_activation[0] > 0, 1.0, 0.01) * before_activation[0])
    assert before_activation[0].mean((2, 3)).abs().max() < 1e-5
    # An image is projected alike alone and among others.
    assert torch.allclose(projector(features[1:]), projected[1:], atol=1e-5)
    assert torch.allclose(projector.eval()(features), projected, atol=1e-6)


# Simplex noise.


def simplex_by_hand(point: np.ndarray, table: list[int]) -> float:
    """Noise at one point, the walk through the cube written out."""
    skewed = point + point.sum() / 3
    cell = np.floor(skewed)
    inside = point - (cell - cell.sum() / 6)
    corners, corner = [np.zeros(3)], np.zeros(3)
    for axis in sorted(range(3), key=lambda axis: -inside[axis]):
        corner = corner.copy()
        corner[axis] = 1
        corners.append(corner)
    total = 0.0
    gradients = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z).count(0) == 1]
    for corner in corners:
        offset = inside - corner + corner.sum() / 6
        i, j, k = (int(value) % 256 for value in cell + corner)
        gradient = gradients[table[(table[(table[i] + j) % 256] + k) % 256] % 12]
        near = max(0.0, 0.5 - offset @ offset)
        total += near**4 * float(np.dot(gradient, offset))
    return 76 * total


def test_noise_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    tables = torch.stack([torch.randperm(TABLE, generator=generator) for _ in range(2)])
    points = 40 * torch.rand(50, 3, generator=generator, dtype=torch.float64) - 20

    noise = simplex_noise(points, tables)
    wanted = [[simplex_by_hand(point, table) for point in points.numpy()] for table in tables.tolist()]
    assert torch.allclose(noise, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-9)


def test_noise_is_smooth_and_fills_its_range() -> None:
    generator = torch.Generator().manual_seed(2)
    tables = torch.stack([torch.randperm(TABLE, generator=generator) for _ in range(4)])
    points = 30 * torch.rand(20_000, 3, generator=generator, dtype=torch.float64)
    noise = simplex_noise(points, tables)
    along = torch.nn.functional.normalize(torch.randn(3, generator=generator, dtype=torch.float64), dim=0)

    assert noise.abs().max() <= 1
    assert noise.abs().max() > 0.9
    # Tables of one corner to the next are random, so the field has no preferred sign.
    assert abs(float(noise.mean())) < 0.02
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.05
    assert (simplex_noise(points + 1e-4 * along, tables) - noise).abs().max() < 1e-3


def test_octaves_add_up() -> None:
    torch.manual_seed(3)
    three = octaves(2, 9, period=8, octaves=3, persistence=0.6)

    torch.manual_seed(3)
    tables = torch.stack([torch.randperm(TABLE) for _ in range(2)])
    grid = torch.tensor([(c, y, x) for c in range(3) for y in range(9) for x in range(9)], dtype=torch.float32)
    wanted = sum(0.6**k * simplex_noise(grid * 2**k / 8, tables) for k in range(3))
    assert isinstance(wanted, Tensor)
    assert torch.allclose(three, wanted.reshape(2, 3, 9, 9), atol=1e-6)


def test_noise_lies_in_one_rectangle_of_each_image() -> None:
    torch.manual_seed(4)
    image = torch.rand(64, 3, 256, 256)
    changed = (with_noise(image) != image).any(1)

    heights, widths, places = set(), set(), set()
    for one in changed:
        rows, columns = one.any(1).nonzero()[:, 0], one.any(0).nonzero()[:, 0]
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        assert top >= 1
        assert left >= 1
        # Noise is nowhere exactly 0 but by chance.
        assert one[top:bottom, left:right].float().mean() > 0.99
        heights.add(bottom - top)
        widths.add(right - left)
        places.add((top, left))
    assert min(heights | widths) >= 10
    assert max(heights | widths) <= 31
    assert len(heights) > 10
    assert len(widths) > 10
    assert len(places) > 60


def test_noise_keeps_its_place_at_the_borders() -> None:
    torch.manual_seed(5)
    ones = torch.ones(400, 3, 6, 6)
    added = add_in_rectangle(torch.zeros(400, 3, 8, 8), ones, smallest=6)

    assert set(added.sum((1, 2, 3)).tolist()) == {3 * 36.0}
    # The only place for sides of 6: the first row and column stay free.
    assert torch.equal(added[0, 0, 1:7, 1:7], torch.ones(6, 6))


def test_the_noise_has_the_published_strength() -> None:
    torch.manual_seed(6)
    difference = with_noise(torch.zeros(64, 3, 256, 256))

    largest = 0.2 * sum(0.6**k for k in range(6))
    assert difference.abs().max() < largest
    assert difference.abs().max() > 0.3 * largest


def test_the_seed_decides_the_noise_and_the_image_stays() -> None:
    image = torch.rand(2, 3, 64, 64)
    before = image.clone()

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return with_noise(image)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(image, before)


# Sinkhorn's divergence.


def entropic_cost(cost: np.ndarray, temperature: float) -> float:
    """The least of <P, C> + temperature KL(P | uniform) by plain alternating scaling, until it stands still."""
    n, m = cost.shape
    kernel = np.exp(-cost / temperature) / (n * m)
    u, v = np.ones(n), np.ones(m)
    for _ in range(20_000):
        before = u
        u = 1 / (n * kernel @ v)
        v = 1 / (m * kernel.T @ u)
        if (np.abs(u - before) <= 1e-14 * u).all():
            break
    plan = u[:, None] * kernel * v
    assert np.allclose(plan.sum(1), 1 / n)
    return float((plan * cost).sum() + temperature * (plan * np.log(plan * n * m)).sum())


def divergence_by_hand(x: np.ndarray, y: np.ndarray, blur: float) -> float:
    def cost(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        halved: np.ndarray = ((a[:, None] - b) ** 2).sum(2) / 2
        return halved

    between, within_x, within_y = (entropic_cost(cost(a, b), blur**2) for a, b in ((x, y), (x, x), (y, y)))
    return between - within_x / 2 - within_y / 2


@pytest.mark.parametrize("blur", [0.5, 0.2])
def test_the_divergence_is_that_of_a_plain_solver(blur: float) -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(6, d)), rng.normal(0.3, 1, size=(6, d))) for d in (2, 5)]

    clouds = [(torch.from_numpy(x).float(), torch.from_numpy(y).float()) for x, y in pairs]
    got = sinkhorn_divergence(clouds, blur=blur, scaling=0.998)
    wanted = [divergence_by_hand(x, y, blur) for x, y in pairs]
    assert got.tolist() == pytest.approx(wanted, rel=1e-4)


def test_without_blur_it_is_the_cost_of_the_best_pairing() -> None:
    """Points on a line are paired in order; here the best pairing is exact."""
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.5], [0.5], [1.25]])

    wanted = (0.5**2 + 0.25**2 + 0.5**2) / 2 / 3
    assert sinkhorn_divergence([(x, y)], blur=0.01).item() == pytest.approx(wanted, rel=1e-3)


def test_two_single_points_by_hand() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])

    assert sinkhorn_divergence([(x, y)]).item() == pytest.approx(12.5, rel=1e-6)


def test_its_gradient_is_that_of_the_divergence() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    points = torch.from_numpy(x).float().requires_grad_()
    sinkhorn_divergence([(points, torch.from_numpy(y).float())], blur=0.5, scaling=0.998).sum().backward()

    step = 1e-5
    wanted = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        shifted = np.zeros_like(x)
        shifted[index] = step
        up, down = divergence_by_hand(x + shifted, y, 0.5), divergence_by_hand(x - shifted, y, 0.5)
        wanted[index] = (up - down) / (2 * step)
    assert points.grad is not None
    assert np.allclose(points.grad.numpy(), wanted, rtol=0, atol=5e-4)


def test_temperatures_fall_to_the_blur() -> None:
    schedule = temperatures(8.0, 1.0, 0.5)

    assert schedule == [64, 64, 16, 4, 1]
    assert temperatures(0.05, 0.05, 0.95) == pytest.approx([0.05**2, 0.05**2])


def test_distances_by_hand() -> None:
    x, y = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0], [3.0, 4.0]])

    assert halved_squared_distances(x, y).tolist() == [[12.5, 0.5, 12.5], [0.0, 9.0, 0.0]]


# The losses.


def test_the_transport_loss_of_a_shuffled_batch_is_nothing() -> None:
    """As published: both clouds are the same images, so there is nothing to move."""
    torch.manual_seed(7)
    level = (5 * torch.randn(6, 4, 3, 3)).requires_grad_()
    # The same clouds, one of them another batch: what the loss would be if it compared anything.
    other = (5 * torch.randn(6, 4, 3, 3)).flatten(1).softmax(1)
    clouds = level.flatten(1).softmax(1)

    loss = transport([level])
    (gradient,) = torch.autograd.grad(loss, level)
    compared = sinkhorn_divergence([(clouds, other)]).sum()
    (of_another,) = torch.autograd.grad(compared, level)
    assert abs(loss.item()) < 1e-6 * compared.item()
    assert gradient.abs().max() < 1e-5 * of_another.abs().max()


def test_the_reconstruction_loss_by_hand() -> None:
    wiped = [torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]]]]), torch.tensor([[[[1.0]], [[0.0]]]])]
    normal = [torch.tensor([[[[4.0, 0.0]], [[3.0, 2.0]]]]), torch.tensor([[[[-2.0]], [[0.0]]]])]

    assert reconstruction(wiped, normal).item() == pytest.approx(((1 - 24 / 25) + 1) / 2 + 2, abs=1e-6)


def test_the_contrast_loss_by_hand() -> None:
    # Two images of two channels at one location. Cosines 24/25 and 0; then -1 and 1.
    noised = [torch.tensor([[3.0, 4.0], [1.0, 0.0]])[..., None, None], torch.tensor([[1.0, 0.0]] * 2)[..., None, None]]
    normal = [
        torch.tensor([[4.0, 3.0], [0.0, 5.0]])[..., None, None],
        torch.tensor([[-1.0, 0.0], [2.0, 0.0]])[..., None, None],
    ]

    wanted = (24 / 25 - 0.5) / 2 + 0.5 / 2
    assert contrast(noised, normal).item() == pytest.approx(wanted, abs=1e-6)
    flat = [[level.flatten(1) for level in side] for side in (noised, normal)]
    away = -torch.ones(2)
    published = sum(F.cosine_embedding_loss(t, p, away, margin=0.5) for t, p in zip(*flat, strict=True))
    assert contrast(noised, normal).item() == pytest.approx(float(published), abs=1e-6)


def method(**settings: object) -> ReverseDistillationPlusPlus:
    torch.manual_seed(8)
    config = ReverseDistillationPlusPlus.Config.model_validate({"image_size": 64} | settings)
    return ReverseDistillationPlusPlus(config, teacher((4, 8, 16)))


def gradient_stage(method: ReverseDistillationPlusPlus, images: int = 8) -> GradientStage:
    first, second, *_ = method.stages(images)
    assert isinstance(first, PassStage)
    assert isinstance(second, GradientStage)
    return second


@torch.no_grad()
def test_the_losses_are_weighed_as_published() -> None:
    one = method().eval()
    image = torch.rand(3, 3, 64, 64)
    observed = gradient_stage(one).observe(image)
    assert torch.equal(observed[0], image)

    torch.manual_seed(9)
    losses = one.losses(observed)
    torch.manual_seed(9)
    noised = one.pyramid(with_noise(image))
    normal = [project(level) for project, level in zip(one.projectors, observed[1:], strict=True)]
    wiped = [project(level) for project, level in zip(one.projectors, noised, strict=True)]
    rebuilt = one.student(one.bottleneck(normal))
    wanted = {
        # Against the teacher's own levels, not the projected ones.
        "distillation": sum(
            (1 - F.cosine_similarity(t.flatten(1), s.flatten(1))).mean().item()
            for t, s in zip(observed[1:], rebuilt, strict=True)
        ),
        "transport": 0.0,
        "reconstruction": 0.2 * 0.01 / 1.11 * float(reconstruction(wiped, normal)),
        "contrast": 0.2 * 0.1 / 1.11 * float(contrast(noised, normal)),
    }
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_the_losses_reach_what_they_should() -> None:
    one = method().train()
    stage = gradient_stage(one)
    losses = stage.losses(stage.observe(torch.rand(3, 3, 64, 64)))

    def reached(loss: Tensor) -> tuple[bool, bool]:
        parts = (one.projectors, nn.ModuleList([one.bottleneck, one.student]))
        gradients = [torch.autograd.grad(loss, [*p.parameters()], allow_unused=True, retain_graph=True) for p in parts]
        projected, distilled = (any(g is not None and bool(g.any()) for g in part) for part in gradients)
        return projected, distilled

    assert reached(losses["distillation"]) == (True, True)
    assert reached(losses["reconstruction"]) == (True, False)


def test_the_losses_are_float32_under_autocast() -> None:
    stage = gradient_stage(method())
    observed = stage.observe(torch.rand(3, 3, 64, 64))
    torch.manual_seed(9)
    plain = stage.losses(observed)

    torch.manual_seed(9)
    with torch.autocast("cpu", torch.bfloat16):
        cast = stage.losses(observed)
    assert all(loss.dtype == torch.float32 for loss in cast.values())
    for name, loss in plain.items():
        assert cast[name].item() == pytest.approx(loss.item(), rel=0.05, abs=1e-6), name


def test_the_schedule_is_the_published_one() -> None:
    one = method()
    stage = gradient_stage(one, images=70)

    assert isinstance(stage.optimizer, torch.optim.Adam)
    rates = {id(p): group["lr"] for group in stage.optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in one.projectors.parameters()} == {0.001}
    assert {rates[id(p)] for part in (one.bottleneck, one.student) for p in part.parameters()} == {0.005}
    assert all(group["betas"] == (0.5, 0.999) for group in stage.optimizer.param_groups)
    assert len(rates) == sum(1 for _ in stage.module.parameters())
    assert (stage.batch_size, stage.accumulate) == (16, 2)
    # 200 passes of 5 batches, two batches a step.
    assert stage.steps == 500
    assert gradient_stage(method(epochs=1), images=70).steps == math.ceil(5 / 2)


def test_the_map_is_that_of_the_projected_pyramid() -> None:
    one = method().eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pyramid = one.pyramid(image)
        projected = [project(level) for project, level in zip(one.projectors, pyramid, strict=True)]
        rebuilt = one.student(one.bottleneck(projected))
        wanted = one.head([1 - F.cosine_similarity(t, s) for t, s in zip(pyramid, rebuilt, strict=True)])
        assert torch.allclose(one(image).map, wanted, atol=1e-6)
