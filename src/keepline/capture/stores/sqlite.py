"""A capture store in one SQLite file, by the standard library's sqlite3."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from keepline.capture.stores.locks import PATIENCE_S, FileLock, all_held, lock_path, remove_files
from keepline.capture.stores.sqlite_chunks import (
    chunks_before,
    chunks_from,
    last_time_us,
    stored_losses,
    trim_some,
)
from keepline.capture.stores.sqlite_file import (
    SELECT_SESSION,
    SELECT_SESSIONS,
    connect,
    end_session,
    insert_session,
    insert_stream,
    require_running,
    session_info,
    stream_value,
    transaction,
    translated,
)
from keepline.capture.stores.sqlite_opening import begin_epoch, position, prepared
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.capture.stores.stream_specs import (
    check_level,
    check_source,
    intact,
    spec_json,
    spec_of,
)
from keepline.errors import AlreadyCapturedError, CaptureError, NoSessionError
from keepline.model import LEVELS, CaptureState, Chunk, Level, Loss, SessionInfo, StreamSpec, to_us

if TYPE_CHECKING:  # a recorder needs no settings
    from keepline.config import CaptureSettings

_log = logging.getLogger(__name__)


class SqliteCaptureStore:
    """Sessions and chunks in the file `path`, which is made when it is not there.

    At the levels up to "stored" (synchronous NORMAL) what is acknowledged survives a kill of
    the process; at "fsynced" (synchronous FULL) each commit is on the disk as well. `level` is
    that of the sessions that are started without one. A folder beside the file,
    ``<path>-locks``, holds the locks of living writers and what tells that the file was
    replaced by an older copy of itself; then a new epoch begins. Both have to lie on a local
    disk. Safe to share between threads; not to be carried over a fork.

    Raises:
        CaptureError: the file is something else, or was made by another keepline.
        CaptureWriteError: the file cannot be made or opened.
        UnsupportedLevelError: there is no such level.
    """

    def __init__(self, path: str | Path, *, level: Level = "stored") -> None:
        check_level(level)
        self.path = Path(path)
        self._level: Level = level
        self._locks = self.path.with_name(self.path.name + "-locks")
        self._mutex = threading.RLock()
        with translated(self.path):
            self._connection = connect(self.path, fsynced=level == "fsynced")
            try:
                self.store_id, self._mark = prepared(self._connection, self.path, self._locks)
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def configured(cls, settings: CaptureSettings, *, folder: Path) -> Self:
        """Return the store that `settings` describe; a relative path is taken from `folder`."""
        return cls(folder / settings.path, level=settings.level)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Return all levels: SQLite keeps each of them."""
        return LEVELS

    @property
    def epoch(self) -> str:
        """Return the name of this life of the store; see CaptureStore."""
        return str(self._rows("SELECT epoch FROM store")[0][0])

    @property
    def last_number(self) -> int:
        """Return the highest session number given out; see CaptureStore."""
        with translated(self.path), self._mutex:
            return position(self._connection).number

    def create_session(
        self,
        instrument: str,
        user: str,
        spec: StreamSpec,
        *,
        started: datetime,
        origin: str | None = None,
        level: Level | None = None,
    ) -> SqliteStreamWriter:
        """Start a session with its first stream; see CaptureStore."""
        level = level or self._level
        check_level(level)
        check_source(spec.source)
        lock: FileLock | None = None
        try:
            with self._changing_sessions() as connection:
                values = (instrument, user, to_us(started), origin, level)
                number = insert_session(connection, values)
                insert_stream(connection, number, spec.source, spec_json(spec))
                lock = FileLock(lock_path(self._locks, number, spec.source), patience_s=PATIENCE_S)
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
                insert_stream(connection, number, spec.source, spec_json(spec))
            elif known[0] != spec_json(spec):
                raise CaptureError(
                    f"capture session {number} has source {spec.source!r} with another declaration"
                )

    def open_writer(self, number: int, source: str) -> SqliteStreamWriter:
        """Return the writer of a stream; see CaptureStore."""
        session = self.session(number)
        check_source(source)
        with translated(self.path):
            lock = FileLock(lock_path(self._locks, number, source), patience_s=PATIENCE_S)
        return self._writer(session, source, lock)

    def close_session(self, number: int, state: CaptureState, ended: datetime) -> SessionInfo:
        """End a running session for good; see CaptureStore."""
        if state == "running" or ended < self.session(number).started:
            raise CaptureError(f"a capture session cannot end as {state} at {ended}")
        with self._changing_sessions() as connection:
            require_running(connection, number)
            end_session(connection, number, state, to_us(ended))
            locks = self._lock_paths(number)
        remove_files(locks)
        return self.session(number)

    def close_orphan(self, number: int) -> SessionInfo | None:
        """End a running session whose writers are all gone; see CaptureStore."""
        with self._all_locks(number) as held:
            if not held:
                return None
            with self._changing_sessions() as connection:
                info = self.session(number)
                if info.state != "running":
                    return None
                last_us = last_time_us(self._rows, number)
                started_us = to_us(info.started)
                ended_us = started_us if last_us is None else max(started_us, last_us)
                end_session(connection, number, "interrupted", ended_us)
                locks = self._lock_paths(number)
            remove_files(locks)
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

    def next_seq(self, number: int, source: str) -> int:
        """Return the number after the last stored or lost message: 0 when there is none."""
        return self._counted("next_seq", number, source)

    def message_count(self, number: int, source: str) -> int:
        """Return how many messages of a stream were stored, trimmed ones too, lost ones not."""
        return self._counted("messages", number, source)

    def losses(self, number: int, source: str) -> list[Loss]:
        """Return what of a stream is known to be lost, in order."""
        return stored_losses(self._rows, self._stream_id(number, source))

    def chunks(self, number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows, in order; see CaptureStore."""
        stream_id = self._stream_id(number, source)
        for chunk, last_seq in chunks_from(self._rows, stream_id, from_seq):
            yield intact(chunk, number, source, last_seq)

    def last_messages(self, number: int, source: str, n: int) -> list[bytes]:
        """Return the last `n` messages that are there of a stream; see CaptureStore."""
        stream_id, before = self._stream_id(number, source), self.next_seq(number, source)
        messages: list[bytes] = []
        if n <= 0:
            return messages
        for chunk, last_seq in chunks_before(self._rows, stream_id, before):
            messages = [*intact(chunk, number, source, last_seq).messages(), *messages]
            if len(messages) >= n:
                break
        return messages[-n:]

    def mark_archived(self, number: int, source: str, seq: int) -> None:
        """Note that the archive holds everything up to `seq`."""
        with self._changing() as connection:
            connection.execute(
                "UPDATE stream SET archived = max(archived, ?) WHERE number = ? AND source = ?",
                (seq, number, source),
            )

    def set_archived(self, number: int, source: str, seq: int) -> None:
        """Put the archive's mark to `seq`, also back; see CaptureStore."""
        with self._changing() as connection:
            connection.execute(
                "UPDATE stream SET archived = max(-1, min(next_seq - 1, ?))"
                " WHERE number = ? AND source = ?",
                (seq, number, source),
            )

    def archived(self, number: int, source: str) -> int:
        """Return the number of the last message that the archive holds, or -1."""
        return self._of_stream("archived", number, source, -1)

    def trim(self, number: int, source: str, upto: int) -> int:
        """Remove the chunks that end at or before `upto`; see CaptureStore.

        The file does not shrink: the room is used again.
        """
        stream_id = self._stream_id(number, source)
        total = 0
        while True:
            with self._changing() as connection:
                removed = trim_some(connection, stream_id, upto)
            if not removed:
                return total
            total += removed

    def trimmed(self, number: int, source: str) -> int:
        """Return the number of the last message that was trimmed, or -1."""
        return self._of_stream("trimmed", number, source, -1)

    def request_stop(self, number: int) -> None:
        """Ask whoever records a running session to end it; see CaptureStore."""
        with self._changing() as connection:
            require_running(connection, number)
            connection.execute("UPDATE session SET stop_requested = 1 WHERE number = ?", (number,))

    def stop_requested(self, number: int) -> bool:
        """Return whether a session's recorder was asked to end it."""
        rows = self._rows("SELECT stop_requested FROM session WHERE number = ?", number)
        return bool(rows and rows[0][0])

    def renew(self, after_number: int = 0) -> str:
        """Begin a new epoch and return it; see CaptureStore."""
        with self._changing_sessions() as connection:
            return begin_epoch(connection, after_number)

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
            remove_files(self._deleted(number))

    def delete_held(self, writer: SqliteStreamWriter) -> None:
        """Remove the session of `writer`, and close that: nobody can take the stream before.

        The session has no other stream. The writer is closed also when the removal fails.
        """
        number = writer.session.number
        try:
            locks = self._deleted(number)
        finally:
            writer.close()
        remove_files(locks)

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

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path), self._mutex, transaction(self._connection):
            yield self._connection

    @contextmanager
    def _changing_sessions(self) -> Iterator[sqlite3.Connection]:
        """Change which sessions there are, or their state: the mark beside the file follows."""
        with self._changing() as connection:
            yield connection
            connection.execute("UPDATE store SET changes = changes + 1")
            reached = position(connection)
        try:
            self._mark.raise_to(reached)
        except OSError as error:  # the change is made
            _log.warning("an older copy of %s would not be noticed: %s", self.path, error)

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with translated(self.path), self._mutex:
            return self._connection.execute(statement, values).fetchall()

    def _writer(self, session: SessionInfo, source: str, lock: FileLock) -> SqliteStreamWriter:
        try:
            return SqliteStreamWriter(self.path, session, source, lock)
        except BaseException:
            lock.release()
            raise

    def _stream_id(self, number: int, source: str) -> int:
        return self._of_stream("id", number, source, -1)

    def _of_stream(self, column: str, number: int, source: str, default: int) -> int:
        found = stream_value(self._rows, column, number, source)
        return default if found is None else found

    def _counted(self, column: str, number: int, source: str) -> int:
        """Return a count of a session that is there; raises NoSessionError."""
        found = self._of_stream(column, number, source, 0)
        if not found:
            self.session(number)
        return found

    def _deleted(self, number: int) -> list[Path]:
        """Delete a session's rows, and return the paths of the locks of its streams."""
        with self._changing_sessions() as connection:
            locks = self._lock_paths(number)
            connection.execute("DELETE FROM session WHERE number = ?", (number,))
        return locks

    def _lock_paths(self, number: int) -> list[Path]:
        return [lock_path(self._locks, number, spec.source) for spec in self.streams(number)]

    @contextmanager
    def _all_locks(self, number: int) -> Iterator[bool]:
        """Hold the lock of every stream of a session; gives False when a writer has one."""
        with translated(self.path), all_held(self._lock_paths(number)) as held:
            yield held
