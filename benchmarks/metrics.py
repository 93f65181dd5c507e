"""Time and memory of all metrics, exact and streaming, on one core, and ratios against the libraries of the field.

    python benchmarks/metrics.py [--maps 200] [--size 256] [--repeat 5] [--seed 0]
    python benchmarks/metrics.py --rivals build/rivals

The rivals are scikit-learn, torchmetrics, anomalib and ADEval. With --rivals a virtual environment with all of them is
made in that folder, once, by pip, with the torch of constraints.txt: some gigabytes. Without it, those that this Python
can import are timed; scikit-learn comes with blemish[dev]. Either way they run in a process of their own, on the same
arrays, with one thread. A ratio is a rival's time over that of `measure`, which computes all eleven figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from rivals import heading, make_environment, threads

Maps = np.ndarray[Any, np.dtype[np.float32]]
Masks = np.ndarray[Any, np.dtype[np.bool_]]
Values = dict[str, float | None]


def scenes(maps: int, size: int, seed: int) -> Iterator[tuple[Maps, Masks]]:
    """Smooth random maps; every second image has one to three discs as defects, on which the map is raised."""
    rng = np.random.default_rng(seed)
    ys, xs = np.indices((size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    blur = np.exp(-2 * (np.pi * 4 * frequency) ** 2)  # a Gaussian of 4 pixels
    for i in range(maps):
        mask = np.zeros((size, size), bool)
        for _ in range(rng.integers(1, 4) if i % 2 else 0):
            y, x = rng.integers(size, size=2)
            mask |= (ys - y) ** 2 + (xs - x) ** 2 < rng.uniform(size / 32, size / 8) ** 2
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * blur, s=(size, size))
        raised = np.fft.irfft2(np.fft.rfft2(mask.astype(float)) * blur, s=(size, size))
        yield (noise / noise.std() + 3 * raised).astype(np.float32), mask


def timed(repeat: int, call: Callable[[], Values]) -> tuple[float, float, Values]:
    """Smallest wall and processor seconds of several calls, and what the last returned."""
    wall, processor = [], []
    for _ in range(repeat):
        start = time.perf_counter(), time.process_time()
        values = call()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return min(wall), min(processor), values


def rivals(maps: Maps, masks: Masks) -> Iterator[tuple[str, str, Callable[[], Values]]]:
    """Package, what of it is timed, and a call: everything that can be imported here."""
    flat, truth = maps.ravel(), masks.ravel()
    if installed("scikit-learn"):
        sk = import_module("sklearn.metrics")
        yield "scikit-learn", "P-AUROC", lambda: {"pixel_auroc": sk.roc_auc_score(truth, flat)}
        yield "scikit-learn", "P-AP", lambda: {"pixel_ap": sk.average_precision_score(truth, flat)}
        yield (
            "scikit-learn",
            "P-F1max",
            lambda: {"pixel_f1max": largest_f1(*sk.precision_recall_curve(truth, flat)[:2])},
        )
    if installed("adeval"):
        # Its release calls a function that NumPy 2.4 no longer has under the old name.
        np.trapz = getattr(np, "trapz", None) or np.trapezoid  # type: ignore[attr-defined]
        adeval = import_module("adeval")
        grey = masks.astype(np.uint8)
        names = ("pixel_auroc", "pixel_ap", "aupro")
        yield (
            "adeval",
            "P-AUROC, P-AP, AUPRO (1000 bins)",
            lambda: dict(zip(names, adeval.auroc_aupr_aupro(maps, grey), strict=True)),
        )
    if not (installed("torch") and installed("torchmetrics")):
        return
    torch = import_module("torch")
    torch.set_num_threads(1)
    tensor, target = torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64))
    functional = import_module("torchmetrics.functional.classification")
    yield (
        "torchmetrics",
        "P-AUROC",
        lambda: {"pixel_auroc": float(functional.binary_auroc(tensor.flatten(), target.flatten()))},
    )
    yield (
        "torchmetrics",
        "P-AP",
        lambda: {"pixel_ap": float(functional.binary_average_precision(tensor.flatten(), target.flatten()))},
    )
    if installed("anomalib"):
        for name, of, key in (
            ("auroc._AUROC", "P-AUROC", "pixel_auroc"),
            ("aupr._AUPR", "P-AP", "pixel_ap"),
            ("f1_score._F1Max", "P-F1max", "pixel_f1max"),
            ("aupro._AUPRO", "AUPRO", "aupro"),
        ):
            module, kind = name.split(".")
            yield (
                "anomalib",
                of,
                anomalib_call(getattr(import_module(f"anomalib.metrics.{module}"), kind), key, tensor, target),
            )


def largest_f1(precision: Maps, recall: Maps) -> float:
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def anomalib_call(kind: Any, key: str, tensor: Any, target: Any) -> Callable[[], Values]:
    def call() -> Values:
        metric = kind()
        metric.update(tensor, target)
        return {key: float(metric.compute())}

    return call


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def time_rivals(folder: Path) -> None:
    """Time every rival on the arrays in `folder`, and print a JSON line for each."""
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    for package, what, call in rivals(maps, masks):
        line: dict[str, Any] = {"name": f"{package} {version(package)}", "what": what}
        try:
            wall, processor, values = timed(2, call)
            line |= {"wall": wall, "processor": processor, "values": {k: float(v or 0) for k, v in values.items()}}
        except Exception as error:  # a rival that breaks on these versions is a finding, not the end of the table
            line["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        print(json.dumps(line), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--maps", type=int, default=200, help="number of maps, half of them with defects")
    options.add_argument("--size", type=int, default=256, help="their side in pixels")
    options.add_argument("--large-size", type=int, default=1024, help="side of as many maps that are not kept")
    options.add_argument("--repeat", type=int, default=5, help="calls of measure; the fastest counts")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--rivals", type=Path, help="folder of the rivals' virtual environment")
    options.add_argument("--time-rivals", type=Path, help=argparse.SUPPRESS)  # the other process of this one
    chosen = options.parse_args()
    if chosen.time_rivals:
        time_rivals(chosen.time_rivals)
        return
    print(heading(["blemish", "numpy"], [0]))
    exact(chosen.maps, chosen.size, chosen.seed, chosen.repeat, chosen.rivals)
    streaming(chosen.maps, chosen.large_size, chosen.seed)


def exact(n: int, size: int, seed: int, repeat: int, environment: Path | None) -> None:
    """Print our time for all figures, and the rivals' for some."""
    from blemish.metrics import measure

    pairs = list(scenes(n, size, seed))
    maps, masks = np.array([one for one, _ in pairs]), np.array([mask for _, mask in pairs])
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))

    def ours() -> Values:
        return measure(scores, labels, list(maps), list(masks), pixel_threshold=2.0).values

    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\nexact: {n} maps of {size} x {size}, {maps.size / 1e6:.1f} megapixels, {masks.mean():.1%} anomalous")
    wall, processor, truth = timed(repeat, ours)
    print(f"\n{'':22}{'':36}{'wall s':>8}{'CPU s':>8}{'ratio':>8}  difference")
    print(f"{'blemish':22}{f'all {len(truth)} figures':36}{wall:8.2f}{processor:8.2f}{1:8.1f}")
    python = sys.executable if environment is None else make_environment(environment)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "maps.npy", maps)
        np.save(Path(folder) / "masks.npy", masks)
        process = subprocess.Popen(
            [python, __file__, "--time-rivals", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **threads(1)},
        )
        assert process.stdout is not None
        for text in process.stdout:
            if not text.startswith("{"):
                continue  # what a rival prints
            line = json.loads(text)
            start = f"{line['name']:22}{line['what']:36}"
            if "failed" in line:
                print(f"{start}  failed: {line['failed']}")
                continue
            apart = ", ".join(f"{value - (truth[key] or 0):+.0e}" for key, value in line["values"].items())
            ratio = line["processor"] / processor
            print(f"{start}{line['wall']:8.2f}{line['processor']:8.2f}{ratio:8.1f}  {apart}")
        if process.wait():
            print("the rivals' process failed")
    print("ratio: CPU time over ours; difference: from the exact value")
    print(
        f"blemish: {maps.size / processor / 1e6:.0f} megapixels a CPU second,"
        f" {peak / 1e6:.0f} MB at most beside maps and masks"
    )
    print("  ".join(f"{key} {value:.4f}" for key, value in truth.items() if value is not None))


