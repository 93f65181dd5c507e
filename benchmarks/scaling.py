"""How time and memory grow with the number of images and with their size: training and inspecting, per method.

    python benchmarks/scaling.py --out scaling.md
    python benchmarks/scaling.py --methods rd,padim --counts 100,1000,3000 --sides 256,512 --images mvtec/bottle/train

The images are those of --images, or a made-up product line's, repeated with fresh noise, as JPEG. Counts grow at the
first side; sides grow at the first count. The network sees each image at its own side (image_size). Every point is a
process of its own; one that takes longer than --limit or more memory than --memory is stopped and left out, and so are
the larger ones after it. Methods train with their default preset. Seconds are processor time, images/s those of one
core: take --cores with one core.

An exponent e says that the quantity grows like n^e, or like pixels^e: the slope through all points of the logarithms,
and through the last two, where what is the same for any number weighs less.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.data import list_images
from blemish.data.synthetic import draw_part
from rivals import alone, heading, start, watch

NOISE = 4.0
"""Standard deviation of the noise, of 255."""
DIFFERENT = 20
"""Images that are repeated."""


@dataclass(frozen=True)
class Point:
    """What was measured of a method on `count` images of `side` pixels; None where it was stopped."""

    method: str
    count: int
    side: int
    train: tuple[float, float] | None
    inspect: tuple[float, float] | None


def originals(source: Path | None, side: int) -> list[NDArray[np.int16]]:
    if source is None:
        parts = [draw_part(np.random.default_rng([0, number]), "good", 256)[0] for number in range(DIFFERENT)]
        pictures = [Image.fromarray(part) for part in parts]
    else:
        pictures = [Image.open(path).convert("RGB") for path in list_images(source).images[:DIFFERENT]]
    return [np.asarray(picture.resize((side, side)), np.int16) for picture in pictures]


def write_images(source: Path | None, count: int, side: int, folder: Path) -> None:
    """Write `count` images: the originals over and over, each time with the noise at another place."""
    rng = np.random.default_rng(0)
    noise = (NOISE * rng.standard_normal((side + 64, side + 64, 3))).astype(np.int16)
    pictures = originals(source, side)
    folder.mkdir()
    for number in range(count):
        down, right, sign = rng.integers(64), rng.integers(64), rng.choice((-1, 1))
        noisy = pictures[number % len(pictures)] + sign * noise[down : down + side, right : right + side]
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=90)


class Measuring:
    """Measures points in processes, and remembers what was left out and why."""

    def __init__(self, limit: float, memory: float, cores: Sequence[int], lock: Path | None) -> None:
        self.limit, self.memory, self.cores, self.lock = limit, memory, cores, lock
        self.left_out: list[str] = []

    def point(self, method: str, source: Path, count: int, side: int) -> Point:
        with tempfile.TemporaryDirectory() as folder:
            job = {
                "method": method,
                "source": str(source),
                "model": f"{folder}/made.blemish",
                "settings": {"image_size": side},
                "threads": len(self.cores),
            }
            trained = self._run({**job, "work": "train"}, f"{method}, {count} images of {side}: training")
            inspected = None
            if trained:
                inspected = self._run({**job, "work": "inspect"}, f"{method}, {count} images of {side}: inspecting")
        return Point(method, count, side, trained, inspected)

    def _run(self, job: dict[str, Any], what: str) -> tuple[float, float] | None:
        command = [sys.executable, str(Path(__file__).with_name("scaling_point.py")), json.dumps(job)]
        with alone(self.lock), tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = start(command, self.cores, stdout=out, stderr=errors)
            try:
                watch(process, self.limit, self.memory)
            except (TimeoutError, MemoryError) as error:
                self.left_out.append(f"{what}: {error}")
                return None
            out.seek(0)
            errors.seek(0)
            if process.returncode:
                raise SystemExit(f"{what} failed:\n{errors.read()[-3000:]}")
            answer = json.loads(out.read())
        print(f"{what}: {answer['seconds']:.1f} s, {answer['peak']:.0f} MB", file=sys.stderr)
        return answer["seconds"], answer["peak"]


def series(
    measuring: Measuring, method: str, sizes: Sequence[tuple[int, int]], images: Callable[[int, int], Path]
) -> Iterator[Point]:
    """Points of growing size, up to the first whose training is stopped."""
    for place, (count, side) in enumerate(sizes):
        point = measuring.point(method, images(count, side), count, side)
        yield point
        if point.train is None:
            measuring.left_out += [f"{method}, {c} images of {s}: not tried after that" for c, s in sizes[place + 1 :]]
            return


def exponent(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Slope of the least-squares line through the logarithms; None for fewer than two points."""
    if len(pairs) < 2:
        return None
    xs, ys = ([math.log(pair[axis]) for pair in pairs] for axis in (0, 1))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def point_table(points: Sequence[Point]) -> Iterator[str]:
    yield "| method | images | side | training, CPU s | training, MB | inspecting, CPU s | images/s | inspecting, MB |"
    yield "|---|---|---|---|---|---|---|---|"
    for point in points:
        cells = [point.method, str(point.count), str(point.side)]
        cells += [f"{point.train[0]:.1f}", f"{point.train[1]:.0f}"] if point.train else ["-", "-"]
        if point.inspect:
            seconds, peak = point.inspect
            cells += [f"{seconds:.1f}", f"{point.count / seconds:.1f}", f"{peak:.0f}"]
        else:
            cells += ["-", "-", "-"]
        yield f"| {' | '.join(cells)} |"


