"""A capture store in one SQLite file, by the standard library's sqlite3."""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from keepline.capture.locks import PATIENCE_S, FileLock
from keepline.capture.sqlite_file import (
    SELECT_CHUNK,
    SELECT_SESSION,
    SELECT_SESSIONS,
    check_file,
    check_source,
    connect,
    make_schema,
    require_running,
    session_info,
    spec_json,
    spec_of,
    transaction,
    translated,
)
from keepline.capture.sqlite_writer import SqliteStreamWriter
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    ChunkDamagedError,
    NoSessionError,
    StreamLockedError,
    UnsupportedLevelError,
)
from keepline.model import CaptureState, Chunk, Level, SessionInfo, StreamSpec, to_us

if TYPE_CHECKING:  # a recorder needs no settings
    from keepline.config import CaptureSettings

#: How long the making of a new file may take another process.
_MAKING_S = 30.0


class SqliteCaptureStore:
    """Sessions and chunks in the file `path`, which is made when it is not there.

    At level "stored" (synchronous NORMAL) what is acknowledged survives a kill of the
    process; at "fsynced" (synchronous FULL) each commit is on the disk as well. A folder
    beside the file, ``<path>-locks``, holds the locks of living writers. Both have to lie on
    a local disk. Safe to share between threads; not to be carried over a fork.

    Raises:
        CaptureError: the file is something else, or was made by another keepline.
        CaptureWriteError: the file cannot be made or opened.
    """

    def __init__(self, path: str | Path, *, level: Literal["stored", "fsynced"] = "stored") -> None:
        self.path = Path(path)
        if level not in ("stored", "fsynced"):
            raise UnsupportedLevelError(
                f"a SQLite capture store keeps the level stored or fsynced, not {level!r}"
            )
        self._fsynced = level == "fsynced"
        self._locks = self.path.with_name(self.path.name + "-locks")
        self._mutex = threading.RLock()
        with translated(self.path):
            self._connection = connect(self.path, fsynced=self._fsynced)
            try:
                self.store_id = self._prepared()
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def configured(cls, settings: CaptureSettings, *, folder: Path) -> Self:
        """Return the store that `settings` describe; a relative path is taken from `folder`."""
        return cls(folder / settings.path, level=settings.level)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Return the levels kept: up to the one that the store was opened with, and archived."""
        if self._fsynced:
            return ("accepted", "stored", "fsynced", "archived")
        return ("accepted", "stored", "archived")

    def create_session(
        self,
        instrument: str,
        user: str,
        spec: StreamSpec,
        *,
        started: datetime,
        origin: str | None = None,
    ) -> SqliteStreamWriter:
        """Start a session with its first stream; see CaptureStore."""
        check_source(spec.source)
        lock: FileLock | None = None
        try:
            with self._changing() as connection:
                number = _insert_session(connection, instrument, user, to_us(started), origin)
                _insert_stream(connection, number, spec)
                lock = FileLock(self._lock_path(number, spec.source), patience_s=PATIENCE_S)
        except BaseException as error:
            if lock is not None:
                lock.release()
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                raise AlreadyCapturedError(
                    f"{origin} is captured already on {instrument}"
                ) from error
            raise
        return self._writer(self.session(number), spec.source, lock)

    def add_stream(self, number: int, spec: StreamSpec) -> None:
        """Add a stream to a running session; see CaptureStore."""
        check_source(spec.source)
        with self._changing() as connection:
            require_running(connection, number)
            known = connection.execute(
                "SELECT spec FROM stream WHERE number = ? AND source = ?", (number, spec.source)
            ).fetchone()
            if known is None:
                _insert_stream(connection, number, spec)
            elif known[0] != spec_json(spec):
                raise CaptureError(
                    f"capture session {number} has source {spec.source!r} with another declaration"
                )

    def open_writer(self, number: int, source: str) -> SqliteStreamWriter:
        """Return the writer of a stream; see CaptureStore."""
        session = self.session(number)
        check_source(source)
        with translated(self.path):
            lock = FileLock(self._lock_path(number, source), patience_s=PATIENCE_S)
        return self._writer(session, source, lock)

    def close_session(self, number: int, state: CaptureState, ended: datetime) -> SessionInfo:
        """End a running session for good; see CaptureStore."""
        if state == "running" or ended < self.session(number).started:
            raise CaptureError(f"a capture session cannot end as {state} at {ended}")
        with self._changing() as connection:
            require_running(connection, number)
            _end(connection, number, state, to_us(ended))
            locks = self._lock_paths(number)
        _unlink(locks)
        return self.session(number)

    def close_orphan(self, number: int) -> SessionInfo | None:
        """End a running session whose writers are all gone; see CaptureStore."""
        with self._all_locks(number) as held:
            if not held:
                return None
            with self._changing() as connection:
                if self.session(number).state != "running":
                    return None
                _end(connection, number, "interrupted", self._last_us(number))
                locks = self._lock_paths(number)
            _unlink(locks)
        return self.session(number)

    def sessions(self) -> list[SessionInfo]:
        """Return every session, by number."""
        rows = self._rows(SELECT_SESSIONS)
        return [session_info(self.store_id, row) for row in rows]

    def session(self, number: int) -> SessionInfo:
        """Return one session; raises NoSessionError."""
        rows = self._rows(SELECT_SESSION, number)
        if not rows:
            raise NoSessionError(f"there is no capture session {number}")
        return session_info(self.store_id, rows[0])

    def streams(self, number: int) -> list[StreamSpec]:
        """Return the streams of a session, by source; raises NoSessionError."""
        self.session(number)
        rows = self._rows("SELECT spec FROM stream WHERE number = ? ORDER BY source", number)
        return [spec_of(row[0]) for row in rows]

    def message_count(self, number: int, source: str) -> int:
        """Return how many messages of a stream are stored."""
        rows = self._rows(
            "SELECT max(last_seq) FROM chunk WHERE stream_id ="
            " (SELECT id FROM stream WHERE number = ? AND source = ?)",
            number,
            source,
        )
        return 0 if rows[0][0] is None else int(rows[0][0]) + 1

    def chunks(self, number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows, in order; see CaptureStore."""
        rows = self._rows("SELECT id FROM stream WHERE number = ? AND source = ?", number, source)
        following = from_seq
        while rows:
            found = self._rows(SELECT_CHUNK, rows[0][0], following)
            if not found:
                return
            yield _intact(Chunk(*found[0]), number, source)
            following = found[0][0] + len(found[0][1]) // 4

    def last_messages(self, number: int, source: str, n: int) -> list[bytes]:
        """Return the last `n` messages of a stream, oldest first; raises NoSessionError."""
        self.session(number)
        first = max(0, self.message_count(number, source) - n)
        messages = [
            message for chunk in self.chunks(number, source, first) for message in chunk.messages()
        ]
        return messages[-n:] if n > 0 else []

    def mark_archived(self, number: int, source: str, seq: int) -> None:
        """Note that the archive holds everything up to `seq`."""
        with self._changing() as connection:
            connection.execute(
                "UPDATE stream SET archived = max(archived, ?) WHERE number = ? AND source = ?",
                (seq, number, source),
            )

    def archived(self, number: int, source: str) -> int:
        """Return the number of the last message that the archive holds, or -1."""
        rows = self._rows(
            "SELECT archived FROM stream WHERE number = ? AND source = ?", number, source
        )
        return int(rows[0][0]) if rows else -1

    def is_live(self, number: int) -> bool:
        """Return whether a session is running and a living writer holds one of its streams."""
        if self.session(number).state != "running":
            return False
        with self._all_locks(number) as held:
            return not held

    def delete_session(self, number: int) -> None:
        """Remove a session and all its data; see CaptureStore."""
        running = self.session(number).state == "running"
        with self._all_locks(number) as held:
            if running and not held:
                raise CaptureError(f"capture session {number} is live; stop it before deleting it")
            with self._changing() as connection:
                locks = self._lock_paths(number)
                connection.execute("DELETE FROM session WHERE number = ?", (number,))
            _unlink(locks)

    def flush(self) -> None:
        """Remove every session; raises CaptureError, removing none, when one is live."""
        known = [info.number for info in self.sessions()]
        for number in known:
            if self.is_live(number):
                raise CaptureError(f"capture session {number} is live; stop it before flushing")
        for number in known:
            self.delete_session(number)

    def close(self) -> None:
        """Close the connection; writers keep their own."""
        with self._mutex:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _prepared(self) -> str:
        known = check_file(self._connection, self.path)
        self._locks.mkdir(exist_ok=True)
        if not known:
            making = FileLock(self._locks / "store.lock", patience_s=_MAKING_S)
            try:
                if not check_file(self._connection, self.path):
                    make_schema(self._connection)
            finally:
                making.release()
        return str(self._connection.execute("SELECT id FROM store").fetchone()[0])

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path), self._mutex, transaction(self._connection):
            yield self._connection

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with translated(self.path), self._mutex:
            return self._connection.execute(statement, values).fetchall()

    def _writer(self, session: SessionInfo, source: str, lock: FileLock) -> SqliteStreamWriter:
        try:
            return SqliteStreamWriter(self.path, session, source, lock, fsynced=self._fsynced)
        except BaseException:
            lock.release()
            raise

    def _last_us(self, number: int) -> int:
        last_us = to_us(self.session(number).started)
        for spec in self.streams(number):
            for chunk in self.chunks(
                number, spec.source, self.message_count(number, spec.source) - 1
            ):
                last_us = max(last_us, array("q", chunk.times_us)[-1])
        return last_us

    def _lock_path(self, number: int, source: str) -> Path:
        return self._locks / f"{number}.{source}.lock"

    def _lock_paths(self, number: int) -> list[Path]:
        return [self._lock_path(number, spec.source) for spec in self.streams(number)]

    @contextmanager
    def _all_locks(self, number: int) -> Iterator[bool]:
        """Hold the lock of every stream of a session; gives False when a writer has one."""
        locks: list[FileLock] = []
        try:
            yield self._take_locks(number, locks)
        finally:
            for lock in locks:
                lock.release()

    def _take_locks(self, number: int, locks: list[FileLock]) -> bool:
        for spec in self.streams(number):
            try:
                with translated(self.path):
                    locks.append(FileLock(self._lock_path(number, spec.source)))
            except StreamLockedError:
                return False
        return True


