"""A benchmark as a page: tables, how methods stand contamination, heat maps side by side, published figures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from blemish.benchmark.results import Row
from blemish.benchmark.running import IMAGES, PICTURES_EACH, picture_name
from blemish.benchmark.summary import COLUMNS, TOLERANCE, Summary
from blemish.benchmark.tables import LOWER_IS_BETTER, MEAN, Table, mean_over_categories
from blemish.metrics import TITLES
from blemish.pages import Tile, write_page

_LINES = ("accent", "normal", "anomalous", "ok", "review", "rejected")
"""Colours of the page's style sheet that lines take, in turn."""


def write_benchmark_page(path: Path, summary: Summary, pictures: Path) -> None:
    """Write the page of a benchmark.

    Parameters
    ----------
    path : the HTML file to write; an existing one is replaced.
    pictures : the folder in which the run kept its pictures.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    rows = summary.rows
    categories = tuple(dict.fromkeys(row.category for row in rows))
    write_page(
        path,
        "blemish.benchmark",
        "benchmark.html.jinja",
        title=f"Benchmark {summary.protocol.name}",
        subject=", ".join(categories) if len(categories) < 6 else f"{len(categories)} categories",
        kind=f"Benchmark · {summary.protocol.name}",
        place="",
        headline=summary.protocol.description,
        tiles=_tiles(summary),
        circumstances=summary.circumstances,
        tables=[_shown(table) for table in summary.tables],
        charts=_contamination_charts(summary),
        strips=_strips(rows, pictures),
        columns=COLUMNS,
        comparisons=[(one.texts(), one.is_far) for one in summary.comparisons],
        tolerance=f"{100 * TOLERANCE:g}",
        failures=summary.failures,
        trainings=[_training(row) for row in rows if not row.error],
    )


def _tiles(summary: Summary) -> list[Tile]:
    rows = summary.rows
    trainings = len({(row.job, row.setting) for row in rows})
    failed = len({(row.job, row.setting) for row in rows if row.error})
    return [
        Tile(str(len({row.category for row in rows})), "categories"),
        Tile(str(len({row.method for row in rows})), "methods"),
        Tile(str(len({row.seed for row in rows})), "seeds"),
        Tile(str(trainings), "trainings", f"{failed} without figures" if failed else "", "ng" if failed else ""),
    ]


@dataclass(frozen=True)
class ShownTable:
    """A table as text. Each line has its category, "" where it is that of the line above, its setting, whether it is a
    mean, and cells, each with whether it is the best of its line.
    """

    title: str
    methods: tuple[str, ...]
    has_settings: bool
    lines: tuple[tuple[str, str, bool, tuple[tuple[str, bool], ...]], ...]
    notes: tuple[str, ...]


def _shown(table: Table) -> ShownTable:
    lines, above = [], ""
    for line in table.lines:
        values = [cell.mean for cell in line.cells if cell.mean is not None]
        best = None
        if len(values) > 1:
            best = min(values) if table.metric in LOWER_IS_BETTER else max(values)
        cells = tuple((cell.text(table.metric), cell.mean is not None and cell.mean == best) for cell in line.cells)
        category = "" if line.category == above else line.category
        lines.append((category, line.setting, line.category == MEAN, cells))
        above = line.category
    return ShownTable(table.title, table.methods, table.has_settings, tuple(lines), table.notes)


def _contamination_charts(summary: Summary) -> list[tuple[str, Markup]]:
    """One chart a metric: mean over categories against the share of contaminating images."""
    if len(summary.protocol.ratios) < 2:
        return []
    charts = []
    categories = {row.category for row in summary.rows}
    for metric in dict.fromkeys(table.metric for table in summary.tables):
        lines = {}
        for method in dict.fromkeys(row.method for row in summary.rows):
            points = []
            for ratio in summary.protocol.ratios:
                ones = [row for row in summary.rows if row.method == method and row.setting == f"{ratio:.0%}"]
                value = mean_over_categories(ones, metric)
                if value is not None and {row.category for row in ones} == categories:
                    points.append((ratio, value))
            if points:
                lines[method] = points
        if lines and metric != "fps":
            charts.append((f"{TITLES.get(metric, metric)}, mean over categories", line_chart(lines)))
    return charts


def line_chart(lines: dict[str, list[tuple[float, float]]]) -> Markup:
    """Draw lines over the share of contaminating images; both axes in per cent.

    Parameters
    ----------
    lines : by name, points (x, y), both in [0, 1], x rising.
    """
    left, right, top, bottom = 48.0, 330.0, 12.0, 200.0
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    low, high = min(ys), max(ys)
    low, high = (
        (low - 0.01, high + 0.01) if high - low < 0.02 else (low - 0.1 * (high - low), high + 0.1 * (high - low))
    )
    high = min(high, 1.0) if max(ys) <= 1 else high
    span = max(max(xs), 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / span, bottom - (bottom - top) * (y - low) / (high - low)

    parts = [Markup('<svg class="chart" viewBox="0 0 460 232" role="img">')]
    for step in range(5):
        value = low + (high - low) * step / 4
        y = place(0, value)[1]
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, right, y, y))
        text = Markup('<text x="{}" y="{:.1f}" text-anchor="end">{:.1f}</text>')
        parts.append(text.format(left - 6, y + 4, 100 * value))
    for x in sorted(set(xs)):
        text = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:.0f} %</text>')
        parts.append(text.format(place(x, low)[0], bottom + 18, 100 * x))
    ends = _apart([place(*points[-1])[1] for points in lines.values()])
    for number, (name, points) in enumerate(lines.items()):
        colour = _LINES[number % len(_LINES)]
        spots = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        style = f"fill:none;stroke:var(--{colour});stroke-width:2.5"
        parts.append(Markup('<polyline style="{}" points="{}"/>').format(style, path))
        for x, y in spots:
            dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5" style="fill:var(--{})"/>')
            parts.append(dot.format(x, y, colour))
        label = Markup('<text x="{:.1f}" y="{:.1f}" style="fill:var(--{});font-weight:600">{}</text>')
        parts.append(label.format(spots[-1][0] + 10, ends[number] + 4, colour, name))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _apart(places: Sequence[float], gap: float = 15.0) -> list[float]:
    """Labels at these heights, moved so that none covers another."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    return moved


