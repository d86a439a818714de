"""Opening the file of a SqliteCaptureStore: made, upgraded, and known for an older copy."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from contextlib import ExitStack
from pathlib import Path

from keepline.capture.stores.locks import FileLock, lock_path
from keepline.capture.stores.sqlite_file import transaction
from keepline.capture.stores.sqlite_mark import HighWaterMark, Position
from keepline.capture.stores.sqlite_schema import (
    SCHEMA_VERSION,
    file_version,
    make_schema,
    upgrade_schema,
)

_log = logging.getLogger(__name__)

#: How long the making of a new file may take another process.
_MAKING_S = 30.0


def prepared(connection: sqlite3.Connection, path: Path, locks: Path) -> tuple[str, HighWaterMark]:
    """Bring the file up to date; return the store's id and the mark beside the file.

    Raises:
        CaptureError: the file is something else, or was made by another keepline.
        StreamLockedError: the file is of an older schema, and somebody still writes to it.
        sqlite3.Error, OSError
    """
    file_version(connection, path)
    locks.mkdir(exist_ok=True)
    # One at a time: whoever comes second finds the schema made, or the epoch renewed.
    making = FileLock(locks / "store.lock", patience_s=_MAKING_S)
    try:
        version = file_version(connection, path)
        if version == 0:
            make_schema(connection)
        elif version < SCHEMA_VERSION:
            _upgrade(connection, locks)
        return _checked(connection, path, locks)
    finally:
        making.release()


def position(connection: sqlite3.Connection) -> Position:
    """Return how far the file has come."""
    row = connection.execute(
        "SELECT changes, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'session'), 0)"
        " FROM store"
    ).fetchone()
    return Position(*row)


def begin_epoch(connection: sqlite3.Connection, after_number: int) -> str:
    """Begin a new epoch, in which no session gets a number up to `after_number`; return it."""
    epoch = uuid.uuid4().hex
    number = max(after_number, position(connection).number)
    connection.execute("UPDATE store SET epoch = ?", (epoch,))
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'session'")
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('session', ?)", (number,))
    return epoch


def _upgrade(connection: sqlite3.Connection, locks: Path) -> None:
    """Upgrade the file while nobody writes: an older keepline would not keep the new counts."""
    with ExitStack() as held:
        running = connection.execute(
            "SELECT number, source FROM stream JOIN session USING (number) WHERE state = 'running'"
        ).fetchall()
        for number, source in running:
            held.callback(FileLock(lock_path(locks, number, source)).release)
        upgrade_schema(connection)


def _checked(connection: sqlite3.Connection, path: Path, locks: Path) -> tuple[str, HighWaterMark]:
    """Return the store's id and its mark; begin an epoch when the mark is higher."""
    store_id = str(connection.execute("SELECT id FROM store").fetchone()[0])
    mark = HighWaterMark(locks / "mark", store_id)
    known = mark.read()  # first: what others add meanwhile raises the file before the mark
    found = position(connection)
    if found.changes < known.changes or found.number < known.number:
        with transaction(connection):
            begin_epoch(connection, known.number)
            connection.execute("UPDATE store SET changes = ?", (known.changes + 1,))
        _log.warning(
            "%s has gone back: an older copy was put in its place, or a cut of power took its last"
            " writes; its last session was %s and is %s now, and a new epoch begins",
            path,
            known.number,
            found.number,
        )
    return store_id, mark
