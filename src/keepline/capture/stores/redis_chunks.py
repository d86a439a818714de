"""Chunks as entries of a stream in Redis, and the names of the keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from keepline.capture.stores.redis_connection import Argument, RedisConnection
from keepline.capture.stores.stream_specs import intact
from keepline.model import Chunk, Loss

#: So many entries are asked for at once: some 64 KiB each.
_PAGE = 8


@dataclass(frozen=True, slots=True)
class RegisterKeys:
    """The keys that say which sessions there are; one hash tag, so one slot of a cluster."""

    prefix: str

    def _named(self, name: str) -> str:
        return f"{self.prefix}:{{{self.prefix}}}:{name}"

    @property
    def store(self) -> str:
        """Return the key of the store's own hash."""
        return self._named("store")

    @property
    def sessions(self) -> str:
        """Return the key of the sorted set of numbers."""
        return self._named("sessions")

    @property
    def removed(self) -> str:
        """Return the key of the sorted set of numbers whose streams are being deleted."""
        return self._named("removed")

    @property
    def origins(self) -> str:
        """Return the key of the hash of what is captured."""
        return self._named("origins")

    @property
    def session_prefix(self) -> str:
        """Return how the key of each session's hash begins; its number follows."""
        return self._named("session:")

    def session(self, number: int) -> str:
        """Return the key of a session's hash."""
        return f"{self.session_prefix}{number}"

    @property
    def specs_prefix(self) -> str:
        """Return how the key of each session's declarations begins; its number follows."""
        return self._named("specs:")

    def specs(self, number: int) -> str:
        """Return the key of the hash of a session's declarations."""
        return f"{self.specs_prefix}{number}"


@dataclass(frozen=True, slots=True)
class StreamKeys:
    """The keys of one stream; they share its hash tag."""

    prefix: str
    number: int
    source: str

    def _named(self, name: str) -> str:
        return f"{self.prefix}:{{{self.prefix}:{self.number}:{self.source}}}:{name}"

    @property
    def meta(self) -> str:
        """Return the key of the stream's hash."""
        return self._named("meta")

    @property
    def chunks(self) -> str:
        """Return the key of the stream of chunks."""
        return self._named("chunks")

    @property
    def losses(self) -> str:
        """Return the key of the list of losses."""
        return self._named("losses")

    def all(self) -> tuple[str, ...]:
        """Return every key."""
        return (self.meta, self.chunks, self.losses)


def entry_arguments(chunks: Iterable[Chunk]) -> list[Argument]:
    """Return the chunks as the script APPEND takes them."""
    words: list[Argument] = []
    for chunk in chunks:
        first = chunk.first_seq
        words += (
            f"{first + 1}-0", first, first + chunk.count, chunk.crc, chunk.wall_us,
            chunk.monotonic_ns, chunk.lengths, chunk.times_us, chunk.ticks, chunk.raw,
        )  # fmt: skip
    return words


def read_chunks(
    connection: RedisConnection, keys: StreamKeys, from_seq: int
) -> Iterator[tuple[Chunk, int]]:
    """Yield the chunks that hold `from_seq` and follow it, each with the last number it had.

    Chunks that come meanwhile are included.
    """
    start = f"{from_seq + 1}-0"
    for entry in connection.call(
        keys.chunks, "XREVRANGE", keys.chunks, start, "-", "COUNT", 1
    ):  # the one that begins before and may hold it
        found = _chunk(entry)
        if found[1] >= from_seq:
            yield found
        start = _after(entry)
    while entries := connection.call(
        keys.chunks, "XRANGE", keys.chunks, start, "+", "COUNT", _PAGE
    ):
        for entry in entries:
            yield _chunk(entry)
        start = _after(entries[-1])


def read_back(connection: RedisConnection, keys: StreamKeys) -> Iterator[tuple[Chunk, int]]:
    """Yield the chunks that there are, last one first, each with the last number it had."""
    before = "+"
    while entries := connection.call(
        keys.chunks, "XREVRANGE", keys.chunks, before, "-", "COUNT", 1
    ):
        yield _chunk(entries[0])
        before = f"({entries[0][0].decode()}"


def checked(found: tuple[Chunk, int], keys: StreamKeys) -> Chunk:
    """Return a chunk that was read; raises ChunkDamagedError."""
    return intact(found[0], keys.number, keys.source, found[1])


def loss_of(text: bytes) -> Loss:
    """Return what the script LOSE noted."""
    first, last, at_us, reason = text.decode().split(" ", 3)
    return Loss(int(first), int(last), reason, int(at_us))


def _after(entry: Any) -> str:
    return f"({entry[0].decode()}"


def _chunk(entry: Any) -> tuple[Chunk, int]:
    """Return an entry as a chunk; what it lacks makes it a damaged one."""
    first = int(entry[0].split(b"-")[0]) - 1
    fields = entry[1] if isinstance(entry[1], dict) else {}
    chunk = Chunk(
        first,
        fields.get(b"l", b""),
        fields.get(b"t", b""),
        fields.get(b"k", b""),
        fields.get(b"r", b""),
        _number(fields.get(b"w")),
        _number(fields.get(b"m")),
        _number(fields.get(b"c"), -1),
    )
    return chunk, max(first, _number(fields.get(b"n")) - 1)


def _number(text: bytes | None, otherwise: int = 0) -> int:
    try:
        return otherwise if text is None else int(text)
    except ValueError:
        return otherwise
