"""The tables. Their history is in `migrations`; a test compares both.

Times are UTC. Decisions are added and never changed: of an inspection, only `pictures_removed` is ever set later. Of a
training, the state is; of a connection, everything.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Key = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up only what it calls INTEGER, which has 64 bits there."""


class UtcTime(TypeDecorator[datetime]):
    """A point in time, always with its time zone, which is UTC; SQLite stores none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Into the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone says too little")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Out of the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Table(DeclarativeBase):
    """Base of all tables; constraints have names, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ModelVersion(Table):
    """A model file that a station has taken in. `version` counts within a name from 1."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("model", "version"), UniqueConstraint("model", "sha256"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    model: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    added: Mapped[datetime] = mapped_column(UtcTime)


class Activation(Table):
    """From `time` on, `station` judged with this version; the newest row of a model is what holds."""

    __tablename__ = "activation"
    __table_args__ = (Index(None, "station", "model", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    station: Mapped[str] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    by: Mapped[str] = mapped_column(String(100))


class Rates(Table):
    """From `time` on, `station` judged with this version by these rates; the newest row of a version is what holds.

    Where there is none, the rates of the model file hold.
    """

    __tablename__ = "rates"
    __table_args__ = (Index(None, "station", "model", "version", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    station: Mapped[str] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    false_alarm_rate: Mapped[float]
    review_rate: Mapped[float]
    by: Mapped[str] = mapped_column(String(100))


class Inspection(Table):
    """An image judged.

    score, p_value, threshold, map_sha256 : None if it was rejected. threshold : map value above which a pixel counts.
    false_alarm_rate, review_rate : that made a verdict of the p-value; None also where Blemish did not keep them yet.
    regions : as `blemish inspect --json` gives them. source : who sent it; file : its name there.
    waited_ms, judged_ms : in the queue; decoding, graph and decision. pictures_removed : when retention took them.
    """

    __tablename__ = "inspection"
    __table_args__ = (
        Index(None, "time"),
        Index(None, "model", "id"),
        Index(None, "verdict", "id"),
        Index(None, "image_sha256"),
        Index(None, "map_sha256"),
        Index("ix_inspection_pictures", "station", "pictures_removed", "verdict", "id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    station: Mapped[str] = mapped_column(String(100))
    source: Mapped[str | None] = mapped_column(String(200))
    file: Mapped[str | None] = mapped_column(String(500))
    model: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    model_sha256: Mapped[str] = mapped_column(String(64))
    image_sha256: Mapped[str] = mapped_column(String(64))
    image_bytes: Mapped[int] = mapped_column(BigInteger)
    verdict: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str] = mapped_column(String(50))
    detail: Mapped[str] = mapped_column(Text)
    score: Mapped[float | None]
    p_value: Mapped[float | None]
    threshold: Mapped[float | None]
    false_alarm_rate: Mapped[float | None]
    review_rate: Mapped[float | None]
    regions: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    map_sha256: Mapped[str | None] = mapped_column(String(64))
    waited_ms: Mapped[float]
    judged_ms: Mapped[float]
    pictures_removed: Mapped[datetime | None] = mapped_column(UtcTime)


class Review(Table):
    """A person's answer to an inspection; the newest one counts.

    answer : confirmed or overruled. label : normal or anomalous, what the part is in truth.
    region : a drawn polygon, [x, y] in pixels of the image.
    """

    __tablename__ = "review"
    __table_args__ = (Index(None, "inspection_id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    inspection_id: Mapped[int] = mapped_column(ForeignKey("inspection.id"))
    time: Mapped[datetime] = mapped_column(UtcTime)
    by: Mapped[str] = mapped_column(String(100))
    answer: Mapped[str] = mapped_column(String(10))
    label: Mapped[str] = mapped_column(String(10))
    note: Mapped[str] = mapped_column(Text)
    region: Mapped[list[list[float]] | None] = mapped_column(JSON(none_as_null=True))


class Account(Table):
    """A person who may sign in. password : its argon2 hash."""

    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(10))
    password: Mapped[str] = mapped_column(String(200))
    added: Mapped[datetime] = mapped_column(UtcTime)


class SignIn(Table):
    """A signed-in browser. sha256 : of what its cookie holds."""

    __tablename__ = "sign_in"
    __table_args__ = (UniqueConstraint("sha256"), Index(None, "account_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(String(64))
    expires: Mapped[datetime] = mapped_column(UtcTime)


class Token(Table):
    """What a machine shows instead of a password. sha256 : of the token, which itself is stored nowhere."""

    __tablename__ = "token"
    __table_args__ = (UniqueConstraint("name"), UniqueConstraint("sha256"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(10))
    sha256: Mapped[str] = mapped_column(String(64))
    added: Mapped[datetime] = mapped_column(UtcTime)
    by: Mapped[str] = mapped_column(String(100))


class AuditEntry(Table):
    """Who changed what."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    station: Mapped[str] = mapped_column(String(100))
    by: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(50))
    subject: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)


