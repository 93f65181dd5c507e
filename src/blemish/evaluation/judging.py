"""A detector at work on a dataset whose truth is known: verdicts counted, metrics measured, speed timed.

What keeps the figures honest:

* Images are inspected by `Detector.stream`, as everywhere else; there is no second prediction path.
* An image whose content the detector was trained or calibrated on is left out, for its score would flatter; unless
  the protocol is about just that.
* A rejected image counts among the verdicts and never among the metrics; it has no score.
* Pixel metrics are taken at each image's own resolution against its mask as it is. Papers shrink both to 256 x 256,
  which changes AUPRO and P-AP by up to a few points; compare such figures with care.
* Thresholds come from calibration. Nothing is tuned on what is evaluated.
* A figure that was not computed exactly comes with its error bound.

Anomaly maps and masks are kept, 5 bytes a pixel, while there are no more than `metrics.EXACT_PIXELS`; with more, they
are counted and let go of, so that memory does not grow with the number of images. Images are not kept.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish import images, metrics
from blemish.components import Mask
from blemish.data import Dataset, Label, Sample, true_mask
from blemish.data.layout import mvtec_loco
from blemish.decisions import Calibration, Verdict
from blemish.errors import DataError
from blemish.evaluation.own_terms import OwnTerms
from blemish.metrics import Confidence, Measurement, Measures
from blemish.runtime import Detector, Inspection

Progress = Callable[[int, int], None]

BATCH = 8
"""Images that the graph is timed on together."""
TIMED_GRAPH_RUNS = 20
_TIMED_BATCHES = 2
_BATCH_PIXELS = 16_000_000
"""Pixels of a batch that is timed, at most: what the graph makes of them has to fit into memory."""
_AT_ONCE = 16
"""Images inspected before their maps are measured."""
_Z = 1.959964
"""Normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Judged:
    """One test image and what the detector said of it.

    Attributes
    ----------
    sample : the image and its truth. inspection : without its arrays.
    overlap : intersection over union of the marked pixels and the true mask; None without a true mask, when it is
        empty, or for a normal or rejected image.
    """

    sample: Sample
    inspection: Inspection
    overlap: float | None = None

    @property
    def score(self) -> float:
        """Anomaly score.

        Raises
        ------
        ValueError : the image was rejected.
        """
        if self.inspection.score is None:
            raise ValueError(f"{self.sample.path} was rejected and has no score")
        return self.inspection.score


