"""Time what a user waits for before anything happens: `blemish --help`, and one image from a cold start to its verdict.

    python benchmarks/startup.py MODEL.blemish IMAGE

Median of several runs, each a new process; peak memory beside it. Python's own start is printed for comparison.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def median_of(command: list[str], runs: int) -> tuple[float, float]:
    """Median wall-clock seconds, and peak memory in MB."""
    seconds, memory = [], 0.0
    for _ in range(runs):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        memory = max(memory, usage.ru_maxrss / 1024)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
    return statistics.median(seconds), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    blemish = str(Path(sys.executable).with_name("blemish"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "blemish --help": [blemish, "--help"],
        "blemish inspect, one image": [blemish, "inspect", arguments.model, arguments.image],
    }
    for name, command in commands.items():
        seconds, memory = median_of(command, arguments.runs)
        print(f"{name:28} {seconds:6.3f} s  {memory:6.0f} MB")


if __name__ == "__main__":
    main()
