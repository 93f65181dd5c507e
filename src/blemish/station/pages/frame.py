"""What every page shares: who looks, in which language, the navigation, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from blemish import __version__
from blemish.errors import UsageError
from blemish.pages import percent
from blemish.station.api.answers import complaint
from blemish.station.api.guards import COOKIE, the_station
from blemish.station.errors import Code, StationError
from blemish.station.pages.texts import LANGUAGES, language_of
from blemish.station.people import LOCAL, Right, Who
from blemish.station.tables import Inspection

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
}
"""Of every page, in place of the stricter ones that answers have: it may load what this station serves, and no more."""


@dataclass(frozen=True)
class Place:
    """A page in the navigation.

    name : of its texts: nav.NAME. right : what whoever looks at it must be allowed.
    """

    path: str
    name: str
    right: Right = Right.LOOK


class Frame:
    """The frame of a page that is asked for. who : None where nobody has signed in."""

    def __init__(self, request: Request, who: Who | None) -> None:
        self.request = request
        self.who = who
        self.text = language_of(request)

    def may(self, right: Right) -> bool:
        """Whether whoever looks has a right."""
        return self.who is not None and self.who.may(right)

    def page(self, template: str, status: int = 200, **content: Any) -> HTMLResponse:
        """Fill a template that extends `frame.html.jinja`.

        Parameters
        ----------
        content : what the template shows, beside what every template has: t (a text by its name), who, may (whether
            they have a right), station. Text is escaped.
        """
        station = the_station(self.request)
        places: tuple[Place, ...] = self.request.app.state.places
        who = self.who
        frame = {
            "t": self.text,
            "languages": LANGUAGES.values(),
            "who": who,
            "may": lambda right: self.may(Right(right)),
            "signed_in": who is not None and who != LOCAL,
            "places": [place for place in places if self.may(place.right)],
            "path": self.request.url.path,
            "station": station.settings.name,
            "version": __version__,
        }
        page = _environment().get_template(template).render(frame | content)
        return HTMLResponse(page, status, HEADERS)


def seen_by(right: Right) -> Callable[[Request], Frame]:
    """A dependency: the frame for whoever asks, who must have this right.

    Raises
    ------
    StationError
        sign_in_needed, not_allowed; a `PageRoute` makes a page of either.
    """

    def frame(request: Request) -> Frame:
        who = the_station(request).people.who(None, request.cookies.get(COOKIE))
        request.state.who = who
        if not who.may(right):
            raise StationError(Code.NOT_ALLOWED, f"the role {who.role} may not see this page")
        return Frame(request, who)

    return frame


class PageRoute(APIRoute):
    """A route whose refusals are pages; whoever has to sign in is led to where that is done."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """How a request is answered."""
        answer = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                response: Response = await answer(request)
                return response
            except StationError as error:
                return _refused(request, error)
            except UsageError as error:
                return _refused(request, StationError(Code.INVALID_REQUEST, error.what, todo=error.todo))
            except RequestValidationError as error:
                fields = [complaint(one) for one in error.errors()]
                return _refused(request, StationError(Code.INVALID_REQUEST, fields[0].message, fields=fields))

        return page


def page_router() -> APIRouter:
    """A router for pages. They are not part of the API, nor of its document."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def _refused(request: Request, error: StationError) -> Response:
    station = the_station(request)
    if error.code is Code.SIGN_IN_NEEDED:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?next={quote(wanted, safe='')}", 303)
    station.metrics.refused.labels(error.code.value).inc()
    frame = Frame(request, getattr(request.state, "who", None))
    fields = [(one.field, frame.text.of_field(one)) for one in error.fields]
    answer = frame.page("refusal.html.jinja", error.status, error=error.document(), fields=fields)
    answer.headers.update(error.headers)
    return answer


def picture_of(row: Inspection, side: int) -> str:
    """The address of an inspection's small picture, with its heat map; of the image alone, where it was rejected."""
    return f"/api/v1/inspections/{row.id}/" + (f"overlay?side={side}" if row.map_sha256 else "image")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(__package__), PackageLoader("blemish.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.globals["picture_of"] = picture_of
    return environment
