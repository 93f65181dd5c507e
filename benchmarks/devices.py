"""Training images a second by one device and by several, on made-up images.

    python benchmarks/devices.py rd --devices 1 2 --device cpu

Counted are the steps of the stage that learns by gradients, without the start of the processes and the first two steps.
The images are divided, not repeated: all rows take the same steps. Each number of devices runs in turn, several times;
the median is printed. On the CPU give the processes cores of their own, and as many in every row (`taskset`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blemish.assembly import build
from blemish.images import ImageContract
from blemish.methods import find_method
from blemish.nn.preparation import Preparation
from blemish.teachers import DEFAULT_TEACHER
from blemish.training import Trainer, TrainingImages

WARM_UP = 2


def made_up(folder: Path, count: int, size: int) -> list[Path]:
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def images_a_second(arguments: argparse.Namespace, paths: list[Path], devices: int) -> float:
    method = find_method(arguments.method)
    settings = {"steps": arguments.steps, "batch_size": arguments.batch, "image_size": arguments.size}
    config = method.Config.model_validate(settings)
    teacher = method.open_teacher(arguments.teacher, config, arguments.weights)
    steps: list[float] = []

    def progress(stage: str, done: float, note: str = "") -> None:
        if "loss" in note:
            steps.append(time.perf_counter())

    images = TrainingImages(paths, ImageContract(), Preparation(0, 255, config.image_size))
    Trainer(arguments.device, 0, None, progress, devices).fit(build(method, config, teacher, 0), images)
    counted = steps[WARM_UP:]
    return arguments.batch * (len(counted) - 1) / (counted[-1] - counted[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="with the settings steps and batch_size")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--teacher", default=DEFAULT_TEACHER)
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[int, list[float]] = {devices: [] for devices in arguments.devices}
    with tempfile.TemporaryDirectory() as folder:
        paths = made_up(Path(folder), arguments.images, arguments.size)
        for _ in range(arguments.runs):
            for devices, rates in found.items():
                rates.append(images_a_second(arguments, paths, devices))
    where = Trainer(arguments.device, 0, None, lambda *_: None).description
    print(f"{arguments.method}, {arguments.teacher}, batch {arguments.batch}, {where}, torch {torch.__version__}")
    for devices, rates in found.items():
        print(f"{devices:3} devices  {statistics.median(rates):8.1f} images/s  ({min(rates):.1f} to {max(rates):.1f})")


if __name__ == "__main__":
    main()
