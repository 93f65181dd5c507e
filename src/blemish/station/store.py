"""The database: connections, transactions, and the migration to the tables of this version."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from blemish.errors import UsageError
from blemish.station.errors import database_unavailable

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """A database that holds the tables.

    SQLite writes one transaction at a time, here in the order in which they ask; readers are never kept waiting.
    Every commit is on the disk when it returns.

    Parameters
    ----------
    url : of SQLAlchemy: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.

    Attributes
    ----------
    shared : whether stations of other machines may use it too.

    Raises
    ------
    UsageError
        No URL of a database that can be used here.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise UsageError("this is no URL of a database", where="--db", todo=_URLS) from None
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise UsageError("a station needs a database that lasts", where="--db", todo=_URLS)
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            self._one_at_a_time: threading.Lock | nullcontext[None] = threading.Lock()
            options: dict[str, Any] = {"connect_args": {"timeout": 10}}
        elif parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            self._one_at_a_time = nullcontext()
            # A machine that was unplugged closes no connection; without these, a request would wait for minutes.
            patience = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10}
            options = {"connect_args": patience, "pool_pre_ping": True}
        else:
            raise UsageError(f"{parsed.get_backend_name()} is not supported", where="--db", todo=_URLS)
        try:
            self.engine: Engine = create_engine(parsed, pool_size=5, max_overflow=15, pool_timeout=10, **options)
        except (NoSuchModuleError, ModuleNotFoundError):
            raise UsageError(
                "PostgreSQL needs its driver", where="--db", todo="Run: pip install 'blemish[postgresql]'"
            ) from None
        self.shared = self.engine.dialect.name == "postgresql"
        if not self.shared:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only looks.

        Raises
        ------
        StationError
            database_unavailable.
        """
        with _errors_named(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed at the end of the block, or not at all.

        Raises
        ------
        StationError
            database_unavailable.
        """
        with _errors_named(), self._one_at_a_time:
            engine = self.engine.execution_options(writes=True)
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision, up or down; a migration that breaks off leaves them as they were.

        Raises
        ------
        UsageError
            The database was written by a newer Blemish.
        StationError
            database_unavailable.
        """
        with _errors_named(), self._one_at_a_time:
            engine = self.engine.execution_options(writes=True)
            with engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    # Two stations that start together must not both make the tables.
                    connection.execute(text("SELECT pg_advisory_xact_lock(7228371)"))
                config = alembic_config(connection)
                history = ScriptDirectory.from_config(config)
                known = {script.revision for script in history.walk_revisions()}
                present = _revision(connection)
                if present is not None and present not in known:
                    raise UsageError(
                        f"the database is at revision {present}, which this Blemish does not know",
                        where=self.engine.url.render_as_string(hide_password=True),
                        todo="Install the newer Blemish that wrote it",
                    )
                before = set() if present is None else {step.revision for step in history.walk_revisions(head=present)}
                if revision == "base" or revision in before - {present}:
                    command.downgrade(config, revision)
                else:
                    command.upgrade(config, revision)

    def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises
        ------
        StationError
            database_unavailable.
        """
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


_URLS = "Use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"


def alembic_config(connection: Connection) -> Config:
    """What Alembic has to know to migrate over this connection."""
    config = Config()
    # Alembic's configuration treats a percent sign as the start of a placeholder.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _errors_named() -> Iterator[None]:
    """Errors of the connection become a StationError; those of a statement stay what they are: ours."""
    try:
        yield
    except PoolTimeoutError as error:
        raise database_unavailable() from error
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
            log.warning("The database cannot be used: %s", error.orig)
            raise database_unavailable() from error
        raise


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver would begin transactions by itself, and not before statements that change tables.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes the lock at once: one that wants it later may be refused without waiting.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
