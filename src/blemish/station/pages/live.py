"""The line as it runs: what came last, and how the day goes; to be read from two metres away."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Final

from fastapi import Depends
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.inspections import Filter
from blemish.station.pages.charts import Bar, stacked
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.station import Station
from blemish.station.tables import Inspection, now

PLACE = Place("/live", "live")
router = page_router()
TheFrame = Annotated[Frame, Depends(seen_by(PLACE.right))]

LATEST = 7
HOURS = 12
CHART_HEIGHT = 100.0
ORDER: Final = ("OK", "REVIEW", "NG", "REJECTED")

SHORTEST_QUIET = timedelta(seconds=30)
LONGEST_QUIET = timedelta(hours=1)
_GAPS = 20
_QUIET_GAPS = 10
"""A line is quiet when nothing came for so many times the usual gap between two images."""


@dataclass(frozen=True)
class Hour:
    """An hour of the day and how it went. bars : of the chart."""

    begin: datetime
    counts: dict[str, int]
    bars: list[Bar]


@router.get(PLACE.path)
def live(frame: TheFrame, station: TheStation) -> HTMLResponse:
    """The page; its script fetches the board again and again."""
    return frame.page("live.html.jinja", **_board(station))


@router.get(PLACE.path + "/board")
def board(frame: TheFrame, station: TheStation) -> HTMLResponse:
    """What changes on the page, alone."""
    return frame.page("live_board.html.jinja", **_board(station))


def _board(station: Station) -> dict[str, Any]:
    moment = now()
    here = Filter(station=station.settings.name)
    latest = [row for row, _ in station.inspections.page(here, None, _GAPS)]
    hours = _hours(station, moment)
    last_hour: dict[str, int] = {}
    for _, verdict, count in station.inspections.stats(Filter(station=here.station, since=moment - timedelta(hours=1))):
        last_hour[verdict] = last_hour.get(verdict, 0) + count
    judged = sum(count for verdict, count in last_hour.items() if verdict != "REJECTED")
    states = station.models.states()
    active = {(state.name, state.active) for state in states}
    return {
        "latest": latest[:LATEST],
        "hours": hours,
        "order": ORDER,
        "chart_height": CHART_HEIGHT,
        "counts": last_hour,
        "share": last_hour.get("OK", 0) / judged if judged else None,
        "draining": station.draining,
        "no_models": not any(state.active for state in states),
        "problems": [state for state in states if state.problem or (state.active is not None and not state.ready)],
        "drifting": [
            drift for drift, _ in station.monitor.states() if drift.alarm and (drift.model, drift.version) in active
        ],
        "troubled": [source.name for source in station.sources.states() if source.problem],
        "minutes": _quiet_minutes(latest, moment),
    }


def _hours(station: Station, moment: datetime) -> list[Hour]:
    hours = station.hours.last(HOURS, moment)
    bars = stacked([counts for _, counts in hours], ORDER, CHART_HEIGHT)
    return [Hour(begin, counts, column) for (begin, counts), column in zip(hours, bars, strict=True)]


def _quiet_minutes(latest: Sequence[Inspection], moment: datetime) -> int | None:
    """For how long nothing came, in minutes, if that is unusually long."""
    if not latest:
        return None
    gaps = [(newer.time - older.time).total_seconds() for newer, older in pairwise(latest)]
    usual = timedelta(seconds=_QUIET_GAPS * statistics.median(gaps)) if gaps else LONGEST_QUIET
    since = moment - latest[0].time
    if since <= min(LONGEST_QUIET, max(SHORTEST_QUIET, usual)):
        return None
    return int(since.total_seconds() // 60)
