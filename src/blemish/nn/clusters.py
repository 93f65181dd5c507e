"""Clusters of vectors (k-means), and the direction that tells two groups of vectors apart (Fisher's discriminant)."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_MOVE = 1e-4
"""In mean variances of the vectors: once the centres together move less than this, squared, they have settled."""


def squared_distances(vectors: Tensor, centres: Tensor) -> Tensor:
    """|v - c|^2: ... x D and K x D -> ... x K, at least 0 but for rounding."""
    return vectors.square().sum(-1, keepdim=True) + centres.square().sum(1) - 2 * (vectors @ centres.T)


def k_means(
    vectors: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    guess: Tensor | None = None,
    restarts: int = 10,
    rounds: int = 300,
) -> Tensor:
    """The `count` centres of the best of `restarts` runs of Lloyd's algorithm, each begun by k-means++.

    The best run has the smallest sum of squared distances to the nearest centre. A cluster that loses its last vector
    keeps its centre.

    Parameters
    ----------
    vectors : N x D, N at least 1. generator : of all draws; it lives on the CPU. rounds : of one run, at most.
    guess : count x D, centres that one more run begins with.

    Returns
    -------
    Tensor, count x D.
    """
    tolerance = SMALLEST_MOVE * float(vectors.var(0, correction=0).mean())
    best, smallest = vectors[:0], float("inf")
    for run in range(restarts + (guess is not None)):
        centres = guess if guess is not None and run == restarts else _spread_out(vectors, count, generator)
        for _ in range(rounds):
            nearest = squared_distances(vectors, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
            sizes = torch.bincount(nearest, minlength=count)[:, None]
            moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
            move = float((moved - centres).square().sum())
            centres = moved
            if move <= tolerance:
                break
        inertia = float(squared_distances(vectors, centres).amin(1).clamp(min=0).sum())
        if inertia < smallest:
            best, smallest = centres, inertia
    return best


def _spread_out(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """First centres (Arthur and Vassilvitskii, 2007): each drawn by its squared distance to those drawn before."""
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    distance = squared_distances(vectors, vectors[chosen]).clamp(min=0)[:, 0]
    while len(chosen) < count:
        # Fewer different vectors than centres: then every distance is 0, and any vector will do.
        weight = distance.cpu() if float(distance.sum()) > 0 else torch.ones(len(vectors))
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, squared_distances(vectors, vectors[chosen[-1:]]).clamp(min=0)[:, 0])
    return vectors[chosen]


def discriminant(negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Fisher's linear discriminant of two groups of vectors, N x D and M x D, taken as equally likely.

    Returns weights, D, and an offset: `v @ weights + offset` is the log-odds of `positive` if both groups are normal
    with one covariance; it is 0 half way between the means.
    """
    groups = [negative.double(), positive.double()]
    means = [group.mean(0) for group in groups]
    scatter = [(group - mean).T @ (group - mean) for group, mean in zip(groups, means, strict=True)]
    within = (scatter[0] + scatter[1]) / (len(negative) + len(positive))
    # Channels that never vary make it singular.
    within += 1e-6 * within.diagonal().mean().clamp(min=1e-12) * torch.eye(len(within)).to(within)
    weights = torch.linalg.solve(within, means[1] - means[0])
    return weights.float(), (-weights @ (means[0] + means[1]) / 2).float()
