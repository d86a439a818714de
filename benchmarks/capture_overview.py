"""A chart of 100 million readings: `overview` in 2,000 points, against reading all of them.

The session is made here: 10,000 blocks of 10,000 readings of a drifting, noisy sensor at 1 kHz,
encoded as the archiver does it, each with its own values and times. A figure stated in seconds
is absolute, as the claim is.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import sqlalchemy as sa
import tsdownsample

from keepline.capture.archive.blocks import CODEC, Block, encode
from keepline.capture.archive.overview import Overview
from keepline.capture.archive.readings import ArchiveReader
from keepline.model import Principal, from_us
from keepline.store import Store, schema
from keepline.store.tables import capture as tables
from keepline.store.tables import common

BLOCKS, SIZE, STEP_US = 10_000, 10_000, 1_000
SMALL_BLOCKS = 300
START_US = 1_750_000_000_000_000
POINTS = 2_000
ROUNDS = 7

#: At a forty-first there are nearly half as many blocks as pixels, where the most are decoded.
PARTS = ((1, "the whole"), (10, "a tenth"), (41, "a forty-first"), (1_000, "a thousandth"))
SYSTEM = Principal.system()


def main() -> None:
    """Make both sessions, measure, and print the claims."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{Path(folder) / 'keepline.db'}")
        began = time.perf_counter()
        prepare(store)
        fill(store, 1, BLOCKS)
        fill(store, 2, SMALL_BLOCKS)
        made_s = time.perf_counter() - began
        archive = ArchiveReader(store, "s", principal=SYSTEM)
        claim_speed(archive, made_s)
        claim_ratio(archive)
        claim_extremes(archive)
        store.close()


def prepare(store: Store) -> None:
    """Make the schema and the instrument."""
    schema.migrate(store)
    with store.write(SYSTEM) as connection:
        connection.execute(sa.insert(common.instrument).values(name="bench", tz="UTC", comment=""))


def values_of(number: int, blocks: int) -> Iterator[np.ndarray]:
    """Yield the values of each block: a slow wave, noise of the last digit, and a few spikes."""
    rng = np.random.default_rng(number)
    for block in range(blocks):
        phase = (block * SIZE + np.arange(SIZE)) * (6.283 / 3e6)
        values = 20 + 5 * np.sin(phase) + rng.normal(scale=0.05, size=SIZE)
        if block % 7 == 0:
            values[rng.integers(SIZE)] += rng.normal(scale=20)
        yield np.round(values, 3)


def fill(store: Store, number: int, blocks: int) -> None:
    """Write one session with a channel `v`, as the archiver would have."""
    with store.write(SYSTEM) as connection:
        session_id = connection.execute(
            sa.insert(tables.capture_session)
            .values(
                store_id="s", number=number, global_name=f"capture:s:{number}",
                instrument="bench", user_name="", state="complete",
                started_at=from_us(START_US), level="stored",
            )
            .returning(tables.capture_session.c.id)
        ).scalar_one()  # fmt: skip
        channel_id = connection.execute(
            sa.insert(tables.channel)
            .values(session_id=session_id, source="main", name="v", dtype="float64")
            .returning(tables.channel.c.id)
        ).scalar_one()
    rows, stats = [], []
    for block, values in enumerate(values_of(number, blocks)):
        first = block * SIZE
        seqs = np.arange(first, first + SIZE)
        times = START_US + seqs * STEP_US
        block_id = number * 1_000_000 + block
        rows.append(
            {
                "id": block_id, "session_id": session_id, "source": "main", "first_seq": first,
                "last_seq": first + SIZE - 1, "readings": SIZE, "crc": 0, "codec": CODEC,
                "payload": encode(Block(times, seqs, {"v": values})),
            }
        )  # fmt: skip
        least, greatest = int(values.argmin()), int(values.argmax())
        stats.append(
            {
                "block_id": block_id, "channel_id": channel_id, "n": SIZE,
                "min": float(values[least]), "max": float(values[greatest]),
                "total": float(values.sum()), "first": float(values[0]),
                "last": float(values[-1]), "first_us": int(times[0]), "last_us": int(times[-1]),
                "min_us": int(times[least]), "max_us": int(times[greatest]),
            }
        )  # fmt: skip
        if len(rows) == 500 or block == blocks - 1:
            with store.write(SYSTEM) as connection:
                connection.execute(sa.insert(tables.block), rows)
                connection.execute(sa.insert(tables.block_stat), stats)
            rows, stats = [], []


