"""A local store that takes chunks while the capture store is out of reach."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from keepline.capture.stores.sqlite import SqliteCaptureStore
from keepline.capture.stores.sqlite_file import translated
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.errors import (
    AlreadyCapturedError,
    CaptureWriteError,
    ChunkDamagedError,
    NoSessionError,
    SpoolFullError,
    StreamLockedError,
)
from keepline.model import Chunk, Level, Loss, SessionInfo, StreamSpec, to_us, utc_now

if TYPE_CHECKING:  # a recorder needs no settings
    from keepline.config import SpoolSettings

_log = logging.getLogger(__name__)

WhenFull = Literal["block", "raise", "drop"]

#: Why a spool does not have the messages before its first one: no loss at all.
_ELSEWHERE = "kept elsewhere"
_DAMAGED = "damaged in the spool"
#: How often it is tried to get a stream that somebody else has just been draining.
_ATTEMPTS = 10
_MEBIBYTE = 1024 * 1024


class Spool:
    """Chunks of any number of streams in the SQLite file `path`, of at most `max_mb` MiB.

    `when_full` says what a recorder does at that size, or on a full disk: it blocks, raises
    SpoolFullError, or drops messages and notes the loss. Several processes may share a file.
    Safe to share between threads; not to be carried over a fork.

    Raises what SqliteCaptureStore does.
    """

    def __init__(
        self, path: str | Path, *, max_mb: float = 1024, when_full: WhenFull = "block"
    ) -> None:
        self.store = SqliteCaptureStore(path)
        self.max_mb = max_mb
        self.max_bytes = int(max_mb * _MEBIBYTE)
        self.when_full: WhenFull = when_full
        self._mutex = threading.Lock()
        self._sizes = sqlite3.connect(path, check_same_thread=False)

    @classmethod
    def configured(cls, settings: SpoolSettings, *, folder: Path) -> Self:
        """Return the spool that `settings` describe; a relative path is taken from `folder`."""
        return cls(folder / settings.path, max_mb=settings.max_mb, when_full=settings.when_full)

    def used_bytes(self) -> int:
        """Return how much of the file is in use; what was drained is used again.

        Raises CaptureWriteError when it cannot be told.
        """
        with translated(self.store.path), self._mutex:
            size, pages, free = (
                self._sizes.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_size", "page_count", "freelist_count")
            )
        return int(size * (pages - free))

    def stream(self, session: SessionInfo, spec: StreamSpec, first_seq: int) -> SpooledStream:
        """Return where to keep what follows `first_seq` of a stream of another store's session.

        Raises CaptureWriteError when the file cannot be written, or `drain_spool` has the stream.
        """
        writer = self._writer(session, spec)
        try:
            if writer.next_seq < first_seq:
                writer.lose(first_seq - 1, _ELSEWHERE)
        except BaseException:
            writer.close()
            raise
        return SpooledStream(self, writer)

    def _writer(self, session: SessionInfo, spec: StreamSpec) -> SqliteStreamWriter:
        origin = spool_origin(session, spec.source)
        level: Level = "fsynced" if session.level in ("fsynced", "archived") else "stored"
        for _ in range(_ATTEMPTS):
            with suppress(AlreadyCapturedError):
                return self.store.create_session(
                    session.instrument,
                    session.user,
                    spec,
                    started=session.started,
                    origin=origin,
                    level=level,
                )
            # One that could not be removed when it was drained; perhaps it is just being so.
            known = [info.number for info in self.store.sessions() if info.origin == origin]
            with suppress(NoSessionError, StreamLockedError):
                if known:
                    return self.store.open_writer(known[-1], spec.source)
        raise CaptureWriteError(
            f"{self.store.path} has a stream of {session.global_name} that is being drained"
        )

    def close(self) -> None:
        """Close the file."""
        with self._mutex:
            self._sizes.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SpooledStream:
    """The part of one stream that a spool keeps, under the stream's own sequence numbers.

    Not thread-safe. It owns `writer`, which keeps others from draining it at the same time.
    """

    def __init__(self, spool: Spool, writer: SqliteStreamWriter) -> None:
        self._spool = spool
        self._writer = writer
        self._number = writer.session.number

    @property
    def next_seq(self) -> int:
        """Return the number after the last message that is here."""
        return self._writer.next_seq

    def append(self, chunk: Chunk) -> None:
        """Keep a chunk, unless it is here already.

        Raises SpoolFullError at the spool's size, CaptureWriteError when it cannot be written.
        """
        if chunk.last_seq < self._writer.next_seq:
            return
        size = sum(map(len, (chunk.raw, chunk.lengths, chunk.times_us, chunk.ticks)))
        if self._spool.used_bytes() + size > self._spool.max_bytes:
            raise SpoolFullError(
                f"the capture store cannot be reached, and its spool {self._spool.store.path} "
                f"has reached {self._spool.max_mb:.10g} MiB"
            )
        self._writer.append([chunk])

    def lose(self, last_seq: int, reason: str) -> None:
        """Note that the messages up to `last_seq` are lost; raises CaptureWriteError."""
        self._writer.lose(last_seq, reason)

    def items(self) -> Iterator[Chunk | Loss]:
        """Yield what is kept here and what is known to be lost, in the order of its numbers."""
        return spooled_items(self._spool.store, self._number, self._writer.source)

    def release(self, seq: int) -> None:
        """Give the room of the messages up to `seq` back."""
        self._spool.store.mark_archived(self._number, self._writer.source, seq)
        self._spool.store.trim(self._number, self._writer.source, seq)

    def remove(self) -> None:
        """Remove all of it, when it has been drained; it is closed also when that fails."""
        self._spool.store.delete_held(self._writer)

    def close(self) -> None:
        """Leave it to `drain_spool`."""
        self._writer.close()


def spool_origin(session: SessionInfo, source: str) -> str:
    """Return the origin that a spool keeps a stream of `session` under."""
    return f"spool:{session.global_name}/{source}"


def origin_parts(origin: str | None) -> tuple[str, int, str] | None:
    """Return store id, session number and source of an origin, or None if it is no spool's."""
    kind, _, rest = (origin or "").partition(":capture:")
    session, slash, source = rest.partition("/")
    store_id, colon, number = session.rpartition(":")
    if kind != "spool" or not slash or not colon or not number.isdigit():
        return None
    return store_id, int(number), source


