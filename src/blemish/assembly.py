"""The main job: from a source of images to a model file that decides.

Open the source, admit its images, hold some out, train, export the graph, prove it, let it score the held-out images,
calibrate on those scores, write the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from blemish import __version__
from blemish.admission import Admitted, admit, base_contract
from blemish.console import Listener, Silent
from blemish.data import Dataset, open_dataset
from blemish.decisions import Calibration, calibrate
from blemish.errors import TrainingError, UsageError
from blemish.export import InspectionNetwork, check_parity, export_graph, pack_learned
from blemish.holdout import Plan, plan_hold_out
from blemish.images import Depth, ImageContract, contract_for, read
from blemish.methods import Method, MethodConfig, find_method
from blemish.modelfile import SUFFIX, LeftOutImage, Manifest, SeenImage, TrainingRecord, write
from blemish.nn.preparation import Preparation
from blemish.runtime import Detector
from blemish.runtime.detector import Graph
from blemish.teachers import DEFAULT_TEACHER, FeaturePyramid, open_teacher
from blemish.training import RunFolder, Trainer, TrainingImages

PARITY_IMAGES = 6
FEW_CALIBRATION_IMAGES = 20

Preset = Literal["auto", "fast", "paper"]


def train(
    source: str | os.PathLike[str] | Dataset,
    out: str | os.PathLike[str],
    *,
    method: str = "rd",
    teacher: str = DEFAULT_TEACHER,
    layout: str = "auto",
    preset: Preset = "auto",
    settings: Mapping[str, Any] | None = None,
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    hold_out: float | None = None,
    folds: int | None = None,
    depth: Depth = "uint8",
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Detector:
    """Train a detector on the good images of `source` and write it to `out`.

    A run that was killed goes on where it was when the same call is made again; its state lies in `OUT.training` until
    the model file is written.

    Parameters
    ----------
    source : a folder or csv file, of which `layout` says how it is laid out (`blemish layouts`); or a dataset.
    out : the model file; `.blemish` is added where it is missing.
    method, teacher : names (`blemish methods`, `blemish teachers`).
    preset : "paper" takes the paper's schedule, "fast" a short one for a machine without a GPU, "auto" the one for
        this device.
    settings : hyper-parameters of the method by name, over the preset's.
    false_alarm_rate : share of good images that may be called NG, in (0, 1); None takes 1 % or the smallest that the
        calibration images allow, whichever is larger.
    review_rate : share of good images that may be called NG or REVIEW; None takes 5 % or twice the former.
    hold_out : share of the images that calibrate instead of training; None takes 20 %, or as many as
        `false_alarm_rate` needs, up to half.
    folds : calibrate by this many cross-conformal folds instead and train on all images; for methods that are cheap to
        fit, and what they do below 100 images.
    depth, value_range : the image contract: what the files hold and which range of values maps onto [0, 1].
    seed : of every random draw; the same seed on the same machine gives the same file.
    device : "auto", "cpu" or "cuda".
    weights : a folder of teachers' weights; default BLEMISH_WEIGHTS.
    listener : told what happens, such as the one that `blemish.console.console()` gives; None keeps quiet.

    Returns
    -------
    Detector, as `blemish.load(out)` gives.

    Raises
    ------
    BlemishError
        A subclass per cause: UsageError, DataError, TeacherError, TrainingError, ExportError.
    """
    listener = listener or Silent()
    target = model_path(out)
    chosen = find_method(method)
    trainer_device = Trainer(device, seed, None, listener.progress)
    config = configure(chosen, preset, settings or {}, trainer_device.fabric.device.type, listener)
    base = base_contract(depth, value_range)

    dataset = source if isinstance(source, Dataset) else open_dataset(source, layout)
    listener.say(dataset.note)
    admitted, left_out = admit(dataset, base, listener)
    contract = contract_for(base, [image.facts for image in admitted])
    plan = plan_hold_out(
        [image.sample for image in admitted],
        cheap_to_fit=chosen.cheap_to_fit,
        seed=seed,
        false_alarm_rate=false_alarm_rate,
        hold_out=hold_out,
        folds=folds,
    )
    listener.say(str(plan))
    # Refuses rates that cannot be, before any work is done.
    calibrate([0.0] * len(plan.calibration), [0.0] * len(plan.calibration), plan.kind, false_alarm_rate, review_rate)

    pyramid = open_teacher(teacher, strides=config.strides, weights=weights)
    record = training_record(dataset, admitted, left_out, plan, seed, trainer_device)
    folder = RunFolder(
        target.with_name(target.name + ".training"),
        fingerprint(chosen, config, pyramid, contract, record),
    )
    saved = folder.load()
    if saved:
        listener.say(f"Going on where this training stopped: stage {saved.stage + 1}, step {saved.step}.")
    elif folder.file.exists():
        listener.say(f"{folder.path} holds the state of another training, which is not continued.")
    trained = build(chosen, config, pyramid, seed)
    images = training_images(admitted, contract, Preparation(contract.low, contract.high, config.image_size))
    Trainer(device, seed, folder, listener.progress).fit(trained, images(plan.train))

    detector = deliver(
        target,
        trained,
        lambda: build(chosen, config, pyramid, seed),
        config,
        plan,
        admitted,
        contract,
        record,
        trainer_device,
        false_alarm_rate,
        review_rate,
        listener,
    )
    folder.remove()
    return detector


def deliver(
    target: Path,
    trained: Method,
    untrained: Callable[[], Method],
    config: MethodConfig,
    plan: Plan,
    admitted: Sequence[Admitted],
    contract: ImageContract,
    record: TrainingRecord,
    trainer: Trainer,
    false_alarm_rate: float | None,
    review_rate: float | None,
    listener: Listener,
) -> Detector:
    """Export a trained method, prove the graph, calibrate it and write the model file.

    Parameters
    ----------
    untrained : gives what the folds of a "cross" plan are fitted with.
    """
    preparation = Preparation(contract.low, contract.high, config.image_size)
    listener.say("Exporting the graph and checking it against torch.")
    content = export_graph(trained, preparation, contract)
    graph = Graph(content)
    some = [read(admitted[i].sample.path, contract) for i in plan.calibration[:PARITY_IMAGES]]
    parity = check_parity(graph, trained, preparation, some)

    if plan.kind == "split":
        scores, maxima = score_through_graph(graph, [admitted[i] for i in plan.calibration], contract, listener)
    else:
        scores, maxima = score_by_folds(
            plan, admitted, untrained, trainer, training_images(admitted, contract, preparation), contract, listener
        )
    calibration = checked_calibration(scores, maxima, plan.kind, false_alarm_rate, review_rate)
    listener.say(describe_calibration(calibration, asked=false_alarm_rate is not None))
    if calibration.n < FEW_CALIBRATION_IMAGES:
        listener.warn(
            f"n = {calibration.n} is few: no false-alarm rate below {calibration.smallest_rate:.0%} can be kept. "
            "More images of good parts allow a smaller one."
        )

    manifest = Manifest(
        blemish=__version__,
        method=trained.name,
        method_title=trained.title,
        config=config.model_dump(mode="json"),
        teacher=trained.teacher.info,
        images=contract,
        calibration=calibration,
        training=record,
        parity=parity,
    )
    write(target, manifest, content, pack_learned(trained.learned_state(), content))
    listener.say(f"Wrote {target} ({target.stat().st_size / 2**20:.1f} MB).")
    return Detector(graph, contract, calibration, manifest)


def training_images(
    admitted: Sequence[Admitted], contract: ImageContract, preparation: Preparation
) -> Callable[[Sequence[int]], TrainingImages]:
    """What gives the images of some indices for training."""
    return lambda indices: TrainingImages([admitted[i].sample.path for i in indices], contract, preparation)


def model_path(out: str | os.PathLike[str]) -> Path:
    """`out` with its suffix, its folder made and known to be writable before any work is done."""
    target = Path(out)
    if target.name in ("", ".."):
        raise UsageError("it names no file", where=out, todo="Name a file: --out NAME.blemish")
    if target.suffix != SUFFIX:
        target = target.with_name(target.name + SUFFIX)
    if target.is_dir():
        raise UsageError("it is a folder", where=target, todo="Name a file: --out NAME.blemish")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        probe = target.with_name(target.name + ".training")
        probe.mkdir(exist_ok=True)
        if not any(probe.iterdir()):
            probe.rmdir()
    except OSError as error:
        raise UsageError(f"the model file cannot be written there: {error.strerror}", where=target) from error
    return target


def configure(
    method: type[Method], preset: Preset, settings: Mapping[str, Any], device: str, listener: Listener
) -> MethodConfig:
    """The method's config: the paper's defaults, the preset's changes, the user's settings."""
    if preset not in ("auto", "fast", "paper"):
        raise UsageError(f"there is no preset '{preset}'", todo="Choose auto, fast or paper")
    fast = preset == "fast" or (preset == "auto" and device == "cpu")
    changes = {key: value for key, value in method.fast.items() if fast and key not in settings}
    if changes and preset == "auto":
        listener.say(
            "No GPU: taking the fast preset ("
            + ", ".join(f"{key}={value}" for key, value in changes.items())
            + "); --preset paper takes the paper's schedule."
        )
    unknown = [key for key in settings if key not in method.Config.model_fields]
    if unknown:
        raise UsageError(
            f"method {method.name} has no setting '{unknown[0]}'",
            where="--set",
            todo=f"It has {', '.join(method.Config.model_fields)}",
        )
    try:
        return method.Config(**{**changes, **settings})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"{'.'.join(map(str, first['loc']))}={first['input']}: {first['msg']}", where=f"method {method.name}"
        ) from error


def describe_calibration(calibration: Calibration, *, asked: bool) -> str:
    """One sentence on what the threshold rests on."""
    chosen = "as asked" if asked else "the default: 1 % or the smallest reachable, whichever is larger"
    return (
        f"Calibrated on n = {calibration.n}: false-alarm rate {calibration.false_alarm_rate:.2%} ({chosen}); the "
        f"smallest reachable is 1/({calibration.n}+1) = {calibration.smallest_rate:.2%}. REVIEW up to "
        f"{calibration.review_rate:.2%}."
    )


def training_record(
    dataset: Dataset,
    admitted: Sequence[Admitted],
    left_out: Sequence[LeftOutImage],
    plan: Plan,
    seed: int,
    trainer: Trainer,
    before: Sequence[SeenImage] = (),
) -> TrainingRecord:
    """What the model file says of its training; `before` are images that trained the detector that it extends."""
    calibrating = set(plan.calibration)
    training = set(plan.train)

    def role(i: int) -> Literal["train", "calibration", "train and calibration"]:
        if i in calibrating:
            return "train and calibration" if i in training else "calibration"
        return "train"

    seen = (*before, *(SeenImage(path=a.name, sha256=a.sha256, role=role(i)) for i, a in enumerate(admitted)))
    digest = hashlib.sha256(json.dumps([image.model_dump() for image in seen]).encode()).hexdigest()
    packages = ("torch", "timm", "lightning-fabric", "onnx", "onnxruntime", "numpy", "pillow")
    return TrainingRecord(
        source=dataset.name,
        layout=dataset.layout,
        note=dataset.note,
        fingerprint=digest,
        images=seen,
        left_out=tuple(left_out),
        seed=seed,
        device=trainer.description,
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
    )


def fingerprint(
    method: type[Method],
    config: MethodConfig,
    teacher: FeaturePyramid,
    contract: ImageContract,
    record: TrainingRecord,
) -> str:
    """Everything that decides the trained weights; a saved state of another fingerprint is not continued."""
    parts = {
        "method": method.name,
        "config": config.model_dump(mode="json"),
        "teacher": teacher.info.model_dump(mode="json"),
        "contract": contract.model_dump(mode="json"),
        "record": record.model_dump(mode="json"),
        "blemish": __version__,
        "threads": torch.get_num_threads(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def build(method: type[Method], config: MethodConfig, teacher: FeaturePyramid, seed: int) -> Method:
    """An untrained method; what it draws at construction is decided by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method(config, teacher)


