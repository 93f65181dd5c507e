"""How strictly a model judges: what other rates would have done to its last images, and choosing them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query
from fastapi.responses import HTMLResponse

from blemish.decisions import Calibration, images_needed
from blemish.station.api.guards import TheStation
from blemish.station.api.inspections import ModelName, VersionNumber
from blemish.station.pages.charts import score_chart, threshold_places
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.whatif import steps

PLACE = Place("/thresholds", "thresholds")
router = page_router()

LARGEST_RATE = 0.5
"""Where the slider of false alarms ends, unless the rate that holds lies beyond."""
LOOKED_AT = (100, 1000, 10_000)
WISHED = 0.001


@router.get(PLACE.path)
def thresholds(
    frame: Annotated[Frame, Depends(seen_by(PLACE.right))],
    station: TheStation,
    model: ModelName | None = None,
    version: Annotated[VersionNumber | None, Query()] = None,
) -> HTMLResponse:
    """The page; its script asks the API what the rates at the sliders would have done."""
    states = [state for state in station.models.states() if state.versions]
    name = model or (states[0].name if states else None)
    if name is None:
        return frame.page("thresholds.html.jinja", states=states, row=None)
    row = station.models.version(name, version)
    calibration = station.models.calibration(row)
    of_file = Calibration.model_validate(row.manifest["calibration"])
    return frame.page(
        "thresholds.html.jinja",
        states=states,
        row=row,
        active=station.models.state(name).active,
        calibration=calibration,
        of_file=of_file,
        chart=score_chart(calibration, None),
        sliders=_sliders(calibration),
        looked_at=LOOKED_AT,
        wished=WISHED,
        needed=images_needed(WISHED),
        verdicts=("OK", "REVIEW", "NG"),
    )


def _sliders(calibration: Calibration) -> dict[str, Any]:
    """What the sliders need. Each step is one rank: between two ranks, no rate differs from the one below it.

    places : of the thresholds in the chart, by the number of ranks that a rate allows, from 1.
    """
    n = calibration.n
    false_alarms = max(1, steps(calibration.false_alarm_rate, n))
    return {
        "n": n,
        "false_alarms": false_alarms,
        "most_false_alarms": max(false_alarms, steps(LARGEST_RATE, n)),
        "reviews": max(false_alarms, steps(calibration.review_rate, n)),
        "places": threshold_places(calibration),
    }
