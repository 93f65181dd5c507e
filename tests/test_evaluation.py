"""Evaluation: what is counted, what is measured, and what is left out, on parts made here."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from blemish import metrics
from blemish.data import Sample, open_dataset
from blemish.errors import DataError
from blemish.evaluation import Evaluation, Share, evaluate, judging
from parts import Line, detector, manifest_of

KEYS = (
    "image_auroc image_ap image_f1max pixel_auroc pixel_ap pixel_f1max aupro mad iou best_iou fpr95 pro_per_image "
    "fps overkill escape n_normal n_anomalous verdicts"
)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Six good parts, one of them a false alarm and one for review, and four bad ones, one of them missed."""
    made = Line(tmp_path)
    for brighter in (5, 7, 9, 11, 25, 42):
        made.add("good", brighter)
    for kind, brighter in (("dent", 15), ("dent", 50), ("scratch", 28), ("scratch", 60)):
        made.add(kind, brighter)
    return made


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """What a reader of the JSON gets; NaN would not pass."""
    document: dict[str, Any] = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    return document


def test_counts_and_metrics_of_a_small_line(line: Line) -> None:
    document = as_json(evaluate(detector(), line.dataset))
    assert set(KEYS.split()) <= document.keys()
    assert document["verdicts"] == {
        "normal": {"OK": 4, "REVIEW": 1, "NG": 1, "REJECTED": 0},
        "anomalous": {"OK": 1, "REVIEW": 1, "NG": 2, "REJECTED": 0},
    }
    assert (document["n_normal"], document["n_anomalous"]) == (6, 4)
    # Of 24 pairs, two good parts outrank the bad 0.15 and one of them the bad 0.28.
    assert document["image_auroc"] == pytest.approx(21 / 24)
    assert document["false_alarm_rate_measured"] == pytest.approx(1 / 6)
    assert document["detection_rate_measured"] == pytest.approx(2 / 4)
    assert document["false_alarm_rate"] == 0.05
    # Of each part above the threshold 100 pixels are marked, 400 are truly bad.
    threshold = detector().calibration.pixel_threshold
    false, true = (sum(score > threshold for score in scores) for scores in ((0.25, 0.42), (0.15, 0.5, 0.28, 0.6)))
    assert document["iou"] == pytest.approx(true / (4 + false))
    assert document["undefined"] == document["error_bounds"] == {}
    assert document["confidence"] is None
    assert min(document["fps"], document["fps_graph"], document["fps_graph_batched"]) > 0
    assert document["batch_sizes"] == {"fps": 1, "fps_graph": 1, "fps_graph_batched": 8}


def test_overkill_and_escape(line: Line) -> None:
    """A rejected part, good or bad, is neither; it counts among all parts."""
    for kind, label in (("good", "normal"), ("dent", "anomalous"), ("dent", "anomalous")):
        line.add_broken(kind, label)  # type: ignore[arg-type]
    evaluation = evaluate(detector(), line.dataset)
    assert evaluation.overkill == Share(1, 7)
    assert evaluation.escape == Share(1, 6)
    document = as_json(evaluation)
    assert (document["overkill"], document["escape"]) == (1 / 7, 1 / 6)
    assert document["overkill_interval"] == pytest.approx(Share(1, 7).interval)
    assert document["escape_interval"] == pytest.approx(Share(1, 6).interval)


def test_metrics_are_those_of_the_metrics_package(line: Line) -> None:
    judge = detector()
    maps = [judge.inspect(sample.path).anomaly_map for sample in line.samples]
    masks = [None if s.mask is None else np.asarray(Image.open(s.mask)) for s in line.samples]
    labels = [sample.label == "anomalous" for sample in line.samples]
    expected = metrics.measure([m.max() for m in maps], labels, maps, masks, judge.calibration.pixel_threshold)  # type: ignore[union-attr, arg-type]
    found = evaluate(judge, line.dataset).measures.values
    assert {name: found[name] for name in expected.values} == pytest.approx(expected.values)


def test_verdicts_are_those_of_inspecting(line: Line) -> None:
    judge = detector()
    for judged in evaluate(judge, line.dataset).judged:
        again = judge.inspect(judged.sample.path)
        assert judged.inspection.to_dict() == again.to_dict()
        kept = judged.inspection
        assert (kept.anomaly_map, kept.mask, kept.image) == (None, None, None)


