"""Sources and sinks that are added, tried, changed and removed while the station runs; nothing that waits is lost."""

from __future__ import annotations

import csv
import io
import json
import logging
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from blemish.errors import UsageError
from blemish.station.app import make_app
from blemish.station.connections.kinds import CsvSink, FolderSource
from blemish.station.sinks import senders
from blemish.station.sources import base, folder
from blemish.station.station import Station
from rtsp import RtspCamera
from stations import NG, OK, StationProcess, document, make_model, part, settings, until
from test_station_sinks import OPENER, Broker, Receiver, broker, free_port  # noqa: F401

PASSWORD = "a word that only the broker knows"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(senders, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(senders, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(senders, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(base, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(base, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(folder, "LONGEST_LOOK", 0.02)


class Line:
    """A station that runs, and can be closed and opened again."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.options = settings(root, **changes)
        make_model(self.options.models / "cap.blemish")
        self.open()

    def open(self) -> None:
        self.station = Station(self.options)
        self.client = TestClient(make_app(self.station), base_url="http://localhost")
        self.station.start()

    def again(self) -> None:
        self.station.close()
        self.open()

    def inspect(self, *images: bytes) -> list[int]:
        files = [("image", ("p.png", image)) for image in images]
        return [row["id"] for row in self.client.post("/api/v1/inspect", files=files).json()["inspections"]]

    def ask(self, method: str, path: str, sent: Any = None, expect: int | None = None) -> Any:
        answer = self.client.request(method, f"/api/v1{path}", json=sent)
        if expect is not None:
            assert answer.status_code == expect, answer.text
        return document(answer) if answer.content else None

    def refused(self, method: str, path: str, sent: Any = None) -> tuple[str, list[tuple[str, str]]]:
        """The code of a refusal, and its fields with theirs."""
        answer = self.client.request(method, f"/api/v1{path}", json=sent)
        assert answer.status_code >= 400, answer.text
        found = document(answer)
        return found["code"], [(one["field"], one["code"]) for one in found.get("fields", [])]

    def one(self, direction: str, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.ask("GET", f"/{direction}")[direction] if one["name"] == name]
        return dict(found)

    def audited(self) -> list[tuple[str, str, dict[str, Any]]]:
        entries = self.ask("GET", "/audit")["entries"]
        ours = [one for one in entries if one["subject"].split()[0] in ("source", "sink")]
        return [(one["action"], one["subject"], one["detail"]) for one in ours]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def started(**changes: Any) -> Line:
        lines.append(Line(tmp_path, **changes))
        return lines[-1]

    yield started
    for line in lines:
        line.station.close()


@pytest.fixture
def tray(tmp_path: Path) -> Path:
    path = tmp_path / "tray"
    path.mkdir()
    return path


def watched(tray: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "folder", "name": "tray", "path": str(tray), "settle_seconds": 0.1, **changes}


def posted(port: int, **changes: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/in?key=1"
    return {"kind": "webhook", "name": "mes", "url": url, "secret": OPENER, "timeout_seconds": 2, **changes}


# Sources


def test_a_folder_is_watched_from_when_it_is_added_over_a_restart_until_it_is_removed(
    start: Callable[..., Line], tray: Path
) -> None:
    line = start()
    (tray / "a.png").write_bytes(part(NG, 1))

    tried = line.ask("POST", "/sources/try", watched(tray), 200)
    assert tried == {"works": True, "facts": {"images": 1}, "problem": None}
    assert [path.name for path in tray.iterdir()] == ["a.png"]
    made = line.ask("POST", "/sources", watched(tray), 201)

    assert (made["origin"], made["paused"], made["options"]["settle_seconds"]) == ("page", False, 0.1)
    until(lambda: line.one("sources", "tray")["counts"]["inspected"] == 1, "the file is inspected")
    line.again()
    (tray / "b.png").write_bytes(part(OK, 2))
    until(lambda: line.one("sources", "tray")["counts"]["inspected"] == 1, "so is one after the restart")
    line.ask("DELETE", "/sources/tray", expect=204)
    (tray / "c.png").write_bytes(part(OK, 3))
    line.again()
    assert line.ask("GET", "/sources")["sources"] == []
    assert (tray / "c.png").exists()
    rows = line.ask("GET", "/inspections")["inspections"]
    assert [(row["source"], row["file"]) for row in rows] == [("tray", "b.png"), ("tray", "a.png")]
    actions = [(action, subject) for action, subject, _ in line.audited()]
    assert actions == [("remove source", "source tray"), ("add source", "source tray")]


def test_a_paused_folder_rests_also_after_a_restart_and_then_goes_on_where_it_was(
    start: Callable[..., Line], tray: Path
) -> None:
    line = start()
    line.ask("POST", "/sources", watched(tray), 201)
    (tray / "a.png").write_bytes(part(NG, 1))
    until(lambda: line.one("sources", "tray")["counts"]["inspected"] == 1, "the file is inspected")

    assert line.ask("POST", "/sources/tray/pause", expect=200)["paused"]
    assert line.one("sources", "tray")["counts"]["inspected"] == 1
    line.again()
    (tray / "b.png").write_bytes(part(OK, 2))
    assert line.one("sources", "tray")["paused"]
    line.ask("POST", "/sources/tray/resume", expect=200)

    until(lambda: line.one("sources", "tray")["counts"]["inspected"] == 1, "what came meanwhile is inspected")
    assert [action for action, *_ in line.audited()] == ["resume source", "pause source", "add source"]


def test_a_changed_folder_is_another_one_at_once(start: Callable[..., Line], tray: Path, tmp_path: Path) -> None:
    line = start()
    line.ask("POST", "/sources", watched(tray), 201)
    other = tmp_path / "other"
    other.mkdir()

    line.ask("PUT", "/sources/tray", watched(other, after="delete"), 200)
    (tray / "old.png").write_bytes(part(NG, 1))
    (other / "new.png").write_bytes(part(NG, 2))

    until(lambda: line.one("sources", "tray")["counts"]["inspected"] == 1, "the file of the other is inspected")
    until(lambda: not list(other.glob("**/*.png")), "and deleted")
    assert (tray / "old.png").exists()
    _, _, detail = line.audited()[0]
    assert (detail["before"]["path"], detail["after"]["path"]) == (str(tray), str(other))


def test_a_folder_that_is_gone_at_the_start_keeps_nothing_from_starting_and_is_watched_once_it_is_back(
    start: Callable[..., Line], tray: Path
) -> None:
    line = start()
    line.ask("POST", "/sources", watched(tray), 201)
    line.station.close()
    for path in sorted(tray.rglob("*"), reverse=True):
        path.rmdir()
    tray.rmdir()
    line.open()
    until(lambda: "is no folder" in (line.one("sources", "tray")["problem"] or ""), "its trouble is told")

    tray.mkdir()
    (tray / "a.png").write_bytes(part(NG, 1))

    until(lambda: line.one("sources", "tray")["counts"]["inspected"] == 1, "the file is inspected")
    assert line.one("sources", "tray")["problem"] is None


def test_what_cannot_be_is_refused_when_it_is_entered(start: Callable[..., Line], tray: Path, tmp_path: Path) -> None:
    inside = tmp_path / "data" / "mine"
    line = start(sources=[FolderSource(name="fixed", kind="folder", path=tray)])
    inside.mkdir()
    second = tmp_path / "second"
    second.mkdir()
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("a,b\n1,2\n")
    camera = {"kind": "camera", "name": "top"}
    plant = {"kind": "mqtt", "name": "plant", "host": "127.0.0.1"}

    for direction, wanted, field, code in (
        ("sources", {"kind": "drone", "name": "x"}, "kind", "union_tag_invalid"),
        ("sources", {"kind": "folder", "path": str(second)}, "name", "missing"),
        ("sources", watched(second, name="a/b"), "name", "string_pattern_mismatch"),
        ("sources", {"kind": "folder", "name": "x"}, "path", "missing"),
        ("sources", watched(second, path="tray"), "path", "not_absolute"),
        ("sources", watched(tmp_path / "nowhere"), "path", "no_such_folder"),
        ("sources", watched(tray), "path", "watched_already"),
        ("sources", watched(inside), "path", "folder_of_station"),
        ("sources", watched(Path("/")), "path", "folder_of_station"),
        ("sources", watched(second, settle_seconds=0), "settle_seconds", "greater_than"),
        ("sources", watched(second, after="burn"), "after", "literal_error"),
        ("sources", watched(second, model="lid"), "model", "no_such_model"),
        ("sources", watched(second, colour="red"), "colour", "extra_forbidden"),
        ("sources", {**camera, "every_seconds": 1}, "url", "url_or_device"),
        ("sources", {**camera, "device": 0}, "every_seconds", "every_or_trigger"),
        ("sources", {**camera, "url": "rtsp://a:b@c/d", "trigger": True}, "url", "url_login"),
        ("sources", {**camera, "url": "gopher://c/d", "trigger": True}, "url", "url_scheme"),
        ("sources", {**camera, "url": "rtsp://c:99999/d", "trigger": True}, "url", "url_broken"),
        ("sources", {**camera, "device": 0, "trigger": True, "password": "p"}, "user", "user_needed"),
        ("sinks", posted(1, secret="whsec_c2hvcnQ="), "secret", "weak_secret"),
        ("sinks", posted(1, secret=None), "secret", "missing"),
        ("sinks", posted(1, url="http:///in"), "url", "url_host"),
        ("sinks", {**plant, "port": 70000}, "port", "less_than_equal"),
        ("sinks", {**plant, "topic": "a/#"}, "topic", "string_pattern_mismatch"),
        ("sinks", {**plant, "ca_file": "/etc/ca.pem"}, "tls", "tls_needed"),
        ("sinks", {**plant, "tls": True, "ca_file": str(second / "ca.pem")}, "ca_file", "no_such_file"),
        ("sinks", {"kind": "csv", "name": "t", "path": str(second / "t.txt")}, "path", "not_csv"),
        ("sinks", {"kind": "csv", "name": "t", "path": str(foreign)}, "path", "file_unusable"),
        ("sinks", {"kind": "csv", "name": "t", "path": str(foreign / "t.csv")}, "path", "file_unusable"),
    ):
        for path in (f"/{direction}", f"/{direction}/try"):
            refusal, fields = line.refused("POST", path, wanted)
            assert (field, code) in fields, (path, wanted, fields)
            assert refusal == ("connection_invalid" if _late(field, code) else "invalid_request")
    assert line.refused("POST", "/sources", watched(second, name="fixed")) == ("name_taken", [("name", "name_taken")])
    make_model(line.options.models / "lid.blemish")
    line.station.models.scan()
    assert line.refused("POST", "/sources", watched(second)) == ("connection_invalid", [("model", "model_needed")])
    line.ask("POST", "/sources", watched(second, model="lid"), 201)
    assert foreign.read_text() == "a,b\n1,2\n"
    assert not any((line.options.data / "secrets").glob("*"))


def _late(field: str, code: str) -> bool:
    """Whether a complaint is of a check that needs more than the form of what was sent."""
    late = {"no_such_folder", "watched_already", "folder_of_station", "no_such_model", "no_such_file", "file_unusable"}
    return code in late or (field, code) == ("secret", "missing")


def test_only_folders_that_whoever_runs_the_station_named_may_be_used(
    start: Callable[..., Line], tmp_path: Path
) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for path in (allowed / "tray", other):
        path.mkdir(parents=True)
    (allowed / "way-out").symlink_to(other)
    line = start(connection_folders=(allowed, other))
    line.ask("POST", "/sources", watched(other, name="other"), 201)
    line.station.close()
    line.options = settings(tmp_path, connection_folders=(allowed,))
    line.open()

    refused = ("connection_invalid", [("path", "folder_not_allowed")])
    assert line.refused("POST", "/sources", watched(allowed / "way-out")) == refused
    table = {"kind": "csv", "name": "t", "path": str(allowed / ".." / "other" / "t.csv")}
    assert line.refused("POST", "/sinks", table) == refused
    camera = {"kind": "camera", "name": "film", "url": f"file://{other}/film.avi", "trigger": True}
    assert line.refused("POST", "/sources", camera) == ("connection_invalid", [("url", "folder_not_allowed")])
    line.ask("POST", "/sources", watched(allowed / "tray"), 201)
    # What was allowed once and is not any more rests.
    assert line.one("sources", "other")["paused"]
    assert line.refused("POST", "/sources/other/resume") == refused


def test_what_the_file_names_is_shown_and_not_changed_and_a_name_stands_in_one_place_only(
    start: Callable[..., Line], tray: Path, tmp_path: Path
) -> None:
    table = CsvSink(name="table", kind="csv", path=tmp_path / "table.csv")
    fixed = FolderSource(name="tray", kind="folder", path=tray)
    line = start(sources=[fixed], sinks=[table])

    assert line.one("sources", "tray")["origin"] == line.one("sinks", "table")["origin"] == "file"
    wanted = {"kind": "csv", "name": "table", "path": str(tmp_path / "other.csv")}
    for method, path, sent in (
        ("PUT", "/sources/tray", watched(tray)),
        ("DELETE", "/sources/tray", None),
        ("POST", "/sources/tray/pause", None),
        ("PUT", "/sinks/table", wanted),
        ("POST", "/sinks/try?change=true", wanted),
        ("DELETE", "/sinks/table", None),
        ("POST", "/sinks/table/resume", None),
    ):
        assert line.refused(method, path, sent)[0] == "from_file"
    for path in ("/sources/none", "/sinks/none", "/sinks/none/waiting"):
        assert line.refused("DELETE", path)[0] == "not_found"
    line.ask("POST", "/sinks", {**wanted, "name": "second"}, 201)
    line.station.close()
    line.options = settings(tmp_path, sinks=[CsvSink(name="second", kind="csv", path=tmp_path / "third.csv")])
    with pytest.raises(UsageError, match=r"sinks.second: a sink of the name second was also added at the page"):
        Station(line.options)
    line.options = settings(tmp_path)
    line.open()


# Sinks


def test_a_sink_that_is_removed_or_changed_loses_nothing_silently(start: Callable[..., Line], tmp_path: Path) -> None:
    line = start()
    dead_end = free_port()
    line.ask("POST", "/sinks", posted(dead_end), 201)
    sent = line.inspect(part(NG, 1), part(OK, 2), part(OK, 3))
    until(lambda: line.one("sinks", "mes")["problem"], "the sink is found to be down")

    answer = line.ask("DELETE", "/sinks/mes", expect=409)
    assert (answer["code"], answer["fields"][0]["values"]) == ("results_waiting", {"waiting": "3", "dead": "0"})
    assert line.one("sinks", "mes")["waiting"] == 3
    port = free_port()
    assert line.refused("PUT", "/sinks/mes", posted(port))[0] == "results_waiting"
    # Where they go stays the same, so there is nothing to ask; but none may fall over the edge.
    verdicts = {"verdicts": ["NG"]}
    line.ask("PUT", "/sinks/mes", posted(dead_end, **verdicts), 200)
    fewer = line.refused("PUT", "/sinks/mes", posted(dead_end, max_waiting=2))
    assert fewer == ("connection_invalid", [("max_waiting", "fewer_than_wait")])

    line.ask("DELETE", "/sinks/mes?waiting=keep", expect=204)
    line.again()
    assert line.ask("GET", "/sinks") == {"sinks": [], "left": [{"name": "mes", "waiting": 3, "dead": 0}]}
    line.inspect(part(NG, 4))
    assert line.refused("POST", "/sinks", posted(port))[0] == "results_waiting"
    receiver = Receiver(port, lambda event: 200)
    line.ask("POST", "/sinks?waiting=keep", posted(port), 201)

    until(lambda: len(receiver.taken) == 3, "what was kept is delivered to the new one")
    assert receiver.inspections() == sent
    until(lambda: line.one("sinks", "mes")["waiting"] == 0, "nothing waits")
    assert line.ask("GET", "/sinks")["left"] == []
    receiver.close()
    details = [detail for action, _, detail in line.audited() if action in ("add sink", "remove sink")]
    assert [(one.get("waiting"), one.get("results")) for one in details] == [("keep", 3), ("keep", 3), (None, None)]


def test_what_waits_for_a_changed_sink_goes_where_it_is_then(start: Callable[..., Line], tmp_path: Path) -> None:
    line = start()
    line.ask("POST", "/sinks", posted(free_port()), 201)
    sent = line.inspect(part(NG, 1), part(OK, 2))
    receiver = Receiver(port := free_port(), lambda event: 200)

    # Without a secret of its own, it keeps the one it had; so its signatures stay good.
    line.ask("PUT", "/sinks/mes?waiting=keep", posted(port, secret=None), 200)

    until(lambda: len(receiver.taken) == 2, "what waited is delivered")
    assert receiver.inspections() == sent
    receiver.close()
    line.inspect(part(NG, 3))
    until(lambda: line.one("sinks", "mes")["problem"], "the sink is found to be down")
    line.ask("PUT", "/sinks/mes?waiting=discard", posted(free_port(), secret=None), 200)
    assert line.one("sinks", "mes")["waiting"] == 0
    assert line.audited()[0][2]["results"] == 1
    assert line.refused("PUT", "/sinks/mes", posted(port, name="other"))[1] == [("name", "name_fixed")]
    table = {"kind": "csv", "name": "mes", "path": str(tmp_path / "t.csv")}
    assert line.refused("PUT", "/sinks/mes", table)[1] == [("kind", "kind_fixed")]


def test_results_wait_for_a_paused_sink_and_what_waits_for_none_can_be_thrown_away(
    start: Callable[..., Line], tmp_path: Path
) -> None:
    line = start()
    path = tmp_path / "out" / "t.csv"
    table = {"kind": "csv", "name": "table", "path": str(path)}
    assert line.ask("POST", "/sinks/try", table, 200)["works"]
    assert not path.parent.exists()
    line.ask("POST", "/sinks", table, 201)
    line.ask("POST", "/sinks/table/pause", expect=200)
    line.inspect(part(NG, 1), part(OK, 2))
    line.again()
    state = line.one("sinks", "table")
    assert (state["paused"], state["waiting"], path.exists()) == (True, 2, False)

    line.ask("POST", "/sinks/table/resume", expect=200)
    until(lambda: line.one("sinks", "table")["delivered"] == 2, "what waited is written")
    with path.open(newline="") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["NG", "OK"]

    # A file that is there and is the station's own may be written on.
    assert line.ask("POST", "/sinks/try?change=true", table, 200)["works"]
    line.ask("POST", "/sinks/table/pause", expect=200)
    line.inspect(part(NG, 3))
    line.ask("DELETE", "/sinks/table?waiting=keep", expect=204)
    assert line.ask("DELETE", "/sinks/table/waiting", expect=200) == {"count": 1}
    assert line.ask("GET", "/sinks")["left"] == []
    assert line.audited()[0] == ("discard sink", "sink table", {"results": 1})


def test_trying_says_what_is_wrong_and_where_and_sends_one_greeting(start: Callable[..., Line]) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    line = start()
    receiver = Receiver(port := free_port(), lambda event: 200 if event["type"] == "test" else 400)

    assert line.ask("POST", "/sinks/try", posted(port), 200) == {
        "works": True,
        "facts": {"status": 200},
        "problem": None,
    }
    assert [event["type"] for event in receiver.taken] == ["test"]
    assert receiver.headers[0]["webhook-signature"].startswith("v1,")
    receiver.close()
    for path, wanted, field, words in (
        ("/sinks/try", posted(port), "url", "Connection refused"),
        ("/sinks/try", {"kind": "mqtt", "name": "b", "host": "127.0.0.1", "port": port}, "host", "Connection refused"),
        (
            "/sources/try",
            {"kind": "camera", "name": "c", "url": f"http://127.0.0.1:{port}/", "trigger": True},
            "url",
            "cannot be reached: Connection refused",
        ),
    ):
        tried = line.ask("POST", path, wanted, 200)
        assert (tried["works"], tried["problem"]["field"], tried["problem"]["code"]) == (False, field, "does_not_work")
        assert words in tried["problem"]["message"]
    assert line.ask("GET", "/sinks")["sinks"] == []
    assert not any((line.options.data / "secrets").glob("*"))


def test_secrets_lie_in_files_of_the_station_and_nowhere_else(
    start: Callable[..., Line], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    caplog.set_level(logging.DEBUG)
    line = start()
    port = free_port()
    plant = {"kind": "mqtt", "name": "plant", "host": "127.0.0.1", "port": port, "user": "line", "password": PASSWORD}
    line.ask("POST", "/sinks", plant, 201)
    line.ask("POST", "/sinks", posted(port, url=f"http://127.0.0.1:{port}/in?key=hidden-key"), 201)
    camera = {"kind": "camera", "name": "top", "url": f"http://127.0.0.1:{port}/s?pw=hidden-key", "trigger": True}
    line.ask("POST", "/sources", {**camera, "user": "u", "password": PASSWORD}, 201)

    files = sorted((line.options.data / "secrets").iterdir())
    assert sorted(path.read_text() for path in files) == sorted([f"{PASSWORD}\n"] * 2 + [f"{OPENER}\n"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert line.one("sinks", "plant")["options"]["secret"] is True

    # To another host, or for another user, the password is not sent because somebody says so.
    moved = {**plant, "port": port + 1, "password": None}
    assert line.refused("PUT", "/sinks/plant", moved)[1] == [("password", "password_again")]
    line.ask("PUT", "/sinks/plant", {**plant, "topic": "other", "password": None}, 200)
    assert (
        line.station.senders.settings_of("plant").password_file.read_text() == f"{PASSWORD}\n"  # type: ignore[union-attr]
    )
    # Who leaves the address as it is shown keeps what is hidden of it.
    line.ask("PUT", "/sinks/mes", posted(port, url=f"http://127.0.0.1:{port}/in", secret=None), 200)
    line.again()
    assert line.station.senders.settings_of("mes").url.endswith("?key=hidden-key")  # type: ignore[union-attr]

    said = caplog.text
    for path in ("/api/v1/sinks", "/api/v1/sources", "/api/v1/audit", "/connections", "/system", "/metrics"):
        said += line.client.get(path).text
    for name, path in (("plant", "/connections/sink"), ("mes", "/connections/sink"), ("top", "/connections/source")):
        answer = line.client.get(path, params={"name": name})
        assert answer.status_code == 200
        said += answer.text
    for secret in (PASSWORD, OPENER, "hidden-key", *(path.name for path in files)):
        assert secret not in said
    wrong = line.client.post("/api/v1/sinks", json=posted(port, secret="whsec_short-secret"))
    assert "short-secret" not in wrong.text
    refused = line.client.post("/api/v1/sinks", json={**plant, "name": "other", "port": 0})
    assert PASSWORD not in refused.text

    line.ask("DELETE", "/sinks/plant", expect=204)
    line.ask("PUT", "/sources/top", {**camera, "user": None}, 200)
    (kept,) = (line.options.data / "secrets").iterdir()
    assert kept.read_text() == f"{OPENER}\n"
    # What the end of the process left behind goes at the next start.
    (line.options.data / "secrets" / "left").write_text("x")
    line.again()
    assert [path.name for path in (line.options.data / "secrets").iterdir()] == [kept.name]


def test_only_an_admin_changes_and_everyone_signed_in_may_look(start: Callable[..., Line], tray: Path) -> None:
    line = start()
    line.station.people.add_account("anna", "admin", "correct horse", "test")
    for role, allowed in (("viewer", False), ("reviewer", False), ("machine", False), ("admin", True)):
        _, token = line.station.people.add_token(role, role, "test")  # type: ignore[arg-type]
        signed = {"Authorization": f"Bearer {token}"}
        assert line.client.get("/api/v1/sources", headers=signed).status_code == 200
        for path in ("/sources/try", "/sources"):
            answer = line.client.post(f"/api/v1{path}", json=watched(tray), headers=signed)
            assert answer.status_code in ((200, 201) if allowed else (403,)), (role, path)
    assert line.client.delete("/api/v1/sources/tray").status_code == 401


def test_the_document_tells_of_every_field_and_code(start: Callable[..., Line]) -> None:
    told = json.dumps(start().client.get("/api/v1/openapi.json").json())

    for word in ("settle_seconds", "secret", "password", "results_waiting", "from_file", "connection_invalid"):
        assert word in told
    assert '"writeOnly": true' in told


def test_a_broker_lets_in_whoever_has_its_password_and_gets_results_at_once(
    start: Callable[..., Line],
    broker: Broker,  # noqa: F811
) -> None:
    line = start()
    wanted = {"kind": "mqtt", "name": "plant", "host": "127.0.0.1", "port": broker.port, "user": "blemish"}

    refused = line.ask("POST", "/sinks/try", {**wanted, "password": "guessed"}, 200)
    assert (refused["works"], refused["problem"]["field"]) == (False, "host")
    assert "Not authorized" in refused["problem"]["message"]
    assert line.ask("POST", "/sinks/try", {**wanted, "password": "geheim"}, 200)["works"]
    line.ask("POST", "/sinks", {**wanted, "password": "geheim"}, 201)
    line.inspect(part(NG, 1))

    until(lambda: line.one("sinks", "plant")["delivered"] == 1, "the broker has it")
    # With what it kept, the trial of a change is let in, too.
    assert line.ask("POST", "/sinks/try?change=true", {**wanted, "topic": "other"}, 200)["works"]


def test_a_camera_is_tried_by_taking_a_frame_and_is_looked_through_once_it_is_added(
    start: Callable[..., Line],
) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")

    def frame() -> bytes:
        file = io.BytesIO()
        Image.open(io.BytesIO(part(NG, shape=(96, 128)))).save(file, "JPEG", quality=95)
        return file.getvalue()

    line = start()
    server = RtspCamera(port := free_port(), frame, 128, 96)
    wanted = {"kind": "camera", "name": "top", "url": f"rtsp://127.0.0.1:{port}/live", "every_seconds": 0.05}

    tried = line.ask("POST", "/sources/try", wanted, 200)
    assert tried == {"works": True, "facts": {"width": 128, "height": 96}, "problem": None}
    assert line.ask("GET", "/inspections")["inspections"] == []
    line.ask("POST", "/sources", wanted, 201)
    until(lambda: line.one("sources", "top")["counts"]["inspected"], "a frame is inspected")
    line.ask("POST", "/sources/top/pause", expect=200)
    rested = line.one("sources", "top")
    assert not rested["connected"]
    assert line.refused("POST", "/sources/top/trigger")[0] == "source_unavailable"
    line.ask("PUT", "/sources/top", {**wanted, "every_seconds": None, "trigger": True}, 200)
    line.ask("POST", "/sources/top/resume", expect=200)
    until(lambda: line.one("sources", "top")["connected"], "it is looked through again")
    assert line.ask("POST", "/sources/top/trigger", expect=200)["inspections"][0]["source"] == "top"
    server.close()


def test_nothing_is_lost_while_results_come_and_a_sink_is_changed_and_removed_again_and_again(
    start: Callable[..., Line],
) -> None:
    line = start()
    receivers = [Receiver(port, lambda event: 200) for port in (free_port(), free_port())]
    ports = [receiver.server.server_address[1] for receiver in receivers]
    line.ask("POST", "/sinks", posted(ports[0]), 201)
    sent: list[int] = []
    ended = threading.Event()

    def produce() -> None:
        for number in range(40):
            sent.extend(line.inspect(part(NG, number)))
        ended.set()

    producer = threading.Thread(target=produce)
    producer.start()
    changes = 0
    while not ended.is_set():
        line.ask("PUT", "/sinks/mes?waiting=keep", posted(ports[changes % 2]), 200)
        line.ask("POST", "/sinks/mes/pause", expect=200)
        line.ask("POST", "/sinks/mes/resume", expect=200)
        changes += 1
    producer.join()
    line.ask("PUT", "/sinks/mes?waiting=keep", posted(ports[0]), 200)

    until(lambda: line.one("sinks", "mes")["waiting"] == 0, "everything is delivered")
    got = [number for receiver in receivers for number in receiver.inspections()]
    assert changes > 3
    assert sorted(set(got)) == sorted(sent)
    for receiver in receivers:
        assert receiver.inspections() == sorted(receiver.inspections())
        receiver.close()


def test_what_was_added_is_there_after_kill_9(tmp_path: Path, tray: Path) -> None:
    (tmp_path / "models").mkdir()
    make_model(tmp_path / "models" / "cap.blemish")
    process = StationProcess(tmp_path)
    try:
        path = tmp_path / "table.csv"
        assert process.client.post("/api/v1/sources", json=watched(tray)).status_code == 201
        table = {"kind": "csv", "name": "table", "path": str(path)}
        assert process.client.post("/api/v1/sinks", json=table).status_code == 201
        process.kill()
        (tray / "a.png").write_bytes(part(NG, 1))

        process = StationProcess(tmp_path)

        until(path.exists, "what the folder gave is in the table")
        assert [row["source"] for row in process.inspections()] == ["tray"]
    finally:
        process.close()
