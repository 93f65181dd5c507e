"""A detector in eight-bit integers, and the proof that it still decides alike.

Convolutions are computed in integers: weights with one scale per output channel, activations with one range per tensor,
seen on training images. What surrounds them (resizing, normalisation, distances, the map, the score) stays in float32.
So do convolutions that look at one channel at a time, which gain nothing and lose most, and the first one.

The threshold does not carry over from one arithmetic to another. So the images that calibrated the detector, known by
their sha256, calibrate the new graph again. They also say whether it is good enough: their order may hardly change, and
hardly one may change its verdict. Where too much changes, more of the layers nearest to the image return to float32;
where even that does not help, there is no int8 detector.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.console import Listener
from blemish.data import list_images
from blemish.decisions import Calibration, calibrate
from blemish.errors import DataError, ExportError, UsageError
from blemish.images import read
from blemish.modelfile import ModelFile, Quantisation, open_model_file, write
from blemish.runtime.graph import Graph, OnnxRuntimeGraph

SPEARMAN_LIMIT = 0.99
VERDICT_LIMIT = 0.02
RANGE_IMAGES = 32
FLOAT_SHARES = (0.0, 0.25, 0.5, 0.75)
"""Shares of the layers, counted from the image, that are tried in float32."""


def quantise(
    model: str | os.PathLike[str], images: str | os.PathLike[str], out: str | os.PathLike[str], listener: Listener
) -> Quantisation:
    """Write the int8 twin of a model file.

    Parameters
    ----------
    model : a model file whose calibration images were held out from training.
    images : a folder that holds the images it was trained and calibrated with, anywhere below.
    out : the new model file.

    Raises
    ------
    UsageError
        `model` is quantised already, or was calibrated by folds, whose scores no single graph can give again.
    DataError
        A calibration image is not below `images`, or no training image is.
    ExportError
        No int8 graph decides alike.
    """
    file = open_model_file(model)
    manifest = file.manifest
    if manifest.quantisation:
        raise UsageError("it is an int8 detector already", where=file.path)
    if manifest.calibration.kind != "split":
        raise UsageError(
            "it was calibrated by folds, so that an int8 graph cannot be calibrated again",
            where=file.path,
            todo="Train it with calibration images of their own: blemish train --hold-out 0.2",
        )
    calibrating, training = find_again(file, Path(images))
    listener.say(
        f"Found the {len(calibrating)} calibration images; ranges are taken from {len(training)} training images."
    )
    shown = [_pixels(path, file) for path in training]
    judged = [_pixels(path, file) for path in calibrating]
    exact, _ = scores(OnnxRuntimeGraph(file.graph), judged)
    closest: Quantisation | None = None
    for share in FLOAT_SHARES:
        content, layers, in_float = integer_graph(file.graph, shown, share)
        values, maxima = scores(OnnxRuntimeGraph(content), judged)
        calibration = calibrate(
            values, maxima, "split", manifest.calibration.false_alarm_rate, manifest.calibration.review_rate
        )
        made = Quantisation(
            layers=layers,
            float_layers=in_float,
            range_images=len(shown),
            spearman=spearman(exact, values),
            changed_verdicts=changed_verdicts(exact, manifest.calibration, values, calibration),
            source_sha256=file.sha256,
        )
        listener.say(
            f"{layers - in_float} of {layers} convolutions in integers: rank correlation {made.spearman:.4f}, "
            f"{made.changed_verdicts} of {len(judged)} verdicts changed."
        )
        if made.spearman >= SPEARMAN_LIMIT and made.changed_verdicts <= max(1, VERDICT_LIMIT * len(judged)):
            write(
                out,
                manifest.model_copy(update={"calibration": calibration, "quantisation": made}),
                content,
                file.weights(),
            )
            return made
        if closest is None or made.spearman > closest.spearman:
            closest = made
    assert closest is not None
    raise ExportError(
        f"in integers it decides otherwise: at best a rank correlation of {closest.spearman:.4f} with {SPEARMAN_LIMIT} "
        f"asked, and {closest.changed_verdicts} of {len(judged)} verdicts changed",
        where=file.path,
        todo="Use the float32 model file; OpenVINO often runs it faster: --runtime auto",
    )


def find_again(file: ModelFile, folder: Path) -> tuple[list[Path], list[Path]]:
    """The calibration images of a model file and up to 32 of its training images, found below a folder by sha256.

    Raises
    ------
    DataError
        Calibration images are missing, or all training images are.
    """
    there: dict[str, Path] = {}
    for path in list_images(folder).images:
        there.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    roles: dict[str, list[Path | None]] = {"train": [], "calibration": []}
    for image in file.manifest.training.images:
        roles[image.role].append(there.get(image.sha256))
    missing = roles["calibration"].count(None)
    if missing:
        raise DataError(
            f"{missing} of the {len(roles['calibration'])} images that calibrated {file.path.name} are not there",
            where=folder,
            todo=f"Give the folder it was trained on ({file.manifest.training.source}), with the same files",
        )
    training = [path for path in roles["train"] if path]
    if not training:
        raise DataError(f"none of the images that trained {file.path.name} is there", where=folder)
    spread = np.linspace(0, len(training) - 1, min(RANGE_IMAGES, len(training))).round().astype(int)
    return [path for path in roles["calibration"] if path], [training[i] for i in spread]


def integer_graph(graph: bytes, images: Sequence[NDArray[np.generic]], float_share: float) -> tuple[bytes, int, int]:
    """Quantise the convolutions of a graph.

    Parameters
    ----------
    graph : the bytes of a float32 graph.
    images : H x W x 3 each, whose activations give the ranges.
    float_share : share of the convolutions, in the order of the graph, that stays in float32.

    Returns
    -------
    The new graph's bytes, how many convolutions it has, and how many of them are in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            image = next(self._left, None)
            return None if image is None else {"image": image[None]}

    model = onnx.load_from_string(graph)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    leading = max(1, round(float_share * len(layers)))
    in_float = [node.name for i, node in enumerate(layers) if i < leading or _groups(node) > 1]
    with tempfile.TemporaryDirectory() as folder, quiet():
        target = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "ConvTranspose"],
            nodes_to_exclude=in_float,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(target)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    content: bytes = made.SerializeToString(deterministic=True)
    return content, len(layers), len(in_float)


def scores(graph: Graph, images: Sequence[NDArray[np.generic]]) -> tuple[list[float], list[float]]:
    """Score and largest map value of each image, H x W x 3."""
    answers = [graph.run(image[None]) for image in images]
    return [float(score[0]) for _, score in answers], [float(maps.max()) for maps, _ in answers]


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; 1 where there is nothing to rank (all are equal)."""
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else float((a == b).all())


def changed_verdicts(
    exact: Sequence[float], calibration: Calibration, values: Sequence[float], recalibrated: Calibration
) -> int:
    """How many images get another verdict from their new score and the new calibration."""
    pairs = zip(exact, values, strict=True)
    return sum(calibration.verdict(before) != recalibrated.verdict(after) for before, after in pairs)


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values)
    below = np.sort(array)
    return (np.searchsorted(below, array, "left") + np.searchsorted(below, array, "right")) / 2


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _pixels(path: Path, file: ModelFile) -> NDArray[np.generic]:
    return read(path, file.manifest.images)


@contextmanager
def quiet() -> Iterator[None]:
    """The quantiser talks of its own affairs through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
