"""Training: what is to be learned from which images, and how far it is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.api.trainings import LineShown, Number, TrainingShown
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.people import Right
from blemish.station.station import Station

PLACE = Place("/trainings", "trainings", Right.MANAGE)
router = page_router()
TheFrame = Annotated[Frame, Depends(seen_by(PLACE.right))]

SHOWN = 30
PRESETS = ("auto", "fast", "paper")


@router.get(PLACE.path)
def trainings(frame: TheFrame, station: TheStation) -> HTMLResponse:
    """The form and the list; the page's script fetches what changes."""
    models = [state.name for state in station.models.states() if state.versions]
    return frame.page("trainings.html.jinja", models=models, presets=PRESETS, **_list(station))


@router.get(PLACE.path + "/board")
def board(frame: TheFrame, station: TheStation) -> HTMLResponse:
    """The list alone."""
    return frame.page("trainings_board.html.jinja", **_list(station))


@router.get(PLACE.path + "/{number}")
def training(frame: TheFrame, station: TheStation, number: Number) -> HTMLResponse:
    """One training and its log."""
    return frame.page("training.html.jinja", **_one(station, number))


@router.get(PLACE.path + "/{number}/board")
def training_board(frame: TheFrame, station: TheStation, number: Number) -> HTMLResponse:
    """What changes of it."""
    return frame.page("training_board.html.jinja", **_one(station, number))


def _list(station: Station) -> dict[str, Any]:
    return {"rows": [TrainingShown.of(row) for row in station.trainings.page(None, SHOWN)]}


def _one(station: Station, number: int) -> dict[str, Any]:
    lines = [LineShown.model_validate(line, from_attributes=True) for line in station.trainings.log(number)]
    return {"row": TrainingShown.of(station.trainings.get(number)), "lines": lines}
