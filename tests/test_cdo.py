"""CDO's synthetic anomalies, weights, loss and map against hand-computed values and scipy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from blemish.methods import GradientStage
from blemish.methods.cdo import (
    CollaborativeDiscrepancy,
    collaborative_loss,
    discrepancy,
    overlap_weights,
    white_noise_squares,
)
from blemish.teachers import FeaturePyramid
from tiny import SIZE, teacher
from tiny import one_thread as one_thread  # applies to this module


def method(pyramid: FeaturePyramid | None = None, **settings: float) -> CollaborativeDiscrepancy:
    config = CollaborativeDiscrepancy.Config.model_validate({"image_size": SIZE} | settings)
    torch.manual_seed(5)
    return CollaborativeDiscrepancy(config, pyramid or teacher(config.strides)).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


# Synthetic anomalies


def test_noise_is_where_the_mask_says_and_nowhere_else() -> None:
    torch.manual_seed(0)
    grey = torch.full((40, 3, 200, 200), 0.5)
    noisy, mask = white_noise_squares(grey)
    assert mask.dtype == torch.bool
    assert mask.shape == (40, 200, 200)
    assert torch.equal((noisy != grey).any(1), mask)

    values = noisy.permute(0, 2, 3, 1)[mask]
    histogram = torch.histc(values.flatten(), 10, 0, 1) / values.numel()
    assert histogram.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    assert torch.corrcoef(values.T).triu(1).abs().max() < 0.05
    assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_the_number_and_the_sides_of_the_squares() -> None:
    """0 to 4, equally often; sides of 2/40 to 2/10 of the image's."""
    torch.manual_seed(0)
    count, size = 400, 120
    _, mask = white_noise_squares(torch.zeros(count, 3, size, size))

    # A share of 1/5 has a standard error of 0.02 here.
    assert (~mask.flatten(1).any(1)).float().mean().item() == pytest.approx(0.2, abs=0.08)
    sides, regions = [], []
    for one in mask.numpy():
        labelled, found = ndimage.label(one)
        regions.append(found)
        for i, box in enumerate(ndimage.find_objects(labelled), 1):
            if (labelled[box] == i).all():
                sides += [edge.stop - edge.start for edge in box]
    assert max(regions) == 4
    assert min(sides) == 6
    # 24 is no side's length; two rectangles may lie in line and look like one, which is rare.
    assert sorted(sides)[int(0.97 * len(sides))] == 22


def test_torch_s_seed_decides_the_squares() -> None:
    torch.manual_seed(1)
    first = white_noise_squares(images(4))
    second = white_noise_squares(images(4))
    torch.manual_seed(1)
    again = white_noise_squares(images(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], second[1])


# Discrepancies, weights, loss


def test_the_discrepancy_by_hand() -> None:
    """Squared distance of unit vectors, twice 1 - cosine: equal directions 0, right angles 2, opposite ones 4."""
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [3.0, 4.0]]).T.reshape(1, 2, 2, 2)
    other = torch.tensor([[6.0, 8.0], [0.0, 5.0], [-1.0, 0.0], [4.0, 3.0]]).T.reshape(1, 2, 2, 2)
    assert discrepancy(one, other).flatten().tolist() == pytest.approx([0, 2, 4, 2 * (1 - 24 / 25)], abs=1e-6)


def test_weights_by_hand() -> None:
    """Normal 1, 2, 3 with a mean of 2; synthetic 1 and 4 with a mean of 2.5; gamma 2."""
    distance = torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0])
    synthetic = torch.tensor([False, False, False, True, True])
    wanted = [0.25, 1, 2.25, 6.25, (2.5 / 4) ** 2]
    assert overlap_weights(distance, synthetic, 2).tolist() == pytest.approx(wanted)
    assert overlap_weights(distance, synthetic, 0).tolist() == [1] * 5


def test_the_loss_by_hand() -> None:
    distance = torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0])
    synthetic = torch.tensor([False, False, False, True, True])
    w = [0.25, 1, 2.25, 6.25, (2.5 / 4) ** 2]
    wanted = (w[0] * 1 + w[1] * 2 + w[2] * 3 - w[3] * 1 - w[4] * 4) / sum(w)
    assert collaborative_loss(distance, synthetic, 2).item() == pytest.approx(wanted)


def test_no_gradient_passes_the_weights() -> None:
    distance = torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0], requires_grad=True)
    synthetic = torch.tensor([False, False, False, True, True])
    collaborative_loss(distance, synthetic, 2).backward()  # type: ignore[no-untyped-call]
    weights = overlap_weights(distance, synthetic, 2)
    assert not weights.requires_grad
    assert distance.grad is not None
    torch.testing.assert_close(distance.grad, torch.where(synthetic, -weights, weights) / weights.sum())


EDGES = {
    "no synthetic pixel": ([1.0, 3.0], [False, False], (0.25 * 1 + 2.25 * 3) / 2.5),
    "no normal pixel": ([1.0, 3.0], [True, True], -(4 * 1 + 4 / 9 * 3) / (4 + 4 / 9)),
    "all distances 0": ([0.0, 0.0, 0.0], [False, False, True], 0.0),
    "normal distances 0": ([0.0, 0.0, 2.0], [False, False, True], -2.0),
    "synthetic distances 0": ([2.0, 2.0, 0.0], [False, False, True], 2.0),
    # Mean 2, and 2 / 0 counts as 100; the others weigh 1/4 and 1.
    "one synthetic distance 0": ([0.0, 4.0], [True, True], -(0.25 * 4) / (100**2 + 0.25)),
}


