"""The main job: from a source of images to a model file that decides.

Open the source, admit its images, hold some out, train, and deliver what was trained (`blemish.delivery`).
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
from blemish.choice import AUTO, Choice, choose
from blemish.console import Listener, Silent
from blemish.data import Dataset, combine, open_categories, open_dataset
from blemish.delivery import deliver
from blemish.errors import ModelFileError, TeacherError, UsageError
from blemish.export import unpack_learned
from blemish.holdout import Plan, plan_hold_out
from blemish.images import Depth, ImageContract, contract_for, read, to_display
from blemish.methods import Method, MethodConfig, NamesSuspects, find_method
from blemish.modelfile import (
    SUFFIX,
    LeftOutImage,
    ModelFile,
    SeenImage,
    Suspicion,
    SuspiciousImage,
    TrainingRecord,
)
from blemish.nn.preparation import Preparation
from blemish.nn.resampling import resize
from blemish.runtime import Detector
from blemish.suspects import (
    Shown,
    in_one_line,
    judge,
    page_beside,
    warning,
    worth_showing,
    write_page_of_suspects,
)
from blemish.teachers import DEFAULT_TEACHER, FeaturePyramid, open_teacher
from blemish.training import RunFolder, Trainer, TrainingImages
from blemish.training.embedding import STRIDES, Embedding

SUSPICION_BATCH = 16

Preset = Literal["auto", "fast", "paper"]


def train(
    source: str | os.PathLike[str] | Dataset,
    out: str | os.PathLike[str],
    *,
    method: str = "rd",
    teacher: str = DEFAULT_TEACHER,
    layout: str = "auto",
    contaminated: bool = False,
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
    devices: int = 1,
    weights: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Detector:
    """Train a detector on the good images of `source` and write it to `out`.

    A run that was killed goes on where it was when the same call is made again; its state lies in `OUT.training` until
    the model file is written.

    Parameters
    ----------
    source : a folder or csv file, of which `layout` says how it is laid out (`blemish layouts`); or a dataset. With the
        method "auto" also a folder of several categories, which are taken together.
    out : the model file; `.blemish` is added where it is missing.
    method, teacher : names (`blemish methods`, `blemish teachers`). "auto" takes the method that the images ask for
        (`blemish.choice`).
    contaminated : bad parts are among the images; for the method "auto".
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
    devices : how many of them share the training, a process each; on the CPU, how many processes. The result is that of
        one, but for rounding.
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
    if contaminated and method != AUTO:
        raise UsageError(
            "it helps to choose a method, and one is given", where="--contaminated", todo="Give one of both"
        )
    trainer_device = Trainer(device, seed, None, listener.progress, devices)
    base = base_contract(depth, value_range)

    def look() -> tuple[Dataset, list[Admitted], list[LeftOutImage], ImageContract]:
        dataset = source if isinstance(source, Dataset) else open_source(source, layout, several=method == AUTO)
        listener.say(dataset.note)
        admitted, left_out = admit(dataset, base, listener)
        return dataset, admitted, left_out, contract_for(base, [image.facts for image in admitted])

    seen, choice = None, None
    if method == AUTO:
        seen = _, admitted, _, contract = look()
        choice = choose_method(admitted, contract, teacher, weights, contaminated=contaminated, listener=listener)
        listener.say(str(choice))
    # Before the images are looked at, unless they choose: what cannot be is refused at once.
    chosen = find_method(choice.method if choice else method)
    config = configure(chosen, preset, settings or {}, trainer_device.fabric.device.type, listener)
    dataset, admitted, left_out, contract = seen or look()
    plan = plan_hold_out(
        [image.sample for image in admitted],
        cheap_to_fit=chosen.cheap_to_fit,
        seed=seed,
        false_alarm_rate=false_alarm_rate,
        review_rate=review_rate,
        hold_out=hold_out,
        folds=folds,
    )
    listener.say(str(plan))

    pyramid = chosen.open_teacher(teacher, config, weights)
    record = training_record(dataset, admitted, left_out, plan, seed, trainer_device, choice)
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
    preparation = Preparation(contract.low, contract.high, config.image_size)
    images = TrainingImages([image.sample.path for image in admitted], contract, preparation)
    if devices > 1:
        listener.say(f"Starting {devices} processes.")
    Trainer(device, seed, folder, listener.progress, devices).fit(trained, images.only(plan.train))
    looked_at = [*plan.train, *(i for i in plan.calibration if i not in set(plan.train))]
    names = [admitted[i].name for i in looked_at]
    looked = images.only(looked_at)
    suspicion = suspect(trained, looked, names, listener) if isinstance(trained, NamesSuspects) else None

    def untrained() -> Method:
        return build(chosen, config, pyramid, seed)

    detector = deliver(target, trained, untrained, plan, images, record, trainer_device, listener, suspicion)
    folder.remove()
    # What lies there is of a detector that is no more.
    page_beside(target).unlink(missing_ok=True)
    if suspicion and isinstance(trained, NamesSuspects):
        show_suspects(page_beside(target), trained, looked, names, record, suspicion)
        listener.say(f"{in_one_line(suspicion)} The most suspicious are shown in {page_beside(target)}.")
        if meaning := warning(suspicion, record):
            listener.warn(meaning)
    return detector


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


