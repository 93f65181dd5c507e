"""Inspections as files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Looking, TheStation
from blemish.station.api.inspections import TheFilter
from blemish.station.errors import Code
from blemish.station.exporting import csv_lines, parquet_pieces

router = APIRouter(prefix="/api/v1", tags=["inspections"])

PARQUET: Final = "application/vnd.apache.parquet"
_CONTENT: Final[dict[str, dict[str, Any]]] = {
    "text/csv": {"schema": {"type": "string"}},
    PARQUET: {"schema": {"type": "string", "format": "binary"}},
}


@router.get(
    "/export.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": _CONTENT["text/csv"]}}, **refusals()},
)
def export_csv(station: TheStation, who: Looking, query: TheFilter) -> StreamingResponse:
    """All inspections that the filter takes, newest first, as CSV. Regions are JSON in one column."""
    return _sent(csv_lines(station.inspections.everything(query)), "text/csv; charset=utf-8", "csv")


@router.get(
    "/export.parquet",
    response_class=StreamingResponse,
    responses={200: {"content": {PARQUET: _CONTENT[PARQUET]}}, **refusals(Code.PARQUET_NOT_INSTALLED)},
)
def export_parquet(station: TheStation, who: Looking, query: TheFilter) -> StreamingResponse:
    """All inspections that the filter takes, newest first, as Parquet, with the columns of the CSV."""
    return _sent(parquet_pieces(station.inspections.everything(query)), PARQUET, "parquet")


def _sent(pieces: Iterator[Any], media_type: str, suffix: str) -> StreamingResponse:
    # The first rows are fetched before the answer begins: a database that is down is still a clean refusal.
    first = next(pieces)
    disposition = {"Content-Disposition": f'attachment; filename="inspections.{suffix}"'}
    return StreamingResponse(chain([first], pieces), media_type=media_type, headers=disposition)
