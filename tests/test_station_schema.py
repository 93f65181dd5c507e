"""The station against its own OpenAPI document: whatever is sent, the answer is one that the document tells of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import stations
from blemish.station.api import make_app
from blemish.station.station import Station

EXAMPLES = 5
"""For each of some thirty operations; the whole takes seconds."""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    options = stations.settings(tmp_path_factory.mktemp("station"), max_body_bytes=100_000)
    stations.make_model(options.models / "cap.blemish")
    station = Station(options)
    # With an account there is nothing that a request could lock itself out with.
    station.people.add_account("anna", "admin", "correct horse", "test")
    _, token = station.people.add_token("schema", "admin", "test")
    app = make_app(station)
    # Signing in takes long on purpose, and its failures are counted.
    yield schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", app, headers={"Authorization": f"Bearer {token}"}
    ).exclude(path="/api/v1/sign-in")
    station.close()


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_every_answer_is_one_that_the_document_tells_of(case: schemathesis.Case) -> None:
    case.call_and_validate(
        checks=[
            checks.not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ]
    )
