"""Changing the tables of a record type on SQLite, which alters little: each is made anew.

The old table steps aside under another name, the new one is made as for a new type, and the
rows are copied. What others made for the table (indexes, triggers) would go with the old one in
silence: it is made again, or the migration is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from keepline.errors import DeclarationError
from keepline.records.type_difference import Difference, TableChange
from keepline.store.tables.declared import record_tables

_ASIDE = "keepline__aside"


def changed(connection: sa.Connection, found: Difference, change: TableChange) -> bool:
    """Return whether a table has to be made anew."""
    old = record_tables(found.old).tables[change.old_table]
    new = record_tables(found.new).tables[change.new_table]
    if any(pair.renamed or pair.converted for pair in change.kept):
        return True
    return str(CreateTable(old).compile(connection)) != str(CreateTable(new).compile(connection))


def take_down(connection: sa.Connection, table: str) -> list[str]:
    """Drop the triggers and indexes on a table; return the statements that make them again."""
    quote = connection.dialect.identifier_preparer.quote
    rows = connection.execute(
        sa.text(
            "SELECT type, name, sql FROM sqlite_master "
            "WHERE tbl_name = :table AND type IN ('trigger', 'index') AND sql IS NOT NULL"
        ),
        {"table": table},
    ).all()
    for kind, name, _ in rows:
        connection.exec_driver_sql(f"DROP {kind.upper()} {quote(name)}")
    return [row.sql for row in rows]


def put_back(connection: sa.Connection, declared: str, statements: list[str]) -> None:
    """Make triggers and indexes again; raises DeclarationError for one that does not fit."""
    for statement in statements:
        try:
            connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            what = " ".join(statement.split()[:4])
            raise DeclarationError(
                [f"{declared}: {what}: {error.orig}; drop it first, and make it again after"]
            ) from error


def rebuild(
    connection: sa.Connection,
    found: Difference,
    change: TableChange,
    converted: Mapping[str, str],
) -> None:
    """Make one table anew and copy its rows; nothing may be left on the old one.

    `converted` names, by the old field's name, the column that holds its converted values.
    """
    old = record_tables(found.old).tables[change.old_table]
    new = record_tables(found.new).tables[change.new_table]
    # In SQLite's own way of old, views and references go on naming the table that comes.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    connection.exec_driver_sql(f"ALTER TABLE {change.old_table} RENAME TO {_ASIDE}")
    connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
    new.create(connection)
    source = {column.name: column.name for column in new.c if column.name in old.c}
    for field in change.added:
        source.pop(field.name, None)
    for pair in change.kept:
        source[pair.new.name] = converted.get(pair.old.name, pair.old.name)
    if change.subtables:
        source[change.subtables[1].key] = change.subtables[0].key
    aside = sa.table(_ASIDE, *(sa.column(name) for name in source.values()))
    rows = sa.select(*(aside.c[name] for name in source.values()))
    connection.execute(sa.insert(new).from_select(list(source), rows, include_defaults=False))
    connection.exec_driver_sql(f"DROP TABLE {_ASIDE}")
