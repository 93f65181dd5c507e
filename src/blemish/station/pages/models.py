"""The models of the station: which version judges, which could, and what is wrong with a file."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.api.models import ModelShown
from blemish.station.pages.frame import Frame, Place, page_router, seen_by

PLACE = Place("/models", "models")
router = page_router()


@router.get(PLACE.path)
def models(frame: Annotated[Frame, Depends(seen_by(PLACE.right))], station: TheStation) -> HTMLResponse:
    """All models and their versions."""
    shown = [ModelShown.of(state, station.models) for state in station.models.states()]
    return frame.page("models.html.jinja", models=shown, folder=station.settings.models)
