"""The tables of record types, made from their declarations; outside Alembic.

`records.types` makes the difference between two declarations of a type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from keepline.errors import InvalidRecordError
from keepline.model import Field, RecordType, SubTable
from keepline.store.tables.records import subject
from keepline.store.types import Json, UtcDateTime

#: Columns that the database stamps on every record row; nobody else may write them.
STAMPED = ("row_born", "row_rev", "revision", "rev_txn")

#: Columns of every record, here or in a delivery, that no declaration may use.
RESERVED = (*STAMPED, "record_key", "group_name", "subject_no", "finalised", "target_key")

#: Names of tables about records of all types, which no type may use.
RESERVED_TYPES = ("index", "subject")

#: The largest blob where its field declares no other bound.
MAX_BYTES = 16 * 1024 * 1024

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")

#: PostgreSQL cuts longer names off in silence.
_LONGEST = 63

_TYPES: dict[str, Any] = {
    "text": sa.Text,
    "integer": sa.BigInteger,
    "real": sa.Double,
    "boolean": sa.Boolean,
    "date": sa.Date,
    "datetime": UtcDateTime,
    "json": Json,
    "blob": sa.LargeBinary,
}

_PYTHON: dict[str, tuple[type, ...]] = {"text": (str,), "integer": (int,), "real": (int, float)}


def check_declaration(declared: RecordType) -> None:
    """Raise InvalidRecordError unless a declaration can be made into tables.

    Every name can be an SQL name, and nothing in it contradicts something else.
    """
    for mistake in mistakes_in(declared):
        raise InvalidRecordError(mistake)


def mistakes_in(declared: RecordType) -> Iterator[str]:
    """Yield a line for each thing that keeps a declaration from being made into tables."""
    yield from _names(declared)
    if declared.subject and declared.anonymous:
        yield f"{declared.name} is about subjects or anonymous, not both"
    for fields in (declared.fields, *(subtable.fields for subtable in declared.subtables)):
        for field in fields:
            yield from _in_field(field)
    yield from _in_groups(declared)


def _names(declared: RecordType) -> Iterator[str]:
    names = [declared.name, *(field.name for field in declared.fields)]
    for subtable in declared.subtables:
        names += [subtable.name, subtable.key, *(field.name for field in subtable.fields)]
        if (longer := len(declared.subtable_name(subtable)) - _LONGEST) > 0:
            yield (
                f"the names {declared.name!r} and {subtable.name!r} are too long together; "
                f"shorten them by {longer} letters"
            )
    for name in dict.fromkeys(names):
        if not _NAME.match(name) or "__" in name:
            yield (
                f"{name!r} is not a usable name: small letters, digits and single _, "
                "a letter first, at most 31"
            )
    if declared.name in RESERVED_TYPES:
        yield f"a type cannot be called {declared.name!r}: queries have a table of that name"
    yield from _taken([*(field.name for field in declared.fields), *RESERVED])
    yield from _taken([subtable.name for subtable in declared.subtables])
    for subtable in declared.subtables:
        yield from _taken([subtable.key, *(field.name for field in subtable.fields), *RESERVED])


def _in_field(field: Field) -> Iterator[str]:
    if field.type not in _TYPES:
        known = ", ".join(_TYPES)
        yield f"{field.name}: no field type {field.type!r}; one of: {known}"
        return
    values = (*field.choices, *field.missing_codes)
    kinds = _PYTHON.get(field.type, ())
    if any(not isinstance(value, kinds) or isinstance(value, bool) for value in values):
        yield f"{field.name}: choices and missing codes are values of a text, integer or real field"
    if field.type in ("integer", "real"):
        if None not in (field.minimum, field.maximum) and field.minimum > field.maximum:  # type: ignore[operator]  # neither is None
            yield f"{field.name}: the minimum is above the maximum"
    elif (field.minimum, field.maximum) != (None, None):
        yield f"{field.name}: only a number has a minimum or maximum"
    if field.max_bytes is not None and (field.type != "blob" or field.max_bytes < 1):
        yield f"{field.name}: only a blob has max_bytes, of at least 1"


def _in_groups(declared: RecordType) -> Iterator[str]:
    yield from _taken([group.name for group in declared.groups])
    grouped = [name for group in declared.groups for name in group.fields]
    yield from _taken(grouped)
    known = {field.name for field in declared.fields}
    for name in dict.fromkeys(grouped):
        if name not in known:
            yield f"a group names the field {name!r}, which is not there"
    for group in declared.groups:
        if len(group.fields) < 2:
            yield f"the group {group.name!r} needs two fields or more"


def _taken(names: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"the name {name!r} is taken"


@lru_cache(maxsize=256)
def record_tables(declared: RecordType) -> sa.MetaData:
    """Return the tables of a record type and its sub-tables.

    The same ones every time, so that statements about them are compiled once.
    """
    tables = sa.MetaData()
    record_table(declared, tables)
    for subtable in declared.subtables:
        subtable_table(declared, subtable, tables)
    return tables


def tables_of(declared: RecordType) -> list[sa.Table]:
    """Return the table of a record type, then those of its sub-tables."""
    made = record_tables(declared).tables
    children = [made[declared.subtable_name(each)] for each in declared.subtables]
    return [made[declared.table_name], *children]


def record_table(declared: RecordType, into: sa.MetaData) -> sa.Table:
    """Return the SQL table of a record type, made in `into` when it is not there yet."""
    known = into.tables.get(declared.table_name)
    if known is not None:
        return known
    check_declaration(declared)
    return sa.Table(
        declared.table_name,
        into,
        sa.Column("record_key", sa.Text, primary_key=True),
        sa.Column("group_name", sa.Text),
        *_flags(declared),
        *_columns(declared.fields),
        sa.Column("row_born", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("row_rev", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rev_txn", sa.BigInteger),
        comment=declared.comment or None,
    )


def subtable_table(declared: RecordType, subtable: SubTable, into: sa.MetaData) -> sa.Table:
    """Return the SQL table of a record type's sub-rows."""
    parent = record_table(declared, into)
    name = declared.subtable_name(subtable)
    known = into.tables.get(name)
    if known is not None:
        return known
    return sa.Table(
        name,
        into,
        sa.Column(
            "record_key",
            sa.ForeignKey(parent.c.record_key, ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column(subtable.key, sa.Text, primary_key=True),
        *_columns(subtable.fields),
        comment=subtable.comment or None,
    )


def _flags(declared: RecordType) -> list[sa.Column[Any]]:
    flags: list[sa.Column[Any]] = []
    if declared.subject:
        flags.append(sa.Column("subject_no", sa.BigInteger, sa.ForeignKey(subject.c.number)))
    if declared.finalised:
        flags.append(sa.Column("finalised", sa.Boolean, nullable=False, server_default=sa.false()))
    return flags


def _columns(fields: tuple[Field, ...]) -> list[sa.Column[Any] | sa.CheckConstraint]:
    columns = [
        sa.Column(
            field.name,
            _TYPES[field.type],
            nullable=not field.required,
            comment=field.comment or None,
        )
        for field in fields
    ]
    return [*columns, *(rule for field in fields for rule in field_rules(field))]


def field_rules(field: Field) -> list[sa.CheckConstraint]:
    """Return the constraints that a field's declaration puts on its column."""
    column: sa.Column[Any] = sa.Column(field.name, _TYPES[field.type])
    coded = column.in_(field.missing_codes) if field.missing else sa.false()
    rules = {
        "choice": column.in_((*field.choices, *field.missing_codes)) if field.choices else None,
        "minimum": None if field.minimum is None else (column >= field.minimum) | coded,
        "maximum": None if field.maximum is None else (column <= field.maximum) | coded,
        "size": sa.func.length(column) <= (field.max_bytes or MAX_BYTES)
        if field.type == "blob"
        else None,
    }
    return [
        sa.CheckConstraint(rule, name=f"{field.name}_{kind}")
        for kind, rule in rules.items()
        if rule is not None
    ]
