"""Writing what a program built: a record with its sub-rows, beside what people typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Field, Principal, RecordType, SubTable
from keepline.records.outcomes import Outcome
from keepline.records.subjects import check_subject
from keepline.records.values import checked, same
from keepline.store.tables.declared import record_tables

Values = Mapping[str, Any]

#: How often an insertion is tried when others insert and delete the same key, or a trigger of
#: somebody's drops the row in silence.
_TRIES = 3


def put_record(
    connection: sa.Connection,
    declared: RecordType,
    key: str,
    values: Values,
    subrows: Mapping[str, Sequence[Values]] | None = None,
    group: str | None = None,
    subject: int | None = None,
    principal: Principal | None = None,
) -> Outcome:
    """Write a record and its sub-rows in the transaction of `connection`.

    A new record gets all `values`, `group` and the number of its `subject`, whom `principal`
    (keepline itself where none is given) has to see. Of one that is
    there only fields that its type declares as not updatable are written, and only where they
    differ: what people may edit is theirs. Each sub-table in `subrows` is made to hold exactly
    those rows, each with its key. A record that somebody else inserts at the same moment is
    waited for and merged with. Return saved or unchanged. Raises InvalidRecordError, and
    RecordError when the database drops a new record in silence; its own errors pass.
    """
    check_subject(connection, declared, subject, principal or Principal.system())
    values = _checked(declared.fields, values, declared.name)
    wanted = {
        subtable: _checked_rows(subtable, rows)
        for subtable, rows in _by_subtable(declared, subrows or {})
    }
    table = record_tables(declared).tables[declared.table_name]
    row = _lock(connection, table, key)
    changed = False
    if row is None:
        row = insert(connection, declared, new_row(declared, key, values, group, subject))
        changed = row is None
    if row is not None and (changes := _built_changes(declared, row, values)):
        connection.execute(sa.update(table).where(table.c.record_key == key).values(changes))
        changed = True
    for subtable, rows in wanted.items():
        changed |= _put_subrows(connection, declared, subtable, key, rows)
    return Outcome.SAVED if changed else Outcome.UNCHANGED


def new_row(
    declared: RecordType, key: str, values: Values, group: str | None, subject: int | None
) -> dict[str, Any]:
    """Return the complete row of a new record; raises InvalidRecordError."""
    complete = dict.fromkeys(field.name for field in declared.fields) | dict(values)
    new: dict[str, Any] = {"record_key": key, "group_name": group}
    if declared.subject:
        new["subject_no"] = subject
    return {**new, **_checked(declared.fields, complete, declared.name)}


def insert(connection: sa.Connection, declared: RecordType, new: Values) -> Values | None:
    """Insert a row; return None, or the row, locked, that others put in its place meanwhile."""
    table = record_tables(declared).tables[declared.table_name]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = (
        dialect.insert(table)
        .values(dict(new))
        .on_conflict_do_nothing(index_elements=["record_key"])
        .returning(table.c.record_key)
    )
    for _ in range(_TRIES):
        if connection.execute(statement).first() is not None:
            return None
        row = _lock(connection, table, new["record_key"])
        if row is not None:
            return row
    raise RecordError(f"the database does not take a new record into {table.name}")


def _lock(connection: sa.Connection, table: sa.Table, key: str) -> Values | None:
    query = sa.select(table).where(table.c.record_key == key).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else row._asdict()


def _built_changes(declared: RecordType, row: Values, values: Values) -> dict[str, Any]:
    return {
        field.name: values[field.name]
        for field in declared.fields
        if not field.updatable
        and field.name in values
        and not same(values[field.name], row[field.name])
    }


def _put_subrows(
    connection: sa.Connection,
    declared: RecordType,
    subtable: SubTable,
    key: str,
    wanted: dict[str, dict[str, Any]],
) -> bool:
    table = record_tables(declared).tables[declared.subtable_name(subtable)]
    mine, row_key = table.c.record_key == key, table.c[subtable.key]
    found = {
        row[subtable.key]: row
        for row in connection.execute(sa.select(table).where(mine)).mappings()
    }
    gone = [name for name in found if name not in wanted]
    new = [
        {"record_key": key, subtable.key: name, **values}
        for name, values in wanted.items()
        if name not in found
    ]
    other = {
        name: values
        for name, values in wanted.items()
        if name in found and not all(same(values[each], found[name][each]) for each in values)
    }
    if gone:
        connection.execute(sa.delete(table).where(mine, row_key.in_(gone)))
    if new:
        connection.execute(sa.insert(table), new)
    for name, values in other.items():
        connection.execute(sa.update(table).where(mine, row_key == name).values(values))
    return bool(gone or new or other)


def _by_subtable(
    declared: RecordType, subrows: Mapping[str, Sequence[Values]]
) -> list[tuple[SubTable, Sequence[Values]]]:
    known = {subtable.name: subtable for subtable in declared.subtables}
    if unknown := sorted(subrows.keys() - known):
        raise InvalidRecordError(f"{declared.name} has no sub-table {unknown[0]!r}")
    return [(known[name], rows) for name, rows in subrows.items()]


def _checked_rows(subtable: SubTable, rows: Sequence[Values]) -> dict[str, dict[str, Any]]:
    key_field = Field(subtable.key, required=True)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = checked(key_field, row.get(subtable.key))
        if name in found:
            raise InvalidRecordError(f"{subtable.name} holds {name!r} twice")
        given = {each: value for each, value in row.items() if each != subtable.key}
        complete = {field.name: None for field in subtable.fields} | given
        found[name] = _checked(subtable.fields, complete, subtable.name)
    return found


def _checked(fields: Sequence[Field], values: Values, where: str) -> dict[str, Any]:
    known = {field.name: field for field in fields}
    if unknown := sorted(values.keys() - known):
        raise InvalidRecordError(f"{where} has no field {unknown[0]!r}")
    return {name: checked(known[name], value) for name, value in values.items()}
