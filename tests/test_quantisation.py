"""Detectors in eight-bit integers: close to their float32 twins, or not written at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.stats import spearmanr
from typer.testing import CliRunner

import blemish
from blemish import quantisation
from blemish.cli.app import app
from blemish.console import Silent
from blemish.errors import DataError, ExportError, UsageError
from blemish.images import read
from blemish.modelfile import open_model_file
from blemish.quantisation import integer_graph, quantise, spearman
from blemish.runtime.graph import OnnxRuntimeGraph, RuntimeName, installed_runtimes
from tiny import part


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the training images in `parts`, a detector and its int8 twin."""
    folder = tmp_path_factory.mktemp("quantisation")
    for number in range(60):
        # Rougher from part to part, so that scores lie apart and their order means something.
        rough = part(number) + np.random.default_rng(number).normal(0, number / 4, (72, 80, 3))
        (folder / "parts").mkdir(exist_ok=True)
        Image.fromarray(rough.clip(0, 255).astype(np.uint8)).save(folder / "parts" / f"{number:03}.png")
    settings = {"image_size": 64, "coreset": 0.1}
    blemish.train(folder / "parts", folder / "part.blemish", method="patchcore", settings=settings, hold_out=0.5)
    quantise(folder / "part.blemish", folder / "parts", folder / "int8.blemish", Silent())
    return folder


def test_the_twin_computes_in_integers_and_says_what_that_changed(made: Path) -> None:
    file = open_model_file(made / "int8.blemish")

    nodes = onnx.load_from_string(file.graph).graph.node
    stated = file.manifest.quantisation
    assert stated is not None
    weights = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    in_integers = [node for node in nodes if node.op_type == "Conv" and node.input[1] in weights]
    assert len(in_integers) == stated.layers - stated.float_layers > 0
    assert stated.source_sha256 == open_model_file(made / "part.blemish").sha256
    assert "int8" in CliRunner().invoke(app, ["info", str(made / "int8.blemish")], terminal_width=200).stdout


def test_its_threshold_rests_on_its_own_scores_of_the_calibration_images(made: Path) -> None:
    before, after = open_model_file(made / "part.blemish"), open_model_file(made / "int8.blemish")
    names = [image.path for image in before.manifest.training.images if image.role == "calibration"]
    assert len(names) == 30

    graph = OnnxRuntimeGraph(after.graph, 1)
    scores = sorted(float(graph.run(read(made / "parts" / n, after.manifest.images)[None])[1][0]) for n in names)

    assert after.manifest.calibration.scores == pytest.approx(scores, rel=1e-6)
    assert after.manifest.calibration.scores != before.manifest.calibration.scores
    assert after.manifest.calibration.false_alarm_rate == before.manifest.calibration.false_alarm_rate
    rank_correlation = after.manifest.quantisation.spearman  # type: ignore[union-attr]
    assert 0.99 <= rank_correlation <= 1


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_every_runtime_inspects_with_it(made: Path, runtime: RuntimeName) -> None:
    detector = blemish.load(made / "int8.blemish", threads=1, runtime=runtime)

    assert detector.inspect(part(500, defect=True)).verdict == "NG"
    assert detector.inspect(b"no image").verdict == "REJECTED"


def test_the_same_detector_gives_the_same_twin(made: Path) -> None:
    quantise(made / "part.blemish", made / "parts", made / "again.blemish", Silent())

    assert (made / "again.blemish").read_bytes() == (made / "int8.blemish").read_bytes()


def test_a_twin_that_decides_otherwise_is_not_written(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "SPEARMAN_LIMIT", 1.01)

    with pytest.raises(ExportError, match="decides otherwise: at best a rank correlation of 0"):
        quantise(made / "part.blemish", made / "parts", made / "none.blemish", Silent())
    assert not (made / "none.blemish").exists()


def test_all_calibration_images_must_be_there_whatever_they_are_called(made: Path, tmp_path: Path) -> None:
    file = open_model_file(made / "part.blemish")
    for number, image in enumerate(file.manifest.training.images):
        shutil.copy(made / "parts" / image.path, tmp_path / f"renamed {number}.png")
    calibrating, training = quantisation.find_again(file, tmp_path)
    assert (len(calibrating), len(training)) == (30, 30)

    calibrating[0].unlink()
    with pytest.raises(DataError, match="1 of the 30 images that calibrated"):
        quantise(made / "part.blemish", tmp_path, tmp_path / "none.blemish", Silent())


def test_what_cannot_be_quantised_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 detector already"):
        quantise(made / "int8.blemish", made / "parts", tmp_path / "none.blemish", Silent())

    blemish.train(made / "parts", tmp_path / "folds.blemish", method="padim", settings={"image_size": 64}, folds=2)
    with pytest.raises(UsageError, match="calibrated by folds"):
        quantise(tmp_path / "folds.blemish", made / "parts", tmp_path / "none.blemish", Silent())

    outcome = CliRunner().invoke(
        app, ["export", str(made / "part.blemish"), "--precision", "int4", "--calibrate", str(made), "--out", "x"]
    )
    assert "no precision 'int4'" in str(outcome.exception)


def test_layers_near_the_image_and_depthwise_ones_stay_in_float(made: Path) -> None:
    file = open_model_file(made / "part.blemish")
    image = read(made / "parts" / "000.png", file.manifest.images)

    counts = []
    for share in (0.0, 0.5):
        content, layers, in_float = integer_graph(file.graph, [image], share)
        nodes = onnx.load_from_string(content).graph.node
        integers = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
        convolutions = [node for node in nodes if node.op_type == "Conv"]
        quantised = [node.input[1] in integers for node in convolutions]
        groups = [next((a.i for a in node.attribute if a.name == "group"), 1) for node in convolutions]
        assert len(convolutions) == layers
        assert quantised.count(False) == in_float
        assert not any(q for q, g in zip(quantised, groups, strict=True) if g > 1)
        assert not quantised[0]
        counts.append(in_float)
    assert counts[0] < counts[1]


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, 20)).astype(float)

    assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0])


def test_rank_correlation_of_constants() -> None:
    assert spearman([1, 1, 1], [2, 2, 2]) == 1
    assert spearman([1, 2, 3], [2, 2, 2]) == 0
