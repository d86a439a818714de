"""What taking in a message costs: `queue()` against one INSERT + COMMIT, or one LPUSH, a message.

Each side keeps messages of 24 bytes. On SQLite both number and time-stamp them in a file with
the same settings (WAL, page size 4,096); on Valkey, with an append-only file, the peer is
redis-py's `lpush`, which does neither. Rounds of both alternate, and a ratio is of their medians.
CPU time is that of all processes, the server's included.
"""

import json
import os
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import redis

from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.capture.store import CaptureStore
from keepline.capture.stores.redis import RedisCaptureStore
from keepline.model import Level

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.servers import RedisServer, valkey_server

MESSAGE = b"x" * 24
ROUNDS = 7
QUEUED = 200_000
COMMITTED = {"NORMAL": 10_000, "FULL": 2_000}
PUSHED = {"everysec": 5_000, "always": 500}
LEVELS: dict[str, Level] = {"NORMAL": "stored", "FULL": "fsynced"}
PACE = 50
PACED_S = 4
PACED_ROUNDS = 3


class Cost(NamedTuple):
    """Seconds a message."""

    cpu: float
    wall: float


Work = Callable[[int], None]


def main() -> None:
    """Measure on both stores and print the claims."""
    for synchronous, target in (("NORMAL", 10), ("FULL", 60)):
        with tempfile.TemporaryDirectory() as folder:
            on_sqlite(Path(folder), synchronous, target)
    with tempfile.TemporaryDirectory() as folder:
        paced_on_sqlite(Path(folder))
    for appendfsync in ("everysec", "always"):
        with valkey_server(options={"appendfsync": appendfsync}) as server:
            on_valkey(server, appendfsync)


def on_sqlite(folder: Path, synchronous: str, target: int) -> None:
    """Compare at full rate, in files of their own each round."""
    fresh = (folder / f"{number}.db" for number in range(1_000))
    ours, theirs = alternated(
        lambda n: queued_on_sqlite(next(fresh), LEVELS[synchronous], n),
        QUEUED,
        lambda n: committed(next(fresh), synchronous, n),
        COMMITTED[synchronous],
        cpu_time,
    )
    what, peer = f"queue() at full rate, synchronous {synchronous}", "sqlite3, INSERT + COMMIT each"
    claim(f"{what}, CPU time", peer, target, ours.cpu, theirs.cpu, QUEUED)
    if synchronous == "FULL":
        claim(f"{what}, wall time", peer, target, ours.wall, theirs.wall, QUEUED)


def paced_on_sqlite(folder: Path) -> None:
    """Compare at 50 messages a second."""
    with (
        SqliteCaptureStore(folder / "ours.db") as store,
        CaptureServer(store, "bench") as server,
        committing(folder / "theirs.db", "NORMAL") as commit,
    ):
        server.start_session()
        ours, theirs = alternated(
            lambda n: paced(server.queue, n),
            PACE * PACED_S,
            lambda n: paced(commit, n),
            PACE * PACED_S,
            cpu_time,
            rounds=PACED_ROUNDS,
        )
    what = f"queue() at {PACE} messages a second, SQLite, CPU time"
    claim(what, "sqlite3, INSERT + COMMIT each", 1, ours.cpu, theirs.cpu, PACE * PACED_S)


def on_valkey(server: RedisServer, appendfsync: str) -> None:
    """Compare at full rate, and at 50 messages a second."""
    client = redis.Redis.from_url(server.url)

    def cpu() -> float:
        used = client.info("cpu")
        return cpu_time() + used["used_cpu_user"] + used["used_cpu_sys"]

    def push(n: int) -> None:
        client.delete("messages")
        for _ in range(n):
            client.lpush("messages", MESSAGE)
        assert client.llen("messages") == n

    level: Level = "stored" if appendfsync == "everysec" else "fsynced"
    with RedisCaptureStore(server.url, level=level) as store:
        ours, theirs = alternated(
            lambda n: queued(store, n), QUEUED, push, PUSHED[appendfsync], cpu
        )
        what, peer = f"queue() at full rate, appendfsync {appendfsync}", "redis-py, LPUSH each"
        if appendfsync == "always":
            claim(f"{what}, wall time", peer, 500, ours.wall, theirs.wall, QUEUED)
            return
        claim(f"{what}, CPU time", peer, 100, ours.cpu, theirs.cpu, QUEUED)
        with CaptureServer(store, "bench") as recorder:
            recorder.start_session()
            ours, theirs = alternated(
                lambda n: paced(recorder.queue, n),
                PACE * PACED_S,
                lambda n: paced(lambda message: client.lpush("paced", message), n),
                PACE * PACED_S,
                cpu,
                rounds=PACED_ROUNDS,
            )
        what = f"queue() at {PACE} messages a second, Valkey, CPU time"
        claim(what, peer, 1, ours.cpu, theirs.cpu, PACE * PACED_S)


