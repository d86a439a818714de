"""Carrying out a save: in a transaction of its own or the caller's, with one outcome."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa

from keepline.errors import RecordError, StoreBusyError
from keepline.model import Principal, RecordKey
from keepline.records.joined import joining
from keepline.records.outcomes import FINALISED, MESSAGES, REASON_NEEDED, Outcome, SaveResult
from keepline.store import Store
from keepline.store.engine import first_line
from keepline.store.tables.records import change_feed
from keepline.store.types import UtcDateTime

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

#: What keepline's own triggers refuse, by SQLSTATE on PostgreSQL and by text on SQLite.
_FINALISED = ("KL002", "keepline: the record is finalised")
_REASON = ("KL003", "keepline: a reason is required")
_ERASED = ("KL004", "keepline: the subject is erased")


#: How the reason of an import's revisions begins, by which imports know them again.
IMPORTED = "import sha256:"


class ImportReason(str):
    """A reason that begins as those of imports do; `attempt` takes such from nobody else."""

    __slots__ = ()


class Abandoned(Exception):  # noqa: N818 - no error: it takes a result out of a rollback
    """Roll back what was written, and answer with `result`."""

    def __init__(self, result: object) -> None:
        super().__init__("abandoned")
        self.result = result


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
    store: Store,
    principal: Principal,
    step: Callable[[sa.Connection], _T],
    *,
    reason: str | None = None,
    connection: sa.Connection | None = None,
    first: Callable[[], _T | None] | None = None,
) -> _T | SaveResult:
    """Run `step` in a write transaction of its own; a refusal becomes a SaveResult.

    It is run again, a few times, when the database asks for that. With a `connection` it is run
    once, in a savepoint of that connection's transaction: whatever is refused, what the caller
    did there stays. When `step` raises Abandoned nothing is written, and its result is returned.
    Without a `connection`, `first` is a shorter way that is tried before: None says that it wrote
    nothing. Raises RecordError when the database fails in a way that is nobody's edit.

    A reason that only imports may give is invalid, unless it is an ImportReason.
    """
    if claims_import(reason):
        return NOT_AN_IMPORT
    if connection is not None:
        return once(lambda: _joined(connection, principal, reason, step))
    if first is not None and (short := once(first)) is not None:
        return short
    for tried in range(1, _TRIES + 1):
        answer = once(lambda: _alone(store, principal, reason, step))
        if not (isinstance(answer, SaveResult) and answer.outcome is Outcome.RETRYABLE):
            return answer
        if answer is _WAITED:
            break
        if tried < _TRIES:
            time.sleep(_PAUSE_S * 2**tried * random.random())  # noqa: S311 - to spread retries
    return answer


#: The answer of a database that was waited for long enough already.
_WAITED = SaveResult(Outcome.RETRYABLE, MESSAGES[Outcome.RETRYABLE])


def claims_import(reason: str | None) -> bool:
    """Return whether a reason says that an import wrote what none did."""
    own = isinstance(reason, ImportReason)
    return reason is not None and not own and reason.startswith(IMPORTED)


NOT_AN_IMPORT = SaveResult(
    Outcome.INVALID, f"only an import's reason begins with {IMPORTED!r}", None, "reason"
)


def _alone(
    store: Store, principal: Principal, reason: str | None, step: Callable[[sa.Connection], _T]
) -> _T:
    with store.write(principal, reason=reason) as connection:
        return step(connection)


def _joined(
    connection: sa.Connection,
    principal: Principal,
    reason: str | None,
    step: Callable[[sa.Connection], _T],
) -> _T:
    with joining(connection, principal, reason):
        return step(connection)


def once(run: Callable[[], _T]) -> _T | SaveResult:
    """Run something that writes, in whatever transaction; a refusal becomes a SaveResult.

    Raises RecordError as `attempt` does.
    """
    try:
        return run()
    except Abandoned as abandoned:
        return abandoned.result  # type: ignore[return-value]  # what step would have returned
    except StoreBusyError:
        return _WAITED
    except sa.exc.DBAPIError as error:
        refusal = refused(error)
        if refusal is None:
            raise RecordError(f"the SQL store failed: {first_line(error)}") from error
        return refusal


def refused(error: sa.exc.DBAPIError) -> SaveResult | None:
    """Return what a database's error means for a save; None when it is no answer to one."""
    sqlite = isinstance(error.orig, sqlite3.Error)
    said = str(error.orig) if sqlite else getattr(error.orig, "sqlstate", None) or ""
    if said in _FINALISED:
        return SaveResult(Outcome.FORBIDDEN, FINALISED)
    if said in _REASON:
        return SaveResult(Outcome.INVALID, REASON_NEEDED, None, "reason")
    if said in _ERASED:
        return SaveResult(Outcome.INVALID, "its subject is erased", None, "subject")
    outcome, constraint = _sqlite(error) if sqlite else _postgresql(error)
    if outcome is None:
        return None
    if outcome is Outcome.INVALID:
        return SaveResult(outcome, f"a value breaks {constraint or 'a rule'}", None, constraint)
    return SaveResult(outcome, MESSAGES[outcome])


def _sqlite(error: sa.exc.DBAPIError) -> tuple[Outcome | None, str | None]:
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Outcome.RETRYABLE, None  # a snapshot that is too old to be written to as well
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
