"""How the station is."""

from __future__ import annotations

import shutil
from typing import Annotated

from fastapi import Depends
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.pages.frame import Frame, Place, page_router, seen_by

PLACE = Place("/system", "system")
router = page_router()


@router.get(PLACE.path)
def system(frame: Annotated[Frame, Depends(seen_by(PLACE.right))], station: TheStation) -> HTMLResponse:
    """Health, disk, versions; for an admin also people, tokens and the audit log."""
    disk = shutil.disk_usage(station.settings.data)
    return frame.page("system.html.jinja", disk=disk)
