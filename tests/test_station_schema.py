"""The station against its own OpenAPI document: whatever is sent, the answer is one that the document tells of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import stations
from blemish.station.app import make_app
from blemish.station.connections.kinds import CsvSink, FolderSource
from blemish.station.station import Station

EXAMPLES = 5
"""For each of some thirty operations; the whole takes seconds."""


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    (tmp_path / "tray").mkdir()
    tray = FolderSource(name="tray", kind="folder", path=tmp_path / "tray")
    table = CsvSink(name="table", kind="csv", path=tmp_path / "table.csv")
    options = stations.settings(
        tmp_path, max_body_bytes=100_000, connection_folders=(tmp_path,), sources=[tray], sinks=[table]
    )
    stations.make_model(options.models / "cap.blemish")
    opened = Station(options)
    # With an account there is nothing that a request could lock itself out with.
    opened.people.add_account("anna", "admin", "correct horse", "test")
    yield opened
    opened.close()


def test_every_answer_is_one_that_the_document_tells_of(station: Station) -> None:
    _, token = station.people.add_token("schema", "admin", "test")
    signed = {"Authorization": f"Bearer {token}"}
    document = schemathesis.openapi.from_asgi("/api/v1/openapi.json", make_app(station))
    # Signing in takes long on purpose, and its failures are counted.
    operations = [found.ok() for found in document.exclude(path="/api/v1/sign-in").get_all_operations()]
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(case=operation.as_strategy())
        def answers(case: schemathesis.Case) -> None:
            case.call_and_validate(
                headers=signed,
                checks=[
                    checks.not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                ],
            )

        answers()
    assert len(operations) > 40
    # Most of it got past the sign-in and was answered, not only refused.
    counted = [
        line.split(" ") for line in station.metrics.text().decode().splitlines() if "request_seconds_count" in line
    ]
    fine = {re.findall('route="([^"]*)"', name)[0] for name, n in counted if 'status="20' in name and float(n) > 0}
    assert fine >= {"/api/v1/inspect", "/api/v1/inspections", "/api/v1/stats", "/api/v1/export.csv", "/api/v1/audit"}
    assert not any('status="401"' in name and "sign-in" not in name for name, _ in counted)
