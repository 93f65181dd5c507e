"""Two versions of a model on the same stored images: where they differ, and how well each agrees with people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from blemish.decisions import Calibration, Verdict
from blemish.station.inspections import Filter, Inspections
from blemish.station.models import Models
from blemish.station.rescoring import Rescoring, Scored
from blemish.station.tables import ModelVersion

Which = Literal["newest", "reviewed", "audit"]


@dataclass(frozen=True)
class Judgement:
    """What a version says of an image."""

    verdict: Verdict
    score: float | None
    p_value: float | None


@dataclass(frozen=True)
class Pair:
    """An image judged by both. label : what people found, if they did."""

    id: int
    label: str | None
    first: Judgement
    second: Judgement


@dataclass(frozen=True)
class Side:
    """A version at work on all of the images.

    overkill : how many of the good ones it calls NG. escape : how many of the bad ones it calls OK.
    """

    version: ModelVersion
    verdicts: Counter[Verdict]
    overkill: int
    escape: int


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same images.

    images : judged by both. without_picture : left out, for their pictures are not here any more.
    normal, anomalous : of the images, as people found them, that neither version has seen in training; those it has
    seen (`seen`) would flatter it. changes : where the verdicts differ.
    """

    first: Side
    second: Side
    images: int
    without_picture: int
    normal: int
    anomalous: int
    seen: int
    changes: list[Pair]


class Comparing:
    """Compares versions of the models of a station."""

    def __init__(self, models: Models, inspections: Inspections, rescoring: Rescoring) -> None:
        self.models = models
        self.inspections = inspections
        self.rescoring = rescoring

    def compare(self, model: str, first: int, second: int, which: Which, limit: int) -> Comparison:
        """Have both judge the newest images of a model, or the newest of those that people reviewed or of the audit.

        Raises
        ------
        StationError
            no_such_model, no_such_version; see `Rescoring.score`.
        """
        versions = self.models.version(model, first), self.models.version(model, second)
        query = Filter(
            model=model,
            station=self.inspections.station,
            reviewed=True if which == "reviewed" else None,
            audit_share=self.inspections.audit_share if which == "audit" else None,
        )
        rows = self.inspections.page(query, None, limit)
        scored = [self.rescoring.score(version, [inspection for inspection, _ in rows]) for version in versions]
        calibrations = [self.models.calibration(version) for version in versions]
        used = {image["sha256"] for version in versions for image in version.manifest["training"]["images"]}
        pairs: list[Pair] = []
        truth: list[Pair] = []
        seen = 0
        for inspection, review in rows:
            if any(inspection.id not in of_version for of_version in scored):
                continue
            one, other = (
                judge(of_version[inspection.id], calibration)
                for of_version, calibration in zip(scored, calibrations, strict=True)
            )
            pair = Pair(inspection.id, None if review is None else review.label, one, other)
            pairs.append(pair)
            if pair.label is not None:
                if inspection.image_sha256 in used:
                    seen += 1
                else:
                    truth.append(pair)

        def side(version: ModelVersion, of: Callable[[Pair], Judgement]) -> Side:
            return Side(
                version,
                Counter(of(pair).verdict for pair in pairs),
                overkill=sum(pair.label == "normal" and of(pair).verdict is Verdict.NG for pair in truth),
                escape=sum(pair.label == "anomalous" and of(pair).verdict is Verdict.OK for pair in truth),
            )

        return Comparison(
            first=side(versions[0], lambda pair: pair.first),
            second=side(versions[1], lambda pair: pair.second),
            images=len(pairs),
            without_picture=len(rows) - len(pairs),
            normal=sum(pair.label == "normal" for pair in truth),
            anomalous=sum(pair.label == "anomalous" for pair in truth),
            seen=seen,
            changes=[pair for pair in pairs if pair.first.verdict != pair.second.verdict],
        )


def judge(scored: Scored, calibration: Calibration) -> Judgement:
    """The verdict on a score; an image without one is rejected."""
    if scored.score is None:
        return Judgement(Verdict.REJECTED, None, None)
    return Judgement(calibration.verdict(scored.score), scored.score, calibration.p_value(scored.score))
