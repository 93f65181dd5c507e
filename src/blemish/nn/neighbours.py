"""Nearest neighbours in a bank of feature vectors, and the greedy choice of the vectors to keep."""

from __future__ import annotations

from collections.abc import Callable

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


def greedy_coreset(
    vectors: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    projected: int = 128,
    starts: int = 10,
    progress: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """Indices of `count` vectors that cover all: greedy k-centre on a random projection (PatchCore, algorithm 1).

    Each step takes the vector farthest from those taken. As in the published code's approximate variant, distances
    begin as the mean distance to `starts` random vectors.

    Parameters
    ----------
    vectors : N x D. generator : of the projection and the starts. projected : dimensions after projection.

    Returns
    -------
    Tensor, `count` indices, int64, in the order taken.
    """
    n, dimensions = vectors.shape
    if count >= n:
        return torch.arange(n)
    if projected < dimensions:
        projection = torch.randn(dimensions, projected, generator=generator) / projected**0.5
        vectors = vectors @ projection.to(vectors)
    norms = vectors.square().sum(1)
    first = torch.randperm(n, generator=generator)[: min(starts, n)].to(vectors.device)
    to_starts = norms[:, None] + norms[first] - 2 * (vectors @ vectors[first].T)
    # Squared from here on: the farthest stays the farthest, and no root is taken per step.
    distance = to_starts.clamp(min=0).sqrt().mean(1).square()
    taken = torch.empty(count, dtype=torch.int64)
    for step in range(count):
        index = int(distance.argmax())
        taken[step] = index
        to_new = torch.addmv(norms, vectors, vectors[index], alpha=-2.0).add_(norms[index])
        torch.minimum(distance, to_new, out=distance)
        # Below what rounding makes of a distance of 0: a vector is never taken twice.
        distance[index] = -torch.inf
        if step % 64 == 0:
            progress(step / count)
    progress(1.0)
    return taken
