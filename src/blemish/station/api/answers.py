"""How refusals look on the wire."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from blemish.errors import UsageError
from blemish.station.connections.kinds import KINDS
from blemish.station.errors import STATUS, Code, Complaint, FieldError, StationError
from blemish.station.station import Station

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer, unless it says otherwise itself."""


class FieldRefusal(BaseModel):
    """What is wrong with one field of what was sent. values : what a sentence of another language needs."""

    field: str
    code: str
    message: str
    values: dict[str, str] = {}


class Refusal(BaseModel):
    """Why a request was refused, and what to do; `fields` where it is because of single ones."""

    code: str
    message: str
    todo: str | None = None
    fields: list[FieldRefusal] = []


def refusals(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """For the documentation of a route: which codes it answers with, beside those that every route has."""
    everywhere = (
        Code.INVALID_REQUEST,
        Code.SIGN_IN_NEEDED,
        Code.NOT_ALLOWED,
        Code.FOREIGN_ORIGIN,
        Code.BODY_TOO_LARGE,
        Code.WRONG_HOST,
        Code.DATABASE_UNAVAILABLE,
    )
    by_status: dict[int | str, list[str]] = {}
    for code in (*everywhere, *codes):
        by_status.setdefault(STATUS[code], []).append(code.value)
    return {
        status: {"model": Refusal, "description": ", ".join(dict.fromkeys(names))}
        for status, names in by_status.items()
    }


def refused(error: StationError, path: str) -> JSONResponse:
    """A refusal as an answer: in the shape of the protocol that the path belongs to."""
    document = error.document()
    if path.startswith("/v2"):
        document = {"error": str(error), "code": document["code"]}
    return JSONResponse(document, error.status, error.headers)


def complaint(found: dict[str, Any]) -> Complaint:
    """What pydantic says of one field; without what was sent, which may be a secret."""
    context = {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in found.get("ctx", {}).items()
        if key not in ("error", "field")
    }
    place = [str(part) for part in found["loc"][1:]]
    if place and place[0] in KINDS:
        place = place[1:]
    named = found.get("ctx", {}).get("field", "kind" if found["type"].startswith("union_tag") else "")
    return Complaint(place[0] if place else str(named), str(found["type"]), str(found["msg"]), context)


def answer_errors(app: FastAPI) -> None:
    """Have every error answered as a refusal with a code."""
    station: Station = app.state.station

    def answer(request: Request, error: StationError) -> JSONResponse:
        station.metrics.refused.labels(error.code.value).inc()
        return refused(error, request.url.path)

    @app.exception_handler(StationError)
    async def _refused(request: Request, error: StationError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(UsageError)
    async def _wrong_use(request: Request, error: UsageError) -> JSONResponse:
        fields = [error.complaint] if isinstance(error, FieldError) else []
        return answer(
            request,
            StationError(Code.INVALID_REQUEST, error.what, where=error.where, todo=error.todo, fields=fields),
        )

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        code = Code.WRONG_TENSOR if request.url.path.startswith("/v2") else Code.INVALID_REQUEST
        fields = [complaint(one) for one in error.errors()]
        return answer(request, StationError(code, str(found["msg"]), where=place, fields=fields))

    @app.exception_handler(HTTPException)
    async def _no_route(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED}.get(error.status_code, Code.INVALID_REQUEST)
        answered = answer(request, StationError(code, str(error.detail), where=request.url.path))
        answered.headers.update(error.headers or {})
        return answered

    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error once more after this answer, and the server logs it.
        failed = StationError(Code.INTERNAL, "the station failed at this request", todo="Its log says why")
        answered = answer(request, failed)
        # It leaves past all of the application, so that nothing else adds them.
        answered.headers.update(HEADERS)
        return answered
