"""The charts of the report as SVG: score histograms, the ROC curve and the PRO curve.

Their colours are classes that the page's style sheet defines, so that one drawing suits light, dark and paper. All text
is escaped by `Markup.format`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from blemish.metrics.measures import Curve

_BINS = 48
_LOG_FROM = 20.0
"""Scores that span more than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Group:
    """Scores to draw as one row of a histogram. `style` is a class of the style sheet."""

    name: str
    style: str
    scores: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A point to mark on a ROC curve, both in [0, 1]."""

    name: str
    false_alarms: float
    detections: float


def score_histogram(groups: Sequence[Group], review_limit: float, limit: float) -> Markup:
    """Draw one histogram a group, below one another on one axis, with the ranges of OK, REVIEW and NG behind them.

    Parameters
    ----------
    groups : at least one with a score; each is scaled to its own fullest bar. Empty ones are left out.
    review_limit, limit : scores above which an image is for review and NG.
    """
    groups = [group for group in groups if group.scores]
    everything = [limit, review_limit, *(score for group in groups for score in group.scores)]
    left, right, top, row, gap = 150.0, 848.0, 26.0, 64.0, 14.0
    bottom = top + len(groups) * (row + gap)
    axis = score_axis(min(everything), max(everything), left + 6, right - 6)
    place = axis.place

    parts = []
    edges = [left, min(max(place(review_limit), left), right), min(max(place(limit), left), right), right]
    for name, (begin, end) in zip(("OK", "REVIEW", "NG"), pairwise(edges), strict=True):
        shape = Markup('<rect class="band {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
        parts.append(shape.format(name.lower(), begin, top - 22, end - begin, bottom - top + 22))
        if end - begin > 9 * len(name):
            parts.append(_text((begin + end) / 2, top - 8, name, f"bandname {name.lower()}", "middle"))
    for i, group in enumerate(groups):
        base = top + (i + 1) * (row + gap) - gap
        parts.append(_text(left - 12, base - row / 2 - 2, group.name, "rowname", "end"))
        parts.append(_text(left - 12, base - row / 2 + 15, f"n = {len(group.scores)}", "note", "end"))
        parts += [_line(left, base, right, base, "axis"), *_bars(group, axis, base, row)]
    parts.append(_line(edges[1], top - 22, edges[1], bottom - gap, "limit review"))
    parts.append(_line(edges[2], top - 22, edges[2], bottom - gap, "limit"))
    for value in axis.ticks:
        parts.append(_text(place(value), bottom + 6, f"{value:.10g}", "tick", "middle"))
    parts.append(_text((left + right) / 2, bottom + 26, f"anomaly score{axis.note}", "axisname", "middle"))
    return _svg(860, bottom + 34, "Histogram of scores, with the ranges of OK, REVIEW and NG", parts)


def _bars(group: Group, axis: Axis, base: float, tallest: float) -> list[Markup]:
    """One histogram that stands on `base`."""
    edges = np.linspace(axis.begin, axis.end, _BINS + 1)
    counts, _ = np.histogram([axis.place(score) for score in group.scores], edges)
    shape = Markup(
        '<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5">'
        "<title>{}: {} from {:.4g} to {:.4g}</title></rect>"
    )
    bars = []
    for (begin, end), count in zip(pairwise(edges), counts, strict=True):
        if count:
            height = tallest * count / counts.max()
            low, high = axis.value(begin), axis.value(end)
            corner = begin + 0.75, base - height
            bars.append(shape.format(group.style, *corner, end - begin - 1.5, height, group.name, count, low, high))
    return bars


def roc_chart(curve: Curve, points: Sequence[Point]) -> Markup:
    """Draw a ROC curve of images, with the points that the verdicts work at."""
    frame = _Frame("false alarms (share of good images)", "detections (share of bad images)", 1.0)
    parts = [*frame.grid(), _line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "chance"), *frame.curve(curve)]
    for point in points:
        x, y = frame.x(point.false_alarms), frame.y(point.detections)
        style = point.name.lower()
        parts.append(Markup('<circle class="point {}" cx="{:.1f}" cy="{:.1f}" r="6"/>').format(style, x, y))
    return _svg(frame.width, frame.height, "ROC curve of images", parts)


def pro_chart(curve: Curve, up_to: float = 0.3) -> Markup:
    """Draw a PRO curve up to the false positive rate that AUPRO counts."""
    frame = _Frame("false positives (share of good pixels)", "mean overlap with defects", up_to)
    fpr, pro = np.asarray(curve[0]), np.asarray(curve[1])
    inside = fpr <= up_to
    end = float(np.interp(up_to, fpr, pro))
    shown = ([*fpr[inside].tolist(), up_to], [*pro[inside].tolist(), end])
    return _svg(frame.width, frame.height, "PRO curve of pixels", [*frame.grid(), *frame.curve(shown)])


class _Frame:
    """A square plot of y in [0, 1] over x from 0 to `x_max`."""

    width, height = 400.0, 372.0
    _left, _right, _top, _bottom = 54.0, 388.0, 10.0, 324.0

    def __init__(self, x_name: str, y_name: str, x_max: float) -> None:
        self._names = x_name, y_name
        self._x_max = x_max

    def x(self, value: float) -> float:
        return self._left + (self._right - self._left) * value / self._x_max

    def y(self, value: float) -> float:
        return self._bottom + (self._top - self._bottom) * value

    def grid(self) -> list[Markup]:
        parts = []
        for step in range(6):
            x, y = step / 5 * self._x_max, step / 5
            parts += [
                _line(self.x(x), self._top, self.x(x), self._bottom, "grid"),
                _line(self._left, self.y(y), self._right, self.y(y), "grid"),
                _text(self.x(x), self._bottom + 18, f"{x:.2g}", "tick", "middle"),
                _text(self._left - 8, self.y(y) + 4, f"{y:.1f}", "tick", "end"),
            ]
        x_name, y_name = self._names
        middle = (self._top + self._bottom) / 2
        upright = Markup('<g transform="translate(16 {:.1f}) rotate(-90)">{}</g>')
        parts.append(_text((self._left + self._right) / 2, self._bottom + 40, x_name, "axisname", "middle"))
        parts.append(upright.format(middle, _text(0, 0, y_name, "axisname", "middle")))
        return parts

    def curve(self, curve: Curve) -> list[Markup]:
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(*curve, strict=True))
        begin, end = f"{self.x(curve[0][0]):.1f}", f"{self.x(curve[0][-1]):.1f}"
        ground = f"{self.y(0):.1f}"
        area = Markup('<polygon class="area" points="{},{} {} {},{}"/>').format(begin, ground, points, end, ground)
        return [area, Markup('<polyline class="curve" points="{}"/>').format(points)]


@dataclass(frozen=True)
class Axis:
    """From values to coordinates between `begin` and `end` and back."""

    begin: float
    end: float
    place: Callable[[float], float]
    value: Callable[[float], float]
    ticks: list[float]
    note: str


def score_axis(low: float, high: float, begin: float, end: float) -> Axis:
    """An axis for values from `low` to `high`, at coordinates from `begin` to `end`."""
    if 0 < low * _LOG_FROM < high:
        low_log, span = math.log(low), math.log(high / low)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1,) if len(powers) > 4 else (1, 2, 5)
        ticks = [step * 10.0**power for power in powers for step in steps]
        return Axis(
            begin,
            end,
            place=lambda value: begin + (end - begin) * (math.log(value) - low_log) / span,
            value=lambda x: math.exp(low_log + span * (x - begin) / (end - begin)),
            ticks=[tick for tick in ticks if low <= tick <= high],
            note=" (logarithmic)",
        )
    span = high - low or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = next(part * power for part in (0.1, 0.2, 0.5, 1.0) if span <= 10 * part * power)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Axis(
        begin,
        end,
        place=lambda value: begin + (end - begin) * (value - low) / span,
        value=lambda x: low + span * (x - begin) / (end - begin),
        ticks=[i * step for i in range(first, last + 1)],
        note="",
    )


def _text(x: float, y: float, content: str, style: str, anchor: str) -> Markup:
    shape = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return shape.format(style, x, y, anchor, content)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    shape = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return shape.format(style, x1, y1, x2, y2)


def _svg(width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    shape = Markup('<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>')
    return shape.format(width, height, label, Markup("").join(parts))
