"""The pages of the station in a real browser: signing in, reviewing by keyboard, sliders, languages, colours."""

from __future__ import annotations

import io
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from argon2 import PasswordHasher
from PIL import Image

from blemish.station import pages
from blemish.station.app import make_app
from blemish.station.inspections import Filter
from blemish.station.station import Sent, Station
from stations import NG, OK, PATIENCE, REVIEW, make_model, part, settings, until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")

PASSWORD = "correct horse"
HOSTILE = "<img src=x onerror=alert(1)>.png"


class Line:
    """A station with an account of each role, served on a free port."""

    def __init__(self, root: Path) -> None:
        options = settings(root)
        make_model(options.models / "cap.blemish")
        self.station = Station(options)
        self.station.people._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        for role in ("admin", "reviewer", "viewer"):
            self.station.people.add_account(role, role, PASSWORD, "test")  # type: ignore[arg-type]
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(make_app(self.station), log_level="warning", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, args=([listening],), daemon=True)
        self.thread.start()

    def inspect(self, brighter: int, file: str | None = None, image: bytes | None = None) -> int:
        """Have an image inspected; the number of the inspection."""
        sent = Sent(image or part(brighter, shape=(80, 120)), file)
        judged = [answer.result(PATIENCE) for answer in self.station.models.submit("cap", None, [sent.content])]
        return self.station.record([sent], judged, "camera")[0].id

    def answers(self, number: int) -> list[tuple[str, str, str]]:
        """Answer, label and note of the reviews of an inspection."""
        return [(one.answer, one.label, one.note) for one in self.station.inspections.reviews(number)]

    def forget(self) -> None:
        """Have a review of everything, so that the queue is empty."""
        for row, review in self.station.inspections.everything(Filter()):
            if review is None:
                self.station.inspections.review(row.id, "test", "confirmed", _label(row.verdict), "", None)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        self.station.close()


def _label(verdict: str) -> Any:
    return {"OK": "normal", "NG": "anomalous"}.get(verdict, "normal")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    opened = Line(tmp_path_factory.mktemp("line"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # A container runs the tests as root, for whom Chromium has no sandbox.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Tab:
    """A page that is signed in, and what went wrong in it."""

    def __init__(self, line: Line, browser: Any, role: str | None, **options: Any) -> None:
        self.context = browser.new_context(
            base_url=line.url, viewport={"width": 1180, "height": 820}, locale=options.pop("locale", "en"), **options
        )
        self.context.set_default_timeout(1000 * PATIENCE)
        if role is not None:
            _, secret = line.station.people.sign_in(role, PASSWORD, "127.0.0.1")
            self.context.add_cookies([{"name": "blemish_session", "value": secret, "url": line.url}])
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if "Policy" in said.text else None)


@pytest.fixture
def open_tab(line: Line, browser: Any) -> Iterator[Any]:
    """Opens tabs by role; none of them may have had an error of a script, or broken the policy, when the test ends."""
    opened: list[Tab] = []

    def open_one(role: str | None, **options: Any) -> Any:
        opened.append(Tab(line, browser, role, **options))
        return opened[-1].page

    yield open_one
    for tab in opened:
        tab.context.close()
        assert tab.problems == []


def test_signing_in_is_asked_for_refused_and_leads_back(open_tab: Any, line: Line) -> None:
    page = open_tab(None, timezone_id="Asia/Kolkata")
    page.goto("/inspections?verdict=NG")
    assert page.url == f"{line.url}/sign-in?next=%2Finspections%3Fverdict%3DNG"
    page.get_by_label("Name").fill("viewer")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("alert")).to_have_text("Name or password is wrong")

    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")

    page.wait_for_url("/inspections?verdict=NG")
    # A viewer does not review, and is shown no way to it.
    names = page.get_by_role("navigation").get_by_role("link").all_text_contents()
    assert "Inspections" in names
    assert "Review" not in names
    assert page.goto("/review").status == 403
    page.goto("/inspections")
    page.get_by_label("Verdict").select_option("REVIEW")
    page.get_by_label("From").fill("2026-01-01T09:30")
    page.get_by_role("button", name="Filter").click()
    # The time is sent with its zone, and shown again as it was chosen; what was left empty is not sent.
    page.wait_for_url("/inspections?verdict=REVIEW&since=2026-01-01T04%3A00%3A00.000Z")
    playwright.expect(page.get_by_label("From")).to_have_value("2026-01-01T09:30")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("/sign-in")
    page.goto("/inspections")
    assert page.url.startswith(f"{line.url}/sign-in")


