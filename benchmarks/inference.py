"""Time a model file: the graph alone on each runtime, float32 and int8, and `blemish inspect` on a folder.

    python benchmarks/inference.py bottle.blemish mvtec/bottle/test --int8 bottle.int8.blemish
    python benchmarks/inference.py bottle.blemish mvtec/bottle/test --threads 1
    python benchmarks/inference.py bottle.blemish mvtec/bottle/test --at 640x480 --at 2448x2048

Graphs run in turn, one image each, so that a busy machine is busy for all; medians. Beside them what the graph computes
(its convolutions and matrix products, counted) and the share of the ceiling: what the same runtime reaches, in the same
run, in one 3 x 3 convolution of 64 channels on 64 x 64 places. "cpu" is processor time of all threads, which other
processes disturb less than the clock.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish.data import list_images
from blemish.images import ImageContract, read
from blemish.modelfile import open_model_file
from blemish.runtime.graph import OnnxRuntimeGraph, OpenVinoGraph, installed_runtimes
from graphs import CEILING_OPERATIONS, ceiling_graph, ceiling_input, in_turn, operations
from rivals import watch

RUNS = 31


def graphs(models: dict[str, Path], image: NDArray[np.generic], threads: int | None) -> None:
    kinds = {"onnxruntime": OnnxRuntimeGraph, "openvino": OpenVinoGraph}
    jobs: dict[str, Callable[[], object]] = {}
    work: dict[str, float] = {}
    square = ceiling_input()
    for runtime in installed_runtimes():
        ceiling = kinds[runtime](ceiling_graph(), threads)
        jobs[f"ceiling {runtime}"] = lambda graph=ceiling: graph.run(square)  # type: ignore[misc]
        work[f"ceiling {runtime}"] = CEILING_OPERATIONS
        for name, path in models.items():
            content = open_model_file(path).graph
            graph = kinds[runtime](content, threads)
            jobs[f"{name} {runtime}"] = lambda graph=graph: graph.run(image[None])  # type: ignore[misc]
            work[f"{name} {runtime}"] = operations(open_model_file(models["float32"]).graph, (1, *image.shape))
    times = in_turn(jobs, RUNS)
    print("| graph, one image | ms | cpu ms | GFLOP | GFLOP/s | of the ceiling |\n|---|---|---|---|---|---|")
    for name, (clock, cpu) in times.items():
        runtime = name.split()[-1]
        rate = work[name] / clock / 1e6
        share = rate / (work[f"ceiling {runtime}"] / times[f"ceiling {runtime}"][0] / 1e6)
        print(f"| {name} | {clock:.2f} | {cpu:.2f} | {work[name] / 1e9:.2f} | {rate:.0f} | {share:.0%} |")


def at_sizes(models: dict[str, Path], image: NDArray[np.generic], sizes: list[str], threads: int | None) -> None:
    """The graph alone on images of other sizes, which the image is repeated to fill."""
    kinds = {"onnxruntime": OnnxRuntimeGraph, "openvino": OpenVinoGraph}
    jobs: dict[str, Callable[[], object]] = {}
    for runtime in installed_runtimes():
        for name, path in models.items():
            graph = kinds[runtime](open_model_file(path).graph, threads)
            for size in sizes:
                width, height = map(int, size.split("x"))
                one = np.resize(image, (1, height, width, 3))
                jobs[f"{name} {runtime}, {size}"] = lambda graph=graph, one=one: graph.run(one)  # type: ignore[misc]
    print("\n| graph, one image of another size | ms | cpu ms |\n|---|---|---|")
    for name, (clock, cpu) in in_turn(jobs, RUNS).items():
        print(f"| {name} | {clock:.2f} | {cpu:.2f} |")


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
                    peak = max(peak, watch(process))
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
    parser.add_argument("--at", action="append", default=[], metavar="WIDTHxHEIGHT", help="the graph at another size")
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("blemish", "numpy", *installed_runtimes()))
    machine = f"{os.cpu_count()} cores {platform.machine()}"
    print(f"{datetime.date.today()}, {machine}, {packages}, threads {arguments.threads or 'all'}\n")
    models = {"float32": arguments.model} | ({"int8": arguments.int8} if arguments.int8 else {})
    contract: ImageContract = open_model_file(arguments.model).manifest.images
    paths = list_images(arguments.images).images
    graphs(models, read(paths[0], contract), arguments.threads)
    if arguments.at:
        at_sizes(models, read(paths[0], contract), arguments.at, arguments.threads)
    whole(models, arguments.images, len(paths))


if __name__ == "__main__":
    main()
