"""Whether production is still what a version was calibrated for: the test, its alarm, and the images by day."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from fastapi.responses import HTMLResponse

from blemish.station.api.drift import Day, DriftAnswer, Spread
from blemish.station.api.guards import TheStation
from blemish.station.api.inspections import ModelName, VersionNumber
from blemish.station.drift.monitor import P_BINS
from blemish.station.drift.pictures import STATISTICS
from blemish.station.pages.day_charts import DayChart, day_chart
from blemish.station.pages.frame import Frame, Place, page_router, seen_by

PLACE = Place("/drift", "drift")
router = page_router()

DAYS = 60
"""That are shown, the newest ones."""
P_VALUE_DAYS = 7


@router.get(PLACE.path)
def drift(
    frame: Annotated[Frame, Depends(seen_by(PLACE.right))],
    station: TheStation,
    model: Annotated[ModelName | None, Query()] = None,
    version: Annotated[VersionNumber | None, Query()] = None,
) -> HTMLResponse:
    """One version of a model; the active one of the first model, if none is named."""
    models = [state for state in station.models.states() if state.versions]
    name = model or next((state.name for state in models if state.active is not None), None)
    if name is None:
        return frame.page("drift.html.jinja", models=models, shown=None)
    rules = station.settings.drift
    shown = DriftAnswer.of(station.monitor.shown(name, version), rules.false_alarm_rate, rules.reference)
    days = shown.days[-DAYS:]
    return frame.page(
        "drift.html.jinja",
        models=models,
        shown=shown,
        days=days,
        charts=_charts(shown, days) if days else {},
        p_values=_p_values(days[-P_VALUE_DAYS:]),
        p_value_days=min(len(days), P_VALUE_DAYS),
    )


def _charts(shown: DriftAnswer, days: list[Day]) -> dict[str, DayChart]:
    """A chart for each thing that is looked at, by its name."""
    names = [day.day.isoformat() for day in days]
    alarm = None if shown.alarm is None else shown.alarm.date().isoformat()

    def of(spreads: list[Spread], usual: Spread | None) -> DayChart:
        band = None if usual is None else (usual.mean - 2 * usual.deviation, usual.mean + 2 * usual.deviation)
        return day_chart(names, [(one.mean, one.deviation) for one in spreads], band=band, alarm=alarm)

    charts = {
        "value": day_chart(names, [(day.value, 0) for day in days], limit=shown.limit, alarm=alarm),
        "score": of([day.score for day in days], shown.calibration),
        "ng": day_chart(names, [(100 * day.ng / day.images, 0) for day in days], alarm=alarm, floor=0),
    }
    for name in STATISTICS:
        charts[name] = of([day.statistics[name] for day in days], shown.reference.get(name))
    return charts


def _p_values(days: list[Day]) -> list[tuple[int, float]]:
    """How many p-values lay in each tenth, and that as a share of the fullest."""
    counts = [sum(day.p_values[i] for day in days) for i in range(P_BINS)]
    fullest = max(counts) or 1
    return [(count, count / fullest) for count in counts]
