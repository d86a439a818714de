"""Reading the archive back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from keepline.capture.blocks import decode
from keepline.capture.decoders import Column
from keepline.errors import CaptureError, NoSessionError
from keepline.model import Principal, from_us, to_us
from keepline.store import Store
from keepline.store.access import visible
from keepline.store.tables import capture as tables


@dataclass(frozen=True, slots=True)
class Reading:
    """One channel's value at one time; `seq` is the number of the message that held it."""

    source: str
    channel: str
    seq: int
    at: datetime
    value: float | str


@dataclass(frozen=True, slots=True)
class Variable:
    """A channel of an archived session, and what its readings are like.

    The figures leave missing values out, and are None for a channel of texts.
    """

    source: str
    name: str
    dtype: str
    unit: str | None
    n: int
    min: float | None
    max: float | None
    mean: float | None
    first_at: datetime | None
    last_at: datetime | None


class ArchiveReader:
    """Reads archived sessions, as far as `principal` may see them.

    A session is named by its number in the capture store `store_id`, or by its global name.
    """

    def __init__(self, sql_store: Store, store_id: str, *, principal: Principal) -> None:
        self.sql_store = sql_store
        self.store_id = store_id
        self.principal = principal

    def get_session_readings(self, session: int | str) -> Iterator[Reading]:
        """Yield every reading of a session: by source, then in the order of its messages.

        One block at a time is in memory. Raises NoSessionError at the first one.
        """
        row_id = self._find(session)
        query = sa.select(tables.block.c.id).where(tables.block.c.session_id == row_id)
        query = query.order_by(tables.block.c.source, tables.block.c.first_seq)
        for source, payload, codec in self._blocks(query):
            block = decode(payload, codec)
            times, seqs = block.times_us.tolist(), block.seqs.tolist()
            columns = [(name, _listed(column)) for name, column in block.columns.items()]
            for index, time_us in enumerate(times):
                at = from_us(time_us)
                for name, values in columns:
                    value = values[index]
                    if value is not None:
                        yield Reading(source, name, seqs[index], at, value)

    def get_session_variables(self, session: int | str) -> list[Variable]:
        """Return the channels of a session with their statistics, by source and name.

        Raises NoSessionError.
        """
        row_id = self._find(session)
        channel, stat = tables.channel.c, tables.block_stat.c
        query = (
            sa.select(
                channel.source, channel.name, channel.dtype, channel.unit,
                sa.func.coalesce(sa.func.sum(stat.n), 0).label("n"),
                sa.func.min(stat.min).label("min"),
                sa.func.max(stat.max).label("max"),
                sa.func.sum(stat.total).label("total"),
                sa.func.min(stat.first_us).label("first_us"),
                sa.func.max(stat.last_us).label("last_us"),
            )
            .select_from(tables.channel.outerjoin(tables.block_stat))
            .where(channel.session_id == row_id)
            .group_by(channel.id, channel.source, channel.name, channel.dtype, channel.unit)
            .order_by(channel.source, channel.name)
        )  # fmt: skip
        with self.sql_store.read() as connection:
            return [_variable(row) for row in connection.execute(query)]

    def read(
        self,
        session: int | str,
        channel: str,
        *,
        source: str = "main",
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the times (int64, UTC microseconds) and values (float64) of one channel.

        They are in the order of the messages, from `start` to before `end`, without missing
        values. Of a channel of texts there are none: see `get_session_readings`.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: it has no such channel of numbers.
        """
        row_id = self._find(session)
        channel_id = self._channel_id(row_id, source, channel)
        stat = tables.block_stat.c
        query = (
            sa.select(tables.block.c.id)
            .join(tables.block_stat)
            .where(stat.channel_id == channel_id)
            .order_by(tables.block.c.first_seq)
        )
        low = None if start is None else to_us(start)
        high = None if end is None else to_us(end)
        if low is not None:
            query = query.where(stat.last_us >= low)
        if high is not None:
            query = query.where(stat.first_us < high)
        times, values = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
        for _, payload, codec in self._blocks(query):
            block = decode(payload, codec, channel=channel)
            column = np.asarray(block.columns[channel], dtype=np.float64)
            wanted = ~np.isnan(column)
            if low is not None:
                wanted &= block.times_us >= low
            if high is not None:
                wanted &= block.times_us < high
            times.append(block.times_us[wanted])
            values.append(column[wanted])
        return np.concatenate(times), np.concatenate(values)

    def _find(self, session: int | str) -> int:
        """Return the row id of a session that the principal may see."""
        table = tables.capture_session
        allowed, _ = visible(table, self.principal)
        named = (
            table.c.global_name == session
            if isinstance(session, str)
            else (table.c.store_id == self.store_id) & (table.c.number == session)
        )
        with self.sql_store.read() as connection:
            row_id = connection.execute(sa.select(table.c.id).where(named, allowed)).scalar()
        if row_id is None:
            raise NoSessionError(f"capture session {session} is not in the archive")
        return int(row_id)

    def _channel_id(self, row_id: int, source: str, name: str) -> int:
        channel = tables.channel.c
        query = sa.select(channel.id).where(
            channel.session_id == row_id,
            channel.source == source,
            channel.name == name,
            channel.dtype == "float64",
        )
        with self.sql_store.read() as connection:
            found = connection.execute(query).scalar()
        if found is None:
            raise CaptureError(f"the session has no channel of numbers {name!r} from {source!r}")
        return int(found)

    def _blocks(self, query: sa.Select[tuple[int]]) -> Iterator[tuple[str, bytes, str]]:
        # No transaction stays open between two blocks: the reader may take its time.
        with self.sql_store.read() as connection:
            ids = list(connection.execute(query).scalars())
        block = tables.block.c
        for block_id in ids:
            with self.sql_store.read() as connection:
                row = connection.execute(
                    sa.select(block.source, block.payload, block.codec).where(block.id == block_id)
                ).one_or_none()
            if row is not None:
                yield row.source, row.payload, row.codec


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two archived sessions of one instrument that ran at the same time, by global name."""

    first: str
    second: str
    start: datetime
    end: datetime


def overlaps(
    sql_store: Store, instrument: str, *, principal: Principal | None = None
) -> list[Overlap]:
    """Return each pair of ended sessions of an instrument that overlap in time, by start.

    A session covers its start but not its end, so that one may begin where another ends.
    """
    one, other = tables.capture_session.alias("one"), tables.capture_session.alias("other")
    who = principal or Principal.system()
    query = sa.select(
        one.c.global_name, other.c.global_name, one.c.started_at, other.c.started_at,
        one.c.ended_at, other.c.ended_at,
    ).where(
        one.c.instrument == instrument,
        other.c.instrument == instrument,
        one.c.id < other.c.id,
        one.c.started_at < other.c.ended_at,
        other.c.started_at < one.c.ended_at,
        one.c.started_at < one.c.ended_at,
        other.c.started_at < other.c.ended_at,
        visible(one, who)[0],
        visible(other, who)[0],
    )  # fmt: skip
    with sql_store.read() as connection:
        found = [
            Overlap(row[0], row[1], max(row[2], row[3]), min(row[4], row[5]))
            for row in connection.execute(query)
        ]
    return sorted(found, key=lambda each: (each.start, each.first, each.second))


def _variable(row: Any) -> Variable:
    n = int(row.n)
    return Variable(
        source=row.source,
        name=row.name,
        dtype=row.dtype,
        unit=row.unit,
        n=n,
        min=row.min,
        max=row.max,
        mean=None if row.total is None or n == 0 else row.total / n,
        first_at=None if row.first_us is None else from_us(int(row.first_us)),
        last_at=None if row.last_us is None else from_us(int(row.last_us)),
    )


def _listed(column: Column) -> list[float | None] | list[str | None]:
    if isinstance(column, list):
        return column
    return [None if value != value else value for value in column.tolist()]
