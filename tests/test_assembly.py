from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from blemish.admission import base_contract
from blemish.assembly import configure, model_path, train
from blemish.console import Silent
from blemish.data import Label, Sample, open_dataset
from blemish.delivery import checked_calibration, score_by_folds
from blemish.errors import DataError, ExportError, TeacherError, TrainingError, UsageError
from blemish.evaluation import evaluate
from blemish.export import InspectionNetwork, check_parity, export_graph
from blemish.holdout import FEW_IMAGES, FOLDS, Plan, plan_hold_out
from blemish.images import ImageContract
from blemish.methods import AnomalyMap, Method, MethodConfig, PassStage, find_method
from blemish.modelfile import Parity, open_model_file
from blemish.nn.preparation import Preparation
from blemish.runtime import Detector, Verdict
from blemish.runtime import load as load_detector
from blemish.runtime.graph import Graph
from blemish.teachers import FeaturePyramid
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, make_parts, part
from tiny import one_thread as one_thread  # applies to this module

Floats = NDArray[np.float32]

CHEAP, COSTLY = find_method("padim"), find_method("rd")
TINY: dict[str, Any] = {
    "method": "padim",
    "settings": {"image_size": SIZE, "features": 10},
    "hold_out": 0.25,
    "device": "cpu",
}


class Notes(Silent):
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def listed(labels: Sequence[Label | None]) -> list[Sample]:
    """Samples, one a label; there are no files."""
    return [Sample(Path(f"{i}.png"), label, "train", "") for i, label in enumerate(labels)]


def plan_for(n: int, method: type[Method] = COSTLY, rate: float | None = None, hold_out: float | None = None) -> Plan:
    return plan_hold_out(
        listed(["normal"] * n), cheap_to_fit=method.cheap_to_fit, seed=0, false_alarm_rate=rate, hold_out=hold_out
    )


# Which images calibrate.


@pytest.mark.parametrize(("n", "held"), [(2, 1), (3, 1), (5, 1), (6, 2), (50, 10), (99, 20), (100, 20), (1000, 200)])
def test_a_fifth_calibrates(n: int, held: int) -> None:
    plan = plan_for(n)
    assert plan.kind == "split"
    assert len(plan.calibration) == held
    assert sorted(plan.train + plan.calibration) == list(range(n))


@pytest.mark.parametrize(("rate", "held"), [(0.05, 20), (0.04, 24), (0.02, 49)])
def test_a_rate_takes_what_it_needs_up_to_half(rate: float, held: int) -> None:
    plan = plan_for(100, rate=rate)
    assert len(plan.calibration) == held
    assert sorted(plan.train + plan.calibration) == list(range(100))


