"""How the station is; for an admin also who may do what, and who did."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select

from blemish.station.api.guards import TheStation
from blemish.station.api.inspections import Before
from blemish.station.archive_state import Standing
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.people import Right
from blemish.station.station import Station
from blemish.station.tables import Inspection

PLACE = Place("/system", "system")
router = page_router()
TheFrame = Annotated[Frame, Depends(seen_by(PLACE.right))]

PACKAGES: Final = ("onnxruntime", "numpy", "pillow", "fastapi", "sqlalchemy")
AUDIT_ROWS = 50
LOW_DISK = 0.1
"""A smaller share of free disk is worth a warning."""


@router.get(PLACE.path)
def system(frame: TheFrame, station: TheStation, before: Before = None) -> HTMLResponse:
    """Health, queues, disk, database, versions; for an admin also people, tokens and the audit log."""
    disk = shutil.disk_usage(station.settings.data)
    pictures = station.looking.standing()
    with station.store.read() as session:
        inspections, last = session.execute(select(func.count(), func.max(Inspection.time))).one()
    return frame.page(
        "system.html.jinja",
        draining=station.draining,
        started=station.started,
        states=station.models.states(),
        queue=station.settings.queue,
        disk=disk,
        low=disk.free < LOW_DISK * disk.total or _low(pictures),
        pictures=pictures,
        elsewhere=station.settings.pictures is not None,
        swept=station.swept,
        data=station.settings.data,
        database=station.store.engine.url.render_as_string(hide_password=True),
        database_bytes=_size(station),
        inspections=inspections,
        last=last,
        retention=station.settings.retention,
        versions=_versions(),
        **(_people(station, before) if frame.may(Right.MANAGE) else {}),
    )


def _people(station: Station, before: int | None) -> dict[str, Any]:
    entries = station.people.audit(before, AUDIT_ROWS + 1)
    return {
        "accounts": station.people.accounts(),
        "tokens": station.people.tokens(),
        "entries": entries[:AUDIT_ROWS],
        "older": entries[AUDIT_ROWS - 1].id if len(entries) > AUDIT_ROWS else None,
    }


def _low(pictures: Standing) -> bool:
    return pictures.free is not None and pictures.total is not None and pictures.free < LOW_DISK * pictures.total


def _size(station: Station) -> int | None:
    """Of the database's file, if it is one."""
    if station.store.shared:
        return None
    return Path(str(station.store.engine.url.database)).stat().st_size


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
