"""The tables of record types, made from their declarations; outside Alembic.

`records.types` makes the difference between two declarations of a type.
"""

from __future__ import annotations

import re
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
    _check_names(declared)
    if declared.subject and declared.anonymous:
        raise InvalidRecordError(f"{declared.name} is about subjects or anonymous, not both")
    for field in declared.fields:
        _check_field(field)
    for subtable in declared.subtables:
        for field in subtable.fields:
            _check_field(field)
    _check_groups(declared)


def _check_names(declared: RecordType) -> None:
    names = [declared.name, *(field.name for field in declared.fields)]
    for subtable in declared.subtables:
        names += [subtable.name, subtable.key, *(field.name for field in subtable.fields)]
        if len(declared.subtable_name(subtable)) > _LONGEST:
            raise InvalidRecordError(
                f"the names {declared.name!r} and {subtable.name!r} are too long together; "
                f"shorten them by {len(declared.subtable_name(subtable)) - _LONGEST} letters"
            )
    for name in names:
        if not _NAME.match(name) or "__" in name:
            raise InvalidRecordError(
                f"{name!r} is not a usable name: small letters, digits and single _, "
                "a letter first, at most 31"
            )
    if declared.name in RESERVED_TYPES:
        raise InvalidRecordError(
            f"a type cannot be called {declared.name!r}: queries have a table of that name"
        )
    _check_distinct([field.name for field in declared.fields] + list(RESERVED))
    _check_distinct([subtable.name for subtable in declared.subtables])
    for subtable in declared.subtables:
        _check_distinct([subtable.key, *(field.name for field in subtable.fields), *RESERVED])


def _check_field(field: Field) -> None:
    if field.type not in _TYPES:
        known = ", ".join(_TYPES)
        raise InvalidRecordError(f"{field.name}: no field type {field.type!r}; one of: {known}")
    values = (*field.choices, *field.missing_codes)
    kinds = _PYTHON.get(field.type, ())
    if any(not isinstance(value, kinds) or isinstance(value, bool) for value in values):
        raise InvalidRecordError(
            f"{field.name}: choices and missing codes are values of a text, integer or real field"
        )
    bounds = (field.minimum, field.maximum)
    if bounds != (None, None) and field.type not in ("integer", "real"):
        raise InvalidRecordError(f"{field.name}: only a number has a minimum or maximum")
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]  # neither is None
        raise InvalidRecordError(f"{field.name}: the minimum is above the maximum")
    if field.max_bytes is not None and (field.type != "blob" or field.max_bytes < 1):
        raise InvalidRecordError(f"{field.name}: only a blob has max_bytes, of at least 1")


def _check_groups(declared: RecordType) -> None:
    _check_distinct([group.name for group in declared.groups])
    grouped = [name for group in declared.groups for name in group.fields]
    _check_distinct(grouped)
    known = {field.name for field in declared.fields}
    if unknown := [name for name in grouped if name not in known]:
        raise InvalidRecordError(f"a group names the field {unknown[0]!r}, which is not there")
    if lonely := [group.name for group in declared.groups if len(group.fields) < 2]:
        raise InvalidRecordError(f"the group {lonely[0]!r} needs two fields or more")


def _check_distinct(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidRecordError(f"the name {name!r} is taken")


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
