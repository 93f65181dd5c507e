"""What a benchmark found: tables, and measured figures beside published ones with what speaks against comparing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blemish.benchmark.protocols import Protocol
from blemish.benchmark.published import DATASETS, PublishedFigure, comparability, published_figures
from blemish.benchmark.published import MEAN as PUBLISHED_MEAN
from blemish.benchmark.results import Row
from blemish.benchmark.tables import FIRST, Table, markdown, mean_over_categories, tables
from blemish.metrics import TITLES

TOLERANCE = 0.02
"""A measured figure farther than this from a published one is marked; FPS is not, since machines differ."""


@dataclass(frozen=True)
class Comparison:
    """A measured figure beside a published one.

    setting, method, metric : of the measurement. category : one, or the mean over several.
    measured, published : in [0, 1]; images a second for FPS.
    differences : what is not the same, in short phrases.
    """

    setting: str
    category: str
    metric: str
    measured: float
    published: PublishedFigure
    differences: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Measured less published."""
        return self.measured - self.published.value

    @property
    def is_far(self) -> bool:
        """Whether the two are farther apart than the tolerance."""
        return self.metric != "fps" and abs(self.difference) > TOLERANCE

    def texts(self) -> tuple[str, ...]:
        """For a table: method, category, metric, measured, published, difference, source, differences."""
        scale = 1 if self.metric == "fps" else 100
        method = self.published.method + (f" ({self.published.variant})" if self.published.variant else "")
        apart = f"{scale * self.difference:+.1f}" + (" !" if self.is_far else "")
        return (
            method,
            f"{self.category} {self.setting}".strip(),
            TITLES.get(self.metric, self.metric),
            f"{scale * self.measured:.1f}",
            f"{scale * self.published.value:.1f}",
            apart,
            self.published.source,
            "; ".join(self.differences),
        )


COLUMNS = ("method", "data", "metric", "measured", "published", "difference", "source", "what differs")


@dataclass(frozen=True)
class Summary:
    """Everything that a page, a Markdown file or a terminal shows of a benchmark.

    rows : all results. protocol : as it was asked for. tables : metrics over categories and methods.
    comparisons : with published figures. circumstances : machine, versions, teacher, dates, in sentences.
    failures : trainings without figures, and why.
    """

    rows: tuple[Row, ...]
    protocol: Protocol
    tables: tuple[Table, ...]
    comparisons: tuple[Comparison, ...]
    circumstances: tuple[str, ...]
    failures: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Row], protocol: Protocol, metrics: Sequence[str] = FIRST) -> Summary:
        """Sum up the rows of one protocol."""
        return cls(
            rows=tuple(rows),
            protocol=protocol,
            tables=tuple(tables(rows, metrics)),
            comparisons=tuple(_comparisons(rows, protocol, metrics)),
            circumstances=tuple(_circumstances(rows, protocol)),
            failures=tuple(
                f"{row.task} {row.setting} {row.method} seed {row.seed}: {row.error}".replace("  ", " ")
                for row in rows
                if row.error
            ),
        )

    def markdown(self) -> str:
        """As a Markdown file."""
        parts = [f"# Benchmark, protocol {self.protocol.name}\n"]
        parts += ["\n".join(f"* {line}" for line in self.circumstances) + "\n"]
        parts += [markdown(table) for table in self.tables]
        if self.failures:
            parts += ["**Without figures**\n", "\n".join(f"* {line}" for line in self.failures) + "\n"]
        if self.comparisons:
            parts += [
                f"**Beside published figures** ({TOLERANCE:.0%} and more apart are marked !)\n".replace("%", " %"),
                _markdown_comparisons(self.comparisons),
            ]
        return "\n".join(parts)

    def print(self) -> None:
        """On standard output, as tables."""
        from rich.console import Console
        from rich.table import Table as RichTable

        console = Console(highlight=False)
        for table in self.tables:
            shown = RichTable("", *table.methods, title=table.title)
            for line in table.lines:
                shown.add_row(line.name, *(cell.text(table.metric) for cell in line.cells))
            console.print(shown)
            for note in table.notes:
                console.print(f"* {note}", markup=False)
        for failure in self.failures:
            console.print(f"Without figures: {failure}", markup=False)
        if self.comparisons:
            # Several figures share a source and what differs from it: said once, below, at the terminal's full width.
            notes: dict[str, str] = {}
            shown = RichTable(
                *COLUMNS[:-2], "note", title=f"beside published figures; ! is more than {100 * TOLERANCE:g} % apart"
            )
            for comparison in self.comparisons:
                *figures, source, differences = comparison.texts()
                note = f"{source}; what differs: {differences or 'nothing that is known'}"
                shown.add_row(*figures, notes.setdefault(note, str(len(notes) + 1)))
            console.print(shown)
            for note, number in notes.items():
                console.print(f"{number}  {note}", markup=False)


