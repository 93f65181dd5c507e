"""Tables from results: categories down, methods across, mean and spread over seeds; as text, Markdown and CSV."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from blemish.benchmark.results import Row

TITLES = {
    "image_auroc": "I-AUROC",
    "image_ap": "I-AP",
    "image_f1max": "I-F1max",
    "pixel_auroc": "P-AUROC",
    "pixel_ap": "P-AP",
    "pixel_f1max": "P-F1max",
    "aupro": "AUPRO",
    "mad": "mAD",
    "iou": "IoU",
    "best_iou": "best IoU",
    "pro_per_image": "PRO per image",
    "au_spro_05": "AU-sPRO 5 %",
    "au_spro_30": "AU-sPRO 30 %",
    "fpr95": "FPR95",
    "overkill": "overkill",
    "escape": "escape",
    "fps": "FPS",
}
"""Metrics that tables know, in their order."""

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
class Table:
    """One metric: rows of categories (and a mean where there are several), columns of methods.

    setting : what all rows share, such as "10 %"; "" for nothing. notes : what a star or a dash means.
    """

    metric: str
    setting: str
    methods: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The metric, its unit, and the setting."""
        unit = "images/s" if self.metric == "fps" else "%"
        name = TITLES.get(self.metric, self.metric)
        return f"{name} ({unit})" + (f", {self.setting}" if self.setting else "")


def tables(rows: Sequence[Row], metrics: Sequence[str] = FIRST) -> list[Table]:
    """One table for each setting and metric, in the order in which settings and methods first appear."""
    return [
        _table([row for row in rows if row.setting == setting], metric, setting)
        for setting in _in_order(row.setting for row in rows)
        for metric in metrics
    ]


def _table(rows: Sequence[Row], metric: str, setting: str) -> Table:
    methods = _in_order(row.method for row in rows)
    categories = _in_order(row.category for row in rows)
    lines = []
    for category in categories:
        of_category = [row for row in rows if row.category == category]
        lines.append((category, tuple(_cell([r for r in of_category if r.method == m], metric) for m in methods)))
    if len(categories) > 1:
        lines.append((MEAN, tuple(_mean_cell([row for row in rows if row.method == m], metric) for m in methods)))
    notes = [
        f"{category}, {method}: {cell.note}"
        for category, cells in lines
        for method, cell in zip(methods, cells, strict=True)
        if cell.note
    ]
    return Table(metric, setting, methods, tuple(lines), tuple(notes))


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


def _mean_cell(rows: Sequence[Row], metric: str) -> Cell:
    """Mean over categories first, then over seeds: the spread is that of the mean."""
    means, categories = [], _in_order(row.category for row in rows)
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
    cell = _mean_cell(rows, metric)
    return None if cell.note else cell.mean


def markdown(table: Table) -> str:
    """A table in Markdown, its notes under it."""
    lines = [f"**{table.title}**", "", f"| | {' | '.join(table.methods)} |", "|---" * (len(table.methods) + 1) + "|"]
    for category, cells in table.rows:
        texts = [cell.text(table.metric) for cell in cells]
        if category == MEAN:
            category, texts = f"**{category}**", [f"**{text}**" for text in texts]
        lines.append(f"| {category} | {' | '.join(texts)} |")
    if table.notes:
        lines += ["", *(f"\\* {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _in_order(values: Iterable[T]) -> tuple[T, ...]:
    """Each value once, in the order of first appearance."""
    return tuple(dict.fromkeys(values))
