"""Galleries of a report: which images are worth showing, in which order, and their pictures."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from blemish.components import Mask
from blemish.data import true_mask
from blemish.decisions import Calibration, Verdict
from blemish.evaluation.judging import Evaluation, Judged
from blemish.pictures import data_uri, outlined, overlay, thumbnail
from blemish.runtime import Detector, Inspection

SHOWN = 12
"""Images of one section of an evaluation."""
SHOWN_OF_VERDICT = 24
"""Inspections shown of one verdict."""
PER_KIND = 3
"""Detections shown of one kind of defect, and good parts."""
SIDE = 320
"""Longer side of a picture, in pixels."""

_GONE = "can no longer be read"


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
    more: int


class _Choice(NamedTuple):
    """The judged images that one gallery is to show."""

    title: str
    intro: str
    judged: list[Judged]
    more: int


def evaluation_galleries(evaluation: Evaluation, detector: Detector) -> list[Gallery]:
    """Galleries of what went wrong in an evaluation, nearly did, and went right; each image at most once.

    The images are inspected once more, by the same detector.
    """
    choices = [choice for choice in _choose(evaluation) if choice.judged]
    cards = iter(_cards([j for choice in choices for j in choice.judged], evaluation, detector))
    return [
        Gallery(choice.title, choice.intro, list(islice(cards, len(choice.judged))), choice.more) for choice in choices
    ]


class Highest:
    """Pictures of the inspections with the highest scores of each verdict, small; no other array is kept."""

    def __init__(self) -> None:
        # Score, negative place and pictures, the lowest score first.
        self._kept: dict[Verdict, list[tuple[float, int, list[Panel]]]] = {verdict: [] for verdict in Verdict}

    def add(self, place: int, inspection: Inspection) -> None:
        """Draw an inspection, the one at `place`, if its score is among the highest so far."""
        best = self._kept[inspection.verdict]
        if inspection.score is not None and (len(best) < SHOWN_OF_VERDICT or inspection.score > best[0][0]):
            push = heapq.heappush if len(best) < SHOWN_OF_VERDICT else heapq.heappushpop
            push(best, (inspection.score, -place, _panels(inspection)))

    def galleries(
        self, names: Sequence[str], inspections: Sequence[Inspection], calibration: Calibration
    ) -> list[Gallery]:
        """One gallery a verdict, the highest score first. `names` and `inspections` are of all places."""
        count = Counter(inspection.verdict for inspection in inspections)
        return [
            Gallery(
                title,
                intro,
                [
                    _card(names[-negative], inspections[-negative], panels, calibration)
                    for _, negative, panels in sorted(self._kept[verdict], reverse=True)
                ],
                count[verdict] - len(self._kept[verdict]),
            )
            for verdict, title, intro in (
                (Verdict.NG, "NG", "Least like the good parts first."),
                (Verdict.REVIEW, "For review", "Near the limit; a person should look at these."),
                (Verdict.OK, "OK, nearest to the limit", "The good ones that look least good."),
            )
            if self._kept[verdict]
        ]


def _choose(evaluation: Evaluation) -> list[_Choice]:
    """What to show of an evaluation: each image at most once, the most telling section first."""
    limit = evaluation.calibration.threshold(evaluation.calibration.false_alarm_rate)
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
        ("score", f"{inspection.score:.4g} (NG above {limit:.4g})"),
        ("p-value", f"{inspection.p_value:.4f}"),
    ]
    if inspection.regions:
        regions, area = len(inspection.regions), sum(region.area for region in inspection.regions)
        facts.append(("marked", f"{regions} {'region' if regions == 1 else 'regions'}, {area} pixels"))
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
