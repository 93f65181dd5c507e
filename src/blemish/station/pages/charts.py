"""Where the bars and lines of the charts are. The templates draw them, as SVG, in the language of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from blemish.decisions import Calibration
from blemish.evaluation.charts import Axis, score_axis

WIDTH, HEIGHT = 400.0, 120.0
_LEFT, _RIGHT, _TOP = 8.0, WIDTH - 8, 24.0
_BINS = 32
_TICKS = 6
"""Labels that fit beside each other."""


@dataclass(frozen=True)
class Bar:
    """A bar, or a band behind the bars. count : what it stands for. style : a class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    count: int = 0
    style: str = ""


@dataclass(frozen=True)
class ScoreChart:
    """The calibration's scores as bars that stand on HEIGHT, the ranges of the verdicts, and where one score lies.

    bands : of OK, REVIEW and NG; style is the verdict. ticks : place and label. logarithmic : whether the axis is.
    """

    bars: tuple[Bar, ...]
    bands: tuple[Bar, ...]
    mark: float | None
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool


def score_chart(calibration: Calibration, score: float | None) -> ScoreChart:
    """Lay out the chart of a calibration.

    Parameters
    ----------
    score : to mark; None marks none.
    """
    axis = _axis(calibration, score)
    edges = np.linspace(axis.begin, axis.end, _BINS + 1)
    counts, _ = np.histogram([axis.place(one) for one in calibration.scores], edges)
    tall = HEIGHT - _TOP - 4
    bars = [
        Bar(begin + 0.5, HEIGHT - tall * count / counts.max(), end - begin - 1, tall * count / counts.max(), int(count))
        for (begin, end), count in zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
        if count
    ]
    rates = (calibration.review_rate, calibration.false_alarm_rate)
    limits = [_LEFT, *(axis.place(calibration.threshold(rate)) for rate in rates), _RIGHT]
    bands = [
        Bar(begin, 0, end - begin, HEIGHT, style=verdict)
        for (begin, end), verdict in zip(pairwise(limits), ("OK", "REVIEW", "NG"), strict=True)
    ]
    every = 1 + len(axis.ticks) // (_TICKS + 1)
    ticks = tuple((axis.place(value), f"{value:.10g}") for value in axis.ticks[::every])
    mark = None if score is None else axis.place(score)
    return ScoreChart(tuple(bars), tuple(bands), mark, ticks, bool(axis.note))


def threshold_places(calibration: Calibration) -> list[float]:
    """Where in the chart of a calibration, without a mark, the thresholds of the rates 1/(n+1), 2/(n+1), ... 1 are."""
    axis = _axis(calibration, None)
    n = calibration.n
    return [axis.place(calibration.threshold(k / (n + 1))) for k in range(1, n + 2)]


def _axis(calibration: Calibration, score: float | None) -> Axis:
    # All thresholds that can be reached are scores of the calibration.
    shown = [*calibration.scores, *([] if score is None else [score])]
    return score_axis(min(shown), max(shown), _LEFT + 4, _RIGHT - 4)


def stacked(columns: Sequence[dict[str, int]], order: Sequence[str], height: float) -> list[list[Bar]]:
    """Columns of counts, stacked in an order from the bottom, scaled to the fullest; each is one wide."""
    fullest = max((sum(counts.values()) for counts in columns), default=0) or 1
    laid: list[list[Bar]] = []
    for place, counts in enumerate(columns):
        top = height
        laid.append([])
        for name in order:
            part = height * counts.get(name, 0) / fullest
            if part:
                top -= part
                laid[-1].append(Bar(place, top, 1, part, counts[name], name))
    return laid
