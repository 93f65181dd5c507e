"""More good images for a detector that there is, without the images that it was trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from blemish.admission import Admitted, admit
from blemish.assembly import model_path, restore, training_record
from blemish.console import Listener, Silent
from blemish.data import Dataset, open_dataset
from blemish.delivery import deliver
from blemish.errors import DataError, UsageError
from blemish.holdout import plan_hold_out
from blemish.methods import Method, find_method, list_methods
from blemish.modelfile import LeftOutImage, SeenImage, open_model_file
from blemish.nn.preparation import Preparation
from blemish.runtime import Detector
from blemish.training import Trainer, TrainingImages

KNOWN = "already_seen"


def extend(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str] | Dataset,
    out: str | os.PathLike[str],
    *,
    layout: str = "auto",
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    hold_out: float | None = None,
    folds: int | None = None,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Detector:
    """Add the good images of `source` to what `model` knows, and write the new detector to `out`.

    Method, settings, teacher, image contract and seed are the model's. Images that it was trained on
    are left out: they are in the bank, and would calibrate far too low.

    The detector is calibrated anew, on the new images alone: its scores are no longer those that the old calibration
    images got, and these images are not at hand to be scored again.

    Parameters
    ----------
    model : a model file of a method whose `extendable` is true.
    source, layout, hold_out, folds, device, weights, listener : as of `assembly.train`.
    false_alarm_rate, review_rate : as of `assembly.train`; None is their default, not the old model's.

    Raises
    ------
    BlemishError
        UsageError: the method cannot be extended. DataError: there are fewer than two new images. TeacherError: the
        teacher's weights are not those of the model. And what `assembly.train` raises.
    """
    listener = listener or Silent()
    file = open_model_file(model)
    manifest = file.manifest
    chosen = find_method(manifest.method)
    if not chosen.extendable:
        able = ", ".join(name for name, method in list_methods().items() if method.extendable)
        raise UsageError(
            f"a detector of method {chosen.name} cannot take more images",
            where=file.path,
            todo=f"Train anew on all images. Methods that can: {able}",
        )
    target = model_path(out)
    config, contract, seed = chosen.Config.model_validate(manifest.config), manifest.images, manifest.training.seed

    dataset = source if isinstance(source, Dataset) else open_dataset(source, layout)
    listener.say(dataset.note)
    admitted, left_out = admit(dataset, contract, listener)
    before = [image.model_copy(update={"role": "train"}) for image in manifest.training.images if "train" in image.role]
    admitted, known = without_known(admitted, before)
    if known:
        listener.say(f"{len(known)} of these images are left out: the model was trained on them.")
    if len(admitted) < 2:
        raise DataError(
            f"extending needs at least two new images and there are {len(admitted)}",
            where=dataset.root,
            todo="Images that the model was trained on do not count",
        )
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

    def started() -> Method:
        return restore(file, weights)

    trainer = Trainer(device, seed, None, listener.progress)
    preparation = Preparation(contract.low, contract.high, config.image_size)
    images = TrainingImages([image.sample.path for image in admitted], contract, preparation)
    trained = started()
    trainer.fit(trained, images.only(plan.train))
    record = training_record(dataset, admitted, [*left_out, *known], plan, seed, trainer, before=before)
    old = manifest.training
    note = f"{record.note} Added to {len(before)} images of {old.source} (fingerprint {old.fingerprint[:12]})."
    record = record.model_copy(update={"note": note})
    return deliver(target, trained, started, plan, images, record, trainer, listener)


def without_known(admitted: list[Admitted], seen: Sequence[SeenImage]) -> tuple[list[Admitted], list[LeftOutImage]]:
    """The images that are not among those `seen`, by content, and the others as left out."""
    known = {image.sha256 for image in seen}
    left_out = [
        LeftOutImage(path=image.name, reason=KNOWN, detail="the model that is extended was trained on it")
        for image in admitted
        if image.sha256 in known
    ]
    return [image for image in admitted if image.sha256 not in known], left_out