class Training(Table):
    """A model being learned, or that was.

    source : "folder", which then says which, or "reviewed": images of `model` that people found good.
    options : what else `blemish train` is told. state : queued, running, done, failed, cancelled, interrupted.
    stage, progress, note : what it is at, how far in [0, 1], and what is worth saying of it. chosen, why : the method
    that the images asked for, where it was left to them, and the reason. problem : why it failed. version : of the
    model it became.
    """

    __tablename__ = "training"
    __table_args__ = (Index(None, "station", "state", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    added: Mapped[datetime] = mapped_column(UtcTime)
    station: Mapped[str] = mapped_column(String(100))
    by: Mapped[str] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(100))
    source: Mapped[str] = mapped_column(String(10))
    folder: Mapped[str | None] = mapped_column(Text)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(12))
    started: Mapped[datetime | None] = mapped_column(UtcTime)
    ended: Mapped[datetime | None] = mapped_column(UtcTime)
    stage: Mapped[str] = mapped_column(String(200))
    progress: Mapped[float]
    note: Mapped[str | None] = mapped_column(String(200))
    chosen: Mapped[str | None] = mapped_column(String(50))
    why: Mapped[str | None] = mapped_column(Text)
    problem: Mapped[str] = mapped_column(Text)
    version: Mapped[int | None]


class Idempotency(Table):
    """A request to inspect that came with a key, and the ids of what it was answered.

    by : who sent it; each has keys of their own. request_sha256 : of all that decides the answer.
    """

    __tablename__ = "idempotency"
    __table_args__ = (UniqueConstraint("by", "key"), Index(None, "time"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    by: Mapped[str] = mapped_column(String(200))
    key: Mapped[str] = mapped_column(String(200))
    request_sha256: Mapped[str] = mapped_column(String(64))
    inspections: Mapped[list[int]] = mapped_column(JSON)


class OutboxEntry(Table):
    """A result that a sink has not taken yet; it is written with what it tells of, and goes once it is delivered.

    event : the same for all sinks, so that who gets it twice can tell. dead : the sink has refused it for good.
    problem : what the sink said last.
    """

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "station", "sink", "dead", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    station: Mapped[str] = mapped_column(String(100))
    sink: Mapped[str] = mapped_column(String(100))
    event: Mapped[str] = mapped_column(String(36))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    attempts: Mapped[int]
    dead: Mapped[bool]
    problem: Mapped[str | None] = mapped_column(Text)


class TakenFile(Table):
    """A file of a watched folder whose inspection is stored, while it may still lie among those being inspected."""

    __tablename__ = "taken_file"
    __table_args__ = (UniqueConstraint("station", "source", "name"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    station: Mapped[str] = mapped_column(String(100))
    source: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(300))


class ConnectionRow(Table):
    """A source or a sink that was named at the page, or through the API; others stand in the configuration file.

    direction : source or sink. options : what was said of it but its name, as `entered` has it. secret : the name of
    a file of this station that holds its password or secret.
    """

    __tablename__ = "connection"
    __table_args__ = (UniqueConstraint("station", "direction", "name"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    station: Mapped[str] = mapped_column(String(100))
    direction: Mapped[str] = mapped_column(String(6))
    name: Mapped[str] = mapped_column(String(100))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    secret: Mapped[str | None] = mapped_column(String(64))
    paused: Mapped[bool]
    added: Mapped[datetime] = mapped_column(UtcTime)
    by: Mapped[str] = mapped_column(String(100))


class DriftState(Table):
    """Where the test of a version for drift stands; see `drift.watch`.

    reference : what is compared with; it changes only while it is gathered. state : all the rest.
    """

    __tablename__ = "drift_state"
    __table_args__ = (UniqueConstraint("station", "model", "version"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    station: Mapped[str] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    since: Mapped[datetime] = mapped_column(UtcTime)
    reference: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    alarm: Mapped[datetime | None] = mapped_column(UtcTime)
    cause: Mapped[str | None] = mapped_column(String(20))


class DriftDay(Table):
    """What the images of a day (UTC) were like. value : of the test, after the last of them."""

    __tablename__ = "drift_day"
    __table_args__ = (UniqueConstraint("station", "model", "version", "day"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    station: Mapped[str] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    day: Mapped[str] = mapped_column(String(10))
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    value: Mapped[float]
