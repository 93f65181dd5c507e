"""The network side of a station, put together: the API for programs, the pages for people."""

from __future__ import annotations

from fastapi import FastAPI

from blemish import __version__
from blemish.station.api import (
    audit,
    connections,
    drift,
    exports,
    flow,
    inspections,
    kserve,
    metrics,
    models,
    people,
    trainings,
    versions,
)
from blemish.station.api.answers import answer_errors
from blemish.station.api.guards import BodyLimit, Headers, Measured, OwnHost
from blemish.station.pages import add_pages
from blemish.station.station import Station

DESCRIPTION = """
Inspects images and remembers every decision. An answer to an inspection has been stored before it is sent.

Every refusal is `{"code", "message", "todo"}` with a code that stays; below /v2 it is `{"error", "code"}`.
Lists are newest first; `next` is what `before` has to be for the following page.
"""


def make_app(station: Station) -> FastAPI:
    """The application that serves a station."""
    # Their pages load scripts from a network; the document itself is what other tools need.
    app = FastAPI(
        title="Blemish inspection station",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.station = station
    for room in (
        inspections,
        exports,
        models,
        versions,
        trainings,
        drift,
        flow,
        connections,
        people,
        audit,
        kserve,
        metrics,
    ):
        app.include_router(room.router)
    add_pages(app)
    answer_errors(app)
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit, station=station)
    app.add_middleware(OwnHost, station=station)
    app.add_middleware(Headers)
    app.add_middleware(Measured, station=station)
    return app