def test_kinds_are_told_apart(line: Line) -> None:
    dent, scratch = as_json(evaluate(detector(), line.dataset))["kinds"]
    assert dent == {"kind": "dent", "n": 2, "OK": 1, "REVIEW": 0, "NG": 1, "REJECTED": 0, "image_auroc": 10 / 12}
    assert scratch == {"kind": "scratch", "n": 2, "OK": 0, "REVIEW": 1, "NG": 1, "REJECTED": 0, "image_auroc": 11 / 12}


def test_overlap_is_taken_per_image(line: Line) -> None:
    evaluation = evaluate(detector(), line.dataset)
    overlap = {judged.sample.path.name: judged.overlap for judged in evaluation.judged}
    assert [overlap[f"{i:03}.png"] for i in range(6)] == [None] * 6
    threshold = detector().calibration.pixel_threshold
    assert [overlap[f"{i:03}.png"] for i in range(6, 10)] == [score > threshold for score in (0.15, 0.5, 0.28, 0.6)]


def test_a_defect_without_a_place_has_no_overlap(line: Line) -> None:
    place = line.samples[-1].mask
    assert place is not None
    Line.save(place, np.zeros((40, 60), bool))
    assert evaluate(detector(), line.dataset).judged[-1].overlap is None


def test_images_of_several_sizes_are_measured_at_their_own(tmp_path: Path) -> None:
    line = Line(tmp_path)
    for shape in ((40, 60), (64, 32)):
        line.add("good", 5, shape=shape)
        line.add("dent", 50, shape=shape)
    values = evaluate(detector(), line.dataset).measures.values
    assert values["iou"] == values["pixel_auroc"] == values["aupro"] == 1

    document = as_json(evaluate(detector(), line.dataset))
    assert document["fps_graph_batched"] is None
    assert document["undefined"]["fps_graph_batched"] == "images of different sizes make no batch"
    assert document["fps_graph"] > 0


