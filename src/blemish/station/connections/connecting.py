"""Sources and sinks that people add, change and remove while the station runs.

They are kept in the database, and their secrets in files of the station. What the configuration file names is shown
beside them and changed nowhere but there. A change is written first, with its line in the audit log, and holds at once.

Of a sink that is removed, or whose results would go elsewhere, somebody has to say what becomes of those that wait:
kept until there is a sink of that name again, or thrown away. Nothing is decided silently.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, cast

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from blemish.errors import UsageError
from blemish.station.connections.entered import Wanted, options_of, secret_of, sink_of, source_of
from blemish.station.connections.kinds import CameraSource, FolderSource, Sink, Source, shown
from blemish.station.connections.replacing import against_change, with_hidden, with_query
from blemish.station.connections.secret_files import Secrets
from blemish.station.connections.trial import Checks, Found, tried
from blemish.station.errors import Code, Complaint, StationError
from blemish.station.inspections import audit_entry
from blemish.station.outbox import Outbox
from blemish.station.sinks import Senders
from blemish.station.sources import Sources
from blemish.station.store import Store
from blemish.station.tables import ConnectionRow, now

Direction = Literal["source", "sink"]
Waiting = Literal["keep", "discard"]

FOLDER: Final = "secrets"


class Connecting:
    """The sources and sinks of a station that did not come with its configuration file.

    Parameters
    ----------
    checks : what can be told of a connection before it is used.
    writing : held by whoever puts results into the outbox.
    """

    def __init__(
        self,
        store: Store,
        station: str,
        checks: Checks,
        sources: Sources,
        outbox: Outbox,
        senders: Senders,
        writing: Any,
    ) -> None:
        self.store = store
        self.station = station
        self.checks = checks
        self.sources = sources
        self.outbox = outbox
        self.senders = senders
        self.secrets = Secrets(checks.settings.data / FOLDER)
        self._writing = writing
        self._guard = threading.Lock()

    def recover(self) -> None:
        """Take in what was added before the station ended.

        Raises
        ------
        UsageError
            One has the name of one that the configuration file names by now, or cannot be understood.
        StationError
            database_unavailable.
        """
        with self.store.read() as session:
            rows = list(session.scalars(select(ConnectionRow).order_by(ConnectionRow.id)))
        for row in rows:
            if row.station != self.station:
                continue
            what = f"{row.direction} {row.name}"
            direction = cast("Direction", row.direction)
            if self._present(direction, row.name) is not None:
                raise UsageError(
                    f"a {row.direction} of the name {row.name} was also added at the page",
                    where=f"{row.direction}s.{row.name}",
                    todo="Give the one in the configuration file another name, or remove the other at the page first",
                )
            try:
                settings = self._settings(direction, row.name, row.options, self.secrets.path(row.secret))
            except ValidationError as error:
                raise UsageError(f"the {what}, added at the page, cannot be understood", todo=str(error)) from error
            # Whoever runs the station may have named fewer folders since.
            paused = row.paused or self.checks.outside(settings) is not None
            self._put(settings, paused)
        self.secrets.tidy({row.secret for row in rows})

    def add(self, direction: Direction, wanted: Wanted, waiting: Waiting | None, by: str) -> None:
        """Take a new connection into use.

        Parameters
        ----------
        waiting : what becomes of results that wait for a sink of this name from earlier.

        Raises
        ------
        StationError
            name_taken, connection_invalid, results_waiting, storage_failed.
        """
        with self._guard:
            self._refuse_name(direction, wanted.name)
            with self._entered(direction, wanted, None) as (settings, secret):
                row = ConnectionRow(
                    station=self.station,
                    direction=direction,
                    name=wanted.name,
                    options=options_of(wanted),
                    secret=secret,
                    paused=False,
                    added=now(),
                    by=by,
                )

                def write(session: Session) -> None:
                    session.add(row)
                    detail = {"kind": wanted.kind, **shown(settings)}
                    detail |= self._decide(session, settings, None, waiting)
                    session.add(self._entry(by, "add", direction, wanted.name, detail))

                self._written(write, lambda: self._put(settings, paused=False))

    def change(self, direction: Direction, name: str, wanted: Wanted, waiting: Waiting | None, by: str) -> None:
        """Have a connection be another from now on, under the same name.

        Raises
        ------
        StationError
            not_found, from_file, connection_invalid, results_waiting, storage_failed.
        """
        with self._guard:
            row = self._row(direction, name)
            before = self._known(direction, name)
            with self._entered(direction, wanted, row) as (settings, secret):
                left = self._take(direction, name)

                def write(session: Session) -> None:
                    stored = session.get_one(ConnectionRow, row.id)
                    stored.options = with_hidden(options_of(wanted), settings)
                    stored.secret = secret
                    detail: dict[str, Any] = {"before": shown(before), "after": shown(settings)}
                    detail |= self._decide(session, settings, before, waiting)
                    session.add(self._entry(by, "change", direction, name, detail))

                try:
                    self._written(write, lambda: self._put(settings, row.paused, left))
                except BaseException:
                    self._put(before, row.paused, left)
                    raise
            if row.secret is not None and row.secret != secret:
                self.secrets.forget(row.secret)

    def remove(self, direction: Direction, name: str, waiting: Waiting | None, by: str) -> None:
        """Take a connection out of use. Files that a folder has taken and not inspected stay where they are.

        Raises
        ------
        StationError
            not_found, from_file, results_waiting.
        """
        with self._guard:
            row = self._row(direction, name)
            before = self._known(direction, name)
            left = self._take(direction, name)

            def write(session: Session) -> None:
                session.delete(session.get_one(ConnectionRow, row.id))
                detail: dict[str, Any] = {"kind": before.kind, **shown(before)}
                detail |= self._decide(session, None, before, waiting)
                session.add(self._entry(by, "remove", direction, name, detail))

            def out() -> None:
                self.outbox.sinks = {other: sink for other, sink in self.outbox.sinks.items() if other != name}

            try:
                self._written(write, out if direction == "sink" else lambda: None)
            except BaseException:
                self._put(before, row.paused, left)
                raise
            if row.secret is not None:
                self.secrets.forget(row.secret)

    def pause(self, direction: Direction, name: str, paused: bool, by: str) -> None:
        """Have a connection rest, or go on. Files and results wait meanwhile; frames of a camera do not.

        Raises
        ------
        StationError
            not_found, from_file; connection_invalid if it may not go on.
        """
        with self._guard:
            row = self._row(direction, name)
            settings = self._known(direction, name)
            if not paused and (outside := self.checks.outside(settings)) is not None:
                raise _invalid([outside])
            with self.store.write() as session:
                session.get_one(ConnectionRow, row.id).paused = paused
                session.add(self._entry(by, "pause" if paused else "resume", direction, name, {}))
            if direction == "sink":
                self.senders.pause(name, paused)
            else:
                self._put(settings, paused, self._take(direction, name))

    def try_out(self, direction: Direction, wanted: Wanted, *, change: bool) -> Found:
        """Use a connection once, and keep nothing of it.

        Parameters
        ----------
        change : whether it is to take the place of the one of its name, whose secret it keeps if it brings none.

        Raises
        ------
        StationError
            name_taken, connection_invalid, storage_failed; with `change`, not_found and from_file.
        """
        row = self._row(direction, wanted.name) if change else None
        if row is None:
            self._refuse_name(direction, wanted.name)
        with self._entered(direction, wanted, row, trial=True) as (settings, _):
            return tried(settings, self.sources)

    def discard(self, sink: str, by: str) -> int:
        """Throw away what waits for a sink that is not there any more; how much that was.

        Raises
        ------
        StationError
            not_found; wrong_state if it is there.
        """
        with self._guard:
            if sink in self.outbox.sinks:
                raise StationError(Code.WRONG_STATE, f"the sink {sink} is there, and gets what waits for it")
            with self.store.write() as session:
                count = sum(self.outbox.of_sink(session, sink))
                if not count:
                    raise StationError(Code.NOT_FOUND, f"nothing waits for a sink {sink}")
                self.outbox.discard(session, sink)
                session.add(self._entry(by, "discard", "sink", sink, {"results": count}))
        return count

    def left(self) -> dict[str, tuple[int, int]]:
        """What waits for sinks that are not there any more, and what they had refused, by name."""
        found: dict[str, tuple[int, int]] = {}
        for (sink, dead), count in sorted(self.outbox.counts().items()):
            if sink not in self.outbox.sinks:
                waiting, refused = found.get(sink, (0, 0))
                found[sink] = (waiting, refused + count) if dead else (waiting + count, refused)
        return found

    # What is there

    def _present(self, direction: Direction, name: str) -> Source | Sink | None:
        return self.sources.settings_of(name) if direction == "source" else self.senders.settings_of(name)

    def _known(self, direction: Direction, name: str) -> Source | Sink:
        found = self._present(direction, name)
        if found is None:
            raise AssertionError("what has a row is there")
        return found

    def _row(self, direction: Direction, name: str) -> ConnectionRow:
        statement = select(ConnectionRow).where(
            ConnectionRow.station == self.station, ConnectionRow.direction == direction, ConnectionRow.name == name
        )
        with self.store.read() as session:
            row = session.scalar(statement)
        if row is not None:
            return row
        if self._present(direction, name) is None:
            raise StationError(Code.NOT_FOUND, f"there is no {direction} {name}")
        raise StationError(
            Code.FROM_FILE,
            f"the {direction} {name} stands in the configuration file",
            todo="Change it there, and start the station anew",
        )

    def _refuse_name(self, direction: Direction, name: str) -> None:
        if self._present(direction, name) is not None:
            complaint = Complaint("name", "name_taken", f"there is a {direction} {name} already")
            raise StationError(Code.NAME_TAKEN, complaint.message, todo="Choose another name", fields=[complaint])

    # Changing

    def _written(self, write: Callable[[Session], None], then: Callable[[], None]) -> None:
        """Write to the database, and have it hold before any other result is put into the outbox."""
        with self._writing:
            with self.store.write() as session:
                write(session)
            then()
        self.senders.wake()

    def _put(self, settings: Source | Sink, paused: bool, left: Any = None) -> None:
        if isinstance(settings, FolderSource | CameraSource):
            self.sources.put(settings, "page", paused=paused, progress=left)
        else:
            self.outbox.sinks = {**self.outbox.sinks, settings.name: settings}
            self.senders.put(settings, "page", paused=paused, before=left)

    def _take(self, direction: Direction, name: str) -> Any:
        return self.sources.take(name) if direction == "source" else self.senders.take(name)

    def _decide(
        self, session: Session, after: Source | Sink | None, before: Source | Sink | None, waiting: Waiting | None
    ) -> dict[str, Any]:
        """What becomes of the results that wait for a sink, for the audit log; nothing if they go where they would."""
        sink = after or before
        if sink is None or isinstance(sink, FolderSource | CameraSource):
            return {}
        there, refused = self.outbox.of_sink(session, sink.name)
        if after is not None and before is not None and after.address == before.address:
            if isinstance(after, FolderSource | CameraSource) or max(there, refused) <= after.max_waiting:
                return {}
            fewer = f"{max(there, refused)} results wait, and the oldest would be lost"
            values = {"count": str(max(there, refused))}
            raise _invalid([Complaint("max_waiting", "fewer_than_wait", fewer, values)])
        if not there + refused:
            return {}
        if waiting is None:
            raise StationError(
                Code.RESULTS_WAITING,
                f"{there} results wait for the sink {sink.name}, and it has refused {refused}",
                todo="Say waiting=keep, so that a sink of this name gets them, or waiting=discard",
                fields=[
                    Complaint(
                        "waiting", "results_waiting", "keep or discard", {"waiting": str(there), "dead": str(refused)}
                    )
                ],
            )
        if waiting == "discard":
            self.outbox.discard(session, sink.name)
        return {"waiting": waiting, "results": there, "refused": refused}

    @contextmanager
    def _entered(
        self, direction: Direction, wanted: Wanted, row: ConnectionRow | None, *, trial: bool = False
    ) -> Iterator[tuple[Source | Sink, str | None]]:
        """The settings that were entered, checked, and the file of their secret; a new one goes if the block fails."""
        before = None if row is None else self._known(direction, wanted.name if trial else row.name)
        complaints = against_change(wanted, before)
        if complaints:
            raise _invalid(complaints)
        secret = secret_of(wanted)
        kept = None
        if secret is None and row is not None and (wanted.kind == "webhook" or getattr(wanted, "user", None)):
            kept = row.secret
        if secret is None and kept is None and wanted.kind == "webhook":
            raise _invalid([Complaint("secret", "missing", "a webhook needs a secret")])
        made = None if secret is None else self.secrets.keep(secret)
        fine = False
        try:
            settings = self._settings(direction, wanted.name, options_of(wanted), self.secrets.path(made or kept))
            settings = with_query(settings, before)
            complaints = self.checks.complaints(settings, self.sources, self.outbox)
            if complaints:
                raise _invalid(complaints)
            yield settings, made or kept
            fine = not trial
        finally:
            if made is not None and not fine:
                self.secrets.forget(made)

    def _settings(self, direction: Direction, name: str, options: dict[str, Any], secret: Path | None) -> Source | Sink:
        return source_of(name, options, secret) if direction == "source" else sink_of(name, options, secret)

    def _entry(self, by: str, action: str, direction: Direction, name: str, detail: dict[str, Any]) -> Any:
        return audit_entry(self.station, by, f"{action} {direction}", f"{direction} {name}", detail)


def _invalid(complaints: list[Complaint]) -> StationError:
    first = complaints[0]
    return StationError(Code.CONNECTION_INVALID, first.message, where=first.field, fields=complaints)
