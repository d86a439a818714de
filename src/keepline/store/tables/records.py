"""Record types and the change feed; the feed is written by triggers alone.

The tables of the record types themselves are made from their declarations, by `record_table`
and `subtable_table`, outside Alembic.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from keepline.errors import InvalidRecordError
from keepline.model import Field, RecordType, SubTable
from keepline.store.tables.metadata import lookup, metadata
from keepline.store.types import BigInt, Json, UtcDateTime

feed_op = lookup("feed_op")

record_type = sa.Table(
    "record_type",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("declaration", Json, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)

#: One row for each revision of each record. `txid` is the writing transaction on PostgreSQL
#: (readers stop below the oldest one still running) and 0 on SQLite, where writers queue.
change_feed = sa.Table(
    "change_feed",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("record_key", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("op", sa.ForeignKey("feed_op.name"), nullable=False),
    sa.Column("txid", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("record_type", "record_key", "revision"),
    sa.Index("ix_change_feed_txid_id", "txid", "id"),
    sqlite_autoincrement=True,
)

ROWS = {feed_op: ("insert", "update", "delete")}

#: Columns that the database stamps on every record row; nobody else may write them.
STAMPED = ("row_born", "row_rev", "revision", "rev_txn")

#: Columns of every record, here or in a delivery, that no declaration may use.
RESERVED = (*STAMPED, "record_key", "group_name", "target_key")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")

#: PostgreSQL cuts longer names off in silence.
_LONGEST = 63

_TYPES: dict[str, Any] = {
    "text": sa.Text,
    "integer": sa.BigInteger,
    "real": sa.Double,
    "boolean": sa.Boolean,
    "datetime": UtcDateTime,
    "json": Json,
}


def check_declaration(declared: RecordType) -> None:
    """Raise InvalidRecordError unless every name of a declaration can be an SQL name."""
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
    _check_distinct([field.name for field in declared.fields] + list(RESERVED))
    _check_distinct([subtable.name for subtable in declared.subtables])
    for subtable in declared.subtables:
        _check_distinct([subtable.key, *(field.name for field in subtable.fields), *RESERVED])


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
    choices = [
        sa.CheckConstraint(column.in_(field.choices), name=f"{field.name}_choice")
        for field, column in zip(fields, columns, strict=True)
        if field.choices
    ]
    return [*columns, *choices]
