"""Time a model file: the graph alone on each runtime, float32 and int8, and `blemish inspect` on a folder.

    python benchmarks/inference.py bottle.blemish mvtec/bottle/test --int8 bottle.int8.blemish
    python benchmarks/inference.py bottle.blemish mvtec/bottle/test --threads 1

Graphs run in turn, one image each, so that a busy machine is busy for all; medians. Beside them what the graph computes
(its convolutions and matrix products, counted) and the share of the ceiling: what the same runtime reaches, in the same
run, in one 3 x 3 convolution of 64 channels on 64 x 64 places. "cpu" is processor time of all threads, which other
processes disturb less than the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blemish.data import list_images
from blemish.images import ImageContract, read
from blemish.modelfile import open_model_file
from blemish.runtime.graph import OnnxRuntimeGraph, OpenVinoGraph, installed_runtimes

RUNS = 31


def operations(content: bytes, shape: tuple[int, ...]) -> float:
    """Multiplications and additions of a graph's convolutions and matrix products for one input of this shape."""
    import onnxruntime

    model = onnx.load_from_string(content)
    counted = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")]
    constants = {each.name: tuple(each.dims) for each in model.graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t).shape
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    # Sides are free in the graph; only running it says what comes out where.
    wanted = [n for node in counted for n in (node.input[0], node.output[0], node.input[1]) if n not in constants]
    already = {each.name for each in model.graph.output} | {each.name for each in model.graph.input}
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(wanted) if n not in already)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    ran = session.run(names, {"image": np.zeros(shape, session.get_inputs()[0].type[7:-1])})
    shapes = {"image": shape} | constants | {n: a.shape for n, a in zip(names, ran, strict=True)}
    total = 0.0
    for node in counted:
        weight, out = shapes[node.input[1]], shapes[node.output[0]]
        if node.op_type == "Conv":
            total += 2 * math.prod(out) * math.prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            total += 2 * math.prod(shapes[node.input[0]]) * math.prod(weight[1:])
        else:
            total += 2 * math.prod(out) * shapes[node.input[0]][-1]
    return total


def one_convolution() -> bytes:
    """A graph as the others are, that is one convolution of 0.3 GFLOP and almost nothing else."""
    weight = np.random.default_rng(0).normal(size=(64, 64, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["image", "w"], ["a"], pads=[1, 1, 1, 1])]
    nodes += [helper.make_node("Conv", [a, "w"], [b], pads=[1, 1, 1, 1]) for a, b in ("ab", "bc", "cd")]
    nodes += [
        helper.make_node("ReduceMean", ["d"], ["anomaly_map"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 64, 64, 64])
    outputs = [
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["b", 64, 64]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["b"]),
    ]
    graph = helper.make_graph(nodes, "ceiling", [image], outputs, [numpy_helper.from_array(weight, "w")])
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return made


def in_turn(jobs: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each job, by the clock and of the processor."""
    clock: dict[str, list[float]] = {name: [] for name in jobs}
    processor: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(RUNS + 2):
        for name, job in jobs.items():
            started, used = time.perf_counter(), time.process_time()
            job()
            if turn >= 2:
                clock[name].append(1e3 * (time.perf_counter() - started))
                processor[name].append(1e3 * (time.process_time() - used))
    return {name: (statistics.median(clock[name]), statistics.median(processor[name])) for name in jobs}


def graphs(models: dict[str, Path], image: NDArray[np.generic], threads: int | None) -> None:
    kinds = {"onnxruntime": OnnxRuntimeGraph, "openvino": OpenVinoGraph}
    jobs: dict[str, Callable[[], object]] = {}
    work: dict[str, float] = {}
    ceiling_input = np.random.default_rng(0).normal(size=(1, 64, 64, 64)).astype(np.float32)
    for runtime in installed_runtimes():
        ceiling = kinds[runtime](one_convolution(), threads)
        jobs[f"ceiling {runtime}"] = lambda graph=ceiling: graph.run(ceiling_input)  # type: ignore[misc]
        work[f"ceiling {runtime}"] = 4 * 2 * 64 * 64 * 64 * 64 * 9
        for name, path in models.items():
            content = open_model_file(path).graph
            graph = kinds[runtime](content, threads)
            jobs[f"{name} {runtime}"] = lambda graph=graph: graph.run(image[None])  # type: ignore[misc]
            work[f"{name} {runtime}"] = operations(open_model_file(models["float32"]).graph, (1, *image.shape))
    times = in_turn(jobs)
    print("| graph, one image | ms | cpu ms | GFLOP | GFLOP/s | of the ceiling |\n|---|---|---|---|---|---|")
    for name, (clock, cpu) in times.items():
        runtime = name.split()[-1]
        rate = work[name] / clock / 1e6
        share = rate / (work[f"ceiling {runtime}"] / times[f"ceiling {runtime}"][0] / 1e6)
        print(f"| {name} | {clock:.2f} | {cpu:.2f} | {work[name] / 1e9:.2f} | {rate:.0f} | {share:.0%} |")


def peak_memory(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; its peak memory in MB, as it stood when last looked at (20 times a second)."""
    # What wait4 says counts this process too, of which the other begins as a copy.
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = float(line.split()[1]) / 1024
        time.sleep(0.05)
    return peak


def whole(models: dict[str, Path], folder: Path, images: int) -> None:
    print("\n| blemish inspect | images/s | images/s with heat maps | peak MB |\n|---|---|---|---|")
    for name, path in models.items():
        for runtime in installed_runtimes():
            speeds, peak = [], 0.0
            with tempfile.TemporaryDirectory() as out:
                for extra in ([], ["--heatmaps", f"{out}/maps"]):
                    command = [sys.executable, "-m", "blemish", "inspect", str(path), str(folder)]
                    command += ["--runtime", runtime, "--csv", f"{out}/all.csv", *extra]
                    started = time.perf_counter()
                    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    peak = max(peak, peak_memory(process))
                    if process.returncode:
                        raise SystemExit(f"{' '.join(command)} failed")
                    speeds.append(images / (time.perf_counter() - started))
            print(f"| {name} {runtime} | {speeds[0]:.1f} | {speeds[1]:.1f} | {peak:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--int8", type=Path, help="its twin, from `blemish export`")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("blemish", "numpy", *installed_runtimes()))
    machine = f"{os.cpu_count()} cores {platform.machine()}"
    print(f"{datetime.date.today()}, {machine}, {packages}, threads {arguments.threads or 'all'}\n")
    models = {"float32": arguments.model} | ({"int8": arguments.int8} if arguments.int8 else {})
    contract: ImageContract = open_model_file(arguments.model).manifest.images
    paths = list_images(arguments.images).images
    graphs(models, read(paths[0], contract), arguments.threads)
    whole(models, arguments.images, len(paths))


if __name__ == "__main__":
    main()
