"""The writer of one stream of a RedisCaptureStore, and what keeps its lease while it idles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from keepline.capture.store import Appended
from keepline.capture.stores.redis_chunks import entry_arguments, loss_of
from keepline.capture.stores.redis_connection import Argument, Sync
from keepline.capture.stores.redis_scripts import APPEND, LOSE, RENEW_LEASE, Script
from keepline.capture.stores.redis_stream import Fence, RedisStream
from keepline.capture.stores.stream_specs import not_following, other_content
from keepline.errors import (
    CaptureError,
    ChunkConflictError,
    NoSessionError,
    SessionClosedError,
    StreamLockedError,
)
from keepline.model import Chunk, Loss, SessionInfo, to_us, utc_now

_log = logging.getLogger(__name__)

#: A lease is renewed when this part of it has gone by.
_RENEWED_AFTER = 1 / 3


class RedisStreamWriter:
    """Appends chunks to one stream under a lease, which `keeper` renews while it idles."""

    def __init__(
        self,
        stream: RedisStream,
        session: SessionInfo,
        fence: Fence,
        keeper: LeaseKeeper,
        *,
        next_seq: int,
        sync: Sync,
    ) -> None:
        self.session = session
        self.source = stream.keys.source
        self.next_seq = next_seq
        self._connection = stream.connection
        self._keys = stream.keys
        self._stream = stream
        self._fence = fence
        self._sync: Sync = sync
        self._keeper = keeper
        self._renewed_at = time.monotonic()
        self._closed = False
        self._connection.hold()
        keeper.add(self)

    def append(self, chunks: Sequence[Chunk]) -> list[Appended]:
        """Store consecutive chunks in one step; see StreamWriter."""
        keys = (self._keys.meta, self._keys.chunks)
        answer = self._write(APPEND, keys, entry_arguments(chunks))
        if answer[0] == b"conflict":
            raise self._conflict(chunks[answer[2]], int(answer[1]))
        self.next_seq = int(answer[1])
        return ["stored" if what == ord("s") else "repeat" for what in answer[2]]

    def lose(self, last_seq: int, reason: str) -> Loss:
        """Note that the messages from `next_seq` to `last_seq` are lost; see StreamWriter."""
        keys = (self._keys.meta, self._keys.losses)
        words = (self.next_seq, last_seq, last_seq + 1, to_us(utc_now()), reason)
        answer = self._write(LOSE, keys, words)
        if answer[0] == b"conflict":
            raise ChunkConflictError(
                f"messages up to {last_seq} cannot be lost: {int(answer[1])} is next",
                following=int(answer[1]),
            )
        self.next_seq = last_seq + 1
        return loss_of(answer[1])

    def close(self) -> None:
        """Give the lease up; a server that cannot be reached lets it run out."""
        if self._closed:
            return
        self._closed = True
        self._keeper.remove(self)
        try:
            self._stream.give(self._fence, "")
        except CaptureError as error:
            _log.debug("the lease of %s was not given up: %s", self._keys.meta, error)
        finally:
            self._connection.let_go()

    def due_at(self) -> float:
        """Return the monotonic time at which the lease is to be renewed."""
        return self._renewed_at + self._fence.lease_ms / 1000 * _RENEWED_AFTER

    def renew_lease(self) -> bool:
        """Renew the lease; return whether the stream is still this writer's. Thread-safe."""
        self._renewed_at = time.monotonic()  # not tried again at once when it fails
        words = (self.session.store_id, self._fence.token, self._fence.lease_ms)
        answer = self._connection.run(RENEW_LEASE, (self._keys.meta,), words)
        return bool(answer[0] == b"ok")

    def _write(self, script: Script, keys: tuple[str, ...], words: Sequence[Argument]) -> list[Any]:
        given = (self.session.store_id, self._fence.token, self._fence.lease_ms, *words)
        answer = self._connection.run(script, keys, given, sync=self._sync)
        number = self.session.number
        match answer[0]:
            case b"none":
                raise NoSessionError(
                    f"capture session {number}, source {self.source}, is gone: it was deleted, "
                    f"or the store at {self._connection.place} was flushed or replaced"
                )
            case b"closed":
                raise SessionClosedError(
                    f"capture session {number} has ended and takes no more data; start a new one"
                )
            case b"fenced":
                raise StreamLockedError(
                    f"another writer has taken over source {self.source} of capture session "
                    f"{number}"
                )
        self._renewed_at = time.monotonic()
        return answer

    def _conflict(self, chunk: Chunk, following: int) -> ChunkConflictError:
        self.next_seq = min(self.next_seq, following)
        if chunk.first_seq >= following:
            return not_following(chunk, following)
        return other_content(chunk, following)


class LeaseKeeper:
    """Renews the leases of idle writers, in a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._writers: set[RedisStreamWriter] = set()
        self._thread: threading.Thread | None = None

    def add(self, writer: RedisStreamWriter) -> None:
        """Look after a writer's lease from now on."""
        with self._changed:
            self._writers.add(writer)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="keepline-leases", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def remove(self, writer: RedisStreamWriter) -> None:
        """Leave a writer's lease alone from now on."""
        with self._changed:
            self._writers.discard(writer)
            self._changed.notify()

    def _run(self) -> None:
        while due := self._due():
            for writer in due:
                try:
                    if not writer.renew_lease():  # taken, closed or gone: append says which
                        self.remove(writer)
                except CaptureError as error:  # the server is away; append will say so
                    _log.debug("a lease was not renewed: %s", error)
                except Exception:  # whatever it is: the others' leases are to be renewed
                    _log.exception("a lease was not renewed")

    def _due(self) -> list[RedisStreamWriter]:
        """Wait until leases are due, and return their writers; none when nobody is left."""
        with self._changed:
            while self._writers:
                now = time.monotonic()
                due = [writer for writer in self._writers if writer.due_at() <= now]
                if due:
                    return due
                first = min(writer.due_at() for writer in self._writers)
                self._changed.wait(max(0.001, first - now))
            self._thread = None
            return []
