"""Reports: one HTML file that stands alone, with pictures, charts and figures, for an evaluation or for inspections.

Nothing in it comes from a network and nothing in it runs: the page's own policy forbids both, since names of files and
folders are not to be trusted. One template serves both; a section appears where there is something to show.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from blemish import __version__
from blemish.components import Mask
from blemish.decisions import Calibration, Verdict
from blemish.errors import BlemishError
from blemish.evaluation.charts import Group, Point, pro_chart, roc_chart, score_histogram
from blemish.evaluation.judging import Evaluation, Judged, Share, true_mask
from blemish.modelfile import Manifest
from blemish.pictures import ANCHORS, data_uri, outlined, overlay, thumbnail
from blemish.runtime import Detector, Inspection

SHOWN = 12
"""Images of one section of an evaluation."""
SHOWN_OF_VERDICT = 24
"""Inspections shown of one verdict."""
PER_KIND = 3
"""Detections shown of one kind of defect, and good parts."""
LISTED = 500
"""Rows of a table."""
SIDE = 320
"""Longer side of a picture, in pixels."""

_GONE = "can no longer be read"

_METRICS = {
    "image_auroc": "I-AUROC",
    "image_ap": "I-AP",
    "image_f1max": "I-F1max",
    "pixel_auroc": "P-AUROC",
    "pixel_ap": "P-AP",
    "pixel_f1max": "P-F1max",
    "aupro": "AUPRO",
    "mad": "mAD",
    "iou": "IoU",
}


@dataclass(frozen=True)
class Panel:
    """One picture of a card: address of the picture, or none; a note under it."""

    caption: str
    uri: str | None
    note: str = ""


@dataclass(frozen=True)
class Card:
    """One image of a gallery."""

    name: str
    verdict: Verdict
    facts: list[tuple[str, str]]
    panels: list[Panel]


@dataclass(frozen=True)
class Gallery:
    """Images that belong together. `more` is the number of those not shown."""

    title: str
    intro: str
    cards: list[Card]
    more: int = 0


@dataclass(frozen=True)
class Tile:
    """A large figure, what it is, and what to know about it. `style` is a class of the style sheet."""

    figure: str
    label: str
    note: str = ""
    style: str = ""


@dataclass
class _Choice:
    """The judged images that one gallery is to show."""

    title: str
    intro: str
    judged: list[Judged] = field(default_factory=list)
    more: int = 0


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
    limit = evaluation.calibration.threshold(evaluation.calibration.false_alarm_rate)
    normal, anomalous = evaluation.scored("normal"), evaluation.scored("anomalous")
    choices = _choose(evaluation, limit)
    cards = _cards([j for choice in choices for j in choice.judged], evaluation, detector)
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
            Group("good, test", "normal", [j.score for j in normal]),
            Group("bad, test", "anomalous", [j.score for j in anomalous]),
        ),
        curves=_curves(evaluation),
        galleries=[
            Gallery(choice.title, choice.intro, [cards.pop(0) for _ in choice.judged], choice.more)
            for choice in choices
            if choice.judged
        ],
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
    # Of each verdict the images with the highest scores, the lowest of them first.
    kept: dict[Verdict, list[tuple[float, int, int, list[Panel]]]] = {verdict: [] for verdict in Verdict}
    for i, inspection in enumerate(inspections):
        best = kept[inspection.verdict]
        if inspection.score is not None and (len(best) < SHOWN_OF_VERDICT or inspection.score > best[0][0]):
            push = heapq.heappush if len(best) < SHOWN_OF_VERDICT else heapq.heappushpop
            push(best, (inspection.score, -i, i, _panels(inspection)))
        seen.append(replace(inspection, anomaly_map=None, mask=None, image=None))

    folder, names = _names(seen)
    count = Counter(inspection.verdict for inspection in seen)
    ranked = sorted(
        (i for i, inspection in enumerate(seen) if inspection.score is not None), key=lambda i: -_score(seen[i])
    )
    calibration = detector.calibration
    galleries = [
        Gallery(
            title,
            intro,
            [_card(names[i], seen[i], panels, calibration) for *_, i, panels in sorted(kept[verdict], reverse=True)],
            count[verdict] - len(kept[verdict]),
        )
        for verdict, title, intro in (
            (Verdict.NG, "NG", "Least like the good parts first."),
            (Verdict.REVIEW, "For review", "Near the limit; a person should look at these."),
            (Verdict.OK, "OK, nearest to the limit", "The good ones that look least good."),
        )
        if kept[verdict]
    ]
    _write(
        path,
        title=f"Inspection of {_counted(len(seen), 'image')}",
        subject=_counted(len(seen), "image"),
        kind="Inspection",
        place=folder,
        headline="",
        tiles=_inspection_tiles(count, calibration),
        metrics=[],
        notes=[],
        verdict_rows=[],
        histogram=_histogram(calibration, Group("inspected", "inspected", [_score(seen[i]) for i in ranked])),
        curves=[],
        galleries=galleries,
        columns=3,
        rejected=[
            (name, one.reason, one.detail)
            for name, one in zip(names, seen, strict=True)
            if one.verdict is Verdict.REJECTED
        ],
        rows=[(names[i], seen[i]) for i in ranked],
        calibration=calibration,
        manifest=detector.manifest,
    )


def _choose(evaluation: Evaluation, limit: float) -> list[_Choice]:
    """What to show of an evaluation: each image at most once, the most telling section first."""
    left = [*evaluation.scored("anomalous"), *evaluation.scored("normal")]

    def nearness(judged: Judged) -> float:
        return abs(judged.score - limit)

    def take(title: str, intro: str, found: list[Judged]) -> _Choice:
        shown = found[:SHOWN]
        # Those beyond the cap belong to this section too, and to no later one.
        taken = {j.sample for j in found}
        left[:] = [j for j in left if j.sample not in taken]
        return _Choice(title, intro, shown, len(found) - len(shown))

    def ranked(label: str, *verdicts: Verdict, highest_first: bool) -> list[Judged]:
        found = [j for j in left if j.sample.label == label and j.inspection.verdict in verdicts]
        return sorted(found, key=lambda j: -j.score if highest_first else j.score)

    choices = [
        take(
            "Missed defects",
            "Bad parts judged OK, the calmest first.",
            ranked("anomalous", Verdict.OK, highest_first=False),
        ),
        take(
            "False alarms",
            "Good parts judged NG, the highest score first. Look at them well: some good parts are not.",
            ranked("normal", Verdict.NG, highest_first=True),
        ),
        take(
            "Right verdict, wrong place",
            "Bad parts judged NG although not one marked pixel lies on the defect.",
            [j for j in ranked("anomalous", Verdict.NG, highest_first=False) if j.overlap == 0],
        ),
        take(
            "For review",
            "Bad and good parts sent to a person, those nearest to the NG limit first.",
            sorted((j for j in left if j.inspection.verdict is Verdict.REVIEW), key=nearness),
        ),
    ]
    nearest = sorted(left, key=nearness)[: SHOWN // 2]
    choices.append(take("Closest calls", "Judged rightly, with scores nearest to the NG limit.", nearest))
    typical = []
    for kind in sorted({j.sample.kind for j in left if j.sample.label == "anomalous"}):
        typical += _middle([j for j in left if j.sample.label == "anomalous" and j.sample.kind == kind])
    choices.append(take("Typical detections", "Of each kind of defect those with a middling score.", typical))
    good = _middle([j for j in left if j.sample.label == "normal"])
    choices.append(take("Typical good parts", "What calm looks like, on the same colour scale.", good))
    return choices


def _middle(judged: Sequence[Judged]) -> list[Judged]:
    """The ones in the middle by score."""
    ascending = sorted(judged, key=lambda j: j.score)
    begin = max(0, (len(ascending) - PER_KIND) // 2)
    return ascending[begin : begin + PER_KIND]


def _cards(judged: Sequence[Judged], evaluation: Evaluation, detector: Detector) -> list[Card]:
    cards = []
    stream = detector.stream(j.sample.path for j in judged)
    for j, inspection in zip(judged, stream, strict=True):
        truth = None if inspection.image is None else true_mask(j.sample, inspection.image.shape[:2])
        panels = [*_panels(inspection), _truth_panel(j, inspection, truth)]
        card = _card(evaluation.name(j.sample), j.inspection, panels, evaluation.calibration)
        truth_fact = ("truth", "good" if j.sample.label == "normal" else j.sample.kind or "bad")
        overlap = [] if j.overlap is None else [("overlap with truth", f"{j.overlap:.2f}")]
        cards.append(replace(card, facts=[truth_fact, *card.facts, *overlap]))
    return cards


def _card(name: str, inspection: Inspection, panels: list[Panel], calibration: Calibration) -> Card:
    limit = calibration.threshold(calibration.false_alarm_rate)
    facts = [
        ("score", f"{_score(inspection):.4g} (NG above {limit:.4g})"),
        ("p-value", f"{inspection.p_value:.4f}"),
    ]
    if inspection.regions:
        area = sum(region.area for region in inspection.regions)
        facts.append(("marked", f"{_counted(len(inspection.regions), 'region')}, {area} pixels"))
    return Card(name, inspection.verdict, facts, panels)


def _panels(inspection: Inspection) -> list[Panel]:
    """The image, its heat map, and what is marked; drawn at the size they are shown, so that lines stay lines."""
    if inspection.image is None or inspection.anomaly_map is None or inspection.mask is None:
        return [Panel(caption, None, _GONE) for caption in ("Image", "Heat map", "Marked")]
    image, anomaly_map, mask = (
        thumbnail(array, SIDE) for array in (inspection.image, inspection.anomaly_map, inspection.mask)
    )
    heat = overlay(image, anomaly_map, inspection.threshold or 0.0)
    return [
        Panel("Image", data_uri(image)),
        Panel("Heat map", data_uri(heat)),
        Panel("Marked", data_uri(outlined(image, mask=mask)), "" if mask.any() else "nothing marked"),
    ]


def _truth_panel(judged: Judged, inspection: Inspection, truth: Mask | None) -> Panel:
    if inspection.image is None:
        return Panel("Ground truth", None, _GONE)
    if judged.sample.label == "normal":
        return Panel("Ground truth", None, "good part, nothing to find")
    if truth is None:
        return Panel("Ground truth", None, "no mask of this image")
    picture = outlined(thumbnail(inspection.image, SIDE), truth=thumbnail(truth, SIDE))
    return Panel("Ground truth", data_uri(picture), "" if truth.any() else "the mask is empty")


def _headline(evaluation: Evaluation) -> str:
    verdicts = evaluation.verdicts()
    sentences = []
    bad, good = len(evaluation.scored("anomalous")), len(evaluation.scored("normal"))
    if bad:
        found, review, missed = (verdicts["anomalous"][verdict] for verdict in ("NG", "REVIEW", "OK"))
        caught = "all found" if found == bad else f"{found} found, {review} for review, {missed} missed"
        sentences.append(f"{_counted(bad, 'bad part')}, {caught}")
    if good:
        alarms = verdicts["normal"]["NG"]
        sentences.append(
            f"{_counted(good, 'good part')}, {_counted(alarms, 'false alarm') if alarms else 'no false alarm'}"
        )
    return ". ".join(sentences) + "." if sentences else "No image could be judged."


def _evaluation_tiles(evaluation: Evaluation) -> list[Tile]:
    verdicts = evaluation.verdicts()
    bad, good = len(evaluation.scored("anomalous")), len(evaluation.scored("normal"))
    asked = f"calibrated for at most {_percent(evaluation.calibration.false_alarm_rate)}"
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
    for name, label in _METRICS.items():
        value = measures.values[name]
        tiles.append(Tile("–" if value is None else f"{value:.4f}", label, measures.undefined.get(name, "")))
    graph = "" if evaluation.fps_graph is None else f"graph alone {evaluation.fps_graph:.1f}"
    tiles.append(Tile("–" if evaluation.fps is None else f"{evaluation.fps:.1f}", "FPS", graph))
    return tiles


def _notes(evaluation: Evaluation) -> list[str]:
    bad, good = len(evaluation.scored("anomalous")), len(evaluation.scored("normal"))
    with_mask = bad - evaluation.measures.without_mask
    notes = [
        f"Image metrics rest on {_counted(good, 'good image')} and {_counted(bad, 'bad one')}; pixel metrics on the "
        f"good images and the {_counted(with_mask, 'bad one')} with a mask, at full resolution. IoU is taken at the "
        "calibrated pixel threshold. FPS: one image at a time, from the file to the regions, on this machine.",
        evaluation.dataset.note,
    ]
    if seen := len(evaluation.seen_in_training):
        were = "was left out, because the model was" if seen == 1 else "were left out, because the model was"
        notes.append(f"{_counted(seen, 'test image')} {were} trained or calibrated on the same content.")
    if unlabelled := len(evaluation.unlabelled):
        notes.append(f"{_counted(unlabelled, 'test image')} without a label left out.")
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


def _score(inspection: Inspection) -> float:
    if inspection.score is None:
        raise ValueError("a rejected image has no score")
    return inspection.score


def _range(share: Share) -> str:
    if share.interval is None:
        return ""
    low, high = share.interval
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _roles(manifest: Manifest) -> dict[str, int]:
    """Number of images by what training used them for."""
    count = Counter(image.role for image in manifest.training.images)
    both = count["train and calibration"]
    return {"train": count["train"] + both, "calibration": count["calibration"] + both}


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("blemish.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["counted"] = _counted
    return environment.get_template("report.html.jinja")


def _write(path: str | os.PathLike[str], manifest: Manifest | None, **content: Any) -> None:
    page = _template().render(
        **content,
        manifest=manifest,
        roles=None if manifest is None else _roles(manifest),
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        listed=LISTED,
        heat_colours=", ".join(f"rgb{colour} {100 * place:g}%" for place, colour in ANCHORS),
    )
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A file name that is not Unicode has no UTF-8 form.
        target.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BlemishError(
            f"the report cannot be written ({error.strerror})", where=target, todo="Name a file that can be"
        ) from error
