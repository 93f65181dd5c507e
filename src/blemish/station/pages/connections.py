"""Where images come from and where results go, and what a sink has refused."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.pages.frame import Frame, Place, page_router, seen_by

PLACE = Place("/connections", "connections")
router = page_router()

LETTERS = 20
"""Dead letters of a sink that are shown, the newest ones."""


@router.get(PLACE.path)
def connections(frame: Annotated[Frame, Depends(seen_by(PLACE.right))], station: TheStation) -> HTMLResponse:
    """Sources and sinks as they stand."""
    sinks = station.senders.states()
    return frame.page(
        "connections.html.jinja",
        sources=station.sources.states(),
        sinks=sinks,
        letters={sink.name: station.outbox.dead_letters(sink.name, None, LETTERS) for sink in sinks if sink.dead},
    )