@pytest.mark.parametrize("method", [COSTLY, CHEAP])
@pytest.mark.parametrize("hold_out", [None, 0.3])
@pytest.mark.parametrize("rate", [0.05, 0.01, 0.009, 0.004])
def test_a_rate_out_of_reach_says_how_many_images_it_takes(
    method: type[Method], hold_out: float | None, rate: float
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_for(10, method, rate, hold_out)
    stated = re.search(r"at least (\d+) images", str(caught.value))
    assert stated
    enough = int(stated[1])
    assert f"takes {round(1 / rate + 0.49) - 1} calibration images" in str(caught.value)
    assert plan_for(enough, method, rate, hold_out)
    if hold_out is None:
        with pytest.raises(UsageError):
            plan_for(enough - 1, method, rate)


def test_a_rate_out_of_reach_says_which_one_is_reached() -> None:
    with pytest.raises(UsageError, match=r"99 calibration images and 50 can be held out; .* is 1/\(50\+1\) = 0.0196"):
        plan_for(100, rate=0.01)
    assert plan_for(100, rate=1 / 51)


@pytest.mark.parametrize("rate", [-0.1, 0, 1, 5, float("nan")])
@pytest.mark.parametrize("method", [COSTLY, CHEAP])
def test_a_rate_that_is_no_share_is_refused(rate: float, method: type[Method]) -> None:
    with pytest.raises(UsageError, match="--false-alarm-rate: it lies between 0 and 1"):
        plan_for(50, method, rate=rate)


@pytest.mark.parametrize("share", [-0.1, 0, 1, 5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="--hold-out: it lies between 0 and 1"):
        plan_for(50, hold_out=share)


@pytest.mark.parametrize(("share", "held"), [(0.01, 1), (0.3, 15), (0.9, 45), (0.999, 49)])
def test_the_share_asked_for_calibrates_and_one_image_always_trains(share: float, held: int) -> None:
    for method in (CHEAP, COSTLY):
        plan = plan_for(50, method, hold_out=share)
        assert (plan.kind, len(plan.calibration), len(plan.train)) == ("split", held, 50 - held)


def test_few_images_calibrate_by_folds_where_fitting_is_cheap() -> None:
    every = tuple(range(FEW_IMAGES - 1))
    assert plan_for(FEW_IMAGES - 1, CHEAP) == Plan("cross", every, every, FOLDS)
    assert plan_for(FEW_IMAGES - 1, CHEAP, rate=0.0101) == Plan("cross", every, every, FOLDS, 0.0101)
    assert plan_for(FEW_IMAGES, CHEAP).kind == "split"
    assert plan_for(FEW_IMAGES - 1, COSTLY).kind == "split"


def test_folds_can_be_asked_for_where_fitting_is_cheap() -> None:
    samples = listed(["normal"] * 300)
    every = tuple(range(300))
    plan = plan_hold_out(samples, cheap_to_fit=True, seed=0, false_alarm_rate=0.004, folds=3)
    assert plan == Plan("cross", every, every, 3, 0.004)
    held = plan.held_in_folds(0)
    assert sorted(sum(held, start=[])) == list(every)  # noqa: RUF017
    assert [len(fold) for fold in held] == [100, 100, 100]
    for wrong in (1, 301):
        with pytest.raises(UsageError, match="--folds: it lies between 2 and the number of good images, 300"):
            plan_hold_out(samples, cheap_to_fit=True, seed=0, folds=wrong)
    with pytest.raises(UsageError, match="would train anew"):
        plan_hold_out(samples, cheap_to_fit=False, seed=0, folds=3)
    with pytest.raises(UsageError, match="not both"):
        plan_hold_out(samples, cheap_to_fit=True, seed=0, folds=3, hold_out=0.2)


def test_the_seed_decides_which_calibrate() -> None:
    images = listed(["normal"] * 50)
    plans = [
        plan_hold_out(images, cheap_to_fit=COSTLY.cheap_to_fit, seed=seed, false_alarm_rate=None, hold_out=None)
        for seed in (0, 0, 1)
    ]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("method", [COSTLY, CHEAP])
def test_images_known_to_be_bad_train_but_never_calibrate(method: type[Method]) -> None:
    labels: list[Label | None] = ["normal", "anomalous", None, "normal", "anomalous"] * 6
    bad = {i for i, label in enumerate(labels) if label == "anomalous"}
    for seed in range(5):
        plan = plan_hold_out(
            listed(labels), cheap_to_fit=method.cheap_to_fit, seed=seed, false_alarm_rate=None, hold_out=None
        )
        assert bad <= set(plan.train)
        assert not bad & set(plan.calibration)
        assert set(plan.train) | set(plan.calibration) == set(range(30))


@pytest.mark.parametrize("method", [COSTLY, CHEAP])
@pytest.mark.parametrize("rate", [None, 0.1])
def test_without_a_good_image_there_is_nothing_to_calibrate_on(method: type[Method], rate: float | None) -> None:
    with pytest.raises(DataError, match="no image that is not known to be bad is left to calibrate on"):
        plan_hold_out(
            listed(["anomalous"] * 10), cheap_to_fit=method.cheap_to_fit, seed=0, false_alarm_rate=rate, hold_out=None
        )


class Remembers(Method):
    """The score is how far an image is from the nearest that was trained on: 0 for one of them."""

    name = "remembers"

    def __init__(self) -> None:
        super().__init__(MethodConfig(image_size=SIZE), cast(FeaturePyramid, nn.Identity()))
        self.register_buffer("known", torch.zeros(1))

    def stages(self, images: int) -> Any:
        means: list[Tensor] = []

        def finish(generator: torch.Generator, progress: Callable[[float], None]) -> None:
            self.known = torch.cat(means)

        yield PassStage("remember", lambda x: means.append(x.mean((1, 2, 3))), finish)

    def forward(self, image: Tensor) -> AnomalyMap:
        distance = (image.mean((1, 2, 3))[:, None] - self.get_buffer("known")).abs().amin(1)
        return AnomalyMap(distance[:, None, None].expand(-1, SIZE, SIZE), distance)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_no_fold_scores_what_it_was_fitted_on(tmp_path: Path, n: int) -> None:
    paths = sorted(make_parts(tmp_path, n).iterdir())
    plan = Plan("cross", tuple(range(n)), tuple(range(n - 1)), min(FOLDS, n - 1))
    fits: list[int] = []

    class Counted(TrainingImages):
        def only(self, indices: Sequence[int]) -> TrainingImages:
            fits.append(len(indices))
            assert n - 1 in indices, "what does not calibrate trains in every fold"
            return super().only(indices)

    images = Counted(paths, ImageContract(), Preparation(0, 255, SIZE))
    one = Trainer("cpu", 0, None, Silent().progress)
    scores, maxima = score_by_folds(plan, images, Remembers, one, Silent())
    assert len(scores) == len(maxima) == n - 1
    assert min(scores) > 1e-6
    assert scores == pytest.approx(maxima)
    assert len(fits) == min(FOLDS, n - 1)
    assert sum(n - fit for fit in fits) == n - 1


def test_scores_that_are_no_numbers_do_not_calibrate() -> None:
    for scores, maxima in [([1.0, float("nan")], [1.0, 1.0]), ([1.0, 1.0], [1.0, float("inf")])]:
        with pytest.raises(TrainingError, match="no finite score"):
            checked_calibration(scores, maxima, Plan("split", (0, 1), (2, 3)))


# Whether the graph says what torch says.


class Bent:
    """Stands for a graph: says what torch says, but for `bend` of the scores and a map that is `off`."""

    def __init__(self, network: InspectionNetwork, bend: Callable[[Floats], Floats], off: float = 0.0) -> None:
        self.network, self.bend, self.off = network, bend, off

    def run(self, images: Any) -> tuple[Floats, Floats]:
        maps, scores = self.network(torch.from_numpy(images))
        return maps.numpy() * (1 + self.off), self.bend(scores.numpy())


def parity_of(bend: Callable[[Floats], Floats], off: float = 0.0) -> Parity:
    """Of four images in two sizes; the score of each is its brightness."""
    method, preparation = Remembers(), Preparation(0, 255, SIZE)
    images = [(part(i, (72, 80) if i % 2 else (50, 60)) * (0.5 + i / 10)).astype(np.uint8) for i in range(4)]
    graph = Bent(InspectionNetwork(method, preparation).eval(), bend, off)
    return check_parity(cast(Graph, graph), method, preparation, images)


def test_a_graph_that_agrees_passes() -> None:
    parity = parity_of(lambda scores: scores)
    assert parity == Parity(images=4, batch_sizes=(1, 3), largest_score_difference=0, largest_map_difference=0)
    assert parity_of(lambda scores: scores * 1.0005).largest_score_difference == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda scores: scores * np.float32(1.002), r"differ by 2\.00e-03 of a score, the limit is 0\.001"),
        (lambda scores: scores * (1.002 if len(scores) == 3 else 1), r"differ by 2\.00e-03 of a score"),
        (lambda scores: scores * np.nan, "differ by nan of a score"),
        (lambda scores: 2 - scores, "rank the same images differently"),
    ],
    ids=["off", "off in a batch", "no number", "other order"],
)
def test_a_graph_that_disagrees_is_refused(bend: Callable[[Floats], Floats], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        parity_of(bend)


@pytest.mark.parametrize("off", [0.002, float("nan")])
def test_a_graph_whose_map_disagrees_is_refused(off: float) -> None:
    with pytest.raises(ExportError, match="of the anomaly map's largest value, the limit is"):
        parity_of(lambda scores: scores, off)


class MixesUp(Remembers):
    """The score of an image depends on its neighbours."""

    def forward(self, image: Tensor) -> AnomalyMap:
        anomaly_map, score = super().forward(image)
        return AnomalyMap(anomaly_map, score + score.mean())


def test_a_method_whose_images_depend_on_each_other_is_refused() -> None:
    """Though its graph says what torch says, one image at a time and three at a time."""
    preparation = Preparation(0, 255, SIZE)
    images = [(part(i, (50, 60)) * (0.5 + i / 10)).astype(np.uint8) for i in range(4)]
    graph = Bent(InspectionNetwork(MixesUp(), preparation).eval(), lambda scores: scores)
    with pytest.raises(ExportError, match="of a score, the limit is"):
        check_parity(cast(Graph, graph), MixesUp(), preparation, images)


def test_a_method_too_large_for_a_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.export.LARGEST_GRAPH", 3)
    with pytest.raises(ExportError, match=r"remembers: the trained method holds .* and a graph at most 2\. Make"):
        export_graph(Remembers(), Preparation(0, 255, SIZE), ImageContract())


# What is trained on.


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("line") / "parts", 12)


