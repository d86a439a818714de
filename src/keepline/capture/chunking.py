"""Cutting queued messages into chunks."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator, Mapping, Sequence

from keepline.capture.segment import Entry
from keepline.model import Chunk

CHUNK_MESSAGES = 1_000
CHUNK_BYTES = 64 * 1024


def cut(entries: Sequence[Entry], first_seq: int, ticks: Mapping[int, int]) -> Iterator[Chunk]:
    """Yield consecutive messages as chunks of at most 1,000 messages and 64 KiB.

    A heavier message is a chunk of its own. `ticks` holds those that there are by sequence
    number; one chunk's messages all have a tick, or none has.
    """
    for start in range(0, len(entries), CHUNK_MESSAGES):
        part = entries[start : start + CHUNK_MESSAGES]
        messages = [message for message, _ in part]
        raw = b"".join(messages)
        if not ticks and len(raw) <= CHUNK_BYTES:
            yield _packed(first_seq + start, part, messages, raw, b"")
            continue
        for begin, end in itertools.pairwise(_borders(messages, first_seq + start, ticks)):
            yield _packed(
                first_seq + start + begin,
                part[begin:end],
                messages[begin:end],
                b"".join(messages[begin:end]),
                _packed_ticks(first_seq + start + begin, end - begin, ticks),
            )


def _borders(messages: list[bytes], first_seq: int, ticks: Mapping[int, int]) -> list[int]:
    """Return where chunks begin and end among messages."""
    borders, weight = [0], 0
    for place, message in enumerate(messages):
        weight += len(message)
        mixed = (first_seq + place in ticks) != (first_seq + borders[-1] in ticks)
        if place > borders[-1] and (weight > CHUNK_BYTES or mixed):
            borders.append(place)
            weight = len(message)
    return [*borders, len(messages)]


def _packed_ticks(first_seq: int, count: int, ticks: Mapping[int, int]) -> bytes:
    if first_seq not in ticks:
        return b""
    values = [ticks[number] for number in range(first_seq, first_seq + count)]
    return struct.pack(f"<{count}q", *values)


def _packed(
    first_seq: int, entries: Sequence[Entry], messages: list[bytes], raw: bytes, ticks: bytes
) -> Chunk:
    # struct packs twice as fast as array does.
    lengths = struct.pack(f"<{len(messages)}I", *map(len, messages))
    times_us = struct.pack(f"<{len(messages)}q", *[at_ns // 1000 for _, at_ns in entries])
    return Chunk(
        first_seq,
        lengths,
        times_us,
        ticks,
        raw,
        wall_us=time.time_ns() // 1000,
        monotonic_ns=time.monotonic_ns(),
        crc=Chunk.checksum(first_seq, lengths, times_us, ticks, raw),
    )
