"""SQL questions to the store, in its own dialect, that cannot change it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from keepline.errors import ProgrammingError
from keepline.store import Store
from keepline.store.current import Current, current

#: What a question mark is no parameter in (PostgreSQL, section 4.1, lexical structure).
_OPAQUE = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
      | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$
      | --[^\n]* | /\*.*?\*/ | \? | %""",
    re.VERBOSE | re.DOTALL,
)


def make_db_query(query: str, *, instance: Current | None = None) -> list[tuple[Any, ...]]:
    """Run one SQL query on the store and return its rows; see `db_query`."""
    return db_query(query, instance=instance)


def db_query(
    query: str, args: Sequence[Any] | None = None, *, instance: Current | None = None
) -> list[tuple[Any, ...]]:
    """Run one SQL query on the store and return its rows, with the driver's own values.

    Each ``?`` outside quotes and comments takes one of `args`, on every database; without
    `args` a question mark is left to the database. The query sees one state of the store and
    cannot change it; PostgreSQL takes a SELECT, VALUES or TABLE and nothing else. Raises
    ProgrammingError for a query that is wrong, or that would write.
    """
    store = current(instance).store
    ask = _ask_sqlite if store.dialect == "sqlite" else _ask_postgresql
    return ask(store, query, args)


def _ask_sqlite(store: Store, query: str, args: Sequence[Any] | None) -> list[tuple[Any, ...]]:
    # A connection of its own: what a PRAGMA changes on it is gone with it.
    database = Path(str(store.engine.url.database)).absolute().as_uri()
    try:
        with closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.set_authorizer(_forbid_attaching)
            return connection.execute(query, tuple(args or ())).fetchall()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ProgrammingError(f"the query failed: {error}") from error


def _forbid_attaching(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _ask_postgresql(store: Store, query: str, args: Sequence[Any] | None) -> list[tuple[Any, ...]]:
    import psycopg

    text = query if args is None else _OPAQUE.sub(_to_format, query)
    with store.read() as connection:
        driver: Any = connection.connection.driver_connection
        # Closed afterwards and never pooled: locks and settings of the session are gone with it.
        connection.detach()
        try:
            # Planned for all rows, and not for the first few of a cursor.
            driver.execute("SET LOCAL cursor_tuple_fraction = 1")
            # A cursor on the server is declared for one query and for no other statement: COPY
            # can start programs even where nothing can be written.
            with driver.cursor(name="keepline_query") as cursor:
                cursor.execute(text, args)
                return list(cursor.fetchall())
        except psycopg.Error as error:
            raise ProgrammingError(f"the query failed: {str(error).splitlines()[0]}") from error
        finally:
            driver.rollback()


def _to_format(match: re.Match[str]) -> str:
    text = match.group()
    return "%s" if text == "?" else text.replace("%", "%%")
