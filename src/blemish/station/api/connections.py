"""Adding, trying, changing and removing sources and sinks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from blemish.station.api.answers import FieldRefusal, refusals
from blemish.station.api.flow import Name, SinkShown, SourceShown
from blemish.station.api.guards import Managing, TheStation
from blemish.station.connections.connecting import Waiting
from blemish.station.connections.entered import SinkWanted, SourceWanted
from blemish.station.connections.trial import Found
from blemish.station.errors import Code, StationError
from blemish.station.station import Station

router = APIRouter(prefix="/api/v1", tags=["sources and sinks"])

Fate = Annotated[
    Waiting | None,
    Query(description="what becomes of results that wait for a sink of this name; asked for if there are any"),
]
Change = Annotated[bool, Query(description="whether it is to take the place of the one of its name")]

_ENTERED = (Code.CONNECTION_INVALID, Code.STORAGE_FAILED)
_CHANGED = (Code.NOT_FOUND, Code.FROM_FILE)


class Trial(BaseModel):
    """What came of trying a connection."""

    works: bool
    facts: dict[str, int] = Field(description="numbers that tell of it: images, width and height, status")
    problem: FieldRefusal | None

    @classmethod
    def of(cls, found: Found) -> Trial:
        """As it is shown."""
        wrong = None if found.complaint is None else FieldRefusal(**found.complaint.document())
        return cls(works=wrong is None, facts=found.facts, problem=wrong)


class Thrown(BaseModel):
    """How many results were thrown away."""

    count: int


@router.post("/sources", status_code=201, responses=refusals(Code.NAME_TAKEN, *_ENTERED))
def add_source(station: TheStation, who: Managing, wanted: SourceWanted) -> SourceShown:
    """Watch a folder, or look through a camera, from now on."""
    station.connecting.add("source", wanted, None, who.by)
    return _source(station, wanted.name)


@router.post("/sources/try", responses=refusals(Code.NAME_TAKEN, *_CHANGED, *_ENTERED))
def try_source(station: TheStation, who: Managing, wanted: SourceWanted, change: Change = False) -> Trial:
    """Look into a folder, or take a frame of a camera; nothing is inspected or kept."""
    return Trial.of(station.connecting.try_out("source", wanted, change=change))


@router.put("/sources/{name}", responses=refusals(*_CHANGED, *_ENTERED))
def change_source(station: TheStation, who: Managing, name: Name, wanted: SourceWanted) -> SourceShown:
    """Have a source be another from now on. Its name and its kind stay."""
    station.connecting.change("source", name, wanted, None, who.by)
    return _source(station, name)


@router.delete("/sources/{name}", status_code=204, responses=refusals(*_CHANGED))
def remove_source(station: TheStation, who: Managing, name: Name) -> None:
    """Take a source away. Its files stay where they are."""
    station.connecting.remove("source", name, None, who.by)


@router.post("/sources/{name}/pause", responses=refusals(*_CHANGED))
def pause_source(station: TheStation, who: Managing, name: Name) -> SourceShown:
    """Have nothing more of a source inspected."""
    station.connecting.pause("source", name, True, who.by)
    return _source(station, name)


@router.post("/sources/{name}/resume", responses=refusals(*_CHANGED, Code.CONNECTION_INVALID))
def resume_source(station: TheStation, who: Managing, name: Name) -> SourceShown:
    """Have a paused source go on."""
    station.connecting.pause("source", name, False, who.by)
    return _source(station, name)


@router.post("/sinks", status_code=201, responses=refusals(Code.NAME_TAKEN, Code.RESULTS_WAITING, *_ENTERED))
def add_sink(station: TheStation, who: Managing, wanted: SinkWanted, waiting: Fate = None) -> SinkShown:
    """Send results to a webhook, a broker or a CSV file from now on."""
    station.connecting.add("sink", wanted, waiting, who.by)
    return _sink(station, wanted.name)


@router.post("/sinks/try", responses=refusals(Code.NAME_TAKEN, *_CHANGED, *_ENTERED))
def try_sink(station: TheStation, who: Managing, wanted: SinkWanted, change: Change = False) -> Trial:
    """Post a greeting, sign in at a broker, or see whether a file can be written."""
    return Trial.of(station.connecting.try_out("sink", wanted, change=change))


@router.put("/sinks/{name}", responses=refusals(*_CHANGED, Code.RESULTS_WAITING, *_ENTERED))
def change_sink(station: TheStation, who: Managing, name: Name, wanted: SinkWanted, waiting: Fate = None) -> SinkShown:
    """Have a sink be another from now on. Its name and its kind stay; what waits is sent to where it is then."""
    station.connecting.change("sink", name, wanted, waiting, who.by)
    return _sink(station, name)


@router.delete("/sinks/{name}", status_code=204, responses=refusals(*_CHANGED, Code.RESULTS_WAITING))
def remove_sink(station: TheStation, who: Managing, name: Name, waiting: Fate = None) -> None:
    """Take a sink away. What waits for it is kept for the next one of its name, or thrown away."""
    station.connecting.remove("sink", name, waiting, who.by)


@router.post("/sinks/{name}/pause", responses=refusals(*_CHANGED))
def pause_sink(station: TheStation, who: Managing, name: Name) -> SinkShown:
    """Have everything wait for a sink."""
    station.connecting.pause("sink", name, True, who.by)
    return _sink(station, name)


@router.post("/sinks/{name}/resume", responses=refusals(*_CHANGED, Code.CONNECTION_INVALID))
def resume_sink(station: TheStation, who: Managing, name: Name) -> SinkShown:
    """Have a paused sink get what waits for it."""
    station.connecting.pause("sink", name, False, who.by)
    return _sink(station, name)


@router.delete("/sinks/{name}/waiting", responses=refusals(Code.NOT_FOUND, Code.WRONG_STATE))
def discard(station: TheStation, who: Managing, name: Name) -> Thrown:
    """Throw away what waits for a sink that is not there any more."""
    return Thrown(count=station.connecting.discard(name, who.by))


def _source(station: Station, name: str) -> SourceShown:
    for state in station.sources.states():
        if state.name == name:
            return SourceShown.of(state)
    raise StationError(Code.NOT_FOUND, f"there is no source {name}")


def _sink(station: Station, name: str) -> SinkShown:
    for state in station.senders.states():
        if state.name == name:
            return SinkShown.of(state)
    raise StationError(Code.NOT_FOUND, f"there is no sink {name}")
