"""Sources: folders lose nothing and take nothing twice, cameras vanish and come back; and the configuration."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from blemish.errors import UsageError
from blemish.station.app import make_app
from blemish.station.archive import Archive
from blemish.station.configuration import make_settings, parse_configuration
from blemish.station.connections.kinds import CameraSource, FolderSource
from blemish.station.errors import Code, StationError, database_unavailable
from blemish.station.inspections import Filter
from blemish.station.sources import base, folder, reaching
from blemish.station.sources.folder import Folder
from blemish.station.station import Station
from blemish.station.tables import TakenFile
from parts import GREY
from rtsp import RtspCamera
from stations import NG, OK, StationProcess, document, make_model, part, settings, until
from test_station_sinks import free_port


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(base, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(base, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(folder, "LONGEST_LOOK", 0.02)


class Line:
    """A station with sources, which can be closed and opened again."""

    def __init__(self, root: Path, *sources: Any, **changes: Any) -> None:
        self.options = settings(root, sources=sources, **changes)
        make_model(self.options.models / "cap.blemish")
        self.open()

    def open(self) -> None:
        self.station = Station(self.options)
        self.client = TestClient(make_app(self.station), base_url="http://localhost")
        self.station.sources.start()

    def rows(self) -> list[Any]:
        return [row for row, _ in self.station.inspections.page(Filter(), None, 500)][::-1]

    def source(self) -> dict[str, Any]:
        (found,) = document(self.client.get("/api/v1/sources"))["sources"]
        return dict(found)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def started(*sources: Any, **changes: Any) -> Line:
        lines.append(Line(tmp_path, *sources, **changes))
        return lines[-1]

    yield started
    for line in lines:
        line.station.close()


@pytest.fixture
def tray(tmp_path: Path) -> Path:
    path = tmp_path / "tray"
    path.mkdir()
    return path


def watched(tray: Path, **changes: Any) -> FolderSource:
    return FolderSource(name="tray", kind="folder", path=tray, **{"settle_seconds": 0.1, **changes})


def lying_in(folder: Path) -> list[str]:
    """The names of files without the number that was put in front of them."""
    return sorted(path.name.partition("-")[2] for path in folder.iterdir())


# A watched folder


def test_files_that_lie_there_and_files_that_come_are_inspected_and_move_on(
    start: Callable[..., Line], tray: Path
) -> None:
    (tray / "old.png").write_bytes(part(NG, 1))
    (tray / "notes.txt").write_text("no image")
    (tray / ".hidden.png").write_bytes(part(NG, 2))
    (tray / "folder.png").mkdir()
    (tray / "link.png").symlink_to(tray / "notes.txt")
    # Not one that was taken by a station.
    (tray / "taken").mkdir()
    (tray / "taken" / "own.png").write_bytes(part(NG, 9))
    line = start(watched(tray))
    until(lambda: len(line.rows()) == 1, "the file that was there is inspected")
    (tray / "half.part").write_bytes(part(OK, 3))
    (tray / "half.part").rename(tray / "new.PNG")
    (tray / "broken.jpg").write_bytes(b"no image")
    (tray / "same.png").write_bytes(part(OK, 4))
    until(lambda: len(line.rows()) == 4, "those that came are inspected")
    # Another part under the name of one before is another part.
    (tray / "same.png").write_bytes(part(OK, 4))

    until(lambda: line.source()["counts"]["inspected"] == 5, "the last one is inspected")

    rows = line.rows()
    assert sorted(row.file for row in rows) == ["broken.jpg", "new.PNG", "old.png", "same.png", "same.png"]
    assert {row.file: row.verdict for row in rows} == {
        "old.png": "NG",
        "new.PNG": "OK",
        "broken.jpg": "REJECTED",
        "same.png": "OK",
    }
    assert {row.source for row in rows} == {"tray"}
    until(lambda: len(lying_in(tray / "done")) == 5, "all have moved on")
    assert lying_in(tray / "done") == sorted(row.file for row in rows)
    assert [path.name for path in (tray / "taken").iterdir()] == ["own.png"]
    assert {path.name for path in tray.iterdir()} >= {"notes.txt", ".hidden.png", "folder.png", "link.png"}
    state = line.source()
    assert (state["connected"], state["problem"], state["kind"]) == (True, None, "folder")
    assert 'blemish_source_events_total{event="inspected",source="tray"} 5.0' in line.client.get("/metrics").text


def test_a_file_that_is_still_being_written_is_left_alone(start: Callable[..., Line], tray: Path) -> None:
    line = start(watched(tray, settle_seconds=0.4))
    content = part(NG)
    with (tray / "slow.png").open("wb") as file:
        for place in range(0, len(content), max(1, len(content) // 8)):
            file.write(content[place : place + max(1, len(content) // 8)])
            file.flush()
            time.sleep(0.1)
            assert line.rows() == []

    until(lambda: line.rows(), "it is inspected")

    assert [row.verdict for row in line.rows()] == ["NG"]


def test_names_that_are_no_text_or_too_long_are_no_hindrance(start: Callable[..., Line], tray: Path) -> None:
    line = start(watched(tray))
    for name in (b"caf\xe9.png", "ü".encode() * 120 + b".png", b"new\nline.png"):
        Path(os.fsdecode(os.fsencode(tray) + b"/" + name)).write_bytes(part(OK))

    until(lambda: len(lying_in(tray / "done")) == 3, "all are inspected")

    files = sorted(row.file for row in line.rows())
    assert files[:2] == ["caf\ufffd.png", "new?line.png"]
    assert files[2].endswith("üü.png")


def test_inspected_files_can_be_deleted(start: Callable[..., Line], tray: Path) -> None:
    line = start(watched(tray, after="delete"))
    (tray / "a.png").write_bytes(part(OK))

    until(lambda: line.rows() and not list((tray / "taken").iterdir()), "it is inspected and deleted")

    assert lying_in(tray / "done") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_no_request_could_carry_is_put_aside(start: Callable[..., Line], tray: Path) -> None:
    line = start(watched(tray), max_body_bytes=2000)
    (tray / "large.png").write_bytes(bytes(2001))
    (tray / "small.png").write_bytes(part(OK))

    until(lambda: line.source()["counts"] == {"inspected": 1, "refused": 1}, "both are dealt with")

    assert lying_in(tray / "refused") == ["large.png"]
    assert [row.file for row in line.rows()] == ["small.png"]


def test_files_wait_while_the_station_cannot_judge(
    start: Callable[..., Line], tray: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Archive.keep
    away = True

    def keep(self: Archive, pictures: Any) -> Any:
        if away:
            raise StationError(Code.STORAGE_FAILED, "the disk is full")
        return real(self, pictures)

    monkeypatch.setattr(Archive, "keep", keep)
    line = start(watched(tray))
    (tray / "a.png").write_bytes(part(OK))
    until(lambda: line.source()["problem"], "the trouble is told")
    assert "the disk is full" in line.source()["problem"]

    away = False

    until(lambda: line.rows(), "it is inspected")
    assert line.source()["problem"] is None


@pytest.mark.parametrize("moment", ["before the inspection", "after it, before the move", "after the move"])
def test_a_file_is_inspected_once_wherever_the_process_ends(
    start: Callable[..., Line], tray: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The thread stops where the process would have ended; the next station finds what it left."""
    ended = threading.Event()

    def end(*_: Any) -> None:
        ended.set()
        raise base.StoppedError

    name = {
        "before the inspection": "_inspect",
        "after it, before the move": "_finish",
        "after the move": "_forget",
    }[moment]
    with monkeypatch.context() as patched:
        patched.setattr(Folder, name, end)
        line = start(watched(tray))
        (tray / "a.png").write_bytes(part(NG))
        assert ended.wait(60)
        line.station.close()
    assert len(line.rows() if moment != "before the inspection" else ["none"]) == 1
    (tray / "b.png").write_bytes(part(OK))

    line.open()

    until(lambda: "b.png" in [row.file for row in line.rows()], "the next file is inspected")
    until(lambda: lying_in(tray / "done") == ["a.png", "b.png"], "both have moved on")
    assert [(row.file, row.verdict) for row in line.rows()] == [("a.png", "NG"), ("b.png", "OK")]

    def forgotten() -> bool:
        with line.station.store.read() as session:
            return session.query(TakenFile).count() == 0

    until(forgotten, "nothing is left to remember")


