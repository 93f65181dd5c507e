"""Many images through one detector: in order, beside one another, a few at a time, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish.decisions import Verdict, calibrate
from blemish.images import ImageContract
from blemish.runtime import Detector, load
from blemish.runtime.graph import Maps, RuntimeName, installed_runtimes
from test_runtimes import model as model  # a fixture
from tiny import part

PATIENCE = 20


class Watched:
    """Stands for a graph whose score is the first pixel, and notes how many runs there are at the same time.

    together : how many of the first runs wait for one another before they answer.
    """

    runtime: RuntimeName = "onnxruntime"

    def __init__(self, together: int = 1) -> None:
        self.most = self.now = self.runs = 0
        self._lock = threading.Lock()
        self._together = together
        self._all_there = threading.Barrier(together)

    def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
        with self._lock:
            self.now += 1
            self.runs += 1
            waits = self.runs <= self._together
            self.most = max(self.most, self.now)
        if waits:
            self._all_there.wait(PATIENCE)
        # Whoever came later must not be overtaken because it was quicker.
        time.sleep(0.002 * (self.runs % 3))
        with self._lock:
            self.now -= 1
        maps = images[..., 0].astype(np.float32)
        return maps, maps[:, 0, 0]


def detector(graph: Watched, at_once: int = 1) -> Detector:
    scores = [300.0 + i for i in range(19)]
    return Detector(graph, ImageContract(), calibrate(scores, scores, "split", 0.05), at_once=at_once)


def flat(value: int) -> NDArray[np.uint8]:
    return np.full((8, 8, 3), value, np.uint8)


def threads_at_work() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("inspect")]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_inspections_come_in_the_order_of_the_images(at_once: int) -> None:
    found = list(detector(Watched(), at_once).stream(flat(i) for i in range(40)))

    assert [inspection.score for inspection in found] == [*range(40)]


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_graph_works_on_as_many_images_as_it_may(at_once: int) -> None:
    graph = Watched(together=at_once)

    assert len(list(detector(graph, at_once).stream([flat(1)] * 12))) == 12
    assert graph.most == at_once


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_image_that_fails_is_rejected_in_its_place(at_once: int, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(12)]
    for i, file in enumerate(files):
        Image.fromarray(flat(i)).save(file)
    files[4].write_bytes(b"no picture")
    files[9].unlink()
    found = list(detector(Watched(), at_once).stream(files))

    assert [inspection.path for inspection in found] == [str(file) for file in files]
    assert [i for i, each in enumerate(found) if each.verdict is Verdict.REJECTED] == [4, 9]
    assert [each.score for each in found] == [None if i in (4, 9) else i for i in range(12)]


@pytest.mark.parametrize("at_once", [1, 4])
def test_only_a_few_images_are_taken_ahead(at_once: int) -> None:
    taken: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for i in range(100):
            taken.append(i)
            yield flat(i)

    for done, _ in enumerate(detector(Watched(), at_once).stream(images()), 1):
        assert len(taken) - done <= 2 * (at_once + 1)
    assert len(taken) == 100


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_stream_that_is_closed_early_leaves_no_thread_and_judges_no_more(at_once: int) -> None:
    graph = Watched()
    stream = detector(graph, at_once).stream(flat(i) for i in range(100))
    next(stream)
    assert threads_at_work()
    stream.close()  # type: ignore[attr-defined]

    assert threads_at_work() == []
    assert graph.runs <= 1 + 2 * (at_once + 1)


def test_what_goes_wrong_in_the_graph_or_the_source_is_raised_and_leaves_no_thread() -> None:
    class Broken(Watched):
        def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
            if images.max() == 5:
                raise RuntimeError("the graph broke")
            return super().run(images)

    found = []
    with pytest.raises(RuntimeError, match="the graph broke"):
        found.extend(detector(Broken(), 2).stream(flat(i) for i in range(20)))
    assert threads_at_work() == []

    def ends_badly() -> Iterator[NDArray[np.uint8]]:
        yield flat(0)
        raise OSError("the disk broke")

    with pytest.raises(OSError, match="the disk broke"):
        list(detector(Watched(), 2).stream(ends_badly()))
    assert threads_at_work() == []


def test_one_image_needs_no_thread() -> None:
    class Here(Watched):
        def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
            assert threading.current_thread() is threading.main_thread()
            return super().run(images)

    assert detector(Here()).inspect(flat(7)).score == 7


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_images_beside_one_another_are_judged_as_one_after_the_other(model: Path, runtime: RuntimeName) -> None:
    pictures = [part(i, (72 + 5 * (i % 3), 80), defect=i % 4 == 0) for i in range(16)]
    one, three = load(model, threads=1, runtime=runtime), load(model, threads=3, at_once=3, runtime=runtime)

    for a, b in zip(one.inspect(pictures), three.inspect(pictures), strict=True):
        assert (a.score, a.verdict, a.regions) == (b.score, b.verdict, b.regions)
        assert np.array_equal(a.anomaly_map, b.anomaly_map)  # type: ignore[arg-type]
