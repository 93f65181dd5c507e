"""Runs a benchmark, job by job: what is done is written down, and a run that was killed goes on where it was.

A job is one training and what it is judged on. Results of a job stand in the results file or they do not; a training
that was cut short goes on from its own state (see `blemish.training`).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blemish import __version__
from blemish.assembly import Preset, train
from blemish.benchmark.protocols import Protocol, Task, tasks
from blemish.benchmark.results import ResultsFile, Row, file_name, training_name
from blemish.console import Listener, Silent
from blemish.data import Dataset, Sample, true_mask
from blemish.errors import BlemishError, UsageError
from blemish.evaluation import Evaluation, evaluate
from blemish.evaluation.judging import TIMED_GRAPH_RUNS, time_graph
from blemish.images import read
from blemish.methods import find_method
from blemish.modelfile import SUFFIX
from blemish.pictures import outlined, overlay, thumbnail, webp
from blemish.runtime import Detector, load
from blemish.runtime.graph import installed_runtimes
from blemish.suspects import page_beside

PICTURES_EACH = 3
"""Test images of a category whose heat maps are kept."""
PICTURE_SIDE = 256
IMAGES = "images"
"""Folder of pictures that shows the images themselves."""


@dataclass(frozen=True)
class Options:
    """What a benchmark is asked for, beside its data.

    Parameters
    ----------
    methods : names. settings : hyper-parameters by method. seeds : each method is trained once with each.
    teacher, preset, hold_out, folds, weights, device : as for `blemish.train`. Folds go to methods that take them.
    keep_models : keep the model files.
    time_openvino : also time graphs on OpenVINO, where it is installed. What was measured before stays as it was.
    """

    methods: tuple[str, ...]
    protocol: Protocol
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher: str = "tf_efficientnet_lite0"
    preset: Preset = "auto"
    hold_out: float | None = None
    weights: Path | None = None
    device: str = "auto"
    keep_models: bool = False
    time_openvino: bool = False


@dataclass(frozen=True)
class Job:
    """One training and what it is judged on: a task, a method, a seed.

    training : fingerprint of everything that decides the model.
    """

    task: Task
    method: str
    seed: int
    training: str

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the figures."""
        return hashlib.sha256((self.training + self.task.fingerprint).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of its files."""
        return training_name(self.task.name, self.method, self.seed, self.training)

    def keys(self, protocol: Protocol) -> list[tuple[str, ...]]:
        """What its rows are known by, one for each category."""
        task = self.task
        return [(protocol.fingerprint, self.fingerprint, task.name, task.setting, category) for category in task.tests]


def run(datasets: Mapping[str, Dataset], options: Options, out: Path, listener: Listener | None = None) -> list[Row]:
    """Run every job that is not done yet.

    Parameters
    ----------
    datasets : each category by name, as `blemish.data.open_categories` gives them.
    out : folder for results, draws and pictures. Started again with the same folder, what is done is not done again;
        methods, seeds and categories can be added.

    Returns
    -------
    The rows asked for, in the order of tasks, methods and seeds; also those that failed, with the reason.

    Raises
    ------
    UsageError : a method or setting that is not there, or a folder that another run is using.
    DataError : see `blemish.benchmark.protocols.tasks`.
    """
    listener = listener or Silent()
    for method in options.methods:
        find_method(method)
    if unknown := set(options.settings) - set(options.methods):
        raise UsageError(
            f"it sets something for {sorted(unknown)[0]}, which does not take part",
            where="--set",
            todo=f"Methods here are {', '.join(options.methods)}",
        )
    with locked(out):
        results = ResultsFile(out)
        jobs = [
            Job(task, method, seed, training_fingerprint(task, method, seed, options))
            for seed in options.seeds
            for task in tasks(options.protocol, datasets, seed, out / "draws")
            for method in options.methods
        ]
        done = {_key(row) for row in results.rows() if not row.error}
        waiting = [job for job in jobs if any(key not in done for key in job.keys(options.protocol))]
        listener.say(f"{len(jobs)} trainings, {len(jobs) - len(waiting)} of them done before.")
        shown = shown_samples(jobs)
        for number, job in enumerate(waiting, 1):
            listener.say(f"{number} of {len(waiting)}: {job.task.title}, {job.method}, seed {job.seed}.")
            rows = _run_job(job, options, shown, out, OfOneJob(listener, number - 1, len(waiting)))
            results.add(rows)
            for row in rows:
                if row.error:
                    listener.warn(f"{job.task.title}, {row.method}: {row.error}")
            listener.progress("benchmark", number / len(waiting))
        newest = {_key(row): row for row in results.rows()}
        return [newest[key] for job in jobs for key in job.keys(options.protocol)]


def _key(row: Row) -> tuple[str, ...]:
    return row.protocol_fingerprint, row.job, row.task, row.setting, row.category


def training_fingerprint(task: Task, method: str, seed: int, options: Options) -> str:
    """Everything that decides a model: the images by their names, the method, the options, the version."""
    parts = {
        "images": task.training_fingerprint,
        "method": method,
        "settings": dict(options.settings.get(method, {})),
        "seed": seed,
        "teacher": options.teacher,
        "preset": options.preset,
        "hold_out": options.hold_out,
        "device": options.device,
        "blemish": __version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _run_job(
    job: Job, options: Options, shown: Mapping[str, Sequence[Sample]], out: Path, listener: Listener
) -> list[Row]:
    task = job.task
    common: dict[str, Any] = {
        "task": task.name,
        "setting": task.setting,
        "method": job.method,
        "seed": job.seed,
        "protocol": options.protocol.name,
        "protocol_fingerprint": options.protocol.fingerprint,
        "data_fingerprint": task.fingerprint,
        "job": job.fingerprint,
        "training": job.training,
        "teacher": options.teacher,
        "preset": options.preset,
        "contaminated_by": len(task.drawn),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    if task.impossible:
        return _without_figures(common, task, task.impossible)
    model = out / "models" / (job.name + SUFFIX)
    try:
        detector, seconds = _trained(job, model, options, listener)
        rows = []
        for name, test in task.tests.items():
            result = evaluate(
                detector,
                test,
                lambda done, total: listener.progress("inspecting", done / total),
                include_seen=task.overlap,
            )
            timed = {"fps_openvino": _fps_openvino(model, result)} if options.time_openvino else {}
            rows.append(_row(common | timed, name, result, detector, seconds, model.stat().st_size))
            _keep_pictures(pictures_folder(out, options.protocol), job, name, shown[name], detector)
    except UsageError:
        raise
    except BlemishError as error:
        return _without_figures(common, task, str(error))
    if not options.keep_models:
        model.unlink(missing_ok=True)
        page_beside(model).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            model.parent.rmdir()
    return rows


def _fps_openvino(model: Path, result: Evaluation) -> float | None:
    """Images a second of the graph on OpenVINO, one at a time, over the same images as on ONNX Runtime."""
    if "openvino" not in installed_runtimes():
        return None
    detector = load(model, runtime="openvino")
    scored = [judged.sample.path for judged in result.judged if judged.inspection.score is not None]
    images = [read(path, detector.contract) for path in scored[:TIMED_GRAPH_RUNS]]
    for image in images[:1]:
        # The first run of a graph compiles for the image's size.
        detector.graph.run(image[None])
    return time_graph(detector, images)[0]


def _without_figures(common: Mapping[str, Any], task: Task, why: str) -> list[Row]:
    return [Row(**common, category=name, layout=test.layout, error=why) for name, test in task.tests.items()]


def _trained(job: Job, model: Path, options: Options, listener: Listener) -> tuple[Detector, float | None]:
    """The detector of a job, and the seconds that training took; None where a kept model file made it unnecessary."""
    if model.exists():
        return load(model), None
    started = time.perf_counter()
    detector = train(
        job.task.train,
        model,
        method=job.method,
        teacher=options.teacher,
        preset=options.preset,
        settings=options.settings.get(job.method, {}),
        hold_out=options.hold_out,
        seed=job.seed,
        device=options.device,
        weights=options.weights,
        listener=listener,
    )
    return detector, time.perf_counter() - started


def _row(
    common: Mapping[str, Any], category: str, result: Evaluation, detector: Detector, seconds: float | None, size: int
) -> Row:
    manifest = detector.manifest
    if manifest is None:
        raise AssertionError("a trained detector has a manifest")
    figures = result.to_dict()
    undefined: dict[str, str] = figures["undefined"]
    roles = [image.role for image in manifest.training.images]
    values = dict(result.measures.values) | {name: figures[name] for name in ("overkill", "escape")}
    return Row(
        **common,
        category=category,
        layout=result.dataset.layout,
        config=manifest.config,
        image_size=manifest.config["image_size"],
        values=values,
        undefined={name: reason for name, reason in undefined.items() if name in values},
        error_bounds=result.measures.error_bounds,
        n_train=sum("train" in role for role in roles),
        n_calibration=detector.calibration.n,
        n_train_and_calibration=roles.count("train and calibration"),
        n_normal=figures["n_normal"],
        n_anomalous=figures["n_anomalous"],
        false_alarm_rate=detector.calibration.false_alarm_rate,
        fps=result.fps,
        fps_graph=result.fps_graph,
        fps_graph_batched=result.fps_graph_batched,
        train_seconds=seconds,
        model_bytes=size,
        versions=manifest.training.versions | {"blemish": manifest.blemish, "device": manifest.training.device},
    )


def _keep_pictures(folder: Path, job: Job, category: str, shown: Sequence[Sample], detector: Detector) -> None:
    """Heat maps of a few test images, the same for every method: pictures say what figures cannot."""
    for number, sample in enumerate(shown):
        inspection = detector.inspect(sample.path)
        if inspection.image is None or inspection.anomaly_map is None or inspection.threshold is None:
            continue
        truth = true_mask(sample, inspection.anomaly_map.shape)
        small_map = thumbnail(inspection.anomaly_map, PICTURE_SIDE)
        small_truth = None if truth is None else thumbnail(truth, PICTURE_SIDE)
        small = thumbnail(inspection.image, PICTURE_SIDE)
        heat = overlay(small, small_map, inspection.threshold, small_map > inspection.threshold, small_truth)
        for target, picture in ((folder / job.name, heat), (folder / IMAGES, outlined(small, truth=small_truth))):
            target.mkdir(parents=True, exist_ok=True)
            (target / picture_name(category, number)).write_bytes(webp(picture))


def shown_samples(jobs: Iterable[Job]) -> dict[str, list[Sample]]:
    """For each category the first image of each kind of defect that every training is judged on, evenly if many."""
    common: dict[str, dict[Path, Sample]] = {}
    for job in jobs:
        for category, test in job.task.tests.items():
            here = {sample.path: sample for sample in test.samples if sample.label == "anomalous"}
            before = common.setdefault(category, here)
            common[category] = {path: sample for path, sample in before.items() if path in here}
    shown = {}
    for category, samples in common.items():
        firsts: dict[str, Sample] = {}
        for sample in samples.values():
            firsts.setdefault(sample.kind, sample)
        kinds = sorted(firsts)
        places = np.linspace(0, len(kinds) - 1, min(PICTURES_EACH, len(kinds))).round().astype(int)
        shown[category] = [firsts[kinds[place]] for place in places]
    return shown


def pictures_folder(out: Path, protocol: Protocol) -> Path:
    """Where the pictures of a protocol's trainings lie, a folder each."""
    return out / "pictures" / protocol.name


def picture_name(category: str, number: int) -> str:
    """Of the picture of a category's image."""
    return file_name(f"{category}-{number}.webp")


def machine() -> str:
    """Processor, cores, system and Python, in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


class OfOneJob:
    """Shows what a training reports as one bar for the whole benchmark, and passes on warnings.

    What is said at every training alike would bury the rest.
    """

    def __init__(self, listener: Listener, before: int, jobs: int) -> None:
        self._listener = listener
        self._before = before
        self._jobs = jobs

    def say(self, text: str) -> None:
        """Says nothing."""

    def warn(self, text: str) -> None:
        """Pass on."""
        self._listener.warn(text)

    def progress(self, stage: str, done: float, note: str = "") -> None:
        """Move the bar by trainings done; what the current one is doing stands beside it."""
        self._listener.progress("benchmark", self._before / self._jobs, f"{stage} {done:.0%} {note}".strip())


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep two runs out of one folder: both would compute the same, and write over each other.

    Raises
    ------
    UsageError : the folder cannot be written, or a run is at work in it.
    """
    lock = out / "running"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+")
    except OSError as error:
        raise UsageError(f"results cannot be written there: {error.strerror}", where=out) from error
    with file:
        if not _lock(file.fileno()):
            raise UsageError(
                "another benchmark is at work in this folder", where=out, todo="Wait, or take another --out"
            )
        yield


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed; False if somebody else has. Where the system has no such locks, True."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