def exponent_table(grown: Sequence[tuple[str, Sequence[Point]]]) -> Iterator[str]:
    """`grown` : what grew ("images" or "pixels") and the points of one method."""
    yield "| method | grows | training time | training memory | inspecting time | inspecting memory | points |"
    yield "|---|---|---|---|---|---|---|"
    for what, points in grown:
        if not points:
            continue
        cells = []
        for work in ("train", "inspect"):
            for part in (0, 1):
                pairs = [
                    (float(point.count if what == "images" else point.side**2), getattr(point, work)[part])
                    for point in points
                    if getattr(point, work)
                ]
                fitted, last = exponent(pairs), exponent(pairs[-2:])
                cells.append("-" if fitted is None or last is None else f"{fitted:.2f} ({last:.2f})")
        measured = sum(point.train is not None for point in points)
        yield f"| {points[0].method} | {what} | {' | '.join(cells)} | {measured} |"


def numbers(text: str) -> list[int]:
    return sorted(int(number) for number in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="rd,patchcore,padim", type=lambda text: text.split(","))
    parser.add_argument("--counts", default=[100, 1000, 10_000], type=numbers)
    parser.add_argument("--sides", default=[256, 512, 1024], type=numbers)
    parser.add_argument("--images", type=Path, help="folder of images to repeat; by default made-up ones")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a point may take")
    parser.add_argument("--memory", type=float, default=8000, help="megabytes that a point may take")
    parser.add_argument("--cores", type=numbers, help="such as 0,1")
    parser.add_argument("--lock", type=Path, help="a file to lock while a point lasts, where measurements share cores")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    chosen = parser.parse_args()
    cores = chosen.cores or sorted(os.sched_getaffinity(0))
    measuring = Measuring(chosen.limit, chosen.memory, cores, chosen.lock)
    lines: list[str] = []

    def say(*text: str) -> None:
        for line in text:
            print(line, flush=True)
        lines.extend(text)
        if chosen.out:
            chosen.out.write_text("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory(prefix="scaling-") as name:

        def images(count: int, side: int) -> Path:
            folder = Path(name) / f"{side}-{count}"
            if not folder.exists():
                write_images(chosen.images, count, side, folder)
            return folder

        say(heading(["blemish", "torch", "onnxruntime", "numpy"], cores), "")
        points: list[Point] = []
        grown: list[tuple[str, list[Point]]] = []
        for method in chosen.methods:
            side, count = chosen.sides[0], chosen.counts[0]
            by_count = list(series(measuring, method, [(each, side) for each in chosen.counts], images))
            larger = list(series(measuring, method, [(count, each) for each in chosen.sides[1:]], images))
            points += by_count + larger
            grown += [("images", by_count), ("pixels", [by_count[0], *larger])]
            print(*point_table(by_count + larger), sep="\n", file=sys.stderr)
    say(*point_table(points), "", "Exponents, and of the last two points alone in brackets:", "")
    say(*exponent_table(grown))
    if measuring.left_out:
        say("", "Left out: " + "; ".join(measuring.left_out) + ".")


if __name__ == "__main__":
    main()
