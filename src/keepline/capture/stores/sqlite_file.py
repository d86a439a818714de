"""The file of a SqliteCaptureStore: its connections, and its rows as values."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keepline.errors import CaptureError, CaptureWriteError, NoSessionError, SessionClosedError
from keepline.model import CaptureState, SessionInfo, from_us

_BUSY_TIMEOUT_S = 30.0

#: Returns the rows of a statement with these values; it takes the store's lock for no longer.
Ask = Callable[..., list[tuple[Any, ...]]]


def connect(path: Path, *, fsynced: bool) -> sqlite3.Connection:
    """Open a connection that begins no transaction by itself and that any thread may use."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA synchronous = {'FULL' if fsynced else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one write transaction; undo it when the block raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk or an I/O error may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn sqlite3's errors and those of the file system into CaptureWriteError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise not_ours(path) from error
        raise CaptureWriteError(f"the capture store {path} cannot be used: {error}") from error


def not_ours(path: Path) -> CaptureError:
    """Return the error for a file that is something else."""
    return CaptureError(f"{path} is not a capture store; give it a file of its own")


def require_running(connection: sqlite3.Connection, number: int) -> None:
    """Raise NoSessionError or SessionClosedError unless the session is running."""
    row = connection.execute("SELECT state FROM session WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise NoSessionError(f"there is no capture session {number}")
    if row[0] != "running":
        raise SessionClosedError(
            f"capture session {number} is {row[0]} and takes no more data; start a new one"
        )


_SESSION = (
    "SELECT number, instrument, user_name, state, started_us, ended_us, origin, level FROM session"
)
SELECT_SESSIONS = f"{_SESSION} ORDER BY number"
SELECT_SESSION = f"{_SESSION} WHERE number = ?"


def session_info(store_id: str, row: tuple[Any, ...]) -> SessionInfo:
    """Return the session that a row of SELECT_SESSION or SELECT_SESSIONS describes."""
    number, instrument, user, state, started_us, ended_us, origin, level = row
    ended = None if ended_us is None else from_us(ended_us)
    return SessionInfo(
        store_id, number, instrument, user, state, from_us(started_us), ended, origin, level
    )


def insert_session(connection: sqlite3.Connection, values: tuple[Any, ...]) -> int:
    """Insert a running session: instrument, user, start, origin, level; return its number."""
    cursor = connection.execute(
        "INSERT INTO session (instrument, user_name, state, started_us, origin, level)"
        " VALUES (?, ?, 'running', ?, ?, ?)",
        values,
    )
    return int(cursor.lastrowid or 0)


def insert_stream(connection: sqlite3.Connection, number: int, source: str, spec: str) -> None:
    """Insert a stream without messages."""
    connection.execute(
        "INSERT INTO stream (number, source, spec) VALUES (?, ?, ?)", (number, source, spec)
    )


def stream_value(ask: Ask, column: str, number: int, source: str) -> int | None:
    """Return what a column of a stream's row holds, or None when there is no such stream."""
    statement = f"SELECT {column} FROM stream WHERE number = ? AND source = ?"  # noqa: S608 - ours
    rows = ask(statement, number, source)
    return int(rows[0][0]) if rows else None


def end_session(
    connection: sqlite3.Connection, number: int, state: CaptureState, ended_us: int
) -> None:
    """Write a session's end."""
    connection.execute(
        "UPDATE session SET state = ?, ended_us = ? WHERE number = ?", (state, ended_us, number)
    )
