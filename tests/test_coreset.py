"""The greedy coreset against the same that is slow and plain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blemish.errors import TrainingError
from blemish.nn import coreset as module
from blemish.nn.coreset import greedy_coreset
from tiny import one_thread as one_thread  # applies to this module


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct_rows(data: Tensor) -> int:
    return len({tuple(row) for row in data.tolist()})


def vectors(count: int, dimensions: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=seeded(seed))


def coreset(data: Tensor, count: int, seed: int = 7, projected: int = 128, starts: int = 10) -> list[int]:
    taken: list[int] = greedy_coreset(data, count, seeded(seed), projected=projected, starts=starts).tolist()
    return taken


def plain_coreset(data: Tensor, count: int, seed: int = 7, projected: int = 128, starts: int = 10) -> list[int]:
    """Greedy k-centre with every distance computed from its definition, in double precision."""
    generator = seeded(seed)
    if projected < data.shape[1]:
        data = data @ (torch.randn(data.shape[1], projected, generator=generator) / projected**0.5)
    points = data.double()
    first = torch.randperm(len(points), generator=generator)[:starts]
    to_starts = [(points - points[i]).square().sum(1).sqrt() for i in first]
    nearest = torch.stack(to_starts, 1).mean(1).square()
    taken: list[int] = []
    for _ in range(count):
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[taken[-1]]).square().sum(1))
        nearest[taken] = -1
    return taken


@pytest.fixture(params=["usual", "small"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many vectors are looked at together: as always, or so few that a test needs many rounds."""
    if request.param == "small":
        monkeypatch.setattr(module, "SET", 20)
        monkeypatch.setattr(module, "ROWS", 64)
        monkeypatch.setattr(module, "MEASURED_AT_ONCE", 500)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("dimensions", "projected", "starts"), [(5, 128, 10), (128, 128, 10), (200, 128, 10), (60, 8, 3), (2, 128, 1000)]
)
def test_it_takes_the_centres_of_the_plain_algorithm(dimensions: int, projected: int, starts: int) -> None:
    data = vectors(300, dimensions)

    how = {"projected": projected, "starts": starts}
    assert coreset(data, 40, **how) == plain_coreset(data, 40, **how)


@pytest.mark.parametrize("seed", range(20))
def test_also_of_data_in_heaps(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near and far, wide and narrow, many vectors of one and few of another, as chance gives."""
    monkeypatch.setattr(module, "SET", 30)
    draw = seeded(seed)
    dimensions, heaps = (int(torch.randint(1, 40, (), generator=draw)) for _ in range(2))
    places = 10 ** (4 * torch.rand((), generator=draw) - 2) * torch.randn(heaps, dimensions, generator=draw)
    widths = 10 ** (3 * torch.rand(heaps, 1, generator=draw) - 2)
    heap = (heaps * torch.rand(600, generator=draw) ** 3).long()
    data = places[heap] + widths[heap] * torch.randn(600, dimensions, generator=draw)

    assert coreset(data, 250, seed) == plain_coreset(data, 250, seed)


def test_a_set_of_the_usual_size_among_more_vectors() -> None:
    data = vectors(3 * module.SET, 16)

    assert coreset(data, 200) == plain_coreset(data, 200)


def lattice() -> Tensor:
    """Vectors many of which are exactly as far from one another as others are."""
    return torch.cartesian_prod(*[torch.arange(5.0)] * 4)


def repeated() -> Tensor:
    return vectors(30, 8)[torch.randint(0, 30, (500,), generator=seeded(3))]


def far_apart() -> Tensor:
    """Two heaps so narrow, and so far from each other, that float32 products see one vector in each."""
    offsets = 1024.0 * torch.tensor([-1.0, 1.0]).repeat_interleave(150)[:, None]
    return (2.0**13 * offsets + 2.0 * torch.randint(0, 9, (300, 6), generator=seeded(2))).float()


def with_an_outlier() -> Tensor:
    data = vectors(300, 12)
    data[17] *= 1e6
    return data


def nearly_equal() -> Tensor:
    return 1 + 1e-6 * vectors(200, 4)


def small_numbers() -> Tensor:
    return 1e-15 * vectors(300, 20)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("made", [lattice, repeated, far_apart, with_an_outlier, nearly_equal, small_numbers])
@pytest.mark.parametrize("count", [10, 60, 190])
def test_also_where_products_cannot_tell_which_is_farther(made: Callable[[], Tensor], count: int) -> None:
    data = made()

    assert coreset(data, count) == plain_coreset(data, count)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    data = vectors(50, 4)
    data[20, 1] = value

    with pytest.raises(TrainingError, match="not finite"):
        coreset(data, 10)


def test_by_hand() -> None:
    """Points on a line; all are starts, so distances begin as the mean distance to all: 3.2, 2.6, 2.4, 2.6 and 6.8."""
    data = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])

    # 10 is taken; 0 leads with 3.2; then 3 with 2.6, for 1 is at a distance of 1 and 2 of 2; of 1 and 2 the first.
    assert coreset(data, 4, starts=5) == [4, 0, 3, 1]


def test_it_covers_what_chance_misses() -> None:
    """A thousand patches in one heap and three far away, as a rare but normal part of a product is."""
    data = torch.cat([vectors(1000, 16), torch.eye(16)[:3] * 100])

    assert {1000, 1001, 1002} <= set(coreset(data, 10))


@pytest.mark.parametrize("count", [5, 6, 100])
def test_as_many_as_there_are_or_more(count: int) -> None:
    assert coreset(vectors(5, 3), count) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 64, 199])
def test_every_index_once(count: int) -> None:
    taken = coreset(vectors(200, 12), count)

    assert len(taken) == len(set(taken)) == count
    assert set(taken) <= set(range(200))


def test_the_generator_decides() -> None:
    data = vectors(400, 200)

    torch.manual_seed(1)
    first = coreset(data, 30, seed=5)
    torch.manual_seed(2)
    assert coreset(data, 30, seed=5) == first
    assert coreset(data, 30, seed=6) != first


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_duplicates_are_taken_last_and_no_vector_twice(scale: float) -> None:
    """Black borders give many equal patches. Far from the origin, rounding makes distances of 0 negative."""
    distinct = scale * (vectors(20, 8) + 30)
    data = distinct[torch.randint(0, 20, (300,), generator=seeded(3))]
    different = distinct_rows(data)
    taken = coreset(data, 290)

    assert len(set(taken)) == 290
    assert distinct_rows(data[taken[:different]]) == different
    assert taken == plain_coreset(data, 290)


def test_all_vectors_equal() -> None:
    assert coreset(torch.full((50, 3), 1234.5), 49) == [*range(49)]


def test_progress_ends_at_one() -> None:
    told: list[float] = []
    greedy_coreset(vectors(300, 4), 200, seeded(), progress=told.append)

    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 2


def test_the_vectors_are_left_as_they_are() -> None:
    data = vectors(100, 10)
    before = data.clone()
    coreset(data, 20)

    assert torch.equal(data, before)
