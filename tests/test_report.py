"""Reports: complete in themselves, safe whatever files are called, and showing what matters."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from blemish.data import Dataset, Sample
from blemish.errors import BlemishError
from blemish.evaluation import evaluate, judging, write_inspection_report, write_report
from blemish.evaluation.charts import Group, Point, pro_chart, roc_chart, score_histogram
from blemish.evaluation.galleries import PER_KIND, SHOWN, SHOWN_OF_VERDICT
from blemish.evaluation.report import LISTED
from blemish.metrics import Measurement
from blemish.runtime import Inspection
from parts import Line, detector, manifest_of

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """A parsed report: its tags with their attributes, its text, and the text below each heading."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag not in {"wbr", "bdi", "em", "span", "tspan"}:
            self.text += "\n"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def gallery(self, title: str) -> list[str]:
        """Names of the images in the gallery of this title, in order; [] without such a gallery."""
        blocks = re.split(r'<h3 class="gallery">', self.source)[1:]
        for block in blocks:
            if block.startswith(f"{title} "):
                cards = block.split("<h2>")[0].split('<article class="card">')[1:]
                found = [re.search(r'alt="Image of ([^"]*)"', card) for card in cards]
                return [match.group(1) for match in found if match]
        return []


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Good parts with a false alarm and one for review, bad ones of two kinds with one missed, and a broken file."""
    made = Line(tmp_path / "parts")
    for brighter in (5, 7, 9, 11, 25, 42):
        made.add("good", brighter)
    for kind, brighter in (("dent", 15), ("dent", 50), ("dent", 52), ("scratch", 28), ("scratch", 60)):
        made.add(kind, brighter)
    made.add_broken("scratch", "anomalous")
    return made


def evaluation_page(line: Line, path: Path) -> Page:
    judge = detector(manifest_of({"a.png": "2" * 64, "b.png": "3" * 64}))
    write_report(path, evaluate(judge, line.dataset), judge)
    return Page(path)


def inspection_page(line: Line, path: Path) -> Page:
    judge = detector(manifest_of({}))
    write_inspection_report(path, judge.stream(sample.path for sample in line.samples), judge)
    return Page(path)


def assert_stands_alone(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page.source
    assert "@import" not in page.source
    policy = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for chart in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL):
        ElementTree.fromstring(chart)


def test_an_evaluation_stands_alone_and_says_what_matters(line: Line, tmp_path: Path) -> None:
    page = evaluation_page(line, tmp_path / "new" / "folder" / "report.html")
    assert_stands_alone(page)
    assert "5 bad parts, 3 found, 1 for review, 1 missed. 6 good parts, 1 false alarm." in page.text
    for expected in (
        "3/5 defects found",
        "1/6 false alarms",
        "calibrated for at most 5 %",
        "6 good images and 5 bad ones",
        "19 good ones, held out from training",
        "0 to train, 2 to calibrate, 1 left out",
        "good/cut.png truncated the file ends early",
        "distance: Distance from grey",
        "1" * 64,
        "made here",
    ):
        assert expected in page.text, expected
    for name in (
        "I-AUROC",
        "I-AP",
        "I-F1max",
        "P-AUROC",
        "P-AP",
        "P-F1max",
        "AUPRO",
        "mAD",
        "IoU",
        "best IoU",
        "FPR95",
        "FPS",
    ):
        assert re.search(rf"[01]\.\d{{4}} {name}|\d FPS", page.text), name
    assert len(page.all("svg")) == 3


def test_bounds_and_intervals_are_told(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = evaluation_page(line, tmp_path / "plain.html")
    assert "counted in bins" not in plain.text
    assert "bootstrap" not in plain.text
    monkeypatch.setattr(judging, "Measurement", partial(Measurement, exact_pixels=0))
    judge = detector()
    evaluation = evaluate(judge, line.dataset, confidence=True)
    write_report(tmp_path / "full.html", evaluation, judge)
    page = Page(tmp_path / "full.html")
    assert_stands_alone(page)
    largest = max(evaluation.measures.error_bounds.values())
    assert f"differ from those above by at most {largest:.1g}." in page.text
    assert "95 % bootstrap interval, from 1000 draws" in page.text
    assert evaluation.confidence is not None
    interval = evaluation.confidence.intervals["aupro"]
    assert interval is not None
    assert f"AUPRO {interval.low:.4f} to {interval.high:.4f}" in page.text


def test_each_image_of_an_evaluation_stands_where_it_tells_most(line: Line, tmp_path: Path) -> None:
    page = evaluation_page(line, tmp_path / "report.html")
    assert page.gallery("Missed defects") == ["dent/006.png"]
    assert page.gallery("False alarms") == ["good/005.png"]
    # Nearest to the NG limit of 0.30 first.
    assert page.gallery("For review") == ["scratch/009.png", "good/004.png"]
    assert page.gallery("Closest calls")[:2] == ["good/003.png", "dent/007.png"]
    shown = re.findall(r'alt="Image of ([^"]*)"', page.source)
    assert len(shown) == len(set(shown)) == 11
    assert "scratch/broken.png unreadable" in page.text or "scratch/broken.png truncated" in page.text


def test_the_worst_false_alarm_and_the_calmest_miss_come_first(line: Line, tmp_path: Path) -> None:
    line.add("good", 70)
    line.add("dent", 12)
    page = evaluation_page(line, tmp_path / "report.html")
    assert page.gallery("False alarms") == ["good/012.png", "good/005.png"]
    assert page.gallery("Missed defects") == ["dent/013.png", "dent/006.png"]


def test_image_heat_map_mask_and_truth_stand_side_by_side(line: Line, tmp_path: Path) -> None:
    page = evaluation_page(line, tmp_path / "report.html")
    alts = [attributes["alt"] for attributes in page.all("img")]
    found = [alt for alt in alts if alt and alt.endswith("dent/007.png")]
    assert found == [f"{what} of dent/007.png" for what in ("Image", "Heat map", "Marked", "Ground truth")]
    assert not any(alt and alt.startswith("Ground truth of good/") for alt in alts)
    sources = [a["src"] for a in page.all("img") if a["alt"] and a["alt"].endswith("dent/007.png")]
    assert len(set(sources)) == 4
    assert page.text.count("good part, nothing to find") == 6


def test_a_mark_beside_the_defect_is_told(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.add("good", 5)
    wrong, right = line.add("dent", 50), line.add("dent", 50)
    assert wrong.mask is not None
    elsewhere = np.zeros((40, 60), bool)
    elsewhere[30:35, 30:35] = True
    Line.save(wrong.mask, elsewhere)
    page = evaluation_page(line, tmp_path / "report.html")
    assert page.gallery("Right verdict, wrong place") == ["dent/001.png"]
    assert right.path.name == "002.png"


def test_what_is_not_shown_is_counted(tmp_path: Path) -> None:
    line = Line(tmp_path)
    for _ in range(SHOWN + 3):
        line.add("dent", 10)
    for _ in range(SHOWN):
        line.add("scratch", 90)
    for _ in range(10):
        line.add("good", 1)
    page = evaluation_page(line, tmp_path / "report.html")
    assert len(page.gallery("Missed defects")) == SHOWN
    assert "3 more not shown" in page.text
    assert len(page.gallery("Typical detections")) == PER_KIND
    assert len(page.gallery("Typical good parts")) == PER_KIND


def test_undefined_metrics_show_their_reason_and_no_figure(tmp_path: Path) -> None:
    line = Line(tmp_path)
    for brighter in (5, 6, 40):
        line.add("good", brighter)
    page = evaluation_page(line, tmp_path / "report.html")
    assert_stands_alone(page)
    assert page.text.count("no anomalous images") >= 8
    assert "3 good parts, 1 false alarm." in page.text
    assert "defects" not in page.text.split("Metrics")[0]
    assert "ROC curve" not in page.text
    assert len(page.all("svg")) == 1


def test_nothing_but_rejected_images(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.add_broken("dent", "anomalous")
    page = evaluation_page(line, tmp_path / "report.html")
    assert "No image could be judged." in page.text
    assert page.all("img") == []


def test_left_out_images_are_told(line: Line, tmp_path: Path) -> None:
    line.add("", 70, label=None, masked=False)
    page = evaluation_page(line, tmp_path / "report.html")
    assert "1 test image without a label left out" in page.text


def test_an_image_that_vanished_since_does_not_stop_the_report(line: Line, tmp_path: Path) -> None:
    judge = detector()
    evaluation = evaluate(judge, line.dataset)
    line.samples[6].path.unlink()
    write_report(tmp_path / "report.html", evaluation, judge)
    page = Page(tmp_path / "report.html")
    assert page.text.count("can no longer be read") == 4
    assert "dent/006.png" in page.text


def test_names_are_never_markup(tmp_path: Path) -> None:
    root = tmp_path / '"><script>alert(1)<'
    line = Line(root)
    line.add("good", 5)
    name = "<img src=x onerror=alert(1)>\"'&amp;{{ 7*7 }}"
    sample = line.add(name, 50)
    line.add_broken(name, "anomalous")
    dataset = Dataset(root.name, root, "mvtec", tuple(line.samples), "<b>note</b>")
    judge = detector(manifest_of({}))
    write_report(tmp_path / "report.html", evaluate(judge, dataset), judge)
    write_inspection_report(tmp_path / "inspected.html", judge.stream(s.path for s in line.samples), judge)
    for file in ("report.html", "inspected.html"):
        page = Page(tmp_path / file)
        assert_stands_alone(page)
        assert f"{name}/{sample.path.name}" in page.text
    assert "<b>note</b>" in Page(tmp_path / "report.html").text


def test_a_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    line = Line(tmp_path / "parts")
    odd = os.fsdecode(b"sch\xf6n.png")
    path = line.add("good", 5).path
    try:
        path = path.rename(path.with_name(odd))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    line.samples[0] = Sample(path, "normal", "test", "good")
    assert "sch?n.png" in evaluation_page(line, tmp_path / "report.html").text
    assert "sch?n.png" in inspection_page(line, tmp_path / "inspected.html").text


def test_inspections_stand_worst_first(line: Line, tmp_path: Path) -> None:
    page = inspection_page(line, tmp_path / "report.html")
    assert_stands_alone(page)
    assert page.gallery("NG") == ["scratch/010.png", "dent/008.png", "dent/007.png", "good/005.png"]
    assert page.gallery("For review") == ["scratch/009.png", "good/004.png"]
    assert page.gallery("OK, nearest to the limit")[0] == "dent/006.png"
    assert "Inspection" in page.text
    assert "4 NG" in page.text
    assert "2 REVIEW" in page.text
    assert "5 OK" in page.text
    assert "1 REJECTED" in page.text
    assert "Ground truth" not in page.text
    assert "scratch/broken.png" in page.text.split("Rejected")[1]
    table = page.text.split("All judged images")[1]
    assert table.index("scratch/010.png NG 0.6 0.0500 1") < table.index("good/000.png OK")


def test_many_inspections_keep_few_pictures_and_no_arrays(tmp_path: Path) -> None:
    judge = detector()
    alive: list[weakref.ref[np.ndarray]] = []  # type: ignore[type-arg]

    def inspections() -> Iterator[Inspection]:
        for i in range(LISTED + 20):
            pixels = np.full((8, 9, 3), 100, np.uint8)
            pixels[2:4, 2:4] += np.uint8(i % 100)
            inspection = judge.inspect(pixels)
            assert inspection.anomaly_map is not None
            alive.append(weakref.ref(inspection.anomaly_map))
            yield inspection
            del inspection
            assert sum(reference() is not None for reference in alive) <= 2

    write_inspection_report(tmp_path / "report.html", inspections(), judge)
    page = Page(tmp_path / "report.html")
    assert len(page.all("article")) == 3 * SHOWN_OF_VERDICT
    best = page.gallery("NG")
    assert best[0] == "image 100"
    assert best[:5] == [f"image {n}" for n in (100, 200, 300, 400, 500)]
    assert "20 more with lower scores not shown" in page.text
    # One row is the table's head.
    assert len(page.all("tr")) == 1 + LISTED


def test_no_inspections_at_all(tmp_path: Path) -> None:
    write_inspection_report(tmp_path / "report.html", [], detector())
    page = Page(tmp_path / "report.html")
    assert "0 images" in page.text
    assert "What it was trained on" not in page.text


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BlemishError, match="report cannot be written"):
        write_inspection_report(tmp_path / "file" / "report.html", [], detector())


def bars(chart: str, style: str) -> list[tuple[float, float, int]]:
    """Left and right end and count of the bars of one group."""
    found = []
    for element in ElementTree.fromstring(chart).iter("rect"):
        if element.get("class") == f"bar {style}":
            x, width = float(element.get("x", "")), float(element.get("width", ""))
            title = element.findtext("title", "")
            count = re.search(r": (\d+) from", title)
            assert count is not None
            found.append((x, x + width, int(count.group(1))))
    return found


def limits_of(chart: str) -> tuple[float, float]:
    """Places of the lines where REVIEW and NG begin."""
    places = {one.get("class"): float(one.get("x1", "")) for one in ElementTree.fromstring(chart).iter("line")}
    return places["limit review"], places["limit"]


@pytest.mark.parametrize("factor", [1.0, 400.0])
def test_a_histogram_shows_every_score_on_its_side_of_the_limit(factor: float) -> None:
    random = np.random.default_rng(0)
    normal, bad = random.uniform(0.1, 0.2, 57).tolist(), (random.uniform(0.3, 0.5, 33) * factor).tolist()
    between = Group("between", "inspected", [0.235] * 3)
    groups = [
        Group("good", "normal", normal),
        Group("bad", "anomalous", bad),
        Group("none", "calibration", []),
        between,
    ]
    chart = score_histogram(groups, 0.22, 0.25)
    assert sum(count for *_, count in bars(chart, "normal")) == 57
    assert sum(count for *_, count in bars(chart, "anomalous")) == 33
    review, limit = limits_of(chart)
    assert review < limit
    [(left, right, count)] = bars(chart, "inspected")
    assert count == 3
    assert review - (right - left) < left < right < limit + (right - left)
    assert max(right for _, right, _ in bars(chart, "normal")) < limit
    assert min(left for left, *_ in bars(chart, "anomalous")) > limit
    assert ("logarithmic" in chart) == (factor > 1)
    ticks = [float(e.text or "") for e in ElementTree.fromstring(chart).iter("text") if e.get("class") == "tick"]
    assert 3 <= len(ticks) <= 12
    assert ticks == sorted(ticks)


def test_a_histogram_of_equal_and_negative_scores_can_be_drawn() -> None:
    assert bars(score_histogram([Group("good", "normal", [0.5, 0.5])], 0.5, 0.5), "normal")[0][2] == 2
    assert len(bars(score_histogram([Group("good", "normal", [-90.0, -1.0])], -2.0, -1.5), "normal")) == 2


def test_the_roc_chart_marks_where_the_verdicts_work() -> None:
    chart = roc_chart(([0.0, 0.0, 1.0], [0.0, 0.8, 1.0]), [Point("NG", 0.0, 0.8), Point("REVIEW", 0.5, 0.9)])
    root = ElementTree.fromstring(chart)
    [curve] = [e.get("points", "").split() for e in root.iter("polyline")]
    places = {e.get("class"): f"{e.get('cx')},{e.get('cy')}" for e in root.iter("circle")}
    assert places["point ng"] == curve[1]
    left, top = map(float, curve[1].split(","))
    x, y = map(float, places["point review"].split(","))
    assert left < x
    assert y < top


def test_the_pro_chart_ends_where_aupro_ends() -> None:
    chart = pro_chart(([0.0, 0.2, 0.4, 1.0], [0.0, 0.6, 0.8, 1.0]))
    [curve] = [e.get("points", "").split() for e in ElementTree.fromstring(chart).iter("polyline")]
    (x0, y0), _, (x2, y2) = (tuple(map(float, point.split(","))) for point in curve)
    whole = roc_chart(([0.0, 1.0], [0.0, 1.0]), [])
    [frame] = [e.get("points", "").split() for e in ElementTree.fromstring(whole).iter("polyline")]
    right, top = map(float, frame[1].split(","))
    assert x2 == right
    assert y2 == pytest.approx(y0 + 0.7 * (top - y0), abs=0.1)
    assert x0 < x2
