"""Recalibrating a version from an audit sample, and comparing two on stored images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from blemish.decisions import calibrate
from blemish.modelfile import open_model_file, write
from blemish.station import rescoring
from blemish.station.app import make_app
from blemish.station.errors import STATUS, Code
from blemish.station.station import Station
from blemish.station.tables import now
from parts import detector, manifest_of
from stations import document, graph, make_model, part, settings

FIRST = [round(0.01 * i, 2) for i in range(12, 31)]
"""The scores that the model file of `make_model` was calibrated on, at rates of 0.05 and 0.55."""
BRIGHTER = [12, 15, 18, 20, 22, 24, 25, 26, 28, 29, 31, 32, 33, 34, 35, 36, 38, 39, 41, 44]
"""Of good parts, in production that has become brighter: their scores in hundredths."""


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Station]:
    """A station where every image belongs to the audit sample."""
    options = settings(tmp_path, audit_share=1)
    make_model(options.models / "cap.blemish")
    station = Station(options)
    yield station
    station.close()


@pytest.fixture
def client(line: Station) -> TestClient:
    return TestClient(make_app(line), base_url="http://localhost")


def inspected(client: TestClient, *parts: tuple[int, str | None]) -> list[dict[str, Any]]:
    """Inspect parts, (how much brighter, what it is), in one request, and review those of which it is known."""
    station: Station = client.app.state.station  # type: ignore[attr-defined]
    files = [("image", part(brighter, number)) for number, (brighter, _) in enumerate(parts)]
    rows: list[dict[str, Any]] = document(client.post("/api/v1/inspect?model=cap", files=files))["inspections"]
    for row, (_, label) in zip(rows, parts, strict=True):
        if label is not None:
            answer = "confirmed" if (row["verdict"] == "OK") == (label == "normal") else "overruled"
            station.inspections.review(row["id"], "test", answer, label, "", None)  # type: ignore[arg-type]
    return rows


def good() -> list[tuple[int, str | None]]:
    return [(brighter, "normal") for brighter in BRIGHTER]


def post(client: TestClient, path: str, **wanted: Any) -> dict[str, Any]:
    answer = client.post(f"/api/v1/models/cap/{path}", json=wanted)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = document(answer)
    return found


def refusal(answer: Any, code: Code) -> str:
    found = document(answer)
    assert (found.get("code"), answer.status_code) == (code.value, STATUS[code]), found
    return f"{found['message']}. {found['todo']}"


def verdict(score: float, scores: list[float], rate: float = 0.05, review_rate: float = 0.55) -> str:
    """By the definition of the p-value."""
    p = (1 + sum(one >= score for one in scores)) / (len(scores) + 1)
    return "NG" if p <= rate else "REVIEW" if p <= review_rate else "OK"


@pytest.mark.parametrize("mode", ["extend", "replace"])
def test_a_recalibration_is_looked_at_and_then_taken_as_a_candidate(
    line: Station, client: TestClient, mode: str
) -> None:
    bad = inspected(client, *good(), (60, "anomalous"))[-1]
    rejected = document(client.post("/api/v1/inspect?model=cap", content=b"no image"))["inspections"][0]
    assert rejected["verdict"] == "REJECTED"
    shown = [float(np.float32(brighter) / np.float32(100)) for brighter in BRIGHTER]
    expected = shown + (FIRST if mode == "extend" else [])

    looked = post(client, "recalibrate", mode=mode)

    assert looked["taken"] is None
    assert looked["guarantee"] == ("same_production" if mode == "extend" else "exact")
    assert len(document(client.get("/api/v1/models/cap"))["versions"]) == 1
    alarms = sum(verdict(score, FIRST) == "NG" for score in shown)
    assert alarms > 0.3 * len(BRIGHTER)
    assert looked["sample"] == {
        "share": 1,
        "inspections": len(BRIGHTER) + 1,
        "normal": len(BRIGHTER),
        "anomalous": 1,
        "seen": 0,
        "without_picture": 0,
        "rejected": 0,
        "used": len(BRIGHTER),
        "alarms": alarms,
    }
    assert (looked["before"]["images"], looked["after"]["images"]) == (19, len(expected))
    assert (looked["before"]["ng_above"], looked["before"]["review_above"]) == (0.3, 0.2)
    assert verdict(looked["after"]["ng_above"], expected) != "NG"
    assert verdict(np.nextafter(looked["after"]["ng_above"], 1), expected) == "NG"
    before = {score: verdict(score, FIRST) for score in [*shown, bad["score"]]}
    after = {score: verdict(score, expected) for score in before}
    assert Counter({(row["before"], row["after"]): row["count"] for row in looked["verdicts"]}) == Counter(
        (before[score], after[score]) for score in before
    )
    assert {row["score"]: (row["before"], row["after"]) for row in looked["changes"]} == {
        score: (before[score], after[score]) for score in before if before[score] != after[score]
    }
    assert looked["looked_at"] == len(before)

    taken = post(client, "recalibrate", mode=mode, take=looked["digest"])

    assert {**taken, "taken": None} == looked
    assert taken["taken"] == 2
    state = document(client.get("/api/v1/models/cap"))
    assert (state["active"], state["versions"][1]["calibration_images"]) == (1, len(expected))
    first, second = (open_model_file(line.models.path(line.models.version("cap", number).sha256)) for number in (1, 2))
    assert second.graph == first.graph
    roles = Counter(image.role for image in second.manifest.training.images)
    assert roles == {"calibration": len(BRIGHTER)}
    assert "audit sample" in second.manifest.training.note
    client.post("/api/v1/models/cap/activate", json={"version": 2})
    assert [row["verdict"] for row in inspected(client, *good())] == [after[score] for score in shown]


def test_an_audit_sample_that_is_not_reviewed_to_its_end_calibrates_nothing(line: Station, client: TestClient) -> None:
    refusal(client.post("/api/v1/models/cap/recalibrate", json={}), Code.NOT_ENOUGH_IMAGES)
    inspected(client, *good())
    end = now().isoformat()
    (row,) = inspected(client, (5, None))

    said = refusal(client.post("/api/v1/models/cap/recalibrate", json={}), Code.AUDIT_INCOMPLETE)

    assert f"inspection {row['id']}" in said
    looked = post(client, "recalibrate", until=end)
    assert looked["sample"]["used"] == len(BRIGHTER)
    # Those outside of the sample do not count, whatever people say of them.
    line.inspections.audit_share = 0
    refusal(client.post("/api/v1/models/cap/recalibrate", json={}), Code.NOT_ENOUGH_IMAGES)
    # More images allow a smaller rate; too small a one is refused as in training.
    line.inspections.audit_share = 1
    inspected(client, (5, "normal"))
    assert post(client, "recalibrate", false_alarm_rate=0.025)["after"]["false_alarm_rate"] == 0.025
    refused = client.post("/api/v1/models/cap/recalibrate", json={"false_alarm_rate": 0.01})
    assert "takes 99 calibration images and there are 40" in refusal(refused, Code.INVALID_REQUEST)


def test_what_has_changed_since_it_was_looked_at_is_not_taken(line: Station, client: TestClient) -> None:
    rows = inspected(client, *good())
    looked = post(client, "recalibrate")
    answer = {"answer": "overruled", "label": "anomalous"}
    number = next(row["id"] for row in rows if row["verdict"] == "OK")
    client.post(f"/api/v1/inspections/{number}/reviews", json=answer)

    refused = client.post("/api/v1/models/cap/recalibrate", json={"take": looked["digest"]})

    refusal(refused, Code.LOOK_OUTDATED)
    refusal(client.post("/api/v1/models/cap/recalibrate", json={"take": "0" * 64}), Code.LOOK_OUTDATED)
    assert len(line.models.state("cap").versions) == 1


def test_images_seen_in_training_and_those_without_picture_do_not_calibrate(line: Station, client: TestClient) -> None:
    rows = inspected(client, *good())
    path = line.settings.models / "cap.blemish"
    write(path, manifest_of({"a.png": rows[0]["image_sha256"], "b.png": rows[1]["image_sha256"]}), graph(0.9), b"")
    line.models.scan()
    Path(line.archive.path("images", rows[2]["image_sha256"])).unlink()

    looked = post(client, "recalibrate", version=2)

    sample = looked["sample"]
    assert (sample["normal"], sample["seen"], sample["without_picture"]) == (len(BRIGHTER), 2, 1)
    assert (sample["used"], looked["looked_at"]) == (len(BRIGHTER) - 3, len(BRIGHTER) - 1)
    # What only calibrated is free again where its calibration is given up.
    assert post(client, "recalibrate", version=2, mode="replace")["sample"]["seen"] == 0


def test_two_versions_are_compared_on_the_same_images(line: Station, client: TestClient) -> None:
    # (brighter, what it is): with version 2, every score is half.
    made = [(5, "normal"), (35, "normal"), (58, "normal"), (36, "anomalous"), (90, "anomalous"), (70, None), (8, None)]
    rows = inspected(client, *made)
    path = line.settings.models / "cap.blemish"
    write(path, manifest_of({"a.png": rows[1]["image_sha256"]}), graph(0.5), b"")
    line.models.scan()

    found = post(client, "compare", first=1, second=2)

    scores = [(brighter / 100, brighter / 200) for brighter, _ in made]
    judged = [tuple(verdict(round(score, 4), FIRST) for score in pair) for pair in scores]
    assert found["images"] == len(made)
    assert found["first"]["counts"] == Counter(first for first, _ in judged)
    assert found["second"]["counts"] == Counter(second for _, second in judged)
    assert {change["id"]: (change["first"]["verdict"], change["second"]["verdict"]) for change in found["changes"]} == {
        row["id"]: pair for row, pair in zip(rows, judged, strict=True) if pair[0] != pair[1]
    }
    # The second good one was seen by version 2, so that it counts for neither.
    assert (found["normal"], found["anomalous"], found["seen"]) == (2, 2, 1)
    assert (found["first"]["overkill"], found["first"]["escape"]) == (1, 0)
    assert (found["second"]["overkill"], found["second"]["escape"]) == (0, 1)
    assert (found["first"]["overkill_rate"], found["second"]["escape_rate"]) == (0.5, 0.5)

    only = post(client, "compare", first=1, second=2, images="reviewed", limit=3)
    assert (only["images"], only["normal"] + only["anomalous"] + only["seen"]) == (3, 3)
    refusal(client.post("/api/v1/models/cap/compare", json={"first": 1, "second": 9}), Code.NO_SUCH_VERSION)
    refusal(client.post("/api/v1/models/lid/compare", json={"first": 1, "second": 2}), Code.NO_SUCH_MODEL)
    assert document(client.get("/api/v1/inspections"))["inspections"][0]["id"] == rows[-1]["id"]


def test_scores_that_the_rows_hold_are_not_computed_again(
    line: Station, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = inspected(client, *good())
    looked = post(client, "recalibrate")
    post(client, "recalibrate", take=looked["digest"])
    for row in rows:
        Path(line.archive.path("images", row["image_sha256"])).unlink()
    line.rescoring._known.clear()

    def started(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(rescoring, "start", started)
    found = post(client, "compare", first=1, second=2, images="audit")

    # Agreement with what one of them was calibrated on says nothing.
    assert (found["images"], found["normal"], found["seen"]) == (len(BRIGHTER), 0, len(BRIGHTER))
    assert found["first"]["counts"]["NG"] == looked["sample"]["alarms"]
    assert found["second"]["counts"].get("NG", 0) < found["first"]["counts"]["NG"]


def test_one_at_a_time_is_scored_for_and_only_for_admins(line: Station, client: TestClient) -> None:
    inspected(client, (20, "normal"))
    make_model(line.settings.models / "cap.blemish", gain=0.5)
    line.models.scan()
    with line.rescoring._one:
        refused = client.post("/api/v1/models/cap/compare", json={"first": 1, "second": 2})
        refusal(refused, Code.BUSY)
        assert int(refused.headers["retry-after"]) > 0
    line.people.add_account("anna", "admin", "correct horse", "test")
    _, token = line.people.add_token("camera", "reviewer", "test")
    for path, body in (("compare", {"first": 1, "second": 2}), ("recalibrate", {})):
        answer = client.post(f"/api/v1/models/cap/{path}", json=body, headers={"authorization": f"Bearer {token}"})
        refusal(answer, Code.NOT_ALLOWED)
    line.rescoring.stop()
    with pytest.raises(Exception, match="shutting down"):
        line.comparing.compare("cap", 1, 2, "newest", 10)


def test_calibrating_on_what_was_doubtful_would_all_but_end_false_alarms_and_on_an_audit_sample_keeps_the_rate() -> (
    None
):
    rng = np.random.default_rng(0)
    rate, wanted = 0.02, 400
    first = rng.normal(size=wanted).tolist()
    old = calibrate(first, first, "split", rate)
    production = rng.normal(size=200_000)
    flagged = production[production > old.threshold(old.review_rate)]

    def alarms(scores: Any) -> float:
        taken = scores[:wanted].tolist()
        return float((rng.normal(size=200_000) > calibrate(taken, taken, "split", rate).threshold(rate)).mean())

    # By the hash of a picture, which says nothing of its score.
    digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(production))]
    audit = production[[digest < "028f" for digest in digests]]
    assert len(audit) > wanted
    # The rate on this one draw of 400 has a standard deviation of 0.7 %.
    assert abs(alarms(audit) - rate) < 0.02
    assert alarms(flagged) < 0.1 * rate


def test_the_numbers_above_are_those_of_the_model_file() -> None:
    assert detector().calibration.scores == tuple(0.01 * i for i in range(12, 31))
