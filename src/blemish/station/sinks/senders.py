"""A thread for each sink that hands over what waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from blemish.errors import UsageError
from blemish.station.connections.kinds import MqttSink, Origin, Sink, WebhookSink, shown
from blemish.station.errors import StationError
from blemish.station.outbox import Outbox
from blemish.station.sinks.csv_file import CsvFile
from blemish.station.sinks.delivery import Delivery, RefusedError, UnreachableError
from blemish.station.sinks.mqtt import Mqtt
from blemish.station.sinks.webhook import Webhook
from blemish.station.tables import OutboxEntry, now

log = logging.getLogger(__name__)

BATCH = 20
"""Entries that are delivered before it is written down: at most so many come twice after the end of the process."""
ATTEMPTS = 5
"""After so many refusals an entry becomes a dead letter, so that the others need not wait for it for ever."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between two attempts; each wait is twice the one before."""
LOOK_SECONDS = 5.0
"""Between two looks at the outbox, if nobody says that something came."""
TRIM_SECONDS = 60.0
LONGEST_END = 15.0
"""Seconds that a sink which is taken away has to take what is on its way to it."""


@dataclass(frozen=True)
class SinkState:
    """A sink as it stands. problem : why it does not take what waits; None if it does.

    options : what was said of it, without its secrets.
    delivered, dropped : since the start of the station; dropped are those beyond `max_waiting`.
    """

    name: str
    kind: str
    address: str
    origin: Origin
    paused: bool
    options: dict[str, Any]
    waiting: int
    dead: int
    delivered: int
    dropped: int
    last: datetime | None
    problem: str | None


