"""A capture store with a running session, an ended one, and an empty one."""

from array import array
from datetime import UTC, datetime, timedelta

from keepline.capture.store import CaptureStore
from keepline.model import Chunk, StreamSpec, to_us

LIVE_START = datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)


def fill_capture(store: CaptureStore) -> None:
    """Write sessions 1 (ended, 25 messages), 2 (running, three) and 3 (running, none)."""
    for number, (instrument, count) in enumerate(
        [("red_one", 25), ("open", 3), ("blue_one", 0)], start=1
    ):
        writer = store.create_session(
            instrument, "ann", StreamSpec("main"), started=LIVE_START, origin=f"file {number}"
        )
        for first in range(0, count, 10):
            writer.append([_chunk(first, min(10, count - first))])
        writer.close()
    store.add_stream(2, StreamSpec("other", "csv"))
    store.mark_archived(1, "main", 14)
    store.close_session(1, "complete", LIVE_START + timedelta(minutes=1))


def _chunk(first: int, count: int) -> Chunk:
    messages = [f"message {first + position} é".encode() for position in range(count)]
    times = array("q", (to_us(LIVE_START) + first + position for position in range(count)))
    return Chunk.of(first, messages, times, None, wall_us=to_us(LIVE_START), monotonic_ns=1)
