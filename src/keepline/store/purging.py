"""Removing from a database's files what its tables no longer hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from keepline.store.engine import Store

_LOCK_TIMEOUT = "60s"


def purge(store: Store, tables: Sequence[str]) -> list[str]:
    """Write the database's files anew without deleted rows; say, a line each, what remains.

    SQLite: the whole file is rebuilt and its write-ahead log cut to nothing. PostgreSQL: the
    given tables and their indexes are rebuilt, and their statistics made anew; each is locked
    meanwhile.
    """
    if store.dialect == "sqlite":
        return _purge_sqlite(store)
    return _purge_postgresql(store, tables)


def _purge_sqlite(store: Store) -> list[str]:
    with store.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection  # outside any transaction
        try:
            driver.execute("PRAGMA secure_delete = ON")
            driver.execute("VACUUM")
            busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return [
                    _left(f"they could not be rebuilt ({error})", "there is room for a second copy")
                ]
            busy = 1
    return [_left("another program was using them", "it has ended")] if busy else []


def _left(why: str, when: str) -> str:
    return (
        f"the database's files: {why}, so they may still hold deleted rows; erase the subject's "
        f"number again when {when}"
    )


def _purge_postgresql(store: Store, tables: Sequence[str]) -> list[str]:
    left = []
    engine = store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        quote = connection.dialect.identifier_preparer.quote
        for table in tables:
            try:
                connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {quote(table)}")
            except sa.exc.DBAPIError:
                left.append(
                    f"the files of table {table}: it was in use, there was no room, or it is not "
                    "this role's to rebuild; erase the subject's number again"
                )
                continue
            if not _clear_statistics(connection, table):
                left.append(f"the planner's statistics of the empty table {table} may hold values")
        connection.exec_driver_sql("RESET lock_timeout")
    left.append(
        "PostgreSQL's write-ahead log, its archives and standbys keep deleted rows until they "
        "are recycled: see archive_command and wal_keep_size"
    )
    return left


def _clear_statistics(connection: sa.Connection, table: str) -> bool:
    """Remove the statistics that ANALYZE leaves as they were for a table without rows."""
    wanted = sa.text(
        "SELECT count(*) FROM pg_stats WHERE schemaname = current_schema() AND tablename = :name"
    )
    quoted = connection.dialect.identifier_preparer.quote(table)
    empty = connection.exec_driver_sql(f"SELECT NOT EXISTS (SELECT 1 FROM {quoted})").scalar_one()  # noqa: S608 - a table's name
    if not empty or not connection.execute(wanted, {"name": table}).scalar_one():
        return True
    gone = sa.text("DELETE FROM pg_catalog.pg_statistic WHERE starelid = CAST(:name AS regclass)")
    try:
        connection.execute(gone, {"name": quoted})
    except sa.exc.DBAPIError:  # only a superuser may
        return False
    return True