def score_through_graph(
    graph: Graph, images: Sequence[Admitted], contract: ImageContract, listener: Listener
) -> tuple[list[float], list[float]]:
    """Scores and map maxima of held-out images, by the path that inspections take."""
    scores, maxima = [], []
    for done, image in enumerate(images, 1):
        maps, score = graph.run(read(image.sample.path, contract)[None])
        scores.append(float(score[0]))
        maxima.append(float(maps.max()))
        listener.progress("calibrating", done / len(images))
    return scores, maxima


def score_by_folds(
    plan: Plan,
    admitted: Sequence[Admitted],
    untrained: Callable[[], Method],
    trainer: Trainer,
    images: Callable[[Sequence[int]], TrainingImages],
    contract: ImageContract,
    listener: Listener,
) -> tuple[list[float], list[float]]:
    """Scores and map maxima of every calibration image by a fit of the other folds (cross-conformal).

    The folds are scored by torch, which the graph of the final fit was proved to agree with.
    """
    results: dict[int, tuple[float, float]] = {}
    for fold, out in enumerate(plan.held_in_folds(trainer.seed), 1):
        inside = images([i for i in plan.train if i not in set(out)])
        method = untrained()
        Trainer(trainer.fabric.device.type, trainer.seed, None, Silent().progress).fit(method, inside)
        network = InspectionNetwork(method, inside.preparation).eval()
        for i in out:
            pixels: NDArray[Any] = read(admitted[i].sample.path, contract)
            with torch.inference_mode():
                anomaly_map, score = network(torch.from_numpy(pixels)[None])
            results[i] = (float(score), float(anomaly_map.max()))
        listener.progress("calibrating", fold / plan.folds)
    return [s for s, _ in results.values()], [m for _, m in results.values()]


def checked_calibration(
    scores: list[float],
    maxima: list[float],
    kind: Literal["split", "cross"],
    false_alarm_rate: float | None,
    review_rate: float | None,
) -> Calibration:
    """Calibrate, or say that the method learned nothing that could be calibrated."""
    if not np.isfinite([*scores, *maxima]).all():
        raise TrainingError(
            "the trained method gives held-out images no finite score", todo="Try another --seed or method"
        )
    return calibrate(scores, maxima, kind, false_alarm_rate, review_rate)