@dataclass(frozen=True)
class Share:
    """`count` of `of` images, with its 95 % Wilson score interval: what few images can say of the true rate."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        """The share, None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end in [0, 1] (Wilson, JASA 22, 1927), None of nothing."""
        if not self.of:
            return None
        share, weight = self.count / self.of, _Z**2 / self.of
        middle = share + weight / 2
        reach = math.sqrt(share * (1 - share) * weight + weight**2 / 4)
        # Rounding must not put the ends beside the 0 and 1 they are at none and at all.
        low = 0.0 if self.count == 0 else (middle - reach) / (1 + weight)
        high = 1.0 if self.count == self.of else (middle + reach) / (1 + weight)
        return low, high


@dataclass(frozen=True)
class Evaluation:
    """What a detector did on the test images of a dataset.

    Attributes
    ----------
    dataset : as it was opened. calibration : the detector's, which every verdict rests on.
    judged : every labelled test image that was inspected, rejected ones too, in the order of the dataset.
    measures : metrics over those that were not rejected.
    fps : inspections a second, one image at a time, warm, everything included from reading the file to the regions.
    fps_graph : images a second of the graph alone, one decoded image at a time, warm. Both None if every image was
        rejected.
    fps_graph_batched : the same with `BATCH` images together. None if they cannot be; `unbatched` says why.
    confidence : bootstrap intervals of the metrics, if they were asked for.
    seen_in_training : test images left out because the detector was trained or calibrated on the same content.
    unlabelled : test images left out because nobody said what they show.
    """

    dataset: Dataset
    calibration: Calibration
    judged: tuple[Judged, ...]
    measures: Measures
    fps: float | None
    fps_graph: float | None
    fps_graph_batched: float | None
    unbatched: str
    seen_in_training: tuple[Sample, ...]
    unlabelled: tuple[Sample, ...]
    confidence: Confidence | None = None

    def scored(self, label: Label) -> tuple[Judged, ...]:
        """The images of one label that metrics rest on."""
        return tuple(j for j in self.judged if j.sample.label == label and j.inspection.score is not None)

    @property
    def rejected(self) -> tuple[Judged, ...]:
        """The images that could not be judged."""
        return tuple(j for j in self.judged if j.inspection.verdict is Verdict.REJECTED)

    @property
    def false_alarms(self) -> Share:
        """Normal images judged NG, of the normal images judged."""
        return _share(self.scored("normal"), Verdict.NG)

    @property
    def detections(self) -> Share:
        """Anomalous images judged NG, of the anomalous images judged."""
        return _share(self.scored("anomalous"), Verdict.NG)

    @property
    def overkill(self) -> Share:
        """Good parts judged NG, of all good parts. One that was rejected counts among all: nobody judged it bad."""
        return _share(self._of("normal"), Verdict.NG)

    @property
    def escape(self) -> Share:
        """Bad parts judged OK, of all bad parts: those that neither NG nor REVIEW nor REJECTED keeps back."""
        return _share(self._of("anomalous"), Verdict.OK)

    def _of(self, label: Label) -> tuple[Judged, ...]:
        return tuple(j for j in self.judged if j.sample.label == label)

    def verdicts(self) -> dict[str, dict[str, int]]:
        """Number of OK, REVIEW, NG and REJECTED among the normal and among the anomalous images."""
        return {label: _counts(j for j in self.judged if j.sample.label == label) for label in ("normal", "anomalous")}

    def kinds(self) -> list[dict[str, Any]]:
        """Each kind of defect by name: kind, n, verdict counts, I-AUROC against all normal images (None: undefined)."""
        normal = [j.score for j in self.scored("normal")]
        anomalous = [j for j in self.judged if j.sample.label == "anomalous"]
        rows = []
        for kind in sorted({j.sample.kind for j in anomalous}):
            ones = [j for j in anomalous if j.sample.kind == kind]
            scores = [j.score for j in ones if j.inspection.score is not None]
            defined = bool(scores and normal)
            labels = np.arange(len(normal) + len(scores)) >= len(normal)
            area = metrics.auroc(normal + scores, labels) if defined else None
            rows.append({"kind": kind, "n": len(ones), **_counts(ones), "image_auroc": area})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as `blemish evaluate --json` prints it: metrics, counts, and for each null the reason.

        n_normal and n_anomalous are the images that metrics rest on; `verdicts` counts the rejected ones too.
        """
        undefined = dict(self.measures.undefined)
        if self.fps is None:
            undefined["fps"] = undefined["fps_graph"] = "no image was judged"
        if self.fps_graph_batched is None:
            undefined["fps_graph_batched"] = self.unbatched
        for name, share, label in (("overkill", self.overkill, "normal"), ("escape", self.escape, "anomalous")):
            if share.rate is None:
                undefined[name] = f"no {label} images"
        return {
            **self.measures.values,
            "error_bounds": self.measures.error_bounds,
            "confidence": None if self.confidence is None else _confidence_to_dict(self.confidence),
            "fps": self.fps,
            "fps_graph": self.fps_graph,
            "fps_graph_batched": self.fps_graph_batched,
            "batch_sizes": {"fps": 1, "fps_graph": 1, "fps_graph_batched": BATCH},
            "overkill": self.overkill.rate,
            "overkill_interval": self.overkill.interval,
            "escape": self.escape.rate,
            "escape_interval": self.escape.interval,
            "n_normal": len(self.scored("normal")),
            "n_anomalous": len(self.scored("anomalous")),
            "verdicts": self.verdicts(),
            "kinds": self.kinds(),
            "false_alarm_rate": self.calibration.false_alarm_rate,
            "false_alarm_rate_measured": self.false_alarms.rate,
            "false_alarm_rate_interval": self.false_alarms.interval,
            "detection_rate_measured": self.detections.rate,
            "detection_rate_interval": self.detections.interval,
            "undefined": undefined,
            "rejected": [
                {"path": self.name(j.sample), "reason": j.inspection.reason, "detail": j.inspection.detail}
                for j in self.rejected
            ],
            "left_out": {
                "seen_in_training": [self.name(sample) for sample in self.seen_in_training],
                "unlabelled": [self.name(sample) for sample in self.unlabelled],
                "anomalous_without_mask": self.measures.without_mask,
            },
        }

    def name(self, sample: Sample) -> str:
        """The path of a sample, relative to the dataset where it lies in it."""
        root = self.dataset.root
        return (sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path).as_posix()


