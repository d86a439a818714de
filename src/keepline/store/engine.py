"""The SQL store: one engine, read and write transactions.

On SQLite a write transaction begins IMMEDIATE, so that two writers queue instead of failing
half-way; foreign keys are on, the journal is a write-ahead log.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from keepline.errors import ConfigError, InstanceError
from keepline.model import Principal

_BUSY_TIMEOUT_MS = 30_000


class Store:
    """A database and the transactions on it. Safe to share between threads.

    `url` is an SQLAlchemy URL of SQLite or PostgreSQL; a relative SQLite path is taken from
    `folder`. Nothing is connected before the first transaction.
    """

    def __init__(self, url: str, *, folder: Path | None = None) -> None:
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise ConfigError(
                "the store's url is not an SQLAlchemy URL such as sqlite:///keepline.db"
            ) from None
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            parsed = _absolute(parsed, folder)
            self.engine = sa.create_engine(parsed)
            event.listen(self.engine, "connect", _on_sqlite_connect)
            event.listen(self.engine, "begin", _on_sqlite_begin)
        elif self.dialect == "postgresql":
            self.engine = sa.create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True
            )
        else:
            raise ConfigError(f"the SQL store cannot be {self.dialect}; use sqlite or postgresql")

    def __repr__(self) -> str:
        return f"Store({self.engine.url.render_as_string(hide_password=True)!r})"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection within one transaction that changes nothing."""
        with self._connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, principal: Principal) -> Iterator[sa.Connection]:
        """Give a connection within one write transaction, done in the name of `principal`.

        It commits at the end of the block and rolls back when the block raises.
        """
        with self._connect(keepline_write=True) as connection, connection.begin():
            self._announce(connection, principal.name)
            yield connection
            self._announce(connection, None)

    @contextmanager
    def maintenance(self) -> Iterator[sa.Connection]:
        """Give a connection within one transaction that may rebuild tables.

        On SQLite foreign keys are off inside it and checked at its end: a broken reference
        raises InstanceError and rolls everything back.
        """
        sqlite = self.dialect == "sqlite"
        with self._connect(keepline_write=True) as connection:
            driver: Any = connection.connection.dbapi_connection
            if sqlite:
                driver.execute("PRAGMA foreign_keys = OFF")  # no effect inside a transaction
            try:
                with connection.begin():
                    yield connection
                    if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise InstanceError("the migration would leave broken references")
            finally:
                if sqlite:
                    driver.execute("PRAGMA foreign_keys = ON")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _connect(self, **options: Any) -> Iterator[sa.Connection]:
        try:
            connection = self.engine.connect().execution_options(**options)
        except sa.exc.OperationalError as error:
            raise InstanceError(f"the SQL store cannot be opened: {_first_line(error)}") from error
        with connection:
            yield connection

    def _announce(self, connection: sa.Connection, actor: str | None) -> None:
        if self.dialect == "postgresql":
            connection.execute(
                sa.text("SELECT set_config('keepline.actor', :actor, true)"),
                {"actor": actor or ""},
            )
            return
        txn = secrets.randbits(62) if actor is not None else None
        connection.execute(
            sa.text("UPDATE writer SET actor = :actor, txn = :txn"), {"actor": actor, "txn": txn}
        )


def _absolute(url: sa.URL, folder: Path | None) -> sa.URL:
    if not url.database or url.database == ":memory:":
        raise ConfigError("the SQL store needs a file: sqlite:///keepline.db")
    path = Path(url.database)
    if not path.is_absolute() and folder is not None:
        path = folder / path
    return url.set(database=str(path))


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: _on_sqlite_begin does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _on_sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("keepline_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _first_line(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).splitlines()[0]
