"""The station's database: its migrations on a filled database, its transactions, and a real PostgreSQL."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import OperationalError

from blemish.errors import UsageError
from blemish.station.app import make_app
from blemish.station.errors import Code, StationError
from blemish.station.inspections import Filter, Inspections, RequestKey
from blemish.station.people import People
from blemish.station.settings import DEFAULT_NAME
from blemish.station.station import Station
from blemish.station.store import Store
from blemish.station.tables import (
    Account,
    Activation,
    AuditEntry,
    ConnectionRow,
    DriftDay,
    DriftState,
    Idempotency,
    Inspection,
    ModelVersion,
    OutboxEntry,
    Rates,
    Review,
    SignIn,
    Table,
    TakenFile,
    Token,
    Training,
    now,
)
from stations import NG, make_model, part, settings, until

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def inspection(**changes: object) -> Inspection:
    """A row with every column filled."""
    fields: dict[str, object] = {
        "time": NOON,
        "station": "line-1",
        "source": "camera",
        "file": "a.png",
        "model": "cap",
        "version": 1,
        "model_sha256": "1" * 64,
        "image_sha256": "2" * 64,
        "image_bytes": 10,
        "verdict": "NG",
        "reason": "score_above_limit",
        "detail": "it is",
        "score": 0.1 + 0.2,
        "p_value": 0.05,
        "threshold": 0.3,
        "false_alarm_rate": 0.05,
        "review_rate": 0.1,
        "regions": [{"x": 1, "y": 2, "width": 3, "height": 4, "area": 12, "peak": 0.5}],
        "map_sha256": "3" * 64,
        "waited_ms": 0.25,
        "judged_ms": 12.5,
        "pictures_removed": None,
    }
    return Inspection(**{**fields, **changes})


def fill(store: Store) -> None:
    """At least one row in each table."""
    with store.write() as session:
        account = Account(name="lena", role="admin", password="hash", added=NOON)
        session.add(account)
        first = inspection()
        session.add_all([first, inspection(verdict="REJECTED", score=None, p_value=None, regions=[], map_sha256=None)])
        session.flush()
        session.add_all(
            [
                ModelVersion(model="cap", version=1, sha256="1" * 64, manifest={"method": "rd"}, added=NOON),
                Activation(time=NOON, station="line-1", model="cap", version=1, by="lena"),
                Rates(
                    time=NOON,
                    station="line-1",
                    model="cap",
                    version=1,
                    false_alarm_rate=0.05,
                    review_rate=0.1,
                    by="lena",
                ),
                Review(
                    inspection_id=first.id,
                    time=NOON,
                    by="lena",
                    answer="overruled",
                    label="normal",
                    note="Staub, nicht Kratzer: 灰尘",
                    region=[[1.5, 2], [3, 4], [5, 6]],
                ),
                OutboxEntry(
                    time=NOON,
                    station="line-1",
                    sink="mes",
                    event="e" * 36,
                    body={"type": "inspection", "note": "灰尘"},
                    attempts=2,
                    dead=True,
                    problem="it answers 400",
                ),
                TakenFile(station="line-1", source="tray", name="00017-a.png"),
                DriftState(
                    station="line-1",
                    model="cap",
                    version=1,
                    since=NOON,
                    reference={"warmth": [0.1 + 0.2]},
                    state={"images": 3},
                    alarm=NOON,
                    cause="warmth",
                ),
                DriftDay(station="line-1", model="cap", version=1, day="2026-03-01", summary={"images": 3}, value=0.7),
                ConnectionRow(
                    station="line-1",
                    direction="sink",
                    name="table",
                    options={"kind": "csv", "path": "/srv/灰尘.csv"},
                    secret=None,
                    paused=True,
                    added=NOON,
                    by="lena",
                ),
                SignIn(account_id=account.id, sha256="4" * 64, expires=NOON),
                Token(name="camera", role="machine", sha256="5" * 64, added=NOON, by="lena"),
                AuditEntry(time=NOON, station="line-1", by="lena", action="review", subject="1", detail={"a": 1}),
                Idempotency(time=NOON, by="token camera", key="a-1", request_sha256="6" * 64, inspections=[first.id]),
                Training(
                    added=NOON,
                    station="line-1",
                    by="lena",
                    model="cap",
                    source="folder",
                    folder="/data/caps",
                    options={"method": "rd", "preset": "auto"},
                    state="failed",
                    started=NOON,
                    ended=NOON,
                    stage="distilling",
                    progress=0.25,
                    note="12/40, loss 0.5",
                    chosen="padim",
                    why="12 images are few",
                    problem="no room",
                    version=2,
                ),
            ]
        )


def counts(store: Store) -> dict[str, int]:
    """How many rows each table has; a table that is not there is not in it."""
    with store.engine.connect() as connection:
        present = store.engine.dialect.get_table_names(connection)
        return {
            name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Table.metadata.tables.items()
            if name in present
        }


FILLED = {
    "model_version": 1,
    "activation": 1,
    "rates": 1,
    "inspection": 2,
    "review": 1,
    "account": 1,
    "sign_in": 1,
    "token": 1,
    "audit": 1,
    "training": 1,
    "idempotency": 1,
    "outbox": 1,
    "taken_file": 1,
    "drift_state": 1,
    "drift_day": 1,
    "connection": 1,
}
ADDED = {
    "0002": ("account", "sign_in", "token", "audit"),
    "0003_trainings": ("training",),
    "0004_keys": ("idempotency",),
    "0005": ("rates",),
    "0006_flow_and_drift": ("outbox", "taken_file", "drift_state", "drift_day"),
    "0007_connections": ("connection",),
    "0008_training_steps": (),
}
"""Which tables came with which revision after the first."""
FLOW_AND_DRIFT = ADDED["0006_flow_and_drift"] + ADDED["0007_connections"]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    server = PostgreSQL.start_one(tmp_path_factory)
    yield server
    server.stop()


class PostgreSQL:
    """A real server of its own, as the user postgres, on a free port and with an empty folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @classmethod
    def start_one(cls, tmp_path_factory: pytest.TempPathFactory) -> PostgreSQL:
        pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed: pip install 'blemish[postgresql]'")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
        if not found or shutil.which("runuser") is None or Path("/proc/self").stat().st_uid != 0:
            pytest.skip("needs PostgreSQL's server from Debian's package, and root to run it as postgres")
        folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
        shutil.chown(folder, "postgres")
        server = cls(found[-1].parent, folder)
        server.run("initdb", "-D", folder / "db", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        server.start()
        return server

    def run(self, program: str, *arguments: object) -> None:
        command = ["runuser", "-u", "postgres", "--", str(self.programs / program), *map(str, arguments)]
        # pg_ctl hands its output on to the server, so that a pipe would never end.
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False)
        assert done.returncode == 0, command

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self.run("pg_ctl", "-D", self.folder / "db", "-l", self.folder / "log", "-w", "-o", options, "start")
        until(self.answers, "PostgreSQL has recovered")

    def answers(self) -> bool:
        engine = create_engine(self.url("postgres"))
        try:
            with engine.connect():
                return True
        except OperationalError:
            return False
        finally:
            engine.dispose()

    def halt(self) -> None:
        self.run("pg_ctl", "-D", self.folder / "db", "-m", "immediate", "-w", "stop")

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.folder)

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        engine = create_engine(f"{self.url('postgres')}", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name).replace("+psycopg", "")

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        opened = Store(f"sqlite:///{tmp_path / 'station.db'}")
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        opened = Store(server.database("t" + str(abs(hash(str(tmp_path))))))
    yield opened
    opened.close()


