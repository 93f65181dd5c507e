"""What every request passes: its size, where it comes from, who sends it; and what every answer carries."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.datastructures import Headers as RequestHeaders
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blemish.station.api.answers import HEADERS, refused
from blemish.station.errors import Code, StationError
from blemish.station.people import Right, Who
from blemish.station.station import Station

COOKIE = "blemish_session"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def the_station(request: HTTPConnection) -> Station:
    """The station that a request came to."""
    station: Station = request.app.state.station
    return station


TheStation = Annotated[Station, Depends(the_station)]


def needs(right: Right) -> Callable[[Request], Who]:
    """A dependency: whoever makes the request, who must have this right."""

    def who(request: Request) -> Who:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else None
        if bearer is None and request.method not in SAFE_METHODS:
            check_origin(request)
        found = the_station(request).people.who(bearer, request.cookies.get(COOKIE))
        if not found.may(right):
            raise StationError(
                Code.NOT_ALLOWED,
                f"the role {found.role} may not {right.value} here",
                todo="Ask an admin of the station",
            )
        return found

    return who


Looking = Annotated[Who, Depends(needs(Right.LOOK))]
Inspecting = Annotated[Who, Depends(needs(Right.INSPECT))]
Reviewing = Annotated[Who, Depends(needs(Right.REVIEW))]
Managing = Annotated[Who, Depends(needs(Right.MANAGE))]


def check_origin(request: HTTPConnection) -> None:
    """A page of another site, open in the browser of someone who is signed in, must change nothing here.

    Raises
    ------
    StationError
        foreign_origin.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise StationError(Code.FOREIGN_ORIGIN, f"a page of {origin} may change nothing here")


class OwnHost:
    """While nobody has to sign in, only requests that name this machine as itself are taken.

    Otherwise any web page could have its own name point to 127.0.0.1 and be let in by the browser on this machine.
    """

    def __init__(self, app: ASGIApp, station: Station) -> None:
        self.app = app
        self.station = station

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or refuse."""
        if scope["type"] == "http" and not _is_loopback(RequestHeaders(scope=scope).get("host", "")):
            try:
                if await asyncio.to_thread(self.station.people.local):
                    raise StationError(
                        Code.WRONG_HOST,
                        "without accounts, the station answers to localhost only",
                        todo="Add an account to reach it under another name: blemish station-user add NAME",
                    )
            except StationError as error:
                await refused(error, scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class BodyLimit:
    """Refuses bodies that are larger than allowed, or too slow, without ever holding more than is allowed."""

    def __init__(self, app: ASGIApp, station: Station) -> None:
        self.app = app
        self.limit = station.settings.max_body_bytes
        self.seconds = station.settings.body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = RequestHeaders(scope=scope).get("content-length", "")
        if stated.isdecimal() and int(stated) > self.limit:
            await refused(self._too_large(), scope["path"])(scope, receive, send)
            return
        got = 0
        complete = False
        end = asyncio.get_running_loop().time() + self.seconds

        async def limited() -> Message:
            nonlocal got, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise StationError(
                    Code.BODY_TOO_SLOW, f"the body did not arrive within {self.seconds:g} seconds"
                ) from None
            got += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if got > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, limited, send)

    def _too_large(self) -> StationError:
        return StationError(
            Code.BODY_TOO_LARGE,
            f"the body is larger than the {self.limit} bytes that are allowed",
            todo="Send fewer images at once, or have the station started with a larger limit (max_body_bytes)",
        )


class Headers:
    """Adds the headers of HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class Measured:
    """Measures how long each request takes, by the pattern of its path: the paths themselves are anyone's to choose."""

    def __init__(self, app: ASGIApp, station: Station) -> None:
        self.app = app
        self.requests = station.metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in (*SAFE_METHODS, "POST", "PUT", "DELETE") else "other"
            self.requests.labels(method, route, status).observe(time.monotonic() - start)
