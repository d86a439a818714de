"""A whole SQL store out of its database and into an empty one of the same kind.

SQLite: one file, copied by VACUUM INTO, so without what deleted rows left behind. PostgreSQL: the
rows of each table by COPY, all from one snapshot; the schema is made by the migrations and the
declarations of the record types.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from keepline.errors import InstanceError
from keepline.model import RecordType, utc_now
from keepline.store import schema
from keepline.store.backup import BackupReader, BackupWriter
from keepline.store.engine import Store
from keepline.store.tables import LOOKUP_ROWS, common, metadata, records
from keepline.store.tables.declared import record_tables, tables_of
from keepline.store.tables.delivery import delivery_cursor

#: By how much numbers that count up are moved on: more than can have been given out between a
#: backup and the loss of what came after it.
GAP = 1_000_000

_SQLITE = "store.db"
_TABLES = "store/tables.json"
_CHUNK = 1 << 20


def copy_out(store: Store, backup: BackupWriter) -> None:
    """Write the store into a backup, as it is at one moment; others go on writing."""
    if store.dialect == "sqlite":
        _sqlite_out(store, backup)
    else:
        _postgresql_out(store, backup)


def check_free(store: Store) -> None:
    """Raise InstanceError unless a store can be copied into this database: it must be empty."""
    where = store.engine.url.render_as_string(hide_password=True)
    if store.dialect == "sqlite":
        if Path(store.engine.url.database or "").exists():
            raise InstanceError(f"{where} is there already; a backup is restored beside it")
        return
    with store.read() as connection:
        if sa.inspect(connection).get_table_names():
            raise InstanceError(f"{where} has tables; a backup is restored into an empty database")


def copy_in(store: Store, backup: BackupReader) -> None:
    """Make the store that a backup holds in an empty database, and begin a new epoch.

    Triggers are made again. Every sequence, and every record's next revision, goes on far beyond
    the backup's, as numbers were given out after it. Raises InstanceError.
    """
    if store.dialect == "sqlite":
        backup.extract(_SQLITE, Path(store.engine.url.database or ""))
        schema.check(store)
        with store.maintenance() as connection:
            _check_sqlite(connection)
            _begin_epoch(connection)
            connection.execute(sa.text("UPDATE sqlite_sequence SET seq = seq + :gap"), {"gap": GAP})
        schema.migrate(store)
        return
    schema.migrate(store)
    with store.maintenance() as connection:
        _postgresql_in(connection, backup)
        _begin_epoch(connection)


def _sqlite_out(store: Store, backup: BackupWriter) -> None:
    scratch = backup.scratch
    scratch.touch(mode=0o600, exist_ok=False)
    try:
        with store.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection  # outside any transaction
            driver.execute("VACUUM INTO ?", (str(scratch),))
        backup.add_file(_SQLITE, scratch)
    except sqlite3.Error as error:
        raise InstanceError(f"the store cannot be copied: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def copy_sqlite_file(source: Path, backup: BackupWriter, name: str) -> None:
    """Write another SQLite file into a backup, as it is at one moment; others go on writing."""
    scratch = backup.scratch
    scratch.touch(mode=0o600, exist_ok=False)
    try:
        here = sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)
        there = sqlite3.connect(scratch)
        try:
            here.backup(there)
        finally:
            here.close()
            there.close()
        backup.add_file(name, scratch)
    except sqlite3.Error as error:
        raise InstanceError(f"{source} cannot be copied: {error}") from error
    finally:
        for each in ("", "-journal", "-wal", "-shm"):
            scratch.with_name(scratch.name + each).unlink(missing_ok=True)


def _check_sqlite(connection: sa.Connection) -> None:
    found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
    if found != "ok":
        raise InstanceError("the store in the backup is damaged; use another backup")


def _begin_epoch(connection: sa.Connection) -> None:
    """Start a new life of the instance: what others hold of the old one is not taken for its own.

    Recipients' cursors go; their backlogs are made again from the feed and the sent log.
    """
    ended = connection.execute(sa.select(common.instance.c.epoch)).scalar_one()
    last = sa.select(sa.func.coalesce(sa.func.max(records.change_feed.c.id), 0))
    highest = sa.select(sa.func.coalesce(sa.func.max(records.record_index.c.revision), 0))
    floor = sa.select(sa.func.coalesce(sa.func.max(common.restored.c.revision_floor), 0))
    connection.execute(
        sa.insert(common.restored).values(
            epoch=ended,
            after_feed=connection.execute(last).scalar_one(),
            revision_floor=GAP
            + max(connection.execute(highest).scalar_one(), connection.execute(floor).scalar_one()),
            restored_at=utc_now(),
        )
    )
    connection.execute(sa.update(common.instance).values(epoch=secrets.token_hex(8)))
    connection.execute(sa.delete(delivery_cursor))


def _fixed_tables() -> list[sa.Table]:
    """Return the tables whose rows are copied; those of closed sets are made by migrations."""
    return [table for table in metadata.sorted_tables if table not in LOOKUP_ROWS]


def _record_tables(types: Sequence[RecordType]) -> list[sa.Table]:
    return [table for declared in types for table in tables_of(declared)]


def _postgresql_out(store: Store, backup: BackupWriter) -> None:
    with store.read() as connection:
        tables = [*_fixed_tables(), *_record_tables(schema.declared_types(connection))]
        listed = []
        for table in tables:
            columns = list(table.c.keys())
            listed.append(
                {"name": table.name, "columns": columns, "sequence": _sequence(connection, table)}
            )
            with (
                _cursor(connection) as cursor,
                cursor.copy(f"COPY {_list(connection, table, columns)} TO STDOUT") as rows,
                backup.member(f"store/{table.name}.copy") as out,
            ):
                for data in rows:
                    out.write(data)
        with backup.member(_TABLES) as out:
            out.write(json.dumps(listed, indent=2).encode())


def _postgresql_in(connection: sa.Connection, backup: BackupReader) -> None:
    listed = {each["name"]: each for each in json.loads(backup.text(_TABLES))}
    fixed = _fixed_tables()
    _switch(connection, fixed, on=False)
    connection.execute(sa.delete(common.instance))
    for table in fixed:
        _load(connection, backup, table, listed)
    # Transaction numbers of another server mean nothing here: every row of the feed is old.
    connection.execute(sa.update(records.change_feed).values(txid=0))
    _switch(connection, fixed, on=True)
    types = schema.declared_types(connection)
    for declared in types:
        record_tables(declared).create_all(connection)
    for table in _record_tables(types):
        _load(connection, backup, table, listed)
        if "rev_txn" in table.c:
            connection.execute(sa.update(table).values(rev_txn=None))
    for declared in types:
        schema.create_record_tables(connection, declared)


def _switch(connection: sa.Connection, tables: Sequence[sa.Table], *, on: bool) -> None:
    quote = connection.dialect.identifier_preparer.format_table
    verb = "ENABLE" if on else "DISABLE"
    for table in tables:
        connection.exec_driver_sql(f"ALTER TABLE {quote(table)} {verb} TRIGGER USER")


def _load(
    connection: sa.Connection, backup: BackupReader, table: sa.Table, listed: dict[str, Any]
) -> None:
    said = listed.get(table.name)
    if said is None or not set(said["columns"]) <= set(table.c.keys()):
        raise InstanceError(f"the backup's table {table.name} has another form; it is damaged")
    target = _list(connection, table, said["columns"])
    with (
        backup.member(f"store/{table.name}.copy") as source,
        _cursor(connection) as cursor,
        cursor.copy(f"COPY {target} FROM STDIN") as rows,
    ):
        _pour(source, rows)
    if said["sequence"] is not None:
        name, value = said["sequence"]["column"], int(said["sequence"]["value"])
        connection.execute(
            sa.text("SELECT setval(pg_get_serial_sequence(:table, :column), :value)"),
            {"table": table.name, "column": name, "value": value + GAP},
        )


def _pour(source: IO[bytes], rows: Any) -> None:
    while chunk := source.read(_CHUNK):
        rows.write(chunk)


def _sequence(connection: sa.Connection, table: sa.Table) -> dict[str, Any] | None:
    """Return the column that counts up by itself, and the last value it gave out."""
    for column in table.primary_key:
        found = connection.execute(
            sa.text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": table.name, "column": column.name},
        ).scalar()
        if found is not None:
            query = sa.text("SELECT coalesce(pg_sequence_last_value(CAST(:name AS regclass)), 0)")
            value = connection.execute(query, {"name": found}).scalar_one()
            return {"column": column.name, "value": value}
    return None


def _list(connection: sa.Connection, table: sa.Table, columns: Sequence[str]) -> str:
    preparer = connection.dialect.identifier_preparer
    return f"{preparer.format_table(table)} ({', '.join(map(preparer.quote, columns))})"


def _cursor(connection: sa.Connection) -> Any:
    driver: Any = connection.connection.dbapi_connection
    return driver.cursor()
