"""The writer of one stream of a SqliteCaptureStore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keepline.capture.store import Appended
from keepline.capture.stores.locks import FileLock
from keepline.capture.stores.sqlite_chunks import insert_chunk
from keepline.capture.stores.sqlite_file import (
    connect,
    require_running,
    transaction,
    translated,
)
from keepline.capture.stores.stream_specs import not_following, other_content
from keepline.errors import ChunkConflictError, NoSessionError
from keepline.model import Chunk, Loss, SessionInfo, to_us, utc_now


class SqliteStreamWriter:
    """Appends chunks to one stream, on a connection and under a lock of its own.

    It takes `lock` over; when construction fails, the caller still has to release it.
    """

    def __init__(self, path: Path, session: SessionInfo, source: str, lock: FileLock) -> None:
        self.session = session
        self.source = source
        self._path = path
        with translated(path):
            self._connection = connect(path, fsynced=session.level == "fsynced")
            try:
                row = self._connection.execute(
                    "SELECT id FROM stream WHERE number = ? AND source = ?",
                    (session.number, source),
                ).fetchone()
                self._stream_id: int = -1 if row is None else row[0]
                self.next_seq = self._following()
            except BaseException:
                self._connection.close()
                raise
        self._lock = lock

    def append(self, chunks: Sequence[Chunk]) -> list[Appended]:
        """Store consecutive chunks in one transaction; see StreamWriter."""
        with translated(self._path), transaction(self._connection):
            start = following = self._following()
            outcome: list[Appended] = []
            stored = 0
            for chunk in chunks:
                if chunk.first_seq == following and chunk.count:
                    insert_chunk(self._connection, self._stream_id, chunk)
                    following += chunk.count
                    stored += chunk.count
                    outcome.append("stored")
                else:
                    self._recognise(chunk, start)
                    outcome.append("repeat")
            if stored:
                self._advance(following, stored)
        self.next_seq = following
        return outcome

    def lose(self, last_seq: int, reason: str) -> Loss:
        """Note that the messages from `next_seq` to `last_seq` are lost; see StreamWriter."""
        with translated(self._path), transaction(self._connection):
            following = self._following()
            loss = self._known_loss(last_seq)
            if loss is None:
                if not self.next_seq >= following <= last_seq:
                    raise ChunkConflictError(
                        f"messages up to {last_seq} cannot be lost: {following} is next",
                        following=following,
                    )
                loss = Loss(following, last_seq, reason, to_us(utc_now()))
                self._connection.execute(
                    "INSERT INTO loss VALUES (?, ?, ?, ?, ?)",
                    (self._stream_id, loss.first_seq, last_seq, reason, loss.at_us),
                )
                self._advance(last_seq + 1, 0)
        self.next_seq = last_seq + 1
        return loss

    def close(self) -> None:
        """Close the connection, then release the lock."""
        self._connection.close()
        self._lock.release()

    def _following(self) -> int:
        """Return the stream's next number, if its session runs."""
        row = self._connection.execute(
            "SELECT next_seq, state FROM stream JOIN session USING (number) WHERE id = ?",
            (self._stream_id,),
        ).fetchone()
        if row is None or row[1] != "running":
            require_running(self._connection, self.session.number)
            raise NoSessionError(
                f"capture session {self.session.number} has no source {self.source!r}"
            )
        return int(row[0])

    def _advance(self, following: int, stored: int) -> None:
        self._connection.execute(
            "UPDATE stream SET next_seq = ?, messages = messages + ? WHERE id = ?",
            (following, stored, self._stream_id),
        )

    def _recognise(self, chunk: Chunk, following: int) -> None:
        """Return if `chunk` is stored; one that was trimmed since cannot be compared."""
        known = self._connection.execute(
            "SELECT last_seq, crc FROM chunk WHERE stream_id = ? AND first_seq = ?",
            (self._stream_id, chunk.first_seq),
        ).fetchone()
        if known == (chunk.last_seq, chunk.crc):
            return
        trimmed = self._connection.execute(
            "SELECT trimmed FROM stream WHERE id = ?", (self._stream_id,)
        ).fetchone()[0]
        if known is None and chunk.count and chunk.last_seq <= trimmed:
            return
        self.next_seq = min(self.next_seq, following)
        if chunk.first_seq >= following:
            raise not_following(chunk, following)
        raise other_content(chunk, following)

    def _known_loss(self, last_seq: int) -> Loss | None:
        """Return the loss up to `last_seq` that an earlier call noted without learning so."""
        row = self._connection.execute(
            "SELECT first_seq, last_seq, reason, at_us FROM loss"
            " WHERE stream_id = ? AND first_seq = ? AND last_seq = ?",
            (self._stream_id, self.next_seq, last_seq),
        ).fetchone()
        return None if row is None else Loss(*row)