def test_the_graph_is_timed_on_full_batches_of_what_there_is(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, shapes = detector(), []
    run = judge.graph.run

    def noted(batch: Any) -> Any:
        shapes.append(batch.shape)
        return run(batch)

    monkeypatch.setattr(judge.graph, "run", noted)
    line.samples = line.samples[:3]
    evaluate(judge, line.dataset)
    assert set(shapes) == {(1, 40, 60, 3), (8, 40, 60, 3)}
    monkeypatch.setattr(judging, "_BATCH_PIXELS", 8 * 40 * 60 - 1)
    shapes.clear()
    reason = as_json(evaluate(judge, line.dataset))["undefined"]["fps_graph_batched"]
    assert "megapixels together" in reason
    assert set(shapes) == {(1, 40, 60, 3)}


def test_above_the_number_of_exact_pixels_figures_have_bounds(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = evaluate(detector(), line.dataset).measures
    monkeypatch.setattr(judging, "Measurement", partial(metrics.Measurement, exact_pixels=3 * 40 * 60))
    document = as_json(evaluate(detector(), line.dataset))
    assert set(document["error_bounds"]) == {
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1max",
        "aupro",
        "mad",
        "iou",
        "best_iou",
    }
    for name, value in exact.values.items():
        assert document[name] == pytest.approx(value, abs=document["error_bounds"].get(name, 0) + 1e-9)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "Measurement", partial(metrics.Measurement, exact_pixels=200_000))
    line = Line(tmp_path)

    def peak(n: int) -> int:
        while len(line.samples) < n:
            line.add("good" if len(line.samples) % 2 else "dent", len(line.samples), shape=(160, 160))
        tracemalloc.start()
        evaluate(detector(), line.dataset)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(20), peak(80)
    assert many < few + 6 * 160 * 160 * 5  # six maps and masks more at most, of sixty


def test_intervals_on_request(line: Line) -> None:
    evaluation = evaluate(detector(), line.dataset, confidence=True)
    confidence = evaluation.confidence
    assert confidence is not None
    document = as_json(evaluation)["confidence"]
    assert (document["draws"], document["seed"], document["level"]) == (1000, 0, 0.95)
    judge = detector()
    found = [judge.inspect(sample.path).anomaly_map for sample in line.samples]
    masks = [None if s.mask is None else np.asarray(Image.open(s.mask)) for s in line.samples]
    labels = [sample.label == "anomalous" for sample in line.samples]
    threshold = judge.calibration.pixel_threshold
    expected = metrics.bootstrap([m.max() for m in found], labels, found, masks, threshold)  # type: ignore[union-attr, arg-type]
    assert confidence == expected
    assert document["intervals"]["image_auroc"] == dict(expected.intervals["image_auroc"]._asdict())  # type: ignore[union-attr]
    low, high = document["intervals"]["image_auroc"]["low"], document["intervals"]["image_auroc"]["high"]
    assert low < 21 / 24 < high


def test_rejected_images_count_as_verdicts_and_in_no_metric(line: Line) -> None:
    before = evaluate(detector(), line.dataset)
    line.add_broken("good", "normal")
    line.add_broken("dent", "anomalous")
    after = evaluate(detector(), line.dataset)
    document = as_json(after)
    assert document["verdicts"]["normal"]["REJECTED"] == document["verdicts"]["anomalous"]["REJECTED"] == 1
    assert (document["n_normal"], document["n_anomalous"]) == (6, 4)
    assert after.measures.values == before.measures.values
    assert after.false_alarms == before.false_alarms
    assert [one["path"] for one in document["rejected"]] == ["good/broken.png", "dent/broken.png"]
    assert document["rejected"][0]["reason"] in {"unreadable", "truncated"}
    assert document["rejected"][0]["detail"]


def test_nothing_but_rejected_images(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.add_broken("dent", "anomalous")
    document = as_json(evaluate(detector(), line.dataset))
    assert document["fps"] is document["fps_graph"] is document["image_auroc"] is None
    assert {"fps", "image_auroc", "iou"} <= document["undefined"].keys()
    assert document["kinds"][0]["image_auroc"] is None


def test_images_seen_in_training_are_left_out_by_content(line: Line) -> None:
    seen = line.samples[5]
    digest = hashlib.sha256(seen.path.read_bytes()).hexdigest()
    evaluation = evaluate(detector(manifest_of({"under/another/name.png": digest})), line.dataset)
    assert evaluation.seen_in_training == (seen,)
    document = as_json(evaluation)
    assert document["left_out"]["seen_in_training"] == ["good/005.png"]
    assert document["n_normal"] == 5
    assert document["verdicts"]["normal"]["NG"] == 0


def test_a_detector_is_not_evaluated_on_its_own_images_alone(tmp_path: Path) -> None:
    line = Line(tmp_path)
    digest = hashlib.sha256(line.add("good", 5).path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="used to train"):
        evaluate(detector(manifest_of({"a.png": digest})), line.dataset)


def test_only_good_parts_leave_metrics_undefined_and_counts_there(tmp_path: Path) -> None:
    line = Line(tmp_path)
    for brighter in (5, 40):
        line.add("good", brighter)
    document = as_json(evaluate(detector(), line.dataset))
    nulls = {key for key in KEYS.split() if document[key] is None}
    assert nulls == set(KEYS.split()) - {"fps", "overkill", "n_normal", "n_anomalous", "verdicts"}
    assert nulls == document["undefined"].keys()
    assert document["undefined"]["image_auroc"] == "no anomalous images"
    assert document["verdicts"]["normal"] == {"OK": 1, "REVIEW": 0, "NG": 1, "REJECTED": 0}
    assert document["detection_rate_measured"] is document["detection_rate_interval"] is None
    assert document["kinds"] == []


def test_bad_parts_without_a_mask_are_in_image_metrics_only(line: Line) -> None:
    before = evaluate(detector(), line.dataset).measures.values
    line.add("dent", 90, masked=False)
    evaluation = evaluate(detector(), line.dataset)
    assert as_json(evaluation)["left_out"]["anomalous_without_mask"] == 1
    assert evaluation.judged[-1].overlap is None
    after = evaluation.measures.values
    assert after["pixel_auroc"] == before["pixel_auroc"]
    assert after["image_auroc"] == pytest.approx(27 / 30)


def test_unlabelled_and_training_images_are_left_out(line: Line) -> None:
    unlabelled = line.add("", 70, label=None, masked=False)
    training = line.add("good", 70)
    line.samples[-1] = Sample(training.path, "normal", "train", "good")
    evaluation = evaluate(detector(), line.dataset)
    assert evaluation.unlabelled == (unlabelled,)
    assert len(evaluation.judged) == 10
    assert as_json(evaluation)["left_out"]["unlabelled"] == ["010.png"]


def test_a_dataset_without_labelled_test_images_is_refused_with_advice(tmp_path: Path) -> None:
    line = Line(tmp_path)
    with pytest.raises(DataError, match="no images"):
        evaluate(detector(), line.dataset)
    line.add("", 5, label=None, masked=False)
    with pytest.raises(DataError, match="label") as refused:
        evaluate(detector(), line.dataset)
    assert refused.value.todo


def test_a_mask_of_another_size_is_refused_not_stretched(line: Line) -> None:
    wrong = line.samples[-1].mask
    assert wrong is not None
    Image.new("L", (30, 20)).save(wrong)
    with pytest.raises(DataError, match="30 x 20"):
        evaluate(detector(), line.dataset)


def test_progress_counts_every_image(line: Line) -> None:
    line.add_broken("good", "normal")
    calls: list[tuple[int, int]] = []
    evaluate(detector(), line.dataset, lambda done, total: calls.append((done, total)))
    assert calls == [(i, 11) for i in range(1, 12)]


def test_paths_outside_the_dataset_keep_their_full_name(line: Line, tmp_path: Path) -> None:
    elsewhere = Sample(Path("/elsewhere/a.png"), "normal", "test", "good")
    evaluation = evaluate(detector(), line.dataset)
    assert evaluation.name(elsewhere) == "/elsewhere/a.png"
    assert evaluation.name(line.samples[0]) == "good/000.png"


@pytest.mark.parametrize(("count", "of"), [(0, 20), (1, 20), (10, 20), (63, 63), (1, 1), (7, 952)])
def test_intervals_of_shares(count: int, of: int) -> None:
    expected = binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert Share(count, of).interval == pytest.approx(tuple(expected), abs=1e-6)
    assert Share(count, of).rate == count / of


def test_nothing_of_nothing_has_no_rate() -> None:
    assert Share(0, 0).rate is None
    assert Share(0, 0).interval is None


def test_pro_per_image_is_the_mean_over_bad_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    line = Line(tmp_path)
    for kind, brighter in (("good", 5), ("dent", 30), ("dent", 50)):
        sample = line.add(kind, brighter)
        pixels = np.asarray(Image.open(sample.path)).astype(int)
        line.save(sample.path, (pixels + rng.integers(0, 40, pixels.shape)).astype(np.uint8))

    found = evaluate(detector(), line.dataset).measures.values["pro_per_image"]

    bad = [sample for sample in line.samples if sample.label == "anomalous"]
    pairs = [(detector().inspect(sample.path).anomaly_map, np.asarray(Image.open(sample.mask))) for sample in bad]
    assert found == pytest.approx(metrics.per_image_pro([one for one, _ in pairs], [mask > 0 for _, mask in pairs]))


def test_defects_of_loco_saturate(tmp_path: Path) -> None:
    line = Line(tmp_path / "unused")
    grey = np.full((40, 60, 3), 100, np.uint8)
    bad = grey.copy()
    bad[10:20, 5:10] += 60
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 5:15] = 255
    root = tmp_path / "box"
    line.save(root / "train/good/000.png", grey)
    line.save(root / "validation/good/000.png", grey)
    line.save(root / "test/good/000.png", grey + 1)
    line.save(root / "test/logical_anomalies/000.png", bad)
    line.save(root / "ground_truth/logical_anomalies/000/000.png", truth)
    config = [{"defect_name": "d", "pixel_value": 255, "saturation_threshold": 0.5, "relative_saturation": True}]
    (root / "defects_config.json").write_text(json.dumps(config))
    dataset = open_dataset(root)

    values = evaluate(detector(), dataset).measures.values

    # Half of the defect is found, which is all that is asked for; no threshold flags a good pixel before it is.
    assert dataset.layout == "mvtec-loco"
    assert values["au_spro_05"] == pytest.approx(1)
    assert values["aupro"] is not None
    assert values["aupro"] < 0.8
    assert "au_spro_05" not in evaluate(detector(), replace(dataset, layout="mvtec")).measures.values
