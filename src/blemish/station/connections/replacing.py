"""One connection taking the place of another: what speaks against it, and what it keeps of what is never shown."""

from __future__ import annotations

from typing import Any

from blemish.station.connections.entered import Wanted, secret_of
from blemish.station.connections.kinds import Sink, Source, secret_file
from blemish.station.errors import Complaint


def against_change(wanted: Wanted, before: Source | Sink | None) -> list[Complaint]:
    """What speaks against one connection taking the place of another."""
    if before is None:
        return []
    if wanted.name != before.name:
        return [Complaint("name", "name_fixed", "a name cannot be changed: remove it, and add another")]
    if wanted.kind != before.kind:
        return [Complaint("kind", "kind_fixed", "a kind cannot be changed: remove it, and add another")]
    if secret_of(wanted) is None and secret_file(before) is not None and _login(wanted) not in (None, _login(before)):
        # Else whoever is at the page could have it sent to an address of their own.
        again = "where the password is sent to has changed, so it has to be entered again"
        return [Complaint("password", "password_again", again)]
    return []


def _login(one: Any) -> tuple[Any, ...] | None:
    """Where a password is sent to, and whose it is; None if there is none to send."""
    if one.kind not in ("camera", "mqtt") or one.user is None:
        return None
    if one.kind == "camera":
        return one.user, one.device, one.url and one.url.split("/")[:3]
    return one.user, one.host, one.port, one.tls


def with_query(settings: Source | Sink, before: Source | Sink | None) -> Source | Sink:
    """What stands behind the question mark of a url is never shown; who leaves the rest of it as it was, keeps it."""
    old, new = getattr(before, "url", None), getattr(settings, "url", None)
    if old is None or new is None or "?" in new or old.partition("?")[0] != new:
        return settings
    return settings.model_copy(update={"url": old})


def with_hidden(options: dict[str, Any], settings: Source | Sink) -> dict[str, Any]:
    """What is to be remembered of a connection whose settings have kept what is hidden of their url."""
    return {**options, "url": settings.url} if options.get("url") and hasattr(settings, "url") else options
