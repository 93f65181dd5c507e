"""The model file: `NAME.blemish`, one zip that holds everything a detector is.

manifest.json         what it is, how it was made, what it accepts, how it decides
model.onnx            the graph: decoded image in, anomaly map and score out
weights.safetensors   what training learned, for resuming and exporting anew
sha256.json           the sha256 of the other three, checked whenever the file is opened

Nothing is pickled, nothing is executed, no network is touched. The same training gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish.decisions import Calibration
from blemish.errors import ModelFileError
from blemish.images import ImageContract

FORMAT: Final = 1
SUFFIX = ".blemish"
MANIFEST, GRAPH, WEIGHTS, DIGESTS = "manifest.json", "model.onnx", "weights.safetensors", "sha256.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TeacherInfo(_Record):
    """What a teacher is.

    backbone : timm's name. channels, strides : of each level, finest first.
    mean, std : normalisation of the [0, 1] image, per channel.
    source : in words where the weights came from; sha256 : of that file.
    """

    name: str
    backbone: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    source: str
    sha256: str


class SeenImage(_Record):
    """An image that training used: `role` says for what. `path` is relative to the source."""

    path: str
    sha256: str
    role: Literal["train", "calibration", "train and calibration"]


class LeftOutImage(_Record):
    """An image of the source that could not be used, and why."""

    path: str
    reason: str
    detail: str


class TrainingRecord(_Record):
    """How a detector was trained.

    fingerprint : sha256 over the names, contents and roles of the images.
    choice : why the method was taken, where it was left to Blemish.
    """

    source: str
    layout: str
    note: str
    fingerprint: str
    images: tuple[SeenImage, ...]
    left_out: tuple[LeftOutImage, ...]
    seed: int
    device: str
    versions: dict[str, str]
    choice: str | None = None


class SuspiciousImage(_Record):
    """How suspicious an image is that training or calibration used.

    path : as in the training record. score : the method's. z : where it stands among all, in robust standard
        deviations. suspect : whether that is beyond the limit.
    """

    path: str
    score: float
    z: float
    suspect: bool


class Suspicion(_Record):
    """Which images may be bad parts. `limit` : the score above which an image is a suspect."""

    limit: float
    images: tuple[SuspiciousImage, ...]

    @property
    def ranked(self) -> list[SuspiciousImage]:
        """All images, the most suspicious first."""
        return sorted(self.images, key=lambda image: (-image.score, image.path))

    @property
    def suspects(self) -> list[SuspiciousImage]:
        """The suspects, the most suspicious first."""
        return [image for image in self.ranked if image.suspect]


class Parity(_Record):
    """How well graph and torch agreed when the graph was exported (the gate is 1e-3 for scores)."""

    images: int
    batch_sizes: tuple[int, ...]
    largest_score_difference: float
    largest_map_difference: float


class Quantisation(_Record):
    """How the graph was turned to eight-bit integers, and what that changed on the calibration images.

    layers : convolutions of the graph; float_layers : those of them that stayed in float32. range_images : training
        images that gave the ranges. spearman : rank correlation of the scores before and after. changed_verdicts : of
        the calibration images. source_sha256 : of the float32 model file.
    """

    layers: int
    float_layers: int
    range_images: int
    spearman: float
    changed_verdicts: int
    source_sha256: str


class Manifest(_Record):
    """What manifest.json holds.

    quantisation : None where the graph is in float32, as training exports it. suspicion : None where the method does
        not say.
    """

    format: Literal[1] = FORMAT
    blemish: str
    method: str
    method_title: str
    config: dict[str, Any]
    teacher: TeacherInfo
    images: ImageContract
    calibration: Calibration
    training: TrainingRecord
    parity: Parity
    quantisation: Quantisation | None = None
    suspicion: Suspicion | None = None


class ModelFile:
    """An opened model file, its digests checked.

    Attributes
    ----------
    path, manifest : as they are. graph : the bytes of model.onnx. sha256 : of the whole file.
    """

    def __init__(self, path: Path, manifest: Manifest, graph: bytes, sha256: str) -> None:
        self.path = path
        self.manifest = manifest
        self.graph = graph
        self.sha256 = sha256

    def weights(self) -> bytes:
        """The bytes of weights.safetensors, read and checked anew: they are not kept, most callers never need them.

        Large tensors that are constants of the graph are not among them; `export.unpack_learned` gives all.

        Raises
        ------
        ModelFileError
            The file was moved or changed since it was opened.
        """
        return _checked_members(self.path)[WEIGHTS]


def write(path: str | os.PathLike[str], manifest: Manifest, graph: bytes, weights: bytes) -> None:
    """Write a model file; an existing one is replaced whole or not at all.

    Raises
    ------
    ModelFileError
        It cannot be written there.
    """
    members = {
        MANIFEST: (manifest.model_dump_json(indent=2) + "\n").encode(),
        GRAPH: graph,
        WEIGHTS: weights,
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    members[DIGESTS] = (json.dumps(digests, indent=2) + "\n").encode()
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                # A fixed date, so that the same content is the same file.
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ModelFileError(f"it cannot be written: {error.strerror}", where=target) from error


def open_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Open and check a model file.

    Raises
    ------
    ModelFileError
        Not found, not a model file, damaged, changed after it was written, or of a newer format.
    """
    target = Path(path)
    members = _checked_members(target)
    manifest = _parse_manifest(members[MANIFEST], target)
    with target.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    return ModelFile(target, manifest, members[GRAPH], sha256)


def _checked_members(target: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(target) as archive:
            return _read_members(archive, target)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError("there is no such file", where=target, todo="`blemish train` makes one") from None
    except (IsADirectoryError, PermissionError) as error:
        raise ModelFileError(f"it cannot be read: {error.strerror}", where=target) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise ModelFileError(
            "it is not a Blemish model file, or it is damaged", where=target, todo="Copy or train it again"
        ) from error


def _read_members(archive: zipfile.ZipFile, target: Path) -> dict[str, bytes]:
    names = archive.namelist()
    if sorted(names) != sorted([MANIFEST, GRAPH, WEIGHTS, DIGESTS]):
        raise ModelFileError("it is not a Blemish model file: its members are not those of one", where=target)
    for info in archive.infolist():
        # Stored, not compressed: a few bytes cannot claim gigabytes of memory.
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ModelFileError(f"its member {info.filename} is not stored as Blemish stores it", where=target)
    members = {name: archive.read(name) for name in names}
    try:
        digests: Mapping[str, str] = json.loads(members[DIGESTS])
        wrong = [n for n in (MANIFEST, GRAPH, WEIGHTS) if hashlib.sha256(members[n]).hexdigest() != digests[n]]
    except (ValueError, KeyError, TypeError):
        wrong = [DIGESTS]
    if wrong:
        raise ModelFileError(
            f"its member {wrong[0]} is not what was written: the sha256 differs",
            where=target,
            todo="The file was changed or damaged; take it from its source again",
        )
    return members


def _parse_manifest(content: bytes, target: Path) -> Manifest:
    try:
        stated = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError("its manifest is not JSON", where=target) from error
    if stated != FORMAT:
        raise ModelFileError(
            f"it is of format {stated}, this Blemish reads format {FORMAT}",
            where=target,
            todo="Install a newer Blemish, or train it again",
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelFileError(f"its manifest is wrong at {place}: {first['msg']}", where=target) from error
