"""Nearest neighbours by brute force, and the greedy coreset against one that is slow and plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from blemish.nn.neighbours import greedy_coreset, nearest_squared_distance


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct_rows(data: Tensor) -> int:
    return len({tuple(row) for row in data.tolist()})


def vectors(count: int, dimensions: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=seeded(seed))


# Nearest distance


@pytest.mark.parametrize(("queries", "bank", "dimensions"), [(1, 1, 1), (5, 1, 3), (1, 40, 7), (60, 90, 33)])
def test_nearest_distance_is_that_of_brute_force(queries: int, bank: int, dimensions: int) -> None:
    asked, kept = vectors(queries, dimensions, 1), vectors(bank, dimensions, 2) + 3

    expected = (asked.double()[:, None] - kept.double()).square().sum(2).amin(1)
    given = nearest_squared_distance(asked, kept, kept.square().sum(1))
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_member_of_the_bank_is_at_no_distance_and_never_at_a_negative_one() -> None:
    kept = 100 * vectors(200, 50)
    given = nearest_squared_distance(kept, kept, kept.square().sum(1))

    assert given.min() >= 0
    # Float32 rounds |q|^2 = 500 000 to 0.03; anything in that order is none.
    assert given.max() < 1


# Coreset


def coreset(data: Tensor, count: int, seed: int = 7, projected: int = 128, starts: int = 10) -> list[int]:
    taken: list[int] = greedy_coreset(data, count, seeded(seed), projected=projected, starts=starts).tolist()
    return taken


def plain_coreset(data: Tensor, count: int, seed: int = 7, projected: int = 128, starts: int = 10) -> list[int]:
    """Greedy k-centre with every distance computed from its definition, in double precision."""
    generator = seeded(seed)
    if projected < data.shape[1]:
        data = data @ (torch.randn(data.shape[1], projected, generator=generator) / projected**0.5)
    points = data.double().numpy()
    first = torch.randperm(len(points), generator=generator)[:starts].numpy()
    nearest = np.mean([np.linalg.norm(points - points[i], axis=1) for i in first], axis=0)
    taken: list[int] = []
    for _ in range(count):
        nearest[taken] = -1
        taken.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[taken[-1]], axis=1))
    return taken


@pytest.mark.parametrize(
    ("dimensions", "projected", "starts"), [(5, 128, 10), (128, 128, 10), (200, 128, 10), (60, 8, 3), (2, 128, 1000)]
)
def test_it_takes_the_centres_of_the_plain_algorithm(dimensions: int, projected: int, starts: int) -> None:
    data = vectors(300, dimensions)

    how = {"projected": projected, "starts": starts}
    assert coreset(data, 40, **how) == plain_coreset(data, 40, **how)


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


def test_all_vectors_equal() -> None:
    assert len(set(coreset(torch.full((50, 3), 1234.5), 49))) == 49


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