def _markdown_comparisons(comparisons: Sequence[Comparison]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(text.replace('|', '/') for text in one.texts())} |" for one in comparisons]
    return "\n".join(lines) + "\n"


def _comparisons(rows: Sequence[Row], protocol: Protocol, metrics: Sequence[str]) -> Iterator[Comparison]:
    """For each setting and method, the published figures of the same dataset and protocol."""
    for setting in dict.fromkeys(row.setting for row in rows):
        for method in dict.fromkeys(row.method for row in rows):
            ones = [row for row in rows if row.setting == setting and row.method == method and not row.error]
            for dataset in DATASETS:
                of_dataset = [row for row in ones if _is_of(row, dataset)]
                for metric in metrics:
                    yield from _beside(of_dataset, dataset, method, setting, metric, protocol)


def _is_of(row: Row, dataset: str) -> bool:
    """Whether a row is of a published dataset: by its layout, which others do not share, or by its category's name."""
    if row.layout in DATASETS:
        return row.layout == dataset
    return row.category in DATASETS[dataset].categories


def _beside(
    rows: Sequence[Row], dataset: str, method: str, setting: str, metric: str, protocol: Protocol
) -> Iterator[Comparison]:
    if not rows:
        return
    ratio = None if protocol.kind != "contaminated" else next(r for r in protocol.ratios if f"{r:.0%}" == setting)
    # Without contamination the contaminated protocol is the one-class one.
    kind = "one-class" if ratio == 0 else protocol.kind
    categories = tuple(dict.fromkeys(row.category for row in rows))
    groups = {name: [row for row in rows if row.category == name] for name in categories}
    if len(categories) > 1:
        groups[PUBLISHED_MEAN] = list(rows)
    for category, group in groups.items():
        measured = mean_over_categories(group, metric)
        if measured is None:
            continue
        for figure in published_figures(method=method, dataset=dataset, protocol=kind, metric=metric):
            if figure.category != category or (ratio and figure.ratio is not None and figure.ratio != ratio):
                continue
            row = group[0]
            phrases = comparability(
                figure,
                teacher=row.teacher,
                image_size=row.image_size,
                categories=categories if category == PUBLISHED_MEAN else (category,),
                protocol=kind,
                metric=metric,
                held_out_share=_held_out(group),
                ratio=ratio or None,
                overlap=protocol.overlap if ratio else None,
            )
            yield Comparison(setting, category, metric, measured, figure, tuple(phrases))


def _held_out(rows: Sequence[Row]) -> float:
    """Share of the training images that calibrate and do not train."""
    row = rows[0]
    calibrating = row.n_calibration if row.n_train_and_calibration == 0 else 0
    return calibrating / max(row.n_train + calibrating, 1)


def _circumstances(rows: Sequence[Row], protocol: Protocol) -> Iterator[str]:
    yield f"Protocol {protocol.name}: {protocol.description} Fingerprint {protocol.fingerprint[:12]}."
    yield "Thresholds come from good images held out of training; nothing is chosen on test images."
    if protocol.kind == "contaminated":
        yield (
            "Held-out images are contaminated like the rest, for the setting has no labels: what rests on the "
            "threshold (IoU, shares of verdicts) suffers with it, the other metrics do not."
        )
    measured = [row for row in rows if not row.error]
    if not measured:
        return
    yield f"Teacher {_all(row.teacher for row in measured)}; preset {_all(row.preset for row in measured)}; seeds " + (
        f"{_all(str(row.seed) for row in measured)}; metrics at the images' own size, masks as they are."
    )
    versions = measured[0].versions
    packages = ", ".join(f"{name} {versions[name]}" for name in ("blemish", "torch", "onnxruntime") if name in versions)
    devices = _all(row.versions.get("device", "") for row in measured)
    yield f"{_all(row.machine for row in measured)}; {devices}; {packages}."
    dates = sorted({row.date for row in measured})
    yield f"Computed {dates[0]}" + (f" to {dates[-1]}." if len(dates) > 1 else ".")


def _all(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(values))