@pytest.mark.parametrize(("distances", "kinds", "wanted"), EDGES.values(), ids=EDGES)
def test_the_loss_where_a_kind_or_a_mean_is_missing(distances: list[float], kinds: list[bool], wanted: float) -> None:
    distance, synthetic = torch.tensor(distances, requires_grad=True), torch.tensor(kinds)
    loss = collaborative_loss(distance, synthetic, 2)
    assert loss.item() == pytest.approx(wanted, abs=1e-7)
    loss.backward()  # type: ignore[no-untyped-call]
    assert distance.grad is not None
    assert distance.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 2.0, 8.0])
def test_the_loss_is_bounded(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        distance = 4 * torch.rand(1000, generator=generator) ** 12
        synthetic = torch.rand(1000, generator=generator) < 0.1
        loss = collaborative_loss(distance, synthetic, gamma)
        assert -4 <= loss.item() <= 4
        assert overlap_weights(distance, synthetic, gamma).max() <= 100**gamma


# The method


def test_the_student_is_the_teacher_s_architecture_and_free_to_learn() -> None:
    made = method()
    assert [p.shape for p in made.student.parameters()] == [p.shape for p in made.teacher.parameters()]
    assert all(p.requires_grad for p in made.student.parameters())
    assert not any(p.requires_grad for p in made.teacher.parameters())
    different = [
        not torch.equal(a, b)
        for a, b in zip(made.student.parameters(), made.teacher.parameters(), strict=True)
        if a.ndim == 4
    ]
    assert all(different)


def test_the_losses_by_hand() -> None:
    """Both networks see the noise; each scale is enlarged to the finest grid with corners aligned."""
    made = method()
    torch.manual_seed(2)
    noisy, mask = white_noise_squares(images(4))
    assert mask.any()
    with torch.no_grad():
        torch.manual_seed(2)
        losses = made.losses([images(4)])
        grid = SIZE // 4
        there = mask[:, ::4, ::4]
        for loss, t, s in zip(losses.values(), made.teacher(noisy), made.student(noisy), strict=True):
            t, s = (F.interpolate(one, grid, mode="bilinear", align_corners=True) for one in (t, s))
            distance = 2 - 2 * (t * s).sum(1) / (t.norm(dim=1) * s.norm(dim=1))
            normal, synthetic = distance[~there], distance[there]
            w_n, w_s = (normal / normal.mean()) ** 2, (synthetic.mean() / synthetic) ** 2
            wanted = ((w_n * normal).sum() - (w_s * synthetic).sum()) / (w_n.sum() + w_s.sum())
            assert loss.item() == pytest.approx(wanted.item(), rel=1e-3)
    assert list(losses) == ["scale0", "scale1", "scale2"]


def test_losses_are_float32_under_mixed_precision() -> None:
    made = method()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = made.losses([images(4)])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in made.student.parameters() if p.grad is not None]
    assert len(gradients) > 50
    assert all(gradient.isfinite().all() for gradient in gradients)


@torch.no_grad()
def test_the_map_by_hand() -> None:
    made = method()
    anomaly_map, score = made(images(2))
    grid, total = SIZE // 4, torch.zeros(2, SIZE // 4, SIZE // 4)
    for t, s in zip(made.teacher(images(2)), made.student(images(2)), strict=True):
        t, s = (F.interpolate(one, grid, mode="bilinear", align_corners=True) for one in (t, s))
        total += 2 - 2 * (t * s).sum(1) / (t.norm(dim=1) * s.norm(dim=1))
    enlarged = F.interpolate(total[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
    smooth = np.stack([ndimage.gaussian_filter(one, 4) for one in enlarged.double().numpy()])
    assert np.allclose(anomaly_map.numpy(), smooth, rtol=0, atol=1e-4)
    assert score.tolist() == anomaly_map.amax((1, 2)).tolist()


def as_if(backbone: str) -> FeaturePyramid:
    known = teacher((4, 8, 16))
    return FeaturePyramid(known.network, known.info.model_copy(update={"backbone": backbone}))


@pytest.mark.parametrize(
    ("backbone", "standardised"), [("hrnet_w32", False), ("resnet18.a1_in1k", False), ("tf_efficientnet_lite0", True)]
)
def test_features_outside_the_published_families_are_standardised(
    backbone: str, standardised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeaturePyramid, "untrained_copy", lambda self: torch.nn.Linear(1, 1))
    names = [stage.name for stage in method(as_if(backbone)).stages(images=10)]
    assert names == ["channel statistics"] * standardised + ["distil", "distil, slower"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"epochs": 100, "batch_size": 32}, [160, 40]),
        ({"steps": 7}, [6, 1]),
        ({"steps": 4}, [4]),
    ],
)
def test_the_last_fifth_of_the_steps_is_slower(settings: dict[str, float], parts: list[int]) -> None:
    """40 images in batches of 32 are two steps an epoch."""
    _, *descents = method(**settings).stages(images=40)
    assert all(isinstance(stage, GradientStage) for stage in descents)
    assert [stage.steps for stage in descents] == parts  # type: ignore[union-attr]
    rates = [stage.optimizer.param_groups[0]["lr"] for stage in descents]  # type: ignore[union-attr]
    assert rates[0] == 1e-3
    assert all(math.isclose(b, a / 10) for a, b in pairwise(rates))
