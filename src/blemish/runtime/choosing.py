"""Which runtime is fastest for a graph on this machine: measured once, remembered."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from blemish.cores import usable_cores
from blemish.images import ImageContract
from blemish.runtime.graph import Graph, RuntimeName, installed_runtimes, open_graph

WARM_UP, ROUNDS = 2, 7


def fastest(content: bytes, contract: ImageContract, threads: int | None = None) -> RuntimeName:
    """The runtime that takes the least time for one image of the size that `contract` allows.

    With one runtime installed there is nothing to measure. Else each runs the graph a few times in turn, and the
    answer is kept in the user's cache folder, for this graph, processor, number of threads and versions.
    """
    names = installed_runtimes()
    if len(names) == 1:
        return names[0]
    key = hashlib.sha256(
        json.dumps(
            [hashlib.sha256(content).hexdigest(), threads, processor(), [(n, _version(n)) for n in names]]
        ).encode()
    ).hexdigest()
    remembered = Remembered(cache_folder() / "runtimes.json")
    known = remembered.get(key)
    if known in names:
        return known
    chosen = measure({name: open_graph(content, threads, name) for name in names}, contract)
    remembered.put(key, chosen)
    return chosen


def measure(graphs: dict[RuntimeName, Graph], contract: ImageContract) -> RuntimeName:
    """The graph with the smallest median time, each run in turn so that a busy machine is busy for all."""
    height, width = (
        256 if side is None else min(max(256, side[0]), side[1]) for side in (contract.height, contract.width)
    )
    draws = np.random.default_rng(0).uniform(contract.low, contract.high, (1, height, width, 3))
    image = draws.astype(contract.depth)
    seconds: dict[RuntimeName, list[float]] = {name: [] for name in graphs}
    for turn in range(WARM_UP + ROUNDS):
        for name, graph in graphs.items():
            start = time.perf_counter()
            graph.run(image)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return min(graphs, key=lambda name: statistics.median(seconds[name]))


def processor() -> str:
    """What this machine computes on: the processor's name, as far as the system tells, and the cores it may use."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {usable_cores()} cores"


def cache_folder() -> Path:
    """Where Blemish may keep what it can measure again: `blemish` below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blemish"


class Remembered:
    """Answers kept in a small JSON file; one that cannot be read or written is only forgotten."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def get(self, key: str) -> RuntimeName | None:
        """The answer for `key`, None if there is none."""
        answer = self._all().get(key)
        return answer if answer in ("onnxruntime", "openvino") else None

    def put(self, key: str, answer: RuntimeName) -> None:
        """Keep an answer; the file is replaced whole."""
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**self._all(), key: answer}, indent=1))
            partial.replace(self.file)

    def _all(self) -> dict[str, object]:
        try:
            kept = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
