"""Where the points and bands of a chart over days are; `drift.html.jinja` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blemish.evaluation.charts import score_axis

WIDTH, HEIGHT = 560.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, WIDTH - 10, 10.0, HEIGHT - 22


@dataclass(frozen=True)
class DayPoint:
    """A day. low, high : ends of its spread. value, deviation : what is shown when it is pointed at."""

    x: float
    y: float
    low: float
    high: float
    day: str
    value: float
    deviation: float


@dataclass(frozen=True)
class DayChart:
    """Points over days.

    band : top and height of what is usual. limit : height of a line. alarm : place of the day of an alarm.
    ticks : height and label. first, last : the days at the ends.
    """

    points: tuple[DayPoint, ...]
    band: tuple[float, float] | None
    limit: float | None
    alarm: float | None
    ticks: tuple[tuple[float, str], ...]
    first: str
    last: str

    @property
    def line(self) -> str:
        """The points of a polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


def day_chart(
    days: Sequence[str],
    values: Sequence[tuple[float, float]],
    *,
    band: tuple[float, float] | None = None,
    limit: float | None = None,
    alarm: str | None = None,
    floor: float | None = None,
) -> DayChart:
    """Lay out a chart.

    Parameters
    ----------
    values : mean and deviation of each day. floor : a value that the axis is to reach down to.
    """
    ends = [end for mean, deviation in values for end in (mean - deviation, mean + deviation)]
    ends += [*(band or ()), *([] if limit is None else [limit]), *([] if floor is None else [floor, floor + 1])]
    axis = score_axis(min(ends), max(ends), _BOTTOM - 4, _TOP + 4)
    step = (_RIGHT - _LEFT) / max(1, len(days) - 1)

    def at(index: int) -> float:
        return _LEFT + index * step if len(days) > 1 else (_LEFT + _RIGHT) / 2

    points = tuple(
        DayPoint(
            at(i), axis.place(mean), axis.place(mean - deviation), axis.place(mean + deviation), day, mean, deviation
        )
        for i, (day, (mean, deviation)) in enumerate(zip(days, values, strict=True))
    )
    shown_band = None
    if band is not None:
        top, bottom = axis.place(band[1]), axis.place(band[0])
        shown_band = (top, bottom - top)
    ticks = axis.ticks if len(axis.ticks) < 6 else axis.ticks[:: -(-len(axis.ticks) // 5)]
    return DayChart(
        points=points,
        band=shown_band,
        limit=None if limit is None else axis.place(limit),
        alarm=at(list(days).index(alarm)) if alarm is not None and alarm in days else None,
        ticks=tuple((axis.place(value), f"{value:.10g}") for value in ticks),
        first=days[0],
        last=days[-1],
    )
