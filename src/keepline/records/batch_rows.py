"""Guarded writes of many rows of one table at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from keepline.model import Principal
from keepline.records.rows import Layout, Row, Token, allowed

#: A row's key, the token that it was read with, and its changes.
Change = tuple[str, Token, Mapping[str, Any]]

#: Rows in one statement on SQLite, where each value is a parameter; few enough for any number
#: of changed columns that it allows.
_CHUNK = 100
_MOST_PARAMETERS = 30_000

_Rows = dict[str, Row]


def update_rows(
    connection: sa.Connection,
    layout: Layout,
    names: Sequence[str],
    changes: Sequence[Change],
    principal: Principal,
) -> tuple[_Rows, _Rows]:
    """Change the columns `names` of each row that still has its token and may be changed.

    `changes` come by key, each key once. Return, by key, the rows that were written and those
    that are there and were not; all of them are locked for the rest of the transaction, in key
    order. On PostgreSQL that is one statement.
    """
    if connection.dialect.name == "postgresql":
        return _on_postgresql(connection, layout, names, changes, principal)
    return _on_sqlite(connection, layout, names, changes, principal)


def lock_rows(connection: sa.Connection, layout: Layout, keys: Sequence[str]) -> None:
    """Keep others from changing the rows called `keys`, locked in their order."""
    if connection.dialect.name != "postgresql":
        return  # writers queue
    key = layout.table.c.record_key
    query = sa.select(key).where(key == sa.any_(sa.bindparam("keys", type_=ARRAY(sa.Text))))
    connection.execute(query.order_by(key).with_for_update(key_share=True), {"keys": list(keys)})


def _on_postgresql(
    connection: sa.Connection,
    layout: Layout,
    names: Sequence[str],
    changes: Sequence[Change],
    principal: Principal,
) -> tuple[_Rows, _Rows]:
    rights, condition = allowed(layout, principal)
    statement = layout.statement(
        ("update many", tuple(names), rights), lambda: _update_many(layout, names, condition)
    )
    values: dict[str, Any] = {
        "keys": [key for key, _, _ in changes],
        "borns": [token.born for _, token, _ in changes],
        "revs": [token.rev for _, token, _ in changes],
    }
    for name in names:
        bind = layout.array_bind(name)
        values[f"all_{name}"] = [bind(change[name]) for _, _, change in changes]
    written: _Rows = {}
    found: _Rows = {}
    result = statement.run(connection, values)
    for was_written, *values_there in layout.all_of(result, before=1):
        row = tuple(values_there)
        (written if was_written else found)[layout.key(row)] = row
    return written, found


def _update_many(layout: Layout, names: Sequence[str], condition: sa.ColumnElement[bool]) -> Any:
    """Lock the rows in key order, write those whose tokens match, tell of all that are there.

    The locked rows are read in a step of their own: an update alone would wait for another
    transaction's and then show the row as it was when the statement began.
    """
    table = layout.table
    columns = ["record_key", "born", "rev", *(f"new_{name}" for name in names)]
    types: dict[str, Any] = {"keys": sa.Text, "borns": sa.BigInteger, "revs": sa.BigInteger}
    types |= {f"all_{name}": layout.array_type(name) for name in names}
    arrays = [sa.bindparam(name, None, type_=ARRAY(type_)) for name, type_ in types.items()]
    unnested = sa.func.unnest(*arrays).table_valued(*map(sa.column, columns), name="given")
    given = sa.select(unnested.render_derived()).cte("given").prefix_with("MATERIALIZED")
    locked = (
        sa.select(*layout.columns)
        .where(table.c.record_key.in_(sa.select(given.c.record_key)))
        .order_by(table.c.record_key)
        .with_for_update(key_share=True, of=table)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )
    written = (
        sa.update(table)
        .values(
            {
                name: sa.cast(given.c[f"new_{name}"], layout.columns[layout.at[name]].type)
                for name in names
            }
        )
        .where(
            table.c.record_key == locked.c.record_key,
            given.c.record_key == locked.c.record_key,
            locked.c.row_born == given.c.born,
            locked.c.row_rev == given.c.rev,
            condition,
        )
        .returning(*layout.columns)
        .cte("written")
    )
    ours = sa.select(sa.true().label("was_written"), *written.c)
    others = sa.select(sa.false(), *locked.c).where(
        locked.c.record_key.not_in(sa.select(written.c.record_key))
    )
    return ours.union_all(others)


def _on_sqlite(
    connection: sa.Connection,
    layout: Layout,
    names: Sequence[str],
    changes: Sequence[Change],
    principal: Principal,
) -> tuple[_Rows, _Rows]:
    written: _Rows = {}
    found: _Rows = {}
    size = min(_CHUNK, _MOST_PARAMETERS // (3 + len(names)))
    for chunk in _chunks(changes, size):
        ours = _update_chunk(connection, layout, names, chunk, principal)
        # RETURNING shows the old tokens, which are stamped after the update.
        there = _read_chunk(connection, layout, [key for key, _, _ in chunk])
        for key, row in there.items():
            (written if key in ours else found)[key] = row
    return written, found


def _chunks(changes: Sequence[Change], size: int) -> Iterator[Sequence[Change]]:
    for at in range(0, len(changes), size):
        yield changes[at : at + size]


def _update_chunk(
    connection: sa.Connection,
    layout: Layout,
    names: Sequence[str],
    chunk: Sequence[Change],
    principal: Principal,
) -> set[str]:
    """Write one chunk; return the keys of the rows that were written."""
    rights, condition = allowed(layout, principal)
    statement = layout.statement(
        ("update chunk", tuple(names), rights, len(chunk)),
        lambda: sa.text(_update_from_values(layout, names, len(chunk), condition)),
    )
    values: list[Any] = []
    binds = [(name, layout.bind(name) or _unchanged) for name in names]
    for key, token, change in chunk:
        values += (key, token.born, token.rev, *(bind(change[name]) for name, bind in binds))
    return {key for (key,) in connection.exec_driver_sql(statement.text, tuple(values))}


def _unchanged(value: Any) -> Any:
    return value


def _update_from_values(
    layout: Layout, names: Sequence[str], rows: int, condition: sa.ColumnElement[bool]
) -> str:
    quote = layout.dialect.identifier_preparer.quote
    table = quote(layout.table.name)
    row = f"({', '.join('?' * (3 + len(names)))})"
    allowed_rows = condition.compile(dialect=layout.dialect, compile_kwargs={"literal_binds": True})
    sets = ", ".join(f"{quote(name)} = given.v{n}" for n, name in enumerate(names))
    columns = ", ".join(["k", "born", "rev", *(f"v{n}" for n in range(len(names)))])
    return (
        f"WITH given({columns}) AS (VALUES {', '.join([row] * rows)}) "  # noqa: S608 - quoted names
        f"UPDATE {table} SET {sets} FROM given WHERE {table}.record_key = given.k "
        f"AND {table}.row_born = given.born AND {table}.row_rev = given.rev "
        f"AND {allowed_rows} RETURNING record_key"
    )


def _read_chunk(connection: sa.Connection, layout: Layout, keys: Sequence[str]) -> _Rows:
    key = layout.table.c.record_key
    statement = layout.statement(
        ("read chunk", len(keys)),
        lambda: sa.select(*layout.columns).where(key.in_([""] * len(keys))),
    )
    rows = layout.all_of(connection.exec_driver_sql(statement.text, tuple(keys)))
    return {layout.key(row): row for row in rows}
