"""Training new versions of models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Managing, TheStation
from blemish.station.api.inspections import LARGEST_KEY, Before, Limit, ModelName, in_utc
from blemish.station.errors import Code
from blemish.station.tables import Training
from blemish.station.trainings import INSTALL, Preset, State, Wanted, phase_of

router = APIRouter(prefix="/api/v1/trainings", tags=["trainings"])

Number = Annotated[int, Path(ge=1, le=LARGEST_KEY, description="of the training")]
FolderName = Annotated[str, StringConstraints(min_length=1, max_length=4000, pattern=r"^[^\x00-\x1f\x7f]+$")]


class TrainingWanted(BaseModel):
    """What to learn from, and how."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = Field(description="whose next version it becomes")
    folder: FolderName | None = Field(
        default=None,
        description="of images on the station's machine; null takes the images of the model that people found good",
    )
    since: AwareDatetime | None = Field(default=None, description="no older ones of the images that people found good")
    method: Annotated[str, StringConstraints(pattern=r"^[\w+.\-]{1,50}$")] = "rd"
    preset: Preset = "auto"
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="default is 1 %, or the smallest that the images allow"
    )


class TrainingShown(BaseModel):
    """A training as it stands."""

    id: int
    added: datetime
    by: str
    model: str
    source: Literal["folder", "reviewed"]
    folder: str | None
    images: int | None = Field(description="how many, of those that people found good")
    method: str
    preset: Preset
    false_alarm_rate: float | None
    state: State
    started: datetime | None
    ended: datetime | None
    phase: str = Field(
        description="starting, reading, choosing (a method), teacher (its features), learning, suspects, exporting, "
        "calibrating"
    )
    stage: str = Field(description="of the method, while it learns; else what the phase is called")
    progress: float = Field(description="of the stage, from 0 to 1")
    note: str = Field(description="such as steps done and to do, and the loss")
    chosen: str | None = Field(description="the method that the images asked for, where it was left to them")
    why: str | None = Field(description="they asked for it")
    problem: str = Field(description="why it failed")
    version: int | None = Field(description="of the model, which it became: a candidate until it is activated")

    @classmethod
    def of(cls, row: Training) -> TrainingShown:
        """A row as it is shown."""
        names = ("id", "added", "by", "model", "source", "folder", "state", "started", "ended")
        fields: dict[str, Any] = {
            name: getattr(row, name) for name in (*names, "stage", "progress", "chosen", "why", "problem", "version")
        }
        images = row.options.get("images")
        return cls(
            **fields,
            phase=phase_of(row.stage),
            note=row.note or "",
            images=None if images is None else len(images),
            method=row.options["method"],
            preset=row.options["preset"],
            false_alarm_rate=row.options.get("false_alarm_rate"),
        )


class TrainingPage(BaseModel):
    """Some of the trainings, newest first."""

    trainings: list[TrainingShown]
    next: int | None


class LineShown(BaseModel):
    """A line of a log. kind: what it says, warns of, or what a library printed."""

    time: datetime
    kind: str
    text: str


class Log(BaseModel):
    """The last lines of a log."""

    lines: list[LineShown]


class MethodShown(BaseModel):
    """A method."""

    name: str
    title: str


class Choices(BaseModel):
    """What a training can be asked for."""

    unavailable: str | None = Field(description="why nothing can be trained here; null if it can")
    methods: list[MethodShown] | None = Field(description="null while that is being found out: ask again")
    folders: list[str] = Field(description="that may be trained on, and those in them; deeper ones may be, too")


@router.post(
    "",
    status_code=201,
    responses=refusals(
        Code.TRAINING_NOT_INSTALLED,
        Code.FOLDER_NOT_ALLOWED,
        Code.NO_SUCH_FOLDER,
        Code.NO_SUCH_MODEL,
        Code.NOT_ENOUGH_IMAGES,
        Code.DRAINING,
    ),
)
def add_training(station: TheStation, who: Managing, wanted: TrainingWanted) -> TrainingShown:
    """Train, once those before it are over. What comes out becomes a candidate, never active by itself."""
    fields = wanted.model_dump() | {"since": in_utc(wanted.since)}
    return TrainingShown.of(station.trainings.add(Wanted(**fields), who.by))


@router.get("", responses=refusals())
def list_trainings(station: TheStation, who: Managing, before: Before = None, limit: Limit = 50) -> TrainingPage:
    """The trainings of this station, newest first."""
    rows = station.trainings.page(before, limit + 1)
    shown = [TrainingShown.of(row) for row in rows[:limit]]
    return TrainingPage(trainings=shown, next=shown[-1].id if len(rows) > limit else None)


@router.get("/choices", responses=refusals())
def choices(station: TheStation, who: Managing) -> Choices:
    """What can be chosen."""
    missing = station.trainings.unavailable()
    methods = [] if missing else station.trainings.methods()
    shown = None if methods is None else [MethodShown(name=one.name, title=one.title) for one in methods]
    unavailable = f"{missing}. {INSTALL}" if missing else None
    return Choices(unavailable=unavailable, methods=shown, folders=station.trainings.folders())


@router.get("/{number}", responses=refusals(Code.NO_SUCH_TRAINING))
def one_training(station: TheStation, who: Managing, number: Number) -> TrainingShown:
    """One training, and how far it is."""
    return TrainingShown.of(station.trainings.get(number))


@router.get("/{number}/log", responses=refusals(Code.NO_SUCH_TRAINING, Code.STORAGE_FAILED))
def log(station: TheStation, who: Managing, number: Number) -> Log:
    """What a training has said so far."""
    lines = [LineShown.model_validate(line, from_attributes=True) for line in station.trainings.log(number)]
    return Log(lines=lines)


@router.post("/{number}/cancel", responses=refusals(Code.NO_SUCH_TRAINING, Code.WRONG_STATE))
def cancel(station: TheStation, who: Managing, number: Number) -> TrainingShown:
    """End a training for good, and throw away what it has learned."""
    return TrainingShown.of(station.trainings.cancel(number, who.by))


@router.post(
    "/{number}/continue",
    responses=refusals(Code.NO_SUCH_TRAINING, Code.WRONG_STATE, Code.TRAINING_NOT_INSTALLED, Code.DRAINING),
)
def resume(station: TheStation, who: Managing, number: Number) -> TrainingShown:
    """Go on with a training that was interrupted or failed, from where its state was last saved."""
    return TrainingShown.of(station.trainings.resume(number, who.by))
