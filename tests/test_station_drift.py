"""Drift: urns and capitals by exact enumeration and by simulation, and a station that notices another product."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy import stats

from blemish.decisions import Calibration, calibrate
from blemish.station.app import make_app
from blemish.station.drift.evidence import Capital, Urn, rate_bound
from blemish.station.drift.pictures import STATISTICS, statistics
from blemish.station.drift.watch import COMPONENTS, NG_SHARE, SCORE, Watch, Watched
from blemish.station.settings import Drift
from blemish.station.station import Station
from stations import document, make_model, part, settings


class Middle(Random):
    """Every draw is its own mean."""

    def random(self) -> float:
        return 0.5


def test_the_capital_is_1_on_average_over_everything_that_can_happen() -> None:
    """Bets are linear in p, and U is independent of all else, so that its mean can stand for it."""
    reference, open_gaps, images = [1.0, 2.0, 3.0], 3, 5
    total = 0.0
    for values in itertools.product([0.5, 1.5, 2.5], repeat=images):
        # Exchangeable values fall into gap k with the chance (1 + those already there) / (gaps + those before).
        chance, seen = 1.0, [0] * open_gaps
        for t, value in enumerate(values):
            chance *= (1 + seen[int(value)]) / (open_gaps + t)
            seen[int(value)] += 1
        urn, capital = Urn(reference, open_gaps), Capital([0.0] * 4)
        for value in values:
            p = urn.p_value(value, Middle())
            assert p is not None
            capital.bet_on_rank(p)
        total += chance * capital.value
    assert total == pytest.approx(1, abs=1e-12)
    assert capital.value != pytest.approx(1, abs=1e-3)


def test_a_bet_on_an_excess_is_1_on_average_at_the_rate_and_less_below_it() -> None:
    def mean(share: float) -> float:
        total = 0.0
        for happened in itertools.product([False, True], repeat=6):
            capital = Capital([0.0, 0.0])
            chance = 1.0
            for one in happened:
                capital.bet_on_excess(one, 0.2)
                chance *= share if one else 1 - share
            total += chance * capital.value
        return total

    assert mean(0.2) == pytest.approx(1, abs=1e-12)
    assert mean(0.1) < 1 < mean(0.3)


@pytest.mark.parametrize("draw", [lambda random: random.gauss(0, 1), lambda random: float(random.randint(0, 3))])
def test_p_values_of_an_urn_are_uniform_and_say_nothing_of_each_other(draw: Callable[[Random], float]) -> None:
    """Also where values are often equal. Each comparison fails by chance once in 10 000 runs; the seed is fixed."""
    random = Random(5)
    pairs = []
    for _ in range(2000):
        urn = Urn([draw(random) for _ in range(7)])
        p = [urn.p_value(draw(random), random) for _ in range(12)]
        pairs.append((p[10], p[11]))
    tenths, _, _ = np.histogram2d(*np.array(pairs, float).T, bins=4, range=[[0, 1], [0, 1]])
    assert stats.chisquare(tenths.ravel()).pvalue > 1e-4


def test_what_lies_above_the_open_gaps_is_not_for_the_urn() -> None:
    urn = Urn([1.0, 2.0, 3.0], open=2)

    assert urn.p_value(2.5, Middle()) is None
    assert urn.p_value(0.5, Middle()) == pytest.approx((1 + 0.5) / 2)
    assert urn.p_value(1.5, Middle()) == pytest.approx(0.5 / 3)
    assert urn.counts == [1, 1]


@pytest.mark.parametrize(("n", "k", "chance"), [(19, 1, 0.001), (99, 1, 0.01), (999, 10, 0.001), (20, 20, 0.05)])
def test_the_bound_of_a_rate_is_the_quantile_of_its_distribution(n: int, k: int, chance: float) -> None:
    assert rate_bound(n, k, chance) == pytest.approx(stats.beta.isf(chance, k, n + 1 - k), rel=1e-9)


def calibration(random: Random, n: int = 19, kind: Any = "split") -> Calibration:
    scores = [random.gauss(0, 1) for _ in range(n)]
    return calibrate(scores, scores, kind)


RULES = Drift(false_alarm_rate=0.2, reference=20)


def alarm_after(
    random: Random, images: int, score: Callable[[int], float], look: Callable[[int], float], **kind: Any
) -> int | None:
    """The image at which an alarm was raised."""
    watch = Watch(calibration(random, **kind), RULES, {}, Watched(), random)
    for t in range(images):
        watch.see(score(t), dict.fromkeys(STATISTICS, look(t)))
        if watch.alarming:
            return t
    return None


@pytest.mark.parametrize("kind", ["split", "cross"])
@pytest.mark.parametrize("bad_share", [0.0, 0.04])
def test_false_alarms_are_at_most_as_frequent_as_stated_also_with_bad_parts(kind: str, bad_share: float) -> None:
    """At a rate of 20 %, more than 40 of 120 would by chance happen in less than 1 of 1 000 runs; the seed is fixed."""
    random = Random(11)

    def score(t: int) -> float:
        return random.gauss(8, 3) if random.random() < bad_share else random.gauss(0, 1)

    alarms = [alarm_after(random, 100, score, lambda t: random.gauss(100, 5), kind=kind) for _ in range(120)]

    assert sum(alarm is not None for alarm in alarms) <= 40
    assert stats.binom.sf(40, 120, 0.2) < 1e-3


@pytest.mark.parametrize(
    ("score", "brightness"),
    [(6.0, 0.0), (1.5, 0.0), (-1.5, 0.0), (0.0, 8.0), (0.0, -8.0)],
    ids=["all NG", "higher scores", "lower scores", "brighter", "darker"],
)
def test_a_change_is_found_soon_after_it_came(score: float, brightness: float) -> None:
    """After 150 images; no alarm within 60 more is what each of them shows in far less than 1 of 1 000 runs."""
    random = Random(3)
    changed = 150
    found = 0
    for _ in range(5):
        at = alarm_after(
            random,
            changed + 60,
            lambda t: random.gauss(score if t >= changed else 0, 1),
            lambda t: random.gauss(100 + (brightness if t >= changed else 0), 4),
        )
        found += at is not None and at >= changed
    # An alarm before the change is a false one, which happens in a run at a rate of 20 % at most.
    assert found >= 3


def test_what_was_seen_survives_being_written_down() -> None:
    random = Random(1)
    held = calibration(random)
    whole = Watch(held, RULES, {}, Watched(), Random(7))
    broken: Any = Watch(held, RULES, {}, Watched(), Random(7))
    for _ in range(60):
        score, look = random.gauss(0, 1), dict.fromkeys(STATISTICS, random.gauss(0, 1))
        whole.see(score, look)
        broken.see(score, look)
        again = Watched.model_validate_json(broken.watched.model_dump_json())
        broken = Watch(held, RULES, broken.reference, again, broken._random)
    assert broken.values() == whole.values()
    assert set(whole.values()) == set(COMPONENTS)
    assert whole.value != 1


def test_statistics_of_an_image_are_what_they_say() -> None:
    flat = np.zeros((30, 40, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    striped = flat.copy()
    striped[:, ::2] += 20
    large = np.repeat(np.repeat(striped, 30, 0), 2, 1)

    plain, stripes = statistics(flat), statistics(striped)

    assert plain["brightness"] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert (plain["warmth"], plain["tint"], plain["sharpness"]) == (150, -25, 0)
    assert stripes["brightness"] == pytest.approx(plain["brightness"] + 10)
    assert stripes["sharpness"] == pytest.approx(20 / (stripes["brightness"] + 1))
    # Twice as wide, half of the neighbours are equal.
    assert statistics(large)["sharpness"] == pytest.approx(stripes["sharpness"] / 2, rel=0.05)
    assert statistics(np.zeros((1, 1, 3), np.uint8))["sharpness"] == 0


# A station


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Station]:
    options = settings(tmp_path, drift=Drift(reference=20))
    make_model(options.models / "cap.blemish")
    yield (station := Station(options))
    station.close()


def good_parts(count: int, seed: int = 0) -> list[bytes]:
    """Parts that score as the calibration images of the model do: 0.12 to 0.30."""
    random = Random(seed)
    return [part(random.randint(12, 29), random.randint(0, 99)) for _ in range(count)]


def feed(client: TestClient, images: list[bytes]) -> None:
    for start in range(0, len(images), 20):
        files = [("image", ("p.png", image)) for image in images[start : start + 20]]
        assert client.post("/api/v1/inspect", files=files).status_code == 200


def test_another_product_raises_one_alarm_that_stays_over_a_restart_until_an_admin_resets_it(
    line: Station,
) -> None:
    client = TestClient(make_app(line), base_url="http://localhost")
    before = document(client.get("/api/v1/models/cap/drift"))
    assert (before["images"], before["value"], before["alarm"], before["days"]) == (0, 1, None, [])
    feed(client, good_parts(40))
    client.post("/api/v1/inspect", content=b"no image")
    fine = document(client.get("/api/v1/models/cap/drift"))
    assert (fine["alarm"], fine["images"], fine["reference_images"]) == (None, 40, 20)
    assert 0 < fine["value"] < fine["limit"] == pytest.approx(len(COMPONENTS) / 0.009)
    assert fine["calibration"]["mean"] == pytest.approx(0.21)
    assert 'blemish_drift_alarm{model="cap",version="1"} 0.0' in client.get("/metrics").text

    feed(client, [part(60, i) for i in range(20)])
    feed(client, [part(60, i) for i in range(20)])

    found = document(client.get("/api/v1/models/cap/drift"))
    assert found["alarm"] is not None
    # Whichever is the first to be sure; the scores of all that are not NG are as they were.
    assert found["cause"] in COMPONENTS
    assert found["values"][SCORE] < 1 < found["values"][NG_SHARE]
    assert found["images"] < 80
    # The days go on though the test has decided.
    assert sum(day["images"] for day in found["days"]) == 80
    assert sum(day["ng"] for day in found["days"]) == 40
    assert sum(sum(day["p_values"]) for day in found["days"]) == 80
    assert sum(day["p_values"][0] for day in found["days"]) >= 40
    assert 'blemish_drift_alarm{model="cap",version="1"} 1.0' in client.get("/metrics").text
    line.close()
    again = Station(line.settings)
    client = TestClient(make_app(again), base_url="http://localhost")
    assert document(client.get("/api/v1/models/cap/drift")) == found

    reset = document(client.post("/api/v1/models/cap/drift/reset", json={}))

    assert (reset["alarm"], reset["images"], reset["value"], reset["reference_images"]) == (None, 0, 1, 0)
    assert reset["days"] == found["days"]
    entry = document(client.get("/api/v1/audit"))["entries"][0]
    assert (entry["action"], entry["by"], entry["detail"]["cause"]) == ("reset drift", "local", found["cause"])
    again.close()


def test_other_light_raises_an_alarm_though_no_score_changes(line: Station) -> None:
    client = TestClient(make_app(line), base_url="http://localhost")
    feed(client, [part(15 + i % 7, i) for i in range(60)])
    assert document(client.get("/api/v1/models/cap/drift"))["alarm"] is None

    # Columns that are no part of the score: as many pixels are lighter as are darker by the same amount.
    feed(client, [part(15 + i % 7, i, (80, 60)) for i in range(40)])

    found = document(client.get("/api/v1/models/cap/drift"))
    assert found["alarm"] is not None
    assert found["cause"] in ("brightness", "sharpness")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/models/lid/drift", "no_such_model"),
        ("GET", "/api/v1/models/cap/drift?version=2", "no_such_version"),
        ("POST", "/api/v1/models/lid/drift/reset", "no_such_model"),
    ],
)
def test_drift_of_what_is_not_there_is_refused(line: Station, method: str, path: str, code: str) -> None:
    client = TestClient(make_app(line), base_url="http://localhost")

    answer = client.request(method, path, json={} if method == "POST" else None)

    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_only_an_admin_resets(line: Station) -> None:
    line.people.add_account("anna", "admin", "correct horse", "test")
    _, token = line.people.add_token("looker", "reviewer", "test")
    client = TestClient(make_app(line), base_url="http://localhost", headers={"Authorization": f"Bearer {token}"})

    assert client.get("/api/v1/models/cap/drift").status_code == 200
    assert client.post("/api/v1/models/cap/drift/reset", json={}).json()["code"] == "not_allowed"


def test_people_see_an_alarm_on_the_live_page_and_on_the_page_of_drift(line: Station) -> None:
    client = TestClient(make_app(line), base_url="http://localhost", headers={"accept-language": "en"})
    feed(client, good_parts(30))
    assert "Production has changed" not in client.get("/live").text
    quiet = client.get("/drift").text
    assert "alarm from 667 on" in quiet
    assert "alarm-day" not in quiet
    assert "until the alarm" not in quiet

    feed(client, [part(60, i) for i in range(40)])

    assert "Production has changed since cap was calibrated" in client.get("/live").text
    shown = client.get("/drift?model=cap&version=1").text
    assert "Production is not what version 1 of cap was calibrated for" in shown
    assert shown.count('class="alarm-day"') == 7
    assert "until the alarm" in shown
    # The test value, between a thousand and a million here, is written out.
    assert "e+0" not in shown
    assert client.get("/drift?model=lid").status_code == 404
