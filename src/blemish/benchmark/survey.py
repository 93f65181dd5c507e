"""The survey's table of accuracy and speed, with what was measured here beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from blemish.benchmark.published import published_figures
from blemish.benchmark.results import Row

SOURCE = "survey of visual anomaly detection, table 4"
METRICS = ("pixel_auroc", "aupro", "fps")
"""What the survey compares by. Its AUROC is that of pixels."""


def methods() -> tuple[str, ...]:
    """The survey's methods, in its order: fastest first."""
    return tuple(dict.fromkeys(figure.method for figure in published_figures() if figure.source == SOURCE))


@dataclass(frozen=True)
class SurveyLine:
    """A method: the survey's figures for MVTec AD, and what was measured, a mean over categories and seeds each.

    published, measured : pixel AUROC and AUPRO in [0, 1], images a second; None for what there is none of.
    fps : graph alone, one image at a time, on ONNX Runtime; fps_openvino : on OpenVINO; fps_decoding : on ONNX Runtime
        with reading and decoding the file. by_category : pixel AUROC and AUPRO of each.
    """

    method: str
    title: str
    published: tuple[float | None, ...]
    pixel_auroc: float | None
    aupro: float | None
    fps: float | None
    fps_openvino: float | None
    fps_decoding: float | None
    by_category: dict[str, tuple[float | None, float | None]]


def survey_lines(rows: Sequence[Row]) -> list[SurveyLine]:
    """The survey's methods in its order; one that was not run has no measured figures."""
    lines = []
    for method in methods():
        figures = {f.metric: f for f in published_figures(method) if f.source == SOURCE}
        mine = [row for row in rows if row.method == method and not row.error]
        categories = list(dict.fromkeys(row.category for row in mine))
        by_category = {
            name: (
                _over([row for row in mine if row.category == name], _metric("pixel_auroc"), fmean),
                _over([row for row in mine if row.category == name], _metric("aupro"), fmean),
            )
            for name in categories
        }
        lines.append(
            SurveyLine(
                method=method,
                title=next(iter(figures.values())).title,
                published=tuple(figures[m].value if m in figures else None for m in METRICS),
                pixel_auroc=_mean([auroc for auroc, _ in by_category.values()]),
                aupro=_mean([aupro for _, aupro in by_category.values()]),
                # A median: one category measured while the machine did something else must not decide.
                fps=_over(mine, lambda row: row.fps_graph, median),
                fps_openvino=_over(mine, lambda row: row.fps_openvino, median),
                fps_decoding=_over(mine, lambda row: row.fps, median),
                by_category=by_category,
            )
        )
    return lines


def survey_table(rows: Sequence[Row]) -> str:
    """In Markdown: the survey's figures beside the measured ones, then the measured ones by category."""
    lines = survey_lines(rows)
    measured = [row for row in rows if not row.error]
    heads = ["method", "AUROC", "PRO", "FPS", "P-AUROC", "AUPRO", "FPS", "FPS OpenVINO", "FPS with decoding"]
    table = [
        "| | survey | survey | survey | here | here | here | here | here |",
        f"|{'---|' * len(heads)}",
        _row(heads),
    ]
    for line in lines:
        auroc, pro, fps = line.published
        table.append(
            _row(
                [
                    line.title,
                    *(_percent(auroc), _percent(pro), _speed(fps)),
                    *(_percent(line.pixel_auroc), _percent(line.aupro)),
                    *(_speed(line.fps), _speed(line.fps_openvino), _speed(line.fps_decoding)),
                ]
            )
        )
    categories = list(dict.fromkeys(row.category for row in measured))
    table += ["", _row(["P-AUROC / AUPRO", *categories]), f"|{'---|' * (len(categories) + 1)}"]
    for line in lines:
        cells = [line.by_category.get(name, (None, None)) for name in categories]
        table.append(_row([line.title, *(f"{_percent(a)} / {_percent(p)}" for a, p in cells)]))
    return "\n".join([*table, "", *notes(measured)]) + "\n"


def notes(rows: Sequence[Row]) -> list[str]:
    """What the figures hold for."""
    if not rows:
        return ["Nothing was measured."]
    one = rows[0]
    presets = sorted({f"{row.teacher}, {row.preset} preset" for row in rows})
    versions = ", ".join(f"{name} {text}" for name, text in one.versions.items() if name in ("torch", "onnxruntime"))
    return [
        "Survey: mean over the 15 categories of MVTec AD as its sources report them, teachers and machines of theirs. "
        f"Here: mean over {', '.join(dict.fromkeys(row.category for row in rows))}; {'; '.join(presets)}; "
        f"{one.machine}; {versions}; {', '.join(sorted({row.date for row in rows}))}.",
        "",
        "FPS here: one image at a time, median over the categories; graph alone (resize to map and score) on ONNX "
        "Runtime and on OpenVINO, float32; with decoding also reads and decodes the file and decides.",
    ]


def _metric(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.values.get(name)


def _over(
    rows: Sequence[Row], value: Callable[[Row], float | None], how: Callable[[list[float]], float]
) -> float | None:
    values = [found for row in rows if (found := value(row)) is not None]
    return how(values) if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined and len(defined) == len(values) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _speed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
