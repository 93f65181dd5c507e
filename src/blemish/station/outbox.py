"""Results on their way to sinks.

What a sink is to get is written in the transaction of the inspection that it tells of, so that neither a sink that is
down nor the end of the process loses it. A sink gets its results one after the other in the order in which they were
written, each at least once: who gets one twice can tell by its `id`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from blemish.station.connections.kinds import CsvSink, Sink
from blemish.station.errors import Code, StationError
from blemish.station.inspections import audit_entry
from blemish.station.store import Store
from blemish.station.tables import Inspection, OutboxEntry, now

EventType = Literal["inspection", "drift"]


@dataclass(frozen=True)
class Event:
    """What sinks are told. verdict : None where it is of no inspection."""

    type: EventType
    content: dict[str, Any]
    verdict: str | None = None

    @classmethod
    def of(cls, inspection: Inspection) -> Event:
        """An inspection that has its id."""
        content = {column.key: _plain(getattr(inspection, column.key)) for column in Inspection.__table__.columns}
        del content["pictures_removed"]
        return cls("inspection", content, inspection.verdict)

    def wanted_by(self, sink: Sink) -> bool:
        """Whether a sink is to get it."""
        return not isinstance(sink, CsvSink) if self.verdict is None else self.verdict in sink.verdicts


class Outbox:
    """What waits for the sinks of one station.

    Parameters
    ----------
    sinks : that get results; what waits for others stays where it is.

    Attributes
    ----------
    sinks : the same by name. Whoever puts another table here does so while nothing is put into the outbox.
    """

    def __init__(self, store: Store, station: str, sinks: Sequence[Sink]) -> None:
        self.store = store
        self.station = station
        self.sinks = {sink.name: sink for sink in sinks}

    def put(self, session: Session, events: Iterable[Event]) -> None:
        """Have events delivered once the transaction is committed."""
        moment = now()
        for event in events:
            key = str(uuid.uuid4())
            body = {
                "id": key,
                "type": event.type,
                "time": moment.isoformat(),
                "station": self.station,
                event.type: event.content,
            }
            session.add_all(
                OutboxEntry(
                    time=moment,
                    station=self.station,
                    sink=sink.name,
                    event=key,
                    body=body,
                    attempts=0,
                    dead=False,
                    problem=None,
                )
                for sink in self.sinks.values()
                if event.wanted_by(sink)
            )

    def oldest(self, sink: str, limit: int) -> list[OutboxEntry]:
        """The next entries that a sink is to get, in order."""
        with self.store.read() as session:
            return list(session.scalars(self._of(sink, dead=False).order_by(OutboxEntry.id).limit(limit)))

    def delivered(self, entries: Sequence[OutboxEntry]) -> None:
        """Forget entries that a sink has taken."""
        with self.store.write() as session:
            session.execute(delete(OutboxEntry).where(OutboxEntry.id.in_([entry.id for entry in entries])))

    def failed(self, entry: OutboxEntry, problem: str, *, dead: bool) -> None:
        """Count an attempt that the sink has refused; a dead entry is not tried again by itself."""
        change = update(OutboxEntry).where(OutboxEntry.id == entry.id)
        with self.store.write() as session:
            session.execute(change.values(attempts=entry.attempts + 1, problem=problem[:2000], dead=dead))

    def trim(self, sink: str) -> int:
        """Let the oldest waiting entries and dead letters of a sink go where there are too many; how many went."""
        gone = 0
        for dead in (False, True):
            kept = self._of(sink, dead=dead).with_only_columns(OutboxEntry.id).order_by(OutboxEntry.id.desc())
            with self.store.read() as session:
                newest_too_many = session.scalar(kept.offset(self.sinks[sink].max_waiting).limit(1))
            if newest_too_many is None:
                continue
            of_sink = (OutboxEntry.station == self.station, OutboxEntry.sink == sink, OutboxEntry.dead == dead)
            with self.store.write() as session:
                done = session.execute(delete(OutboxEntry).where(*of_sink, OutboxEntry.id <= newest_too_many))
                gone += int(done.rowcount)  # type: ignore[attr-defined]
        return gone

    def counts(self) -> dict[tuple[str, bool], int]:
        """How many entries there are by sink and whether they are dead."""
        statement = (
            select(OutboxEntry.sink, OutboxEntry.dead, func.count())
            .where(OutboxEntry.station == self.station)
            .group_by(OutboxEntry.sink, OutboxEntry.dead)
        )
        with self.store.read() as session:
            return {(sink, dead): n for sink, dead, n in session.execute(statement)}

    def of_sink(self, session: Session, sink: str) -> tuple[int, int]:
        """How much waits for a sink, and how much it has refused for good."""
        statement = (
            select(OutboxEntry.dead, func.count())
            .where(OutboxEntry.station == self.station, OutboxEntry.sink == sink)
            .group_by(OutboxEntry.dead)
        )
        found: dict[bool, int] = dict(tuple(row) for row in session.execute(statement))  # type: ignore[misc]
        return found.get(False, 0), found.get(True, 0)

    def discard(self, session: Session, sink: str) -> None:
        """Throw away what waits for a sink, and what it has refused."""
        of_sink = (OutboxEntry.station == self.station, OutboxEntry.sink == sink)
        session.execute(delete(OutboxEntry).where(*of_sink))

    def dead_letters(self, sink: str, before: int | None, limit: int) -> list[OutboxEntry]:
        """What a sink has refused for good, newest first.

        Raises
        ------
        StationError
            not_found.
        """
        self._known(sink)
        statement = self._of(sink, dead=True).order_by(OutboxEntry.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(OutboxEntry.id < before)
        with self.store.read() as session:
            return list(session.scalars(statement))

    def send_again(self, sink: str, numbers: Sequence[int] | None, by: str) -> int:
        """Have dead letters tried again, all of a sink or those named; how many there were.

        Raises
        ------
        StationError
            not_found.
        """
        self._known(sink)
        change = update(OutboxEntry).where(
            OutboxEntry.station == self.station, OutboxEntry.sink == sink, OutboxEntry.dead
        )
        if numbers is not None:
            change = change.where(OutboxEntry.id.in_(numbers))
        with self.store.write() as session:
            done = session.execute(change.values(dead=False, attempts=0))
            count = int(done.rowcount)  # type: ignore[attr-defined]
            session.add(audit_entry(self.station, by, "send again", f"sink {sink}", {"letters": count}))
        return count

    def _of(self, sink: str, *, dead: bool) -> Any:
        return select(OutboxEntry).where(
            OutboxEntry.station == self.station, OutboxEntry.sink == sink, OutboxEntry.dead == dead
        )

    def _known(self, sink: str) -> None:
        if sink not in self.sinks:
            raise StationError(Code.NOT_FOUND, f"there is no sink {sink}")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