class Sender:
    """The thread of one sink. paused : nothing is delivered, and everything waits."""

    def __init__(self, settings: Sink, outbox: Outbox, origin: Origin, *, paused: bool) -> None:
        self.settings = settings
        self.outbox = outbox
        self.origin = origin
        self.paused = paused
        self.delivered = self.dropped = 0
        self.last: datetime | None = None
        self.problem: str | None = None
        self._way: Delivery | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {settings.name}", daemon=True)

    def prepare(self) -> None:
        """Read what is needed to deliver.

        Raises
        ------
        UsageError
            A secret cannot be read.
        """
        self._way = delivery(self.settings)
        self.problem = None

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Something came."""
        self._wake.set()

    def stop(self) -> None:
        """Deliver nothing more; what waits, waits for the next start."""
        self._stop.set()
        self._wake.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        wait = FIRST_WAIT
        trimmed = -TRIM_SECONDS
        while not self._stop.is_set():
            try:
                if time.monotonic() - trimmed >= TRIM_SECONDS:
                    self._trim()
                    trimmed = time.monotonic()
                self._wake.clear()
                found = [] if self.paused else self.outbox.oldest(self.settings.name, BATCH)
                fine = self._deliver(found)
            except StationError as error:  # The database is away; what waits is in it.
                log.warning("Sink %s: %s", self.settings.name, error)
                found, fine = [], False
            except UsageError as error:  # A secret has gone since it was taken.
                self._trouble(str(error))
                fine = False
            except Exception as error:  # A thread that ends would leave everything waiting for months.
                log.exception("Sink %s failed", self.settings.name)
                self.problem = f"it failed: {error}"
                fine = False
            if not fine:
                self._stop.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            if len(found) < BATCH:
                self._wake.wait(LOOK_SECONDS)
        if self._way is not None:
            self._way.close()

    def _deliver(self, entries: Sequence[OutboxEntry]) -> bool:
        """Hand entries over in order, up to the first that is not taken; whether all were, or are dead letters now."""
        taken: list[OutboxEntry] = []
        if self._way is None:
            self.prepare()
        way = cast("Delivery", self._way)
        try:
            for entry in entries:
                if self._stop.is_set() or self.paused:
                    return True
                try:
                    way.deliver(entry)
                except UnreachableError as error:
                    self._trouble(str(error))
                    return False
                except RefusedError as error:
                    self._trouble(str(error))
                    dead = entry.attempts + 1 >= ATTEMPTS
                    self.outbox.failed(entry, str(error), dead=dead)
                    if not dead:
                        return False
                    log.error("Sink %s has refused %s for good: %s", self.settings.name, entry.event, error)
                    continue
                taken.append(entry)
                self.problem = None
            return True
        finally:
            if taken:
                self.outbox.delivered(taken)
                self.delivered += len(taken)
                self.last = now()

    def _trouble(self, problem: str) -> None:
        if self.problem is None:
            log.warning("Sink %s takes nothing: %s", self.settings.name, problem)
        self.problem = problem

    def _trim(self) -> None:
        gone = self.outbox.trim(self.settings.name)
        if gone:
            self.dropped += gone
            log.error("Sink %s is too far behind: %d results are not sent to it", self.settings.name, gone)


class Senders:
    """All sinks of a station; they come and go while it runs. What is to get results, the outbox knows.

    Parameters
    ----------
    sinks : those that the configuration file names.

    Raises
    ------
    UsageError
        A secret of one of them cannot be read.
    """

    def __init__(self, sinks: Sequence[Sink], outbox: Outbox) -> None:
        self.outbox = outbox
        self._guard = threading.Lock()
        self._running = False
        self._senders: dict[str, Sender] = {}
        for sink in sinks:
            self.put(sink, "file")
            self._senders[sink.name].prepare()

    def put(self, settings: Sink, origin: Origin, *, paused: bool = False, before: Sender | None = None) -> None:
        """Take a sink in, under a name that no other has; it is delivered to if the others are.

        Parameters
        ----------
        before : the one that it takes the place of.
        """
        sender = Sender(settings, self.outbox, origin, paused=paused)
        if before is not None:
            sender.delivered, sender.dropped, sender.last = before.delivered, before.dropped, before.last
        with self._guard:
            self._senders = {**self._senders, settings.name: sender}
            if self._running:
                sender.start()

    def take(self, name: str) -> Sender:
        """Let a sink go, once what is under way has been delivered, or has not; what it was."""
        with self._guard:
            sender = self._senders[name]
            self._senders = {other: one for other, one in self._senders.items() if other != name}
        sender.stop()
        sender.join(LONGEST_END)
        return sender

    def pause(self, name: str, paused: bool) -> None:
        """Have everything wait for a sink from now on, or not any more."""
        sender = self._senders[name]
        sender.paused = paused
        sender.problem = None
        sender.wake()

    def settings_of(self, name: str) -> Sink | None:
        """What was said of a sink; None if there is none of this name."""
        sender = self._senders.get(name)
        return None if sender is None else sender.settings

    def start(self) -> None:
        """Begin to deliver."""
        with self._guard:
            self._running = True
            for sender in self._senders.values():
                sender.start()

    def wake(self) -> None:
        """Something came."""
        for sender in self._senders.values():
            sender.wake()

    def stop(self, seconds: float) -> None:
        """Deliver nothing more, and wait for what is under way."""
        with self._guard:
            self._running = False
        for sender in self._senders.values():
            sender.stop()
        for sender in self._senders.values():
            sender.join(seconds)

    def states(self) -> list[SinkState]:
        """All sinks: those of the configuration file in its order, then the others.

        Raises
        ------
        StationError
            database_unavailable.
        """
        senders = self._senders
        counts = self.outbox.counts() if senders else {}
        return [
            SinkState(
                name=name,
                kind=sender.settings.kind,
                address=sender.settings.address,
                origin=sender.origin,
                paused=sender.paused,
                options=shown(sender.settings),
                waiting=counts.get((name, False), 0),
                dead=counts.get((name, True), 0),
                delivered=sender.delivered,
                dropped=sender.dropped,
                last=sender.last,
                problem=sender.problem,
            )
            for name, sender in senders.items()
        ]


def delivery(sink: Sink) -> Delivery:
    """The way to a sink.

    Raises
    ------
    UsageError
        A secret cannot be read.
    """
    if isinstance(sink, WebhookSink):
        return Webhook(sink)
    return Mqtt(sink) if isinstance(sink, MqttSink) else CsvFile(sink)
