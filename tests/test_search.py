"""The search in integers: the same distances as in float32, and only where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blemish import search
from blemish.errors import ExportError
from blemish.export import GRAPH_PREFIX, check_parity, export_graph, pack_learned, proven_graph
from blemish.images import ImageContract
from blemish.methods.patchcore import PatchCore
from blemish.nn.neighbours import nearest_squared_distance
from blemish.nn.preparation import Preparation
from blemish.quantisation import integer_graph
from blemish.runtime.graph import OnnxRuntimeGraph, RuntimeName, installed_runtimes, open_graph
from blemish.search import search_in_integers
from tiny import SIZE, part, teacher
from tiny import one_thread as one_thread  # applies to this module

PREPARATION = Preparation(0, 255, SIZE)


@pytest.fixture(autouse=True)
def small_banks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "DIMENSION", 1)
    monkeypatch.setattr(search, "NUMBERS", 1)


def graph_of(
    bank: NDArray[np.float32], axis: int = 1, *, alpha: float = -2, keepdims: int = 0, shown: bool = False
) -> onnx.ModelProto:
    """The nearest distance as a graph, less the query's own square; `shown` makes all distances an output too."""
    constants = {"bank": bank, "norms": np.square(bank).sum(1), "axes": np.array([axis])}
    nodes = [
        helper.make_node("Gemm", ["image", "bank", "norms"], ["all"], alpha=float(alpha), transB=1),
        helper.make_node("ReduceMin", ["all", "axes"], ["anomaly_map"], keepdims=keepdims),
        helper.make_node("Identity", ["anomaly_map"], ["score"]),
    ]
    queries = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["q", bank.shape[1]])
    names = ["anomaly_map", "score"] + ["all"] * shown
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "search", [queries], outputs, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def vectors(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """With channels of different sizes and a mean that is not 0, as features have."""
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(count, dimension)) * np.linspace(0.2, 2, dimension)
    return (drawn + np.linspace(3, -1, dimension)).astype(np.float32)


def kinds(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


@pytest.mark.parametrize("runtime", installed_runtimes())
@pytest.mark.parametrize("count", [1600, 1613])
def test_distances_are_those_of_float32(runtime: RuntimeName, count: int) -> None:
    bank, queries = vectors(count, 24, 0), vectors(300, 24, 1)
    # A member of the bank; the bank's mean; one that makes all others small beside it.
    queries[0], queries[1], queries[2] = bank[-1], bank.mean(0), 1000 * queries[2]
    model = graph_of(bank)
    assert search_in_integers(model)

    found, _ = open_graph(model.SerializeToString(), 1, runtime).run(queries)
    own = np.square(queries).sum(1)
    wanted = nearest_squared_distance(*(torch.from_numpy(a).double() for a in (queries, bank, np.square(bank).sum(1))))
    np.testing.assert_allclose(found + own, wanted.numpy(), rtol=1e-5, atol=1e-5 * float(own[:2].max()))


def test_a_bank_of_one_vector_many_times() -> None:
    bank = np.repeat(vectors(1, 8, 0), 500, 0)
    model = graph_of(bank)
    assert search_in_integers(model)
    queries = vectors(5, 8, 1)
    found, _ = OnnxRuntimeGraph(model.SerializeToString()).run(queries)
    wanted = np.square(bank[0]).sum() - 2 * queries @ bank[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_what_is_no_number_has_no_distance_and_harms_no_other(runtime: RuntimeName) -> None:
    bank, queries = vectors(1613, 24, 0), vectors(6, 24, 1)
    queries[1, 3], queries[4, 0] = np.nan, np.inf
    model = graph_of(bank)
    whole, _ = open_graph(model.SerializeToString(), 1, runtime).run(queries)
    search_in_integers(model)
    found, _ = open_graph(model.SerializeToString(), 1, runtime).run(queries)

    with np.errstate(invalid="ignore"):
        assert not np.isfinite(found + np.square(queries).sum(1))[[1, 4]].any()
    np.testing.assert_allclose(found[[0, 2, 3, 5]], whole[[0, 2, 3, 5]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "other", [{"axis": 0}, {"alpha": -1}, {"keepdims": 1}, {"shown": True}], ids=lambda other: next(iter(other))
)
def test_what_is_no_search_is_left_alone(other: dict[str, Any]) -> None:
    model = graph_of(vectors(400, 8, 0), **other)
    before = model.SerializeToString()
    if "shown" in other:
        model.graph.node.append(helper.make_node("Neg", ["all"], ["negative"]))
        before = model.SerializeToString()
    assert not search_in_integers(model)
    assert model.SerializeToString() == before


def test_small_banks_and_short_vectors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "DIMENSION", 9)
    assert not search_in_integers(graph_of(vectors(400, 8, 0)))
    monkeypatch.setattr(search, "DIMENSION", 8)
    assert search_in_integers(graph_of(vectors(400, 8, 0)))
    monkeypatch.setattr(search, "NUMBERS", 400 * 8 + 1)
    assert not search_in_integers(graph_of(vectors(400, 8, 0)))
    monkeypatch.setattr(search, "NUMBERS", 1)
    assert not search_in_integers(graph_of(vectors(search.CANDIDATES * search.BLOCK - 1, 8, 0)))


def patchcore(bank: int) -> PatchCore:
    config = PatchCore.Config(image_size=SIZE)
    made = PatchCore(config, teacher(config.strides)).eval()
    pictures = PREPARATION(torch.from_numpy(np.stack([part(i) for i in range(12)])))
    with torch.no_grad():
        patches = made.embed(pictures)
    made.bank = patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:bank]].contiguous()
    made.bank_norms = made.bank.square().sum(1)
    return made


def test_patchcore_searches_in_integers_and_agrees_with_torch(tmp_path: Path) -> None:
    made = patchcore(300)
    pictures = [part(100 + i, defect=i == 2) for i in range(4)]
    content, _, parity = proven_graph(made, PREPARATION, ImageContract(), pictures)
    assert "Gemm" not in kinds(content)
    assert parity.images == 4
    # The bank itself is still there to be found again, and the int8 twin can be made of it.
    assert GRAPH_PREFIX + "bank" in [each.name for each in onnx.load_from_string(content).graph.initializer]
    assert len(pack_learned(made.detector_state(), content)) > 0
    twin, _, _ = integer_graph(content, pictures, 0.0)
    maps, _ = OnnxRuntimeGraph(twin).run(pictures[0][None])
    assert np.isfinite(maps).all()


def test_where_it_does_not_agree_the_search_is_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    made = patchcore(300)
    pictures = [part(100 + i) for i in range(3)]
    monkeypatch.setattr(search, "LEVELS", 1)
    monkeypatch.setattr(search, "CANDIDATES", 1)
    rough = OnnxRuntimeGraph(export_graph(made, PREPARATION, ImageContract()))
    with pytest.raises(ExportError):
        check_parity(rough, made, PREPARATION, pictures)

    content, graph, parity = proven_graph(made, PREPARATION, ImageContract(), pictures)
    assert "Gemm" in kinds(content)
    assert content == export_graph(made, PREPARATION, ImageContract(), integer_search=False)
    assert graph.run(pictures[0][None])[0].shape == (1, *pictures[0].shape[:2])
    assert parity.images == 3
