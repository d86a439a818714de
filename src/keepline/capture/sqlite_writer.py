"""The writer of one stream of a SqliteCaptureStore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keepline.capture.locks import FileLock
from keepline.capture.sqlite_file import (
    INSERT_CHUNK,
    chunk_row,
    connect,
    require_running,
    transaction,
    translated,
)
from keepline.capture.store import Appended
from keepline.errors import ChunkConflictError, NoSessionError
from keepline.model import Chunk, SessionInfo


class SqliteStreamWriter:
    """Appends chunks to one stream, on a connection and under a lock of its own.

    It takes `lock` over; when construction fails, the caller still has to release it.
    """

    def __init__(
        self, path: Path, session: SessionInfo, source: str, lock: FileLock, *, fsynced: bool
    ) -> None:
        self.session = session
        self.source = source
        self._path = path
        with translated(path):
            self._connection = connect(path, fsynced=fsynced)
            try:
                self._stream_id, self.next_seq = self._position()
            except BaseException:
                self._connection.close()
                raise
        self._lock = lock

    def append(self, chunks: Sequence[Chunk]) -> list[Appended]:
        """Store consecutive chunks in one transaction; see StreamWriter."""
        with translated(self._path), transaction(self._connection):
            require_running(self._connection, self.session.number)
            following = self.next_seq
            outcome: list[Appended] = []
            for chunk in chunks:
                if chunk.first_seq == following and chunk.count:
                    self._connection.execute(INSERT_CHUNK, chunk_row(self._stream_id, chunk))
                    following = chunk.last_seq + 1
                    outcome.append("stored")
                else:
                    self._recognise(chunk, following)
                    outcome.append("repeat")
        self.next_seq = following
        return outcome

    def close(self) -> None:
        """Close the connection, then release the lock."""
        self._connection.close()
        self._lock.release()

    def _position(self) -> tuple[int, int]:
        require_running(self._connection, self.session.number)
        row = self._connection.execute(
            "SELECT id, (SELECT max(last_seq) FROM chunk WHERE stream_id = stream.id)"
            " FROM stream WHERE number = ? AND source = ?",
            (self.session.number, self.source),
        ).fetchone()
        if row is None:
            raise NoSessionError(
                f"capture session {self.session.number} has no source {self.source!r}"
            )
        return row[0], 0 if row[1] is None else row[1] + 1

    def _recognise(self, chunk: Chunk, following: int) -> None:
        known = self._connection.execute(
            "SELECT last_seq, crc FROM chunk WHERE stream_id = ? AND first_seq = ?",
            (self._stream_id, chunk.first_seq),
        ).fetchone()
        if known is None:
            raise ChunkConflictError(
                f"messages {chunk.first_seq} to {chunk.last_seq} do not follow what is stored: "
                f"{following} is next"
            )
        if known != (chunk.last_seq, chunk.crc):
            raise ChunkConflictError(
                f"messages {chunk.first_seq} to {chunk.last_seq} are stored with other content"
            )
