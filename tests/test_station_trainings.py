"""Trainings of the station: where they may take images from, how they end, and what is left when they do not."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine

from blemish import admission, assembly, choice, delivery
from blemish.station import trainings
from blemish.station.app import make_app
from blemish.station.errors import STATUS, Code, StationError, database_unavailable
from blemish.station.inspections import Filter, audit_bound
from blemish.station.settings import Settings
from blemish.station.station import Station
from blemish.station.trainings import confined, phase_of
from stations import NG, OK, StationProcess, document, make_model, part, settings, until
from tiny import make_parts

TRAINS_SLOWLY = 300.0
"""Seconds until a real training of a few images is given up; at the lowest priority, others go first."""

STANDS_IN = r"""
import json, os, pathlib, shutil, sys
order = json.loads(sys.stdin.readline())
def say(**fields):
    print(json.dumps(fields), flush=True)
out = pathlib.Path(order["out"])
state = out.with_suffix(".state")
say(kind="say", text=" ".join(sorted(os.listdir(order["source"]))))
if order["method"] == "auto":
    say(kind="say", text="Method padim: 12 images are few.")
    order["method"] = "waits"
say(kind="progress", stage="distil", done=0.5, note="5/10, loss 1")
if order["method"] == "refuses":
    say(kind="failed", text="there is nothing to learn here")
    sys.exit(2)
if order["method"] == "crashes":
    print("Traceback: it broke")
    sys.exit(3)
if order["method"] == "waits" and not state.exists():
    state.write_text("half of it")
    sys.stdin.read()
    sys.exit(1)
shutil.copyfile(os.environ["RESULT"], out)
"""
"""A training that does as its method is called."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trainings that take no time; what they write is a model file other than the station's."""

    def start(verb: str, threads: int, *arguments: str) -> subprocess.Popen[str]:
        assert (verb, threads) == ("station-train", 3)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = os.environ | {"RESULT": str(tmp_path / "result.blemish")}
        return subprocess.Popen([sys.executable, "-c", STANDS_IN], **pipes, env=environment, encoding="utf-8")

    make_model(tmp_path / "result.blemish", gain=0.5)
    monkeypatch.setattr(trainings, "start", start)


@pytest.fixture
def options(tmp_path: Path) -> Settings:
    parts = tmp_path / "parts"
    (parts / "caps").mkdir(parents=True)
    (parts / "caps" / "1.png").write_bytes(part(OK))
    made = settings(tmp_path, training_folders=(parts,), training_threads=3, audit_share=0)
    make_model(made.models / "cap.blemish")
    return made


@pytest.fixture
def line(options: Settings, stand_in: None) -> Iterator[Station]:
    station = Station(options)
    station.start()
    yield station
    station.close()


@pytest.fixture
def client(line: Station) -> TestClient:
    return TestClient(make_app(line), base_url="http://localhost")


