"""Reports: one HTML file that stands alone, with pictures, charts and figures, for an evaluation or for inspections.

One template serves both; a section appears where there is something to show.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from blemish.decisions import Calibration, Verdict
from blemish.evaluation.charts import Group, Point, pro_chart, roc_chart, score_histogram
from blemish.evaluation.galleries import Highest, evaluation_galleries
from blemish.evaluation.judging import BATCH, Evaluation, Share
from blemish.metrics import TITLES
from blemish.modelfile import Manifest
from blemish.pages import Tile, counted, percent, write_page
from blemish.pictures import ANCHORS
from blemish.runtime import Detector, Inspection

LISTED = 500
"""Rows of a table."""


def write_report(path: str | os.PathLike[str], evaluation: Evaluation, detector: Detector) -> None:
    """Write the report of an evaluation.

    The images it shows are inspected once more, by the same detector.

    Parameters
    ----------
    path : the HTML file to write; folders are made, an existing file is replaced.
    detector : the one that was evaluated.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    _write(
        path,
        title=f"{evaluation.dataset.name}: evaluation",
        subject=evaluation.dataset.name,
        kind="Evaluation",
        place=str(evaluation.dataset.root),
        headline=_headline(evaluation),
        tiles=_evaluation_tiles(evaluation),
        metrics=_metric_tiles(evaluation),
        notes=_notes(evaluation),
        verdict_rows=_verdict_rows(evaluation),
        histogram=_histogram(
            evaluation.calibration,
            Group("good, test", "normal", [j.score for j in evaluation.scored("normal")]),
            Group("bad, test", "anomalous", [j.score for j in evaluation.scored("anomalous")]),
        ),
        curves=_curves(evaluation),
        galleries=evaluation_galleries(evaluation, detector),
        columns=4,
        rejected=[(evaluation.name(j.sample), j.inspection.reason, j.inspection.detail) for j in evaluation.rejected],
        rows=[],
        calibration=evaluation.calibration,
        manifest=detector.manifest,
    )


