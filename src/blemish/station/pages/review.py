"""The queue of those inspections that a person should look at."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.api.inspections import ModelName
from blemish.station.inspections import QUEUE
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.people import Right

PLACE = Place("/review", "review", Right.REVIEW)
router = page_router()


@router.get(PLACE.path)
def review(
    frame: Annotated[Frame, Depends(seen_by(PLACE.right))], station: TheStation, model: ModelName | None = None
) -> HTMLResponse:
    """The page; its script asks the API for the queue."""
    models = [state.name for state in station.models.states()]
    return frame.page("review.html.jinja", models=models, model=model, verdicts=QUEUE)
