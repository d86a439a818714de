"""The chunks, and what is lost between them, in the file of a SqliteCaptureStore."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice

from keepline.capture.stores.sqlite_file import Ask
from keepline.model import Chunk, Loss

#: So many chunks are trimmed in one transaction: a writer waits for no more.
_TRIM_CHUNKS = 256
_AFTER_ALL = 1 << 62

_CHUNK = (
    "SELECT first_seq, lengths, times_us, ticks, raw, wall_us, monotonic_ns, crc, last_seq"
    " FROM chunk WHERE stream_id = ?1"
)
_HOLDER = "(SELECT max(first_seq) FROM chunk WHERE stream_id = ?1 AND first_seq <= ?2)"
#: The chunk of stream ?1 that holds message ?2, or else the first one after it.
_SELECT_CHUNK = (
    f"{_CHUNK} AND last_seq >= ?2 AND first_seq >= coalesce({_HOLDER}, 0)"
    " ORDER BY first_seq LIMIT 1"
)
#: The last chunk of stream ?1 that begins before message ?2.
_SELECT_CHUNK_BEFORE = f"{_CHUNK} AND first_seq < ?2 ORDER BY first_seq DESC LIMIT 1"


def insert_chunk(connection: sqlite3.Connection, stream_id: int, chunk: Chunk) -> None:
    """Insert a chunk."""
    values = (
        stream_id, chunk.first_seq, chunk.last_seq, chunk.crc, chunk.wall_us,
        chunk.monotonic_ns, chunk.lengths, chunk.times_us, chunk.ticks, chunk.raw,
    )  # fmt: skip
    connection.execute(
        "INSERT INTO chunk (stream_id, first_seq, last_seq, crc, wall_us, monotonic_ns,"
        " lengths, times_us, ticks, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )


def chunks_from(ask: Ask, stream_id: int, seq: int) -> Iterator[tuple[Chunk, int]]:
    """Yield the chunk that holds `seq` and those after it, each with its last number as kept."""
    while found := ask(_SELECT_CHUNK, stream_id, seq):
        *values, last_seq = found[0]
        yield Chunk(*values), last_seq
        seq = last_seq + 1


def chunks_before(ask: Ask, stream_id: int, seq: int = _AFTER_ALL) -> Iterator[tuple[Chunk, int]]:
    """Yield the chunks that begin before `seq`, the last one first, as `chunks_from` does."""
    while found := ask(_SELECT_CHUNK_BEFORE, stream_id, seq):
        *values, last_seq = found[0]
        chunk = Chunk(*values)
        yield chunk, last_seq
        seq = chunk.first_seq


def last_time_us(ask: Ask, number: int) -> int | None:
    """Return when a session's last reading that can be read was taken; None without one."""
    times_us = []
    for (stream_id,) in ask("SELECT id FROM stream WHERE number = ?", number):
        chunks = (chunk for chunk, _ in chunks_before(ask, stream_id) if chunk.intact)
        times_us += [chunk.times()[-1] for chunk in islice(chunks, 1)]
    return max(times_us, default=None)


def stored_losses(ask: Ask, stream_id: int) -> list[Loss]:
    """Return what is known to be lost between chunks, in order."""
    rows = ask(
        "SELECT first_seq, last_seq, reason, at_us FROM loss WHERE stream_id = ?"
        " ORDER BY first_seq",
        stream_id,
    )
    return [Loss(*row) for row in rows]


def trim_some(connection: sqlite3.Connection, stream_id: int, upto: int) -> int:
    """Remove archived chunks that end at or before `upto`, not too many at a time.

    Returns how many messages they had: 0 when no such chunk is left.
    """
    first, last, messages = connection.execute(
        "SELECT min(first_seq), max(last_seq), sum(last_seq - first_seq + 1) FROM ("
        "SELECT first_seq, last_seq FROM chunk WHERE stream_id = ?1 ORDER BY first_seq"
        " LIMIT ?2) WHERE last_seq <="
        " min(?3, (SELECT archived FROM stream WHERE id = ?1))",
        (stream_id, _TRIM_CHUNKS, upto),
    ).fetchone()
    if first is None:
        return 0
    connection.execute(
        "DELETE FROM chunk WHERE stream_id = ? AND first_seq BETWEEN ? AND ?",
        (stream_id, first, last),
    )
    connection.execute("UPDATE stream SET trimmed = ? WHERE id = ?", (last, stream_id))
    return int(messages)
