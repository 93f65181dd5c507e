"""Nearest neighbours by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blemish.nn.neighbours import nearest_squared_distance


def vectors(count: int, dimensions: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


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
