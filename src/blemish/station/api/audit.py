"""Who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Managing, TheStation
from blemish.station.api.inspections import Before, Limit

router = APIRouter(prefix="/api/v1", tags=["audit"])


class EntryShown(BaseModel):
    """A line of the audit log."""

    id: int
    time: datetime
    station: str
    by: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditPage(BaseModel):
    """Some of the audit log, newest first."""

    entries: list[EntryShown]
    next: int | None


@router.get("/audit", responses=refusals())
def audit(station: TheStation, who: Managing, before: Before = None, limit: Limit = 50) -> AuditPage:
    """The audit log: reviews, models, accounts, tokens, sign-ins."""
    rows = station.people.audit(before, limit + 1)
    entries = [EntryShown.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return AuditPage(entries=entries, next=entries[-1].id if len(rows) > limit else None)
