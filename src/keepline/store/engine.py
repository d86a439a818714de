"""The SQL store: one engine, read and write transactions.

On SQLite a write transaction begins IMMEDIATE, so that two writers queue instead of failing
half-way; foreign keys are on, the journal is a write-ahead log, and what is committed survives
a loss of power (the sent log is of no use otherwise). On either database a read
transaction sees one state of the store from its first to its last query.
"""

from __future__ import annotations

import secrets
import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from keepline.errors import ConfigError, InstanceError, StoreBusyError
from keepline.model import Principal
from keepline.store.types import json_text

#: Read transactions: SQLite's are snapshots by themselves, PostgreSQL's are when asked to be.
_READ_OPTIONS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}

#: SQLite's codes, and PostgreSQL's classes of states, for a database that is out of order.
_SQLITE_DOWN = (
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
)
_POSTGRESQL_DOWN = ("08", "25006", "53", "57P", "58")


class Store:
    """A database and the transactions on it. Safe to share between threads.

    `url` is an SQLAlchemy URL of SQLite or PostgreSQL; a relative SQLite path is taken from
    `folder`. Nothing is connected before the first transaction. `busy_timeout_s` is how long
    a write waits for another one on SQLite before it gives up.
    """

    def __init__(
        self, url: str, *, folder: Path | None = None, busy_timeout_s: float = 30.0
    ) -> None:
        try:
            parsed = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError):  # a port that is no number is a ValueError
            raise ConfigError(
                "the store's url is not an SQLAlchemy URL such as sqlite:///keepline.db"
            ) from None
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            parsed = _absolute(parsed, folder)
            self.engine = sa.create_engine(parsed, hide_parameters=True)
            event.listen(
                self.engine,
                "connect",
                partial(_on_sqlite_connect, busy_timeout_ms=round(busy_timeout_s * 1000)),
            )
            event.listen(self.engine, "begin", _on_sqlite_begin)
        elif self.dialect == "postgresql":
            self.engine = sa.create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                hide_parameters=True,
                json_serializer=json_text,
            )
            event.listen(self.engine, "checkin", _on_checkin)
            event.listen(self.engine, "checkout", partial(_on_checkout, self.engine.dialect))
        else:
            raise ConfigError(f"the SQL store cannot be {self.dialect}; use sqlite or postgresql")

    def __repr__(self) -> str:
        return f"Store({self.engine.url.render_as_string(hide_password=True)!r})"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection within one transaction that changes nothing.

        All its queries see the same state of the store.
        """
        with self._connect(**_READ_OPTIONS[self.dialect]) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(
        self, principal: Principal, reason: str | None = None, *, erasing: bool = False
    ) -> Iterator[sa.Connection]:
        """Give a connection within one write transaction, done in the name of `principal`.

        It commits at the end of the block and rolls back when the block raises. The history
        keeps `reason` with each change; an empty one is none. Only an erasing transaction can
        change what the logs about records hold, and finalised records.

        Raises:
            StoreBusyError: another program has held SQLite's write lock for too long.
            InstanceError: the database is away, full, or out of order otherwise, be it at the
                beginning, in the block or at the commit. After a commit that was cut off it is
                not known whether it holds.
        """
        with (
            _failures(),
            self._connect(keepline_write=True) as connection,
            self._begin(connection),
        ):
            announce(connection, principal.name, reason, erasing=erasing)
            yield connection
            if self.dialect == "sqlite":  # elsewhere what was announced ends by itself
                announce(connection, None)

    @contextmanager
    def maintenance(self) -> Iterator[sa.Connection]:
        """Give a connection within one transaction that may rebuild tables.

        On SQLite foreign keys are off inside it and checked at its end: a broken reference
        raises InstanceError and rolls everything back. Raises as `write` does otherwise.
        """
        sqlite = self.dialect == "sqlite"
        with _failures(), self._connect(keepline_write=True) as connection:
            driver: Any = connection.connection.dbapi_connection
            if sqlite:
                driver.execute("PRAGMA foreign_keys = OFF")  # no effect inside a transaction
            try:
                with self._begin(connection):
                    yield connection
                    if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise InstanceError("the migration would leave broken references")
            finally:
                if sqlite:
                    driver.execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def driver(self) -> Iterator[sa.PoolProxiedConnection]:
        """Give a pooled connection of the driver, in no transaction, without SQLAlchemy's layers.

        What is left open on it is rolled back at the end of the block.
        """
        try:
            pooled = self.engine.raw_connection()
        except sa.exc.DBAPIError as error:
            raise InstanceError(f"the SQL store cannot be opened: {first_line(error)}") from error
        try:
            yield pooled
        finally:
            pooled.close()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _connect(self, **options: Any) -> Iterator[sa.Connection]:
        try:
            connection = self.engine.connect().execution_options(**options)
        except sa.exc.DBAPIError as error:
            raise InstanceError(f"the SQL store cannot be opened: {first_line(error)}") from error
        with connection:
            yield connection

    def _begin(self, connection: sa.Connection) -> sa.RootTransaction:
        try:
            return connection.begin()
        except sa.exc.DBAPIError as error:
            if _is_busy(error):
                raise StoreBusyError from error
            raise InstanceError(f"the SQL store cannot be written: {first_line(error)}") from error


def announce(
    connection: sa.Connection,
    actor: str | None,
    reason: str | None = None,
    *,
    erasing: bool = False,
    txn: int | None = None,
) -> None:
    """Tell the triggers who writes from here on in this transaction, and why; None is nobody.

    On SQLite, `txn` is what makes several writes one revision, drawn when none is given, and
    nobody is to be announced before the commit.
    """
    if connection.dialect.name == "postgresql":
        said = (actor or "", reason or "", "on" if erasing else "")
        connection.exec_driver_sql(_POSTGRESQL_WRITER, said)
    else:
        connection.exec_driver_sql(SQLITE_WRITER, sqlite_writer(actor, reason, erasing, txn))


#: Takes what `sqlite_writer` returns.
SQLITE_WRITER = "UPDATE writer SET actor = ?, txn = ?, reason = ?, erasing = ?"

#: The settings end with the transaction.
_POSTGRESQL_WRITER = (
    "SELECT set_config('keepline.actor', %s, true), set_config('keepline.reason', %s, true), "
    "set_config('keepline.erasing', %s, true)"
)


def sqlite_writer(
    actor: str | None, reason: str | None = None, erasing: bool = False, txn: int | None = None
) -> tuple[str | None, int | None, str | None, int | None]:
    """Return what `SQLITE_WRITER` writes for a writer, or for nobody."""
    if actor is not None and txn is None:
        txn = secrets.randbits(62)
    return (actor, txn, reason, 1 if erasing else None)


def _absolute(url: sa.URL, folder: Path | None) -> sa.URL:
    if not url.database or url.database == ":memory:":
        raise ConfigError("the SQL store needs a file: sqlite:///keepline.db")
    path = Path(url.database)
    if not path.is_absolute() and folder is not None:
        path = folder / path
    return url.set(database=str(path))


def _on_sqlite_connect(connection: Any, _record: object, *, busy_timeout_ms: int) -> None:
    # The driver must not begin transactions by itself: _on_sqlite_begin does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    _keep_write_ahead_log(cursor, busy_timeout_ms)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _keep_write_ahead_log(cursor: Any, busy_timeout_ms: int) -> None:
    # A new file turns into one with such a log under an exclusive lock. Of two connections that
    # do it at once SQLite refuses one without waiting, as each holds what the other waits for.
    deadline = time.monotonic() + busy_timeout_ms / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


#: For so long a connection is taken to be alive when nothing has come from its server.
_QUIET_S = 10.0


def _on_checkin(_connection: object, record: Any) -> None:
    record.info["keepline_used"] = time.monotonic()


def _on_checkout(dialect: sa.Dialect, connection: Any, record: Any, _pooled: object) -> None:
    """Have the pool make new connections when the server is gone, or was restarted.

    A server that goes says so, or hangs up: then there is something to read. That is looked up
    without a round trip, so only a connection that has heard something, or was long unused, is
    asked.
    """
    used = record.info.get("keepline_used")
    if used is None or connection is None:
        return
    if time.monotonic() - used < _QUIET_S and not _has_heard(connection):
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise sa.exc.InvalidatePoolError from error


def _has_heard(connection: Any) -> bool:
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _on_sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("keepline_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _failures() -> Iterator[None]:
    """Translate what is no answer to a statement, but a failure of the database."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if _is_busy(error):
            raise StoreBusyError from error
        if _is_down(error):
            raise InstanceError(f"the SQL store cannot be written: {first_line(error)}") from error
        raise


def _is_busy(error: sa.exc.DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _is_down(error: sa.exc.DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_DOWN
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or state.startswith(_POSTGRESQL_DOWN)


def first_line(error: Exception) -> str:
    """Return what the database's driver says of an error, in one line without values."""
    said = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return (str(said).splitlines() or [type(said).__name__])[0]
