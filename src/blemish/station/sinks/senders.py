"""A thread for each sink that hands over what waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from blemish.station.connections import MqttSink, Sink, WebhookSink
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


@dataclass(frozen=True)
class SinkState:
    """A sink as it stands. problem : why it does not take what waits; None if it does.

    delivered, dropped : since the start of the station; dropped are those beyond `max_waiting`.
    """

    name: str
    kind: str
    address: str
    waiting: int
    dead: int
    delivered: int
    dropped: int
    last: datetime | None
    problem: str | None


class Sender:
    """The thread of one sink."""

    def __init__(self, settings: Sink, outbox: Outbox) -> None:
        self.settings = settings
        self.outbox = outbox
        self.delivered = self.dropped = 0
        self.last: datetime | None = None
        self.problem: str | None = None
        self._way = _delivery(settings)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {settings.name}", daemon=True)

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
                found = self.outbox.oldest(self.settings.name, BATCH)
                fine = self._deliver(found)
            except StationError as error:  # The database is away; what waits is in it.
                log.warning("Sink %s: %s", self.settings.name, error)
                found, fine = [], False
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
        self._way.close()

    def _deliver(self, entries: Sequence[OutboxEntry]) -> bool:
        """Hand entries over in order, up to the first that is not taken; whether all were, or are dead letters now."""
        taken: list[OutboxEntry] = []
        try:
            for entry in entries:
                if self._stop.is_set():
                    return True
                try:
                    self._way.deliver(entry)
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
    """All sinks of a station.

    Raises
    ------
    UsageError
        A secret cannot be read.
    """

    def __init__(self, sinks: Sequence[Sink], outbox: Outbox) -> None:
        self.outbox = outbox
        self._senders = [Sender(sink, outbox) for sink in sinks]

    def start(self) -> None:
        """Begin to deliver."""
        for sender in self._senders:
            sender.start()

    def wake(self) -> None:
        """Something came."""
        for sender in self._senders:
            sender.wake()

    def stop(self, seconds: float) -> None:
        """Deliver nothing more, and wait for what is under way."""
        for sender in self._senders:
            sender.stop()
        for sender in self._senders:
            sender.join(seconds)

    def states(self) -> list[SinkState]:
        """All sinks, in the order of the configuration.

        Raises
        ------
        StationError
            database_unavailable.
        """
        counts = self.outbox.counts() if self._senders else {}
        return [
            SinkState(
                name=sender.settings.name,
                kind=sender.settings.kind,
                address=sender.settings.address,
                waiting=counts.get((sender.settings.name, False), 0),
                dead=counts.get((sender.settings.name, True), 0),
                delivered=sender.delivered,
                dropped=sender.dropped,
                last=sender.last,
                problem=sender.problem,
            )
            for sender in self._senders
        ]


def _delivery(sink: Sink) -> Delivery:
    if isinstance(sink, WebhookSink):
        return Webhook(sink)
    return Mqtt(sink) if isinstance(sink, MqttSink) else CsvFile(sink)