def test_migrated_tables_are_the_tables(store: Store) -> None:
    store.migrate()

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_migrating_a_filled_database_down_and_up_again_keeps_what_the_older_tables_hold(store: Store) -> None:
    store.migrate()
    fill(store)
    assert counts(store) == FILLED

    present = dict(FILLED)
    revisions = ["0001", *ADDED]
    for revision, before in reversed(list(zip(revisions[1:], revisions, strict=False))):
        store.migrate(before)
        for table in ADDED[revision]:
            del present[table]
        assert counts(store) == present

    store.migrate()
    assert counts(store) == dict.fromkeys(FILLED, 0) | present
    row, review = Inspections(store, "line-1").get(1)
    assert (row.time, row.score, row.regions) == (NOON, 0.1 + 0.2, inspection().regions)
    assert (row.false_alarm_rate, row.review_rate) == (None, None)
    assert review is not None
    assert (review.note, review.region) == ("Staub, nicht Kratzer: 灰尘", [[1.5, 2], [3, 4], [5, 6]])
    store.migrate("base")
    assert counts(store) == {}
    store.migrate()
    assert counts(store) == dict.fromkeys(FILLED, 0)


def test_migrating_flow_and_drift_down_and_up_again_loses_their_tables_and_nothing_else(store: Store) -> None:
    store.migrate()
    fill(store)

    store.migrate("0005")

    assert counts(store) == {name: count for name, count in FILLED.items() if name not in FLOW_AND_DRIFT}
    store.migrate()
    assert counts(store) == {**FILLED, **dict.fromkeys(FLOW_AND_DRIFT, 0)}