def test_the_queue_is_reviewed_by_keyboard(open_tab: Any, line: Line) -> None:
    line.forget()
    ok, doubtful, ng, rejected = (
        line.inspect(OK),
        line.inspect(REVIEW),
        line.inspect(NG, HOSTILE),
        line.inspect(0, image=b"x"),
    )
    page = open_tab("reviewer")
    page.goto("/review")
    number = page.locator("#number")
    loads: list[str] = []
    page.on("framenavigated", lambda frame: loads.append(frame.url))

    playwright.expect(number).to_have_text(f"Inspection {doubtful}")
    page.keyboard.press("j")
    playwright.expect(number).to_have_text(f"Inspection {ng}")
    playwright.expect(page.locator("#facts")).to_contain_text(HOSTILE)
    page.keyboard.press("k")
    playwright.expect(number).to_have_text(f"Inspection {doubtful}")
    page.keyboard.press("a")
    playwright.expect(number).to_have_text(f"Inspection {ng}")
    page.get_by_label("Note").fill("axe mark")
    page.keyboard.press("Enter")
    page.keyboard.press("x")
    playwright.expect(number).to_have_text(f"Inspection {rejected}")
    until(lambda: len(line.answers(ng)) == 1, "the answer is stored")
    page.keyboard.press("u")
    playwright.expect(number).to_have_text(f"Inspection {ng}")
    playwright.expect(page.locator("#answered")).to_contain_text("Your answer was: Defect")
    page.keyboard.press("a")
    playwright.expect(number).to_have_text(f"Inspection {rejected}")
    page.get_by_role("button", name="Defect").click()
    playwright.expect(number).to_have_text(f"Inspection {ok}")
    page.keyboard.press("x")
    playwright.expect(page.get_by_text("Nothing waits to be reviewed.")).to_be_visible()

    until(lambda: line.answers(ok), "the last answer is stored")
    assert line.answers(doubtful) == [("confirmed", "normal", "")]
    assert line.answers(ng) == [("confirmed", "anomalous", "axe mark"), ("overruled", "normal", "")]
    assert line.answers(rejected) == [("confirmed", "anomalous", "")]
    assert line.answers(ok) == [("overruled", "anomalous", "")]
    assert loads == []


def test_an_answer_that_cannot_be_stored_comes_back(open_tab: Any, line: Line) -> None:
    line.forget()
    number = line.inspect(NG)
    page = open_tab("reviewer")
    page.goto("/review")
    playwright.expect(page.locator("#number")).to_have_text(f"Inspection {number}")
    page.route("**/reviews", lambda route: route.abort())

    page.keyboard.press("x")

    playwright.expect(page.locator("#said")).to_contain_text("The station cannot be reached")
    playwright.expect(page.locator("#number")).to_have_text(f"Inspection {number}")
    assert line.answers(number) == []


def test_a_region_is_drawn_into_the_picture_and_stored(open_tab: Any, line: Line) -> None:
    number = line.inspect(NG)
    page = open_tab("reviewer")
    page.goto(f"/inspections/{number}")
    page.wait_for_function("document.querySelector('.photo').naturalWidth === 120")
    page.get_by_label("How much of the heat map is shown").fill("40")
    assert page.evaluate("document.querySelector('.heat').style.clipPath") == "inset(0px 60% 0px 0px)"
    page.get_by_role("button", name="Larger").click()
    page.get_by_role("button", name="Whole picture").click()
    # The picture is moved and enlarged, so that places on the screen and in it differ.
    page.get_by_role("button", name="Look").click()
    page.locator(".stage").press("ArrowRight")
    page.locator(".stage").press("ArrowDown")
    page.get_by_role("button", name="Draw region").click()
    # The corners of the square that is brighter, wherever they are on the screen.
    corners = [(5, 10), (15, 10), (15, 20), (5, 20)]
    place = page.evaluate(
        "(() => { const box = document.querySelector('.photo').getBoundingClientRect();"
        " return [box.left, box.top, box.width / 120]; })()"
    )
    for x, y in corners:
        page.mouse.click(place[0] + x * place[2], place[1] + y * place[2])
    page.get_by_label("Note").fill("<b>scratch</b>")

    page.get_by_role("button", name="Defect").click()

    playwright.expect(page.get_by_role("heading", name="Reviews")).to_be_visible()
    playwright.expect(page.get_by_role("cell", name="<b>scratch</b>")).to_be_visible()
    (review,) = line.station.inspections.reviews(number)
    assert review.region is not None
    assert place[2] > 10
    assert np.allclose(review.region, corners, atol=0.3)


