"""What can be done about the versions of a model: recalibrating one, comparing two. The page of models leads here."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.api.inspections import VersionNumber
from blemish.station.api.models import Name
from blemish.station.inspections import QUEUE
from blemish.station.pages.frame import Frame, page_router, seen_by
from blemish.station.people import Right

router = page_router()
TheFrame = Annotated[Frame, Depends(seen_by(Right.MANAGE))]
Version = Annotated[VersionNumber | None, Query()]

LOOKED_AT = (100, 200, 500)


@router.get("/models/{name}/recalibrate")
def recalibrate(frame: TheFrame, station: TheStation, name: Name, version: Version = None) -> HTMLResponse:
    """The page; its script asks the API what a recalibration would do."""
    chosen = station.models.version(name, version)
    return frame.page(
        "recalibrate.html.jinja",
        model=station.models.state(name),
        chosen=chosen.version,
        share=station.inspections.audit_share,
        looked_at=LOOKED_AT,
    )


@router.get("/models/{name}/compare")
def compare(
    frame: TheFrame, station: TheStation, name: Name, first: Version = None, second: Version = None
) -> HTMLResponse:
    """The page; its script has the API compare two versions: those named, or the active and the newest one."""
    state = station.models.state(name)
    newest = station.models.version(name, second or (state.versions[-1].version if state.versions else None))
    return frame.page(
        "compare.html.jinja",
        model=state,
        first=first or state.active,
        second=newest.version,
        verdicts=QUEUE,
        looked_at=LOOKED_AT,
    )
