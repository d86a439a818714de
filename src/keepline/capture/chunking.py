"""Cutting queued messages into chunks."""

from __future__ import annotations

import itertools
import struct
import time
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from keepline.model import Chunk

CHUNK_MESSAGES = 1_000
CHUNK_BYTES = 64 * 1024

#: Messages and their times in UTC microseconds by turns. A tuple each would cost a fifth more:
#: the garbage collector would visit every one.
Entries = list[Any]


def cut(entries: Entries, first_seq: int, ticks: Mapping[int, int]) -> Iterator[Chunk]:
    """Yield consecutive messages as chunks of at most 1,000 messages and 64 KiB.

    A heavier message is a chunk of its own. `ticks` holds those that there are by sequence
    number; one chunk's messages all have a tick, or none has.
    """
    messages: list[bytes] = entries[::2]
    times: list[int] = entries[1::2]
    for start in range(0, len(messages), CHUNK_MESSAGES):
        part = messages[start : start + CHUNK_MESSAGES]
        borders = [0, len(part)]
        if ticks or sum(map(len, part)) > CHUNK_BYTES:
            borders = _borders(part, first_seq + start, ticks)
        for begin, end in itertools.pairwise(borders):
            yield _chunk(
                first_seq + start + begin,
                part[begin:end],
                times[start + begin : start + end],
                ticks,
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


def _chunk(
    first_seq: int, messages: list[bytes], times: list[int], ticks: Mapping[int, int]
) -> Chunk:
    ticked = first_seq in ticks
    numbers = range(first_seq, first_seq + len(messages))
    return Chunk.of(
        first_seq,
        messages,
        _int64(times),
        _int64([ticks[number] for number in numbers]) if ticked else None,
        wall_us=time.time_ns() // 1000,
        monotonic_ns=time.monotonic_ns(),
    )


def _int64(values: list[int]) -> array[int]:
    # Twice as fast as array("q", values).
    return array("q", struct.pack(f"{len(values)}q", *values))
