"""What a student leaves unexplained, and distances that allow for it: by hand, at their ends, and where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from blemish.assembly import build
from blemish.images import ImageContract
from blemish.methods import Method, list_methods
from blemish.methods.rd import ReverseDistillation
from blemish.nn.preparation import Preparation
from blemish.nn.remainder import Remainder, allowing_distance, distances, local_distance
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, make_parts, teacher
from tiny import one_thread as one_thread  # applies to this module


def column(*vectors: tuple[float, ...]) -> Tensor:
    """Vectors as one image of 1 x N locations: 1 x C x 1 x N."""
    return torch.tensor(vectors).T[None, :, None]


def test_the_distance_by_hand() -> None:
    teacher, student = column((3.0, 0.0), (0.0, 0.5)), column((0.0, 4.0), (0.0, -0.5))

    expected = [1 - (0 + 4) / ((9 + 4) * (16 + 4)) ** 0.5, 1 - (-0.25 + 4) / (0.25 + 4)]
    assert allowing_distance(teacher, student, torch.tensor(4.0)).flatten().tolist() == pytest.approx(
        expected, rel=1e-6
    )


def test_without_a_remainder_it_is_the_cosine_s() -> None:
    teacher, student = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)

    found = allowing_distance(teacher, student, torch.tensor(0.0))
    torch.testing.assert_close(found, local_distance(teacher, student), rtol=0, atol=1e-6)


def test_short_vectors_differ_little_whatever_their_directions_and_long_ones_as_before() -> None:
    teacher, student = column((1.0, 0.0), (1.0, 0.0)), column((0.0, 1.0), (-1.0, 0.0))
    remainder = torch.tensor(1.0)

    assert allowing_distance(0.01 * teacher, 0.01 * student, remainder).max() < 3e-4
    long = allowing_distance(1000 * teacher, 1000 * student, remainder)
    torch.testing.assert_close(long, local_distance(teacher, student), rtol=0, atol=1e-5)


def test_vectors_of_nothing_have_a_distance() -> None:
    nothing = torch.zeros(1, 3, 2, 2)

    assert allowing_distance(nothing, nothing, torch.tensor(0.0)).isfinite().all()
    assert allowing_distance(nothing, nothing, torch.tensor(2.0)).abs().max() < 1e-6


def test_scale_and_energy_are_the_least_squares_of_all_that_was_added() -> None:
    teacher = [torch.randn(5, 4, 6, 6), 3 * torch.randn(5, 2, 3, 3)]
    student = [0.2 * teacher[0] + 0.1 * torch.randn(5, 4, 6, 6), -2 * teacher[1] + torch.randn(5, 2, 3, 3)]
    remainder = Remainder(2)
    for some in (slice(0, 2), slice(2, 5)):
        remainder.add([t[some] for t in teacher], [s[some] for s in student])
    remainder.learn()

    for level, (t, s) in enumerate(zip(teacher, student, strict=True)):
        scale = torch.linalg.lstsq(s.flatten()[:, None].double(), t.flatten()[:, None].double()).solution.item()
        energy = (t - scale * s).double().square().sum(1).mean().item()
        assert remainder.scale[level].item() == pytest.approx(scale, rel=1e-5)
        assert remainder.energy[level].item() == pytest.approx(energy, rel=1e-5)


@pytest.mark.parametrize("student", ["zero", "exact"])
def test_a_student_that_gives_nothing_or_all(student: str) -> None:
    teacher = [torch.randn(2, 4, 6, 6)]
    remainder = Remainder(1)
    remainder.add(teacher, [torch.zeros_like(teacher[0])] if student == "zero" else teacher)
    remainder.learn()

    of_all = teacher[0].square().sum(1).mean().item()
    assert remainder.energy.item() == pytest.approx(of_all if student == "zero" else 0, rel=1e-5, abs=1e-4 * of_all)
    assert remainder(teacher, teacher)[0].isfinite().all()


def test_distances_without_a_remainder_are_the_cosines() -> None:
    teacher, student = [torch.randn(1, 4, 3, 3)], [torch.randn(1, 4, 3, 3)]

    assert torch.equal(distances(teacher, student, None)[0], local_distance(teacher[0], student[0]))
    untold = distances(teacher, student, Remainder(1))[0]
    torch.testing.assert_close(untold, local_distance(teacher[0], student[0]), rtol=0, atol=1e-6)


REVERSE = sorted(name for name, method in list_methods().items() if issubclass(method, ReverseDistillation))


@pytest.mark.parametrize("name", REVERSE)
def test_every_reverse_distillation_measures_its_own_student(name: str, tmp_path: Path) -> None:
    images = TrainingImages(sorted(make_parts(tmp_path, 6).iterdir()), ImageContract(), Preparation(0, 255, SIZE))
    method = list_methods()[name]
    settings = {"image_size": SIZE, "strides": [8, 16], "steps": 2, "batch_size": 3}
    one: Method = build(method, method.Config.model_validate(settings), teacher((8, 16)), 0)
    assert isinstance(one, ReverseDistillation)
    Trainer("cpu", 0, None, lambda *_: None).fit(one, images)

    measured = Remainder(2)
    with torch.no_grad():
        for batch in images.batches(range(6), 6):
            pyramid = one.pyramid(batch)
            rebuilt = one.rebuild(pyramid)
            measured.add(pyramid, rebuilt)
    measured.learn()
    assert one.remainder is not None
    torch.testing.assert_close(one.remainder.scale, measured.scale, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(one.remainder.energy, measured.energy, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        batch = images.load(0)[None]
        pyramid = one.pyramid(batch)
        wanted = measured(pyramid, one.rebuild(pyramid))
        for gap, level in zip(one.gaps(batch), wanted, strict=True):
            torch.testing.assert_close(gap, level, rtol=1e-3, atol=1e-4)
