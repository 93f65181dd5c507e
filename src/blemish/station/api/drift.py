"""Whether production is still what a version was calibrated for."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Looking, Managing, TheStation
from blemish.station.api.inspections import VersionNumber
from blemish.station.api.models import Name
from blemish.station.drift.monitor import DriftShown, mean_and_deviation
from blemish.station.drift.pictures import STATISTICS
from blemish.station.errors import Code
from blemish.station.tables import DriftDay

router = APIRouter(prefix="/api/v1/models", tags=["drift"])

Version = Annotated[VersionNumber | None, Query(description="default is the active one")]


class Spread(BaseModel):
    """Mean and standard deviation."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        """Of some values; None of none."""
        if not values:
            return None
        mean = sum(values) / len(values)
        return cls(mean=mean, deviation=(sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5)


class Day(BaseModel):
    """The images of a day (UTC) that could be judged."""

    day: date
    images: int
    ng: int
    score: Spread
    p_values: list[int] = Field(description="how many lay in each tenth of 0 to 1")
    statistics: dict[str, Spread]
    value: float = Field(description="of the test, after the last of them")

    @classmethod
    def of(cls, row: DriftDay) -> Day:
        """A row as it is shown."""
        spreads = {}
        for name in ("score", *STATISTICS):
            mean, deviation = mean_and_deviation(row.summary, name)
            spreads[name] = Spread(mean=mean, deviation=deviation)
        return cls(
            day=date.fromisoformat(row.day),
            images=row.summary["images"],
            ng=row.summary["ng"],
            score=spreads.pop("score"),
            p_values=row.summary["p_values"],
            statistics=spreads,
            value=row.value,
        )


class DriftAnswer(BaseModel):
    """How a version stands at this station."""

    model: str
    version: int
    since: datetime | None = Field(description="when the test began; null before the first image")
    images: int = Field(description="that the test has seen")
    value: float = Field(description="of the test, 1 at first")
    limit: float = Field(description="an alarm is raised where the value reaches this")
    false_alarm_rate: float = Field(description="the chance that this ever happens though nothing changes")
    alarm: datetime | None
    cause: str | None = Field(description="what had changed most")
    values: dict[str, float] = Field(description="the parts, the largest of which is the value")
    calibration: Spread = Field(description="of the scores in the model file")
    reference_images: int = Field(description="of those whose brightness, sharpness and colour are compared with")
    reference_wanted: int
    reference: dict[str, Spread]
    days: list[Day] = Field(description="oldest first")

    @classmethod
    def of(cls, shown: DriftShown, false_alarm_rate: float, wanted: int) -> DriftAnswer:
        """As it is shown."""
        spreads = {name: Spread.of(shown.reference.get(name, [])) for name in STATISTICS}
        calibration = Spread.of(list(shown.calibration.scores))
        assert calibration is not None
        return cls(
            model=shown.model,
            version=shown.version,
            since=shown.since if shown.images else None,
            images=shown.images,
            value=shown.value,
            limit=shown.limit,
            false_alarm_rate=false_alarm_rate,
            alarm=shown.alarm,
            cause=shown.cause,
            values=shown.values,
            calibration=calibration,
            reference_images=len(shown.reference.get(STATISTICS[0], [])),
            reference_wanted=wanted,
            reference={name: spread for name, spread in spreads.items() if spread is not None},
            days=[Day.of(row) for row in shown.days],
        )


class ResetWanted(BaseModel):
    """Of which version the test is to begin anew; null is the active one."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber | None = None


_REFUSALS = refusals(Code.NO_SUCH_MODEL, Code.NO_SUCH_VERSION, Code.MODEL_NOT_READY)


@router.get("/{name}/drift", responses=_REFUSALS)
def drift(station: TheStation, who: Looking, name: Name, version: Version = None) -> DriftAnswer:
    """Scores and images by the day against calibration and reference, the test, and its alarm if there was one."""
    rules = station.settings.drift
    return DriftAnswer.of(station.monitor.shown(name, version), rules.false_alarm_rate, rules.reference)


@router.post("/{name}/drift/reset", responses=_REFUSALS)
def reset(station: TheStation, who: Managing, name: Name, wanted: ResetWanted) -> DriftAnswer:
    """Begin the test anew: the next images become the reference. The days stay; the audit log has the alarm."""
    station.monitor.reset(name, wanted.version, who.by)
    return drift(station, who, name, wanted.version)
