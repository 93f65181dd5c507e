"""A display on the wall: signed in by a viewer's token, which stays in its cookie and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from blemish.station.app import make_app
from blemish.station.station import Station
from stations import document, make_model, settings
from test_station_browser import Line, browser, line, open_tab, playwright  # noqa: F401
from test_station_browser import pytestmark as needs_chromium


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    options = settings(tmp_path)
    make_model(options.models / "cap.blemish")
    opened = Station(options)
    opened.people.add_account("anna", "admin", "correct horse", "test")
    yield opened
    opened.close()


def display(station: Station) -> TestClient:
    return TestClient(make_app(station), base_url="http://localhost", follow_redirects=False)


def test_a_viewers_token_signs_in_until_it_is_removed_and_only_looks(station: Station) -> None:
    _, token = station.people.add_token("wall", "viewer", "anna")
    client = display(station)
    assert client.get("/live").status_code == 303

    answer = client.post("/api/v1/sign-in/token", json={"token": token})

    assert document(answer) == {"name": "token wall", "role": "viewer"}
    cookie = answer.headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Max-Age=34560000"):
        assert word in cookie
    page = client.get("/live")
    assert page.status_code == 200
    assert token not in page.text
    assert client.get("/review").status_code == 403
    assert client.post("/api/v1/inspect", content=b"x").status_code == 403
    entry = station.people.audit(None, 1)[0]
    assert (entry.by, entry.action, entry.subject) == ("token wall", "sign-in", "token wall")
    assert token not in str(entry.detail)
    station.people.remove_token("wall", "anna")
    assert client.get("/live").headers["location"] == "/sign-in?next=%2Flive"


def test_signing_out_takes_the_token_from_the_browser(station: Station) -> None:
    _, token = station.people.add_token("wall", "viewer", "anna")
    client = display(station)
    client.post("/api/v1/sign-in/token", json={"token": token})

    assert client.post("/api/v1/sign-out").status_code == 204

    assert client.get("/live").status_code == 303


@pytest.mark.parametrize("role", ["machine", "reviewer", "admin"])
def test_a_token_that_may_do_more_does_not_come_into_a_browser(station: Station, role: Any) -> None:
    _, token = station.people.add_token("robot", role, "anna")
    client = display(station)

    refused = client.post("/api/v1/sign-in/token", json={"token": token})

    assert (refused.status_code, document(refused)["code"]) == (401, "token_failed")
    assert "set-cookie" not in refused.headers
    # Nor is it let in by whoever puts it there.
    assert client.get("/live", headers={"cookie": f"blemish_session={token}"}).status_code == 303


def test_guesses_are_counted(station: Station) -> None:
    client = display(station)

    codes = [document(client.post("/api/v1/sign-in/token", json={"token": f"blm_{n}"}))["code"] for n in range(6)]

    assert codes == ["token_failed"] * 5 + ["too_many_sign_ins"]
    foreign = client.post("/api/v1/sign-in/token", json={"token": "blm_x"}, headers={"origin": "https://evil.example"})
    assert document(foreign)["code"] == "foreign_origin"


@needs_chromium
def test_a_display_is_signed_in_at_the_page_and_its_address_tells_nothing(
    open_tab: Any,  # noqa: F811
    line: Line,  # noqa: F811
) -> None:
    _, token = line.station.people.add_token("wall", "viewer", "test")
    page = open_tab(None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/live")
    page.get_by_text("A display on the wall").click()
    page.locator("#token").fill("blm_wrong")
    page.get_by_role("button", name="Sign in the display").click()
    playwright.expect(page.locator("#display .problem")).to_contain_text("it must be one of the role viewer")
    page.locator("#token").fill(token)
    page.get_by_role("button", name="Sign in the display").click()

    page.wait_for_url("/live")
    playwright.expect(page.get_by_role("banner")).to_contain_text("token wall")
    assert not any(token in url for url in asked)
    assert page.evaluate("document.cookie").find(token) < 0
