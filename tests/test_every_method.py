"""What must hold of every method. A method that is registered later is tested here without a change.

Each is trained once, on eight small images; what it is called makes no difference to any test.
"""

from __future__ import annotations

import math
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load, save

import blemish
from blemish import __version__
from blemish.assembly import build, train
from blemish.export import PARITY_BATCHES, PARITY_LIMIT, InspectionNetwork, check_parity, export_graph, unpack_learned
from blemish.images import ImageContract
from blemish.methods import Method, list_methods
from blemish.modelfile import open_model_file
from blemish.nn.preparation import Preparation
from blemish.runtime import Detector, Verdict
from blemish.runtime import load as load_detector
from blemish.runtime.graph import OnnxRuntimeGraph
from blemish.training import RunFolder, Trainer, TrainingImages, trainer
from several import Learned, apart, by_one, by_several, started
from tiny import SIZE, config_for, make_parts, part, settings_for, teacher
from tiny import one_thread as one_thread  # applies to this module

NOT_RANDOM: frozenset[str] = frozenset({"spade"})
"""Methods that draw nothing at random: every seed gives the same."""

SAME_LOSSES = 2e-3
SAME_MAPS = 0.05
"""What two processes may differ by from one: a loss in parts of itself, a map in parts of how far training took it."""

PREPARATION = Preparation(0, 255, SIZE)


@dataclass(frozen=True)
class Trained:
    """A method, trained twice on the same eight images: by `blemish.train`, and by the trainer alone."""

    method: type[Method]
    source: Path
    file: Path
    detector: Detector
    fitted: Method

    @cached_property
    def network(self) -> InspectionNetwork:
        """What the model file's graph was made from."""
        method = untrained(self.method, seed=0)
        method.load_learned_state(unpack_learned(open_model_file(self.file)))
        return InspectionNetwork(method, PREPARATION).eval()


def quiet(stage: str, done: float, note: str = "") -> None:
    """A progress that nobody watches."""


def untrained(method: type[Method], seed: int) -> Method:
    config = config_for(method)
    return build(method, config, teacher(config.strides), seed)


def files_of(folder: Path, contract: ImageContract | None = None) -> TrainingImages:
    return TrainingImages(sorted(folder.iterdir())[:8], contract or ImageContract(), PREPARATION)


def fit(method: type[Method], images: TrainingImages, seed: int = 0) -> Method:
    fresh = untrained(method, seed)
    Trainer("cpu", seed, None, quiet).fit(fresh, images)
    return fresh


