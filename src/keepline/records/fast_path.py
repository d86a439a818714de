"""One optimistic save by the driver alone: what most saves come to, in as few steps as there are.

SQLAlchemy's connection, transaction and results take several times as long as such a save. On
SQLite it is one transaction of five short statements, on PostgreSQL one statement that is a
transaction by itself, so one round trip. Whatever does not simply succeed leaves nothing behind
and is done again in the general way, which finds out why.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from keepline.errors import InstanceError, StoreBusyError
from keepline.model import Principal
from keepline.records.rows import Layout, Row, Token, allowed, by_key, update_by_token
from keepline.store import Store
from keepline.store.engine import SQLITE_WRITER, first_line, sqlite_writer


def update_fast(
    store: Store,
    layout: Layout,
    key: str,
    token: Token,
    principal: Principal,
    changes: Mapping[str, Any],
    reason: str | None,
) -> Row | None:
    """Change a row that still has `token`, in a transaction of its own; return it as it is then.

    None says that nothing was written, for whatever reason. Who listens to the statements of
    the store's engine would not hear of any, so nothing is written then either.

    Raises:
        StoreBusyError: another program has held SQLite's write lock for too long.
        InstanceError: the database is away; it is not known whether it has written the row.
    """
    if store.engine.dispatch.before_cursor_execute:
        return None
    values = {f"set_{name}": value for name, value in changes.items()}
    values |= {"at_key": key, "at_born": token.born, "at_rev": token.rev}
    write = _on_postgresql if store.dialect == "postgresql" else _on_sqlite
    return write(store, layout, principal, values, tuple(changes), reason)


def _on_sqlite(
    store: Store,
    layout: Layout,
    principal: Principal,
    values: dict[str, Any],
    names: tuple[str, ...],
    reason: str | None,
) -> Row | None:
    rights, condition = allowed(layout, principal)
    update = layout.statement(
        ("update", names, rights), lambda: update_by_token(layout, names, condition)
    )
    # RETURNING would show the old token, as the row is stamped after the update.
    after = layout.statement("after", lambda: by_key(layout))
    with store.driver() as pooled:
        execute = pooled.dbapi_connection.execute  # type: ignore[union-attr]  # it is sqlite3's
        try:
            execute("BEGIN IMMEDIATE")
            execute(SQLITE_WRITER, sqlite_writer(principal.name, reason))
            if execute(update.text, update.given(values)).rowcount != 1:
                return None
            row = layout.first_of(execute(after.text, (values["at_key"],)))
            execute(SQLITE_WRITER, sqlite_writer(None))
            execute("COMMIT")
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise StoreBusyError from error
            return None
    return row


def _on_postgresql(
    store: Store,
    layout: Layout,
    principal: Principal,
    values: dict[str, Any],
    names: tuple[str, ...],
    reason: str | None,
) -> Row | None:
    rights, condition = allowed(layout, principal)
    statement = layout.statement(
        ("announce and update", names, rights),
        lambda: _announced(update_by_token(layout, names, condition)).returning(*layout.columns),
    )
    values |= {"said_actor": principal.name, "said_reason": reason or ""}
    with store.driver() as pooled:
        driver: Any = pooled.dbapi_connection
        try:
            driver.autocommit = True
            try:
                return layout.first_of(driver.execute(statement.text, statement.given(values)))
            finally:
                driver.autocommit = False
        except store.engine.dialect.loaded_dbapi.Error as error:
            if not driver.closed:  # the server's answer is a no
                return None
            pooled.invalidate(error)
            raise InstanceError(f"the SQL store cannot be written: {first_line(error)}") from error


def _announced(update: Any) -> Any:
    """Have an update say first who writes and why, as `Store.write` does (PostgreSQL)."""
    said = sa.select(
        _setting("actor", sa.bindparam("said_actor", None, sa.Text)).label("actor"),
        _setting("reason", sa.bindparam("said_reason", None, sa.Text)),
        _setting("erasing", sa.literal_column("''")),
    )
    # To compare with what was said is what has it said before a row is changed.
    said_first = said.cte("said").prefix_with("MATERIALIZED")
    return update.where(said_first.c.actor.is_not(None))


def _setting(name: str, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    name_itself: sa.ColumnElement[Any] = sa.literal_column(f"'keepline.{name}'")
    return sa.func.set_config(name_itself, value, sa.true())
