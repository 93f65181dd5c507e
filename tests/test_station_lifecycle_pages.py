"""The pages about the life of models: what they show, to whom, and what of it is anyone's to choose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from blemish.station.app import make_app
from blemish.station.inspections import audit_bound
from blemish.station.station import Station
from blemish.station.tables import Training, now
from stations import NG, OK, make_model, part, settings

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Station]:
    options = settings(tmp_path, audit_share=0.5)
    make_model(options.models / "cap.blemish")
    station = Station(options)
    make_model(options.models / "cap.blemish", gain=0.5)
    station.models.scan()
    yield station
    station.close()


@pytest.fixture
def client(line: Station) -> TestClient:
    return TestClient(make_app(line), base_url="http://localhost", headers={"accept-language": "en"})


def add(line: Station, state: str, **changes: Any) -> int:
    fields: dict[str, Any] = {
        "added": now(),
        "station": "line-1",
        "by": "lena",
        "model": "cap",
        "source": "folder",
        "folder": "/data/caps",
        "options": {"method": "rd", "preset": "auto"},
        "state": state,
        "stage": "",
        "progress": 0.0,
        "problem": "",
    }
    row = Training(**{**fields, **changes})
    with line.store.write() as session:
        session.add(row)
    return row.id


def test_trainings_are_listed_with_what_can_be_done_about_them(line: Station, client: TestClient) -> None:
    running = add(line, "running", stage="distilling", progress=0.25)
    failed = add(line, "failed", problem=HOSTILE, folder=HOSTILE)
    done = add(line, "done", version=2)
    reviewed = add(line, "queued", folder=None, source="reviewed", options={**OPTIONS, "images": ["1" * 64, "2" * 64]})

    page, board = client.get("/trainings").text, client.get("/trainings/board").text

    assert board in page
    assert '<progress max="1" value="0.25"' in board
    buttons = {number: board.count(f"/api/v1/trainings/{number}/") for number in (running, failed, done, reviewed)}
    assert buttons == {running: 1, failed: 1, done: 0, reviewed: 1}
    assert "/models/cap/compare?second=2" in board
    assert "2 images that people found good" in board
    assert "<script>alert" not in page

    folder = line.archive.data / "trainings" / str(failed)
    folder.mkdir(parents=True)
    said = {"time": now().isoformat(), "kind": "say", "text": HOSTILE}
    (folder / "log.jsonl").write_text(json.dumps(said) + "\n" + '{"time": "half')
    one = client.get(f"/trainings/{failed}").text
    assert one.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "<script>alert" not in one
    assert client.get("/trainings/99").status_code == 404


OPTIONS = {"method": "rd", "preset": "auto"}


def test_recalibrating_and_comparing_begin_with_what_is_likely_meant(line: Station, client: TestClient) -> None:
    recalibrate = client.get("/models/cap/recalibrate?version=2").text
    assert '<option value="2" selected>' in recalibrate
    assert 'data-path="/api/v1/models/cap/recalibrate"' in recalibrate
    assert "50 %" in recalibrate
    compare = client.get("/models/cap/compare").text
    assert compare.count('<option value="1" selected>1 · active</option>') == 1
    assert compare.count('<option value="2" selected>2</option>') == 1
    assert client.get("/models/lid/compare").status_code == 404
    assert client.get("/models/cap/recalibrate?version=9").status_code == 404
    models = client.get("/models").text
    assert 'href="/models/cap/recalibrate?version=1"' in models
    assert 'href="/models/cap/compare"' in models


def test_they_are_for_admins(line: Station, client: TestClient) -> None:
    line.people.add_account("anna", "admin", "correct horse", "test")
    line.people.add_account("rita", "reviewer", "correct horse", "test")
    client.post("/api/v1/sign-in", json={"name": "rita", "password": "correct horse"})
    for path in ("/trainings", "/trainings/board", "/trainings/1", "/models/cap/recalibrate", "/models/cap/compare"):
        assert client.get(path).status_code == 403, path
    models = client.get("/models").text
    assert "/recalibrate" not in models
    assert "/trainings" not in models


def test_the_review_queue_can_be_the_audit_sample(line: Station, client: TestClient) -> None:
    files = [("image", part(brighter, number)) for number, brighter in enumerate([OK, NG] * 8)]
    rows = client.post("/api/v1/inspect?model=cap", files=files).json()["inspections"]
    drawn = {row["id"] for row in rows if row["image_sha256"] < audit_bound(0.5)}
    assert 0 < len(drawn) < len(rows)

    queue = client.get("/api/v1/review-queue?audit_sample=true&limit=100").json()

    assert {row["id"] for row in queue["inspections"]} == drawn
    assert sum(queue["counts"].values()) == len(drawn)
    assert len(client.get("/api/v1/review-queue?limit=100").json()["inspections"]) == len(rows)
    assert 'id="audit" checked' in client.get("/review?audit=true").text
    assert 'id="audit" checked' not in client.get("/review").text


def test_a_candidate_of_a_new_name_is_no_alarm(line: Station, client: TestClient) -> None:
    path = line.models.path(line.models.version("cap", 1).sha256)
    line.models.add_candidate("lid", path, "lena", {})

    assert not re.search(r'class="alarm[" ]', client.get("/live/board").text)
    assert "no version judges" in client.get("/models").text
