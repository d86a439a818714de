"""Whether the triggers of a database are those that this version makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from keepline.model import RecordType
from keepline.store.tables.declared import record_tables
from keepline.store.triggers import postgresql, sqlite
from keepline.store.triggers.postgresql_functions import FUNCTIONS, Function

#: What puts triggers right.
REMEDY = "run `keepline migrate`"


def faults(connection: sa.Connection, declared: Iterable[RecordType]) -> Iterator[str]:
    """Yield a line for each trigger that is not there, off, or not as it should be.

    Then for each column that a record type's tables have and its declaration has not, or the
    other way round: images do not hold it on SQLite. Each line says what to do.
    """
    types = list(declared)
    find = _on_sqlite if connection.dialect.name == "sqlite" else _on_postgresql
    yield from find(connection, types)
    for each in types:
        yield from _columns(connection, each)


def _columns(connection: sa.Connection, declared: RecordType) -> Iterator[str]:
    inspector = sa.inspect(connection)
    for table in record_tables(declared).tables.values():
        if table.name == "subject" or not inspector.has_table(table.name):
            continue  # a missing table is told with its triggers
        found = {column["name"] for column in inspector.get_columns(table.name)}
        for name in sorted(found - set(table.columns.keys())):
            yield (
                f"the column {name} of {table.name} is not declared, so nothing watches over it: "
                f"declare it and run `keepline records types migrate`, or drop it"
            )
        for name in sorted(set(table.columns.keys()) - found):
            yield (
                f"the column {name} of {table.name} is declared and not there: "
                "run `keepline records types migrate`"
            )


def _on_sqlite(connection: sa.Connection, types: list[RecordType]) -> Iterator[str]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    found = {row.name: row.sql for row in rows}
    expected = [
        *sqlite.fixed_triggers(),
        *(t for each in types for t in sqlite.record_triggers(each)),
    ]
    for trigger in expected:
        if trigger.name not in found:
            yield f"the trigger {trigger.name} of {trigger.table} is missing: {REMEDY}"
        elif found[trigger.name] != trigger.sql:
            yield f"the trigger {trigger.name} of {trigger.table} was changed: {REMEDY}"
    idle = "SELECT count(*) FROM writer WHERE coalesce(actor, txn, stamp, reason, erasing) IS NULL"
    if connection.exec_driver_sql(idle).scalar_one() != 1:
        yield (
            "the table writer is not empty though nobody writes, so guards may be off: set all its "
            "columns but id to NULL"
        )


def _on_postgresql(connection: sa.Connection, types: list[RecordType]) -> Iterator[str]:
    if connection.exec_driver_sql("SHOW session_replication_role").scalar_one() != "origin":
        yield (
            "session_replication_role is not origin, which switches triggers off: "
            "reset it for this database and user"
        )
    yield from _functions(connection)
    rows = connection.exec_driver_sql(_TRIGGERS)
    found = {(row.relname, row.tgname): row for row in rows}
    expected = [
        *postgresql.fixed_triggers(),
        *(trigger for each in types for trigger in postgresql.record_triggers(each)),
    ]
    for trigger in expected:
        row = found.get((trigger.table, trigger.name))
        if row is None:
            yield f"the trigger {trigger.name} of {trigger.table} is missing: {REMEDY}"
        elif row.definition != trigger.definition:
            yield f"the trigger {trigger.name} of {trigger.table} was changed: {REMEDY}"
        elif row.tgenabled not in "OA":
            yield f"the trigger {trigger.name} of {trigger.table} is off: {REMEDY}"


_TRIGGERS = """
    SELECT c.relname, t.tgname, t.tgenabled::text AS tgenabled,
        pg_get_triggerdef(t.oid, true) AS definition
    FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND pg_table_is_visible(c.oid)"""

_FUNCTIONS = """
    SELECT p.proname, p.prosrc, l.lanname, p.provolatile::text AS provolatile, p.prosecdef,
        coalesce(p.proconfig, '{}') AS proconfig
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE pg_function_is_visible(p.oid) AND p.pronargs = 0 AND p.proname LIKE 'keepline%'"""


def _functions(connection: sa.Connection) -> Iterator[str]:
    rows = connection.exec_driver_sql(_FUNCTIONS, execution_options={"no_parameters": True})
    found = {row.proname: row for row in rows}
    for function in FUNCTIONS:
        row = found.get(function.name)
        if row is None:
            yield f"the function {function.name} is missing: {REMEDY}"
        elif not _as_made(function, row):
            yield f"the function {function.name} was changed: {REMEDY}"


def _as_made(function: Function, row: sa.Row[tuple[str, str, str, str, bool, list[str]]]) -> bool:
    return (
        row.prosrc == function.body
        and row.lanname == function.language
        and row.provolatile == "v"
        and not row.prosecdef
        and sorted(row.proconfig) == sorted(function.settings)
    )
