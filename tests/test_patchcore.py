"""PatchCore's options: k nearest patches, and the score re-weighted by equation 7, against plain computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from blemish.export import check_parity, export_graph
from blemish.images import ImageContract
from blemish.methods import PassStage
from blemish.methods.patchcore import PatchCore
from blemish.nn.neighbours import nearest_squared_distance, rarity
from blemish.nn.preparation import Preparation
from blemish.runtime.graph import OnnxRuntimeGraph
from tiny import SIZE, part, teacher
from tiny import one_thread as one_thread  # applies to this module

PREPARATION = Preparation(0, 255, SIZE)


def images(count: int, first: int = 0) -> Tensor:
    pictures: Tensor = PREPARATION(torch.from_numpy(np.stack([part(first + i) for i in range(count)])))
    return pictures


@torch.no_grad()
def fitted(**settings: int) -> PatchCore:
    config = PatchCore.Config.model_validate({"image_size": SIZE} | settings)
    made = PatchCore(config, teacher(config.strides)).eval()
    (stage,) = made.stages(6)
    assert isinstance(stage, PassStage)
    stage.collect(images(6))
    stage.finish(torch.Generator().manual_seed(0), lambda _: None)
    return made


def vectors(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_mean_of_the_nearest_is_scikit_learns(count: int) -> None:
    queries, bank = vectors(20, 0), vectors(30, 1)
    found = nearest_squared_distance(queries, bank, bank.square().sum(1), count)
    reference = NearestNeighbors(n_neighbors=min(count, 30)).fit(bank.numpy())
    wanted = (reference.kneighbors(queries.numpy())[0] ** 2).mean(1)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)


def plain_weight(query: Tensor, bank: Tensor, count: int) -> float:
    """Equation 7 written out, in double precision."""
    query, bank = query.double(), bank.double()
    star = bank[(bank - query).norm(dim=1).argmin()]
    around = bank[(bank - star).norm(dim=1).argsort()[:count]]
    of_all = (around - query).norm(dim=1).exp().sum()
    return float(1 - (query - star).norm().exp() / of_all)


@pytest.mark.parametrize("count", [1, 4, 100])
def test_rarity_is_equation_7(count: int) -> None:
    queries, bank = vectors(10, 0), vectors(30, 1)
    found = rarity(queries, bank, bank.square().sum(1), count)
    for query, weight in zip(queries, found, strict=True):
        assert float(weight) == pytest.approx(plain_weight(query, bank, count), abs=1e-5)


def test_rarity_takes_distances_of_hundreds() -> None:
    """Their exponentials are beyond what a float holds."""
    queries, bank = 300 * vectors(10, 0), 300 * vectors(30, 1)
    found = rarity(queries, bank, bank.square().sum(1), 5)
    assert found.isfinite().all()
    assert ((found > 0.9) & (found <= 1)).all()


@pytest.mark.parametrize(("neighbours", "reweighting"), [(1, 0), (3, 0), (1, 5), (2, 5)])
@torch.no_grad()
def test_map_and_score_follow_the_options(neighbours: int, reweighting: int) -> None:
    made = fitted(neighbours=neighbours, reweighting=reweighting)
    new = images(2, first=100)
    patches = made.embed(new).double()
    nearest = (
        torch.cdist(patches, made.bank.double()).square().sort(1).values[:, :neighbours].mean(1).unflatten(0, (2, -1))
    )
    anomaly_map, score = made(new)
    for b in range(2):
        wanted = float(nearest[b].max())
        if reweighting:
            farthest = made.embed(new).unflatten(0, (2, -1))[b, nearest[b].argmax()]
            wanted = wanted**0.5 * plain_weight(farthest, made.bank, reweighting)
        assert float(score[b]) == pytest.approx(wanted, rel=1e-3)
    plain = fitted()(new)
    assert torch.equal(plain.map, anomaly_map) == (neighbours == 1)


def test_the_graph_agrees_with_both_options() -> None:
    made = fitted(neighbours=3, reweighting=5)
    graph = OnnxRuntimeGraph(export_graph(made, PREPARATION, ImageContract()))
    pictures = [part(0), part(4), part(100), part(101, defect=True)]
    assert check_parity(graph, made, PREPARATION, pictures).images == 4


def test_the_graph_of_a_wide_teacher_takes_any_batch() -> None:
    made = fitted(dimension=10)
    assert len(made.pool_levels) == 2
    assert made.pool_patch.outputs == made.bank.shape[1] == 10
    graph = OnnxRuntimeGraph(export_graph(made, PREPARATION, ImageContract()))
    assert check_parity(graph, made, PREPARATION, [part(100 + i) for i in range(4)]).images == 4
