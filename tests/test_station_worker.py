"""A model's own thread and queue: order, bounds, retirement."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from blemish.decisions import calibrate
from blemish.images import ImageContract
from blemish.runtime import Detector
from blemish.station.errors import Code, StationError
from blemish.station.people import Limiter
from blemish.station.worker import RetiredError, Version, Worker
from stations import NG, OK, PATIENCE, part, until

VERSION = Version("cap", 1, "0" * 64)


class Gate:
    """Stands for a graph that judges nothing until it is opened, and notes what it was given."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.seen: list[int] = []

    def run(self, images: Any) -> tuple[Any, Any]:
        assert self.open.wait(PATIENCE)
        self.seen.append(int(images.max()))
        if len(self.seen) == 1 and images.max() == 255:
            raise RuntimeError("the graph broke")
        maps = images.astype(np.float32).max(-1) / 100
        return maps, maps.max((1, 2))


def worker(limit: int) -> tuple[Worker, Gate]:
    gate = Gate()
    scores = [0.1 * i for i in range(1, 20)]
    detector = Detector(gate, ImageContract(), calibrate(scores, scores, "split", 0.05))  # type: ignore[arg-type]
    return Worker(VERSION, detector, limit), gate


def test_images_are_judged_in_the_order_in_which_they_came() -> None:
    busy, gate = worker(10)
    answers = [answer for brighter in (1, 2, 3, 4) for answer in busy.submit([part(brighter), part(brighter + 50)])]
    gate.open.set()

    judged = [answer.result(PATIENCE) for answer in answers]

    assert gate.seen == [101, 151, 102, 152, 103, 153, 104, 154]
    assert [one.inspection.score for one in judged] == pytest.approx([value / 100 for value in gate.seen])
    assert {one.version for one in judged} == {VERSION}
    assert all(one.waited_s > 0 and one.judged_s > 0 for one in judged)
    busy.retire()


def test_a_full_queue_refuses_all_images_of_a_request_or_none() -> None:
    busy, gate = worker(3)
    first = busy.submit([part(1)])
    until(lambda: busy.waiting == 0, "the first image is being judged")
    queued = busy.submit([part(2), part(3)])

    with pytest.raises(StationError) as full:
        busy.submit([part(4), part(5)])
    with pytest.raises(StationError) as never:
        busy.submit([part(4)] * 4)

    assert full.value.code is Code.QUEUE_FULL
    assert (full.value.status, full.value.headers["Retry-After"]) == (429, "1")
    assert never.value.code is Code.TOO_MANY_IMAGES
    assert not busy.idle
    last = busy.submit([part(6)])
    gate.open.set()
    for answer in (*first, *queued, *last):
        answer.result(PATIENCE)
    assert gate.seen == [101, 102, 103, 106]
    until(lambda: busy.idle, "the worker is idle")
    busy.retire()


def test_a_retired_worker_answers_what_waits_and_takes_nothing_more() -> None:
    busy, gate = worker(5)
    answers = busy.submit([part(OK), part(NG)])
    busy.retire()
    with pytest.raises(RetiredError):
        busy.submit([part(OK)])
    gate.open.set()

    assert [answer.result(PATIENCE).inspection.score for answer in answers] == pytest.approx([1.05, 1.6])
    busy.join(PATIENCE)
    assert not busy._thread.is_alive()


def test_whatever_goes_wrong_with_one_image_the_next_is_judged() -> None:
    busy, gate = worker(5)
    gate.open.set()
    failing, fine = busy.submit([part(155), part(OK)])

    with pytest.raises(RuntimeError, match="the graph broke"):
        failing.result(PATIENCE)
    assert fine.result(PATIENCE).inspection.score == pytest.approx(1.05)
    busy.retire()


def test_failures_are_counted_within_a_window_and_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("blemish.station.people.time.monotonic", lambda: clock[0])
    limiter = Limiter(failures=2, seconds=60, remembered=3)
    limiter.failed("anna")
    clock[0] += 30
    limiter.failed("anna")
    limiter.check("vera")

    with pytest.raises(StationError) as caught:
        limiter.check("vera", "anna")

    assert caught.value.retry_after == 31
    clock[0] += 31
    limiter.check("anna")
    for name in "abcd":
        limiter.failed(name)
    assert len(limiter._times) == 3
