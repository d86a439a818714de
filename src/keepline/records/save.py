"""Guarded writes: a row is changed only while it has the token that it was read with."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from keepline.errors import RecordError, StoreBusyError
from keepline.model import Principal, RecordKey
from keepline.records.outcomes import MESSAGES, Outcome, SaveResult
from keepline.store import Store
from keepline.store.access import visible
from keepline.store.tables.records import change_feed
from keepline.store.types import UtcDateTime

Row = Mapping[str, Any]
_T = TypeVar("_T")

#: How often a save is tried when the database asks to try again, and the first pause.
_TRIES = 4
_PAUSE_S = 0.02

#: SQLSTATE codes and classes (PostgreSQL, appendix A) that say what a refusal means.
_STATES = {
    "40001": Outcome.RETRYABLE,  # serialization failure
    "40P01": Outcome.RETRYABLE,  # deadlock
    "55P03": Outcome.RETRYABLE,  # lock not available
    "42501": Outcome.FORBIDDEN,  # insufficient privilege, row security
    "44000": Outcome.SUPPRESSED,  # a view's check option
    "P0001": Outcome.SUPPRESSED,  # raised by a trigger
    "KL001": Outcome.SUPPRESSED,  # raised by one of keepline's
}
_STATE_CLASSES = {"22": Outcome.INVALID, "23": Outcome.INVALID}


@dataclass(frozen=True, slots=True)
class Token:
    """A row's life and state, as the database stamped them; opaque."""

    born: int
    rev: int

    @classmethod
    def of(cls, row: Row) -> Token:
        """Return the token of a row."""
        return cls(row["row_born"], row["row_rev"])


def read_row(
    connection: sa.Connection, table: sa.Table, key: str, principal: Principal
) -> Row | None:
    """Return the row called `key` with its token, or None when it cannot be seen."""
    allowed, _ = visible(table, principal)
    query = sa.select(table).where(table.c.record_key == key, allowed)
    return _as_row(connection.execute(query))


def lock_row(connection: sa.Connection, table: sa.Table, key: str) -> Row | None:
    """Return the row called `key`, whoever may see it, and keep others from changing it."""
    query = sa.select(table).where(table.c.record_key == key).with_for_update()
    return _as_row(connection.execute(query))


def update_row(
    connection: sa.Connection,
    table: sa.Table,
    key: str,
    token: Token,
    principal: Principal,
    changes: Mapping[str, Any],
) -> Row | None:
    """Change a row that still has `token`; return it with its new token, else None."""
    statement = sa.update(table).where(_guard(table, key, token, principal)).values(dict(changes))
    if connection.execute(statement).rowcount != 1:
        return None
    # RETURNING would show the old token on SQLite, where it is stamped after the update.
    return _as_row(connection.execute(sa.select(table).where(table.c.record_key == key)))


def delete_row(
    connection: sa.Connection, table: sa.Table, key: str, token: Token, principal: Principal
) -> bool:
    """Delete a row that still has `token`; return whether it was there."""
    statement = sa.delete(table).where(_guard(table, key, token, principal))
    return connection.execute(statement).rowcount == 1


def changes_since(
    connection: sa.Connection, name: RecordKey, since: int
) -> tuple[tuple[str, ...], datetime | None]:
    """Return who made the revisions after `since`, by name, and when the last one was made.

    Changes that went around keepline have nobody's name.
    """
    feed = change_feed.c
    newer = (
        feed.record_type == name.record_type,
        feed.record_key == name.key,
        feed.revision > since,
    )
    actors = sa.select(feed.actor).where(*newer, feed.actor.is_not(None)).distinct()
    last = sa.select(sa.func.max(feed.changed_at, type_=UtcDateTime)).where(*newer)
    who = connection.execute(actors.order_by(feed.actor)).scalars().all()
    return tuple(map(str, who)), connection.execute(last).scalar_one()


def attempt(
    store: Store, principal: Principal, step: Callable[[sa.Connection], _T]
) -> _T | SaveResult:
    """Run `step` in a write transaction of its own; a refusal becomes a SaveResult.

    It is run again, a few times, when the database asks for that. Raises RecordError when the
    database fails in a way that is nobody's edit.
    """
    for tried in range(1, _TRIES + 1):
        try:
            with store.write(principal) as connection:
                return step(connection)
        except StoreBusyError:
            break  # it has waited long enough already
        except sa.exc.DBAPIError as error:
            refusal = refused(error)
            if refusal is None:
                raise RecordError(f"the SQL store failed: {_line(error)}") from error
            if refusal.outcome is not Outcome.RETRYABLE:
                return refusal
        if tried < _TRIES:
            time.sleep(_PAUSE_S * 2**tried * random.random())  # noqa: S311 - to spread retries
    return SaveResult(Outcome.RETRYABLE, MESSAGES[Outcome.RETRYABLE])


def refused(error: sa.exc.DBAPIError) -> SaveResult | None:
    """Return what a database's error means for a save; None when it is no answer to one."""
    outcome, constraint = _sqlite(error) if _is_sqlite(error) else _postgresql(error)
    if outcome is None:
        return None
    if outcome is Outcome.INVALID:
        return SaveResult(outcome, f"a value breaks {constraint or 'a rule'}", None, constraint)
    return SaveResult(outcome, MESSAGES[outcome])


def _as_row(result: sa.CursorResult[Any]) -> Row | None:
    row = result.one_or_none()
    return None if row is None else row._asdict()


def _guard(table: sa.Table, key: str, token: Token, principal: Principal) -> sa.ColumnElement[bool]:
    allowed, _ = visible(table, principal)
    return sa.and_(
        table.c.record_key == key,
        table.c.row_born == token.born,
        table.c.row_rev == token.rev,
        allowed,
    )


def _is_sqlite(error: sa.exc.DBAPIError) -> bool:
    return isinstance(error.orig, sqlite3.Error)


def _sqlite(error: sa.exc.DBAPIError) -> tuple[Outcome | None, str | None]:
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Outcome.RETRYABLE, None
    if code == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
        return Outcome.SUPPRESSED, None
    if code & 0xFF in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG):
        # SQLite names the constraint nowhere but at the end of the text.
        _, _, name = str(error.orig).partition("failed: ")
        return Outcome.INVALID, name or None
    return None, None


def _postgresql(error: sa.exc.DBAPIError) -> tuple[Outcome | None, str | None]:
    state = getattr(error.orig, "sqlstate", None) or ""
    diagnosis = getattr(error.orig, "diag", None)
    if getattr(diagnosis, "table_name", None) == change_feed.name:
        return Outcome.RETRYABLE, None  # the key was deleted and created again meanwhile
    outcome = _STATES.get(state, _STATE_CLASSES.get(state[:2]))
    name = getattr(diagnosis, "constraint_name", None) or getattr(diagnosis, "column_name", None)
    return outcome, name


def _line(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).splitlines()[0]
