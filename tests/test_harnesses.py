"""What the timing harnesses share and compute; nothing here is timed."""

from __future__ import annotations

import importlib
import mmap
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from blemish.data import open_dataset
from blemish.data.synthetic import make_product_line
from blemish.holdout import plan_hold_out
from blemish.metrics import auroc

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def harness() -> Iterator[Load]:
    """Imports a harness by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        yield importlib.import_module


def python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


def test_peak_memory_is_that_of_the_process_alone(harness: Load) -> None:
    rivals = harness("rivals")
    ballast = np.ones(200 * 2**20, np.uint8)
    few = rivals.watch(python("import time; time.sleep(0.5)"))
    many = rivals.watch(python("import time; held = b'x' * (100 * 2**20); time.sleep(0.5)"))
    assert ballast[-1] == 1
    assert 1 < few < 100
    assert many - few == pytest.approx(100, abs=10)


def test_a_process_over_its_limit_is_stopped(harness: Load) -> None:
    rivals = harness("rivals")
    slow = python("import time; time.sleep(60)")
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        rivals.watch(slow, seconds=0.2)
    large = python("import time; held = b'x' * (200 * 2**20); time.sleep(60)")
    with pytest.raises(MemoryError, match="100 MB"):
        rivals.watch(large, megabytes=100)
    assert slow.returncode < 0
    assert large.returncode < 0


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_the_exponent_of_a_power_law(harness: Load, power: float) -> None:
    scaling = harness("scaling")
    assert scaling.exponent([(n, 3 * n**power) for n in (100, 1000, 10_000)]) == pytest.approx(power)
    assert scaling.exponent([(100, 3)]) is None


def test_points_after_one_that_was_stopped_are_left_out_and_named(harness: Load) -> None:
    scaling = harness("scaling")
    measuring = scaling.Measuring(limit=1, memory=1000, cores=[0], lock=None)
    asked: list[int] = []

    def point(method: str, source: Path, count: int, side: int) -> Any:
        asked.append(count)
        return scaling.Point(method, count, side, (count / 10, 100.0) if count < 1000 else None, None)

    measuring.point = point
    sizes = [(100, 256), (200, 256), (1000, 256), (10_000, 256)]
    points = list(scaling.series(measuring, "padim", sizes, lambda count, side: Path()))
    assert asked == [100, 200, 1000]
    assert measuring.left_out == ["padim, 10000 images of 256: not tried after that"]
    rows = list(scaling.exponent_table([("images", points)]))
    assert rows[-1] == "| padim | images | 1.00 (1.00) | 0.00 (0.00) | - | - | 2 |"


def test_repeated_images_differ(harness: Load, tmp_path: Path) -> None:
    scaling = harness("scaling")
    scaling.write_images(None, scaling.DIFFERENT + 3, 64, tmp_path / "images")
    contents = [path.read_bytes() for path in sorted((tmp_path / "images").iterdir())]
    assert len(set(contents)) == scaling.DIFFERENT + 3


def test_both_sides_learn_from_the_same_images(harness: Load, tmp_path: Path) -> None:
    against = harness("against_anomalib")
    source = make_product_line(tmp_path / "line", n_train=22, n_test_good=4, n_per_defect=2, size=64)
    copied = against.copy_images(source, 20, tmp_path)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert len(names) == 20
    # As blemish.assembly.train plans with the share that the harness gives it.
    share = against.hold_out(len(copied.samples), 20)
    plan = plan_hold_out(open_dataset(tmp_path / "all").train, cheap_to_fit=True, seed=0, hold_out=share)
    assert [copied.train[i].path.name for i in plan.train] == names
    assert len(list((tmp_path / "good").iterdir())) == 5
    masks = {path.stem for path in (tmp_path / "masks").iterdir()}
    assert masks == {path.stem for path in (tmp_path / "bad").iterdir()}
    assert len(masks) == 8


def test_a_side_that_takes_too_long_has_no_more_turns(harness: Load) -> None:
    against = harness("against_anomalib")

    def slow() -> dict[str, float]:
        raise TimeoutError("more than 1 s")

    runs = {"anomalib": slow, "blemish": lambda: {"seconds": 2.0}}
    results = against.Turns({"anomalib": 3, "blemish": 3}).take(runs)
    assert results["anomalib"] == []
    assert len(results["blemish"]) == 3


def test_the_ceiling_graph_computes_what_it_says(harness: Load) -> None:
    graphs = harness("graphs")
    content = graphs.ceiling_graph()
    assert graphs.operations(content, graphs.ceiling_input().shape) == graphs.CEILING_OPERATIONS


def test_the_int8_ceiling_computes_what_the_float32_one_does(harness: Load) -> None:
    graphs = harness("graphs")
    onnxruntime = pytest.importorskip("onnxruntime")
    float32, int8 = (
        onnxruntime.InferenceSession(graphs.ceiling_graph(precision)).run(None, {"image": graphs.ceiling_input()})[0]
        for precision in ("float32", "int8")
    )
    assert not np.array_equal(float32, int8)
    assert np.corrcoef(float32.ravel(), int8.ravel())[0, 1] > 0.99


def test_processor_time_is_put_down_to_the_innermost_function_of_blemish(harness: Load) -> None:
    hotspots = harness("hotspots")
    values, labels = np.random.default_rng(0).random(200_000), np.arange(200_000) % 2 == 0
    watch = hotspots.Watch(every=0.001)
    watch.start()
    # NumPy sorts most of the time; that is no line of Blemish.
    thread = threading.Thread(target=lambda: [auroc(values, labels) for _ in range(20)])
    thread.start()
    thread.join()
    watch.stop()
    place, most = max(watch.places.items(), key=lambda one: one[1].seconds)
    assert place.startswith("metrics/ranking.py:")
    assert 0.3 * watch.total < most.seconds <= watch.total


def test_memory_is_put_down_to_where_the_main_thread_was(harness: Load) -> None:
    hotspots = harness("hotspots")
    watch = hotspots.Watch(every=0.001)
    place = watch.places[hotspots.ELSEWHERE]
    before = hotspots.resident()
    watch.start()

    def seen(enough: Callable[[], bool]) -> bool:
        late = time.monotonic() + 20
        while not enough() and time.monotonic() < late:
            time.sleep(0.01)
        return enough()

    assert seen(lambda: place.highest > 0)
    # Of the kernel itself: an allocator may have some left.
    with mmap.mmap(-1, 100 * 2**20) as held:
        held[:: mmap.PAGESIZE] = bytes(len(held) // mmap.PAGESIZE)
        assert seen(lambda: place.added > 90 and place.highest > before + 90)
    assert seen(lambda: place.freed > 90)
    watch.stop()
