"""A trained method that can inspect: one graph, one path for every image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from blemish.decisions import Calibration, Verdict
from blemish.errors import ImageError, ModelFileError, Reason
from blemish.images import ImageContract, ImageSource, read, to_display
from blemish.modelfile import Manifest, open_model_file
from blemish.runtime.inspection import Inspection, find_regions

AHEAD = 4
"""Images decoded ahead of the graph."""


class Graph:
    """The exported graph on ONNX Runtime.

    Parameters
    ----------
    content : the bytes of model.onnx.
    threads : of the runtime; None lets it take all cores.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        # Importing it takes longer than everything else a command line does.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelFileError(f"ONNX Runtime cannot run its graph: {error}") from error

    def run(self, images: NDArray[np.generic]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """B x H x W x 3 in the contract's type -> anomaly maps B x H x W and scores B."""
        anomaly_map, score = self._session.run(["anomaly_map", "score"], {"image": images})
        return anomaly_map, score


class Detector:
    """Inspects images.

    Parameters
    ----------
    graph : what maps an image.
    contract : what images it accepts.
    calibration : how a score becomes a verdict.
    manifest : of the model file; None while a detector is being made.
    """

    def __init__(
        self, graph: Graph, contract: ImageContract, calibration: Calibration, manifest: Manifest | None = None
    ) -> None:
        self.graph = graph
        self.contract = contract
        self.calibration = calibration
        self.manifest = manifest

    @overload
    def inspect(self, images: ImageSource) -> Inspection: ...  # type: ignore[overload-overlap]  # str is one image
    @overload
    def inspect(self, images: Sequence[ImageSource]) -> list[Inspection]: ...
    def inspect(self, images: ImageSource | Sequence[ImageSource]) -> Inspection | list[Inspection]:
        """Inspect one image (a path, encoded bytes, or an H x W or H x W x 3 array) or a sequence of them.

        An image that cannot be judged comes back REJECTED with the reason; it is never an exception and never OK.
        """
        if isinstance(images, str | bytes | os.PathLike | np.ndarray):
            return next(self.stream([images]))
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Inspection]:
        """Inspect images one after the other, in order, holding only a few in memory."""
        with ThreadPoolExecutor(max_workers=min(AHEAD, os.cpu_count() or 1)) as pool:
            waiting = iter(images)
            ahead = [(image, pool.submit(self._read, image)) for image in islice(waiting, AHEAD)]
            while ahead:
                source, future = ahead.pop(0)
                ahead += [(image, pool.submit(self._read, image)) for image in islice(waiting, 1)]
                yield self._judge(source, future)

    def _read(self, source: ImageSource) -> NDArray[np.generic]:
        return read(source, self.contract)

    def _judge(self, source: ImageSource, decoded: Future[NDArray[np.generic]]) -> Inspection:
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        try:
            image = decoded.result()
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
) -> Detector:
    """Open a model file as a detector.

    Parameters
    ----------
    path : a .blemish file.
    false_alarm_rate, review_rate : other rates than those of the file, as far as its calibration images reach.
    threads : for the runtime; None takes all cores.

    Raises
    ------
    ModelFileError
        See `blemish.modelfile.open_model_file`.
    UsageError
        A rate the calibration images do not reach.
    """
    file = open_model_file(Path(path))
    calibration = file.manifest.calibration
    if false_alarm_rate is not None or review_rate is not None:
        calibration = calibration.with_rates(false_alarm_rate, review_rate)
    return Detector(Graph(file.graph, threads), file.manifest.images, calibration, file.manifest)
