"""Which pictures go, and when. The rows of inspections stay; they say that their pictures were removed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, select, update

from blemish.station.archive import Archive, Kind
from blemish.station.inspections import reviewed
from blemish.station.settings import Retention
from blemish.station.store import Store
from blemish.station.tables import Inspection, now

BATCH = 200
FEW = 20
"""Inspections whose pictures go before it is asked again whether there is room."""
ORPHAN_SECONDS = 3600
"""A picture without a row may be one whose row is being written, but not for an hour."""


@dataclass(frozen=True)
class Swept:
    """inspections : that lost their pictures. files, bytes : that were removed.

    kept, kept_bytes : that are there still. at : when it began.
    """

    inspections: int
    files: int
    bytes: int
    kept: int
    kept_bytes: int
    at: datetime


def sweep(store: Store, archive: Archive, station: str, rules: Retention, at: datetime | None = None) -> Swept:
    """Remove the pictures whose time is over, then the oldest until the rest fits, then those without a row.

    Only pictures of inspections by `station` are looked at: those of others lie elsewhere. A picture that several
    inspections share stays as long as one of them keeps it.

    Parameters
    ----------
    at : the time; None is now.
    """
    moment = at or now()
    inspections = files = freed = 0
    own = and_(Inspection.station == station, Inspection.pictures_removed.is_(None))
    for name, belongs in classes().items():
        days: float | None = getattr(rules, name)
        if days is None:
            continue
        for batch in _batches(store, and_(own, belongs, Inspection.time < moment - timedelta(days=days))):
            n, size = _remove(store, archive, station, batch, moment)
            inspections, files, freed = inspections + len(batch), files + n, freed + size
    if rules.max_bytes is not None:
        excess = sum(kept.size for kept in archive.pictures()) - rules.max_bytes
        for belongs in classes().values():
            if excess <= 0:
                break
            for batch in _batches(store, and_(own, belongs), FEW):
                n, size = _remove(store, archive, station, batch, moment)
                inspections, files, freed, excess = inspections + len(batch), files + n, freed + size, excess - size
                if excess <= 0:
                    break
    there = there_bytes = 0

    def old() -> Iterator[tuple[Kind, str]]:
        nonlocal there, there_bytes
        for one in archive.pictures():
            there, there_bytes = there + 1, there_bytes + one.size
            if one.changed < time.time() - ORPHAN_SECONDS:
                yield one.kind, one.sha256

    for chunk in _chunks(old()):
        n, size = _discard_unused(store, archive, station, chunk)
        files, freed, there, there_bytes = files + n, freed + size, there - n, there_bytes - size
    return Swept(inspections, files, freed, there, there_bytes, moment)


def classes() -> dict[str, ColumnElement[bool]]:
    """The kinds of inspection that `Retention` tells apart, the least missed first, each with its condition."""
    unseen = ~reviewed()
    by_verdict = {
        f"{verdict.lower()}_days": and_(Inspection.verdict == verdict, unseen)
        for verdict in ("OK", "REJECTED", "REVIEW", "NG")
    }
    return {**by_verdict, "reviewed_days": reviewed()}


def _batches(store: Store, condition: ColumnElement[bool], size: int = BATCH) -> Iterator[Sequence[Inspection]]:
    """Inspections, oldest first, that meet a condition which each batch, once dealt with, no longer meets."""
    statement = select(Inspection).where(condition).order_by(Inspection.id).limit(size)
    while True:
        with store.read() as session:
            batch = session.scalars(statement).all()
        if not batch:
            return
        yield batch


def _remove(
    store: Store, archive: Archive, station: str, batch: Sequence[Inspection], moment: datetime
) -> tuple[int, int]:
    """Say in the rows that their pictures are gone, then remove those that no other row keeps.

    Should the process end in between, they are pictures without a row, and the next sweep finds them.
    """
    with store.write() as session:
        marked = update(Inspection).where(Inspection.id.in_([inspection.id for inspection in batch]))
        session.execute(marked.values(pictures_removed=moment))
    pictures: list[tuple[Kind, str]] = []
    for inspection in batch:
        pictures.append(("images", inspection.image_sha256))
        if inspection.map_sha256 is not None:
            pictures.append(("maps", inspection.map_sha256))
    return _discard_unused(store, archive, station, pictures)


def _discard_unused(
    store: Store, archive: Archive, station: str, pictures: Iterable[tuple[Kind, str]]
) -> tuple[int, int]:
    """Remove pictures that no inspection keeps; how many, and how many bytes."""
    candidates = set(pictures)
    freed: list[int] = []
    with archive.discarding(candidates) as discard, store.read() as session:
        for kind, column in (("images", Inspection.image_sha256), ("maps", Inspection.map_sha256)):
            names = {name for of, name in candidates if of == kind}
            kept = select(column).where(
                column.in_(names), Inspection.station == station, Inspection.pictures_removed.is_(None)
            )
            unused = names - set(session.scalars(kept))
            freed += [discard(kind, name) for name in sorted(unused)]  # type: ignore[arg-type]
    removed = [size for size in freed if size]
    return len(removed), sum(removed)


def _chunks(pictures: Iterable[tuple[Kind, str]]) -> Iterator[list[tuple[Kind, str]]]:
    everything = iter(pictures)
    while chunk := list(itertools.islice(everything, BATCH)):
        yield chunk
