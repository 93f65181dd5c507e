"""Recalibrating, comparing and training in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from blemish.station import trainings
from blemish.station.trainings import MethodName
from stations import OK
from test_station_browser import Line, browser, line, open_tab, playwright, pytestmark  # noqa: F401


def test_a_recalibration_is_looked_at_taken_and_compared(open_tab: Any, line: Line) -> None:  # noqa: F811
    line.station.inspections.audit_share = 1
    for brighter in (OK, 18, 22, 33, 34, 35):
        number = line.inspect(brighter)
        verdict = line.station.inspections.get(number)[0].verdict
        answer: Any = "overruled" if verdict == "NG" else "confirmed"
        line.station.inspections.review(number, "test", answer, "normal", "", None)
    page = open_tab("admin")
    page.goto("/models")
    page.get_by_role("link", name="Recalibrate").click()
    page.get_by_role("button", name="Look what it would do").click()

    playwright.expect(page.locator("#alarms")).to_contain_text(
        "Of these 6 good parts, 3 were called NG until now: 50 %"
    )
    # With 25 images, one of them is NG only above all the others.
    images = page.locator("[data-field=images] td")
    assert images.all_text_contents() == ["19", "25"]
    playwright.expect(page.locator("#changed li")).to_have_count(3)
    assert len(line.station.models.state("cap").versions) == 1
    page.get_by_role("button", name="Take it as a candidate").click()
    playwright.expect(page.get_by_text("It is version 2, a candidate.")).to_be_visible()
    assert line.station.models.state("cap").active == 1

    page.goto("/models/cap/compare")
    page.get_by_role("button", name="Compare").click()
    playwright.expect(page.locator("[data-verdict=NG] td").nth(0)).to_have_text("3")
    playwright.expect(page.locator("[data-verdict=NG] td").nth(1)).to_have_text("0")
    playwright.expect(page.locator("#changed li")).to_have_count(3)

    # What is missing is said where it was asked.
    waiting = line.inspect(OK)
    page.goto("/models/cap/recalibrate")
    page.get_by_role("button", name="Look what it would do").click()
    playwright.expect(page.get_by_role("alert")).to_contain_text(f"beginning with inspection {waiting}")


def test_a_click_before_the_scripts_have_come_waits_for_them(open_tab: Any, line: Line) -> None:  # noqa: F811
    line.inspect(OK)
    page = open_tab("admin")
    held: list[Any] = []
    page.route("**/static/recalibrate.js", lambda route: held.append(route))
    page.goto("/models/cap/recalibrate", wait_until="commit")
    button = page.locator("#look button")
    playwright.expect(button).to_be_visible()
    with pytest.raises(playwright.TimeoutError):
        button.click(timeout=500)
    held[0].continue_()
    button.click()
    playwright.expect(page.get_by_role("alert")).to_contain_text("beginning with inspection")


def test_a_training_is_asked_for_and_cancelled(
    open_tab: Any,  # noqa: F811
    line: Line,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing is begun: what is asked for waits in the queue.
    monkeypatch.setattr(line.station.trainings, "_methods", [MethodName("rd", "RD"), MethodName("padim", "PaDiM")])
    monkeypatch.setattr(trainings, "confined", lambda folder, roots: folder)
    page = open_tab("admin")
    page.goto("/trainings")
    page.get_by_label("Model").fill("lid")
    page.get_by_label("Folder").fill("/data/lids")
    page.get_by_label("Method").select_option("padim")
    page.get_by_label("False-alarm rate").fill("2.5")
    page.get_by_role("button", name="Start training").click()

    row = page.locator("#board tbody tr").first
    playwright.expect(row).to_contain_text("waiting")
    asked = line.station.trainings.page(None, 1)[0]
    assert (asked.model, asked.folder, asked.options) == (
        "lid",
        "/data/lids",
        {"method": "padim", "preset": "auto", "false_alarm_rate": 0.025},
    )
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Cancel").click()
    playwright.expect(row).to_contain_text("cancelled")
    assert line.station.trainings.get(asked.id).state == "cancelled"
    page.get_by_label("Images").select_option("reviewed")
    playwright.expect(page.get_by_label("Folder")).to_be_hidden()
    page.get_by_role("button", name="Start training").click()
    playwright.expect(page.get_by_role("status")).to_contain_text("There is no such model")
