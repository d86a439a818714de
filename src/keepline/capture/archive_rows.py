"""The archive's rows of one stream, written a batch of blocks at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.blocking import FullBlock, Rejected
from keepline.capture.blocks import CODEC, encode
from keepline.capture.decoders import Column, DType
from keepline.capture.gaps import Gap, find_gaps
from keepline.model import Principal, StreamSpec
from keepline.store import Store, quarantine
from keepline.store.tables import capture as tables


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream is archived: the next message's number, and the last one's time."""

    messages: int
    last_time_us: int | None


class StreamRows:
    """The rows of one stream of an archived session; the stream's own is made if it is new."""

    def __init__(
        self, sql_store: Store, principal: Principal, session_id: int, name: str, spec: StreamSpec
    ) -> None:
        self._store = sql_store
        self._principal = principal
        self._session_id = session_id
        self._spec = spec
        self._origin = f"{name}/{spec.source}"
        self._dialect = postgresql if sql_store.dialect == "postgresql" else sqlite
        self._make()

    def position(self) -> Position:
        """Return how far the stream is archived."""
        with self._store.read() as connection:
            return self._position(connection)

    def channels(self) -> dict[str, DType]:
        """Return the names and types of the channels met so far."""
        channel = tables.channel.c
        with self._store.read() as connection:
            rows = connection.execute(
                sa.select(channel.name, channel.dtype).where(*self._of_stream(tables.channel))
            )
            return {row.name: row.dtype for row in rows}

    def blocks_from(self, seq: int) -> list[tuple[int, int, int]]:
        """Return (first, last, CRC) of the blocks that hold `seq` or later messages, in order."""
        block = tables.block.c
        with self._store.read() as connection:
            rows = connection.execute(
                sa.select(block.first_seq, block.last_seq, block.crc)
                .where(*self._of_stream(tables.block), block.last_seq >= seq)
                .order_by(block.first_seq)
            )
            return [(row.first_seq, row.last_seq, row.crc) for row in rows]

    def append(self, position: Position, batch: Sequence[FullBlock]) -> Position | None:
        """Add blocks in one transaction and return the new position.

        Returns None, adding nothing, when the stream is no longer at `position`.
        """
        payloads = [encode(each.block) for each in batch]
        with self._store.write(self._principal) as connection:
            if self._position(connection, lock=True) != position:
                return None
            ids = self._channel_ids(connection, batch)
            for each, payload in zip(batch, payloads, strict=True):
                self._insert_block(connection, each, payload, ids)
            self._insert_gaps(connection, position, batch)
            rejected = [bad for each in batch for bad in each.rejected]
            quarantine.keep(
                connection, "capture", self._origin, [self._placed(bad) for bad in rejected]
            )
            return self._advance(connection, batch, len(rejected))

    def _of_stream(self, table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
        return table.c.session_id == self._session_id, table.c.source == self._spec.source

    def _make(self) -> None:
        spec = self._spec
        with self._store.write(self._principal) as connection:
            connection.execute(
                self._dialect.insert(tables.stream)
                .values(
                    session_id=self._session_id,
                    source=spec.source,
                    decoder=spec.decoder,
                    options=dict(spec.options),
                    step_us=spec.step_us,
                    messages=0,
                    readings=0,
                    quarantined=0,
                )
                .on_conflict_do_nothing()
            )

    def _position(self, connection: sa.Connection, *, lock: bool = False) -> Position:
        stream = tables.stream.c
        query = sa.select(stream.messages, stream.last_time_us).where(
            *self._of_stream(tables.stream)
        )
        row = connection.execute(query.with_for_update() if lock else query).one()
        return Position(row.messages, row.last_time_us)

    def _channel_ids(self, connection: sa.Connection, batch: Sequence[FullBlock]) -> dict[str, int]:
        units = {each.name: each.unit for each in self._spec.channels}
        found = {name: column for each in batch for name, column in each.block.columns.items()}
        rows = [
            {
                "session_id": self._session_id,
                "source": self._spec.source,
                "name": name,
                "dtype": "text" if isinstance(column, list) else "float64",
                "unit": units.get(name),
            }
            for name, column in found.items()
        ]
        if rows:
            connection.execute(self._dialect.insert(tables.channel).on_conflict_do_nothing(), rows)
        channel = tables.channel.c
        known = connection.execute(
            sa.select(channel.name, channel.id).where(*self._of_stream(tables.channel))
        )
        return {row.name: row.id for row in known}

    def _insert_block(
        self,
        connection: sa.Connection,
        each: FullBlock,
        payload: bytes,
        channel_ids: dict[str, int],
    ) -> None:
        block_id = connection.execute(
            sa.insert(tables.block)
            .values(
                session_id=self._session_id,
                source=self._spec.source,
                first_seq=each.first_seq,
                last_seq=each.last_seq,
                readings=each.readings,
                crc=each.crc,
                codec=CODEC,
                payload=payload,
            )
            .returning(tables.block.c.id)
        ).scalar_one()
        stats = [
            {
                "block_id": block_id,
                "channel_id": channel_ids[name],
                **statistics(column, each.block.times_us),
            }
            for name, column in each.block.columns.items()
        ]
        if stats:
            connection.execute(sa.insert(tables.block_stat), stats)

    def _insert_gaps(
        self, connection: sa.Connection, position: Position, batch: Sequence[FullBlock]
    ) -> None:
        rows = [
            {"session_id": self._session_id, "source": self._spec.source, **gap._asdict()}
            for gap in self._gaps(position.last_time_us, batch)
        ]
        if rows:
            connection.execute(sa.insert(tables.gap), rows)

    def _gaps(self, previous_us: int | None, batch: Sequence[FullBlock]) -> Iterator[Gap]:
        for each in batch:
            yield from find_gaps(each.first_seq, each.all_times_us, previous_us, self._spec.step_us)
            previous_us = int(each.all_times_us[-1])

    def _placed(self, bad: Rejected) -> tuple[int, bytes, str]:
        # A replayed file's ticks are its line numbers; a device's own are no place to look at.
        by_tick = self._spec.options.get("position") == "tick" and bad.tick is not None
        return (bad.tick if by_tick and bad.tick is not None else bad.seq), bad.raw, bad.reason

    def _advance(
        self, connection: sa.Connection, batch: Sequence[FullBlock], rejected: int
    ) -> Position:
        stream = tables.stream.c
        position = Position(batch[-1].last_seq + 1, int(batch[-1].all_times_us[-1]))
        connection.execute(
            sa.update(tables.stream)
            .where(*self._of_stream(tables.stream))
            .values(
                messages=position.messages,
                last_time_us=position.last_time_us,
                readings=stream.readings + sum(each.readings for each in batch),
                quarantined=stream.quarantined + rejected,
            )
        )
        return position


def statistics(column: Column, times_us: NDArray[np.int64]) -> dict[str, Any]:
    """Return the block_stat columns of one channel in a block, missing values left out.

    At least one value is there. Of texts there are only the count and the times.
    """
    if isinstance(column, list):
        there = np.array([value is not None for value in column])
        figures: dict[str, Any] = dict.fromkeys(("min", "max", "total", "first", "last"))
    else:
        there = ~np.isnan(column)
        values = column[there]
        with np.errstate(invalid="ignore", over="ignore"):  # the sum of infinities is none
            total = float(values.sum())
        figures = {
            "min": float(values.min()),
            "max": float(values.max()),
            "total": total,
            "first": float(values[0]),
            "last": float(values[-1]),
        }
    times = times_us[there]
    return {
        "n": int(there.sum()),
        **figures,
        "first_us": int(times.min()),
        "last_us": int(times.max()),
    }
