"""Where people sign in."""

from __future__ import annotations

import re

from fastapi import Request
from fastapi.responses import HTMLResponse

from blemish.station.pages.frame import Frame, page_router

router = page_router()

# Only a path of this station: a link must not lead people who have just signed in anywhere else.
_OWN_PATH = re.compile(r"/(?![/\\])[^\x00-\x1f\\]*")


@router.get("/sign-in")
def sign_in(request: Request, next: str = "/") -> HTMLResponse:
    """The form. `next` is the page that was wanted."""
    return Frame(request, None).page("sign_in.html.jinja", next=next if _OWN_PATH.fullmatch(next) else "/")
