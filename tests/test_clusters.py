"""k-means and Fisher's discriminant against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from blemish.nn.clusters import discriminant, k_means, squared_distances


def clouds(count: int, dimension: int = 5, each: int = 200) -> Tensor:
    """Overlapping clouds of points."""
    generator = torch.Generator().manual_seed(3)
    centres = 2 * torch.randn(count, dimension, generator=generator)
    return torch.cat([centre + torch.randn(each, dimension, generator=generator) for centre in centres])


def inertia(vectors: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(vectors.double(), centres.double()).amin(1).square().sum())


def test_distances_are_those_of_the_differences() -> None:
    vectors, centres = torch.randn(3, 4, 6), torch.randn(5, 6)
    wanted = (vectors[:, :, None] - centres).square().sum(3)
    torch.testing.assert_close(squared_distances(vectors, centres), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 12])
def test_the_clusters_are_as_tight_as_those_of_scikit_learn(count: int) -> None:
    vectors = clouds(6)
    found = k_means(vectors, count, torch.Generator().manual_seed(0))
    reference = KMeans(count, n_init=10, random_state=0).fit(vectors.numpy())
    assert inertia(vectors, found) < 1.03 * reference.inertia_


def test_two_clear_clusters_are_those_of_scikit_learn() -> None:
    vectors = torch.cat([clouds(1), clouds(1) + 20])
    found = k_means(vectors, 2, torch.Generator().manual_seed(0))
    wanted = KMeans(2, n_init=10, random_state=0).fit(vectors.numpy()).cluster_centers_
    order = found[:, 0].argsort()
    np.testing.assert_allclose(found[order].numpy(), wanted[wanted[:, 0].argsort()], rtol=1e-4)


def test_a_good_guess_wins_and_a_bad_one_does_not() -> None:
    """Three clouds and three centres, of which one restart alone puts two into one cloud."""
    vectors = torch.cat([clouds(1, each=30) + shift for shift in (0, 100, 120)])
    truth = vectors.reshape(3, 30, 5).mean(1)
    found = k_means(vectors, 3, torch.Generator().manual_seed(0), guess=truth + 1, restarts=0)
    torch.testing.assert_close(found, truth)
    bad = torch.stack([truth[0], truth[0] + 1, (truth[1] + truth[2]) / 2])
    stuck = k_means(vectors, 3, torch.Generator().manual_seed(0), guess=bad, restarts=0)
    found = k_means(vectors, 3, torch.Generator().manual_seed(0), guess=bad)
    assert inertia(vectors, found) == pytest.approx(inertia(vectors, truth), rel=1e-4)
    assert inertia(vectors, stuck) > 2 * inertia(vectors, truth)


def test_fewer_different_vectors_than_clusters() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(5, 1)
    found = k_means(vectors, 4, torch.Generator().manual_seed(0))
    assert found.shape == (4, 2)
    assert inertia(vectors, found) < 1e-9


def test_the_draws_are_the_generators() -> None:
    """Three restarts on twelve clusters of six clouds do not all end in the same place."""
    vectors = clouds(6)
    first, again, other = (k_means(vectors, 12, torch.Generator().manual_seed(seed), restarts=1) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_discriminant_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(4, 4, generator=generator)
    groups = [shift + torch.randn(300, 4, generator=generator) @ mixing for shift in (0.0, 0.7)]
    weights, offset = discriminant(*groups)
    reference = LinearDiscriminantAnalysis().fit(torch.cat(groups).numpy(), np.repeat([0, 1], 300))
    np.testing.assert_allclose(weights.numpy(), reference.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(float(offset), reference.intercept_[0], rtol=1e-3)


def test_a_channel_that_never_varies_is_no_obstacle() -> None:
    generator = torch.Generator().manual_seed(1)
    groups = [torch.randn(50, 3, generator=generator) + shift for shift in (0, 2)]
    for group in groups:
        group[:, 1] = 7
    weights, offset = discriminant(*groups)
    assert weights.isfinite().all()
    assert float((groups[0] @ weights + offset).mean()) < 0 < float((groups[1] @ weights + offset).mean())