@pytest.fixture(scope="module")
def trained(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "part.blemish"
    train(parts, file, **TINY)
    return file


def test_broken_images_are_left_out_and_named(tmp_path: Path) -> None:
    source = make_parts(tmp_path / "parts", 8)
    good = (source / "000.png").read_bytes()
    (source / "text.png").write_text("not an image")
    (source / "cut" / "off.png").parent.mkdir()
    (source / "cut" / "off.png").write_bytes(good[:-100])
    (source / "empty.jpg").touch()
    Image.fromarray(part(1, grey=True).astype(np.uint16) * 10).save(source / "deep.png")
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    notes = Notes()
    detector = train(source, tmp_path / "part.blemish", listener=notes, **TINY)
    assert detector.manifest is not None
    record = detector.manifest.training
    assert {image.path: image.reason for image in record.left_out} == {
        "cut/off.png": "truncated",
        "deep.png": "wrong_depth",
        "empty.jpg": "truncated",
        "gone.png": "not_found",
        "text.png": "unreadable",
    }
    assert all(image.detail for image in record.left_out)
    assert [image.path for image in record.images] == [f"{i:03}.png" for i in range(8)]
    *left_out, few = notes.warned
    assert sorted(warning.partition(" ")[0] for warning in left_out) == [image.path for image in record.left_out]
    assert few.startswith(f"n = {detector.calibration.n} is few: no false-alarm rate below")
    assert any("cut/off.png is left out (truncated): the file ends" in warning for warning in notes.warned)
    assert open_model_file(tmp_path / "part.blemish").manifest == detector.manifest


def test_nothing_left_to_train_on_is_an_error_with_the_common_reason(tmp_path: Path) -> None:
    source = make_parts(tmp_path / "parts", 1)
    (source / "cut.png").write_bytes((source / "000.png").read_bytes()[:-100])
    for i in range(3):
        (source / f"text{i}.png").write_text("not an image")
    with pytest.raises(
        DataError, match=r"of 5 training images 1 can; 3 left out as unreadable, such as text0\.png: its"
    ):
        train(source, tmp_path / "part.blemish", **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts"]


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two images that can be read; of 1 training images 1 can"):
        train(make_parts(tmp_path / "parts", 1), tmp_path / "part.blemish", **TINY)


def test_two_images_are_enough_to_train_by_steps(tmp_path: Path) -> None:
    settings = {"image_size": SIZE, "steps": 1, "batch_size": 2}
    detector = train(make_parts(tmp_path / "parts", 2), tmp_path / "part", method="rd", settings=settings, device="cpu")
    assert (detector.calibration.kind, detector.calibration.n) == ("split", 1)
    assert detector.inspect(part(9)).verdict is not Verdict.REJECTED


def test_two_images_are_too_few_for_statistics(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs at least two training images"):
        train(make_parts(tmp_path / "parts", 2), tmp_path / "part", **TINY)


def deep_parts(folder: Path, count: int) -> Path:
    """16-bit grey images of a 12-bit camera."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(part(i, grey=True).astype(np.uint16) * 16).save(folder / f"{i}.png")
    return folder


def test_16_bit_images_must_be_declared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)8 left out as wrong_depth.*16-bit.*--depth uint16"):
        train(deep_parts(tmp_path / "parts", 8), tmp_path / "part.blemish", **TINY)


def test_declared_16_bit_images_train_and_are_inspected(tmp_path: Path) -> None:
    source = deep_parts(tmp_path / "parts", 8)
    train(source, tmp_path / "part.blemish", depth="uint16", value_range=(0, 4095), **TINY)
    detector = load_detector(tmp_path / "part.blemish")
    assert detector.contract == ImageContract(
        depth="uint16", low=0, high=4095, colour="grey", width=(40, 160), height=(36, 144)
    )
    fresh = part(50, grey=True).astype(np.uint16) * 16
    judged, eight_bit, bright = detector.inspect([fresh, part(50, grey=True), fresh + 4000])
    assert judged.verdict is not Verdict.REJECTED
    assert (eight_bit.verdict, eight_bit.reason) == (Verdict.REJECTED, "wrong_depth")
    assert (bright.verdict, bright.reason) == (Verdict.REJECTED, "out_of_range")


def test_grey_images_make_a_detector_for_grey_images(tmp_path: Path) -> None:
    detector = train(make_parts(tmp_path / "parts", 8, grey=True), tmp_path / "part.blemish", **TINY)
    assert detector.contract.colour == "grey"
    judged, refused = detector.inspect([part(50, grey=True), part(50)])
    assert judged.verdict is not Verdict.REJECTED
    assert (refused.verdict, refused.reason) == (Verdict.REJECTED, "wrong_colour")


def test_bad_rows_of_a_table_train_and_do_not_calibrate(tmp_path: Path) -> None:
    make_parts(tmp_path / "images", 10)
    make_parts(tmp_path / "images", 2, first=10, defect=True)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_path", "label", "split"])
        rows.writerows([f"images/{i:03}.png", "good" if i < 10 else "scratch", "train"] for i in range(12))
    notes = Notes()
    detector = train(tmp_path / "table.csv", tmp_path / "part.blemish", listener=notes, **(TINY | {"hold_out": None}))
    assert detector.manifest is not None
    roles = {image.path: image.role for image in detector.manifest.training.images}
    assert [name for name, role in roles.items() if role == "train"] == ["images/010.png", "images/011.png"]
    assert list(roles.values()).count("train and calibration") == 10
    assert (detector.calibration.kind, detector.calibration.n) == ("cross", 10)
    assert "2 of the training images are known to be bad" in detector.manifest.training.note
    assert any("12 images train; 10 of them calibrate by 5 cross-conformal folds" in text for text in notes.said)
    assert any("the smallest reachable is 1/(10+1) = 9.09%" in text for text in notes.said)


def test_evaluation_leaves_out_what_training_saw(trained: Path, parts: Path, tmp_path: Path) -> None:
    for image in parts.iterdir():
        (tmp_path / "test" / "good").mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / "good" / f"renamed_{image.name}").write_bytes(image.read_bytes())
    make_parts(tmp_path / "train" / "good", 1, first=40)
    make_parts(tmp_path / "test" / "good", 3, first=20)
    make_parts(tmp_path / "test" / "scratch", 3, first=30, defect=True)
    result = evaluate(load_detector(trained), open_dataset(tmp_path))
    assert sorted(sample.path.name for sample in result.seen_in_training) == [f"renamed_{i:03}.png" for i in range(12)]
    assert (len(result.scored("normal")), len(result.scored("anomalous"))) == (3, 3)
    everything = evaluate(load_detector(trained), open_dataset(tmp_path), include_seen=True)
    assert everything.seen_in_training == ()
    assert len(everything.scored("normal")) == 15


# What is asked for.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "padm"}, "there is no method 'padm'. Did you mean padim?"),
        ({"method": "zzz"}, "there is no method 'zzz'. Known are .*padim, "),
        ({"teacher": "resnet19"}, "there is no teacher 'resnet19'. Did you mean .*resnet18"),
        ({"layout": "mvtek"}, 'there is no layout "mvtek".*Did you mean "mvtec"'),
        ({"preset": "quick"}, "there is no preset 'quick'. Choose auto, fast or paper"),
        ({"device": "tpu"}, "there is no device 'tpu'. Choose auto, cpu or cuda"),
        ({"settings": {"featurs": 3}}, "--set: method padim has no setting 'featurs'. It has .*features"),
        ({"settings": {"features": 0}}, "method padim: features=0: .*greater than 0"),
        ({"settings": {"features": "many"}}, "method padim: features=many: .*valid integer"),
        ({"settings": {"image_size": 100}}, "method padim: image_size=100: .*multiple of 32"),
        ({"settings": {"image_size": 32}}, "method padim: image_size=32: .*greater than or equal to 64"),
        ({"depth": "uint16", "value_range": (0, 70000)}, "--depth/--range: .*wider than uint16"),
        ({"value_range": (10, 10)}, "--depth/--range: the range 10..10 is empty"),
        ({"depth": "float32"}, "--depth/--range: float32 images need a declared range"),
        ({"depth": "uint12"}, "--depth/--range: .*'uint8', 'uint16' or 'float32'"),
        ({"hold_out": 1.5}, "--hold-out: it lies between 0 and 1, not at 1.5"),
        ({"false_alarm_rate": 0}, "--false-alarm-rate: it lies between 0 and 1, not at 0"),
        ({"false_alarm_rate": 0.01}, "takes 99 calibration images and 3 can be held out.*at least 396 images"),
        ({"weights": "nowhere"}, "nowhere: the weights folder does not exist"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    changes: dict[str, Any], message: str, parts: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        train(parts, tmp_path / "part.blemish", **(TINY | changes))
    assert caught.value.exit_status == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [0.01, 1.5])
def test_a_review_rate_out_of_place_is_refused_before_any_work(rate: float, parts: Path, tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(UsageError, match=r"review rate .* must lie between the false-alarm rate 0\.25 and 1"):
        train(parts, tmp_path / "part.blemish", false_alarm_rate=0.25, review_rate=rate, listener=notes, **TINY)
    assert not any("Exporting" in text for text in notes.said)


def test_a_teacher_that_is_not_here_is_not_fetched(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="not on this machine, and Blemish downloads nothing"):
        train(parts, tmp_path / "part.blemish", teacher="resnet10t", weights=tmp_path, **TINY)


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this folder does not exist"):
        train(tmp_path / "parst", tmp_path / "part.blemish", **TINY)


def test_presets() -> None:
    rd, notes = COSTLY, Notes()

    def chosen(preset: Any, device: str, **settings: Any) -> Any:
        return configure(rd, preset, settings, device, notes)

    assert chosen("paper", "cpu") == rd.Config.model_validate({}) == chosen("auto", "cuda")
    assert chosen("fast", "cuda") == rd.Config.model_validate(rd.fast) == chosen("auto", "cpu")
    assert len(notes.said) == 1
    assert "No GPU: taking the fast preset (steps=" in notes.said[0]
    assert chosen("fast", "cpu", **dict.fromkeys(rd.fast, 7)) == rd.Config.model_validate(dict.fromkeys(rd.fast, 7))


def test_the_fast_preset_is_not_announced_where_it_is_overruled() -> None:
    notes = Notes()
    configure(COSTLY, "auto", {"steps": 7}, "cpu", notes)
    assert not any("steps=300" in text for text in notes.said)


def test_a_range_is_that_of_the_depth_unless_declared() -> None:
    assert base_contract("uint8", None) == ImageContract()
    assert base_contract("uint16", None) == ImageContract(depth="uint16", low=0, high=65535)
    assert base_contract("float32", (-1, 1)) == ImageContract(depth="float32", low=-1, high=1)


# Where it is written.


@pytest.mark.parametrize(
    ("out", "wanted"),
    [("part", "part.blemish"), ("part.v1", "part.v1.blemish"), ("new/part.blemish", "new/part.blemish")],
)
def test_the_model_file_gets_its_name(out: str, wanted: str, tmp_path: Path) -> None:
    assert model_path(tmp_path / out) == tmp_path / wanted
    assert not list(tmp_path.rglob("*.training"))
    assert (tmp_path / wanted).parent.is_dir()


def test_a_model_file_beside_the_folder_of_its_name(parts: Path, tmp_path: Path) -> None:
    make_parts(tmp_path / "bottle", 5)
    detector = train(tmp_path / "bottle", tmp_path / "bottle", **TINY)
    assert isinstance(detector, Detector)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bottle", "bottle.blemish"]


@pytest.mark.parametrize("out", [".", "..", "", "file.txt/part", "folder.blemish", "file.txt/a/b/part.blemish"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    Path("folder.blemish").mkdir()
    with pytest.raises(UsageError):
        train("parts", out, **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.txt", "folder.blemish"]


def test_an_existing_model_file_is_replaced(trained: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.blemish"
    out.write_bytes(b"an older one")
    train(parts, out, **TINY)
    assert out.read_bytes() == trained.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["part.blemish"]
