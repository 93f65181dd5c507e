"""The pages of a station, for people at the line: HTML made here, small scripts of our own, nothing from a network.

A page shows what the services of the station say, as the API does, and has no way of its own to the data. What a person
changes goes through the API: our scripts call it with the cookie of the sign-in.

To add the page NAME:

1. NAME.py: a `PLACE`, and a `router` with a function that ends in `frame.page("NAME.html.jinja", ...)`; import it here
   and put it into `ROOMS`, which is the order of the navigation.
2. templates/NAME.html.jinja: extends frame.html.jinja and fills the blocks title and content (scripts, if it has one).
   Every word comes from `t("NAME.key")`. Scripts and styles in the page itself are forbidden by its own policy, and
   so are style attributes.
3. texts/en.toml and texts/zh.toml: nav.NAME, and a section NAME with the same keys in both. What a script says stands
   in the section `script`.
4. static/NAME.js, if it needs one: a module that imports `ask`, `say` and `text` from ./station.js.

tests/test_station_pages.py then checks its texts, headers and roles without being told.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from blemish.station.pages import (
    connections,
    drift,
    inspections,
    live,
    models,
    review,
    sign_in,
    static,
    system,
    thresholds,
    trainings,
    versions,
)
from blemish.station.pages.frame import page_router

ROOMS = (live, review, inspections, models, thresholds, drift, trainings, connections, system)
"""Modules of pages, in the order of the navigation."""

home = page_router()


@home.get("/")
def first(request: Request) -> RedirectResponse:
    """Where people begin."""
    return RedirectResponse(request.app.state.places[0].path, 303)


def add_pages(app: FastAPI) -> None:
    """Have an application serve the pages beside its API."""
    app.state.places = tuple(room.PLACE for room in ROOMS)
    for router in (home, static.router, sign_in.router, versions.router, *(room.router for room in ROOMS)):
        app.include_router(router)