def test_migrating_twice_changes_nothing(store: Store) -> None:
    store.migrate()
    fill(store)

    store.migrate()

    assert counts(store) == FILLED


def test_a_database_of_a_newer_blemish_is_refused(store: Store) -> None:
    store.migrate()
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(UsageError, match="revision 9999, which this Blemish does not know"):
        store.migrate()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("nonsense", "no URL of a database"),
        ("sqlite://", "a database that lasts"),
        ("mysql://root@localhost/x", "mysql is not supported"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Store(url)


def test_times_come_back_in_utc_and_one_without_a_zone_is_refused(store: Store) -> None:
    store.migrate()
    tokyo = datetime(2026, 1, 1, 3, 0, tzinfo=timezone(timedelta(hours=9)))
    inspections = Inspections(store, "line-1")
    row = inspection(time=tokyo)
    inspections.add([row])

    found, _ = inspections.get(row.id)

    assert found.time == tokyo
    assert found.time.utcoffset() == timedelta(0)
    assert len(inspections.page(Filter(since=tokyo), None, 5)) == 1
    assert inspections.page(Filter(until=tokyo), None, 5) == []
    with pytest.raises(Exception, match="without a time zone"):
        inspections.add([inspection(time=datetime(2026, 1, 1))])


def test_rows_are_added_all_or_none(store: Store) -> None:
    store.migrate()
    inspections = Inspections(store, "line-1")

    with pytest.raises(Exception, match=r"(?i)not.null"):
        inspections.add([inspection(), inspection(verdict=None)])

    assert counts(store)["inspection"] == 0


def test_pages_show_every_inspection_once_also_when_others_come_in_between(store: Store) -> None:
    store.migrate()
    inspections = Inspections(store, "line-1")
    rows = [inspection(verdict="NG" if i % 3 else "OK") for i in range(20)]
    inspections.add(rows)

    seen: list[int] = []
    before = None
    while page := inspections.page(Filter(verdict="NG"), before, 4):
        seen += [row.id for row, _ in page]
        before = seen[-1]
        inspections.add([inspection()])

    assert seen == sorted((row.id for row in rows if row.verdict == "NG"), reverse=True)


def test_the_audit_sample_and_labels_are_found_by_every_database(store: Store) -> None:
    store.migrate()
    inspections = Inspections(store, "line-1", 0.5)
    starts = ["00", "39", "7f", "80", "a0", "ff"]
    inspections.add([inspection(image_sha256=(start + "a" * 62)) for start in starts])
    inspections.review(1, "lena", "overruled", None, "", None)
    inspections.review(2, "lena", "overruled", None, "", None)
    inspections.review(2, "ada", "confirmed", None, "", None)

    def found(**wanted: object) -> list[int]:
        return [row.id for row, _ in inspections.page(Filter(**wanted), None, 50)]  # type: ignore[arg-type]

    assert found(audit_share=0.5) == [3, 2, 1]
    assert found(audit_share=0.7) == [5, 4, 3, 2, 1]
    assert found(audit_share=1) == [6, 5, 4, 3, 2, 1]
    assert [inspections.audited(start + "a" * 62) for start in starts] == [True] * 3 + [False] * 3
    # The newest review counts.
    assert (found(label="normal"), found(label="anomalous"), found(audit_share=0.2, label="anomalous")) == (
        [1],
        [2],
        [],
    )
    assert inspections.review_counts(Filter(label="anomalous")) == [("NG", "confirmed", "anomalous", 1)]


def test_hours_are_counted_in_utc(store: Store) -> None:
    store.migrate()
    inspections = Inspections(store, "line-1")
    last_moment = NOON + timedelta(minutes=59, seconds=59, microseconds=999_999)
    inspections.add(
        [inspection(verdict="OK"), inspection(time=last_moment), inspection(time=NOON + timedelta(hours=1))]
    )

    assert inspections.stats(Filter()) == [
        ("2026-03-01T12:00:00Z", "NG", 1),
        ("2026-03-01T12:00:00Z", "OK", 1),
        ("2026-03-01T13:00:00Z", "NG", 1),
    ]


def test_the_newest_review_counts(store: Store) -> None:
    store.migrate()
    inspections = Inspections(store, "line-1")
    row = inspection()
    inspections.add([row, inspection()])
    inspections.review(row.id, "lena", "confirmed", None, "", None)
    inspections.review(row.id, "ada", "overruled", None, "only dust", None)

    _, review = inspections.get(row.id)

    assert review is not None
    assert (review.by, review.label) == ("ada", "normal")
    assert [(found.id, answer.by) for found, answer in inspections.page(Filter(reviewed=True), None, 5) if answer] == [
        (row.id, "ada")
    ]
    assert [found.id for found, _ in inspections.page(Filter(reviewed=False), None, 5)] == [row.id + 1]
    assert inspections.review_counts(Filter()) == [("NG", "overruled", "normal", 1)]
    assert [answer.by for answer in inspections.reviews(row.id)] == ["lena", "ada"]


@pytest.mark.parametrize(
    ("verdict", "answer", "label", "truth"),
    [
        ("OK", "confirmed", None, "normal"),
        ("OK", "overruled", None, "anomalous"),
        ("NG", "confirmed", None, "anomalous"),
        ("NG", "overruled", "normal", "normal"),
        ("NG", "overruled", "anomalous", Code.LABEL_CONTRADICTS),
        ("REVIEW", "confirmed", None, Code.LABEL_NEEDED),
        ("REVIEW", "confirmed", "normal", "normal"),
        ("REJECTED", "overruled", "anomalous", "anomalous"),
    ],
)
def test_what_a_part_is_follows_from_verdict_and_answer(
    tmp_path: Path, verdict: str, answer: str, label: str | None, truth: str | Code
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'station.db'}")
    store.migrate()
    inspections = Inspections(store, "line-1")
    inspections.add([inspection(verdict=verdict)])

    if isinstance(truth, Code):
        with pytest.raises(StationError) as caught:
            inspections.review(1, "lena", answer, label, "", None)  # type: ignore[arg-type]
        assert caught.value.code is truth
        assert counts(store)["audit"] == 0
    else:
        assert inspections.review(1, "lena", answer, label, "", None).label == truth  # type: ignore[arg-type]
        assert counts(store)["audit"] == 1
    store.close()


def test_the_same_request_twice_at_once_is_stored_once(store: Store) -> None:
    store.migrate()
    inspections = Inspections(store, "line-1")
    key = RequestKey("token camera", "a-1", "1" * 64)
    # Both have found that nobody has answered it yet.
    assert inspections.answered(key) is None

    first = inspections.add([inspection(), inspection(verdict="OK")], key)
    second = inspections.add([inspection(), inspection(verdict="OK")], key)

    assert [(row.id, row.verdict) for row in second] == [(row.id, row.verdict) for row in first]
    assert counts(store) == dict.fromkeys(FILLED, 0) | {"inspection": 2, "idempotency": 1}
    with pytest.raises(StationError) as caught:
        inspections.add([inspection()], RequestKey("token camera", "a-1", "2" * 64))
    assert caught.value.code is Code.KEY_REUSED
    assert counts(store)["inspection"] == 2
    # Another sender's keys are their own.
    inspections.add([inspection()], RequestKey("token robot", "a-1", "2" * 64))
    inspections.forget_keys(now() + timedelta(seconds=1))
    assert inspections.answered(key) is None


def test_names_are_unique(store: Store) -> None:
    store.migrate()
    people = People(store, "line-1", open_without_accounts=True)
    people.add_token("camera", "machine", "lena")

    with pytest.raises(StationError) as caught:
        people.add_token("camera", "machine", "lena")

    assert caught.value.code is Code.NAME_TAKEN
    assert [entry.action for entry in people.audit(None, 10)] == ["add token"]


# PostgreSQL, under a whole station


def test_a_station_on_postgresql_loses_nothing_while_the_database_is_down(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    root = tmp_path
    options = settings(root, database=postgresql.database("outage"))
    with pytest.raises(UsageError, match="each needs a name of its own"):
        Station(options.model_copy(update={"name": DEFAULT_NAME}))
    make_model(root / "models" / "cap.blemish")
    station = Station(options)
    client = TestClient(make_app(station), base_url="http://localhost")
    answered = [client.post("/api/v1/inspect", content=part(NG, i)).json()["inspections"][0]["id"] for i in range(3)]

    postgresql.halt()
    try:
        refused = client.post("/api/v1/inspect", content=part(NG, 3))
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/api/v1/inspections").status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
    finally:
        postgresql.start()

    until(lambda: client.get("/v2/health/ready").status_code == 200, "the station is ready again")
    answered.append(client.post("/api/v1/inspect", content=part(NG, 3)).json()["inspections"][0]["id"])
    listed = [row["id"] for row in client.get("/api/v1/inspections").json()["inspections"]]
    assert listed == sorted(answered, reverse=True)
    station.close()


def test_two_stations_share_a_database_and_number_versions_together(postgresql: PostgreSQL, tmp_path: Path) -> None:
    url = postgresql.database("shared")
    stations = []
    for name in ("line-1", "line-2"):
        (tmp_path / name).mkdir()
        options = settings(tmp_path / name, database=url, name=name)
        make_model(options.models / "cap.blemish", gain=1.0 if name == "line-1" else 0.7)
        stations.append(Station(options))
    first, second = (TestClient(make_app(station), base_url="http://localhost") for station in stations)

    found = first.post("/api/v1/inspect", content=part(NG)).json()["inspections"][0]
    other = second.post("/api/v1/inspect", content=part(NG)).json()["inspections"][0]

    assert (found["version"], other["version"]) == (1, 2)
    assert len(first.get("/api/v1/inspections").json()["inspections"]) == 2
    assert [row["id"] for row in first.get("/api/v1/inspections?station=line-2").json()["inspections"]] == [other["id"]]
    away = first.get(f"/api/v1/inspections/{other['id']}/heatmap")
    # The picture of the map lies at the other station.
    assert (away.status_code, away.json()["code"]) == (404, "no_picture")
    assert now() > datetime.fromisoformat(found["time"])
    for station in stations:
        station.close()
