"""Changing the tables of a record type on PostgreSQL: each is altered where it stands.

So what others made for it (views, grants, indexes, triggers) stays with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.schema import (
    AddConstraint,
    CreateColumn,
    DropColumnComment,
    DropTableComment,
    SetColumnComment,
    SetTableComment,
)

from keepline.model import RecordType
from keepline.records.type_difference import Difference, TableChange
from keepline.store.tables.declared import record_tables

#: How an enabled trigger is enabled again, by what the catalogue says of it.
_ENABLE = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}

_KEY_ASIDE = "keepline__key"


def lock(connection: sa.Connection, declared: RecordType) -> None:
    """Let nobody else read or write the tables of a type until the transaction ends."""
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(quote(name) for name in record_tables(declared).tables)
    connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")


def silence(connection: sa.Connection, found: Difference) -> list[str]:
    """Disable the triggers on the tables of a type; return the statements that enable them."""
    again = []
    quote = connection.dialect.identifier_preparer.quote
    for change in found.tables:
        rows = connection.execute(
            sa.text(
                "SELECT tgname, tgenabled::text FROM pg_trigger "
                "WHERE tgrelid = CAST(:name AS regclass) AND NOT tgisinternal "
                "AND tgenabled <> 'D'"
            ),
            {"name": quote(change.old_table)},
        )
        for name, enabled in rows.all():
            head = f"ALTER TABLE {quote(change.old_table)}"
            connection.exec_driver_sql(f"{head} DISABLE TRIGGER {quote(name)}")
            head = f"ALTER TABLE {quote(change.new_table)}"
            again.append(f"{head} {_ENABLE[enabled]} TRIGGER {quote(name)}")
    return again


def alter(
    connection: sa.Connection,
    found: Difference,
    change: TableChange,
    converted: Mapping[str, str],
) -> None:
    """Make one table what the new declaration says.

    `converted` names, by the old field's name, the column that holds its converted values.
    """
    old = record_tables(found.old).tables[change.old_table]
    new = record_tables(found.new).tables[change.new_table]
    rules = _changed_rules(connection, change, old, new)
    for statement in _statements(connection, change, old, new, converted, rules[0]):
        connection.exec_driver_sql(statement)
    for constraint in rules[1]:
        connection.execute(AddConstraint(constraint, isolate_from_table=False))
    _comment(connection, change, old, new)


def _statements(
    connection: sa.Connection,
    change: TableChange,
    old: sa.Table,
    new: sa.Table,
    converted: Mapping[str, str],
    without: list[str],
) -> Iterator[str]:
    quote = connection.dialect.identifier_preparer.quote
    table = f"ALTER TABLE {quote(change.new_table)}"
    if change.old_table != change.new_table:
        yield f"ALTER TABLE {quote(change.old_table)} RENAME TO {quote(change.new_table)}"
    yield from (f"{table} DROP CONSTRAINT {quote(name)}" for name in without)
    gone = [field.name for field in change.dropped]
    gone += [name for name in ("subject_no", "finalised") if name in old.c and name not in new.c]
    yield from (f"{table} DROP COLUMN {quote(name)}" for name in gone)
    keys = [each.key for each in change.subtables or ()]
    if keys:  # out of the way of fields, which may get its name, or have had it
        yield f"{table} RENAME COLUMN {quote(keys[0])} TO {_KEY_ASIDE}"
    for pair in change.kept:
        was, now = quote(pair.old.name), quote(pair.new.name)
        required = pair.old.required
        if pair.converted:
            yield f"{table} DROP COLUMN {was}"
            was, required = quote(converted[pair.old.name]), False
        if was != now:
            yield f"{table} RENAME COLUMN {was} TO {now}"
        if required != pair.new.required:
            yield f"{table} ALTER COLUMN {now} {'SET' if pair.new.required else 'DROP'} NOT NULL"
    if keys:
        yield f"{table} RENAME COLUMN {_KEY_ASIDE} TO {quote(keys[1])}"
    former = {field.name for field in (*change.dropped, *(pair.old for pair in change.kept))}
    there = {*old.c.keys()} - {*former, *keys[:1]} | {pair.new.name for pair in change.kept}
    there |= {*keys[1:]}
    for column in new.c:
        if column.name not in there:
            yield f"{table} ADD COLUMN {CreateColumn(column).compile(connection)}"


def _changed_rules(
    connection: sa.Connection, change: TableChange, old: sa.Table, new: sa.Table
) -> tuple[list[str], list[sa.Constraint]]:
    """Return the names of constraints that go, and the constraints that come."""
    before, after = _checks(connection, old), _checks(connection, new)
    touched = {field.name for field in change.dropped}
    touched |= {pair.old.name for pair in change.kept if pair.renamed or pair.converted}
    kept = {
        name
        for name, (text, _) in before.items()
        if after.get(name, ("", None))[0] == text and name.rpartition("_")[0] not in touched
    }
    gone = [name for name in before if name not in kept]
    come: list[sa.Constraint] = [rule for name, (_, rule) in after.items() if name not in kept]
    if change.old_table != change.new_table:
        # PostgreSQL names these by their table.
        gone += [*_named_by_table(connection, change.old_table)]
        come += [new.primary_key, *new.foreign_key_constraints]
    elif "subject_no" in new.c and "subject_no" not in old.c:
        come += new.foreign_key_constraints
    return gone, come


def _checks(
    connection: sa.Connection, table: sa.Table
) -> dict[str, tuple[str, sa.CheckConstraint]]:
    literal = {"literal_binds": True}
    return {
        str(rule.name): (str(rule.sqltext.compile(connection, compile_kwargs=literal)), rule)
        for rule in table.constraints
        if isinstance(rule, sa.CheckConstraint)
    }


def _named_by_table(connection: sa.Connection, table: str) -> list[str]:
    quote = connection.dialect.identifier_preparer.quote
    return list(
        connection.execute(
            sa.text(
                "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:name AS regclass) "
                "AND contype IN ('p', 'f') ORDER BY contype"
            ),
            {"name": quote(table)},
        ).scalars()
    )


def _comment(connection: sa.Connection, change: TableChange, old: sa.Table, new: sa.Table) -> None:
    if old.comment != new.comment:
        connection.execute(SetTableComment(new) if new.comment else DropTableComment(new))
    said = {pair.new.name: pair.old.comment or None for pair in change.kept if not pair.converted}
    for column in new.c:
        if column.comment != said.get(column.name):
            comment = SetColumnComment(column) if column.comment else DropColumnComment(column)
            connection.execute(comment)
