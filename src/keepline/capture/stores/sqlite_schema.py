"""The schema of a SqliteCaptureStore's file, and the way to it from an older one."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

from keepline.capture.stores.sqlite_file import not_ours, transaction
from keepline.errors import CaptureError

#: Marks the file as a capture store ("kpln"), and says which schema it has.
APPLICATION_ID = 0x6B706C6E
SCHEMA_VERSION = 2

# `changes` counts sessions begun, ended and deleted.
_SCHEMA = """
CREATE TABLE store (
    id TEXT NOT NULL,
    epoch TEXT NOT NULL DEFAULT '',
    changes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE session (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    instrument TEXT NOT NULL,
    user_name TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('running', 'complete', 'partial', 'interrupted', 'empty')),
    started_us INTEGER NOT NULL,
    ended_us INTEGER,
    origin TEXT,
    level TEXT NOT NULL DEFAULT 'stored',
    stop_requested INTEGER NOT NULL DEFAULT 0,
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
    next_seq INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    trimmed INTEGER NOT NULL DEFAULT -1,
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
CREATE TABLE loss (
    stream_id INTEGER NOT NULL REFERENCES stream ON DELETE CASCADE,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (stream_id, first_seq)
) WITHOUT ROWID;
"""

# The columns and the table that version 1 had not.
_UPGRADE = """
ALTER TABLE store ADD COLUMN epoch TEXT NOT NULL DEFAULT '';
ALTER TABLE store ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN level TEXT NOT NULL DEFAULT 'stored';
ALTER TABLE session ADD COLUMN stop_requested INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN next_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN trimmed INTEGER NOT NULL DEFAULT -1;
UPDATE stream SET next_seq = coalesce(
    (SELECT max(last_seq) + 1 FROM chunk WHERE stream_id = stream.id), 0);
UPDATE stream SET messages = next_seq;
"""


def file_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return which schema the file has: 0 for an empty file.

    Raises:
        CaptureError: the file is something else, or of a schema that is not known.
    """
    application, version, changes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "schema_version")
    )
    if (application, version, changes) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID:
        raise not_ours(path)
    if not 1 <= version <= SCHEMA_VERSION:
        raise CaptureError(
            f"{path} has schema {version}, this keepline reads up to {SCHEMA_VERSION}; "
            "use the keepline that made it"
        )
    return int(version)


def make_schema(connection: sqlite3.Connection) -> None:
    """Make the schema in an empty file; the caller keeps others from doing the same."""
    connection.execute("PRAGMA journal_mode = WAL")  # kept by the file; not in a transaction
    with transaction(connection):
        _run(connection, _SCHEMA)
        connection.execute("INSERT INTO store (id) VALUES (?)", (uuid.uuid4().hex,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _finish(connection)


def upgrade_schema(connection: sqlite3.Connection) -> None:
    """Give a file of version 1 this schema, whole or not; the caller keeps others out."""
    with transaction(connection):
        _run(connection, _UPGRADE)
        _run(connection, _SCHEMA[_SCHEMA.index("CREATE TABLE loss") :])
        _finish(connection)


def _run(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";\n"):
        connection.execute(statement)


def _finish(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE store SET epoch = ?", (uuid.uuid4().hex,))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