def spooled_items(store: SqliteCaptureStore, number: int, source: str) -> Iterator[Chunk | Loss]:
    """Yield the chunks and the losses of a spooled stream in the order of their numbers.

    A chunk that was damaged since is a loss: it must not hold up what follows it.
    """
    losses = [loss for loss in store.losses(number, source) if loss.reason != _ELSEWHERE]
    for item in _readable(store, number, source):
        while losses and losses[0].first_seq < item.first_seq:
            yield losses.pop(0)
        yield item
    yield from losses


def _readable(store: SqliteCaptureStore, number: int, source: str) -> Iterator[Chunk | Loss]:
    seq = 0
    while True:
        try:
            for chunk in store.chunks(number, source, seq):
                yield chunk
                seq = chunk.last_seq + 1
        except ChunkDamagedError as error:
            _log.error("%s: %s", store.path, error)
            yield Loss(error.first_seq, error.last_seq, _DAMAGED, to_us(utc_now()))
            seq = error.last_seq + 1
        else:
            return


def batches(items: Iterator[Chunk | Loss], max_chunks: int = 64) -> Iterator[list[Chunk] | Loss]:
    """Yield the items again, with chunks that follow each other as lists."""
    batch: list[Chunk] = []
    for item in items:
        if batch and (isinstance(item, Loss) or len(batch) == max_chunks):
            yield batch
            batch = []
        if isinstance(item, Loss):
            yield item
        else:
            batch.append(item)
    if batch:
        yield batch
