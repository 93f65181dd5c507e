"""Inspections and reviews in the database: adding, finding, counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from blemish.station.errors import Code, StationError
from blemish.station.store import Store
from blemish.station.tables import AuditEntry, Inspection, Review, now

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
    """Which inspections; None takes all. since is included, until is not."""

    verdict: VerdictName | None = None
    model: str | None = None
    version: int | None = None
    station: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reviewed: bool | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        equal = ("verdict", "model", "version", "station", "source")
        conditions = [
            getattr(Inspection, name) == value for name in equal if (value := getattr(self, name)) is not None
        ]
        if self.since is not None:
            conditions.append(Inspection.time >= self.since)
        if self.until is not None:
            conditions.append(Inspection.time < self.until)
        if self.reviewed is not None:
            is_reviewed = reviewed()
            conditions.append(is_reviewed if self.reviewed else ~is_reviewed)
        return conditions


def reviewed() -> ColumnElement[bool]:
    """Whether an inspection has a review, as SQL."""
    return select(Review.id).where(Review.inspection_id == Inspection.id).correlate(Inspection).exists()


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


class Inspections:
    """The inspections of a database, of all stations that write to it."""

    def __init__(self, store: Store, station: str) -> None:
        self.store = store
        self.station = station

    def add(self, rows: list[Inspection], also: Callable[[Session], None] | None = None) -> None:
        """Write rows, all or none; they are on the disk when this returns, and have their id.

        Parameters
        ----------
        also : writes what has to be there if and only if they are.
        """
        with self.store.write() as session:
            session.add_all(rows)
            if also is not None:
                session.flush()
                also(session)

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

    def queue(self, model: str | None, after: str | None, limit: int) -> list[Row]:
        """Inspections that nobody has reviewed: doubtful ones first, then NG, REJECTED, OK; of each the newest first.

        Parameters
        ----------
        model : None takes all. after : the `place_in_queue` of an inspection; those that follow it are given.

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
            query = Filter(verdict=one, model=model, station=self.station, reviewed=False)
            found += self.page(query, before, limit - len(found))
            before = None
            if len(found) == limit:
                break
        return found

    def queued(self, model: str | None) -> dict[VerdictName, int]:
        """How many inspections of each verdict nobody has reviewed, counted up to COUNTED."""
        with self.store.read() as session:
            counts: dict[VerdictName, int] = {}
            for verdict in QUEUE:
                query = Filter(verdict=verdict, model=model, station=self.station, reviewed=False)
                some = select(Inspection.id).where(*query.conditions()).limit(COUNTED).subquery()
                counts[verdict] = session.scalar(select(func.count()).select_from(some)) or 0
            return counts

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
