"""A patch description network (PDN) distilled from a teacher on any folder of images, for EfficientAD to stand on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

from blemish import __version__
from blemish.admission import base_contract
from blemish.assembly import Preset, build, configure
from blemish.console import Listener, Silent
from blemish.data import list_images
from blemish.errors import DataError, ImageError, TrainingError, UsageError
from blemish.images import read
from blemish.methods.describing import Describing, DescribingConfig
from blemish.nn.preparation import Preparation
from blemish.teachers import DEFAULT_TEACHER
from blemish.training import RunFolder, Trainer, TrainingImages

HELD_OUT = 10
"""Every tenth image is not learned from; it says how well the PDN describes what it has not seen."""


class PatchDescription(Describing):
    """The PDN alone."""

    name: ClassVar = "pdn"
    title: ClassVar = "Patch description network of EfficientAD"
    Config: ClassVar = DescribingConfig
    fast: ClassVar = {"image_size": 128, "steps": 300, "batch_size": 4, "learning_rate": 1e-3}


def distil(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    teacher: str = DEFAULT_TEACHER,
    preset: Preset = "auto",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> float:
    """Distil a PDN from `teacher` on the images below `source`, and write it to `out`, a .safetensors file.

    A run that was killed goes on where it was when the same call is made again.

    Returns
    -------
    The part of the teacher's variance that the PDN does not explain on images that it has not seen (every tenth), from
    0; 1 is as good as their mean.

    Raises
    ------
    UsageError, DataError, TeacherError, TrainingError
    """
    listener = listener or Silent()
    target = Path(out)
    if target.suffix != ".safetensors":
        raise UsageError("a PDN is a .safetensors file", where=target, todo="Name it so: --out pdn.safetensors")
    here = Trainer(device, seed, None, listener.progress).fabric.device.type
    config = configure(PatchDescription, preset, settings or {}, here, listener)
    assert isinstance(config, DescribingConfig)
    paths, digests = readable(Path(source), listener)
    pyramid = PatchDescription.open_teacher(teacher, config, weights)
    stated = {
        "size": config.size,
        "teacher": pyramid.info.name,
        "teacher_sha256": pyramid.info.sha256,
        "config": config.model_dump(mode="json"),
        "images": len(paths),
        "images_sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "seed": seed,
        "blemish": __version__,
    }
    fingerprint = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
    folder = RunFolder(target.with_name(target.name + ".training"), fingerprint)
    saved = folder.load()
    if saved:
        listener.say(f"Going on where this distillation stopped: stage {saved.stage + 1}, step {saved.step}.")
    described = build(PatchDescription, config, pyramid, seed)
    assert isinstance(described, PatchDescription)
    contract = base_contract("uint8", None)
    preparation = Preparation(contract.low, contract.high, config.image_size)
    learned = [path for i, path in enumerate(paths) if i % HELD_OUT]
    Trainer(device, seed, folder, listener.progress).fit(described, TrainingImages(learned, contract, preparation))
    unexplained = unexplained_variance(described, TrainingImages(paths[::HELD_OUT], contract, preparation))
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in described.pdn.state_dict().items()},
            target,
            {"blemish.pdn": json.dumps({**stated, "unexplained_variance": unexplained})},
        )
    except OSError as error:
        raise TrainingError(f"it cannot be written: {error.strerror}", where=target) from error
    folder.remove()
    listener.say(
        f"Wrote {target}. On {len(paths[::HELD_OUT])} images that it has not seen, it leaves {unexplained:.0%} of the "
        "teacher's variance unexplained."
    )
    return unexplained


def readable(source: Path, listener: Listener) -> tuple[list[Path], list[str]]:
    """The images below a folder that can be read, and their sha256; the others are named and left out.

    Raises
    ------
    DataError
        There are fewer than two.
    """
    contract = base_contract("uint8", None)
    paths, digests = [], []
    found: Sequence[Path] = list_images(source).images if source.is_dir() else ()
    for done, path in enumerate(found, 1):
        try:
            read(path, contract)
        except ImageError as error:
            listener.warn(f"{path} is left out ({error.reason.value}): {error.what}.")
        else:
            paths.append(path)
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        listener.progress("reading images", done / len(found))
    if len(paths) < 2:
        raise DataError(
            f"distilling needs at least two images that can be read, and there are {len(paths)}",
            where=source,
            todo="Name a folder of images; thousands, of many things, are best",
        )
    return paths, digests


def unexplained_variance(described: PatchDescription, images: TrainingImages) -> float:
    """Mean squared distance of the PDN to its targets over the targets' variance, over all channels."""
    distance = total = 0.0
    count = 0
    mean = torch.zeros(1)
    with torch.inference_mode():
        for image in images.batches(range(len(images)), 1):
            target = described.targets(described.teacher(image)).double()
            distance += float((described.pdn(described.centred(image)) - target).square().sum())
            total += float(target.square().sum())
            mean = mean + target.sum((0, 2, 3))
            count += target[:, 0].numel()
    return distance / (total - float(mean.square().sum()) / count)
