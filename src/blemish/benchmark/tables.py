"""Tables from results: categories down, methods across, mean and spread over seeds; as text, Markdown and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from blemish.benchmark.results import Row
from blemish.metrics import TITLES

LOWER_IS_BETTER = frozenset({"fpr95", "overkill", "escape"})

FIRST = ("image_auroc", "pixel_auroc", "aupro", "mad")
"""What is printed unless more is asked for; all others stand in the CSV file."""

MEAN = "mean"

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """A metric over seeds.

    mean : over the seeds for which it is defined; None if for none. spread : standard deviation over them (n - 1), None
        for one. seeds : how many. note : why it is undefined, or for what part of the rows it is defined.
    """

    mean: float | None
    spread: float | None
    seeds: int
    note: str = ""

    def text(self, metric: str) -> str:
        """For a table: in percent with one digit, FPS as it is; a dash for what is undefined."""
        if self.mean is None:
            return "–"
        scale, digits = (1.0, 1) if metric == "fps" else (100.0, 1)
        text = f"{scale * self.mean:.{digits}f}"
        if self.spread is not None:
            text += f" ± {scale * self.spread:.{digits}f}"
        return text + (" *" if self.note else "")


@dataclass(frozen=True)
class Line:
    """A line of a table: one category, or the mean over all, in one setting; a cell for each method."""

    category: str
    setting: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Category and setting."""
        return f"{self.category} {self.setting}".strip()


@dataclass(frozen=True)
class Table:
    """One metric: rows of categories (and a mean where there are several), columns of methods.

    notes : what a star or a dash means.
    """

    metric: str
    methods: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The metric and its unit."""
        return f"{TITLES.get(self.metric, self.metric)} ({'images/s' if self.metric == 'fps' else '%'})"

    @property
    def has_settings(self) -> bool:
        """Whether lines of a category differ by a setting."""
        return any(line.setting for line in self.lines)


def tables(rows: Sequence[Row], metrics: Sequence[str] = FIRST) -> list[Table]:
    """One table for each metric; categories, their settings, and methods in the order of first appearance."""
    return [_table(rows, metric) for metric in metrics]


def _table(rows: Sequence[Row], metric: str) -> Table:
    methods = _in_order(row.method for row in rows)
    categories = _in_order(row.category for row in rows)
    settings = _in_order(row.setting for row in rows)

    def line(category: str, setting: str, of: Callable[[Sequence[Row], str], Cell]) -> Line:
        here = [row for row in rows if row.setting == setting and category in (row.category, MEAN)]
        return Line(category, setting, tuple(of([row for row in here if row.method == m], metric) for m in methods))

    lines = [line(category, setting, _cell) for category in categories for setting in settings]
    if len(categories) > 1:
        lines += [line(MEAN, setting, partial(_mean_cell, categories=categories)) for setting in settings]
    notes = [
        f"{one.name}, {method}: {cell.note}"
        for one in lines
        for method, cell in zip(methods, one.cells, strict=True)
        if cell.note
    ]
    return Table(metric, methods, tuple(lines), tuple(notes))


def value_of(row: Row, metric: str) -> float | None:
    """A metric of a row; fps stands beside the others."""
    return row.fps if metric == "fps" else row.values.get(metric)


def _cell(rows: Sequence[Row], metric: str) -> Cell:
    """One category and method, over seeds."""
    values = [value for row in rows if (value := value_of(row, metric)) is not None]
    if not values:
        reasons = [row.error or row.undefined.get(metric, "not measured") for row in rows]
        return Cell(None, None, 0, reasons[0] if reasons else "not run")
    note = "" if len(values) == len(rows) else f"defined for {len(values)} of {len(rows)} seeds"
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values), note)


def _mean_cell(rows: Sequence[Row], metric: str, categories: Sequence[str]) -> Cell:
    """Mean over categories first, then over seeds: the spread is that of the mean."""
    means = []
    missing = set[str]()
    for seed in _in_order(row.seed for row in rows):
        of_seed = {row.category: value_of(row, metric) for row in rows if row.seed == seed}
        defined = [value for value in of_seed.values() if value is not None]
        missing |= {category for category in categories if of_seed.get(category) is None}
        if defined:
            means.append(statistics.fmean(defined))
    if not means:
        return Cell(None, None, 0, "undefined for every category")
    note = f"without {', '.join(c for c in categories if c in missing)}" if missing else ""
    return Cell(statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None, len(means), note)


def mean_over_categories(rows: Sequence[Row], metric: str) -> float | None:
    """Mean over categories, then seeds; None if undefined for one of them: such a mean is comparable with no other."""
    cell = _mean_cell(rows, metric, _in_order(row.category for row in rows))
    return None if cell.note else cell.mean


def markdown(table: Table) -> str:
    """A table in Markdown, its notes under it."""
    heads = ["", "setting", *table.methods] if table.has_settings else ["", *table.methods]
    lines = [f"**{table.title}**", "", f"| {' | '.join(heads)} |".replace("|  |", "| |"), "|---" * len(heads) + "|"]
    for line in table.lines:
        texts = [line.category, *([line.setting] if table.has_settings else [])]
        texts += [cell.text(table.metric) for cell in line.cells]
        if line.category == MEAN:
            texts = [f"**{text}**" for text in texts]
        lines.append(f"| {' | '.join(texts)} |")
    if table.notes:
        lines += ["", *(f"\\* {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _in_order(values: Iterable[T]) -> tuple[T, ...]:
    """Each value once, in the order of first appearance."""
    return tuple(dict.fromkeys(values))