def _insert_session(
    connection: sqlite3.Connection,
    instrument: str,
    user: str,
    started_us: int,
    origin: str | None,
) -> int:
    cursor = connection.execute(
        "INSERT INTO session (instrument, user_name, state, started_us, origin)"
        " VALUES (?, ?, 'running', ?, ?)",
        (instrument, user, started_us, origin),
    )
    return int(cursor.lastrowid or 0)


def _insert_stream(connection: sqlite3.Connection, number: int, spec: StreamSpec) -> None:
    connection.execute(
        "INSERT INTO stream (number, source, spec) VALUES (?, ?, ?)",
        (number, spec.source, spec_json(spec)),
    )


def _end(connection: sqlite3.Connection, number: int, state: CaptureState, ended_us: int) -> None:
    connection.execute(
        "UPDATE session SET state = ?, ended_us = ? WHERE number = ?", (state, ended_us, number)
    )


def _unlink(locks: list[Path]) -> None:
    """Remove the lock files of a session that is closed or gone for good: not before the commit.

    Whoever waits for a file that is gone finds the session closed once it has the lock. A file
    that cannot be removed harms nobody, as a number is never used again.
    """
    for path in locks:
        with suppress(OSError):
            path.unlink()


def _intact(chunk: Chunk, number: int, source: str) -> Chunk:
    if not chunk.intact:
        raise ChunkDamagedError(
            f"messages {chunk.first_seq} to {chunk.last_seq} of capture session {number}, "
            f"source {source}, are damaged: their CRC does not match"
        )
    return chunk