def write_inspection_report(
    path: str | os.PathLike[str], inspections: Iterable[Inspection], detector: Detector
) -> None:
    """Write the report of inspections whose truth is not known, consuming them one after the other.

    Parameters
    ----------
    path : the HTML file to write; folders are made, an existing file is replaced.
    inspections : as from `Detector.stream`. Pictures of the highest scores are kept, small; no other array is.
    detector : the one that inspected.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    seen: list[Inspection] = []
    highest = Highest()
    for place, inspection in enumerate(inspections):
        highest.add(place, inspection)
        seen.append(replace(inspection, anomaly_map=None, mask=None, image=None))

    folder, names = _names(seen)
    count = Counter(inspection.verdict for inspection in seen)
    scores = {place: one.score for place, one in enumerate(seen) if one.score is not None}
    ranked = sorted(scores, key=lambda place: -scores[place])
    calibration = detector.calibration
    _write(
        path,
        title=f"Inspection of {counted(len(seen), 'image')}",
        subject=counted(len(seen), "image"),
        kind="Inspection",
        place=folder,
        headline="",
        tiles=_inspection_tiles(count, calibration),
        metrics=[],
        notes=[],
        verdict_rows=[],
        histogram=_histogram(calibration, Group("inspected", "inspected", [scores[place] for place in ranked])),
        curves=[],
        galleries=highest.galleries(names, seen, calibration),
        columns=3,
        rejected=[(names[i], one.reason, one.detail) for i, one in enumerate(seen) if one.verdict is Verdict.REJECTED],
        rows=[(names[place], seen[place]) for place in ranked],
        calibration=calibration,
        manifest=detector.manifest,
    )


def _headline(evaluation: Evaluation) -> str:
    verdicts = evaluation.verdicts()
    sentences = []
    bad, good = len(evaluation.scored("anomalous")), len(evaluation.scored("normal"))
    if bad:
        found, review, missed = (verdicts["anomalous"][verdict] for verdict in ("NG", "REVIEW", "OK"))
        caught = "all found" if found == bad else f"{found} found, {review} for review, {missed} missed"
        sentences.append(f"{counted(bad, 'bad part')}, {caught}")
    if good:
        alarms = verdicts["normal"]["NG"]
        raised = counted(alarms, "false alarm") if alarms else "no false alarm"
        sentences.append(f"{counted(good, 'good part')}, {raised}")
    return ". ".join(sentences) + "." if sentences else "No image could be judged."


def _evaluation_tiles(evaluation: Evaluation) -> list[Tile]:
    verdicts = evaluation.verdicts()
    bad, good = len(evaluation.scored("anomalous")), len(evaluation.scored("normal"))
    bound = "at most" if evaluation.calibration.kind == "split" else "about"
    asked = f"calibrated for {bound} {percent(evaluation.calibration.false_alarm_rate)}"
    tiles = []
    if bad:
        missed = Share(verdicts["anomalous"]["OK"], bad)
        found = evaluation.detections
        tiles.append(Tile(f"{found.count}/{bad}", "defects found", _range(found), "ok" if found.count else "ng"))
        tiles.append(Tile(str(missed.count), "defects missed", _range(missed), "ng" if missed.count else "ok"))
    if good:
        alarms = evaluation.false_alarms
        note = f"{asked}; {_range(alarms)}"
        tiles.append(Tile(f"{alarms.count}/{good}", "false alarms", note, "ng" if alarms.count else "ok"))
    review = {label: verdicts[label]["REVIEW"] for label in ("anomalous", "normal")}
    note = f"{review['anomalous']} bad, {review['normal']} good"
    tiles.append(Tile(str(sum(review.values())), "for review", note, "review" if any(review.values()) else ""))
    rejected = len(evaluation.rejected)
    tiles.append(Tile(str(rejected), "rejected", "not in any metric", "rejected" if rejected else ""))
    return tiles


def _inspection_tiles(count: Counter[Verdict], calibration: Calibration) -> list[Tile]:
    notes = {
        Verdict.NG: f"p at or below {calibration.false_alarm_rate:.3g}",
        Verdict.REVIEW: f"p at or below {calibration.review_rate:.3g}",
        Verdict.OK: "like the good parts",
        Verdict.REJECTED: "could not be judged",
    }
    return [
        Tile(str(count[verdict]), verdict.value, note, verdict.value.lower() if count[verdict] else "")
        for verdict, note in notes.items()
    ]


def _metric_tiles(evaluation: Evaluation) -> list[Tile]:
    measures = evaluation.measures
    tiles = []
    for name, label in TITLES.items():
        if name not in measures.values:
            continue
        value = measures.values[name]
        note = measures.undefined.get(name, "")
        if evaluation.confidence is not None and (interval := evaluation.confidence.intervals.get(name)) is not None:
            note = f"{interval.low:.4f} to {interval.high:.4f}"
        tiles.append(Tile("–" if value is None else f"{value:.4f}", label, note))
    graph = "" if evaluation.fps_graph is None else f"graph alone {evaluation.fps_graph:.1f}"
    if evaluation.fps_graph_batched is not None:
        graph += f", {BATCH} at once {evaluation.fps_graph_batched:.1f}"
    tiles.append(Tile("–" if evaluation.fps is None else f"{evaluation.fps:.1f}", "FPS", graph))
    return tiles


def _notes(evaluation: Evaluation) -> list[str]:
    bad, good = len(evaluation.scored("anomalous")), len(evaluation.scored("normal"))
    with_mask = bad - evaluation.measures.without_mask
    notes = [
        f"Image metrics rest on {counted(good, 'good image')} and {counted(bad, 'bad one')}; pixel metrics on the "
        f"good images and the {counted(with_mask, 'bad one')} with a mask, at full resolution. IoU is taken at the "
        "calibrated pixel threshold. FPS: one image at a time, from the file to the regions, on this machine.",
        "Best IoU is the largest over all thresholds. FPR95 is the share of good images that is flagged where 95 % of "
        "the bad ones are.",
        evaluation.dataset.note,
    ]
    if bounds := evaluation.measures.error_bounds:
        counted_in_bins = ", ".join(TITLES.get(name, name) for name in bounds)
        notes.append(
            f"Counted in bins, for the sake of memory: {counted_in_bins}. The exact values differ from those above by "
            f"at most {max(bounds.values()):.1g}."
        )
    if confidence := evaluation.confidence:
        notes.append(
            f"Under a metric stands its {percent(confidence.level)} bootstrap interval, from {confidence.draws} draws "
            "of as many good and as many bad images, with replacement."
        )
    if seen := len(evaluation.seen_in_training):
        were = "was left out, because the model was" if seen == 1 else "were left out, because the model was"
        notes.append(f"{counted(seen, 'test image')} {were} trained or calibrated on the same content.")
    if unlabelled := len(evaluation.unlabelled):
        notes.append(f"{counted(unlabelled, 'test image')} without a label left out.")
    return notes


def _verdict_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Good parts, then each kind of defect: name, n, counts of verdicts, I-AUROC."""
    counts = evaluation.verdicts()["normal"]
    rows = [{"kind": "good", "n": sum(counts.values()), **counts, "image_auroc": None}, *evaluation.kinds()]
    return [
        {
            "name": row["kind"] or "bad",
            "n": row["n"],
            "counts": [(verdict.value, row[verdict.value]) for verdict in Verdict],
            "image_auroc": row["image_auroc"],
        }
        for row in rows
        if row["n"]
    ]


