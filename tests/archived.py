"""An archive whose rows tests write themselves: sessions, sources and blocks as they want them."""

from typing import Any

import numpy as np
import sqlalchemy as sa

from keepline.capture.archive.blocks import CODEC, Block, encode
from keepline.model import Principal, from_us
from keepline.store import Store, schema
from keepline.store.tables import capture as tables
from keepline.store.tables import common

STORE_ID = "s"
SYSTEM = Principal.system()


def declare(store: Store, **groups: str | None) -> None:
    """Make the schema, and an instrument for each name, of the group given."""
    schema.migrate(store)
    with store.write(SYSTEM) as connection:
        for name, group in groups.items():
            connection.execute(
                sa.insert(common.instrument).values(
                    name=name, tz="UTC", group_name=group, comment=""
                )
            )


class Archived:
    """One session of the archive, that sources and blocks are written to."""

    def __init__(
        self, store: Store, number: int = 1, instrument: str = "bench", group: str | None = None
    ) -> None:
        self.store = store
        self.name = f"capture:{STORE_ID}:{number}"
        with store.write(SYSTEM) as connection:
            self.id = connection.execute(
                sa.insert(tables.capture_session)
                .values(
                    store_id=STORE_ID, number=number, global_name=self.name,
                    instrument=instrument, user_name="ann", state="complete",
                    started_at=from_us(0), ended_at=from_us(10**12), group_name=group,
                    level="stored",
                )
                .returning(tables.capture_session.c.id)
            ).scalar_one()  # fmt: skip

    def add(
        self, *blocks: Block, source: str = "main", units: dict[str, str] | None = None
    ) -> None:
        """Write blocks of one source, whose messages are those of the blocks."""
        types: dict[str, str] = {}
        for block in blocks:
            for name, column in block.columns.items():
                types[name] = "text" if isinstance(column, list) else str(column.dtype)
        with self.store.write(SYSTEM) as connection:
            ids = {
                name: connection.execute(
                    sa.insert(tables.channel)
                    .values(
                        session_id=self.id, source=source, name=name, dtype=dtype,
                        unit=(units or {}).get(name),
                    )
                    .returning(tables.channel.c.id)
                ).scalar_one()
                for name, dtype in types.items()
            }  # fmt: skip
            readings = sum(self._add(connection, block, source, ids) for block in blocks)
            connection.execute(
                sa.insert(tables.stream).values(
                    session_id=self.id, source=source, decoder="json", options={},
                    messages=max((int(block.seqs[-1]) + 1 for block in blocks), default=0),
                    readings=readings, quarantined=0, lost=0,
                )
            )  # fmt: skip

    def _add(
        self, connection: sa.Connection, block: Block, source: str, ids: dict[str, int]
    ) -> int:
        stats = {name: statistics(column, block.times_us) for name, column in block.columns.items()}
        readings = sum(each["n"] for each in stats.values())
        block_id = connection.execute(
            sa.insert(tables.block)
            .values(
                session_id=self.id, source=source, first_seq=int(block.seqs[0]),
                last_seq=int(block.seqs[-1]), readings=readings, crc=0, codec=CODEC,
                payload=encode(block),
            )
            .returning(tables.block.c.id)
        ).scalar_one()  # fmt: skip
        rows = [
            {"block_id": block_id, "channel_id": ids[name], **each} for name, each in stats.items()
        ]
        if rows:
            connection.execute(sa.insert(tables.block_stat), rows)
        return readings

    def gap(self, kind: str, after_seq: int, from_us: int, until_us: int) -> None:
        """Write a gap of the source "main"."""
        with self.store.write(SYSTEM) as connection:
            connection.execute(
                sa.insert(tables.gap).values(
                    session_id=self.id, source="main", kind=kind, after_seq=after_seq,
                    from_us=from_us, until_us=until_us,
                )
            )  # fmt: skip


def fill_readings(store: Store) -> None:
    """Write a session of each group, with channels of every type and values that are missing."""
    declare(store, open=None, red_one="red", blue_one="blue")
    for number, (instrument, group) in enumerate(
        [("open", None), ("red_one", "red"), ("blue_one", "blue")], start=1
    ):
        session = Archived(store, number, instrument, group)
        blocks = [_typed(7 * number, first) for first in range(0, 60, 20)]
        session.add(*blocks, units={"load": "kN"})
        session.add(_typed(number, 0), source="other")


def _typed(seed: int, first: int) -> Block:
    seqs = first + np.flatnonzero(np.arange(20) != seed % 20)
    rng = np.random.default_rng(seed + first)
    missing = rng.random(len(seqs)) < 0.3
    load = rng.normal(size=len(seqs))
    load[missing] = np.nan
    load[0] = np.inf
    columns = {
        "load": load,
        "count": np.ma.MaskedArray(rng.integers(-(2**62), 2**62, len(seqs)), ~missing),
        "open": np.ma.MaskedArray(load > 0, missing[::-1]),
        "note": [None if gone else f"é {seq}" for gone, seq in zip(missing, seqs, strict=True)],
    }
    # The same time twice, and one that goes back.
    times = 1_700_000_000_123_456 + seqs * 1_000
    times[3], times[5] = times[2], times[0] - 7
    return Block(times, seqs, columns)


def statistics(column: Any, times_us: np.ndarray) -> dict[str, Any]:
    """Return what block_stat says of a channel in a block, found the plain way."""
    values = column if isinstance(column, list) else column.tolist()
    there = [
        (time, value)
        for time, value in zip(times_us.tolist(), values, strict=True)
        if value is not None and value == value
    ]
    times = [time for time, _ in there]
    found = {"n": len(there), "first_us": min(times), "last_us": max(times)}
    if isinstance(column, list):
        names = ("min", "max", "total", "first", "last", "min_us", "max_us")
        return found | dict.fromkeys(names)
    by_time = sorted(there, key=lambda each: each[0])
    least = min(there, key=lambda each: each[1])
    greatest = max(there, key=lambda each: each[1])
    return found | {
        "min": float(least[1]), "min_us": least[0], "max": float(greatest[1]),
        "max_us": greatest[0], "first": float(by_time[0][1]), "last": float(by_time[-1][1]),
        "total": float(sum(value for _, value in there)),
    }  # fmt: skip
