"""Sources and sinks: how they stand, frames on demand, and what a sink has refused."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Inspecting, Looking, Managing, TheStation
from blemish.station.api.inspections import LARGEST_KEY, Before, Inspected, InspectionShown, Limit
from blemish.station.connections.kinds import Origin
from blemish.station.errors import Code
from blemish.station.sinks import SinkState
from blemish.station.sources import SourceState
from blemish.station.station import Sent

router = APIRouter(prefix="/api/v1", tags=["sources and sinks"])

Name = Annotated[str, Path(max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class SourceShown(BaseModel):
    """A source as it stands."""

    name: str
    kind: str
    address: str
    model: str | None
    origin: Origin = Field(description="where it was named; what the configuration file names is changed there")
    paused: bool
    options: dict[str, Any] = Field(description="what was said of it; of secrets only whether there is one")
    connected: bool
    counts: dict[str, int] = Field(description="since the start of the station")
    last: datetime | None = Field(description="when its newest inspection was stored")
    problem: str | None

    @classmethod
    def of(cls, state: SourceState) -> SourceShown:
        """A source as it is shown."""
        return cls.model_validate(state, from_attributes=True)


class Sources(BaseModel):
    """All of them: those of the configuration file in its order, then the others."""

    sources: list[SourceShown]


class SinkShown(BaseModel):
    """A sink as it stands."""

    name: str
    kind: str
    address: str
    origin: Origin = Field(description="where it was named; what the configuration file names is changed there")
    paused: bool = Field(description="nothing is delivered, and everything waits")
    options: dict[str, Any] = Field(description="what was said of it; of secrets only whether there is one")
    waiting: int
    dead: int = Field(description="results that it has refused for good")
    delivered: int = Field(description="since the start of the station")
    dropped: int = Field(description="that were too many to wait, since the start of the station")
    last: datetime | None = Field(description="when it last took something")
    problem: str | None

    @classmethod
    def of(cls, state: SinkState) -> SinkShown:
        """A sink as it is shown."""
        return cls.model_validate(state, from_attributes=True)


class LeftShown(BaseModel):
    """What waits for a sink that is not there any more; one that is added under its name gets it."""

    name: str
    waiting: int
    dead: int


class Sinks(BaseModel):
    """All of them: those of the configuration file in its order, then the others."""

    sinks: list[SinkShown]
    left: list[LeftShown]


class DeadLetter(BaseModel):
    """What a sink has refused for good. body : what it was sent."""

    id: int
    time: datetime
    event: str
    attempts: int
    problem: str | None
    body: dict[str, Any]


class DeadLetters(BaseModel):
    """Some of them, newest first."""

    letters: list[DeadLetter]
    next: int | None


class SendWanted(BaseModel):
    """Which dead letters are to be sent again; null is all of the sink."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_KEY)]], Field(max_length=1000)] | None = None


class Sending(BaseModel):
    """How many dead letters wait again."""

    count: int


@router.get("/sources", responses=refusals())
def sources(station: TheStation, who: Looking) -> Sources:
    """Watched folders and cameras, as they stand."""
    return Sources(sources=[SourceShown.of(state) for state in station.sources.states()])


@router.post(
    "/sources/{name}/trigger",
    responses=refusals(
        Code.NOT_FOUND,
        Code.SOURCE_UNAVAILABLE,
        Code.MODEL_NEEDED,
        Code.NO_SUCH_MODEL,
        Code.QUEUE_FULL,
        Code.MODEL_NOT_READY,
        Code.STORAGE_FAILED,
        Code.DRAINING,
    ),
)
async def trigger(station: TheStation, who: Inspecting, name: Name) -> Inspected:
    """Inspect the first frame that a camera gives after this request."""
    with station.admitted():
        content, model = await asyncio.to_thread(station.sources.frame, name)
        rows = await station.inspect([Sent(content)], model, None, name)
    return Inspected(inspections=[InspectionShown.of(row) for row in rows])


@router.get("/sinks", responses=refusals())
def sinks(station: TheStation, who: Looking) -> Sinks:
    """Webhooks, brokers and CSV files, as they stand."""
    left = station.connecting.left().items()
    return Sinks(
        sinks=[SinkShown.of(state) for state in station.senders.states()],
        left=[LeftShown(name=name, waiting=waiting, dead=dead) for name, (waiting, dead) in left],
    )


@router.get("/sinks/{name}/dead-letters", responses=refusals(Code.NOT_FOUND))
def dead_letters(
    station: TheStation, who: Looking, name: Name, before: Before = None, limit: Limit = 50
) -> DeadLetters:
    """What a sink has refused for good, newest first."""
    rows = station.outbox.dead_letters(name, before, limit + 1)
    letters = [DeadLetter.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return DeadLetters(letters=letters, next=letters[-1].id if len(rows) > limit else None)


@router.post("/sinks/{name}/dead-letters/send", responses=refusals(Code.NOT_FOUND))
def send_again(station: TheStation, who: Managing, name: Name, wanted: SendWanted) -> Sending:
    """Have dead letters tried again."""
    count = station.outbox.send_again(name, wanted.ids, who.by)
    station.senders.wake()
    return Sending(count=count)