def test_sliding_shows_what_would_change_and_taking_it_changes_it(open_tab: Any, line: Line) -> None:
    for brighter in (OK, REVIEW, REVIEW, NG):
        line.inspect(brighter)
    page = open_tab("admin")
    page.goto("/thresholds")
    row = page.locator("#counts [data-verdict=NG] td")
    playwright.expect(row.nth(0)).not_to_have_text("–")
    given = int(row.nth(0).text_content())
    doubtful = int(page.locator("#counts [data-verdict=REVIEW] td").nth(0).text_content())
    playwright.expect(page.locator("#rate")).to_have_text("5 %")
    playwright.expect(page.get_by_role("button", name="Judge by these rates")).to_be_disabled()

    page.get_by_label("False alarms").press("End")

    # At a false-alarm rate of 50 %, everything that was for review is NG.
    playwright.expect(page.locator("#rate")).to_have_text("50 %")
    playwright.expect(row.nth(1)).to_have_text(str(given + doubtful))
    playwright.expect(page.locator("#expected")).to_contain_text("At most 500 false alarms")
    playwright.expect(page.locator("#changed li")).to_have_count(doubtful)
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation():
        page.get_by_role("button", name="Judge by these rates").click()
    playwright.expect(page.get_by_text("The model file says 5 % and 55 %.")).to_be_visible()
    row_of_model = line.station.models.version("cap", 1)
    assert line.station.models.calibration(row_of_model).false_alarm_rate == 0.5
    line.station.models.choose_rates("cap", 1, 0.05, 0.55, "test")

    viewer = open_tab("viewer")
    viewer.goto("/thresholds")
    playwright.expect(viewer.get_by_text("An admin can choose other rates.")).to_be_visible()
    playwright.expect(viewer.get_by_role("button", name="Judge by these rates")).to_have_count(0)


def test_an_admin_activates_a_version_and_makes_a_token(open_tab: Any, line: Line) -> None:
    make_model(line.station.settings.models / "cap.blemish", gain=0.5)
    page = open_tab("admin")
    page.goto("/models")
    with page.expect_navigation():
        page.get_by_role("button", name="Look into the folder now").click()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Activate").click()
    assert line.station.models.state("cap").active == 1
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation():
        page.get_by_role("button", name="Activate").click()
    playwright.expect(page.get_by_role("heading", name="version 2 judges")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation():
        page.get_by_role("button", name="Roll back").click()
    assert line.station.models.state("cap").active == 1

    page.goto("/system")
    page.locator("#token").fill("camera-1")
    page.get_by_role("button", name="Make token").click()

    secret = page.locator("#secret code")
    playwright.expect(secret).to_be_visible()
    assert line.station.people.who(str(secret.text_content()), None).by == "token camera-1"
    page.locator("#token").fill("camera-1")
    page.get_by_role("button", name="Make token").click()
    playwright.expect(page.locator("#said")).to_contain_text("This name is taken")


def test_the_live_page_shows_what_comes_and_that_the_station_is_lost(open_tab: Any, line: Line) -> None:
    line.inspect(OK)
    page = open_tab("viewer")
    page.goto("/live")
    playwright.expect(page.locator(".last .verdict")).to_have_text("OK")

    line.inspect(NG)
    playwright.expect(page.locator(".last .verdict")).to_have_text("NG")
    page.route("**/live/board", lambda route: route.abort())

    playwright.expect(page.locator("#lost")).to_be_visible()
    playwright.expect(page.locator("#lost")).to_contain_text("The station cannot be reached")
    page.unroute("**/live/board")
    playwright.expect(page.locator("#lost")).to_be_hidden()


def test_the_language_is_that_of_the_browser_until_another_is_chosen(open_tab: Any) -> None:
    page = open_tab("viewer", locale="zh-CN")
    page.goto("/inspections")
    playwright.expect(page.get_by_role("heading", level=1)).to_have_text("检测记录")

    page.get_by_label("语言").select_option("en")

    playwright.expect(page.get_by_role("heading", level=1)).to_have_text("Inspections")
    page.goto("/models")
    playwright.expect(page.get_by_role("heading", level=1)).to_have_text("Models")


def test_pages_are_dark_where_the_device_is_and_run_nothing_that_is_forbidden(open_tab: Any, line: Line) -> None:
    line.inspect(NG, HOSTILE)
    page = open_tab("admin", color_scheme="dark")
    for place in [room.PLACE.path for room in pages.ROOMS]:
        assert page.goto(place).status == 200
        # Whatever is on it, it can be used on a tablet without scrolling sideways.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
    lightness = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("L")
        lightness.append(np.median(np.asarray(picture)))
    dark, light = lightness
    assert dark < 60
    assert light > 200
