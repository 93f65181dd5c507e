"""Style sheets, scripts and pictures of the pages, out of this package: everyone may read them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from blemish.station.errors import Code, StationError

router = APIRouter(include_in_schema=False)

TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class File:
    """A file as it is sent. tag : changes with its content."""

    content: bytes
    media_type: str
    tag: str


@cache
def static_files() -> dict[str, File]:
    """All of them, by name: the folder static/, and the colours that the reports have too."""
    found = [*(files(__package__) / "static").iterdir(), files("blemish.pages") / "templates" / "palette.css"]
    read = {}
    for path in found:
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        read[path.name] = File(content, TYPES[path.name.rpartition(".")[2]], tag)
    return read


@router.get("/static/{name}")
def static(request: Request, name: str) -> Response:
    """One file. A browser asks again each time whether it has changed, so that a new version is seen at once."""
    file = static_files().get(name)
    if file is None:
        raise StationError(Code.NOT_FOUND, f"there is no file {name}")
    headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
