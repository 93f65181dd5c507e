"""Metrics for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from blemish.station.api.answers import refusals
from blemish.station.api.guards import Looking, TheStation

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals()},
)
def metrics(station: TheStation, who: Looking) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(station.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
