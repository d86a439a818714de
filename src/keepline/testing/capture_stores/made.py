"""What the suite of capture stores makes: chunks, sessions, and processes that make these."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.model import Chunk, Level, StreamSpec

StoreFactory = Callable[[], CaptureStore]

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
_PATIENCE_S = 10.0


def chunk_of(first_seq: int, messages: Sequence[bytes], *, ticks: bool = False) -> Chunk:
    """Return messages as a chunk; message number n has its time n ms after START."""
    numbers = range(first_seq, first_seq + len(messages))
    start_us = int(START.timestamp()) * 1_000_000 + START.microsecond
    return Chunk.of(
        first_seq,
        list(messages),
        array("q", [start_us + 1000 * number for number in numbers]),
        array("q", [7 * number for number in numbers]) if ticks else None,
        wall_us=start_us,
        monotonic_ns=1,
    )


def start(
    store: CaptureStore,
    *,
    instrument: str = "bench",
    origin: str | None = None,
    level: Level | None = None,
) -> StreamWriter:
    """Start a session of one stream with the default declaration."""
    return store.create_session(
        instrument, "ann", StreamSpec(), started=START, origin=origin, level=level
    )


def end(store: CaptureStore, writer: StreamWriter, *, state: Any = "complete") -> None:
    """End a writer's session."""
    store.close_session(writer.session.number, state, START)
    writer.close()


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether something becomes true before long."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def start_many(task: tuple[StoreFactory, int]) -> list[int]:
    """Start sessions in a process of its own, and return their numbers."""
    factory, count = task
    numbers = []
    with factory() as store:
        for _ in range(count):
            writer = start(store)
            writer.close()
            numbers.append(writer.session.number)
    return numbers


def start_and_die(factory: StoreFactory) -> None:
    """Record one message, and end without any cleaning up."""
    writer = start(factory())
    writer.append([chunk_of(0, [b"kept"])])
    os._exit(9)
