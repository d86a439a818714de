"""Cutting queued messages into chunks."""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

from keepline.model import Chunk

CHUNK_MESSAGES = 1_000
CHUNK_BYTES = 64 * 1024

#: A message and its time in UTC microseconds; and its tick where it has one.
Entry = tuple[bytes, int] | tuple[bytes, int, int]
_MESSAGE: Callable[[Entry], bytes] = itemgetter(0)


def cut(entries: Sequence[Entry], first_seq: int, *, ticked: bool) -> Iterator[Chunk]:
    """Yield consecutive messages as chunks of at most 1,000 messages and 64 KiB.

    A heavier message is a chunk of its own; one chunk's messages all have a tick, or none
    has. `ticked` says that some of `entries` may have one.
    """
    for start in range(0, len(entries), CHUNK_MESSAGES):
        part = entries[start : start + CHUNK_MESSAGES]
        mixed = ticked and len(set(map(len, part))) > 1
        if mixed or len(b"".join(map(_MESSAGE, part))) > CHUNK_BYTES:
            yield from _cut_finely(part, first_seq + start)
        else:
            yield _chunk(part, first_seq + start)


def _cut_finely(entries: Sequence[Entry], first_seq: int) -> Iterator[Chunk]:
    begin, weight = 0, 0
    for position, entry in enumerate(entries):
        weight += len(entry[0])
        mixed = len(entry) != len(entries[begin])
        if position > begin and (weight > CHUNK_BYTES or mixed):
            yield _chunk(entries[begin:position], first_seq + begin)
            begin, weight = position, len(entry[0])
    yield _chunk(entries[begin:], first_seq + begin)


def _chunk(entries: Sequence[Entry], first_seq: int) -> Chunk:
    messages, times, *ticks = zip(*entries, strict=True)
    return Chunk.of(
        first_seq,
        list(messages),
        _int64(times),
        _int64(ticks[0]) if ticks else None,
        wall_us=time.time_ns() // 1000,
        monotonic_ns=time.monotonic_ns(),
    )


def _int64(values: tuple[int, ...]) -> array[int]:
    # Twice as fast as array("q", values).
    return array("q", struct.pack(f"{len(values)}q", *values))
