"""The file of a SqliteCaptureStore: its schema, its connections, its rows as values."""

from __future__ import annotations

import json
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keepline.errors import CaptureError, CaptureWriteError, NoSessionError, SessionClosedError
from keepline.model import Channel, Chunk, SessionInfo, StreamSpec, from_us

#: Marks the file as a capture store ("kpln"), and says which schema it has.
APPLICATION_ID = 0x6B706C6E
SCHEMA_VERSION = 1

_BUSY_TIMEOUT_S = 30.0
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")

_SCHEMA = """
CREATE TABLE store (id TEXT NOT NULL);
CREATE TABLE session (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    instrument TEXT NOT NULL,
    user_name TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('running', 'complete', 'partial', 'interrupted', 'empty')),
    started_us INTEGER NOT NULL,
    ended_us INTEGER,
    origin TEXT,
    CHECK ((state = 'running') = (ended_us IS NULL)),
    CHECK (ended_us >= started_us)
);
CREATE UNIQUE INDEX session_origin ON session (instrument, origin)
    WHERE origin IS NOT NULL AND state IN ('running', 'complete');
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,
    source TEXT NOT NULL,
    spec TEXT NOT NULL,
    archived INTEGER NOT NULL DEFAULT -1,
    UNIQUE (number, source)
);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES stream ON DELETE CASCADE,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    wall_us INTEGER NOT NULL,
    monotonic_ns INTEGER NOT NULL,
    lengths BLOB NOT NULL,
    times_us BLOB NOT NULL,
    ticks BLOB NOT NULL,
    raw BLOB NOT NULL,
    UNIQUE (stream_id, first_seq)
);
"""


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


def check_file(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file has the schema: False for an empty one, which is left as it is.

    Raises:
        CaptureError: the file is something else, or of another schema.
    """
    application, version, changes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "schema_version")
    )
    if (application, version, changes) == (0, 0, 0):
        return False
    if application != APPLICATION_ID:
        raise _not_ours(path)
    if version != SCHEMA_VERSION:
        raise CaptureError(
            f"{path} has schema {version}, this keepline reads {SCHEMA_VERSION}; "
            "use the keepline that made it"
        )
    return True


def make_schema(connection: sqlite3.Connection) -> None:
    """Make the schema in an empty file; the caller keeps others from doing the same."""
    connection.execute("PRAGMA journal_mode = WAL")  # kept by the file; not in a transaction
    with transaction(connection):
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES (?)", (uuid.uuid4().hex,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


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
            raise _not_ours(path) from error
        raise CaptureWriteError(f"the capture store {path} cannot be used: {error}") from error


def _not_ours(path: Path) -> CaptureError:
    return CaptureError(f"{path} is not a capture store; give it a file of its own")


def check_source(source: str) -> None:
    """Raise CaptureError unless `source` can name a stream and its lock file."""
    if not _SOURCE.match(source):
        raise CaptureError(
            f"{source!r} cannot name a source: letters, digits, and . _ - after the first, "
            "at most 64"
        )


def require_running(connection: sqlite3.Connection, number: int) -> None:
    """Raise NoSessionError or SessionClosedError unless the session is running."""
    row = connection.execute("SELECT state FROM session WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise NoSessionError(f"there is no capture session {number}")
    if row[0] != "running":
        raise SessionClosedError(
            f"capture session {number} is {row[0]} and takes no more data; start a new one"
        )


SELECT_SESSIONS = (
    "SELECT number, instrument, user_name, state, started_us, ended_us, origin FROM session"
    " ORDER BY number"
)
SELECT_SESSION = (
    "SELECT number, instrument, user_name, state, started_us, ended_us, origin FROM session"
    " WHERE number = ?"
)


def session_info(store_id: str, row: tuple[Any, ...]) -> SessionInfo:
    """Return the session that a row of SELECT_SESSION or SELECT_SESSIONS describes."""
    number, instrument, user, state, started_us, ended_us, origin = row
    ended = None if ended_us is None else from_us(ended_us)
    return SessionInfo(
        store_id, number, instrument, user, state, from_us(started_us), ended, origin
    )


#: The chunk of stream ?1 that holds message ?2, or else the first one after it.
SELECT_CHUNK = (
    "SELECT first_seq, lengths, times_us, ticks, raw, wall_us, monotonic_ns, crc FROM chunk"
    " WHERE stream_id = ?1 AND last_seq >= ?2 AND first_seq >= coalesce("
    "(SELECT max(first_seq) FROM chunk WHERE stream_id = ?1 AND first_seq <= ?2), 0)"
    " ORDER BY first_seq LIMIT 1"
)


def chunk_row(stream_id: int, chunk: Chunk) -> tuple[Any, ...]:
    """Return the values for INSERT_CHUNK."""
    return (
        stream_id, chunk.first_seq, chunk.last_seq, chunk.crc, chunk.wall_us,
        chunk.monotonic_ns, chunk.lengths, chunk.times_us, chunk.ticks, chunk.raw,
    )  # fmt: skip


INSERT_CHUNK = (
    "INSERT INTO chunk (stream_id, first_seq, last_seq, crc, wall_us, monotonic_ns,"
    " lengths, times_us, ticks, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def spec_json(spec: StreamSpec) -> str:
    """Return a stream's declaration as canonical JSON text; raises CaptureError if it cannot."""
    value = {
        "source": spec.source,
        "decoder": spec.decoder,
        "options": dict(spec.options),
        "step_us": spec.step_us,
        "channels": [[each.name, each.dtype, each.unit] for each in spec.channels],
    }
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError as error:
        raise CaptureError(f"a stream's options must be JSON values: {error}") from error


def spec_of(text: str) -> StreamSpec:
    """Return the declaration that `spec_json` wrote."""
    value = json.loads(text)
    value["channels"] = tuple(Channel(*each) for each in value["channels"])
    return StreamSpec(**value)
