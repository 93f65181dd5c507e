"""What was inspected: the list, and one inspection with its picture, its reasons and its reviews."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse

from blemish.decisions import Calibration
from blemish.station.api.guards import TheStation
from blemish.station.api.inspections import Before, InspectionShown, Number, ReviewGiven, TheFilter
from blemish.station.errors import StationError
from blemish.station.inspections import QUEUE
from blemish.station.pages.charts import ScoreChart, score_chart
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.station import Station
from blemish.station.tables import Inspection, ModelVersion

PLACE = Place("/inspections", "inspections")
router = page_router()
TheFrame = Annotated[Frame, Depends(seen_by(PLACE.right))]

ROWS = 50


@router.get(PLACE.path)
def inspections(
    frame: TheFrame, station: TheStation, request: Request, query: TheFilter, before: Before = None
) -> HTMLResponse:
    """The list, newest first, with the filters that the API has."""
    rows = station.inspections.page(query, before, ROWS + 1)
    url = request.url.remove_query_params("before")
    older = url.include_query_params(before=rows[ROWS - 1][0].id).query if len(rows) > ROWS else None
    return frame.page(
        "inspections.html.jinja",
        rows=rows[:ROWS],
        query=query,
        models=[state.name for state in station.models.states()],
        verdicts=QUEUE,
        newest=url.query if before is not None else None,
        older=older,
        export=url.query,
    )


@router.get(PLACE.path + "/{number}")
def inspection(frame: TheFrame, station: TheStation, number: Number) -> HTMLResponse:
    """One inspection."""
    row, review = station.inspections.get(number)
    version = _version(station, row)
    reviews = [ReviewGiven.of(one) for one in station.inspections.reviews(number)]
    return frame.page(
        "inspection.html.jinja",
        row=row,
        shown=InspectionShown.of(row, review).model_dump(mode="json"),
        reviews=reviews,
        version_row=version,
        chart=None if version is None else _chart(version, row),
        n=None if version is None else len(version.manifest["calibration"]["scores"]),
        here=row.pictures_removed is None and row.station == station.settings.name,
    )


def _version(station: Station, row: Inspection) -> ModelVersion | None:
    """The version that judged it, if its file is here."""
    try:
        return station.models.version(row.model, row.version)
    except StationError:
        return None


def _chart(version: ModelVersion, row: Inspection) -> ScoreChart | None:
    if row.score is None:
        return None
    calibration = Calibration.model_validate(version.manifest["calibration"])
    if row.false_alarm_rate is not None and row.review_rate is not None:
        calibration = calibration.with_rates(row.false_alarm_rate, row.review_rate)
    return score_chart(calibration, row.score)