def streaming(n: int, size: int, seed: int) -> None:
    """Print our time and memory for maps that come one at a time and are not kept."""
    from blemish.metrics import Measurement

    def run(maps: int) -> tuple[float, float, Any]:
        measurement = Measurement(2.0, exact_pixels=0)
        wall = processor = 0.0
        for anomaly_map, mask in scenes(maps, size, seed):
            start = time.perf_counter(), time.process_time()
            measurement.add(float(anomaly_map.max()), bool(mask.any()), anomaly_map, mask)
            wall, processor = wall + time.perf_counter() - start[0], processor + time.process_time() - start[1]
        start = time.perf_counter(), time.process_time()
        measures = measurement.measures()
        return wall + time.perf_counter() - start[0], processor + time.process_time() - start[1], measures

    def peak(maps: int) -> float:
        tracemalloc.start()
        run(maps)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / 1e6

    print(f"\nstreaming: {n} maps of {size} x {size}, {n * size**2 / 1e6:.1f} megapixels")
    few, more = peak(max(2, n // 20)), peak(max(2, n // 5))
    wall, processor, measures = run(n)
    print(
        f"blemish: all {len(measures.values)} figures {wall:.2f} s wall, {processor:.2f} s CPU:"
        f" {n * size**2 / processor / 1e6:.0f} megapixels a CPU second"
    )
    print(f"memory, one map and its making included: {few:.0f} MB for a twentieth of them, {more:.0f} MB for a fifth")
    for name, bound in measures.error_bounds.items():
        print(f"{name} {measures.values[name]:.6f} ± {bound:.1e}")


if __name__ == "__main__":
    main()