def _strips(rows: Sequence[Row], pictures: Path) -> list[tuple[str, list[list[tuple[str, str]]]]]:
    """For each category, each shown image and what every training of the first seed makes of it: caption, address."""
    first = min((row.seed for row in rows), default=0)
    shown = []
    for category in dict.fromkeys(row.category for row in rows):
        strips = []
        for number in range(PICTURES_EACH):
            name = picture_name(category, number)
            sources = [("image, true defect outlined", pictures / IMAGES / name)]
            sources += [
                (f"{row.method} {row.setting}".strip(), pictures / row.name / name)
                for row in rows
                if row.category == category and row.seed == first
            ]
            strip = [(caption, _uri(picture)) for caption, picture in sources if picture.is_file()]
            if strip:
                strips.append(strip)
        if strips:
            shown.append((category, strips))
    return shown


def _uri(picture: Path) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _training(row: Row) -> tuple[str, ...]:
    seconds = "–" if row.train_seconds is None else f"{row.train_seconds:.0f}"
    return (
        f"{row.category} {row.setting}".strip(),
        row.method,
        str(row.seed),
        str(row.n_train),
        str(row.n_calibration),
        str(row.contaminated_by),
        f"{row.n_normal} + {row.n_anomalous}",
        seconds,
        "–" if row.fps is None else f"{row.fps:.0f}",
        "–" if row.model_bytes is None else f"{row.model_bytes / 2**20:.0f}",
    )
