"""Makes the pictures of docs/station.md: a station on the product line of `blemish demo`, seen by Chromium.

blemish demo && python docs/station/pictures.py demo
"""

from __future__ import annotations

import io
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import uvicorn
from PIL import Image, ImageEnhance
from playwright.sync_api import Page, sync_playwright

from blemish.station.app import make_app
from blemish.station.inspections import Filter
from blemish.station.settings import Drift, Settings
from blemish.station.station import Sent, Station
from blemish.station.tables import now
from blemish.station.trainings import Wanted

HERE = Path(__file__).parent
SIZE = {"width": 1180, "height": 820}
"""Of a tablet."""
WIDTH = 900
"""Of the pictures."""
DAYS, DARKER_FROM = 8, 5
"""Of the production whose light fades."""


def fill(station: Station, images: Path) -> None:
    """Inspect the test images, good ones more often than bad ones, and review a few of the first."""
    rng = np.random.default_rng(0)
    good = sorted((images / "test" / "good").iterdir())
    bad = [path for path in sorted(images.glob("test/*/*")) if path.parent.name != "good"]
    order = [*rng.permutation(good), *rng.permutation(bad)[: len(good) // 3]]
    # What came last is a defect, since that is what the page is for.
    for path in [*rng.permutation(order), next(path for path in bad if path not in order)]:  # type: ignore[arg-type]
        sent = Sent(Path(path).read_bytes(), f"{Path(path).parent.name}-{Path(path).name}")
        judged = [answer.result() for answer in station.models.submit("gears", None, [sent.content])]
        station.record([sent], judged, "camera-1")
    for row, _ in station.inspections.page(Filter(), None, 500)[10:]:
        truth: Any = "normal" if str(row.file).startswith("good") else "anomalous"
        confirmed = (row.verdict == "OK") == (truth == "normal") or row.verdict not in ("OK", "NG")
        station.inspections.review(row.id, "shift-lead", "confirmed" if confirmed else "overruled", truth, "", None)


def fade(station: Station, images: Path) -> None:
    """Inspect good parts for some days, and now and then a bad one; from one day on the light is a little weaker."""
    rng = np.random.default_rng(0)
    good = sorted((images / "test" / "good").iterdir())
    bad = [path for path in sorted(images.glob("test/*/*")) if path.parent.name != "good"]
    for day in range(DAYS):
        then = now() - timedelta(days=DAYS - 1 - day)
        with patch("blemish.station.station.now", return_value=then):
            for path in rng.permutation([*good, bad[day]]):  # type: ignore[arg-type]
                picture = ImageEnhance.Brightness(Image.open(path)).enhance(
                    rng.normal(1, 0.01) - (0.05 if day >= DARKER_FROM else 0)
                )
                content = io.BytesIO()
                picture.save(content, "PNG")
                sent = Sent(content.getvalue(), Path(path).name)
                judged = [answer.result() for answer in station.models.submit("gears", None, [sent.content])]
                station.record([sent], judged, "camera-1")


def keep(page: Page, name: str) -> None:
    """Write what a page shows, in few colours, so that it is small."""
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
    small.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
        HERE / f"{name}.png", optimize=True
    )


def shoot(page: Page, url: str, station: Station) -> None:
    """Visit the pages."""
    found = [row for row, _ in station.inspections.page(Filter(verdict="NG"), None, 500)]
    worst = max(found, key=lambda row: row.score or 0)
    page.goto(f"{url}/live", wait_until="networkidle")
    page.wait_for_timeout(500)
    keep(page, "live")
    page.goto(f"{url}/review", wait_until="networkidle")
    page.wait_for_function("document.querySelector('.photo').naturalWidth > 0")
    keep(page, "review")
    page.goto(f"{url}/inspections/{worst.id}", wait_until="networkidle")
    page.locator(".heat-share").fill("50")
    keep(page, "inspection")
    page.emulate_media(color_scheme="dark")
    page.goto(f"{url}/thresholds", wait_until="networkidle")
    for _ in range(2):
        page.locator("#false-alarms").press("ArrowRight")
    page.wait_for_timeout(500)
    page.wait_for_load_state("networkidle")
    keep(page, "thresholds")


def shoot_training(page: Page, url: str, station: Station) -> None:
    """Train on the parts that people found good, and look while it runs."""
    station.trainings.start()
    number = station.trainings.add(Wanted("gears", None, "rd", "fast", None), "shift-lead").id
    while (state := station.trainings.get(number)).state in ("queued", "running"):
        if state.stage.startswith("distil") and 0.1 < state.progress < 0.9:
            break
        time.sleep(0.5)
    page.emulate_media(color_scheme="light")
    page.goto(f"{url}/trainings/{number}", wait_until="networkidle")
    keep(page, "training")
    station.trainings.cancel(number, "shift-lead")


def shoot_drift(page: Page, url: str, _: Station) -> None:
    """The page of drift, after the light has faded."""
    page.goto(f"{url}/drift", wait_until="networkidle")
    keep(page, "drift")


def shoot_connections(page: Page, url: str, station: Station, images: Path) -> None:
    """A folder and a file that work, a camera and a webhook that do not answer, and a form with a mistake in it."""
    station.start()
    with tempfile.TemporaryDirectory(prefix="line-1-") as folder:
        parts = Path(folder, "parts")
        parts.mkdir()
        for number, path in enumerate(sorted((images / "test" / "good").iterdir())[:5]):
            shutil.copy(path, parts / f"{number}{path.suffix}")
        nobody = "127.0.0.1:1"
        for direction, wanted in (
            ("sinks", {"kind": "csv", "name": "table", "path": f"{folder}/results/{{date}}.csv"}),
            ("sinks", {"kind": "webhook", "name": "mes", "url": f"http://{nobody}/in", "secret": "whsec_" + 40 * "A"}),
            ("sources", {"kind": "folder", "name": "tray", "path": str(parts), "settle_seconds": 0.1}),
            (
                "sources",
                {"kind": "camera", "name": "camera-top", "url": f"rtsp://{nobody}/stream1", "every_seconds": 2},
            ),
        ):
            answer = page.request.post(f"{url}/api/v1/{direction}", data=wanted)
            if not answer.ok:
                raise RuntimeError(answer.text())
        while station.senders.states()[0].delivered < 5 or not station.senders.states()[1].problem:
            time.sleep(0.2)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({**SIZE, "height": 900})
        page.goto(f"{url}/connections", wait_until="networkidle")
        keep(page, "connections")
        page.goto(f"{url}/connections/sink", wait_until="networkidle")
        page.locator("#kind").select_option("mqtt")
        page.locator("#name").fill("plant")
        page.locator("#host").fill("127.0.0.1")
        page.locator("#port").fill("1")
        page.locator("#try").click()
        page.locator("#host-problem").wait_for()
        keep(page, "connection")


@contextmanager
def served(demo: Path, **settings: Any) -> Iterator[tuple[Station, str]]:
    """A station with the model of the demo, and its address."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "models").mkdir()
        shutil.copy(demo / "gears.blemish", root / "models")
        station = Station(Settings(models=root / "models", data=root / "data", name="line-1", **settings))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(station), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield station, f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()
        station.close()


def main(demo: Path) -> None:
    """Make all pictures."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, locale="en")  # type: ignore[arg-type]
        with served(demo) as (station, url):
            fill(station, demo / "gears")
            shoot(page, url, station)
            shoot_training(page, url, station)
        with served(demo, drift=Drift(reference=50)) as (station, url):
            fade(station, demo / "gears")
            shoot_drift(page, url, station)
        with served(demo) as (station, url):
            shoot_connections(page, url, station, demo / "gears")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
