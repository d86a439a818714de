"""What taking in a message costs: `queue()` against one INSERT + COMMIT a message.

Both sides number and time-stamp each message of 24 bytes and keep it in a SQLite file with the
same settings (WAL, page size 4,096). Rounds of both alternate; a ratio is of their medians.
"""

import json
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from keepline.capture import CaptureServer, SqliteCaptureStore

MESSAGE = b"x" * 24
ROUNDS = 7
QUEUED = 200_000
COMMITTED = {"NORMAL": 10_000, "FULL": 2_000}
LEVELS = {"NORMAL": "stored", "FULL": "fsynced"}


class Cost(NamedTuple):
    """Seconds a message."""

    cpu: float
    wall: float


def main() -> None:
    """Measure at both levels and print the claims."""
    for synchronous, target in (("NORMAL", 10), ("FULL", 60)):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(measured(commit_each, synchronous, COMMITTED[synchronous]))
            ours.append(measured(queue_all, synchronous, QUEUED))
        claim(
            synchronous, "CPU", target, [each.cpu for each in ours], [each.cpu for each in theirs]
        )
        if synchronous == "FULL":
            walls = [each.wall for each in ours], [each.wall for each in theirs]
            claim(synchronous, "wall", target, *walls)


def measured(work: Callable[[Path, str, int], None], synchronous: str, n: int) -> Cost:
    """Return what `work` on `n` messages costs, all its threads and children included."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = cpu_time(), time.perf_counter()
        work(Path(folder) / "messages.db", synchronous, n)
        return Cost((cpu_time() - cpu) / n, (time.perf_counter() - wall) / n)


def cpu_time() -> float:
    """Return the CPU time of this process and its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def queue_all(path: Path, synchronous: str, n: int) -> None:
    """Record one session of `n` messages, from making the store to closing it."""
    with (
        SqliteCaptureStore(path, level=LEVELS[synchronous]) as store,
        CaptureServer(store, "bench") as server,
    ):
        server.start_session()
        queue = server.queue
        for _ in range(n):
            queue(MESSAGE)
        info = server.stop_session()
        assert store.message_count(info.number, "main") == n


def commit_each(path: Path, synchronous: str, n: int) -> None:
    """Insert and commit `n` messages one by one, as plainly as sqlite3 allows."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE message (seq INTEGER PRIMARY KEY, at_us INTEGER, raw BLOB)")
    for seq in range(n):
        at_us = time.time_ns() // 1000
        connection.execute("INSERT INTO message VALUES (?, ?, ?)", (seq, at_us, MESSAGE))
        connection.commit()
    assert connection.execute("SELECT count(*) FROM message").fetchone() == (n,)
    connection.close()


def claim(synchronous: str, kind: str, target: int, ours: list[float], theirs: list[float]) -> None:
    """Print one claim as a JSON line."""
    cost, peer_cost = statistics.median(ours), statistics.median(theirs)
    value = peer_cost / cost
    print(
        json.dumps(
            {
                "claim": f"queue() at full rate, synchronous {synchronous}, {kind} time",
                "peer": "sqlite3, INSERT + COMMIT a message",
                "value": round(value, 1),
                "target": target,
                "holds": value >= target,
                "n": QUEUED,
                "how": f"{kind} time, all threads; medians of {ROUNDS} alternating rounds: "
                f"{cost * 1e6:.2f} and {peer_cost * 1e6:.1f} µs a message",
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