def alternated(
    ours: Work,
    our_n: int,
    theirs: Work,
    their_n: int,
    cpu: Callable[[], float],
    *,
    rounds: int = ROUNDS,
) -> tuple[Cost, Cost]:
    """Return the median costs of both, whose rounds alternate."""
    our_costs, their_costs = [], []
    for _ in range(rounds):
        their_costs.append(measured(theirs, their_n, cpu))
        our_costs.append(measured(ours, our_n, cpu))
    return median(our_costs), median(their_costs)


def measured(work: Work, n: int, cpu: Callable[[], float]) -> Cost:
    """Return what `work` on `n` messages costs."""
    used, wall = cpu(), time.perf_counter()
    work(n)
    wall = time.perf_counter() - wall
    return Cost((cpu() - used) / n, wall / n)


def median(costs: list[Cost]) -> Cost:
    """Return the median of each cost."""
    return Cost(
        statistics.median(cost.cpu for cost in costs),
        statistics.median(cost.wall for cost in costs),
    )


def cpu_time() -> float:
    """Return the CPU time of this process and its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def queued_on_sqlite(path: Path, level: Level, n: int) -> None:
    """Record one session of `n` messages, from making the store to closing it."""
    with SqliteCaptureStore(path, level=level) as store:
        queued(store, n)


def queued(store: CaptureStore, n: int) -> None:
    """Record one session of `n` messages."""
    with CaptureServer(store, "bench") as server:
        server.start_session()
        queue = server.queue
        for _ in range(n):
            queue(MESSAGE)
        info = server.stop_session()
    assert store.message_count(info.number, "main") == n


@contextmanager
def committing(path: Path, synchronous: str) -> Iterator[Callable[[bytes], None]]:
    """Give a function that inserts and commits a message, as plainly as sqlite3 allows."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE message (seq INTEGER PRIMARY KEY, at_us INTEGER, raw BLOB)")
    seq = 0

    def commit(message: bytes) -> None:
        nonlocal seq
        at_us = time.time_ns() // 1000
        connection.execute("INSERT INTO message VALUES (?, ?, ?)", (seq, at_us, message))
        connection.commit()
        seq += 1

    try:
        yield commit
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (seq,)
    finally:
        connection.close()


def committed(path: Path, synchronous: str, n: int) -> None:
    """Insert and commit `n` messages one by one."""
    with committing(path, synchronous) as commit:
        for _ in range(n):
            commit(MESSAGE)


def paced(take: Callable[[bytes], object], n: int) -> None:
    """Give `n` messages at the pace, and a moment for what is behind to follow."""
    begin = time.perf_counter()
    for number in range(n):
        time.sleep(max(0.0, begin + number / PACE - time.perf_counter()))
        take(MESSAGE)
    time.sleep(0.5)


def claim(what: str, peer: str, target: int, ours: float, theirs: float, n: int) -> None:
    """Print one claim as a JSON line."""
    value = theirs / ours
    how = (
        f"medians of alternating rounds: {ours * 1e6:.2f} and {theirs * 1e6:.1f} µs a message, "
        f"{os.cpu_count()} cores"
    )
    line = {"claim": what, "peer": peer, "value": round(value, 1), "target": target}
    print(json.dumps({**line, "holds": value >= target, "n": n, "how": how}), flush=True)


if __name__ == "__main__":
    main()
