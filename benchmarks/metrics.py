"""Time and memory of all metrics on one set of maps, against the libraries of the field, on one core.

    python benchmarks/metrics.py [--maps 200] [--size 256] [--repeat 5] [--seed 0]

Libraries that are not installed are left out: scikit-learn comes with blemish[dev]; torchmetrics, anomalib and ADEval
have to be added by hand. A ratio is a library's time over that of `measure`, which computes all nine figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from blemish.metrics import measure

Maps = np.ndarray[Any, np.dtype[np.float32]]
Masks = np.ndarray[Any, np.dtype[np.bool_]]
Values = dict[str, float | None]


def scene(maps: int, size: int, seed: int) -> tuple[Maps, Masks]:
    """Smooth random maps; every second image has one to three discs as defects, on which the map is raised."""
    rng = np.random.default_rng(seed)
    ys, xs = np.indices((size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    blur = np.exp(-2 * (np.pi * 4 * frequency) ** 2)  # a Gaussian of 4 pixels
    all_maps = np.empty((maps, size, size), np.float32)
    all_masks = np.zeros((maps, size, size), bool)
    for i in range(maps):
        for _ in range(rng.integers(1, 4) if i % 2 else 0):
            y, x = rng.integers(size, size=2)
            all_masks[i] |= (ys - y) ** 2 + (xs - x) ** 2 < rng.uniform(size / 32, size / 8) ** 2
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * blur, s=(size, size))
        raised = np.fft.irfft2(np.fft.rfft2(all_masks[i].astype(float)) * blur, s=(size, size))
        all_maps[i] = noise / noise.std() + 3 * raised
    return all_maps, all_masks


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
            ("aupro._AUPRO", "AUPRO", "aupro"),
        ):
            module, kind = name.split(".")
            yield (
                "anomalib",
                of,
                anomalib_call(getattr(import_module(f"anomalib.metrics.{module}"), kind), key, tensor, target),
            )


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


def machine() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores, one used; {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--maps", type=int, default=200, help="number of maps, half of them with defects")
    options.add_argument("--size", type=int, default=256, help="their side in pixels")
    options.add_argument("--repeat", type=int, default=5, help="calls of measure; the fastest counts")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()

    maps, masks = scene(chosen.maps, chosen.size, chosen.seed)
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))

    def ours() -> Values:
        return measure(scores, labels, list(maps), list(masks), pixel_threshold=2.0).values

    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    print(machine())
    print(
        f"{chosen.maps} maps of {chosen.size} x {chosen.size}: {maps.size / 1e6:.1f} megapixels,"
        f" {masks.mean():.1%} anomalous, seed {chosen.seed}"
    )
    wall, processor, truth = timed(chosen.repeat, ours)
    print(f"\n{'':22}{'':34}{'wall s':>8}{'CPU s':>8}{'ratio':>8}  difference")
    print(f"{'blemish':22}{'seven metrics, mAD, IoU':34}{wall:8.2f}{processor:8.2f}{1:8.1f}")
    for package, what, call in rivals(maps, masks):
        name = f"{package} {version(package)}"
        try:
            rival_wall, rival_processor, values = timed(2, call)
        except Exception as error:  # a rival that breaks on these versions is a finding, not the end of the table
            print(f"{name:22}{what:34}  failed: {type(error).__name__}: {error}")
            continue
        apart = ", ".join(f"{(value or 0) - (truth[key] or 0):+.0e}" for key, value in values.items())
        print(f"{name:22}{what:34}{rival_wall:8.2f}{rival_processor:8.2f}{rival_wall / wall:8.1f}  {apart}")
    print(
        f"\nblemish: {maps.size / wall / 1e6:.0f} megapixels/s, {peak / 1e6:.0f} MB at most beside maps and masks;"
        f" NumPy {np.__version__}"
    )
    print("  ".join(f"{key} {value:.4f}" for key, value in truth.items() if value is not None))


if __name__ == "__main__":
    main()
