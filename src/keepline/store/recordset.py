"""Reading records with their sub-rows, as a principal may see them.

Everything that shows, sends or downloads records reads them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

from keepline.model import Principal, RecordImage, RecordType
from keepline.store.access import visible
from keepline.store.tables.declared import record_tables

_BATCH = 500


def fetch(
    connection: sa.Connection,
    declared: RecordType,
    principal: Principal,
    keys: Sequence[str] | None = None,
) -> Iterator[RecordImage]:
    """Yield the records called `keys` (all when None) that `principal` may see, by key.

    Two queries a batch of 500, one more for each sub-table; nothing is held beyond a batch.
    A key that does not exist, or may not be seen, yields nothing.
    """
    tables = record_tables(declared)
    table = tables.tables[declared.table_name]
    allowed, _ = visible(table, principal)
    base = sa.select(table).where(allowed).order_by(table.c.record_key)
    if keys is None:
        yield from _all(connection, declared, base, table, tables)
        return
    remaining = iter(sorted(set(keys)))
    while part := list(islice(remaining, _BATCH)):
        rows = connection.execute(base.where(table.c.record_key.in_(part))).mappings().all()
        yield from _with_subrows(connection, declared, rows, tables)


def _all(
    connection: sa.Connection,
    declared: RecordType,
    base: sa.Select[Any],
    table: sa.Table,
    tables: sa.MetaData,
) -> Iterator[RecordImage]:
    after: str | None = None
    while True:
        page = base.limit(_BATCH)
        if after is not None:
            page = page.where(table.c.record_key > after)
        rows = connection.execute(page).mappings().all()
        yield from _with_subrows(connection, declared, rows, tables)
        if len(rows) < _BATCH:
            return
        after = rows[-1]["record_key"]


def _with_subrows(
    connection: sa.Connection,
    declared: RecordType,
    rows: Sequence[sa.RowMapping],
    tables: sa.MetaData,
) -> Iterator[RecordImage]:
    keys = [row["record_key"] for row in rows]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        key: {subtable.name: [] for subtable in declared.subtables} for key in keys
    }
    for subtable in declared.subtables:
        child = tables.tables[declared.subtable_name(subtable)]
        query = (
            sa.select(child)
            .where(child.c.record_key.in_(keys))
            .order_by(child.c.record_key, child.c[subtable.key])
        )
        for subrow in connection.execute(query).mappings():
            values = {name: value for name, value in subrow.items() if name != "record_key"}
            found[subrow["record_key"]][subtable.name].append(values)
    for row in rows:
        yield RecordImage(
            type=declared,
            key=row["record_key"],
            revision=row["revision"],
            group=row["group_name"],
            born=row["row_born"],
            rev=row["row_rev"],
            values={field.name: row[field.name] for field in declared.fields},
            subrows={name: tuple(each) for name, each in found[row["record_key"]].items()},
            subject=row["subject_no"] if declared.subject else None,
            finalised=bool(declared.finalised and row["finalised"]),
        )