def ask(client: TestClient, method: str, **fields: Any) -> dict[str, Any]:
    """Ask for a training on the folder of the fixture."""
    options: Settings = client.app.state.station.settings  # type: ignore[attr-defined]
    folder = str(options.training_folders[0] / "caps")
    answer = client.post("/api/v1/trainings", json={"model": "cap", "folder": folder, "method": method, **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = document(answer)
    return found


def reaches(client: TestClient, number: int, state: str) -> dict[str, Any]:
    """A training once it is in a state."""

    def shown() -> dict[str, Any] | None:
        found: dict[str, Any] = document(client.get(f"/api/v1/trainings/{number}"))
        assert found["state"] == state or found["state"] in ("queued", "running"), found
        return found if found["state"] == state else None

    found: dict[str, Any] = until(shown, f"training {number} is {state}")
    return found


def refusal(answer: Any, code: Code) -> dict[str, Any]:
    found: dict[str, Any] = document(answer)
    assert (found.get("code"), answer.status_code) == (code.value, STATUS[code]), found
    return found


def test_what_was_trained_is_a_candidate_and_what_judges_stays(line: Station, client: TestClient) -> None:
    asked = ask(client, "learns", false_alarm_rate=0.05)
    assert (asked["state"], asked["by"], asked["source"], asked["images"]) == ("queued", "local", "folder", None)

    found = reaches(client, asked["id"], "done")

    assert (found["version"], found["progress"], found["problem"]) == (2, 1, "")
    shown = document(client.get("/api/v1/models/cap"))
    assert (shown["active"], [version["version"] for version in shown["versions"]]) == (1, [1, 2])
    lines = document(client.get(f"/api/v1/trainings/{asked['id']}/log"))["lines"]
    assert [(row["kind"], row["text"]) for row in lines] == [("say", "1.png")]
    # The log is all that is kept.
    folder = line.archive.data / "trainings" / str(asked["id"])
    assert [path.name for path in folder.iterdir()] == ["log.jsonl"]
    entries = {entry.action: entry for entry in line.people.audit(None, 2)}
    assert entries["register"].detail["training"] == asked["id"]
    assert entries["train"].detail["false_alarm_rate"] == 0.05


def test_a_first_version_is_not_active_by_itself_either(line: Station, client: TestClient) -> None:
    reaches(client, ask(client, "learns", model="lid")["id"], "done")

    assert document(client.get("/api/v1/models/lid"))["active"] is None
    refusal(client.post("/api/v1/inspect?model=lid", content=part(NG)), Code.MODEL_NOT_READY)
    # Whoever names no model still means the one that judges.
    assert document(client.post("/api/v1/inspect", content=part(NG)))["inspections"][0]["model"] == "cap"
    client.post("/api/v1/models/lid/activate", json={"version": 1})
    refusal(client.post("/api/v1/inspect", content=part(NG)), Code.MODEL_NEEDED)


def test_a_training_that_fails_says_why_and_can_be_tried_again(line: Station, client: TestClient) -> None:
    refused, crashed = ask(client, "refuses")["id"], ask(client, "crashes")["id"]

    assert reaches(client, refused, "failed")["problem"] == "there is nothing to learn here"
    assert reaches(client, crashed, "failed")["problem"] == "it ended with status 3; its log may say why"
    log = document(client.get(f"/api/v1/trainings/{crashed}/log"))["lines"]
    assert ("print", "Traceback: it broke") in [(row["kind"], row["text"]) for row in log]
    assert client.post(f"/api/v1/trainings/{crashed}/continue").status_code == 200
    reaches(client, crashed, "failed")
    assert len(document(client.get(f"/api/v1/trainings/{crashed}/log"))["lines"]) == 2 * len(log)
    assert len(line.models.state("cap").versions) == 1


def test_cancelling_ends_what_runs_and_what_waits_for_good(line: Station, client: TestClient) -> None:
    first, second = ask(client, "waits")["id"], ask(client, "learns")["id"]
    until(lambda: line.trainings.get(first).progress == 0.5, "the first is half done")
    assert document(client.get(f"/api/v1/trainings/{first}"))["stage"] == "distil"

    for number in (second, first):
        assert document(client.post(f"/api/v1/trainings/{number}/cancel"))["state"] == "cancelled"

    folder = line.archive.data / "trainings" / str(first)
    until(lambda: [path.name for path in folder.iterdir()] == ["log.jsonl"], "its state is thrown away")
    refusal(client.post(f"/api/v1/trainings/{first}/cancel"), Code.WRONG_STATE)
    refusal(client.post(f"/api/v1/trainings/{first}/continue"), Code.WRONG_STATE)
    refusal(client.post("/api/v1/trainings/77/cancel"), Code.NO_SUCH_TRAINING)
    listed = document(client.get("/api/v1/trainings?limit=1"))
    assert [row["id"] for row in listed["trainings"]] == [second]
    assert document(client.get(f"/api/v1/trainings?before={listed['next']}"))["trainings"][0]["id"] == first
    # The next one finds the way free.
    reaches(client, ask(client, "learns")["id"], "done")


def test_it_is_told_what_a_training_is_at_and_which_method_the_images_asked_for(
    line: Station, client: TestClient
) -> None:
    number = ask(client, "auto")["id"]
    until(lambda: line.trainings.get(number).progress == 0.5, "it is half done")

    shown = document(client.get(f"/api/v1/trainings/{number}"))

    assert (shown["phase"], shown["stage"], shown["note"]) == ("learning", "distil", "5/10, loss 1")
    assert (shown["method"], shown["chosen"], shown["why"]) == ("auto", "padim", "12 images are few")
    for language, words in (("en", ("distil 5/10, loss 1", "learning")), ("zh", ("distil 5/10, loss 1", "学习"))):
        for path in ("/trainings/board", f"/trainings/{number}/board"):
            page = client.get(path, headers={"cookie": f"blemish_language={language}"}).text
            assert all(word in page for word in (*words, "padim", "12 images are few")), page
    client.post(f"/api/v1/trainings/{number}/cancel")


def test_what_a_training_is_at_goes_by_the_names_that_training_gives_it() -> None:
    sources = [inspect.getsource(module) for module in (admission, choice, assembly, delivery)]

    said = {name for source in sources for name in re.findall(r'progress\(\s*"([^"]+)"', source)}

    assert said == trainings.PHASES.keys()
    assert {phase_of(name) for name in (*said, "", "distil", "distil: teacher")} == {
        *trainings.PHASES.values(),
        *("starting", "learning", "teacher"),
    }
    found = trainings.CHOSEN.fullmatch(str(choice.Choice("rd+multi", "one product, and 0 of 9 images far (z > 5.0)")))
    assert found is not None
    assert found.groups() == ("rd+multi", "one product, and 0 of 9 images far (z > 5.0)")


def test_a_stop_interrupts_and_the_next_station_goes_on_from_the_state(line: Station, client: TestClient) -> None:
    number = ask(client, "waits")["id"]
    state = line.archive.data / "trainings" / str(number) / "cap.state"
    until(state.exists, "it has saved its state")
    waiting = ask(client, "learns")["id"]

    line.close()

    again = Station(line.settings)
    assert again.trainings.get(number).state == "interrupted"
    again.start()
    # What was queued is done; what was interrupted waits for a person.
    client = TestClient(make_app(again), base_url="http://localhost")
    reaches(client, waiting, "done")
    assert document(client.post(f"/api/v1/trainings/{number}/continue"))["state"] in ("queued", "running")
    reaches(client, number, "done")
    again.close()


def test_a_database_that_is_down_when_a_training_ends_is_waited_for(
    line: Station, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "LOOK_SECONDS", 0.05)
    line.trainings._news.set()
    number = ask(client, "waits")["id"]
    until(lambda: line.trainings.get(number).progress == 0.5, "it is half done")
    engine, taken = line.store.engine, line.models.add_candidate
    refused = 0

    def broken(*arguments: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise database_unavailable()
        return taken(*arguments)

    monkeypatch.setattr(line.models, "add_candidate", broken)
    assert line.trainings._current is not None
    process = line.trainings._current[1]
    monkeypatch.setattr(line.store, "engine", create_engine("sqlite:////nowhere/at/all.db"))
    (line.archive.data / "trainings" / str(number) / "cap.blemish").write_bytes(
        (line.settings.models / "cap.blemish").read_bytes()
    )
    process.terminate()
    process.wait()
    monkeypatch.setattr(line.store, "engine", engine)

    reaches(client, number, "done")
    assert refused == 3


def test_only_images_people_found_good_are_trained_on_and_none_that_calibrate(
    line: Station, client: TestClient
) -> None:
    answers = [(OK, "confirmed"), (NG, "overruled"), (NG, "confirmed"), (OK, "overruled"), (OK, None)]
    expected = set()
    for number, (brighter, answer) in enumerate(answers * 4):
        image = part(brighter, number)
        row = document(client.post("/api/v1/inspect?model=cap", content=image))["inspections"][0]
        if answer is not None:
            client.post(f"/api/v1/inspections/{row['id']}/reviews", json={"answer": answer})
            if (brighter, answer) in answers[:2]:
                expected.add(row["image_sha256"])
    line.inspections.audit_share = 0.3
    kept = {sha256 for sha256 in expected if sha256 >= audit_bound(0.3)}
    assert 2 <= len(kept) < len(expected)

    asked = ask(client, "learns", folder=None)

    assert (asked["source"], asked["images"]) == ("reviewed", len(kept))
    reaches(client, asked["id"], "done")
    said = document(client.get(f"/api/v1/trainings/{asked['id']}/log"))["lines"][0]["text"]
    assert said.split() == sorted(f"{sha256}.png" for sha256 in kept)
    # The station's own pictures are still there.
    assert all(line.archive.read("images", sha256) for sha256 in expected)
    newest = document(client.get("/api/v1/inspections?label=normal&audit_sample=true"))["inspections"]
    assert {row["image_sha256"] for row in newest} == expected - kept
    line.inspections.audit_share = 1
    refusal(client.post("/api/v1/trainings", json={"model": "cap", "folder": None}), Code.NOT_ENOUGH_IMAGES)
    refusal(client.post("/api/v1/trainings", json={"model": "bolt", "folder": None}), Code.NO_SUCH_MODEL)


def test_the_audit_sample_is_drawn_whatever_the_score(line: Station, client: TestClient) -> None:
    assert (audit_bound(0), audit_bound(0.5), audit_bound(1)) == ("0" * 16, "8" + "0" * 15, "g")
    rows = [
        document(client.post("/api/v1/inspect?model=cap", content=part(OK if i % 2 else NG, i)))["inspections"][0]
        for i in range(40)
    ]
    drawn = line.inspections.page(Filter(audit_share=0.25), None, 500)
    # A quarter of the 2^256 digests is below the bound, which as a number it is.
    assert {row.image_sha256 for row, _ in drawn} == {
        row["image_sha256"] for row in rows if int(row["image_sha256"], 16) < 2**254
    }
    assert line.inspections.page(Filter(audit_share=0), None, 500) == []
    assert len(line.inspections.page(Filter(audit_share=1), None, 500)) == 40


def test_folders_outside_of_those_allowed_are_refused(tmp_path: Path) -> None:
    allowed, outside = tmp_path / "parts", tmp_path / "parts-secret"
    (allowed / "caps").mkdir(parents=True)
    outside.mkdir()
    (allowed / "way-out").symlink_to(outside)
    (allowed / "circle").symlink_to(allowed / "circle")
    roots = [allowed.resolve()]

    assert confined(str(allowed), roots) == allowed.resolve()
    assert confined(f"{allowed}/caps/../caps", roots) == (allowed / "caps").resolve()
    for name in (f"{allowed}/caps/../..", str(outside), f"{allowed}/way-out", "caps", "/", f"{allowed}/circle"):
        with pytest.raises(StationError) as caught:
            confined(name, roots)
        assert caught.value.code is Code.FOLDER_NOT_ALLOWED, name
    for name in ("bolts", "x" * 300):
        with pytest.raises(StationError) as caught:
            confined(f"{allowed}/{name}", roots)
        assert caught.value.code in (Code.NO_SUCH_FOLDER, Code.FOLDER_NOT_ALLOWED)
    with pytest.raises(StationError) as caught:
        confined(str(allowed), [])
    assert "training_folders" in str(caught.value)


def test_what_cannot_be_trained_is_refused(
    line: Station, client: TestClient, options: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(options.training_folders[0])
    for code, fields in (
        (Code.FOLDER_NOT_ALLOWED, {"folder": "/etc"}),
        (Code.NO_SUCH_FOLDER, {"folder": f"{folder}/bolts"}),
        (Code.INVALID_REQUEST, {"model": "../cap"}),
        (Code.INVALID_REQUEST, {"method": "r d"}),
        (Code.INVALID_REQUEST, {"false_alarm_rate": 1}),
    ):
        refusal(client.post("/api/v1/trainings", json={"model": "cap", "folder": folder, **fields}), code)
    assert line.trainings.page(None, 5) == []
    monkeypatch.setattr(trainings, "PACKAGES", ("no_such_package",))
    refused = client.post("/api/v1/trainings", json={"model": "cap", "folder": folder})
    refusal(refused, Code.TRAINING_NOT_INSTALLED)
    assert "pip install 'blemish[train]'" in refused.text
    choices = document(client.get("/api/v1/trainings/choices"))
    assert choices["unavailable"] == f"{document(refused)['message']}. {document(refused)['todo']}"
    # One that was interrupted before the packages went is not begun, only to fail.
    refusal(client.post("/api/v1/trainings/1/continue"), Code.TRAINING_NOT_INSTALLED)
    assert choices["folders"] == [folder, f"{folder}/caps"]


def test_methods_are_asked_for_aside_and_named_once_they_are_known(
    line: Station, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = ["raise SystemExit('no torch')", 'print(\'a warning [1]\'); print(\'[\\n{"name": "rd", "title": "RD"}]\')']

    def start(verb: str, threads: int, *arguments: str) -> subprocess.Popen[str]:
        assert (verb, threads, arguments) == ("methods", 1, ("--json",))
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([sys.executable, "-c", says.pop(0)], **pipes, encoding="utf-8")

    monkeypatch.setattr(trainings, "start", start)

    # The first try fails, and whoever asks next starts another.
    found = until(lambda: document(client.get("/api/v1/trainings/choices"))["methods"], "the methods are known")

    assert says == []
    assert [one["name"] for one in found] == ["auto", "rd"]
    assert found[1]["title"] == "RD"
    assert document(client.get("/api/v1/trainings/choices"))["methods"] == found


def test_trainings_are_for_admins(line: Station, client: TestClient) -> None:
    line.people.add_account("anna", "admin", "correct horse", "test")
    _, token = line.people.add_token("camera", "reviewer", "test")
    headers = {"authorization": f"Bearer {token}"}
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/choices"), ("GET", "/1/log"), ("POST", "/1/cancel")):
        body = {"model": "cap"} if method == "POST" else None
        refusal(client.request(method, f"/api/v1/trainings{path}", json=body, headers=headers), Code.NOT_ALLOWED)


def test_a_real_training_outlives_nothing_and_goes_on_after_kill(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    make_model(tmp_path / "models" / "cap.blemish")
    make_parts(tmp_path / "parts" / "discs", 12)
    options = ("--training-folder", tmp_path / "parts")
    station = StationProcess(tmp_path, *options)
    wanted = {"model": "disc", "folder": str(tmp_path / "parts" / "discs"), "method": "auto"}
    number = station.client.post("/api/v1/trainings", json=wanted).json()["id"]

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = station.client.get(f"/api/v1/trainings/{number}").json()
        return found

    try:
        training = until(lambda: children(station.process.pid), "it runs")
        until(lambda: {os.getpriority(os.PRIO_PROCESS, pid) for pid in training} == {19}, "others go first")
        station.kill()
        until(lambda: not any(alive(pid) for pid in training), "the training ends with its station")

        station = StationProcess(tmp_path, *options)
        assert shown()["state"] == "interrupted"
        station.client.post(f"/api/v1/trainings/{number}/continue")
        until(lambda: shown()["state"] not in ("queued", "running"), "it is over", TRAINS_SLOWLY)
        assert (shown()["state"], shown()["version"]) == ("done", 1), shown()
        assert (shown()["chosen"], shown()["why"]) == (choice.FEW, "12 images are few")
        active = {model["name"]: model["active"] for model in station.client.get("/api/v1/models").json()["models"]}
        assert active == {"cap": 1, "disc": None}
        station.client.post("/api/v1/models/disc/activate", json={"version": 1})
        image = next((tmp_path / "parts" / "discs").iterdir()).read_bytes()
        judged = station.client.post("/api/v1/inspect?model=disc", content=image).json()["inspections"][0]
        assert judged["verdict"] != "REJECTED"
    finally:
        station.close()


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
