"""Sources and sinks in a real browser: adding, trying, changing, pausing, removing; errors stand below their field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blemish.station.connections.kinds import FolderSource
from blemish.station.pages.texts import LANGUAGES
from stations import NG, OK, part, until
from test_station_browser import Line, browser, line, open_tab, playwright, pytestmark  # noqa: F401
from test_station_sinks import Receiver, free_port


@pytest.fixture(scope="module", autouse=True)
def running(line: Line) -> None:  # noqa: F811
    line.station.senders.start()
    line.station.sources.start()


def source(line: Line, name: str) -> Any:  # noqa: F811
    return next((state for state in line.station.sources.states() if state.name == name), None)


def sink(line: Line, name: str) -> Any:  # noqa: F811
    return next((state for state in line.station.senders.states() if state.name == name), None)


def test_a_folder_is_added_where_each_mistake_is_told_below_its_field_and_in_the_language_of_the_page(
    open_tab: Any,  # noqa: F811
    line: Line,  # noqa: F811
    tmp_path: Path,
) -> None:
    tray = tmp_path / "tray"
    page = open_tab("admin", locale="zh-CN")
    chinese = LANGUAGES["zh"]
    page.goto("/connections")
    page.locator("#add-source").click()
    page.locator("#save").click()
    for field in ("name", "path"):
        playwright.expect(page.locator(f"#{field}-problem")).to_have_text(chinese("field.missing"))
        playwright.expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
    page.locator("#name").fill("tray")
    page.locator("#path").fill(str(tray))
    page.locator("#settle_seconds").fill("0")
    page.locator("#save").click()
    playwright.expect(page.locator("#settle_seconds-problem")).to_have_text("必须大于 0。")
    playwright.expect(page.locator("#name-problem")).to_be_hidden()
    page.locator("#settle_seconds").fill("0.1")
    page.locator("#try").click()
    playwright.expect(page.locator("#path-problem")).to_have_text(chinese("field.no_such_folder"))

    tray.mkdir()
    (tray / "a.png").write_bytes(part(NG))
    page.locator("#try").click()
    playwright.expect(page.locator("#trial")).to_have_text(chinese("connection.works_folder", images=1))
    assert source(line, "tray") is None
    page.locator("#save").click()
    page.wait_for_url("/connections")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="tray"))
    playwright.expect(row).to_contain_text(str(tray))
    until(lambda: source(line, "tray").counts["inspected"] == 1, "the file is inspected")
    page.reload()
    playwright.expect(row).to_contain_text(chinese("connections.fine"))

    row.get_by_role("button", name=chinese("connections.pause")).click()
    playwright.expect(row).to_contain_text(chinese("connections.paused"))
    row.get_by_role("link", name=chinese("connections.change")).click()
    playwright.expect(page.locator("#name")).to_have_value("tray")
    page.locator("#after").select_option("delete")
    page.locator("#save").click()
    page.wait_for_url("/connections")
    assert source(line, "tray").options["after"] == "delete"
    row.get_by_role("button", name=chinese("connections.resume")).click()
    until(lambda: source(line, "tray").connected, "it goes on")
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name=chinese("connections.remove")).click()
    playwright.expect(row).to_have_count(0)
    assert source(line, "tray") is None


def test_a_camera_has_fields_of_its_own_and_one_that_does_not_answer_can_be_saved_anyway(
    open_tab: Any,  # noqa: F811
    line: Line,  # noqa: F811
) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'blemish[camera]'")
    page = open_tab("admin")
    page.goto("/connections/source")
    page.locator("#kind").select_option("camera")
    playwright.expect(page.locator("#path")).to_be_hidden()
    page.locator("#name").fill("top")
    page.locator("#save").click()
    playwright.expect(page.locator("#url-problem")).to_have_text("Give either an address or the number of a device.")
    page.locator("#url").fill(f"http://a:b@127.0.0.1:{free_port()}/stream")
    page.locator("#save").click()
    playwright.expect(page.locator("#url-problem")).to_contain_text("do not stand in the address")
    page.locator("#url").fill(f"http://127.0.0.1:{free_port()}/stream?key=hidden")
    page.locator("#user").fill("line")
    page.locator("#password").fill("a word that nobody sees")
    page.locator("#trigger").check()
    page.locator("#save").click()
    playwright.expect(page.locator("#url-problem")).to_contain_text("cannot be reached: Connection refused")
    assert source(line, "top") is None
    page.locator("#anyway").click()
    page.wait_for_url("/connections")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="top"))
    until(lambda: source(line, "top").problem, "it is found not to answer")
    page.reload()
    playwright.expect(row).to_contain_text("cannot be reached: Connection refused")
    row.get_by_role("link", name="Change").click()
    playwright.expect(page.locator("#trigger")).to_be_checked()
    playwright.expect(page.locator("#password")).to_have_value("")
    assert "hidden" not in page.locator("#url").input_value()
    line.station.connecting.remove("source", "top", None, "test")


def test_what_waits_for_a_sink_is_asked_about_before_it_is_removed(
    open_tab: Any,  # noqa: F811
    line: Line,  # noqa: F811
) -> None:
    page = open_tab("admin")
    receiver = Receiver(port := free_port(), lambda event: 200)
    page.goto("/connections")
    page.locator("#add-sink").click()
    page.locator("#name").fill("mes")
    page.locator("#url").fill(f"http://127.0.0.1:{port}/in")
    page.locator("#secret").fill("short")
    page.locator("#try").click()
    playwright.expect(page.locator("#secret-problem")).to_have_text(
        "This is not whsec_ and at least 24 bytes in base64."
    )
    page.locator("#make-secret").click()
    page.get_by_label("OK", exact=True).uncheck()
    page.locator("#try").click()
    playwright.expect(page.locator("#trial")).to_have_text("It answers 200.")
    page.locator("#save").click()
    page.wait_for_url("/connections")
    assert sink(line, "mes").options["verdicts"] == ["NG", "REJECTED", "REVIEW"]
    receiver.close()
    line.inspect(OK)
    line.inspect(NG)
    until(lambda: sink(line, "mes").problem, "it is found to be down")
    page.reload()
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="mes"))
    playwright.expect(row.locator("td").nth(3)).to_have_text("1")

    page.on("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Remove").click()
    dialog = page.get_by_role("dialog")
    playwright.expect(dialog).to_contain_text("Waiting: 1. Refused by it: 0.")
    dialog.get_by_role("button", name="Cancel").click()
    assert sink(line, "mes").waiting == 1
    row.get_by_role("button", name="Remove").click()
    dialog.get_by_role("button", name="Keep them").click()
    playwright.expect(page.get_by_text("Waiting for sinks that are not there")).to_be_visible()
    assert line.station.connecting.left() == {"mes": (1, 0)}
    row.get_by_role("button", name="Throw them away").click()
    playwright.expect(page.get_by_text("Waiting for sinks that are not there")).to_have_count(0)
    assert line.station.connecting.left() == {}


def test_others_look_and_what_the_file_names_is_not_changed_here(
    open_tab: Any,  # noqa: F811
    line: Line,  # noqa: F811
    tmp_path: Path,
) -> None:
    fixed = tmp_path / "fixed"
    fixed.mkdir()
    line.station.sources.put(FolderSource(name="fixed", kind="folder", path=fixed), "file", paused=True)
    page = open_tab("viewer")
    page.goto("/connections")
    playwright.expect(page.get_by_text("from the configuration file")).to_be_visible()
    assert page.get_by_role("button").all_text_contents().count("Pause") == 0
    playwright.expect(page.locator("#add-source")).to_have_count(0)
    assert page.goto("/connections/source").status == 403
    admin = open_tab("admin")
    assert admin.goto("/connections/source?name=fixed").status == 409
    assert admin.goto("/connections/sink?name=none").status == 404
    line.station.sources.take("fixed")
