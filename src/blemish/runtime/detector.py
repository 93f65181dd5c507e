"""A trained method that can inspect: one graph, one path for every image."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import BoundedSemaphore
from typing import overload

import numpy as np

from blemish.decisions import Calibration, Verdict
from blemish.errors import ImageError, Reason
from blemish.images import ImageContract, ImageSource, read, to_display
from blemish.modelfile import Manifest, ModelFile, open_model_file
from blemish.runtime.choosing import fastest
from blemish.runtime.graph import Graph, RuntimeChoice, open_graph
from blemish.runtime.inspection import Inspection, find_regions


class Detector:
    """Inspects images.

    Parameters
    ----------
    graph : what maps an image.
    contract : what images it accepts.
    calibration : how a score becomes a verdict.
    manifest : of the model file; None while a detector is being made.
    at_once : how many images the graph may work on at the same time, each in a thread of its own; see `stream`.
    """

    def __init__(
        self,
        graph: Graph,
        contract: ImageContract,
        calibration: Calibration,
        manifest: Manifest | None = None,
        at_once: int = 1,
    ) -> None:
        self.graph = graph
        self.contract = contract
        self.calibration = calibration
        self.manifest = manifest
        self.at_once = at_once
        self._may_run = BoundedSemaphore(at_once)

    @overload
    def inspect(self, images: ImageSource) -> Inspection: ...  # type: ignore[overload-overlap]  # str is one image
    @overload
    def inspect(self, images: Sequence[ImageSource]) -> list[Inspection]: ...
    def inspect(self, images: ImageSource | Sequence[ImageSource]) -> Inspection | list[Inspection]:
        """Inspect one image (a path, encoded bytes, or an H x W or H x W x 3 array) or a sequence of them.

        An image that cannot be judged comes back REJECTED with the reason; it is never an exception and never OK.
        """
        if isinstance(images, str | bytes | os.PathLike | np.ndarray):
            return self._inspect(images)
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Inspection]:
        """Inspect images in their order, while holding only a few in memory.

        Threads read, inspect and judge an image each, and are a few images ahead of whoever takes the inspections. The
        graph works on `at_once` images at the same time, and one more thread reads meanwhile. When the iterator is
        closed, the threads end with the images that they are at.
        """
        threads = self.at_once + 1
        pool = ThreadPoolExecutor(threads, thread_name_prefix="inspect")
        try:
            waiting = iter(images)
            ahead: deque[Future[Inspection]] = deque()
            ahead.extend(pool.submit(self._inspect, image) for image in islice(waiting, 2 * threads))
            while ahead:
                inspection = ahead.popleft().result()
                ahead.extend(pool.submit(self._inspect, image) for image in islice(waiting, 1))
                yield inspection
        finally:
            pool.shutdown(cancel_futures=True)

    def _inspect(self, source: ImageSource) -> Inspection:
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        try:
            image = read(source, self.contract)
            with self._may_run:
                maps, scores = self.graph.run(image[None])
        except ImageError as error:
            return Inspection(path, Verdict.REJECTED, error.reason.value, error.what)
        anomaly_map, score = maps[0], float(scores[0])
        if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
            detail = "the graph gave no finite score for this image"
            return Inspection(path, Verdict.REJECTED, Reason.SCORE_NOT_FINITE.value, detail)
        calibration = self.calibration
        threshold = calibration.pixel_threshold
        mask = anomaly_map > threshold
        verdict = calibration.verdict(score)
        p_value = calibration.p_value(score)
        reason, detail = explain(verdict, p_value, calibration)
        return Inspection(
            path=path,
            verdict=verdict,
            reason=reason,
            detail=detail,
            score=score,
            p_value=p_value,
            threshold=threshold,
            regions=find_regions(anomaly_map, mask),
            anomaly_map=anomaly_map,
            mask=mask,
            image=to_display(image, self.contract),
        )


def explain(verdict: Verdict, p_value: float, calibration: Calibration) -> tuple[str, str]:
    """Reason code and sentence for a verdict that rests on a score."""
    share = f"{p_value:.1%} of normal images score as high or higher (p = {p_value:.4f}, n = {calibration.n})"
    if verdict is Verdict.NG:
        return "score_above_limit", f"{share}; NG is at or below {calibration.false_alarm_rate:.2%}"
    if verdict is Verdict.REVIEW:
        return "score_near_limit", f"{share}; REVIEW is at or below {calibration.review_rate:.2%}"
    return "score_in_normal_range", share


def load(
    path: str | os.PathLike[str],
    *,
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    threads: int | None = None,
    at_once: int = 1,
    runtime: RuntimeChoice = "onnxruntime",
) -> Detector:
    """Open a model file as a detector.

    Parameters
    ----------
    path : a .blemish file.
    false_alarm_rate, review_rate : other rates than those of the file, as far as its calibration images reach.
    threads : of the runtime in all; None takes the cores that this process may use.
    at_once : how many images of a `stream` the graph works on at the same time; they share the threads. As many as
        there are threads inspects the most images a second, and takes the most memory; 1 has each inspected soonest.
    runtime : what runs the graph. "auto" takes the fastest that is installed, measured once on this machine. Scores
        differ between runtimes in the sixth digit.

    Raises
    ------
    ModelFileError
        See `blemish.modelfile.open_model_file`.
    UsageError
        A rate the calibration images do not reach, or a runtime that is not installed.
    """
    file = open_model_file(Path(path))
    calibration = file.manifest.calibration
    if false_alarm_rate is not None or review_rate is not None:
        calibration = calibration.with_rates(false_alarm_rate, review_rate)
    return detector_of(file, calibration, threads=threads, at_once=at_once, runtime=runtime)


def detector_of(
    file: ModelFile,
    calibration: Calibration | None = None,
    *,
    threads: int | None = None,
    at_once: int = 1,
    runtime: RuntimeChoice = "onnxruntime",
) -> Detector:
    """The detector of an opened model file; see `load`. None takes the file's own calibration."""
    manifest = file.manifest
    chosen = fastest(file.graph, manifest.images, threads) if runtime == "auto" else runtime
    graph = open_graph(file.graph, threads, chosen, at_once)
    return Detector(graph, manifest.images, calibration or manifest.calibration, manifest, at_once)