def evaluate(
    detector: Detector,
    dataset: Dataset,
    progress: Progress | None = None,
    *,
    include_seen: bool = False,
    confidence: bool = False,
) -> Evaluation:
    """Inspect the labelled test images of a dataset and measure how well that went.

    Parameters
    ----------
    progress : called after each image with the number done and the number in all.
    include_seen : judge also images that training saw, as a protocol with overlap asks for. Their scores flatter.
    confidence : take bootstrap intervals of the metrics too.

    Raises
    ------
    DataError : there is no test image with a label, every one was seen in training, or a mask cannot be used.
    """
    unlabelled = tuple(sample for sample in dataset.test if sample.label is None)
    labelled = [sample for sample in dataset.test if sample.label is not None]
    if not labelled:
        raise DataError(
            f"none of its {len(dataset.samples)} images is a test image with a label"
            if dataset.samples
            else "there are no images in it",
            where=dataset.root,
            todo="Evaluation needs images known to be good or bad, as test/good and test/DEFECT folders or in a csv "
            "with split and label",
        )
    digests = frozenset[str]() if include_seen else _training_digests(detector)
    seen = tuple(sample for sample in labelled if _sha256(sample.path) in digests)
    left_out = set(seen)
    samples = [sample for sample in labelled if sample not in left_out]
    if not samples:
        raise DataError(
            f"all {len(labelled)} labelled test images were used to train this detector",
            where=dataset.root,
            todo="Evaluate on images that it never saw",
        )

    threshold = detector.calibration.pixel_threshold
    measurement = Measurement(threshold, confidence=confidence)
    own_terms = OwnTerms(saturating=dataset.layout == mvtec_loco.NAME)
    judged: list[Judged] = []
    clock = _Clock()
    for sample, inspection in zip(samples, _inspect(detector, samples, clock, progress), strict=True):
        anomaly_map, overlap = inspection.anomaly_map, None
        if inspection.score is not None and anomaly_map is not None:
            mask = true_mask(sample, anomaly_map.shape)
            overlap = _overlap(anomaly_map, mask, threshold)
            measurement.add(inspection.score, sample.label == "anomalous", anomaly_map, mask)
            own_terms.add(sample, anomaly_map, mask)
        judged.append(Judged(sample, replace(inspection, anomaly_map=None), overlap))
    scored = [one.sample for one in judged if one.inspection.score is not None]
    decoded = (images.read(sample.path, detector.contract) for sample in scored[:TIMED_GRAPH_RUNS])
    fps_graph, fps_graph_batched, unbatched = time_graph(detector, decoded)
    return Evaluation(
        dataset=dataset,
        calibration=detector.calibration,
        judged=tuple(judged),
        measures=own_terms.beside(measurement.measures()),
        fps=len(scored) / clock.seconds if scored else None,
        fps_graph=fps_graph,
        fps_graph_batched=fps_graph_batched,
        unbatched=unbatched,
        seen_in_training=seen,
        unlabelled=unlabelled,
        confidence=measurement.confidence() if confidence else None,
    )


def _training_digests(detector: Detector) -> frozenset[str]:
    """sha256 of every file that training used, for fitting or for calibration."""
    return frozenset(() if detector.manifest is None else (one.sha256 for one in detector.manifest.training.images))


def _sha256(path: Path) -> str | None:
    """None for a file that cannot be read: inspecting it says why."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


class _Clock:
    """Adds up the seconds spent inside it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def _inspect(
    detector: Detector, samples: Sequence[Sample], clock: _Clock, progress: Progress | None
) -> Iterator[Inspection]:
    """Inspections with their anomaly map alone, timed."""
    # The first run of a graph allocates what all others use; a rejected image would not come as far.
    any(detector.inspect(sample.path).score is not None for sample in samples)
    for start in range(0, len(samples), _AT_ONCE):
        # A stream decodes ahead. Nothing else happens between two of its images, and it ends before anything else
        # does, so that decoding ahead gains no time that is not counted.
        some = samples[start : start + _AT_ONCE]
        stream = detector.stream(sample.path for sample in some)
        waiting: deque[Inspection] = deque()
        for done in range(start + 1, start + 1 + len(some)):
            with clock:
                inspection = next(stream)
            waiting.append(replace(inspection, mask=None, image=None))
            if progress is not None:
                progress(done, len(samples))
        while waiting:
            yield waiting.popleft()


def time_graph(detector: Detector, decoded: Iterable[NDArray[np.generic]]) -> tuple[float | None, float | None, str]:
    """Images a second of the graph, one at a time and `BATCH` together, and why the latter is None."""
    single, batched = _Clock(), _Clock()
    runs, first = 0, list[NDArray[np.generic]]()
    for image in decoded:
        runs += 1
        with single:
            detector.graph.run(image[None])
        if len(first) < BATCH:
            first.append(image)
    if not first:
        return None, None, "no image was judged"
    fps = runs / single.seconds
    if len({image.shape for image in first}) > 1:
        return fps, None, "images of different sizes make no batch"
    if BATCH * first[0].shape[0] * first[0].shape[1] > _BATCH_PIXELS:
        return fps, None, f"{BATCH} of these images have more than {_BATCH_PIXELS // 10**6} megapixels together"
    batch = np.stack(list(islice(cycle(first), BATCH)))
    detector.graph.run(batch)
    with batched:
        for _ in range(_TIMED_BATCHES):
            detector.graph.run(batch)
    return fps, BATCH * _TIMED_BATCHES / batched.seconds, ""


def _overlap(anomaly_map: NDArray[np.float32], truth: Mask | None, threshold: float) -> float | None:
    if truth is None or not truth.any():
        return None
    marked = anomaly_map > threshold
    return int(np.count_nonzero(marked & truth)) / int(np.count_nonzero(marked | truth))


def _confidence_to_dict(confidence: Confidence) -> dict[str, Any]:
    """Draws, seed and level; by metric its interval, or None."""
    intervals = {name: interval and interval._asdict() for name, interval in confidence.intervals.items()}
    return {"draws": confidence.draws, "seed": confidence.seed, "level": confidence.level, "intervals": intervals}


def _share(judged: Sequence[Judged], verdict: Verdict) -> Share:
    return Share(sum(j.inspection.verdict is verdict for j in judged), len(judged))


def _counts(judged: Iterable[Judged]) -> dict[str, int]:
    count = Counter(j.inspection.verdict for j in judged)
    return {verdict.value: count[verdict] for verdict in Verdict}
