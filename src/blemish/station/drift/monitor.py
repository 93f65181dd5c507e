"""Drift in the database: every inspection is taken into account in the transaction that writes it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from random import SystemRandom
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from blemish.decisions import Calibration
from blemish.runtime import Inspection as Found
from blemish.station.drift.pictures import STATISTICS, statistics
from blemish.station.drift.watch import Watch, Watched
from blemish.station.inspections import audit_entry
from blemish.station.models import Models
from blemish.station.outbox import Event
from blemish.station.settings import Drift
from blemish.station.store import Store
from blemish.station.tables import DriftDay, DriftState, Inspection, now

P_BINS = 10


@dataclass(frozen=True)
class Seen:
    """What counts of an image that was judged."""

    score: float
    p_value: float
    statistics: dict[str, float]

    @classmethod
    def of(cls, found: Found) -> Seen | None:
        """Measure an image; None if it was rejected."""
        if found.score is None or found.p_value is None or found.image is None:
            return None
        return cls(found.score, found.p_value, statistics(found.image))


@dataclass(frozen=True)
class DriftShown:
    """How a version stands at this station. value : of the test, 1 at first; at `limit` it is an alarm.

    reference : how many images of the reference of brightness, sharpness and colour have been gathered.
    values : the capitals, the largest of which is the value. calibration : its scores. days : oldest first.
    """

    model: str
    version: int
    since: datetime | None
    images: int
    value: float
    limit: float
    alarm: datetime | None
    cause: str | None
    values: dict[str, float]
    reference: dict[str, list[float]]
    calibration: Calibration
    days: list[DriftDay]


class Monitor:
    """Watches all versions at one station.

    Attributes
    ----------
    writing : to be held from before `observe` until its transaction is committed.
    """

    def __init__(self, store: Store, station: str, rules: Drift, models: Models) -> None:
        self.store = store
        self.station = station
        self.rules = rules
        self.models = models
        self.writing = threading.Lock()
        self._random = SystemRandom()
        self._calibrations: dict[str, Calibration] = {}

    def observe(self, session: Session, rows: Sequence[Inspection], seen: Sequence[Seen | None]) -> list[Event]:
        """Take inspections into account; what alarms there are because of them."""
        alarms = []
        for row, one in zip(rows, seen, strict=True):
            if one is None:
                continue
            state, watch = self._opened(session, row.model, row.version)
            session.add(state)
            if state.alarm is None:
                watch.see(one.score, one.statistics)
                self._keep(state, watch)
                if watch.alarming:
                    state.alarm, state.cause = row.time, watch.cause
                    alarms.append(self._event(state, watch))
            self._add_to_day(session, row, one, watch.value)
        return alarms

    def shown(self, model: str, version: int | None) -> DriftShown:
        """How a version stands; None is the active one.

        Raises
        ------
        StationError
            no_such_model, no_such_version, model_not_ready.
        """
        number = self.models.version(model, version).version
        with self.store.read() as session:
            state, watch = self._opened(session, model, number)
            days = list(session.scalars(_days(self.station, model, number).order_by(DriftDay.day)))
        return DriftShown(
            model=model,
            version=number,
            since=state.since,
            images=watch.watched.images,
            value=watch.value,
            limit=watch.limit,
            alarm=state.alarm,
            cause=state.cause,
            values=watch.values(),
            reference=watch.reference,
            calibration=watch.calibration,
            days=days,
        )

    def states(self) -> list[tuple[DriftState, Watch]]:
        """All versions that have been seen at this station and are still known here."""
        with self.store.read() as session:
            rows = session.scalars(select(DriftState).where(DriftState.station == self.station)).all()
        known = {(state.name, row.version) for state in self.models.states() for row in state.versions}
        return [(row, self._watch(row)) for row in rows if (row.model, row.version) in known]

    def reset(self, model: str, version: int | None, by: str) -> None:
        """Begin the test anew, with the next images as the reference; the days stay.

        Raises
        ------
        StationError
            no_such_model, no_such_version, model_not_ready.
        """
        number = self.models.version(model, version).version
        with self.writing, self.store.write() as session:
            state = session.scalar(_state(self.station, model, number))
            if state is not None:
                session.delete(state)
            alarm = None if state is None or state.alarm is None else state.alarm.isoformat()
            detail = {"version": number, "alarm": alarm, "cause": None if state is None else state.cause}
            session.add(audit_entry(self.station, by, "reset drift", f"model {model}", detail))

    def _opened(self, session: Session, model: str, version: int) -> tuple[DriftState, Watch]:
        state = session.scalar(_state(self.station, model, version))
        if state is None:
            state = DriftState(
                station=self.station, model=model, version=version, since=now(), reference={}, state={}, alarm=None
            )
        return state, self._watch(state)

    def _watch(self, state: DriftState) -> Watch:
        version = self.models.version(state.model, state.version)
        calibration = self._calibrations.get(version.sha256)
        if calibration is None:
            calibration = Calibration.model_validate(version.manifest["calibration"])
            self._calibrations[version.sha256] = calibration
        reference = {name: list(values) for name, values in state.reference.items()}
        return Watch(calibration, self.rules, reference, Watched.model_validate(state.state), self._random)

    def _keep(self, state: DriftState, watch: Watch) -> None:
        state.state = watch.watched.model_dump()
        if watch.gathered:
            state.reference = watch.reference

    def _event(self, state: DriftState, watch: Watch) -> Event:
        content = {
            "model": state.model,
            "version": state.version,
            "since": state.since.isoformat(),
            "alarm": None if state.alarm is None else state.alarm.isoformat(),
            "cause": state.cause,
            "value": watch.value,
            "limit": watch.limit,
            "false_alarm_rate": self.rules.false_alarm_rate,
            "images": watch.watched.images,
        }
        return Event("drift", content)

    def _add_to_day(self, session: Session, row: Inspection, seen: Seen, value: float) -> None:
        name = row.time.date().isoformat()
        day = session.scalar(_days(self.station, row.model, row.version).where(DriftDay.day == name))
        if day is None:
            day = DriftDay(
                station=self.station, model=row.model, version=row.version, day=name, summary={}, value=value
            )
            session.add(day)
        values = {"score": seen.score, **seen.statistics}
        day.summary = _added(day.summary, row.verdict == "NG", seen.p_value, values)
        day.value = value


def mean_and_deviation(summary: dict[str, Any], name: str) -> tuple[float, float]:
    """Mean and standard deviation of what was measured on a day."""
    total, squares = summary[name]
    mean = total / summary["images"]
    return mean, max(0.0, squares / summary["images"] - mean * mean) ** 0.5


def _added(summary: dict[str, Any], ng: bool, p_value: float, values: dict[str, float]) -> dict[str, Any]:
    """The summary of a day with one more image: how many, how many NG, p-values in tenths, sums and sums of squares."""
    bins = list(summary.get("p_values", [0] * P_BINS))
    bins[min(P_BINS - 1, int(p_value * P_BINS))] += 1
    sums = {name: summary.get(name, [0.0, 0.0]) for name in ("score", *STATISTICS)}
    return {
        "images": summary.get("images", 0) + 1,
        "ng": summary.get("ng", 0) + ng,
        "p_values": bins,
        **{name: [total + values[name], squares + values[name] ** 2] for name, (total, squares) in sums.items()},
    }


def _state(station: str, model: str, version: int) -> Any:
    return select(DriftState).where(
        DriftState.station == station, DriftState.model == model, DriftState.version == version
    )


def _days(station: str, model: str, version: int) -> Any:
    return select(DriftDay).where(DriftDay.station == station, DriftDay.model == model, DriftDay.version == version)
