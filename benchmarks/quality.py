"""Train and evaluate on real data sets; print figures, times and memory as one table.

    python benchmarks/quality.py mvtec/bottle:rd mvtec/grid:rd magnetic_tile:padim
    python benchmarks/quality.py "magnetic_tile:padim:--set strides=[8,16] --folds 5" --out runs/

Each job is SOURCE:METHOD or SOURCE:METHOD:OPTIONS of `blemish train`. Every job runs in processes of its own, as a
user runs it; the time of training is the wall-clock time of `blemish train`, start of Python included.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

MEASURES = ("image_auroc", "pixel_auroc", "aupro", "mad", "iou")


def run(arguments: list[str]) -> tuple[str, float, float]:
    """Standard output, wall-clock seconds and peak memory in MB of `blemish ARGUMENTS`."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "blemish", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"blemish {shlex.join(arguments)} failed")
    return output, time.perf_counter() - started, usage.ru_maxrss / 1024


def measure(job: str, folder: Path) -> list[str]:
    source, method, *options = job.split(":", 2)
    model = folder / f"{Path(source).name}-{method}.blemish"
    extra = shlex.split(options[0]) if options else []
    _, seconds, memory = run(["train", source, "--out", str(model), "--method", method, *extra])
    report = model.with_suffix(".html")
    output, _, _ = run(["evaluate", str(model), source, "--json", "--report", str(report)])
    figures = json.loads(output)
    values = ["null" if figures[name] is None else f"{figures[name]:.4f}" for name in MEASURES]
    verdicts = figures["verdicts"]
    false_alarms = f"{verdicts['normal']['NG']}/{sum(verdicts['normal'].values())}"
    found = f"{verdicts['anomalous']['NG']}/{sum(verdicts['anomalous'].values())}"
    return [
        Path(source).name,
        " ".join([method, *extra]),
        *values,
        found,
        false_alarms,
        f"{seconds:.0f}",
        f"{memory:.0f}",
        f"{figures['fps']:.0f}",
        f"{model.stat().st_size / 2**20:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", metavar="SOURCE:METHOD[:OPTIONS]")
    parser.add_argument("--out", type=Path, help="keep models and reports in this folder")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="blemish-quality-"))
    packages = ", ".join(f"{name} {version(name)}" for name in ("blemish", "torch", "onnxruntime", "numpy"))
    machine = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    print(f"{datetime.date.today()}, {machine}, {packages}\n")
    columns = ["data", "method", "I-AUROC", "P-AUROC", "AUPRO", "mAD", "IoU", "defects NG", "good NG"]
    columns += ["train s", "train MB", "images/s", "file MB"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for job in arguments.jobs:
        print("| " + " | ".join(measure(job, folder)) + " |", flush=True)


if __name__ == "__main__":
    main()