def open_source(source: str | os.PathLike[str], layout: str, *, several: bool) -> Dataset:
    """The dataset at `source`; where there may be `several` categories, all of them together."""
    categories = open_categories(source, layout) if several else {}
    if len(categories) > 1:
        return combine(categories, Path(source).resolve().name)
    return open_dataset(source, layout)


def choose_method(
    images: Sequence[Admitted],
    contract: ImageContract,
    teacher: str,
    weights: str | os.PathLike[str] | None,
    *,
    contaminated: bool,
    listener: Listener,
) -> Choice:
    """The method that the images ask for, the teacher looking at them where that is needed."""

    def embed(paths: Sequence[Path], tell: Callable[[float], None]) -> NDArray[np.float16]:
        return Embedding(open_teacher(teacher, strides=STRIDES, weights=weights), contract)(paths, tell)

    return choose([image.sample for image in images], embed, contaminated=contaminated, listener=listener)


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


def training_record(
    dataset: Dataset,
    admitted: Sequence[Admitted],
    left_out: Sequence[LeftOutImage],
    plan: Plan,
    seed: int,
    trainer: Trainer,
    choice: Choice | None = None,
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
        choice=choice.why if choice else None,
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


def suspect(method: NamesSuspects, images: TrainingImages, names: Sequence[str], listener: Listener) -> Suspicion:
    """How suspicious the images of training and calibration are, in this order, and which are suspects."""
    scores: list[float] = []
    with torch.inference_mode():
        for batch in images.batches(range(len(images)), SUSPICION_BATCH):
            scores += method.suspicion(batch, len(scores) + torch.arange(len(batch))).score.tolist()
            listener.progress("looking for suspects", len(scores) / len(images))
    ruling = judge(scores)
    rows = zip(names, scores, ruling.z.tolist(), ruling.suspect.tolist(), strict=True)
    return Suspicion(
        limit=ruling.limit,
        images=tuple(SuspiciousImage(path=name, score=score, z=z, suspect=flag) for name, score, z, flag in rows),
    )


def show_suspects(
    page: Path,
    method: NamesSuspects,
    images: TrainingImages,
    names: Sequence[str],
    record: TrainingRecord,
    suspicion: Suspicion,
) -> None:
    """Write the page of the most suspicious images, which are read once more."""
    shown = []
    number = {name: i for i, name in enumerate(names)}
    for one in worth_showing(suspicion):
        i = number[one.path]
        picture = to_display(read(images.paths[i], images.contract), images.contract)
        height, width = (torch.ones(side) for side in picture.shape[:2])
        with torch.inference_mode():
            suspicion_map = method.suspicion(images.load(i)[None], torch.tensor([i])).map
        shown.append(Shown(one, picture, resize(suspicion_map[0], height, width).numpy()))
    write_page_of_suspects(page, record, suspicion, shown)


def restore(file: ModelFile, weights: str | os.PathLike[str] | None = None) -> Method:
    """The trained method of a model file, on torch and in evaluation mode.

    Parameters
    ----------
    weights : a folder of teachers' weights; default BLEMISH_WEIGHTS. The file has the student's alone.

    Raises
    ------
    UsageError, TeacherError : the method or the teacher is not known or not on this machine.
    ModelFileError : its config or weights do not fit the method.
    """
    manifest = file.manifest
    method = find_method(manifest.method)
    try:
        config = method.Config.model_validate(manifest.config)
    except ValidationError as error:
        raise ModelFileError(
            f"its config does not fit method {method.name}", where=file.path, todo="Train it again"
        ) from error
    teacher = method.open_teacher(manifest.teacher.name, config, weights)
    if teacher.info.sha256 != manifest.teacher.sha256:
        raise TeacherError(
            f"the weights of {teacher.info.name} on this machine are not those it was trained with",
            where=file.path,
            todo=f"They came from {manifest.teacher.source}, sha256 {manifest.teacher.sha256}",
        )
    trained = build(method, config, teacher, manifest.training.seed)
    trained.load_learned_state(unpack_learned(file))
    return trained.eval()
