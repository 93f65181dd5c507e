"""A station put together, without the network: what the API, and later pages and sources, work with."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from blemish.errors import UsageError
from blemish.station.archive import Archive, Kind
from blemish.station.archive_state import Looking
from blemish.station.comparison import Comparing
from blemish.station.connections.connecting import Connecting
from blemish.station.connections.trial import Checks
from blemish.station.drift import Monitor, Seen
from blemish.station.errors import Code, StationError
from blemish.station.inspections import Hours, Inspections, RequestKey
from blemish.station.maps import encode_map
from blemish.station.measuring import Metrics
from blemish.station.models import Models
from blemish.station.outbox import Event, Outbox
from blemish.station.people import People
from blemish.station.recalibration import Recalibrating
from blemish.station.rescoring import Rescoring
from blemish.station.retention import Swept, sweep
from blemish.station.settings import DEFAULT_NAME, Settings
from blemish.station.sinks import Senders
from blemish.station.sources import Sources
from blemish.station.store import Store
from blemish.station.tables import Inspection, now
from blemish.station.trainings import Trainings
from blemish.station.worker import Judged

log = logging.getLogger(__name__)

KEY_DAYS = 7
"""For so long, a request that is sent again with its key gets the answer that was stored."""


@dataclass(frozen=True)
class Sent:
    """An image as it came: the bytes of a file, and the name it had where it comes from."""

    content: bytes
    file: str | None = None


class Station:
    """Everything of a station but its network side.

    Raises
    ------
    UsageError
        The settings cannot be: folders, database, or an open address without accounts.
    StationError
        database_unavailable.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.models.is_dir():
            raise UsageError(
                "there is no such folder", where=settings.models, todo="Name the folder that holds the model files"
            )
        self.settings = settings
        with ExitStack() as undo:
            self.archive = Archive(settings.data, settings.pictures)
            undo.callback(self.archive.close)
            self.store = Store(settings.database_url)
            undo.callback(self.store.close)
            if self.store.shared and settings.name == DEFAULT_NAME:
                raise UsageError(
                    "several stations may share this database, so each needs a name of its own",
                    where="--db",
                    todo="Give this one a --name",
                )
            self.store.migrate()
            self.people = People(self.store, settings.name, open_without_accounts=settings.loopback)
            if not settings.loopback and not self.people.has_admin():
                raise UsageError(
                    "the station would be open to everyone who can reach it, for nobody has to sign in",
                    where=f"--host {settings.host}",
                    todo="Add an admin first: blemish station-user add NAME --role admin",
                )
            self.inspections = Inspections(self.store, settings.name, settings.audit_share)
            self.hours = Hours(self.inspections)
            self.models = Models(settings, self.store, self.archive)
            self.monitor = Monitor(self.store, settings.name, settings.drift, self.models)
            self.outbox = Outbox(self.store, settings.name, settings.sinks)
            self.senders = Senders(settings.sinks, self.outbox)
            self.sources = Sources(
                settings.sources, self.inspect_one, self.store, settings.name, settings.max_body_bytes
            )
            self.connecting = Connecting(
                self.store,
                settings.name,
                Checks(settings, self.models),
                self.sources,
                self.outbox,
                self.senders,
                self.monitor.writing,
            )
            self.connecting.recover()
            self.metrics = Metrics(settings, self.models, self.monitor, self.sources, self.senders)
            self.trainings = Trainings(settings, self.store, self.archive, self.models, self.inspections)
            self.trainings.recover()
            self.rescoring = Rescoring(self.archive, self.models)
            self.recalibrating = Recalibrating(self.archive, self.models, self.inspections, self.rescoring)
            self.comparing = Comparing(self.models, self.inspections, self.rescoring)
            self.models.start()
            self._close = undo.pop_all()
        self.looking = Looking(self.archive)
        self.swept: Swept | None = None
        self.started = now()
        self.draining = False
        self._end = math.inf
        self._stop = threading.Event()
        self._open = 0
        self._threads = [
            threading.Thread(target=self._repeat, args=(seconds, what), name=what.__qualname__, daemon=True)
            for seconds, what in ((settings.scan_seconds, self.models.scan), (settings.sweep_seconds, self.sweep))
        ]

    def start(self) -> None:
        """Begin to look after models and pictures, to train, to serve sinks and to watch sources."""
        self.trainings.start()
        for thread in self._threads:
            thread.start()
        self.senders.start()
        self.sources.start()

    def drain(self) -> None:
        """Take no more images; what is being judged goes on, for `drain_seconds` from the first call on."""
        if not self.draining:
            self._end = time.monotonic() + self.settings.drain_seconds
        self.draining = True
        self.metrics.draining.set(1)
        self.sources.stop()

    @property
    def seconds_left(self) -> float:
        """How long what is open may still go on; infinite until `drain`."""
        return max(0.0, self._end - time.monotonic())

    @property
    def idle(self) -> bool:
        """Whether no request to inspect is open, and no source has an image inspected."""
        return self._open == 0 and self.models.idle and self.sources.idle

    def close(self) -> None:
        """Stop everything; what waits is judged first, as long as there is time."""
        self.drain()
        self._stop.set()
        self.trainings.stop()
        self.rescoring.stop()
        self.models.stop(self.seconds_left)
        self.sources.join(1)
        self.senders.stop(1)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(1)
        self._close.close()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """The time in which a request to inspect is open: from before its body is read until it is answered.

        Raises
        ------
        StationError
            draining, queue_full.
        """
        if self.draining:
            raise StationError(
                Code.DRAINING, "the station is shutting down", todo="Send it to another, or again", retry_after=5
            )
        if self._open >= self.settings.queue:
            raise StationError(
                Code.QUEUE_FULL,
                f"{self._open} requests to inspect are open, of at most {self.settings.queue}",
                todo="Send it again after the seconds that Retry-After names",
                retry_after=1,
            )
        # Only the event loop comes here, so that no lock is needed.
        self._open += 1
        self.metrics.open.set(self._open)
        try:
            yield
        finally:
            self._open -= 1
            self.metrics.open.set(self._open)

    async def inspect(
        self,
        images: Sequence[Sent],
        model: str | None,
        version: int | None,
        source: str | None,
        key: RequestKey | None = None,
    ) -> list[Inspection]:
        """Have images judged, and store what came of it; it is on the disk when this returns.

        Parameters
        ----------
        key : by which the same request is known again; then what was stored is the answer, and nothing is judged.

        Raises
        ------
        StationError
            See `Models.submit`, and `record`; key_reused.
        """
        if key is not None and (stored := await asyncio.to_thread(self.inspections.answered, key)) is not None:
            return stored
        name = self.models.only() if model is None else model
        contents = [image.content for image in images]
        answers = await asyncio.to_thread(self.models.submit, name, version, contents)
        judged = await asyncio.gather(*map(asyncio.wrap_future, answers))
        return await asyncio.to_thread(self.record, images, judged, source, key)

    def inspect_one(
        self,
        content: bytes,
        file: str | None,
        model: str | None,
        source: str,
        also: Callable[[Session], None] | None = None,
    ) -> Inspection:
        """As `inspect`, for the thread of a source, which may wait. also : writes in the same transaction."""
        if self.draining:
            raise StationError(Code.DRAINING, "the station is shutting down")
        name = self.models.only() if model is None else model
        (answer,) = self.models.submit(name, None, [content])
        (row,) = self.record([Sent(content, file)], [answer.result()], source, also=also)
        return row

    def record(
        self,
        images: Sequence[Sent],
        judged: Sequence[Judged],
        source: str | None,
        key: RequestKey | None = None,
        also: Callable[[Session], None] | None = None,
    ) -> list[Inspection]:
        """Write pictures, then rows with what sinks are to get and what drift makes of them, and count them.

        Parameters
        ----------
        also : writes in the transaction of the rows.

        Raises
        ------
        StationError
            storage_failed, database_unavailable; then no row was written.
        """
        start = time.monotonic()
        pictures: list[tuple[Kind, bytes]] = [("images", image.content) for image in images]
        with_map = []
        for index, one in enumerate(judged):
            found = one.inspection
            if found.anomaly_map is not None and found.threshold is not None:
                with_map.append(index)
                pictures.append(("maps", encode_map(found.anomaly_map, found.threshold)))
        seen = [Seen.of(one.inspection) for one in judged]
        with self.archive.keep(pictures) as names:
            maps = dict(zip(with_map, names[len(images) :], strict=True))
            rows = [
                self._row(image, names[index], one, maps.get(index), source)
                for index, (image, one) in enumerate(zip(images, judged, strict=True))
            ]

            def with_the_rows(session: Session) -> None:
                events = [Event.of(row) for row in rows]
                events += self.monitor.observe(session, rows, seen)
                self.outbox.put(session, events)
                if also is not None:
                    also(session)

            # One after the other, so that sinks get them in the order of their ids.
            with self.monitor.writing:
                stored = self.inspections.add(rows, key, with_the_rows)
        self.senders.wake()
        self.metrics.stored.observe(time.monotonic() - start)
        if stored is rows:
            for one in judged:
                self.metrics.count(one)
        return stored

    def sweep(self) -> None:
        """Remove pictures whose time is over, and keys of requests that nobody sends again."""
        self.inspections.forget_keys(now() - timedelta(days=KEY_DAYS))
        self.swept = swept = sweep(self.store, self.archive, self.settings.name, self.settings.retention)
        if swept.files:
            log.info("Retention removed %d pictures, %d bytes", swept.files, swept.bytes)

    def _row(
        self, image: Sent, image_sha256: str, judged: Judged, map_sha256: str | None, source: str | None
    ) -> Inspection:
        found = judged.inspection
        return Inspection(
            time=now(),
            station=self.settings.name,
            source=source,
            file=image.file,
            model=judged.version.model,
            version=judged.version.number,
            model_sha256=judged.version.sha256,
            image_sha256=image_sha256,
            image_bytes=len(image.content),
            verdict=found.verdict.value,
            reason=found.reason,
            detail=found.detail,
            score=found.score,
            p_value=found.p_value,
            threshold=found.threshold if found.threshold is not None and math.isfinite(found.threshold) else None,
            false_alarm_rate=None if found.p_value is None else judged.false_alarm_rate,
            review_rate=None if found.p_value is None else judged.review_rate,
            regions=[asdict(region) for region in found.regions],
            map_sha256=map_sha256,
            waited_ms=1000 * judged.waited_s,
            judged_ms=1000 * judged.judged_s,
        )

    def _repeat(self, seconds: float, what: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                what()
            except StationError as error:
                log.warning("%s: %s", what.__qualname__, error)
            except Exception:  # A thread that ends would leave its work undone for months.
                log.exception("%s failed", what.__qualname__)
            self._stop.wait(seconds)