def train_tiny(method: type[Method], source: Path, out: Path) -> Detector:
    """Of eleven images, eight train and three calibrate."""
    settings = settings_for(method)
    return train(source, out, method=method.name, preset="paper", settings=settings, hold_out=0.25, device="cpu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("line") / "parts", 11)


@pytest.fixture(scope="module", params=list_methods().values(), ids=list(list_methods()))
def trained(request: pytest.FixtureRequest, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    method: type[Method] = request.param
    file = tmp_path_factory.mktemp(method.name) / "part.blemish"
    detector = train_tiny(method, parts, file)
    return Trained(method, parts, file, detector, fit(method, files_of(parts)))


def batch(n: int, seed: int = 0) -> torch.Tensor:
    """Parts as a network sees them, n x 3 x SIZE x SIZE in [0, 1]."""
    pictures = torch.from_numpy(np.stack([part(100 + seed + i) for i in range(n)]))
    prepared: torch.Tensor = PREPARATION(pictures)
    return prepared


def png(image: NDArray[Any]) -> bytes:
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def relative(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference, of the largest value."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


# Training.


def test_it_fits_eight_small_images(trained: Trained) -> None:
    assert not trained.fitted.training
    state = trained.fitted.learned_state()
    assert state
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert not any(name.startswith("teacher.") for name in state)


def test_training_changes_what_it_says(trained: Trained) -> None:
    with torch.inference_mode():
        before = untrained(trained.method, seed=0).eval()(batch(2)).map
        after = trained.fitted(batch(2)).map
    assert not torch.allclose(before, after)


def test_the_same_seed_gives_the_same_file(trained: Trained, tmp_path: Path) -> None:
    elsewhere = tmp_path / "far" / "away" / "parts"
    shutil.copytree(trained.source, elsewhere)
    again = tmp_path / "again.blemish"
    train_tiny(trained.method, elsewhere, again)
    assert again.read_bytes() == trained.file.read_bytes()


def test_another_seed_gives_another_method(trained: Trained) -> None:
    other = fit(trained.method, files_of(trained.source), seed=1)
    assert (save(other.learned_state()) == save(trained.fitted.learned_state())) == (trained.method.name in NOT_RANDOM)


def test_what_was_learned_survives_a_file(trained: Trained) -> None:
    fresh = untrained(trained.method, seed=7)
    fresh.load_learned_state(load(save(trained.fitted.learned_state())))
    with torch.inference_mode():
        wanted, got = trained.fitted(batch(2)), fresh.eval()(batch(2))
    assert torch.equal(wanted.map, got.map)
    assert torch.equal(wanted.score, got.score)


class Killed(BaseException):
    """Stands for the end of the process."""


def dies_after(calls: int) -> Callable[..., None]:
    called = count(1)

    def progress(stage: str, done: float, note: str = "") -> None:
        if next(called) == calls:
            raise Killed

    return progress


def test_killed_again_and_again_it_ends_with_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1)
    folder = RunFolder(tmp_path / "run", "this one")
    killed = 0
    while True:
        method = untrained(trained.method, seed=0)
        try:
            # Every run gets a little further than the one before.
            Trainer("cpu", 0, folder, dies_after(killed + 1)).fit(method, files_of(trained.source))
            break
        except Killed:
            killed += 1
    assert killed >= 2
    assert save(method.learned_state()) == save(trained.fitted.learned_state())


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, parts: Path) -> dict[str, Learned]:
    """What two processes learn together of seven images, so that parts are not equal: of each method that is tested."""
    asked = (getattr(item, "callspec", None) for item in request.session.items)
    names = {call.params["trained"].name for call in asked if call and "trained" in call.params}
    return by_several(tuple(sorted(names)), seven(parts), 2)


def seven(parts: Path) -> TrainingImages:
    return TrainingImages(sorted(parts.iterdir())[:7], ImageContract(), PREPARATION)


def test_two_processes_learn_what_one_does(
    trained: Trained, together: dict[str, Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = trained.method.name
    monkeypatch.setattr(trainer, "mixed_precision", lambda _: "32-true")
    losses, alone = by_one(name, seven(trained.source))
    losses_of_two, shared = together[name]
    assert losses_of_two == pytest.approx(losses, rel=SAME_LOSSES)
    shapes = {key: tensor.shape for key, tensor in alone.learned_state().items()}
    assert {key: tensor.shape for key, tensor in shared.learned_state().items()} == shapes
    with torch.inference_mode():
        before, wanted, got = (method.eval()(batch(3)) for method in (started(name), alone, shared))
    limit = SAME_MAPS if losses else 1e-4
    assert apart(got.map, wanted.map, before.map) < limit
    assert apart(got.score, wanted.score, before.score) < limit


def test_it_learns_from_grey_images(trained: Trained, tmp_path: Path) -> None:
    images = files_of(make_parts(tmp_path / "grey", 8, grey=True), ImageContract(colour="grey"))
    fitted = fit(trained.method, images)
    with torch.inference_mode():
        answer = fitted(batch(1))
    assert answer.map.isfinite().all()
    assert answer.score.isfinite().all()


# The map.


def test_map_and_score_have_their_shapes(trained: Trained) -> None:
    with torch.inference_mode():
        answer = trained.fitted(batch(2))
    assert answer.map.shape == (2, SIZE, SIZE)
    assert answer.score.shape == (2,)
    assert answer.map.dtype == answer.score.dtype == torch.float32
    assert answer.map.isfinite().all()
    assert answer.score.isfinite().all()


def test_an_image_is_mapped_alike_alone_and_in_a_batch(trained: Trained) -> None:
    with torch.inference_mode():
        together = trained.fitted(batch(3))
        alone = [trained.fitted(image[None]) for image in batch(3)]
    assert relative(torch.cat([a.map for a in alone]).numpy(), together.map.numpy()) < 1e-5
    assert relative(torch.cat([a.score for a in alone]).numpy(), together.score.numpy()) < 1e-5


def test_the_graph_maps_an_image_alike_alone_and_in_a_batch(trained: Trained) -> None:
    pictures = np.stack([part(100 + i) for i in range(3)])
    maps, scores = trained.detector.graph.run(pictures)
    for i in range(3):
        anomaly_map, score = trained.detector.graph.run(pictures[i : i + 1])
        assert relative(anomaly_map[0], maps[i]) < 1e-5
        assert relative(score, scores[i : i + 1]) < 1e-5


@pytest.mark.parametrize("shape", [(90, 61), (64, 64), (41, 150)])
def test_the_graph_agrees_with_torch_at_other_sizes(trained: Trained, shape: tuple[int, int]) -> None:
    pictures = np.stack([part(100 + i, shape, defect=i == 1) for i in range(2)])
    with torch.inference_mode():
        wanted_maps, wanted_scores = (tensor.numpy() for tensor in trained.network(torch.from_numpy(pictures)))
    maps, scores = trained.detector.graph.run(pictures)
    assert maps.shape == wanted_maps.shape == (2, *shape)
    assert relative(maps, wanted_maps) < PARITY_LIMIT
    assert np.abs(scores / wanted_scores - 1).max() < PARITY_LIMIT


def test_the_fast_preset_gives_a_graph_too(trained: Trained) -> None:
    config = trained.method.Config.model_validate(trained.method.fast | settings_for(trained.method))
    if config == config_for(trained.method):
        return
    method = build(trained.method, config, teacher(config.strides), seed=0)
    Trainer("cpu", 0, None, quiet).fit(method, files_of(trained.source))
    graph = OnnxRuntimeGraph(export_graph(method, PREPARATION, ImageContract()))
    assert check_parity(graph, method, PREPARATION, [part(100 + i) for i in range(3)]).images == 3


def test_the_graph_says_what_it_is(trained: Trained) -> None:
    model = onnx.load_from_string(open_model_file(trained.file).graph)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["blemish.method"] == trained.method.name
    assert facts["blemish.teacher"] == "tf_efficientnet_lite0"
    assert ImageContract.model_validate_json(facts["blemish.images"]) == open_model_file(trained.file).manifest.images
    assert (model.producer_name, model.producer_version) == ("blemish", blemish.__version__)


def test_the_file_says_how_well_the_graph_agrees(trained: Trained) -> None:
    parity = open_model_file(trained.file).manifest.parity
    assert parity.images == 3
    assert parity.batch_sizes == PARITY_BATCHES == (1, 3)
    assert 0 <= parity.largest_score_difference < PARITY_LIMIT
    assert 0 <= parity.largest_map_difference < PARITY_LIMIT


# Inspecting.


def test_it_inspects_an_image_however_it_is_given(trained: Trained, tmp_path: Path) -> None:
    image = part(100)
    path = tmp_path / "new.png"
    path.write_bytes(png(image))
    ways: list[Any] = [path, str(path), png(image), image]
    inspections = [trained.detector.inspect(way) for way in ways]
    assert [one.path for one in inspections] == [str(path), str(path), None, None]
    for one in inspections:
        assert one.verdict in (Verdict.OK, Verdict.REVIEW, Verdict.NG)
        assert one.anomaly_map is not None
        assert one.mask is not None
        assert one.anomaly_map.dtype == np.float32
        assert one.anomaly_map.shape == one.mask.shape == image.shape[:2]
        assert np.isfinite(one.anomaly_map).all()
        assert one.score is not None
        assert math.isfinite(one.score)
        assert one.p_value in [k / 4 for k in (1, 2, 3, 4)]
        assert one.score == inspections[0].score
        assert np.array_equal(one.anomaly_map, inspections[0].anomaly_map)


def test_it_inspects_images_of_several_sizes_in_one_call(trained: Trained) -> None:
    shapes = [(72, 80), (50, 120), (100, 45), (72, 80)]
    inspections = trained.detector.inspect([part(100, shape) for shape in shapes])
    assert [one.anomaly_map.shape for one in inspections if one.anomaly_map is not None] == shapes
    assert inspections[0].score == inspections[3].score


def test_the_file_opens_as_the_detector_that_wrote_it(trained: Trained) -> None:
    opened = load_detector(trained.file)
    assert opened.manifest == trained.detector.manifest
    wanted, got = trained.detector.inspect(part(100)), opened.inspect(part(100))
    assert (got.score, got.p_value, got.verdict, got.regions) == (
        wanted.score,
        wanted.p_value,
        wanted.verdict,
        wanted.regions,
    )


def refusals() -> list[Any]:
    good = part(100)
    cases: list[tuple[str, Any, str]] = [
        ("no image", good[0, :, 0], "wrong_shape"),
        ("two channels", good[..., :2], "wrong_shape"),
        ("a batch", good[None], "wrong_shape"),
        ("empty", good[:0], "wrong_shape"),
        ("16-bit", good.astype(np.uint16), "wrong_depth"),
        ("float", good / 255, "wrong_depth"),
        ("tiny", part(100, (72, 20)), "wrong_size"),
        ("huge", part(100, (72, 200)), "wrong_size"),
        ("grey", good[..., 0], "wrong_colour"),
        ("text", b"a good part", "unreadable"),
        ("cut off", png(good)[:-200], "truncated"),
        ("nothing", b"", "truncated"),
    ]
    return [pytest.param(image, reason, id=name) for name, image, reason in cases]


@pytest.mark.parametrize(("image", "reason"), refusals())
def test_it_refuses_what_it_was_not_trained_on(trained: Trained, image: Any, reason: str) -> None:
    refused, judged = trained.detector.inspect([image, part(100)])
    assert (refused.verdict, refused.reason) == (Verdict.REJECTED, reason)
    assert (refused.score, refused.p_value, refused.anomaly_map, refused.regions) == (None, None, None, ())
    assert judged.verdict is not Verdict.REJECTED


def test_it_refuses_what_is_not_a_number(trained: Trained) -> None:
    contract = ImageContract(depth="float32", low=0, high=1)
    graph = OnnxRuntimeGraph(export_graph(trained.fitted, Preparation(0, 1, SIZE), contract))
    detector = Detector(graph, contract, trained.detector.calibration)
    good = (part(100) / 255).astype(np.float32)
    wrong = []
    for value in (math.nan, math.inf, -math.inf):
        wrong.append(good.copy())
        wrong[-1][30, 40, 1] = value
    refused = detector.inspect(wrong)
    assert [(one.verdict, one.reason) for one in refused] == [(Verdict.REJECTED, "not_finite")] * 3
    beyond = detector.inspect([good * 2, good - 1])
    assert [(one.verdict, one.reason) for one in beyond] == [(Verdict.REJECTED, "out_of_range")] * 2
    with torch.inference_mode():
        wanted = float(trained.fitted(batch(1)).score)
    assert detector.inspect(good).score == pytest.approx(wanted, rel=PARITY_LIMIT)


# The model file.


def test_the_manifest_is_complete(trained: Trained) -> None:
    file = open_model_file(trained.file)
    manifest = file.manifest
    assert manifest.blemish == __version__
    assert (manifest.method, manifest.method_title) == (trained.method.name, trained.method.title)
    assert trained.method.Config.model_validate(manifest.config) == config_for(trained.method)
    assert manifest.teacher == teacher(config_for(trained.method).strides).info
    assert len(manifest.teacher.sha256) == 64
    assert manifest.teacher.licence
    assert manifest.images == ImageContract(colour="rgb", width=(40, 160), height=(36, 144))

    training = manifest.training
    assert (training.source, training.layout, training.seed, training.left_out) == ("parts", "folder", 0, ())
    assert training.note
    assert training.device.startswith("cpu")
    assert {"python", "torch", "onnxruntime", "numpy", "pillow"} <= training.versions.keys()
    assert len(training.fingerprint) == 64
    assert [image.path for image in training.images] == sorted(p.name for p in trained.source.iterdir())
    assert len({image.sha256 for image in training.images}) == 11
    roles = [image.role for image in training.images]
    assert (roles.count("train"), roles.count("calibration")) == (8, 3)

    calibration = manifest.calibration
    assert (calibration.kind, calibration.n, len(calibration.map_maxima)) == ("split", 3, 3)
    assert calibration.false_alarm_rate == calibration.smallest_rate == 1 / 4
    held = [trained.source / image.path for image in training.images if image.role == "calibration"]
    scores = sorted(one.score for one in trained.detector.inspect(held) if one.score is not None)
    assert scores == pytest.approx(calibration.scores, rel=1e-5)


def test_the_file_does_not_say_where_it_was_made(trained: Trained) -> None:
    places = [trained.file.parent, trained.source.parent, Path(__file__).parents[1], Path.home(), Path(sys.prefix)]
    # A host and a home may be called anything; a short name would be found by chance.
    names = [name for name in [*map(str, places), socket.gethostname()] if len(name) > 4]
    with zipfile.ZipFile(trained.file) as archive:
        for member in archive.namelist():
            content = archive.read(member)
            assert not [name for name in names if name.encode() in content], member


def test_the_weights_are_what_was_learned(trained: Trained) -> None:
    weights = unpack_learned(open_model_file(trained.file))
    wanted = trained.fitted.detector_state()
    assert weights.keys() == wanted.keys()
    assert all(weights[name].shape == wanted[name].shape for name in wanted)
    assert all(tensor.isfinite().all() for tensor in weights.values())
