"""What can be done about the versions of a model: recalibrating one, comparing two."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from blemish.decisions import Calibration
from blemish.station.api.answers import refusals
from blemish.station.api.guards import Managing, TheStation
from blemish.station.api.inspections import VersionNumber, in_utc
from blemish.station.api.models import Name
from blemish.station.comparison import Comparison, Pair, Side, Which
from blemish.station.errors import Code
from blemish.station.inspections import Label, VerdictName
from blemish.station.recalibration import Guarantee, Mode, Recalibration, Wanted

router = APIRouter(prefix="/api/v1/models", tags=["models"])

Rate = Annotated[float, Field(gt=0, lt=1)]
Limit = Annotated[int, Field(ge=1, le=500, description="of the newest images")]


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecalibrationWanted(_Wanted):
    """Which images calibrate a version anew, and at which rates."""

    version: VersionNumber | None = Field(default=None, description="whose graph is kept; null is the active one")
    mode: Mode = Field(default="extend", description="extend keeps the calibration images that there are")
    since: AwareDatetime | None = Field(default=None, description="of the audit sample; included")
    until: AwareDatetime | None = Field(default=None, description="of the audit sample; not included")
    false_alarm_rate: Rate | None = Field(default=None, description="null keeps the one there is")
    review_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, description="null keeps it")
    look_at: Limit = 200
    take: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="the digest of what was looked at; null looks, and changes nothing"
    )


class CalibrationShown(BaseModel):
    """What verdicts rest on. A threshold is null where no score is above it."""

    images: int
    false_alarm_rate: float
    review_rate: float
    smallest_rate: float
    ng_above: float | None
    review_above: float | None
    pixels_above: float | None

    @classmethod
    def of(cls, calibration: Calibration) -> CalibrationShown:
        """As it is shown."""
        return cls(
            images=calibration.n,
            false_alarm_rate=calibration.false_alarm_rate,
            review_rate=calibration.review_rate,
            smallest_rate=calibration.smallest_rate,
            ng_above=_finite(calibration.threshold(calibration.false_alarm_rate)),
            review_above=_finite(calibration.threshold(calibration.review_rate)),
            pixels_above=_finite(calibration.pixel_threshold),
        )


class SampleShown(BaseModel):
    """What became of the audit sample: its images, each once, all of them reviewed."""

    share: float
    inspections: int
    normal: int
    anomalous: int
    seen: int = Field(description="normal ones that the version has seen in training, which do not count")
    without_picture: int
    rejected: int = Field(description="by this version")
    used: int
    alarms: int = Field(description="of the used ones, which are good: how many the version calls NG until now")


class VerdictsCounted(BaseModel):
    """How many images have the one verdict before, and the other after."""

    before: VerdictName
    after: VerdictName
    count: int


class ChangeShown(BaseModel):
    """An inspection that would have another verdict."""

    id: int
    score: float
    before: VerdictName
    after: VerdictName
    label: Label | None


class RecalibrationShown(BaseModel):
    """What a recalibration does."""

    version: int
    mode: Mode
    before: CalibrationShown
    after: CalibrationShown
    guarantee: Guarantee = Field(
        description="how far the false-alarm rate can be trusted. exact: for production as in the audit sample. "
        "same_production: if that is as it was when the first images were taken. approximate: as that, and the first "
        "images were scored by fits of a part of them"
    )
    sample: SampleShown
    looked_at: int
    verdicts: list[VerdictsCounted]
    changes: list[ChangeShown]
    digest: str
    taken: int | None = Field(description="the version that it became, a candidate; null if it was only looked at")

    @classmethod
    def of(cls, found: Recalibration, mode: Mode, taken: int | None) -> RecalibrationShown:
        """As it is shown."""
        counted = [
            VerdictsCounted(before=before.value, after=after.value, count=count)
            for (before, after), count in sorted(found.verdicts.items())
        ]
        return cls(
            version=found.version.version,
            mode=mode,
            before=CalibrationShown.of(found.before),
            after=CalibrationShown.of(found.after),
            guarantee=found.guarantee,
            sample=SampleShown.model_validate(found.sample, from_attributes=True),
            looked_at=found.looked_at,
            verdicts=counted,
            changes=[ChangeShown.model_validate(change, from_attributes=True) for change in found.changes],
            digest=found.digest,
            taken=taken,
        )


class ComparisonWanted(_Wanted):
    """Which versions, and on which images: the newest, or the newest of those reviewed or in the audit sample."""

    first: VersionNumber
    second: VersionNumber
    images: Which = "newest"
    limit: Limit = 200


class JudgementShown(BaseModel):
    """What a version says of an image. score and p_value are null if it rejects it."""

    verdict: VerdictName
    score: float | None
    p_value: float | None


class PairShown(BaseModel):
    """An image on which the versions differ. label: what people found."""

    id: int
    label: Label | None
    first: JudgementShown
    second: JudgementShown

    @classmethod
    def of(cls, pair: Pair) -> PairShown:
        """As it is shown."""
        return cls.model_validate(pair, from_attributes=True)


class SideShown(BaseModel):
    """A version on all of the images, and how it agrees with people."""

    version: int
    counts: dict[VerdictName, int]
    overkill: int = Field(description="good images that it calls NG")
    overkill_rate: float | None
    escape: int = Field(description="bad images that it calls OK")
    escape_rate: float | None

    @classmethod
    def of(cls, side: Side, found: Comparison) -> SideShown:
        """As it is shown."""
        return cls(
            version=side.version.version,
            counts={verdict.value: count for verdict, count in side.verdicts.items()},
            overkill=side.overkill,
            overkill_rate=side.overkill / found.normal if found.normal else None,
            escape=side.escape,
            escape_rate=side.escape / found.anomalous if found.anomalous else None,
        )


class ComparisonShown(BaseModel):
    """Two versions on the same images.

    Which images people review hangs on their verdicts, so that rates on `reviewed` are those of doubtful images. Those
    on `audit` are what production has.
    """

    first: SideShown
    second: SideShown
    images: int
    without_picture: int
    normal: int = Field(description="images that people found good, and that neither version has seen in training")
    anomalous: int
    seen: int = Field(description="reviewed images that a version has seen in training, which do not count")
    changes: list[PairShown]


_SCORING = (Code.NO_SUCH_MODEL, Code.NO_SUCH_VERSION, Code.MODEL_BROKEN, Code.BUSY, Code.DRAINING)


@router.post(
    "/{name}/recalibrate",
    responses=refusals(
        *_SCORING,
        Code.MODEL_NOT_READY,
        Code.AUDIT_INCOMPLETE,
        Code.NOT_ENOUGH_IMAGES,
        Code.LOOK_OUTDATED,
        Code.STORAGE_FAILED,
    ),
)
def recalibrate(station: TheStation, who: Managing, name: Name, wanted: RecalibrationWanted) -> RecalibrationShown:
    """Look at what a calibration on the audit sample would change; then take it, as a candidate with the same graph."""
    asked = Wanted(
        model=name,
        version=wanted.version,
        mode=wanted.mode,
        since=in_utc(wanted.since),
        until=in_utc(wanted.until),
        false_alarm_rate=wanted.false_alarm_rate,
        review_rate=wanted.review_rate,
        looked_at=wanted.look_at,
    )
    if wanted.take is None:
        return RecalibrationShown.of(station.recalibrating.look(asked), wanted.mode, None)
    found, version = station.recalibrating.take(asked, wanted.take, who.by)
    return RecalibrationShown.of(found, wanted.mode, version.version)


@router.post("/{name}/compare", responses=refusals(*_SCORING, Code.STORAGE_FAILED))
def compare(station: TheStation, who: Managing, name: Name, wanted: ComparisonWanted) -> ComparisonShown:
    """Have two versions judge the same stored images, at the lowest priority; nothing is changed."""
    found = station.comparing.compare(name, wanted.first, wanted.second, wanted.images, wanted.limit)
    return ComparisonShown(
        first=SideShown.of(found.first, found),
        second=SideShown.of(found.second, found),
        images=found.images,
        without_picture=found.without_picture,
        normal=found.normal,
        anomalous=found.anomalous,
        seen=found.seen,
        changes=[PairShown.of(pair) for pair in found.changes],
    )


def _finite(threshold: float) -> float | None:
    return threshold if abs(threshold) < float("inf") else None