def claim_speed(archive: ArchiveReader, made_s: float) -> None:
    """Claim how long an overview takes after the first one, of the whole and of zooms."""
    span = BLOCKS * SIZE * STEP_US
    for part, name in PARTS:
        # Odd limits, so that blocks lie across the borders of pixels.
        start = START_US + (0 if part == 1 else span // 3) + 1_234_567
        look = partial(archive.overview, 1, "v", from_us(start), from_us(start + span // part))
        look(POINTS)
        seconds = [timed(partial(look, POINTS)) for _ in range(ROUNDS)]
        median = statistics.median(seconds)
        claim(
            f"overview of {name} of 1e8 readings, seconds after the first",
            "an absolute limit",
            round(median, 4),
            0.2,
            median <= 0.2,
            span // part // STEP_US,
            f"wall time, median of {ROUNDS}, SQLite; the session took {made_s:.0f} s to make",
        )


def claim_ratio(archive: ArchiveReader) -> None:
    """Claim what an overview saves over reading everything and reducing that."""
    ours = timed(lambda: archive.overview(2, "v", points=POINTS))
    theirs = timed(lambda: reduced_whole(archive))
    claim(
        "overview of 3 million readings",
        "reading them all, M4 by tsdownsample",
        round(theirs / ours, 1),
        1,
        theirs >= ours,
        SMALL_BLOCKS * SIZE,
        f"wall time: {ours * 1e3:.0f} and {theirs * 1e3:.0f} ms; what is read the other way "
        "grows with the readings, here with the points",
    )


def reduced_whole(archive: ArchiveReader) -> np.ndarray:
    """Return the points that reading all and reducing them gives."""
    times, values = archive.read(2, "v")
    return tsdownsample.M4Downsampler().downsample(times, values, n_out=POINTS)


def claim_extremes(archive: ArchiveReader) -> None:
    """Claim that every pixel keeps its first, last, least and greatest reading."""
    times, values = archive.read(2, "v")
    last = START_US + SMALL_BLOCKS * SIZE * STEP_US
    ranges = [(START_US, last), (START_US + 12_345, last - 1_234_567), (last - 5 * 10**8, last)]
    wrong = 0
    for start, end in ranges:
        found = archive.overview(2, "v", from_us(start), from_us(end), POINTS)
        wrong += pixels_that_differ(found, times, values)
    claim(
        "pixels of an overview that lack an extreme, an edge, or hold what was not read",
        "brute force over all readings",
        wrong,
        0,
        wrong == 0,
        SMALL_BLOCKS * SIZE,
        f"{len(ranges)} ranges of {POINTS // 4} pixels",
    )


def pixels_that_differ(found: Overview, times: np.ndarray, values: np.ndarray) -> int:
    """Count the pixels whose kept readings have other edges or extremes than all of its."""
    wrong = 0
    for low, high in pairwise(found.borders_us.tolist()):
        all_of = slice(*np.searchsorted(times, (low, high)))
        kept = slice(*np.searchsorted(found.times_us, (low, high)))
        mine = edges(found.times_us[kept], found.values[kept])
        wrong += mine != edges(times[all_of], values[all_of])
    return wrong


def edges(times: np.ndarray, values: np.ndarray) -> tuple[float, ...]:
    """Return the first and last time and value, and the least and the greatest value."""
    if not len(times):
        return ()
    return (times[0], values[0], times[-1], values[-1], values.min(), values.max())


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def claim(text: str, peer: str, value: float, target: float, holds: bool, n: int, how: str) -> None:
    """Print one claim as a JSON line."""
    row = {"claim": text, "peer": peer, "value": value, "target": target, "holds": bool(holds)}
    print(json.dumps({**row, "n": n, "how": how}), flush=True)


if __name__ == "__main__":
    main()