def test_a_file_is_inspected_once_though_the_database_vanished_before_it_could_say_so(
    start: Callable[..., Line], tray: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Station.inspect_one
    attempts = []

    def stored_without_a_word(self: Station, *arguments: Any, **named: Any) -> Any:
        attempts.append(real(self, *arguments, **named))
        raise database_unavailable()

    monkeypatch.setattr(Station, "inspect_one", stored_without_a_word)
    line = start(watched(tray))
    (tray / "a.png").write_bytes(part(NG))

    until(lambda: lying_in(tray / "done") == ["a.png"], "it has moved on")

    assert len(attempts) == 1
    assert [row.file for row in line.rows()] == ["a.png"]
    assert line.source()["counts"]["refused"] == 0


def test_kill_loses_no_file_and_inspects_none_twice(tmp_path: Path, tray: Path) -> None:
    (tmp_path / "models").mkdir()
    make_model(tmp_path / "models" / "cap.blemish")
    config = tmp_path / "station.yaml"
    config.write_text("models: models\nsources:\n  - {name: tray, kind: folder, path: tray, settle_seconds: 0.05}\n")
    names = [f"{number:02}.png" for number in range(40)]
    for number, name in enumerate(names):
        (tray / name).write_bytes(part(OK, number))
    station = StationProcess(tmp_path, "--config", config)
    until(lambda: len(list((tray / "done").iterdir())) >= 5, "some are inspected")
    station.kill()
    left = len(list(tray.glob("*.png")))
    station.close()

    again = StationProcess(tmp_path, "--config", config)

    until(lambda: len(list((tray / "done").iterdir())) == 40, "all are inspected")
    assert sorted(row["file"] for row in again.inspections()) == names
    assert left > 0
    again.terminate()
    assert again.wait() == 0
    again.close()


@pytest.mark.parametrize("wrong", ["missing", "file"])
def test_a_folder_that_cannot_be_watched_is_refused_at_start(
    start: Callable[..., Line], tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / "nothing"
    if wrong == "file":
        path.write_text("")

    with pytest.raises(UsageError, match="is no folder") as caught:
        start(watched(path))

    assert caught.value.where == "sources.tray.path"


# Cameras


class MjpegServer:
    """A camera that sends one JPEG after the other over HTTP; what it shows can be changed. It may need a password."""

    def __init__(self, port: int, login: str | None = None) -> None:
        import cv2

        self.shown = OK
        self.login = login
        self.closing = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if camera.login is not None and self.headers.get("Authorization") != camera.login:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while not camera.closing.is_set():
                    pixels = np.full((48, 64, 3), GREY, np.uint8)
                    pixels[8:32, 8:32] += camera.shown
                    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    try:
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                    except OSError:
                        return
                    camera.closing.wait(0.02)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def camera() -> Iterator[Callable[..., MjpegServer]]:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    servers: list[MjpegServer] = []

    def started(port: int, login: str | None = None) -> MjpegServer:
        servers.append(MjpegServer(port, login))
        return servers[-1]

    yield started
    for server in servers:
        if not server.closing.is_set():
            server.close()


def looking_at(port: int, **changes: Any) -> CameraSource:
    fields = {"name": "top", "kind": "camera", "url": f"http://127.0.0.1:{port}/stream", "patience_seconds": 3}
    return CameraSource.model_validate({**fields, **changes})


def test_a_camera_is_inspected_to_a_beat_and_comes_back_after_it_vanished(
    start: Callable[..., Line], camera: Callable[..., MjpegServer]
) -> None:
    server = camera(port := free_port())
    line = start(looking_at(port, every_seconds=0.1))
    until(lambda: len(line.rows()) >= 2, "frames are inspected")
    assert line.source()["connected"]
    server.shown = NG
    until(lambda: line.rows()[-1].verdict == "NG", "what it shows now is inspected")
    server.close()
    until(lambda: not line.source()["connected"], "it is missed")
    assert line.source()["problem"]
    seen = len(line.rows())
    before = line.source()["counts"]["connections"]

    server = camera(port)

    until(lambda: line.source()["connected"], "it is back")
    until(lambda: len(line.rows()) > seen + 1, "it is inspected again")
    state = line.source()
    assert (state["connected"], state["problem"]) == (True, None)
    assert state["counts"]["connections"] == before + 1
    # Not every frame, but one in a beat.
    assert state["counts"]["frames"] > state["counts"]["inspected"]
    rows = line.rows()
    assert {row.source for row in rows} == {"top"}
    assert rows[-1].score == pytest.approx(OK / 100, abs=0.03)
    picture = line.client.get(f"/api/v1/inspections/{rows[-1].id}/image").content
    assert picture.startswith(b"\x89PNG")


def test_a_camera_that_speaks_rtsp_is_inspected_and_comes_back_too(start: Callable[..., Line]) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    shown = OK

    def frame() -> bytes:
        pixels = np.full((96, 128, 3), GREY, np.uint8)
        pixels[16:64, 16:64] += shown
        jpeg: bytes = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        return jpeg

    server = RtspCamera(port := free_port(), frame, 128, 96)
    line = start(looking_at(port, url=f"rtsp://127.0.0.1:{port}/live", every_seconds=0.05))
    until(lambda: line.rows(), "a frame is inspected")
    shown = NG
    until(lambda: line.rows()[-1].verdict == "NG", "what it shows now is inspected")
    server.close()
    until(lambda: not line.source()["connected"], "it is missed")
    seen = len(line.rows())

    server = RtspCamera(port, frame, 128, 96)

    until(lambda: line.source()["connected"], "it is back")
    until(lambda: len(line.rows()) > seen + 1, "it is inspected again")
    assert line.rows()[-1].score == pytest.approx(NG / 100, abs=0.05)
    server.close()


def test_frames_that_come_while_one_is_inspected_are_dropped_and_counted_and_the_newest_is_next(
    start: Callable[..., Line], camera: Callable[..., MjpegServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = camera(port := free_port())
    judging, go_on = threading.Event(), threading.Event()
    real = Station.inspect_one

    def slow(self: Station, *arguments: Any, **named: Any) -> Any:
        judging.set()
        assert go_on.wait(60)
        return real(self, *arguments, **named)

    monkeypatch.setattr(Station, "inspect_one", slow)
    line = start(looking_at(port, every_seconds=0.01))
    assert judging.wait(60)
    until(lambda: line.source()["counts"]["dropped"] >= 3, "frames are dropped")
    server.shown = NG
    dropped = line.source()["counts"]["dropped"]
    until(lambda: line.source()["counts"]["dropped"] > dropped + 40, "what it shows now has come")
    go_on.set()

    until(lambda: len(line.rows()) >= 2, "two are inspected")

    assert [row.verdict for row in line.rows()][:2] == ["OK", "NG"]


def test_a_camera_on_demand_gives_a_frame_that_is_newer_than_the_demand(
    start: Callable[..., Line], camera: Callable[..., MjpegServer]
) -> None:
    server = camera(port := free_port())
    line = start(looking_at(port, trigger=True))
    until(lambda: line.source()["connected"], "it is connected")

    first = document(line.client.post("/api/v1/sources/top/trigger"))["inspections"][0]
    server.shown = NG
    seen = line.source()["counts"]["frames"]
    until(lambda: line.source()["counts"]["frames"] > seen + 20, "what it shows now has come")
    second = document(line.client.post("/api/v1/sources/top/trigger"))["inspections"][0]

    assert [(row["verdict"], row["source"]) for row in (first, second)] == [("OK", "top"), ("NG", "top")]
    assert len(line.rows()) == 2
    server.close()
    until(lambda: not line.source()["connected"], "it is missed")
    refused = line.client.post("/api/v1/sources/top/trigger")
    assert (refused.status_code, refused.json()["code"]) == (503, "source_unavailable")


def test_a_camera_that_wants_a_password_gets_it_and_nobody_else_does(
    start: Callable[..., Line], camera: Callable[..., MjpegServer], tmp_path: Path
) -> None:
    camera(port := free_port(), login="Basic b3A6Z2VoZWlt")
    (tmp_path / "password").write_text("geheim\n")
    line = start(looking_at(port, trigger=True, user="op", password_file=tmp_path / "password"))

    until(lambda: line.source()["connected"], "it is connected")

    assert "geheim" not in line.client.get("/api/v1/sources").text


def test_a_camera_that_cannot_be_reached_says_which_and_what_to_do_until_it_can(start: Callable[..., Line]) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    port = free_port()
    line = start(looking_at(port, url=f"rtsp://127.0.0.1:{port}/live", trigger=True))

    problem = until(lambda: line.source()["problem"], "it is said what is wrong")

    assert problem == (
        f"127.0.0.1:{port} cannot be reached: Connection refused. "
        "See that the camera is switched on, and that address and port are right"
    )
    # Whoever asks for a frame is told the same.
    refused = line.client.post("/api/v1/sources/top/trigger")
    assert (refused.status_code, refused.json()["todo"]) == (503, problem)
    jpeg = cv2.imencode(".jpg", np.full((96, 128, 3), GREY, np.uint8))[1].tobytes()
    server = RtspCamera(port, lambda: jpeg, 128, 96)
    until(lambda: line.source()["connected"], "it is there now")
    assert line.source()["problem"] is None
    server.close()


def test_a_camera_that_answers_without_pictures_says_so(
    start: Callable[..., Line], camera: Callable[..., MjpegServer], tmp_path: Path
) -> None:
    camera(port := free_port(), login="Basic b3A6Z2VoZWlt")
    (tmp_path / "password").write_text("verraten\n")
    line = start(looking_at(port, trigger=True, user="op", password_file=tmp_path / "password"))

    problem = until(lambda: line.source()["problem"], "it is said what is wrong")

    assert problem.startswith(f"127.0.0.1:{port} answers, but gives no pictures at http://127.0.0.1:{port}/stream. ")
    assert "user and password" in problem
    assert "verraten" not in problem


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras are files below /dev on Linux only")
def test_a_camera_of_the_machine_that_is_missing_locked_or_busy_says_so(
    start: Callable[..., Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    monkeypatch.setattr(reaching, "DEVICES", tmp_path)
    device = CameraSource(name="top", kind="camera", device=87, trigger=True)
    assert reaching.why_not(device).endswith("There is none: connect it")
    (tmp_path / "video2").touch()
    line = start(device)

    problem = until(lambda: line.source()["problem"], "it is said what is wrong")

    assert problem == (
        f"{tmp_path}/video87 does not exist, so there is no camera with the number 87. "
        f"There are {tmp_path}/video2: name one by its number, or connect it"
    )
    (tmp_path / "video87").touch()
    assert "another program uses it, or it is no camera" in reaching.why_not(device)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert reaching.why_not(device).startswith(f"the user of the station may not open {tmp_path}/video87. ")


def test_a_film_that_is_missing_or_none_says_so(tmp_path: Path) -> None:
    film = tmp_path / "film.avi"
    missing = CameraSource(name="film", kind="camera", url=film.as_uri(), trigger=True)
    assert reaching.why_not(missing) == f"the file {film} does not exist. Name another"
    film.write_text("no film")
    assert reaching.why_not(missing) == f"the file {film} holds no film that can be read. Name another"


def test_a_film_is_played_as_a_camera(start: Callable[..., Line], tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (GREY, GREY, GREY + NG), np.uint8))
    writer.release()
    line = start(CameraSource(name="film", kind="camera", url=film.as_uri(), trigger=True))

    answer = line.client.post("/api/v1/sources/film/trigger")

    assert document(answer)["inspections"][0]["verdict"] == "NG"
    # Red came last in the film, and comes first here.
    number = document(answer)["inspections"][0]["id"]
    with Image.open(io.BytesIO(line.client.get(f"/api/v1/inspections/{number}/image").content)) as image:
        red, _, blue = image.convert("RGB").getpixel((30, 20))
    assert red > blue + 30


@pytest.mark.parametrize(("name", "status", "code"), [("none", 404, "not_found"), ("tray", 422, "invalid_request")])
def test_what_is_no_camera_gives_no_frame(
    start: Callable[..., Line], tray: Path, name: str, status: int, code: str
) -> None:
    line = start(watched(tray))

    answer = line.client.post(f"/api/v1/sources/{name}/trigger")

    assert (answer.status_code, answer.json()["code"]) == (status, code)


# The configuration


@pytest.mark.parametrize(
    ("text", "key", "complaint"),
    [
        ("sources: [{name: a, kind: folder, pth: x}]", "sources.a.path", "missing"),
        ("sources: [{name: a, kind: foldr, path: x}]", "sources.a.kind", "'folder', 'camera'"),
        ("sinks: [{name: a, path: x}]", "sinks.a.kind", "'webhook', 'mqtt', 'csv'"),
        ("sources: [{kind: folder, path: x}]", "sources[0].name", "missing"),
        ("sources: [{name: a/b, kind: folder, path: x}]", "sources.a/b.name", "pattern"),
        ("sources: [{name: a, kind: camera, url: 'rtsp://op:geheim@h/x', trigger: true}]", "sources.a.url", "password"),
        ("sources: [{name: a, kind: camera, url: 'ftp://h/x', trigger: true}]", "sources.a.url", "rtsp://"),
        ("sources: [{name: a, kind: camera, device: 0}]", "sources.a", "every_seconds or trigger"),
        ("sources: [{name: a, kind: camera, trigger: true}]", "sources.a", "a url or the number of a device"),
        (
            "sinks: [{name: a, kind: csv, path: x}, {name: a, kind: csv, path: y}]",
            "sinks",
            "the name a stands there 2 times",
        ),
        ("sinks: [{name: a, kind: csv, path: x, verdicts: [BAD]}]", "sinks.a.verdicts", "'OK'"),
        ("sinks: [{name: a, kind: mqtt, host: h, topic: 'a/#'}]", "sinks.a.topic", "pattern"),
        ("sinks: [{name: a, kind: mqtt, host: h, ca_file: x}]", "sinks.a", "tls: true"),
        ("drift: {false_alarm_rate: 1}", "drift.false_alarm_rate", "less than 1"),
        ("prot: 1", "prot", "there is no such key"),
        ("a: [", "the file", "no YAML in line 1"),
        ("[1]", "the file", "names with values"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_key_and_without_secrets(text: str, key: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        make_settings({"models": "m", "data": "d"} | parse_configuration(text, "the file"), Path())

    assert str(caught.value.where).startswith(key)
    assert "geheim" not in str(caught.value)


def test_paths_of_a_configuration_count_from_its_folder() -> None:
    text = "models: m\ndata: /d\nsources: [{name: a, kind: folder, path: x}]\nsinks: [{name: b, kind: csv, path: ../y}]"

    found = make_settings(parse_configuration(text, "the file"), Path("/etc/blemish"))

    assert (found.models, found.data) == (Path("/etc/blemish/m"), Path("/d"))
    assert found.sources[0].path == Path("/etc/blemish/x")  # type: ignore[union-attr]
    assert found.sinks[0].path == Path("/etc/blemish/../y")  # type: ignore[union-attr]


EXAMPLE = Path(__file__).parent.parent / "deploy" / "station.yaml"


def test_the_example_is_a_configuration() -> None:
    found = make_settings(parse_configuration(EXAMPLE.read_text("utf-8"), EXAMPLE), EXAMPLE.parent)

    assert {source.kind for source in found.sources} == {"folder", "camera"}
    assert {sink.kind for sink in found.sinks} == {"webhook", "mqtt", "csv"}
    assert found.pictures is None


def test_the_example_with_all_that_it_leaves_out_is_a_configuration_and_names_every_key() -> None:
    text = re.sub(r"^( *)# (\w+: )", r"\1\2", EXAMPLE.read_text("utf-8"), flags=re.MULTILINE)
    # The package for s3:// may be missing here; which store it is makes no difference to the file.
    values = parse_configuration(text.replace("s3://", "memory://"), EXAMPLE)

    found = make_settings(values, EXAMPLE.parent)

    assert found.pictures == "memory://BUCKET/line-1"
    assert found.retention.max_bytes == 500_000_000_000
    # These four are for tests, and for machines that nobody has met yet.
    assert set(values) == set(type(found).model_fields) - {
        "body_seconds",
        "notice_seconds",
        "scan_seconds",
        "sweep_seconds",
    }
    for section in ("retention", "drift"):
        assert set(values[section]) == set(type(getattr(found, section)).model_fields)
