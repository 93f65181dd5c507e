"""The models of a station: what there is, and which version judges."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from blemish.decisions import Calibration
from blemish.station.api.answers import refusals
from blemish.station.api.guards import Looking, Managing, TheStation
from blemish.station.api.inspections import VersionNumber
from blemish.station.errors import Code
from blemish.station.inspections import Label, VerdictName
from blemish.station.models import Models, ModelState
from blemish.station.tables import ModelVersion
from blemish.station.whatif import WhatIf, expected_rate, rate_range, what_if

router = APIRouter(prefix="/api/v1/models", tags=["models"])

Name = Annotated[str, Path(max_length=100)]
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class VersionShown(BaseModel):
    """A version of a model, and what a person asks of it."""

    version: int
    sha256: str
    added: datetime
    active: bool
    method: str
    method_title: str
    false_alarm_rate: float = Field(description="by which it judges here")
    review_rate: float = Field(description="by which it judges here")
    false_alarm_rate_of_file: float
    review_rate_of_file: float
    calibration_images: int

    @classmethod
    def of(cls, row: ModelVersion, active: bool, calibration: Calibration) -> VersionShown:
        """A row as it is shown."""
        of_file = row.manifest["calibration"]
        return cls(
            version=row.version,
            sha256=row.sha256,
            added=row.added,
            active=active,
            method=row.manifest["method"],
            method_title=row.manifest["method_title"],
            false_alarm_rate=calibration.false_alarm_rate,
            review_rate=calibration.review_rate,
            false_alarm_rate_of_file=of_file["false_alarm_rate"],
            review_rate_of_file=of_file["review_rate"],
            calibration_images=calibration.n,
        )


class ModelShown(BaseModel):
    """A model as it stands."""

    name: str
    active: int | None
    ready: bool
    waiting: int = Field(description="images in its queue")
    problem: str | None = Field(description="why the file in the folder, or the active version, cannot be used")
    versions: list[VersionShown]

    @classmethod
    def of(cls, state: ModelState, models: Models) -> ModelShown:
        """A state as it is shown."""
        versions = [
            VersionShown.of(row, row.version == state.active, models.calibration(row)) for row in state.versions
        ]
        return cls(
            name=state.name,
            active=state.active,
            ready=state.ready,
            waiting=state.waiting,
            problem=state.problem,
            versions=versions,
        )


class ModelList(BaseModel):
    """All models, by name."""

    models: list[ModelShown]


class RatesWanted(BaseModel):
    """Rates to judge by."""

    model_config = ConfigDict(extra="forbid")

    false_alarm_rate: Rate
    review_rate: Rate


class VerdictChange(BaseModel):
    """How many would get another verdict."""

    was: VerdictName
    becomes: VerdictName
    count: int


class ChangedInspection(BaseModel):
    """An inspection that would get another verdict."""

    id: int
    was: VerdictName
    becomes: VerdictName


class ReviewedCount(BaseModel):
    """How many parts that a person calls normal or anomalous would get a verdict."""

    label: Label
    verdict: VerdictName
    count: int


class WhatIfShown(BaseModel):
    """What rates would have done to the images that a version has judged. Rejected ones have no p-value."""

    false_alarm_rate: float
    review_rate: float
    calibration_images: int
    smallest_rate: float = Field(description="the smallest false-alarm rate that the calibration images allow")
    expected_rate: float = Field(description="of false alarms, in the mean over calibrations")
    rate_range: list[float] = Field(description="between which the true rate lies for 9 calibrations out of 10")
    images: int
    before: dict[VerdictName, int]
    after: dict[VerdictName, int]
    changes: list[VerdictChange]
    changed: list[ChangedInspection] = Field(description="the newest of them")
    reviewed: list[ReviewedCount]

    @classmethod
    def of(cls, found: WhatIf) -> WhatIfShown:
        """As it is shown."""
        calibration = found.calibration
        rate, n = calibration.false_alarm_rate, calibration.n
        return cls(
            false_alarm_rate=rate,
            review_rate=calibration.review_rate,
            calibration_images=n,
            smallest_rate=calibration.smallest_rate,
            expected_rate=expected_rate(rate, n),
            rate_range=list(rate_range(rate, n)),
            images=found.images,
            before={verdict.value: count for verdict, count in found.before.items()},
            after={verdict.value: count for verdict, count in found.after.items()},
            changes=[VerdictChange(was=w.value, becomes=b.value, count=n) for (w, b), n in found.changes.items()],
            changed=[ChangedInspection(id=c.id, was=c.was.value, becomes=c.becomes.value) for c in found.changed],
            reviewed=[
                ReviewedCount.model_validate({"label": label, "verdict": verdict.value, "count": count})
                for (label, verdict), count in found.reviewed.items()
            ],
        )


class ActivationWanted(BaseModel):
    """Which version is to judge."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber


