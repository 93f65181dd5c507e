"""Nearest neighbours in a bank of feature vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_squared_distance(queries: Tensor, bank: Tensor, bank_norms: Tensor, count: int = 1) -> Tensor:
    """Squared Euclidean distance of each query to its nearest bank vector, or the mean of those to the nearest `count`.

    Parameters
    ----------
    queries : Q x D; bank : M x D; bank_norms : M, squared norms of the bank.

    Returns
    -------
    Tensor, Q, at least 0. |q - m|^2 = |q|^2 + |m|^2 - 2 q.m: one matrix product instead of Q M D differences.
    """
    partial = torch.addmm(bank_norms, queries, bank.T, alpha=-2.0)
    # For the smallest alone nothing needs sorting.
    nearest = (
        partial.amin(1) if count == 1 else partial.topk(min(count, len(bank)), dim=1, largest=False).values.mean(1)
    )
    return (nearest + queries.square().sum(1)).clamp(min=0)


def rarity(queries: Tensor, bank: Tensor, bank_norms: Tensor, count: int) -> Tensor:
    """How much each query counts for standing apart: the weight of PatchCore's equation 7, Q, in (0, 1).

    With m* the bank vector nearest to a query q and N its `count` nearest in the bank, itself among them,
    1 - exp |q - m*| / (sum over m in N of exp |q - m|): small where the bank is dense around m* as seen from q.

    Parameters
    ----------
    queries, bank, bank_norms : see `nearest_squared_distance`. count : b of the paper.
    """
    nearest = bank[torch.addmm(bank_norms, queries, bank.T, alpha=-2.0).argmin(1)]
    around = torch.addmm(bank_norms, nearest, bank.T, alpha=-2.0).topk(min(count, len(bank)), dim=1, largest=False)
    distances = (queries[:, None] - bank[around.indices]).square().sum(2).sqrt()
    to_nearest = (queries - nearest).square().sum(1).sqrt()
    return 1 - torch.exp(to_nearest - distances.logsumexp(1))
