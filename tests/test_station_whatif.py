"""Rates chosen at the station, what they would have done, the review queue, and pictures in other sizes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from scipy import stats

from blemish.decisions import calibrate
from blemish.pictures import png
from blemish.runtime import load
from blemish.station.app import make_app
from blemish.station.errors import STATUS, Code
from blemish.station.inspections import QUEUE
from blemish.station.settings import Settings
from blemish.station.station import Station
from blemish.station.whatif import expected_rate, rate_range
from stations import document, make_model, part, settings
from test_station_store import inspection

URL = "/api/v1/models/cap/versions/1"


@pytest.fixture
def options(tmp_path: Path) -> Settings:
    made = settings(tmp_path)
    make_model(made.models / "cap.blemish")
    return made


@pytest.fixture
def station(options: Settings) -> Iterator[Station]:
    opened = Station(options)
    yield opened
    opened.close()


def client_of(station: Station) -> TestClient:
    return TestClient(make_app(station), base_url="http://127.0.0.1")


def inspect(client: TestClient, image: bytes, **query: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/inspect", content=image, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = document(answer)["inspections"][0]
    return found


def test_rates_are_chosen_judged_by_remembered_and_audited(options: Settings, station: Station) -> None:
    client = client_of(station)
    before = inspect(client, part(25))
    assert (before["verdict"], before["false_alarm_rate"], before["review_rate"]) == ("REVIEW", 0.05, 0.55)

    shown = client.post(f"{URL}/rates", json={"false_alarm_rate": 0.5, "review_rate": 0.6})

    version = document(shown)["versions"][0]
    assert (version["false_alarm_rate"], version["review_rate"]) == (0.5, 0.6)
    assert (version["false_alarm_rate_of_file"], version["review_rate_of_file"]) == (0.05, 0.55)
    after = inspect(client, part(25))
    # It is what the detector says that is opened with these rates.
    copy = station.archive.models / f"{after['model_sha256']}.blemish"
    same = load(copy, false_alarm_rate=0.5, review_rate=0.6, threads=1).inspect(part(25))
    assert (after["verdict"], after["threshold"], after["p_value"]) == ("NG", same.threshold, same.p_value)
    assert (after["false_alarm_rate"], after["review_rate"]) == (0.5, 0.6)
    assert document(client.get(f"/api/v1/inspections/{before['id']}"))["verdict"] == "REVIEW"
    newest = document(client.get("/api/v1/audit?limit=1"))["entries"][0]
    assert (newest["action"], newest["subject"], newest["by"]) == ("choose rates", "model cap", "local")
    assert newest["detail"] == {
        "version": 1,
        "false_alarm_rate": 0.5,
        "review_rate": 0.6,
        "before": {"false_alarm_rate": 0.05, "review_rate": 0.55},
    }
    station.close()
    again = Station(options)
    assert inspect(client_of(again), part(25))["verdict"] == "NG"
    again.close()


def test_rates_hold_for_one_version_only(options: Settings, station: Station) -> None:
    client = client_of(station)
    make_model(options.models / "cap.blemish", gain=0.5)
    station.models.scan()
    client.post(f"{URL}/rates", json={"false_alarm_rate": 0.5, "review_rate": 0.6})

    assert inspect(client, part(50), version=2)["false_alarm_rate"] == 0.05
    assert inspect(client, part(25), version=1)["false_alarm_rate"] == 0.5


@pytest.mark.parametrize(
    ("rates", "code"),
    [
        ({"false_alarm_rate": 0.01, "review_rate": 0.5}, Code.INVALID_REQUEST),
        ({"false_alarm_rate": 0.5, "review_rate": 0.1}, Code.INVALID_REQUEST),
        ({"false_alarm_rate": 0, "review_rate": 0.1}, Code.INVALID_REQUEST),
        ({"false_alarm_rate": 0.5}, Code.INVALID_REQUEST),
    ],
)
def test_rates_that_cannot_be_are_refused(station: Station, rates: dict[str, float], code: Code) -> None:
    refused = client_of(station).post(f"{URL}/rates", json=rates)

    assert (document(refused)["code"], refused.status_code) == (code.value, STATUS[code])
    assert client_of(station).post("/api/v1/models/cap/versions/7/rates", json=rates).status_code in (404, 422)


def test_images_that_wait_are_judged_by_the_rates_they_came_under(station: Station) -> None:
    waiting = station.models.submit("cap", 1, [part(25) for _ in range(6)])
    station.models.choose_rates("cap", 1, 0.5, 0.6, "test")
    late = station.models.submit("cap", 1, [part(25)])

    assert [answer.result(60).inspection.verdict for answer in waiting] == ["REVIEW"] * 6
    assert [answer.result(60).inspection.verdict for answer in late] == ["NG"]


def test_what_if_is_what_judging_again_gives(station: Station) -> None:
    client = client_of(station)
    rng = np.random.default_rng(0)
    images = [part(int(brighter), i) for i, brighter in enumerate(rng.integers(0, 40, 30))]
    rows = [inspect(client, image) for image in images]
    inspect(client, b"no image")
    normal = [row for row in rows if row["verdict"] == "NG"][:2]
    for row in normal:
        client.post(f"/api/v1/inspections/{row['id']}/reviews", json={"answer": "overruled"})

    wanted = {"false_alarm_rate": 0.3, "review_rate": 0.4, "last": 25}
    found = document(client.get(f"{URL}/what-if", params=wanted))

    copy = station.archive.models / f"{rows[0]['model_sha256']}.blemish"
    detector = load(copy, false_alarm_rate=0.3, review_rate=0.4, threads=1)
    anew = [detector.inspect(image).verdict.value for image in images][-25:]
    was = [row["verdict"] for row in rows][-25:]
    pairs = Counter((a, b) for a, b in zip(was, anew, strict=True) if a != b)
    assert len(pairs) >= 2
    assert found["images"] == 25
    assert found["before"] == Counter(was)
    assert found["after"] == Counter(anew)
    assert {(one["was"], one["becomes"]): one["count"] for one in found["changes"]} == pairs
    changed = [row["id"] for row, verdict in zip(rows[-25:], anew, strict=True) if row["verdict"] != verdict]
    assert [one["id"] for one in found["changed"]] == changed[::-1]
    assert sum(one["count"] for one in found["reviewed"]) == len([row for row in normal if row in rows[-25:]])
    assert {one["label"] for one in found["reviewed"]} <= {"normal"}
    # Asking has changed nothing.
    assert document(client.get("/api/v1/models"))["models"][0]["versions"][0]["false_alarm_rate"] == 0.05
    assert document(client.get(f"{URL}/what-if"))["changes"] == []


@pytest.mark.parametrize(("rate", "n"), [(0.05, 19), (0.1, 99), (0.0123, 400), (0.5, 3), (0.01, 999)])
def test_the_rate_to_expect_and_its_range_are_those_of_a_beta_distribution(rate: float, n: int) -> None:
    k = int(np.floor(rate * (n + 1) + 1e-9))
    exact = stats.beta(k, n + 1 - k)

    assert expected_rate(rate, n) == pytest.approx(exact.mean(), rel=1e-12)
    assert rate_range(rate, n) == pytest.approx((exact.ppf(0.05), exact.ppf(0.95)), rel=1e-6)


def test_the_range_holds_in_a_simulation() -> None:
    rng = np.random.default_rng(1)
    low, high = rate_range(0.1, 49)
    inside = 0
    for _ in range(2000):
        scores = rng.exponential(size=49)
        limit = calibrate(list(scores), list(scores), "split", 0.1).threshold(0.1)
        inside += low <= np.exp(-limit) <= high
    # 90 % are expected; the standard deviation is 13.4, and chance alone is five of them off once in a million runs.
    assert abs(inside - 1800) < 67


# Counts


def test_hours_are_what_was_counted_from_scratch_however_often_they_are_asked_for(station: Station) -> None:
    rng = np.random.default_rng(2)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    times = sorted(noon + timedelta(minutes=float(minute)) for minute in rng.uniform(0, 400, 60))
    verdicts = rng.choice(["OK", "NG"], 60).tolist()
    added = 0
    for moment in (noon + timedelta(minutes=minute) for minute in (30, 60.5, 70, 110, 185, 186, 300, 400)):
        while added < 60 and times[added] <= moment:
            station.inspections.add([inspection(time=times[added], verdict=verdicts[added])])
            added += 1
        station.inspections.add([inspection(time=moment, station="another line")])

        hours = station.hours.last(4, moment)

        assert [begin for begin, _ in hours] == [
            moment.replace(minute=0, second=0) - timedelta(hours=ago) for ago in (3, 2, 1, 0)
        ]
        for begin, counts in hours:
            inside = [
                v
                for t, v in zip(times, verdicts, strict=True)
                if begin <= t < begin + timedelta(hours=1) and t <= moment
            ]
            assert counts == Counter(inside)
    assert added > 50


# The queue


def test_the_queue_gives_what_needs_a_person_most_and_each_once(station: Station) -> None:
    client = client_of(station)
    brighter = [5, 60, 25, 60, 5, 25, 60]
    rows = [inspect(client, part(value, i)) for i, value in enumerate(brighter)] + [inspect(client, b"no image")]
    client.post(f"/api/v1/inspections/{rows[1]['id']}/reviews", json={"answer": "confirmed"})

    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        found = document(client.get("/api/v1/review-queue", params={"limit": 2, **after}))
        seen += found["inspections"]
        if found["next"] is None:
            break
        after = {"after": found["next"]}

    unseen = [row for row in rows if row["id"] != rows[1]["id"]]
    expected = sorted(unseen, key=lambda row: (QUEUE.index(row["verdict"]), -row["id"]))
    assert [row["id"] for row in seen] == [row["id"] for row in expected]
    assert found["counts"] == {"REVIEW": 2, "NG": 2, "REJECTED": 1, "OK": 2}
    assert document(client.get("/api/v1/review-queue?model=lid"))["inspections"] == []
    for wrong in ("NG", "BAD-1", "NG-x", "NG-" + "9" * 30):
        refused = client.get("/api/v1/review-queue", params={"after": wrong})
        assert (refused.status_code, document(refused)["code"]) == (422, "invalid_cursor")


# Pictures


def opened(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_pictures_come_in_the_size_that_is_asked_for(station: Station) -> None:
    client = client_of(station)
    pixels = np.array(Image.open(io.BytesIO(part(60, shape=(120, 180)))))
    # This is warm on the map, but not marked.
    pixels[50:70, 80:100] += 15
    found = inspect(client, png(pixels))
    url = f"/api/v1/inspections/{found['id']}"

    for name in ("display", "heatmap", "overlay"):
        full, small = opened(client.get(f"{url}/{name}")), opened(client.get(f"{url}/{name}?side=60"))
        assert (full.format, full.size, small.format, small.size) == ("PNG", (180, 120), "WEBP", (60, 40))
    assert np.array_equal(
        np.asarray(opened(client.get(f"{url}/display"))), np.asarray(opened(client.get(f"{url}/image")))
    )
    line = np.asarray(opened(client.get(f"{url}/outline")))
    assert line.shape == (120, 180, 4)
    # The square is marked and its rim is drawn, just outside.
    assert line[9, 10].tolist() == [255, 255, 255, 255]
    assert line[15, 10, 3] == line[60, 90, 3] == 0
    assert not line[45:75, 75:105].any()
    assert client.get(f"{url}/overlay?side=5").status_code == 422


def test_pictures_that_a_browser_has_are_not_sent_again(station: Station) -> None:
    client = client_of(station)
    found = inspect(client, part(60))

    for name in ("image", "display", "heatmap", "outline", "overlay", "overlay?side=20"):
        url = f"/api/v1/inspections/{found['id']}/{name}"
        first = client.get(url)
        again = client.get(url, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
