"""The station's API, in this process: inspecting, looking, reviewing, models, the Open Inference Protocol, people."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from blemish.runtime import load
from blemish.station.app import make_app
from blemish.station.errors import STATUS, Code
from blemish.station.settings import Settings
from blemish.station.station import Station
from blemish.station.worker import Worker
from parts import GREY
from stations import NG, OK, REVIEW, document, make_model, part, settings

HOME = "http://127.0.0.1"


def client_of(station: Station, home: str = HOME, **options: Any) -> TestClient:
    return TestClient(make_app(station), base_url=home, **options)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station with two models, of which `cap` has two versions; tests add inspections and change nothing else."""
    options = settings(tmp_path_factory.mktemp("line"), max_body_bytes=200_000, queue=4, drain_seconds=5)
    make_model(options.models / "cap.blemish")
    make_model(options.models / "lid.blemish")
    station = Station(options)
    make_model(options.models / "cap.blemish", gain=0.5)
    station.models.scan()
    yield station
    station.close()


@pytest.fixture
def client(line: Station) -> TestClient:
    return client_of(line)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a station that a test may change as it likes."""
    return settings(tmp_path)


def inspect(client: TestClient, image: bytes, **query: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/inspect", content=image, params={"model": "cap", **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = document(answer)["inspections"][0]
    return found


def refusal(answer: Any, code: Code) -> dict[str, Any]:
    """The body of a refusal, which must have this code, its status and a sentence."""
    found: dict[str, Any] = document(answer)
    assert (found.get("code"), answer.status_code) == (code.value, STATUS[code]), found
    assert len(found["message"]) > 10
    return found


# Inspecting


@pytest.mark.parametrize(("brighter", "verdict"), [(OK, "OK"), (REVIEW, "REVIEW"), (NG, "NG")])
def test_an_inspection_says_what_the_detector_says(
    line: Station, client: TestClient, brighter: int, verdict: str
) -> None:
    content = part(brighter)
    expected = load(line.archive.models / f"{line.models.version('cap', 1).sha256}.blemish", threads=1).inspect(content)

    found = inspect(client, content)

    assert found["verdict"] == verdict == expected.verdict.value
    same = {key: value for key, value in expected.to_dict().items() if key != "path"}
    assert {key: found[key] for key in same} == same
    assert found["threshold"] == expected.threshold
    assert (found["model"], found["version"], found["station"], found["source"]) == ("cap", 1, "line-1", "local")
    assert found["model_sha256"] == line.models.version("cap", 1).sha256
    assert (found["image_sha256"], found["image_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert found["judged_ms"] > 0
    assert found["waited_ms"] >= 0
    assert document(client.get(f"/api/v1/inspections/{found['id']}")) == {**found, "review": None}


def test_an_image_that_cannot_be_judged_is_rejected_and_kept(client: TestClient) -> None:
    found = inspect(client, b"<html>no image</html>")

    assert (found["verdict"], found["reason"]) == ("REJECTED", "unreadable")
    assert (found["score"], found["p_value"], found["threshold"], found["regions"]) == (None, None, None, [])
    kept = client.get(f"/api/v1/inspections/{found['id']}/image")
    assert kept.content == b"<html>no image</html>"
    # A browser must not take it for a page.
    assert kept.headers["content-type"] == "application/octet-stream"
    assert kept.headers["x-content-type-options"] == "nosniff"
    refusal(client.get(f"/api/v1/inspections/{found['id']}/heatmap"), Code.NO_PICTURE)
    refusal(client.get(f"/api/v1/inspections/{found['id']}/overlay"), Code.NO_PICTURE)


def test_a_form_with_several_files_is_answered_in_their_order(client: TestClient) -> None:
    files = [
        ("image", (f"{name}.png", part(brighter))) for name, brighter in (("a", NG), ("b", OK), ("../ü\n", REVIEW))
    ]

    answer = client.post("/api/v1/inspect", files=files, params={"model": "cap", "source": "camera 1"})

    found = document(answer)["inspections"]
    assert [row["verdict"] for row in found] == ["NG", "OK", "REVIEW"]
    assert [row["file"] for row in found][:2] == ["a.png", "b.png"]
    assert all(sign.isprintable() for sign in found[2]["file"])
    assert {row["source"] for row in found} == {"camera 1"}
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)


def test_a_version_can_be_named(client: TestClient) -> None:
    assert inspect(client, part(NG), version=1)["score"] == pytest.approx(0.6)
    assert inspect(client, part(NG), version=2)["score"] == pytest.approx(0.3)


def test_a_request_sent_again_with_its_key_gets_the_stored_answer(line: Station, client: TestClient) -> None:
    def send(image: bytes, key: str, **query: Any) -> Any:
        query = {"model": "cap", **query}
        return client.post("/api/v1/inspect", content=image, params=query, headers={"Idempotency-Key": key})

    before = line.metrics.text()
    first = send(part(NG, 1), "part-1")
    counted = line.metrics.text()

    # What the version would say now is another matter.
    line.models.activate("cap", 2, "test")
    again = send(part(NG, 1), "part-1")
    line.models.activate("cap", 1, "test")

    assert again.text == first.text
    number = document(first)["inspections"][0]["id"]
    newest = document(client.get("/api/v1/inspections?limit=1"))["inspections"][0]["id"]
    assert newest == number

    def judged(text: bytes) -> float:
        lines = text.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("blemish_inspections_total"))

    assert judged(counted) == judged(before) + 1 == judged(line.metrics.text())
    refusal(send(part(OK, 1), "part-1"), Code.KEY_REUSED)
    refusal(send(part(NG, 1), "part-1", source="camera 2"), Code.KEY_REUSED)
    refusal(send(part(NG, 1), "x" * 201), Code.INVALID_REQUEST)
    assert document(send(part(NG, 1), "part-2"))["inspections"][0]["id"] == number + 1
    # Without a key, sending again inspects again.
    assert inspect(client, part(NG, 1))["id"] == number + 2


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, Code.MODEL_NEEDED),
        ({"model": "bolt"}, Code.NO_SUCH_MODEL),
        ({"model": "cap", "version": 3}, Code.NO_SUCH_VERSION),
        ({"model": "cap", "version": 0}, Code.INVALID_REQUEST),
        ({"model": "cap", "source": "a\nb"}, Code.INVALID_REQUEST),
        ({"model": "../cap"}, Code.NO_SUCH_MODEL),
    ],
)
def test_what_cannot_be_asked_is_refused(client: TestClient, query: dict[str, Any], code: Code) -> None:
    refusal(client.post("/api/v1/inspect", content=part(OK), params=query), code)


def test_bodies_are_refused_that_are_empty_too_large_or_no_form(client: TestClient) -> None:
    url = "/api/v1/inspect?model=cap"

    def slices() -> Iterator[bytes]:
        for _ in range(30):
            yield bytes(10_000)

    refusal(client.post(url), Code.NO_IMAGE)
    form = {"content-type": "multipart/form-data; boundary=x"}
    field = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
    refusal(client.post(url, content=field, headers=form), Code.NO_IMAGE)
    refusal(client.post(url, content=bytes(200_001)), Code.BODY_TOO_LARGE)
    # Without a stated length, too.
    refusal(client.post(url, content=slices()), Code.BODY_TOO_LARGE)
    refusal(client.post(url, files=[("image", part(OK))] * 5), Code.TOO_MANY_IMAGES)
    refusal(client.post(url, content=b"--x", headers={"content-type": "multipart/form-data"}), Code.INVALID_REQUEST)


def test_a_body_that_never_ends_is_given_up(empty: Settings) -> None:
    station = Station(empty.model_copy(update={"body_seconds": 0.05}))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/inspect",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "scheme": "http",
        "server": ("localhost", 80),
    }
    sent: list[Any] = []
    pieces = iter([{"type": "http.request", "body": b"x", "more_body": True}])

    async def receive() -> Any:
        for piece in pieces:
            return piece
        return await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(make_app(station)(scope, receive, send))

    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "body_too_slow"
    assert station.idle
    station.close()


def test_more_open_requests_than_allowed_are_told_when_to_come_back(line: Station, client: TestClient) -> None:
    with ExitStack() as others:
        for _ in range(4):
            others.enter_context(line.admitted())
        full = client.post("/api/v1/inspect?model=cap", content=part(OK))

    refusal(full, Code.QUEUE_FULL)
    assert full.headers["retry-after"] == "1"
    assert inspect(client, part(OK))["verdict"] == "OK"


# Looking


def test_pictures_are_what_the_detector_draws(line: Station, client: TestClient) -> None:
    content = part(NG)
    found = inspect(client, content)
    expected = line.models._worker("cap", 1).detector.inspect(content).picture()
    assert expected is not None

    url = f"/api/v1/inspections/{found['id']}"
    kept, heat, laid = (client.get(f"{url}/{kind}") for kind in ("image", "heatmap", "overlay"))

    assert (kept.content, kept.headers["content-type"]) == (content, "image/png")
    drawn = np.asarray(Image.open(io.BytesIO(laid.content))).astype(int)
    # The map is kept with one byte a pixel; the outline of what is marked is exact.
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).max() <= 3
    colours = np.asarray(Image.open(io.BytesIO(heat.content)))
    assert colours.shape == (40, 60, 3)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 1


def test_inspections_are_filtered_and_paged(client: TestClient) -> None:
    source = "filter test"
    rows = [
        inspect(client, part(brighter, i), source=source) for i, brighter in enumerate([OK, NG, OK, REVIEW, NG, OK])
    ]
    ids = [row["id"] for row in rows]

    def listed(**query: Any) -> list[int]:
        seen: list[int] = []
        before: dict[str, int] = {}
        while True:
            answer = client.get("/api/v1/inspections", params={"source": source, "limit": 2, **query, **before})
            page = document(answer)
            seen += [row["id"] for row in page["inspections"]]
            if page["next"] is None:
                return seen
            before = {"before": page["next"]}

    assert listed() == ids[::-1]
    assert listed(verdict="NG") == [ids[4], ids[1]]
    assert listed(model="lid") == []
    assert listed(since=rows[2]["time"], until=rows[4]["time"]) == [ids[3], ids[2]]
    assert listed(since="2999-01-01T00:00:00Z") == []
    refusal(client.get("/api/v1/inspections?since=2026-01-01T00:00:00"), Code.INVALID_REQUEST)
    refusal(client.get("/api/v1/inspections?verdict=BAD"), Code.INVALID_REQUEST)
    client.post(f"/api/v1/inspections/{ids[3]}/reviews", json={"answer": "confirmed", "label": "anomalous"})
    assert listed(reviewed=True) == [ids[3]]
    assert listed(reviewed=False) == [number for number in ids[::-1] if number != ids[3]]


def test_a_review_is_kept_shown_and_audited(client: TestClient) -> None:
    found = inspect(client, part(NG), source="review test")
    url = f"/api/v1/inspections/{found['id']}"
    wanted = {"answer": "overruled", "note": "dust", "region": [[1, 2], [3, 4], [5.5, 6]]}

    given = client.post(f"{url}/reviews", json=wanted)

    assert given.status_code == 201
    review = document(given)
    assert {**review, **wanted, "label": "normal", "by": "local"} == review
    assert document(client.get(url))["review"] == review
    assert document(client.get(f"{url}/reviews"))["reviews"] == [review]
    newest = document(client.get("/api/v1/audit?limit=1"))["entries"][0]
    assert (newest["action"], newest["subject"], newest["by"]) == ("review", f"inspection {found['id']}", "local")
    refusal(client.post(f"{url}/reviews", json={"answer": "confirmed", "label": "normal"}), Code.LABEL_CONTRADICTS)
    refusal(client.post(f"{url}/reviews", json={"answer": "perhaps"}), Code.INVALID_REQUEST)
    refusal(client.post(f"{url}/reviews", json={**wanted, "region": [[1, 2]]}), Code.INVALID_REQUEST)
    refusal(client.post("/api/v1/inspections/999999/reviews", json=wanted), Code.NO_SUCH_INSPECTION)


def test_stats_count_by_verdict_hour_and_answer(client: TestClient) -> None:
    rows = [inspect(client, image, source="stats") for image in (part(OK), part(OK), part(NG), b"no image")]
    client.post(f"/api/v1/inspections/{rows[2]['id']}/reviews", json={"answer": "overruled"})

    found = document(client.get("/api/v1/stats?source=stats"))

    assert found["counts"] == {"OK": 2, "NG": 1, "REJECTED": 1}
    assert found["yield"] == pytest.approx(2 / 3)
    assert sum(sum(hour["counts"].values()) for hour in found["hours"]) == 4
    assert found["hours"][0]["hour"] == rows[0]["time"][:13] + ":00:00Z"
    assert found["reviews"] == [{"verdict": "NG", "answer": "overruled", "label": "normal", "count": 1}]
    assert document(client.get("/api/v1/stats?source=nobody")) == {
        "counts": {},
        "yield": None,
        "hours": [],
        "reviews": [],
    }


def test_the_export_holds_what_the_filter_takes_and_no_formula(client: TestClient) -> None:
    rows = [inspect(client, part(NG, i), source="=1+1") for i in range(3)]
    client.post(f"/api/v1/inspections/{rows[0]['id']}/reviews", json={"answer": "confirmed", "note": "@SUM(A1)"})

    answer = client.get("/api/v1/export.csv", params={"source": "=1+1"})

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["id"]) for row in table] == [row["id"] for row in rows[::-1]]
    assert [json.loads(row["regions"]) for row in table] == [row["regions"] for row in rows[::-1]]
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows[::-1]]
    assert table[0]["source"] == "'=1+1"
    assert (table[2]["review_answer"], table[2]["review_note"]) == ("confirmed", "'@SUM(A1)")
    nothing = client.get("/api/v1/export.csv?source=nobody").text
    assert nothing.splitlines() == [answer.text.splitlines()[0]]


# Models


def test_a_new_version_is_a_candidate_until_it_is_activated_and_can_be_rolled_back(empty: Settings) -> None:
    make_model(empty.models / "cap.blemish")
    station = Station(empty)
    client = client_of(station)
    make_model(empty.models / "cap.blemish", gain=0.5)

    found = document(client.post("/api/v1/models/scan"))["models"][0]

    assert (found["active"], [version["version"] for version in found["versions"]]) == (1, [1, 2])
    assert [version["active"] for version in found["versions"]] == [True, False]
    assert found["versions"][0]["calibration_images"] == 19
    url = "/api/v1/models/cap"
    refusal(client.post(f"{url}/rollback"), Code.NOTHING_TO_ROLL_BACK_TO)
    assert inspect(client, part(NG))["version"] == 1
    assert document(client.post(f"{url}/activate", json={"version": 2}))["active"] == 2
    assert inspect(client, part(NG))["version"] == 2
    assert document(client.post(f"{url}/rollback"))["active"] == 1
    assert document(client.post(f"{url}/rollback"))["active"] == 2
    refusal(client.post(f"{url}/activate", json={"version": 3}), Code.NO_SUCH_VERSION)
    refusal(client.post("/api/v1/models/bolt/activate", json={"version": 1}), Code.NO_SUCH_MODEL)
    refusal(client.get("/api/v1/models/bolt"), Code.NO_SUCH_MODEL)
    actions = [entry["action"] for entry in document(client.get("/api/v1/audit"))["entries"]]
    assert actions == ["roll back", "roll back", "activate", "register", "activate", "register"]
    station.close()
    # What was active is active again after a start, though the folder holds something else.
    make_model(empty.models / "cap.blemish", gain=0.25)
    station = Station(empty)
    assert inspect(client_of(station), part(NG))["version"] == 2
    station.close()


def test_a_broken_file_replaces_nothing_and_is_reported(empty: Settings) -> None:
    path = make_model(empty.models / "cap.blemish")
    whole = path.read_bytes()
    station = Station(empty)
    client = client_of(station)
    path.write_bytes(whole[: len(whole) // 2])
    (empty.models / "lid.blemish").write_bytes(b"nothing")

    cap, lid = document(client.post("/api/v1/models/scan"))["models"]

    assert (cap["active"], cap["ready"], len(cap["versions"])) == (1, True, 1)
    assert "damaged" in cap["problem"]
    assert (lid["active"], lid["ready"], lid["versions"]) == (None, False, [])
    assert inspect(client, part(NG))["verdict"] == "NG"
    refusal(client.post("/api/v1/inspect?model=lid", content=part(OK)), Code.NO_SUCH_MODEL)
    assert 'blemish_model_problem{model="cap"} 1.0' in client.get("/metrics").text
    path.write_bytes(whole)
    assert document(client.post("/api/v1/models/scan"))["models"][0]["problem"] is None
    station.close()


def test_a_version_whose_copy_is_damaged_cannot_be_activated(empty: Settings) -> None:
    path = make_model(empty.models / "cap.blemish")
    station = Station(empty)
    client = client_of(station)
    make_model(path, gain=0.5)
    station.models.scan()
    copy = station.archive.models / f"{station.models.version('cap', 2).sha256}.blemish"
    make_model(copy, gain=0.7)

    answer = client.post("/api/v1/models/cap/activate", json={"version": 2})

    assert "sha256 differs" in refusal(answer, Code.MODEL_BROKEN)["message"]
    assert inspect(client, part(NG))["version"] == 1
    station.close()


def test_a_model_whose_active_version_is_lost_is_not_ready_until_its_file_is_back(empty: Settings) -> None:
    path = make_model(empty.models / "cap.blemish")
    station = Station(empty)
    copy = station.archive.models / f"{station.models.version('cap', 1).sha256}.blemish"
    station.close()
    copy.write_bytes(b"rotten")
    whole = path.read_bytes()
    path.unlink()

    station = Station(empty)
    client = client_of(station)
    refusal(client.post("/api/v1/inspect", content=part(OK)), Code.MODEL_NOT_READY)
    assert client.get("/v2/models/cap/ready").status_code == 503
    path.write_bytes(whole)
    station.models.scan()

    assert client.get("/v2/models/cap/ready").status_code == 200
    assert inspect(client, part(OK))["verdict"] == "OK"
    station.close()


def test_activating_drops_no_request(empty: Settings) -> None:
    for gain in (1.0, 0.9, 0.8, 0.7, 0.6):
        make_model(empty.models / "cap.blemish", gain=gain)
        if gain == 1.0:
            station = Station(empty)
        station.models.scan()
    stop = threading.Event()

    def ask() -> Counter[int]:
        versions: Counter[int] = Counter()
        while not stop.is_set():
            (judged,) = [answer.result(60) for answer in station.models.submit("cap", None, [part(NG)])]
            assert judged.inspection.score == pytest.approx(0.6 * (1.1 - judged.version.number / 10))
            versions[judged.version.number] += 1
        return versions

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for number in (2, 3, 4, 5, 1, 2, 3, 4, 5, 1):
            station.models.activate("cap", number, "test")
        stop.set()
        seen = sum((future.result() for future in asking), Counter[int]())

    assert seen.keys() <= {1, 2, 3, 4, 5}
    # The active one and two spare ones run on, the others have ended.
    assert len(station.models._workers) == 3
    station.close()


def test_a_worker_that_retires_between_being_found_and_being_asked_is_replaced(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(empty.models / "cap.blemish")
    station = Station(empty)
    models = station.models
    find = models._worker
    found: list[Worker] = []

    def find_late(name: str, number: int) -> Worker:
        found.append(find(name, number))
        if len(found) == 1:
            models._workers.pop((name, number)).retire()
        return found[-1]

    monkeypatch.setattr(models, "_worker", find_late)

    (answer,) = models.submit("cap", None, [part(NG)])

    assert answer.result(60).inspection.verdict == "NG"
    assert found[0] is not found[1]
    station.close()


# Open Inference Protocol


def tensors(answer: Any) -> dict[str, list[Any]]:
    found = document(answer)
    assert answer.status_code == 200, found
    assert all(output["shape"] == [len(output["data"])] for output in found["outputs"])
    return {output["name"]: output["data"] for output in found["outputs"]}


def test_the_protocol_describes_server_and_models(client: TestClient) -> None:
    assert document(client.get("/v2"))["name"] == "blemish"
    assert document(client.get("/v2/health/live")) == {"live": True}
    assert document(client.get("/v2/health/ready")) == {"ready": True}
    assert document(client.get("/v2/models/cap"))["versions"] == ["1", "2"]
    assert document(client.get("/v2/models/cap/versions/2"))["versions"] == ["2"]
    assert document(client.get("/v2/models/cap/ready")) == {"name": "cap", "ready": True}
    assert document(client.get("/v2/models/cap/versions/2/ready")) == {"name": "cap", "ready": True}
    unknown = client.get("/v2/models/bolt/ready")
    assert unknown.status_code == 404
    assert "there is no model bolt" in document(unknown)["error"]


def test_encoded_images_are_inferred(client: TestClient) -> None:
    images = [part(NG), part(OK), b"no image"]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3]}
    data = [base64.b64encode(image).decode() for image in images]

    answer = client.post("/v2/models/cap/infer", json={"id": "7", "inputs": [{**tensor, "data": data}]})

    found = tensors(answer)
    assert (document(answer)["id"], document(answer)["model_version"]) == ("7", "1")
    assert found["verdict"] == ["NG", "OK", "REJECTED"]
    assert found["score"] == [pytest.approx(0.6), pytest.approx(0.05), None]
    rows = [document(client.get(f"/api/v1/inspections/{number}")) for number in found["id"]]
    assert [row["image_sha256"] for row in rows] == [hashlib.sha256(image).hexdigest() for image in images]

    head = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": sum(4 + len(image) for image in images)}}]}
    ).encode()
    binary = head + b"".join(struct.pack("<I", len(image)) + image for image in images)
    same = client.post(
        "/v2/models/cap/infer", content=binary, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    assert tensors(same)["verdict"] == found["verdict"]


def test_pixels_are_inferred(client: TestClient) -> None:
    pixels = np.full((2, 12, 16, 3), GREY, np.uint8)
    pixels[1, 3:6, 4:9] = GREY + 50
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    wanted = [{"name": "verdict"}, {"name": "score"}]

    flat = client.post(
        "/v2/models/cap/versions/2/infer",
        json={"inputs": [{**tensor, "data": pixels.ravel().tolist()}], "outputs": wanted},
    )
    one = client.post(
        "/v2/models/cap/infer",
        json={"inputs": [{**tensor, "shape": [12, 16, 3], "data": pixels[1].tolist()}], "outputs": wanted},
    )

    assert tensors(flat) == {"verdict": ["OK", "REVIEW"], "score": [0.0, pytest.approx(0.25)]}
    assert tensors(one) == {"verdict": ["NG"], "score": [pytest.approx(0.5)]}


@pytest.mark.parametrize(
    "tensor",
    [
        {"datatype": "FP32", "shape": [1], "data": [1.0]},
        {"datatype": "BYTES", "shape": [2], "data": ["QUJD"]},
        {"datatype": "BYTES", "shape": [1], "data": ["no base64!"]},
        {"datatype": "BYTES", "shape": [1], "data": [7]},
        {"datatype": "BYTES", "shape": [0], "data": []},
        {"datatype": "BYTES", "shape": [1]},
        {"datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 256]},
        {"datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2]},
        {"datatype": "UINT8", "shape": [1, 1, 3], "data": [[1, 2], 3]},
        {"datatype": "UINT8", "shape": [1, 3], "data": [1, 2, 3]},
        {"datatype": "UINT8", "shape": [1, 1, 3], "parameters": {"binary_data_size": 3}},
    ],
)
def test_tensors_that_are_no_images_are_refused(client: TestClient, tensor: dict[str, Any]) -> None:
    answer = client.post("/v2/models/cap/infer", json={"inputs": [{"name": "image", **tensor}]})

    assert answer.status_code == 400, answer.text
    assert document(answer)["code"] == "wrong_tensor"
    assert document(answer)["error"]


# Behind the API


def test_metrics_have_real_histograms(client: TestClient) -> None:
    def samples() -> dict[str, float]:
        lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    inspect(client, part(NG))
    before = samples()
    inspect(client, part(NG))
    after = samples()

    for name in (
        'blemish_inspections_total{model="cap",verdict="NG",version="1"}',
        'blemish_judging_seconds_count{model="cap"}',
        'blemish_judging_seconds_bucket{le="+Inf",model="cap"}',
        'blemish_request_seconds_count{method="POST",route="/api/v1/inspect",status="200"}',
    ):
        assert after[name] == before[name] + 1, name
    assert after['blemish_limit{limit="queue_images"}'] == 4
    buckets = [value for name, value in after.items() if name.startswith("blemish_judging_seconds_bucket")]
    assert buckets == sorted(buckets)


def test_every_answer_has_the_headers_that_keep_browsers_careful(client: TestClient) -> None:
    for answer in (client.get("/api/v1/models"), client.get("/nothing"), client.post("/api/v1/inspect", content=b"")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
    refusal(client.get("/nothing"), Code.NOT_FOUND)
    refusal(client.delete("/api/v1/models"), Code.METHOD_NOT_ALLOWED)
    refusal(client.get("/docs"), Code.NOT_FOUND)


def test_without_accounts_other_names_and_other_pages_are_refused(line: Station, client: TestClient) -> None:
    assert document(client.get("/api/v1/me")) == {"name": "local", "role": "admin"}
    rebound = client_of(line, "http://evil.example")
    refusal(rebound.get("/api/v1/inspections"), Code.WRONG_HOST)
    foreign = client.post("/api/v1/models/scan", headers={"origin": "http://evil.example"})
    refusal(foreign, Code.FOREIGN_ORIGIN)
    assert client.post("/api/v1/models/scan", headers={"origin": HOME}).status_code == 200


def test_accounts_sign_in_and_roles_are_kept_apart(empty: Settings) -> None:
    make_model(empty.models / "cap.blemish")
    station = Station(empty)
    local, anna = client_of(station), client_of(station)
    account = {"name": "anna", "role": "admin", "password": "correct horse"}
    viewer = {"name": "vera", "role": "viewer", "password": "battery staple"}
    refusal(local.post("/api/v1/accounts", json=viewer), Code.LAST_ADMIN)
    refusal(local.post("/api/v1/accounts", json={**account, "password": "short"}), Code.INVALID_REQUEST)
    assert local.post("/api/v1/accounts", json=account).status_code == 201

    # From the first account on, nobody is let in without.
    challenge = local.get("/api/v1/inspections")
    refusal(challenge, Code.SIGN_IN_NEEDED)
    assert challenge.headers["www-authenticate"] == "Bearer"
    refusal(anna.post("/api/v1/sign-in", json={"name": "anna", "password": "wrong"}), Code.SIGN_IN_FAILED)
    signed = anna.post("/api/v1/sign-in", json={"name": "anna", "password": "correct horse"})
    assert document(signed) == {"name": "anna", "role": "admin"}
    for attribute in ("HttpOnly", "SameSite=strict"):
        assert attribute in signed.headers["set-cookie"]
    assert document(anna.get("/api/v1/me"))["name"] == "anna"
    assert anna.post("/api/v1/accounts", json=viewer).status_code == 201
    refusal(anna.post("/api/v1/accounts", json=viewer), Code.NAME_TAKEN)
    refusal(anna.delete("/api/v1/accounts/anna"), Code.LAST_ADMIN)
    refusal(anna.delete("/api/v1/accounts/nobody"), Code.NOT_FOUND)

    vera = client_of(station)
    vera.post("/api/v1/sign-in", json={"name": "vera", "password": "battery staple"})
    assert vera.get("/api/v1/inspections").status_code == 200
    refusal(vera.post("/api/v1/inspect", content=part(OK)), Code.NOT_ALLOWED)
    refusal(vera.get("/api/v1/accounts"), Code.NOT_ALLOWED)

    made = document(anna.post("/api/v1/tokens", json={"name": "camera"}))
    camera = client_of(station, headers={"authorization": f"Bearer {made['token']}"})
    found = inspect(camera, part(NG))
    assert found["source"] == "token camera"
    refusal(camera.post(f"/api/v1/inspections/{found['id']}/reviews", json={"answer": "confirmed"}), Code.NOT_ALLOWED)
    listed = anna.get("/api/v1/tokens")
    assert [token["name"] for token in document(listed)["tokens"]] == ["camera"]
    assert made["token"] not in listed.text
    assert anna.delete("/api/v1/tokens/camera").status_code == 204
    refusal(camera.get("/api/v1/me"), Code.SIGN_IN_NEEDED)

    # A new password, a sign-out and a removal end what was signed in.
    assert anna.put("/api/v1/accounts/vera/password", json={"password": "another staple"}).status_code == 204
    refusal(vera.get("/api/v1/me"), Code.SIGN_IN_NEEDED)
    cookie = dict(anna.cookies)
    assert anna.post("/api/v1/sign-out").status_code == 204
    refusal(client_of(station, cookies=cookie).get("/api/v1/me"), Code.SIGN_IN_NEEDED)
    actions = {entry.action for entry in station.people.audit(None, 100)}
    assert {"add account", "sign-in", "sign-in failed", "add token", "remove token", "set password"} <= actions
    station.close()

    stored = b"".join(path.read_bytes() for path in empty.data.glob("station.db*"))
    for secret in ("correct horse", made["token"], cookie["blemish_session"]):
        assert secret.encode() not in stored


def test_signing_in_is_blocked_after_five_failures_and_says_for_how_long(empty: Settings) -> None:
    station = Station(empty)
    station.people.add_account("anna", "admin", "correct horse", "test")
    client = client_of(station)
    for _ in range(5):
        refusal(client.post("/api/v1/sign-in", json={"name": "anna", "password": "wrong"}), Code.SIGN_IN_FAILED)

    blocked = client.post("/api/v1/sign-in", json={"name": "anna", "password": "correct horse"})

    refusal(blocked, Code.TOO_MANY_SIGN_INS)
    assert 1 <= int(blocked.headers["retry-after"]) <= 61
    station.close()


def test_disk_that_cannot_be_written_is_a_refusal_and_no_row(empty: Settings) -> None:
    make_model(empty.models / "cap.blemish")
    station = Station(empty)
    client = client_of(station)
    content = part(NG)
    # A file where the folder should be stands for a disk that takes nothing.
    blocked = Path(station.archive.path("images", hashlib.sha256(content).hexdigest())).parent
    blocked.write_bytes(b"")

    refused = client.post("/api/v1/inspect", content=content)

    refusal(refused, Code.STORAGE_FAILED)
    assert document(client.get("/api/v1/inspections"))["inspections"] == []
    blocked.unlink()
    assert inspect(client, content)["verdict"] == "NG"
    station.close()


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)
