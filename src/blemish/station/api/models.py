"""The models of a station: what there is, and which version judges."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Looking, Managing, TheStation
from blemish.station.api.inspections import VersionNumber
from blemish.station.errors import Code
from blemish.station.models import ModelState
from blemish.station.tables import ModelVersion

router = APIRouter(prefix="/api/v1/models", tags=["models"])

Name = Annotated[str, Path(max_length=100)]


class VersionShown(BaseModel):
    """A version of a model, and what a person asks of it."""

    version: int
    sha256: str
    added: datetime
    active: bool
    method: str
    method_title: str
    false_alarm_rate: float
    review_rate: float
    calibration_images: int

    @classmethod
    def of(cls, row: ModelVersion, active: bool) -> VersionShown:
        """A row as it is shown."""
        calibration = row.manifest["calibration"]
        return cls(
            version=row.version,
            sha256=row.sha256,
            added=row.added,
            active=active,
            method=row.manifest["method"],
            method_title=row.manifest["method_title"],
            false_alarm_rate=calibration["false_alarm_rate"],
            review_rate=calibration["review_rate"],
            calibration_images=len(calibration["scores"]),
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
    def of(cls, state: ModelState) -> ModelShown:
        """A state as it is shown."""
        versions = [VersionShown.of(row, row.version == state.active) for row in state.versions]
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


class ActivationWanted(BaseModel):
    """Which version is to judge."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber


@router.get("", responses=refusals())
def list_models(station: TheStation, who: Looking) -> ModelList:
    """All models and their versions, and the files in the folder that are broken."""
    return ModelList(models=[ModelShown.of(state) for state in station.models.states()])


@router.get("/{name}", responses=refusals(Code.NO_SUCH_MODEL))
def one_model(station: TheStation, who: Looking, name: Name) -> ModelShown:
    """One model and its versions."""
    return ModelShown.of(station.models.state(name))


@router.post("/scan", responses=refusals())
def scan(station: TheStation, who: Managing) -> ModelList:
    """Look into the folder now, instead of within the next seconds."""
    station.models.scan()
    return list_models(station, who)


@router.post("/{name}/activate", responses=refusals(Code.NO_SUCH_MODEL, Code.NO_SUCH_VERSION, Code.MODEL_BROKEN))
def activate(station: TheStation, who: Managing, name: Name, wanted: ActivationWanted) -> ModelShown:
    """Judge with this version from now on. Requests that already wait are judged by the version they came to."""
    station.models.activate(name, wanted.version, who.by)
    return ModelShown.of(station.models.state(name))


@router.post(
    "/{name}/rollback", responses=refusals(Code.NO_SUCH_MODEL, Code.NOTHING_TO_ROLL_BACK_TO, Code.MODEL_BROKEN)
)
def roll_back(station: TheStation, who: Managing, name: Name) -> ModelShown:
    """Judge again with the version that was active before this one."""
    station.models.roll_back(name, who.by)
    return ModelShown.of(station.models.state(name))
