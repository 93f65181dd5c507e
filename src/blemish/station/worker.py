"""One model at work: a thread of its own, and a bounded queue in front of it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from blemish.runtime import Detector, Inspection
from blemish.station.errors import Code, StationError


@dataclass(frozen=True)
class Version:
    """A version of a model; it counts within the model's name from 1."""

    model: str
    number: int
    sha256: str


@dataclass(frozen=True)
class Judged:
    """What an image was found to be, by which version and rates. waited_s : in the queue. judged_s : all the rest."""

    version: Version
    inspection: Inspection
    false_alarm_rate: float
    review_rate: float
    waited_s: float
    judged_s: float


class RetiredError(Exception):
    """The worker takes no more images; its successor does."""


@dataclass(frozen=True)
class _Job:
    image: bytes
    since: float
    answer: Future[Judged]


class Worker:
    """Judges images one after the other, in the order in which they came.

    Parameters
    ----------
    limit : images that may wait.
    """

    def __init__(self, version: Version, detector: Detector, limit: int) -> None:
        self.version = version
        self.detector = detector
        self.limit = limit
        self._waiting: deque[_Job] = deque()
        self._busy = False
        self._retired = False
        self._changed = threading.Condition()
        self._seconds_an_image = 0.1
        self._thread = threading.Thread(target=self._work, name=f"{version.model}-{version.number}", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[bytes]) -> list[Future[Judged]]:
        """Queue images, all or none.

        Raises
        ------
        StationError
            queue_full; too_many_images if they would not fit into an empty queue either.
        RetiredError
            See `retire`.
        """
        if len(images) > self.limit:
            raise StationError(
                Code.TOO_MANY_IMAGES,
                f"{len(images)} images in one request are more than the {self.limit} that may wait",
                todo="Send fewer images at once",
            )
        since = time.monotonic()
        jobs = [_Job(image, since, Future()) for image in images]
        with self._changed:
            if self._retired:
                raise RetiredError
            if len(self._waiting) + len(jobs) > self.limit:
                raise StationError(
                    Code.QUEUE_FULL,
                    f"{len(self._waiting)} images already wait for {self.version.model}, of at most {self.limit}",
                    todo="Send it again after the seconds that Retry-After names",
                    retry_after=math.ceil(len(self._waiting) * self._seconds_an_image) or 1,
                )
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.answer for job in jobs]

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being judged."""
        with self._changed:
            return not self._waiting and not self._busy

    def retire(self) -> None:
        """Take no more images, answer those that wait, then end."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait until a retired worker has ended, but no longer than so many seconds."""
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.wait_for(lambda: self._waiting or self._retired)
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                self._busy = True
            self._judge(job)

    def _judge(self, job: _Job) -> None:
        if not job.answer.set_running_or_notify_cancel():
            return
        start = time.monotonic()
        try:
            inspection = self.detector.inspect(job.image)
        except Exception as error:  # Whatever it is, the thread lives on and the one who asked is told.
            job.answer.set_exception(error)
            return
        took = time.monotonic() - start
        self._seconds_an_image += 0.1 * (took - self._seconds_an_image)
        rates = self.detector.calibration
        job.answer.set_result(
            Judged(self.version, inspection, rates.false_alarm_rate, rates.review_rate, start - job.since, took)
        )
