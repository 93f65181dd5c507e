"""The search among nearest neighbours in float32 and in integers: time, and how often the nearest is found.

    python benchmarks/neighbours.py --threads 1
    python benchmarks/neighbours.py --threads 1 --images magnetic_tile --faiss

1,024 queries against banks of several sizes, as the graph of a `patchcore` with one neighbour does it: median
milliseconds of the processor, runs in turn. Vectors are made up: 40 common factors and noise, rectified. With --images
they are patches of images, as the embedded teacher describes them, the queries those of the last images. "Found" is the
share of queries whose distance is that of the nearest vector in double precision, to a ten-thousandth and what float32
rounds; "error" is the largest there is, as a part of the largest distance. --faiss needs faiss-cpu in the same
environment.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blemish import search
from blemish.runtime.graph import RUNTIMES, installed_runtimes
from graphs import in_turn

QUERIES = 1024
SIZES = [(2_000, 152), (10_000, 152), (50_000, 152), (2_000, 384), (10_000, 384), (50_000, 384), (20_000, 1024)]
RUNS = 9
Vectors = NDArray[np.float32]


def made(count: int, dimension: int) -> tuple[Vectors, Vectors]:
    """A bank and queries: factors, noise and what is below zero cut off, as features of a network have it."""
    random = np.random.default_rng(0)
    factors = random.normal(scale=0.3, size=(40, dimension))

    def draw(number: int) -> Vectors:
        common = random.normal(size=(number, 40)) @ factors
        return np.maximum(0, common + random.normal(0.3, 0.5, (number, dimension))).astype(np.float32)

    return draw(count), draw(QUERIES)


def of_images(folder: Path) -> Iterator[tuple[Vectors, Vectors]]:
    """Banks of 2,000, 10,000 and 50,000 patches of images and queries of others, the embedded teacher's."""
    import torch

    from blemish.data import list_images
    from blemish.images import DEFAULT_CONTRACT, read
    from blemish.methods.patchcore import PatchCore
    from blemish.nn.preparation import Preparation
    from blemish.teachers import DEFAULT_TEACHER, open_teacher

    config = PatchCore.Config()
    method = PatchCore(config, open_teacher(DEFAULT_TEACHER, strides=config.strides)).eval()
    preparation = Preparation(0, 255, config.image_size)
    patches = []
    with torch.inference_mode():
        for path in list_images(folder).images[:70]:
            patches.append(method.embed(preparation(torch.from_numpy(read(path, DEFAULT_CONTRACT)[None]))).numpy())
    of_bank = np.concatenate(patches[:-5])
    order = np.random.default_rng(0).permutation(len(of_bank))
    for count in (2_000, 10_000, 50_000):
        yield of_bank[order[:count]], np.concatenate(patches[-5:])[:QUERIES]


def graph_of(bank: Vectors) -> onnx.ModelProto:
    """What `nn.neighbours.nearest_squared_distance` becomes, under the names that a runtime of Blemish asks for."""
    queries = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["q", bank.shape[1]])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["q"]) for name in ("anomaly_map", "score")]
    constants = {"bank": bank, "norms": np.square(bank).sum(1), "one": np.array([1])}
    nodes = [
        helper.make_node("Gemm", ["image", "bank", "norms"], ["partial"], alpha=-2.0, transB=1),
        helper.make_node("ReduceMin", ["partial", "one"], ["nearest"], keepdims=0),
        helper.make_node("ReduceSumSquare", ["image", "one"], ["own"], keepdims=0),
        helper.make_node("Add", ["nearest", "own"], ["anomaly_map"]),
        helper.make_node("Identity", ["anomaly_map"], ["score"]),
    ]
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "search", [queries], outputs, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def by_faiss(bank: Vectors, queries: Vectors) -> dict[str, Callable[[], Vectors]]:
    import faiss  # type: ignore[import-not-found]

    faiss.omp_set_num_threads(1)
    flat, graph = faiss.IndexFlatL2(bank.shape[1]), faiss.IndexHNSWFlat(bank.shape[1], 32)
    flat.add(bank)
    graph.add(bank)
    graph.hnsw.efSearch = 64
    return {
        f"faiss {name}": lambda index=index: index.search(queries, 1)[0][:, 0]  # type: ignore[misc]
        for name, index in (("flat", flat), ("HNSW 32, ef 64", graph))
    }


def compare(kind: str, bank: Vectors, queries: Vectors, threads: int | None, *, faiss: bool) -> None:
    exact = bank.astype(np.float64), queries.astype(np.float64)
    truth = (np.square(exact[0]).sum(1) - 2 * exact[1] @ exact[0].T).min(1) + np.square(exact[1]).sum(1)
    model = graph_of(bank)
    graphs = {"float32": model.SerializeToString()}
    search.DIMENSION = search.NUMBERS = 0
    search.search_in_integers(model)
    graphs["integers"] = model.SerializeToString()
    jobs: dict[str, Callable[[], Vectors]] = by_faiss(bank, queries) if faiss else {}
    for runtime in installed_runtimes():
        for name, content in graphs.items():
            opened = RUNTIMES[runtime](content, threads, 1)
            jobs[f"{runtime}, {name}"] = lambda opened=opened: opened.run(queries)[0]  # type: ignore[misc]
    for name, (_, processor) in in_turn(jobs, RUNS).items():
        wrong = np.abs(jobs[name]() - truth)
        print(
            f"| {kind} | {len(bank):,} x {bank.shape[1]} | {name} | {processor:.1f} | "
            f"{np.mean(wrong <= 1e-4 * truth + 2e-5 * truth.max()):.4f} | {wrong.max() / truth.max():.0e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--faiss", action="store_true")
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", *installed_runtimes()))
    print(f"{datetime.date.today()}, {os.cpu_count()} cores {platform.machine()}, {packages}\n")
    print("| vectors | bank | search | cpu ms | found | error |\n|---|---|---|---|---|---|")
    for size in SIZES:
        compare("made", *made(*size), arguments.threads, faiss=arguments.faiss)
    if arguments.images:
        for bank, queries in of_images(arguments.images):
            compare("patches", bank, queries, arguments.threads, faiss=arguments.faiss)


if __name__ == "__main__":
    main()
