"""One stream of a RedisCaptureStore: its keys, who may write it, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keepline.capture.stores.redis_chunks import (
    StreamKeys,
    checked,
    loss_of,
    read_back,
    read_chunks,
)
from keepline.capture.stores.redis_connection import RedisConnection, Sync
from keepline.capture.stores.redis_scripts import (
    CLOSE,
    GIVE,
    KEEP,
    LIVE,
    MAKE,
    MARK,
    SET_MARK,
    TAKE,
    TRIM,
)
from keepline.errors import NoSessionError, SessionClosedError, StreamLockedError
from keepline.model import Chunk, Loss

#: A stream that is made and not kept within this time is removed by the server.
_UNKEPT_MS = 60_000
#: So many chunks are trimmed in one step, during which the server does nothing else.
_TRIM_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Fence:
    """What shows that a stream is one writer's: a random word, and how long it holds."""

    token: str
    lease_ms: int


@dataclass(frozen=True, slots=True)
class RedisStream:
    """A stream of a session of the store `store_id`; each change is one atomic script."""

    connection: RedisConnection
    keys: StreamKeys
    store_id: str

    def make(self, fence: Fence) -> None:
        """Make the stream, for a while, if it is not there; it is then that of `fence`."""
        words = (self.store_id, fence.token, fence.lease_ms, _UNKEPT_MS)
        self.connection.run(MAKE, (self.keys.meta,), words)

    def keep(self, *, sync: Sync) -> None:
        """Keep the stream for good; raises NoSessionError."""
        if self.connection.run(KEEP, (self.keys.meta,), (self.store_id,), sync=sync)[0] != b"ok":
            raise self._missing()

    def take(self, fence: Fence) -> tuple[int, str]:
        """Make the stream that of `fence`; return its next number, and whose it was.

        Raises NoSessionError, SessionClosedError, StreamLockedError.
        """
        words = (self.store_id, fence.token, fence.lease_ms)
        answer = self.connection.run(TAKE, (self.keys.meta,), words)
        match answer[0]:
            case b"none":
                raise self._missing()
            case b"closed":
                raise SessionClosedError(
                    f"capture session {self.keys.number} has ended and takes no more data; "
                    "start a new one"
                )
            case b"locked":
                raise StreamLockedError(
                    f"a living writer holds {self.keys.number}.{self.keys.source}"
                )
        return int(answer[1]), str(answer[2].decode())

    def give(self, fence: Fence, before: str) -> None:
        """Undo `take`: the stream is again that of `before`, whose time has run out."""
        self.connection.run(GIVE, (self.keys.meta,), (self.store_id, fence.token, before))

    def close(self, *, sync: Sync) -> None:
        """Have the stream take no more data."""
        self.connection.run(CLOSE, (self.keys.meta,), (self.store_id,), sync=sync)

    def is_live(self) -> bool:
        """Return whether a writer's lease holds."""
        return bool(self.connection.run(LIVE, (self.keys.meta,), (self.store_id,))[0] == b"live")

    def is_given_up(self) -> bool:
        """Return whether no writer has it, rather than one whose lease may have run out."""
        key = self.keys.meta
        store_id, token = self.connection.call(key, "HMGET", key, "store", "fence")
        return store_id is None or store_id.decode() != self.store_id or not token

    def value(self, name: str, otherwise: int) -> int:
        """Return a number that is kept of the stream."""
        key = self.keys.meta
        store_id, value = self.connection.call(key, "HMGET", key, "store", name)
        known = store_id is not None and store_id.decode() == self.store_id
        return int(value) if known and value is not None else otherwise

    def losses(self) -> list[Loss]:
        """Return what is known to be lost, in order."""
        key = self.keys.losses
        return [loss_of(text) for text in self.connection.call(key, "LRANGE", key, 0, -1)]

    def chunks(self, from_seq: int) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows; raises ChunkDamagedError."""
        for found in read_chunks(self.connection, self.keys, from_seq):
            yield checked(found, self.keys)

    def last_messages(self, n: int) -> list[bytes]:
        """Return the last `n` messages, oldest first; raises ChunkDamagedError."""
        messages: list[bytes] = []
        if n > 0:
            for found in read_back(self.connection, self.keys):
                messages = [*checked(found, self.keys).messages(), *messages]
                if len(messages) >= n:
                    break
        return messages[-n:] if n > 0 else []

    def last_us(self) -> int | None:
        """Return when the last message that can be read came, in UTC microseconds."""
        whole = (chunk for chunk, _ in read_back(self.connection, self.keys) if chunk.intact)
        last = next(whole, None)
        return None if last is None else last.times()[-1]

    def mark_archived(self, seq: int) -> None:
        """Raise the archive's mark to `seq`."""
        self.connection.run(MARK, (self.keys.meta,), (self.store_id, seq))

    def set_archived(self, seq: int) -> None:
        """Put the archive's mark to `seq`, or to the last number if that is less."""
        self.connection.run(SET_MARK, (self.keys.meta,), (self.store_id, seq))

    def trim(self, upto: int) -> int:
        """Remove the chunks up to `upto` and the archive's mark; return their messages' count."""
        keys, words = (self.keys.meta, self.keys.chunks), (self.store_id, _TRIM_CHUNKS, upto)
        total = 0
        while (answer := self.connection.run(TRIM, keys, words))[0] == b"ok":
            removed = int(answer[1])
            if not removed:
                break
            total += removed
        return total

    def delete(self) -> None:
        """Remove every key."""
        self.connection.call(self.keys.meta, "UNLINK", *self.keys.all())

    def _missing(self) -> NoSessionError:
        return NoSessionError(
            f"capture session {self.keys.number} has no source {self.keys.source!r}, "
            f"or the store at {self.connection.place} was flushed or replaced"
        )
