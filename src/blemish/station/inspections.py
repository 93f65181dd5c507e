"""Inspections and reviews in the database: adding, finding, counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from blemish.station.errors import Code, StationError
from blemish.station.store import Store
from blemish.station.tables import AuditEntry, Idempotency, Inspection, Review, now

VerdictName = Literal["OK", "REVIEW", "NG", "REJECTED"]
Label = Literal["normal", "anomalous"]
Answer = Literal["confirmed", "overruled"]

EXPORT_BATCH = 1000
QUEUE: Final[tuple[VerdictName, ...]] = ("REVIEW", "NG", "REJECTED", "OK")
"""What people review first."""
COUNTED = 1000
"""How far a queue is counted; beyond, its length matters to nobody."""


@dataclass(frozen=True)
class Filter:
    """Which inspections; None takes all. since is included, until is not.

    label : what the review that counts says. audit_share : only those of an audit sample of this share.
    """

    verdict: VerdictName | None = None
    model: str | None = None
    version: int | None = None
    station: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reviewed: bool | None = None
    label: Label | None = None
    audit_share: float | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        equal = ("verdict", "model", "version", "source")
        conditions = [
            getattr(Inspection, name) == value for name in equal if (value := getattr(self, name)) is not None
        ]
        if self.station is not None:
            conditions.append(at_station(self.station))
        if self.since is not None:
            conditions.append(Inspection.time >= self.since)
        if self.until is not None:
            conditions.append(Inspection.time < self.until)
        if self.reviewed is not None:
            is_reviewed = reviewed()
            conditions.append(is_reviewed if self.reviewed else ~is_reviewed)
        if self.label is not None:
            conditions.append(_labelled(self.label))
        if self.audit_share is not None:
            conditions.append(Inspection.image_sha256 < audit_bound(self.audit_share))
        return conditions


def at_station(name: str) -> ColumnElement[bool]:
    """Whether a station judged it, as SQL.

    Most databases know one station only. An index that begins with it would be taken before those of time and number,
    and find every row; no index serves an expression.
    """
    return func.coalesce(Inspection.station, "") == name


def reviewed() -> ColumnElement[bool]:
    """Whether an inspection has a review, as SQL."""
    return select(Review.id).where(Review.inspection_id == Inspection.id).correlate(Inspection).exists()


def audit_bound(share: float) -> str:
    """The audit sample of a share of all images are those whose sha256 is below this.

    What an image's sha256 is has nothing to do with what is on it, nor with its score. So this draws at random, once
    and for all: it can be done later, and everybody who does it draws the same ones.
    """
    return f"{int(share * 2**64):016x}" if share < 1 else "g"


def _labelled(label: Label) -> ColumnElement[bool]:
    """Whether the review that counts has this label, as SQL."""
    review, other = aliased(Review), aliased(Review)
    newest = select(func.max(other.id)).where(other.inspection_id == Inspection.id).correlate(Inspection)
    found = select(review.id).where(review.id == newest.scalar_subquery(), review.label == label)
    return found.correlate(Inspection).exists()


def newest_review() -> ColumnElement[bool]:
    """Whether a review is the one that counts, the newest one of its inspection, as SQL."""
    other = aliased(Review)
    newest = select(func.max(other.id)).where(other.inspection_id == Inspection.id).correlate(Inspection)
    return Review.id == newest.scalar_subquery()


def _with_reviews(query: Filter) -> Select[Inspection, Review]:
    return (
        select(Inspection, Review)
        .outerjoin(Review, newest_review())
        .where(*query.conditions())
        .order_by(Inspection.id.desc())
    )


Row = tuple[Inspection, Review | None]


@dataclass(frozen=True)
class RequestKey:
    """By which a request is known again when it is sent once more.

    by, key : who sent it, and what they call it. request_sha256 : of all that decides the answer.
    """

    by: str
    key: str
    request_sha256: str


class Inspections:
    """The inspections of a database, of all stations that write to it.

    Parameters
    ----------
    station : as it stands in the audit log. audit_share : of all images, which people are to review in any case.
    """

    def __init__(self, store: Store, station: str, audit_share: float = 0) -> None:
        self.store = store
        self.station = station
        self.audit_share = audit_share

    def audited(self, image_sha256: str) -> bool:
        """Whether an image belongs to the audit sample."""
        return image_sha256 < audit_bound(self.audit_share)

    def add(
        self,
        rows: list[Inspection],
        key: RequestKey | None = None,
        also: Callable[[Session], None] | None = None,
    ) -> list[Inspection]:
        """Write rows, all or none; they are on the disk when this returns, and have their id.

        Returns them; or those of the same request, if that came twice at once and the other was faster.

        Parameters
        ----------
        also : writes what has to be there if and only if they are.

        Raises
        ------
        StationError
            key_reused.
        """
        try:
            with self.store.write() as session:
                session.add_all(rows)
                session.flush()
                if also is not None:
                    also(session)
                if key is not None:
                    ids = [row.id for row in rows]
                    session.add(
                        Idempotency(
                            time=now(), by=key.by, key=key.key, request_sha256=key.request_sha256, inspections=ids
                        )
                    )
        except IntegrityError:
            answered = None if key is None else self.answered(key)
            if answered is None:
                raise
            return answered
        return rows

    def answered(self, key: RequestKey) -> list[Inspection] | None:
        """What a request was answered before; None if it was not.

        Raises
        ------
        StationError
            key_reused: it was another request that came with this key.
        """
        with self.store.read() as session:
            known = session.scalar(select(Idempotency).where(Idempotency.by == key.by, Idempotency.key == key.key))
            if known is None:
                return None
            if known.request_sha256 != key.request_sha256:
                raise StationError(
                    Code.KEY_REUSED,
                    f"the key {key.key} came with another image, model, version or source before",
                    todo="Make a new key for each new request",
                )
            rows = session.scalars(select(Inspection).where(Inspection.id.in_(known.inspections)))
            return sorted(rows, key=lambda row: row.id)

    def forget_keys(self, before: datetime) -> None:
        """Remove the keys that came before a time; their requests would be taken for new ones."""
        with self.store.write() as session:
            session.execute(delete(Idempotency).where(Idempotency.time < before))

    def get(self, number: int) -> Row:
        """One inspection and the review that counts.

        Raises
        ------
        StationError
            no_such_inspection.
        """
        with self.store.read() as session:
            return _found(session, number)

    def page(self, query: Filter, before: int | None, limit: int) -> list[Row]:
        """The newest inspections whose id is below `before`, newest first."""
        statement = _with_reviews(query).limit(limit)
        if before is not None:
            statement = statement.where(Inspection.id < before)
        with self.store.read() as session:
            return [(inspection, review) for inspection, review in session.execute(statement)]

    def queue(self, model: str | None, after: str | None, limit: int, *, audit: bool = False) -> list[Row]:
        """Inspections that nobody has reviewed: doubtful ones first, then NG, REJECTED, OK; of each the newest first.

        Parameters
        ----------
        model : None takes all. after : the `place_in_queue` of an inspection; those that follow it are given.
        audit : only those of the audit sample.

        Raises
        ------
        StationError
            invalid_cursor.
        """
        verdict, before = QUEUE[0], None
        if after is not None:
            name, _, number = after.partition("-")
            if name not in QUEUE or not number.isdecimal() or len(number) > 18:
                raise StationError(Code.INVALID_CURSOR, f"{after!r} is no place in the queue")
            verdict, before = name, int(number)
        found: list[Row] = []
        for one in QUEUE[QUEUE.index(verdict) :]:
            query = self._waiting(one, model, audit)
            found += self.page(query, before, limit - len(found))
            before = None
            if len(found) == limit:
                break
        return found

    def queued(self, model: str | None, *, audit: bool = False) -> dict[VerdictName, int]:
        """How many inspections of each verdict nobody has reviewed, counted up to COUNTED."""
        with self.store.read() as session:
            counts: dict[VerdictName, int] = {}
            for verdict in QUEUE:
                query = self._waiting(verdict, model, audit)
                some = select(Inspection.id).where(*query.conditions()).limit(COUNTED).subquery()
                counts[verdict] = session.scalar(select(func.count()).select_from(some)) or 0
            return counts

    def _waiting(self, verdict: VerdictName, model: str | None, audit: bool) -> Filter:
        share = self.audit_share if audit else None
        return Filter(verdict=verdict, model=model, station=self.station, reviewed=False, audit_share=share)

    def everything(self, query: Filter) -> Iterator[Row]:
        """All of them, newest first, in memory a batch at a time; what is added meanwhile is left out."""
        before = None
        while batch := self.page(query, before, EXPORT_BATCH):
            yield from batch
            before = batch[-1][0].id

    def reviews(self, number: int) -> list[Review]:
        """All reviews of an inspection, oldest first."""
        with self.store.read() as session:
            _found(session, number)
            return list(session.scalars(select(Review).where(Review.inspection_id == number).order_by(Review.id)))

    def review(
        self,
        number: int,
        by: str,
        answer: Answer,
        label: Label | None,
        note: str,
        region: list[list[float]] | None,
    ) -> Review:
        """Add a person's answer.

        Raises
        ------
        StationError
            no_such_inspection; label_needed, label_contradicts: see `label_of`.
        """
        with self.store.write() as session:
            inspection, _ = _found(session, number)
            truth = label_of(inspection.verdict, answer, label)
            review = Review(
                inspection_id=number, time=now(), by=by, answer=answer, label=truth, note=note, region=region
            )
            session.add(review)
            detail = {"answer": answer, "label": truth}
            session.add(audit_entry(self.station, by, "review", f"inspection {number}", detail))
            return review

    def stats(self, query: Filter) -> list[tuple[str, str, int]]:
        """Hour (2026-01-31T15:00:00Z), verdict and how many, by hour."""
        hour = _hour(self.store.engine.dialect.name)
        statement = (
            select(hour, Inspection.verdict, func.count())
            .where(*query.conditions())
            .group_by(hour, Inspection.verdict)
            .order_by(hour, Inspection.verdict)
        )
        with self.store.read() as session:
            return [(str(name), verdict, count) for name, verdict, count in session.execute(statement)]

    def review_counts(self, query: Filter) -> list[tuple[str, str, str, int]]:
        """Verdict, answer and label of the reviews that count, and how many."""
        statement = (
            select(Inspection.verdict, Review.answer, Review.label, func.count())
            .join(Review, newest_review())
            .where(*query.conditions())
            .group_by(Inspection.verdict, Review.answer, Review.label)
            .order_by(Inspection.verdict, Review.answer, Review.label)
        )
        with self.store.read() as session:
            return [(verdict, answer, label, n) for verdict, answer, label, n in session.execute(statement)]


class Hours:
    """What a station judged, hour by hour. An hour that is over is counted once, however often people look."""

    _LATE = timedelta(minutes=1)
    """A row is written a moment after the time that stands in it."""

    def __init__(self, inspections: Inspections) -> None:
        self.inspections = inspections
        self._over: dict[datetime, dict[str, int]] = {}

    def last(self, hours: int, moment: datetime) -> list[tuple[datetime, dict[str, int]]]:
        """The last so many hours, that of `moment` the last of them: when each began, and its counts by verdict."""
        this = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        begins = [this - timedelta(hours=ago) for ago in reversed(range(hours))]
        over = self._over
        unknown = next(begin for begin in begins if begin not in over or begin == this)
        found: dict[datetime, dict[str, int]] = {begin: {} for begin in begins if begin >= unknown}
        for name, verdict, count in self.inspections.stats(Filter(station=self.inspections.station, since=unknown)):
            hour = found.get(datetime.fromisoformat(name))
            # An hour that began since then is left to those who ask later.
            if hour is not None:
                hour[verdict] = count
        known = over | found
        self._over = {begin: known[begin] for begin in begins if begin + timedelta(hours=1) + self._LATE < moment}
        return [(begin, known[begin]) for begin in begins]


def place_in_queue(inspection: Inspection) -> str:
    """Where an inspection is in the queue of those to be reviewed."""
    return f"{inspection.verdict}-{inspection.id}"


def label_of(verdict: str, answer: Answer, label: Label | None) -> Label:
    """What a part is in truth, by a person's answer to a verdict.

    OK confirmed and NG overruled are normal, OK overruled and NG confirmed are anomalous. REVIEW and REJECTED say
    neither, so the label must be given.

    Raises
    ------
    StationError
        label_needed; label_contradicts: the label given is not what the answer means.
    """
    if verdict not in ("OK", "NG"):
        if label is None:
            raise StationError(
                Code.LABEL_NEEDED, f"{verdict} does not say what the part is", todo="Give a label: normal or anomalous"
            )
        return label
    meant: Label = "normal" if (verdict == "OK") == (answer == "confirmed") else "anomalous"
    if label not in (None, meant):
        raise StationError(
            Code.LABEL_CONTRADICTS,
            f"{verdict} {answer} means that the part is {meant}, and the label says {label}",
            todo="Leave the label out, or change the answer",
        )
    return meant


def audit_entry(station: str, by: str, action: str, subject: str, detail: dict[str, Any]) -> AuditEntry:
    """A line of the audit log, to be added in the transaction of what it tells."""
    return AuditEntry(time=now(), station=station, by=by, action=action, subject=subject, detail=detail)


def _found(session: Session, number: int) -> Row:
    statement = select(Inspection, Review).outerjoin(Review, newest_review()).where(Inspection.id == number)
    row = session.execute(statement).one_or_none()
    if row is None:
        raise StationError(Code.NO_SUCH_INSPECTION, f"there is no inspection {number}")
    return row[0], row[1]


def _hour(dialect: str) -> ColumnElement[str]:
    if dialect == "sqlite":
        return func.strftime("%Y-%m-%dT%H:00:00Z", Inspection.time)
    return func.to_char(func.timezone("UTC", Inspection.time), 'YYYY-MM-DD"T"HH24:00:00"Z"')
