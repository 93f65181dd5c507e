"""The station as a process: drained by SIGTERM, killed, started again, and refusing to be open to everyone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from stations import NG, OK, PATIENCE, StationProcess, make_model, part, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def start(root: Path) -> Iterator[type[StationProcess]]:
    """Starts stations below `root`, and ends them when the test ends."""
    started: list[StationProcess] = []

    class Started(StationProcess):
        def __init__(self, *options: object) -> None:
            super().__init__(root, *options)
            started.append(self)

    yield Started
    for station in started:
        station.close()


def blemish(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blemish", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_sigterm_finishes_what_is_open_and_ends_with_0(root: Path, start: type[StationProcess]) -> None:
    make_model(root / "models" / "slow.blemish", work=150)
    station = start()
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(station.inspect(part(NG))))
    asking.start()
    with httpx.Client(base_url=station.url, timeout=PATIENCE) as watching:
        until(
            lambda: "blemish_open_inspect_requests 1.0" in watching.get("/metrics").text, "the request has been taken"
        )

        station.terminate()

        # It says that it is not ready while it still listens, and takes nothing new.
        until(lambda: watching.get("/v2/health/ready").status_code == 503, "the station is not ready any more")
        refused = watching.post("/api/v1/inspect", content=part(OK))
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    asking.join(PATIENCE)
    assert [answer.status_code for answer in answers] == [200]
    assert station.wait() == 0
    again = start()
    assert [row["id"] for row in again.inspections()] == [answers[0].json()["inspections"][0]["id"]]


def test_kill_loses_no_answered_inspection_and_the_next_start_is_clean(root: Path, start: type[StationProcess]) -> None:
    make_model(root / "models" / "cap.blemish")
    station = start()
    answered: dict[int, str] = {}

    def feed(worker: int) -> None:
        with httpx.Client(base_url=station.url, timeout=PATIENCE) as client:
            for number in range(10_000):
                image = part(NG, number, (30 + worker, 40))
                try:
                    answer = client.post("/api/v1/inspect", content=image)
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                answered[answer.json()["inspections"][0]["id"]] = hashlib.sha256(image).hexdigest()

    with ThreadPoolExecutor(4) as pool:
        feeding = [pool.submit(feed, worker) for worker in range(4)]
        until(lambda: len(answered) >= 40, "forty inspections are answered")
        station.kill()
    for future in feeding:
        future.result()

    # As a power cut in the middle of writing would leave it.
    (root / "data" / "images" / "half.partial").write_bytes(b"half")
    again = start()
    rows = {row["id"]: row for row in again.inspections()}

    assert answered.items() <= {number: row["image_sha256"] for number, row in rows.items()}.items()
    assert len(rows) <= len(answered) + 4
    for number, digest in answered.items():
        picture = again.client.get(f"/api/v1/inspections/{number}/image").content
        assert hashlib.sha256(picture).hexdigest() == digest
    assert list((root / "data").rglob("*.partial")) == []
    assert again.inspect(part(OK)).json()["inspections"][0]["id"] > max(rows)


def test_a_model_is_taken_in_while_the_station_runs(root: Path, start: type[StationProcess]) -> None:
    station = start("--training-folder", root / "parts")
    refused = station.inspect(part(NG)).json()
    assert refused["code"] == "no_such_model"
    assert "Put a model file into" in refused["todo"]
    assert "parts is no folder" in station.log.read_text()
    assert "There is no model yet" in station.log.read_text()
    assert "Nobody has to sign in" in station.log.read_text()

    make_model(root / "models" / "cap.blemish")
    station.client.post("/api/v1/models/scan")

    assert station.inspect(part(NG)).json()["inspections"][0]["verdict"] == "NG"


def test_two_stations_do_not_share_a_folder(root: Path, start: type[StationProcess]) -> None:
    start()

    second = blemish("station", "--models", root / "models", "--data", root / "data", "--port", 0)

    assert second.returncode == 2
    assert "another station runs on this folder" in second.stderr


def test_an_open_address_needs_an_admin(root: Path) -> None:
    where = ("--models", root / "models", "--data", root / "data")

    refused = blemish("station", *where, "--host", "0.0.0.0", "--port", 0)

    assert refused.returncode == 2
    assert "nobody has to sign in" in refused.stderr
    assert "blemish station-user add NAME --role admin" in refused.stderr

    password = root / "password"
    password.write_text("correct horse\n")
    data = ("--data", root / "data")
    only_viewer = blemish("station-user", "add", "vera", "--password-file", password, *data)
    assert only_viewer.returncode == 1
    assert "the first account must be an admin's" in only_viewer.stderr
    added = blemish("station-user", "add", "anna", "--role", "admin", "--password-file", password, *data)
    assert (added.returncode, added.stdout) == (0, "anna may sign in as admin.\n")
    token = blemish("station-user", "token", "camera", *data)
    assert token.stdout.startswith("blm_")
    assert blemish("station-user", "list", *data).stdout == "account  admin     anna\ntoken    machine   camera\n"


def test_an_open_address_with_an_admin_asks_for_a_sign_in(root: Path, start: type[StationProcess]) -> None:
    make_model(root / "models" / "cap.blemish")
    password = root / "password"
    password.write_text("correct horse\n")
    blemish("station-user", "add", "anna", "--role", "admin", "--password-file", password, "--data", root / "data")
    token = blemish("station-user", "token", "camera", "--data", root / "data").stdout.strip()

    station = start("--host", "0.0.0.0")

    assert station.inspect(part(OK)).json()["code"] == "sign_in_needed"
    allowed = station.client.post("/api/v1/inspect", content=part(OK), headers={"authorization": f"Bearer {token}"})
    assert allowed.json()["inspections"][0]["source"] == "token camera"
    assert httpx.get(f"{station.url}/v2/health/ready").status_code == 200