def _histogram(calibration: Calibration, *groups: Group) -> str:
    return score_histogram(
        [Group("calibration", "calibration", calibration.scores), *groups],
        calibration.threshold(calibration.review_rate),
        calibration.threshold(calibration.false_alarm_rate),
    )


def _curves(evaluation: Evaluation) -> list[dict[str, str]]:
    measures, curves = evaluation.measures, []
    if measures.image_roc is not None:
        points = [
            Point("NG", *_rates(evaluation, Verdict.NG)),
            Point("REVIEW", *_rates(evaluation, Verdict.NG, Verdict.REVIEW)),
        ]
        curves.append(
            {
                "title": "ROC curve of images",
                "figure": f"I-AUROC {measures.values['image_auroc']:.4f}",
                "chart": roc_chart(measures.image_roc, points),
                "note": "Filled point: NG. Hollow point: NG and REVIEW together.",
            }
        )
    if measures.pixel_pro is not None:
        curves.append(
            {
                "title": "PRO curve of pixels",
                "figure": f"AUPRO {measures.values['aupro']:.4f}",
                "chart": pro_chart(measures.pixel_pro),
                "note": "Up to the false positive rate of 0.3 that AUPRO counts; every defect region weighs the same.",
            }
        )
    return curves


def _rates(evaluation: Evaluation, *verdicts: Verdict) -> tuple[float, float]:
    """Shares of the normal and of the anomalous images with one of these verdicts."""
    found = [[j.inspection.verdict in verdicts for j in evaluation.scored(label)] for label in ("normal", "anomalous")]
    return float(np.mean(found[0])), float(np.mean(found[1]))


def _names(inspections: Sequence[Inspection]) -> tuple[str, list[str]]:
    """The folder that all images share ("" if none), and the name of each below it."""
    paths = [None if one.path is None else PurePath(one.path) for one in inspections]
    try:
        folder = os.path.commonpath([path.parent for path in paths if path is not None])
    except ValueError:  # none, or absolute and relative ones
        folder = ""
    names = [
        f"image {i}" if path is None else (path.relative_to(folder) if folder else path).as_posix()
        for i, path in enumerate(paths, start=1)
    ]
    return folder, names


def _range(share: Share) -> str:
    if share.interval is None:
        return ""
    low, high = share.interval
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _roles(manifest: Manifest) -> dict[str, int]:
    """Number of images by what training used them for."""
    count = Counter(image.role for image in manifest.training.images)
    both = count["train and calibration"]
    return {"train": count["train"] + both, "calibration": count["calibration"] + both}


def _write(path: str | os.PathLike[str], manifest: Manifest | None, **content: Any) -> None:
    write_page(
        path,
        "blemish.evaluation",
        "report.html.jinja",
        **content,
        manifest=manifest,
        roles=None if manifest is None else _roles(manifest),
        listed=LISTED,
        heat_colours=", ".join(f"rgb{colour} {100 * place:g}%" for place, colour in ANCHORS),
    )