@router.get("", responses=refusals())
def list_models(station: TheStation, who: Looking) -> ModelList:
    """All models and their versions, and the files in the folder that are broken."""
    return ModelList(models=[ModelShown.of(state, station.models) for state in station.models.states()])


@router.get("/{name}", responses=refusals(Code.NO_SUCH_MODEL))
def one_model(station: TheStation, who: Looking, name: Name) -> ModelShown:
    """One model and its versions."""
    return ModelShown.of(station.models.state(name), station.models)


@router.post("/scan", responses=refusals())
def scan(station: TheStation, who: Managing) -> ModelList:
    """Look into the folder now, instead of within the next seconds."""
    station.models.scan()
    return list_models(station, who)


@router.post("/{name}/activate", responses=refusals(Code.NO_SUCH_MODEL, Code.NO_SUCH_VERSION, Code.MODEL_BROKEN))
def activate(station: TheStation, who: Managing, name: Name, wanted: ActivationWanted) -> ModelShown:
    """Judge with this version from now on. Requests that already wait are judged by the version they came to."""
    station.models.activate(name, wanted.version, who.by)
    return ModelShown.of(station.models.state(name), station.models)


@router.post(
    "/{name}/rollback", responses=refusals(Code.NO_SUCH_MODEL, Code.NOTHING_TO_ROLL_BACK_TO, Code.MODEL_BROKEN)
)
def roll_back(station: TheStation, who: Managing, name: Name) -> ModelShown:
    """Judge again with the version that was active before this one."""
    station.models.roll_back(name, who.by)
    return ModelShown.of(station.models.state(name), station.models)


@router.get("/{name}/versions/{version}/what-if", responses=refusals(Code.NO_SUCH_MODEL, Code.NO_SUCH_VERSION))
def ask_what_if(
    station: TheStation,
    who: Looking,
    name: Name,
    version: Version,
    false_alarm_rate: Annotated[Rate | None, Query(description="default is the one that holds")] = None,
    review_rate: Annotated[Rate | None, Query(description="default is the one that holds")] = None,
    last: Annotated[int, Query(ge=1, le=10_000, description="how many of its newest images to look at")] = 1000,
) -> WhatIfShown:
    """What other rates would have done to the images that a version has judged at this station. Changes nothing."""
    row = station.models.version(name, version)
    calibration = station.models.calibration(row).with_rates(false_alarm_rate, review_rate)
    return WhatIfShown.of(what_if(station.store, station.settings.name, name, version, calibration, last))


@router.post("/{name}/versions/{version}/rates", responses=refusals(Code.NO_SUCH_MODEL, Code.NO_SUCH_VERSION))
def choose_rates(station: TheStation, who: Managing, name: Name, version: Version, wanted: RatesWanted) -> ModelShown:
    """Have a version judge by these rates from now on, at this station; nothing is trained anew."""
    station.models.choose_rates(name, version, wanted.false_alarm_rate, wanted.review_rate, who.by)
    return ModelShown.of(station.models.state(name), station.models)
