"""Saving within a transaction of the caller's, and learning how that ends.

Each save has a savepoint of its own, so that a refusal takes nothing of the caller's work away.
What objects take for saved is undone when the caller rolls back, to a savepoint or altogether,
closes the connection, or fails to commit. SQLAlchemy's events tell of that; a transaction that
somebody ends by statements of their own (``exec_driver_sql("ROLLBACK")``) is not seen.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.sql.elements import SavepointClause

from keepline.errors import RecordError
from keepline.model import Principal
from keepline.store.engine import announce

Undo = Callable[[], None]


class _Ledger:
    """What is to be undone when the transaction of one connection does not hold."""

    def __init__(self) -> None:
        self.undos: list[Undo] = []
        #: How many there were when each savepoint began.
        self.marks: dict[str, int] = {}
        #: Between the commit's beginning and the next transaction's.
        self.committing = False
        #: What makes all saves of one transaction, by one writer for one reason, one revision.
        self.txns: dict[tuple[str, str | None], int] = {}

    def begin_anew(self) -> None:
        self.undos.clear()
        self.marks.clear()
        self.committing = False
        self.txns.clear()

    def txn(self, actor: str, reason: str | None) -> int:
        """Return SQLite's number for what `actor` writes for `reason` in this transaction."""
        return self.txns.setdefault((actor, reason), secrets.randbits(62))

    def undo(self, until: int = 0) -> None:
        while len(self.undos) > until:
            self.undos.pop()()

    def abandoned(self) -> None:
        if not self.committing:
            self.undo()


_ledgers: weakref.WeakKeyDictionary[sa.Connection, _Ledger] = weakref.WeakKeyDictionary()


@contextmanager
def joining(connection: sa.Connection, principal: Principal, reason: str | None) -> Iterator[None]:
    """Run the block in a savepoint, in the name of `principal` and for `reason`.

    Afterwards the transaction is again in the name of whoever it was before. Raises RecordError
    for a connection that commits by itself, and whatever the database refuses.
    """
    ledger = _ledger_of(connection)
    announce = _on_sqlite if connection.dialect.name == "sqlite" else _on_postgresql
    with announce(connection, ledger, principal, reason):
        yield


def on_rollback(connection: sa.Connection, undo: Undo) -> None:
    """Call `undo` when what was done on `connection` so far is rolled back.

    The latest is undone first. Nothing is kept once the transaction has ended.
    """
    _ledger_of(connection).undos.append(undo)


def _ledger_of(connection: sa.Connection) -> _Ledger:
    ledger = _ledgers.get(connection)
    if ledger is None:
        ledger = _ledgers[connection] = _Ledger()
        for name, listener in _LISTENERS.items():
            event.listen(connection, name, listener)
        if not event.contains(connection.engine, "handle_error", _on_error):
            event.listen(connection.engine, "handle_error", _on_error)
        # A connection that is dropped without being closed is rolled back by the pool.
        weakref.finalize(connection, ledger.abandoned).atexit = False
    return ledger


@contextmanager
def _on_sqlite(
    connection: sa.Connection, ledger: _Ledger, principal: Principal, reason: str | None
) -> Iterator[None]:
    read = connection.exec_driver_sql("SELECT actor, txn, reason, erasing FROM writer")
    actor, txn, former, erasing = read.one()
    driver: Any = connection.connection.dbapi_connection
    if not driver.in_transaction:
        # The driver would begin none before a savepoint, whose end would then be a commit.
        connection.exec_driver_sql("BEGIN")
    say = partial(announce, connection, erasing=bool(erasing))
    who, why = principal.name, reason or former
    same = txn is not None and (who, why) == (actor, former)
    with connection.begin_nested():
        say(who, why, txn=txn if same else ledger.txn(who, why))
        yield
        say(actor, former, txn=txn)


@contextmanager
def _on_postgresql(
    connection: sa.Connection, _ledger: _Ledger, principal: Principal, reason: str | None
) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    if driver.autocommit:
        raise RecordError("the connection commits each statement; give one with transactions")
    with connection.begin_nested():
        actor, former, erasing = connection.exec_driver_sql(_FORMER).one()
        say = partial(announce, connection, erasing=erasing == "on")
        changes = (principal.name, reason or former) != (actor, former)
        if changes:
            say(principal.name, reason or former)
        yield
        if changes:
            say(actor, former)


#: A setting that was never made is null, one that ended is empty.
_FORMER = (
    "SELECT coalesce(current_setting('keepline.actor', true), ''), "
    "coalesce(current_setting('keepline.reason', true), ''), "
    "coalesce(current_setting('keepline.erasing', true), '')"
)


def _on_begin(connection: sa.Connection) -> None:
    _ledgers[connection].begin_anew()


def _on_rollback(connection: sa.Connection, *_: object) -> None:
    _ledgers[connection].undo()


def _on_commit(connection: sa.Connection, *_: object) -> None:
    if _is_aborted(connection):  # PostgreSQL rolls back then, and says nothing
        _ledgers[connection].undo()
    _ledgers[connection].committing = True


def _is_aborted(connection: sa.Connection) -> bool:
    info = getattr(connection.connection.dbapi_connection, "info", None)
    status = getattr(info, "transaction_status", None)
    return status is not None and status.name == "INERROR"


def _on_error(context: Any) -> None:
    ledger = _ledgers.get(context.connection) if context.connection is not None else None
    if ledger is not None and ledger.committing:
        ledger.undo()


def _on_execute(connection: sa.Connection, statement: object, *_: object) -> None:
    # The event of a savepoint comes before it has its name.
    if isinstance(statement, SavepointClause):
        ledger = _ledgers[connection]
        ledger.marks[statement.ident] = len(ledger.undos)


def _on_rollback_to(connection: sa.Connection, name: str, _context: object) -> None:
    # A savepoint that is not known began before the first save.
    ledger = _ledgers[connection]
    ledger.undo(ledger.marks.get(name, 0))


_LISTENERS: Mapping[str, Callable[..., None]] = {
    "begin": _on_begin,
    "commit": _on_commit,
    "commit_twophase": _on_commit,
    "rollback": _on_rollback,
    "rollback_twophase": _on_rollback,
    "before_execute": _on_execute,
    "rollback_savepoint": _on_rollback_to,
}
