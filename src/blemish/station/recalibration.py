"""A new threshold from what people found good: looked at first, then taken as a new version with the same graph.

Which images calibrate must not depend on their scores. People mostly review what was doubtful; the good ones among that
score high, and calibrating on them would raise the threshold until hardly anything is NG. So only the audit sample
counts: it is drawn before anyone looks, and all of it must have been reviewed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from blemish.decisions import Calibration, Verdict, calibrate
from blemish.modelfile import SUFFIX, Manifest, SeenImage, open_model_file, write
from blemish.station.archive import Archive
from blemish.station.errors import Code, StationError, storage_failed
from blemish.station.inspections import Filter, Inspections, Row
from blemish.station.models import Models
from blemish.station.rescoring import Rescoring
from blemish.station.tables import ModelVersion

Mode = Literal["extend", "replace"]
Guarantee = Literal["exact", "same_production", "approximate"]
MOST_SAMPLED = 5000


@dataclass(frozen=True)
class Wanted:
    """A recalibration as it is asked for.

    version : whose graph is kept; None is the active one. mode : whether the scores there were are kept.
    since, until : of the audit sample. Rates: None keeps those at which the version judges here.
    looked_at : how many of the newest inspections are judged anew, to see what changes.
    """

    model: str
    version: int | None
    mode: Mode
    since: datetime | None
    until: datetime | None
    false_alarm_rate: float | None
    review_rate: float | None
    looked_at: int


@dataclass(frozen=True)
class Sample:
    """What became of the audit sample.

    inspections : in it that could be judged. normal, anomalous : as people found them. used : the normal ones that
    calibrate; the others were seen in training, have no picture here any more, or are rejected by this version.
    alarms : how many of the used ones were NG until now.
    """

    share: float
    inspections: int
    normal: int
    anomalous: int
    seen: int
    without_picture: int
    rejected: int
    used: int
    alarms: int


@dataclass(frozen=True)
class Change:
    """An inspection that would have another verdict. label : what people found, if they did."""

    id: int
    score: float
    before: Verdict
    after: Verdict
    label: str | None


@dataclass(frozen=True)
class Recalibration:
    """What a recalibration would do. digest : of all that decides it; whoever takes it names what they saw."""

    version: ModelVersion
    before: Calibration
    after: Calibration
    guarantee: Guarantee
    sample: Sample
    looked_at: int
    verdicts: Counter[tuple[Verdict, Verdict]]
    changes: list[Change]
    images: list[SeenImage]
    digest: str


class Recalibrating:
    """Recalibrates the models of a station."""

    def __init__(self, archive: Archive, models: Models, inspections: Inspections, rescoring: Rescoring) -> None:
        self.archive = archive
        self.models = models
        self.inspections = inspections
        self.rescoring = rescoring

    def look(self, wanted: Wanted) -> Recalibration:
        """What it would do; nothing is changed.

        Raises
        ------
        UsageError
            Rates that the images do not reach.
        StationError
            no_such_model, no_such_version; audit_incomplete, not_enough_images; see `Rescoring.score`.
        """
        version = self.models.version(wanted.model, wanted.version)
        manifest = Manifest.model_validate(version.manifest)
        before = self.models.calibration(version)
        rows = self._sample(wanted)
        normal = [inspection for inspection, review in rows if review is not None and review.label == "normal"]
        seen = {
            image.sha256
            for image in manifest.training.images
            # What only calibrated, and will not any more, can do so again.
            if wanted.mode == "extend" or image.role != "calibration"
        }
        fresh = [inspection for inspection in normal if inspection.image_sha256 not in seen]
        scored = self.rescoring.score(version, fresh, maxima=True)
        used = [(row, scored[row.id]) for row in fresh if row.id in scored and scored[row.id].score is not None]
        if not used:
            raise StationError(
                Code.NOT_ENOUGH_IMAGES,
                f"the audit sample holds no image that could calibrate version {version.version} of {wanted.model}",
                todo="Review what is in it, or take a longer time",
            )
        scores = [float(found.score) for _, found in used if found.score is not None]
        maxima = [float(found.largest) for _, found in used if found.largest is not None]
        kept = before if wanted.mode == "extend" else None
        after = calibrate(
            [*(kept.scores if kept else ()), *scores],
            [*(kept.map_maxima if kept else ()), *maxima],
            before.kind if kept else "split",
            before.false_alarm_rate if wanted.false_alarm_rate is None else wanted.false_alarm_rate,
            before.review_rate if wanted.review_rate is None else wanted.review_rate,
        )
        sample = Sample(
            share=self.inspections.audit_share,
            inspections=len(rows),
            normal=len(normal),
            anomalous=len(rows) - len(normal),
            seen=len(normal) - len(fresh),
            without_picture=sum(row.id not in scored for row in fresh),
            rejected=sum(found.score is None for found in scored.values()),
            used=len(used),
            alarms=sum(before.verdict(score) is Verdict.NG for score in scores),
        )
        looked_at, verdicts, changes = self._changes(wanted, version, before, after)
        images = [
            SeenImage(path=f"inspection {row.id}", sha256=row.image_sha256, role="calibration") for row, _ in used
        ]
        parts = [version.sha256, wanted.mode, after.model_dump(mode="json"), [image.sha256 for image in images]]
        return Recalibration(
            version=version,
            before=before,
            after=after,
            guarantee="exact" if kept is None else "same_production" if kept.kind == "split" else "approximate",
            sample=sample,
            looked_at=looked_at,
            verdicts=verdicts,
            changes=changes,
            images=images,
            digest=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        )

    def take(self, wanted: Wanted, digest: str, by: str) -> tuple[Recalibration, ModelVersion]:
        """Do what was looked at: a new version, which is a candidate.

        Raises
        ------
        StationError
            As `look`; look_outdated: it would not be what was seen any more; storage_failed.
        """
        found = self.look(wanted)
        if found.digest != digest:
            raise StationError(
                Code.LOOK_OUTDATED,
                "reviews or inspections have come since this was looked at, so that it would be another",
                todo="Look at it again",
            )
        file = open_model_file(self.models.path(found.version.sha256))
        manifest = recalibrated(file.manifest, found, wanted.mode)
        try:
            with self.archive.scratch() as folder:
                path = folder / f"{wanted.model}{SUFFIX}"
                write(path, manifest, file.graph, file.weights())
                origin = {"recalibrated": found.version.version, "mode": wanted.mode, "images": found.sample.used}
                return found, self.models.add_candidate(wanted.model, path, by, origin)
        except OSError as error:
            raise storage_failed(error) from error

    def _sample(self, wanted: Wanted) -> list[Row]:
        """The audit sample, each image once, the newest first; all of it reviewed."""
        query = Filter(
            model=wanted.model,
            station=self.inspections.station,
            since=wanted.since,
            until=wanted.until,
            audit_share=self.inspections.audit_share,
        )
        found: dict[str, Row] = {}
        for inspection, review in self.inspections.everything(query):
            if inspection.verdict != Verdict.REJECTED:
                found.setdefault(inspection.image_sha256, (inspection, review))
            if len(found) == MOST_SAMPLED:
                break
        rows = list(found.values())
        unanswered = [inspection.id for inspection, review in rows if review is None]
        if unanswered:
            raise StationError(
                Code.AUDIT_INCOMPLETE,
                f"{len(unanswered)} of the {len(rows)} images in the audit sample of {wanted.model} have no review, "
                "and those that have one may not be like them",
                todo=f"Review them, beginning with inspection {unanswered[-1]}, or choose a time in which all are",
            )
        return rows

    def _changes(
        self, wanted: Wanted, version: ModelVersion, before: Calibration, after: Calibration
    ) -> tuple[int, Counter[tuple[Verdict, Verdict]], list[Change]]:
        """The newest inspections, judged by both."""
        newest = Filter(model=wanted.model, station=self.inspections.station)
        rows = self.inspections.page(newest, None, wanted.looked_at)
        scored = self.rescoring.score(version, [inspection for inspection, _ in rows])
        verdicts: Counter[tuple[Verdict, Verdict]] = Counter()
        changes = []
        for inspection, review in rows:
            score = scored[inspection.id].score if inspection.id in scored else None
            if score is None:
                continue
            pair = before.verdict(score), after.verdict(score)
            verdicts[pair] += 1
            if pair[0] != pair[1]:
                changes.append(Change(inspection.id, score, *pair, None if review is None else review.label))
        return verdicts.total(), verdicts, changes


def recalibrated(manifest: Manifest, found: Recalibration, mode: Mode) -> Manifest:
    """The manifest with the new calibration, and with the images that it rests on."""
    images = manifest.training.images
    if mode == "replace":
        images = tuple(
            image.model_copy(update={"role": "train"}) if image.role == "train and calibration" else image
            for image in images
            if image.role != "calibration"
        )
    images += tuple(found.images)
    digest = hashlib.sha256(json.dumps([image.model_dump() for image in images]).encode()).hexdigest()
    sample = found.sample
    note = (
        f"{manifest.training.note} Recalibrated ({mode}) on {sample.used} good images of an audit sample of "
        f"{sample.share:.2%}, of version {found.version.version}."
    ).strip()
    training = manifest.training.model_copy(update={"images": images, "fingerprint": digest, "note": note})
    return manifest.model_copy(update={"calibration": found.after, "training": training})
