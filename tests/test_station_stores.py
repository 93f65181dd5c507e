"""Pictures of a station in stores of fsspec: in memory, through another file system, and where they fail."""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fastapi.testclient import TestClient
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from blemish.errors import UsageError
from blemish.station import archive_state
from blemish.station.app import make_app
from blemish.station.archive import Archive
from blemish.station.configuration import make_settings
from blemish.station.errors import Code, StationError
from blemish.station.settings import Retention
from blemish.station.station import Station
from stations import NG, OK, make_model, part, settings, until


class Failing(MemoryFileSystem):
    """A store that can be made to fail, in the way of a package of its own."""

    protocol = "failing"
    problem: Exception | None = None
    cut_short = False

    def _fail(self) -> None:
        if Failing.problem is not None:
            raise Failing.problem

    def info(self, path: str, **kwargs: Any) -> Any:
        self._fail()
        return super().info(path, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self._fail()
        return super().cat_file(path, start, end, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._fail()
        super().pipe_file(path, value[:5] if Failing.cut_short else value, mode, **kwargs)
        if Failing.cut_short:
            raise RuntimeError("connection lost")


fsspec.register_implementation("failing", Failing, clobber=True)


@pytest.fixture(autouse=True)
def _works() -> Iterator[None]:
    yield
    Failing.problem, Failing.cut_short = None, False


@pytest.fixture(params=["memory", "file", "dir"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    return {
        "memory": f"memory://{uuid.uuid4().hex}",
        "file": f"file://{(tmp_path / 'store').as_posix()}/line-1",
        "dir": f"dir://line-1::file://{(tmp_path / 'store').as_posix()}",
    }[request.param]


def test_pictures_are_kept_found_copied_and_discarded(place: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "data", place)
    image = part(NG)
    with (
        archive.keep([("images", image), ("maps", b"map")]) as (image_sha256, map_sha256),
        archive.discarding([("images", image_sha256)]) as discard,
    ):
        assert discard("images", image_sha256) == 0

    assert (archive.read("images", image_sha256), archive.read("maps", map_sha256)) == (image, b"map")
    assert {(kept.kind, kept.sha256, kept.size) for kept in archive.pictures()} == {
        ("images", image_sha256, len(image)),
        ("maps", map_sha256, 3),
    }
    assert not [*(tmp_path / "data").glob("images/*")]
    with archive.scratch() as folder:
        copied = archive.copy("images", image_sha256, folder)
        assert copied is not None
        assert copied.suffix == ".png"
        assert copied.read_bytes() == image
        assert archive.copy("images", "0" * 64, folder) is None
    with archive.discarding([("images", image_sha256)]) as discard:
        assert discard("images", image_sha256) == len(image)
        assert discard("images", image_sha256) == 0
    assert archive.read("images", image_sha256) is None
    archive.close()

    # The next start finds them; another station does not get them.
    Archive(tmp_path / "data", place).close()
    with pytest.raises(UsageError, match="another station keeps its pictures there"):
        Archive(tmp_path / "other", place)


def test_a_station_judges_serves_and_compares_from_a_store(place: str, tmp_path: Path) -> None:
    options = settings(tmp_path, pictures=place, retention={"ok_days": 1e-9})
    make_model(options.models / "cap.blemish")
    station = Station(options)
    make_model(options.models / "cap.blemish", gain=0.5)
    station.models.scan()
    with TestClient(make_app(station), base_url="http://localhost") as client:
        rows = [client.post("/api/v1/inspect", content=part(value)).json()["inspections"][0] for value in (OK, NG)]
        first = f"/api/v1/inspections/{rows[0]['id']}"
        assert client.get(f"{first}/image").content == part(OK)
        assert client.get(f"{first}/overlay").status_code == 200
        found = client.post("/api/v1/models/cap/compare", json={"first": 1, "second": 2}).json()
        assert (found["images"], found["without_picture"]) == (2, 0)

        station.sweep()

        assert client.get(f"{first}/image").json()["code"] == "no_picture"
        assert client.get(f"/api/v1/inspections/{rows[1]['id']}/image").content == part(NG)
    station.close()


def test_a_store_that_fails_refuses_and_what_was_cut_short_is_written_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "data", f"failing://{uuid.uuid4().hex}")
    Failing.cut_short = True
    with (
        pytest.raises(StationError, match="the store of pictures cannot be used: connection lost"),
        archive.keep([("images", b"a whole picture")]),
    ):
        raise AssertionError("it was not stored")
    Failing.cut_short = False
    with archive.keep([("images", b"a whole picture")]) as (sha256,):
        assert archive.read("images", sha256) == b"a whole picture"
    Failing.problem = RuntimeError("no route")
    with pytest.raises(StationError) as refused:
        archive.read("images", sha256)
    assert (refused.value.code, refused.value.status) == (Code.STORAGE_FAILED, 503)
    with archive.discarding([("images", sha256)]) as discard, pytest.raises(StationError, match="no route"):
        discard("images", sha256)
    archive.close()


def test_the_system_page_says_how_the_store_of_pictures_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_state, "PATIENCE_SECONDS", 0.2)
    chosen = settings(tmp_path, pictures=f"failing://{uuid.uuid4().hex}", retention=Retention(max_bytes=2**30))
    make_model(chosen.models / "cap.blemish")
    station = Station(chosen)
    with TestClient(make_app(station), base_url="http://127.0.0.1") as client:

        def page() -> str:
            return " ".join(client.get("/system", headers={"Accept-Language": "en"}).text.split())

        before = page()
        assert "reachable (" in before
        assert "How full this store is, it does not say." in before
        assert "None has been stored since the start." in before
        assert str(chosen.pictures) in before
        assert client.post("/api/v1/inspect", content=part(NG)).status_code == 200
        station.sweep()
        after = page()
        assert "The last one was stored at <time" in after
        # An image and its map.
        assert "2 files, 0.00 GiB of at most 1.00 GiB" in after

        Failing.problem = RuntimeError("the bucket is gone")
        assert "not reachable</span>" in page()
        assert "the bucket is gone" in page()

        Failing.problem = None
        release = threading.Event()
        monkeypatch.setattr(Failing, "_fail", lambda self: release.wait(60))
        threads = threading.active_count()
        for _ in range(3):
            assert "no answer within 3 seconds" in page()
        # However many look, one question is open.
        assert threading.active_count() <= threads + 1
        release.set()
        until(lambda: "reachable (" in page(), "it answers again")
    station.close()


def test_pictures_on_another_disk_of_the_machine_have_that_disk_on_the_page(tmp_path: Path) -> None:
    chosen = settings(tmp_path, pictures=str(tmp_path / "elsewhere"))
    station = Station(chosen)
    with TestClient(make_app(station), base_url="http://127.0.0.1") as client:
        page = client.get("/system", headers={"Accept-Language": "en"}).text
    station.close()

    assert page.count("GiB free of") == 2
    assert f"<code>{tmp_path / 'elsewhere'}</code>" in page
    assert "How full this store is" not in page


def test_no_inspection_is_answered_that_is_not_stored(tmp_path: Path) -> None:
    options = settings(tmp_path, pictures=f"failing://{uuid.uuid4().hex}")
    make_model(options.models / "cap.blemish")
    station = Station(options)
    with TestClient(make_app(station), base_url="http://localhost") as client:
        Failing.problem = RuntimeError("no route")
        refused = client.post("/api/v1/inspect", content=part(NG))
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_failed")
        assert refused.headers["Retry-After"] == "10"
        assert client.get("/api/v1/inspections").json()["inspections"] == []
        Failing.problem = None
        assert client.post("/api/v1/inspect", content=part(NG)).status_code == 200
    station.close()


def test_a_store_that_cannot_be_used_stops_the_start_without_telling_the_password(tmp_path: Path) -> None:
    Failing.problem = RuntimeError("user:hunter2 may not")
    with pytest.raises(UsageError, match="the pictures cannot be stored there") as refused:
        Archive(tmp_path / "data", "failing://user:hunter2@host/x")
    assert "hunter2" not in str(refused.value)
    Failing.problem = None
    # A disk that is not mounted is not written beside.
    with pytest.raises(UsageError, match="the pictures cannot be stored there"):
        Archive(tmp_path / "data", str(tmp_path / "not" / "mounted"))
    Archive(tmp_path / "data").close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pictures": "nowhere://x"}, "nowhere is no kind of store that is known"),
        ({"data": "s3://bucket/x"}, "it must be a folder of this machine; `pictures` takes the URL of a store"),
    ],
)
def test_impossible_places_are_refused_when_they_are_entered(
    values: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        make_settings({"models": "models", "data": "data", **values}, tmp_path)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    known = {"class": "no_such_package_of_tests.FileSystem", "err": "Install no-such-package"}
    known_implementations["absent"] = known
    try:
        with pytest.raises(UsageError, match="absent needs a package that is not installed; Install no-such-package"):
            make_settings({"models": "models", "data": "data", "pictures": "absent://x"}, tmp_path)
    finally:
        del known_implementations["absent"]


def test_the_open_inference_protocol_honours_the_key_and_only_echoes_the_id(tmp_path: Path) -> None:
    options = settings(tmp_path)
    make_model(options.models / "cap.blemish")
    station = Station(options)
    with TestClient(make_app(station), base_url="http://localhost") as client:

        def infer(brighter: int, **headers: str) -> Any:
            data = [base64.b64encode(part(brighter)).decode()]
            tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": data}
            wanted = {"id": "7", "inputs": [tensor], "outputs": [{"name": "id"}]}
            return client.post("/v2/models/cap/infer", json=wanted, headers=headers)

        def number(answer: Any) -> int:
            assert answer.json()["id"] == "7"
            return int(answer.json()["outputs"][0]["data"][0])

        first = number(infer(NG, **{"Idempotency-Key": "part-1"}))
        assert number(infer(NG, **{"Idempotency-Key": "part-1"})) == first
        reused = infer(OK, **{"Idempotency-Key": "part-1"})
        assert (reused.status_code, reused.json()["code"]) == (422, "key_reused")
        assert number(infer(NG)) == first + 1
        assert number(infer(NG)) == first + 2
    station.close()
