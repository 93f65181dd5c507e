"""Inspections as Parquet: the same as in the CSV, written in pieces."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from blemish.station import exporting
from blemish.station.app import make_app
from blemish.station.exporting import parquet_pieces
from blemish.station.inspections import Filter
from blemish.station.station import Station
from stations import NG, OK, REVIEW, make_model, part, settings


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Station]:
    options = settings(tmp_path)
    make_model(options.models / "cap.blemish")
    station = Station(options)
    yield station
    station.close()


@pytest.fixture
def client(line: Station) -> TestClient:
    return TestClient(make_app(line), base_url="http://localhost")


def test_parquet_holds_what_csv_holds_with_its_types(
    line: Station, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'blemish[parquet]'")
    files = [("image", part(brighter, brighter)) for brighter in (OK, NG, REVIEW, OK)] + [("image", b"no image")]
    client.post("/api/v1/inspect?source==1", files=files)
    line.inspections.review(2, "lena", "overruled", None, "灰尘", None)
    monkeypatch.setattr(exporting, "ROW_GROUP", 2)

    answer = client.get("/api/v1/export.parquet")

    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert answer.headers["content-disposition"] == 'attachment; filename="inspections.parquet"'
    file = parquet.ParquetFile(io.BytesIO(answer.content))
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    table = list(csv.DictReader(io.StringIO(client.get("/api/v1/export.csv").text)))
    assert list(rows[0]) == list(table[0])
    for row, line_of_csv in zip(rows, table, strict=True):
        shown = {name: "" if value is None else value for name, value in row.items()}
        shown |= {name: value.isoformat() for name, value in shown.items() if isinstance(value, datetime)}
        # What a spreadsheet would take for a formula is marked there and only there.
        assert {name: str(value) for name, value in shown.items()} == line_of_csv | {"source": "=1"}
    assert [row["id"] for row in rows] == [5, 4, 3, 2, 1]
    assert (rows[0]["score"], rows[0]["verdict"]) == (None, "REJECTED")
    assert (rows[3]["review_label"], rows[3]["review_note"]) == ("normal", "灰尘")
    assert json.loads(rows[3]["regions"])[0]["area"] == 100
    only = parquet.read_table(io.BytesIO(client.get("/api/v1/export.parquet?verdict=NG").content))
    assert only.column("id").to_pylist() == [2]
    nothing = parquet.read_table(io.BytesIO(client.get("/api/v1/export.parquet?model=lid").content))
    assert (nothing.num_rows, nothing.column_names) == (0, list(table[0]))


def test_parquet_is_sent_while_rows_are_still_being_read(line: Station, client: TestClient) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'blemish[parquet]'")
    for number in range(2):
        client.post("/api/v1/inspect", content=part(OK, number))
    rows = list(line.inspections.everything(Filter()))
    read = 0

    def endless() -> Iterator[exporting.Row]:
        nonlocal read
        for _ in range(3 * exporting.ROW_GROUP):
            read += 1
            yield rows[read % 2]

    pieces = parquet_pieces(endless())
    assert next(pieces).startswith(b"PAR1")
    assert read == exporting.ROW_GROUP
    assert b"".join(pieces).endswith(b"PAR1")


def test_without_pyarrow_parquet_is_refused_and_says_what_to_install(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    answer = client.get("/api/v1/export.parquet")

    assert (answer.status_code, answer.json()["code"]) == (409, "parquet_not_installed")
    assert "pip install 'blemish[parquet]'" in answer.json()["todo"]
