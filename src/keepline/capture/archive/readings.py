"""Reading the archive back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from keepline.capture.archive import batches
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.column_values import listed, present
from keepline.capture.archive.one_channel import read_channel
from keepline.capture.archive.overview import Overview, overview_of
from keepline.capture.archive.scanning import (
    BlockRange,
    FoundChannel,
    FoundSession,
    decoded_blocks,
    find_blocks,
    find_channel,
    find_channels,
    find_session,
    find_sessions,
)
from keepline.capture.decoders.decoder import Column
from keepline.errors import CaptureError
from keepline.model import DType, Principal, from_us, to_us
from keepline.store import Store
from keepline.store.tables import capture as tables

if TYPE_CHECKING:
    import pyarrow

#: The source of readings that were added by hand.
ADDED = "added"

#: What a reading's value is: a number, a truth or a text.
Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Reading:
    """One channel's value at one time; `seq` is the number of the message that held it.

    The value is a float, int, bool or str, as its channel is. `session` is a global name; one
    that is to be added may have the session's number, and gets its `seq` then.
    """

    session: int | str
    channel: str
    at: datetime
    value: Value
    source: str = ADDED
    seq: int | None = None


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


@dataclass(frozen=True, slots=True)
class ReadingRun:
    """The readings that a block has of one channel, none missing, as lists of Python's own.

    Times are UTC microseconds.
    """

    session: str
    source: str
    channel: str
    dtype: DType
    unit: str | None
    seqs: list[int]
    times_us: list[int]
    values: list[Any]


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

        A few blocks at a time are in memory. Raises NoSessionError at the first one.
        """
        yield from self._readings(self._session(session), BlockRange())

    def get_session_variables(self, session: int | str) -> list[Variable]:
        """Return the channels of a session with their statistics, by source and name.

        Raises NoSessionError.
        """
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
            .where(channel.session_id == self._session(session).id)
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
    ) -> tuple[NDArray[np.int64], NDArray[Any] | list[str]]:
        """Return the times (int64, UTC microseconds) and the values of one channel.

        Values are an array of float64, int64 or bool, or a list of texts, as the channel is.
        They are in the order of the messages, from `start` to before `end`, without missing
        ones, and all of one state of the archive.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: it has no such channel.
        """
        found = find_channel(self.sql_store, self._session(session).id, source, channel)
        return read_channel(self.sql_store, found, _us(start), _us(end))

    def read_arrow(
        self,
        session: int | str,
        channels: Sequence[str] | None = None,
        *,
        source: str = "main",
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pyarrow.Table:
        """Return the messages of one source as an Arrow table; see `read_batches`."""
        schema, made = self._batches(session, channels, source, start, end)
        return batches.require_arrow().Table.from_batches(made, schema)

    def read_batches(
        self,
        session: int | str,
        channels: Sequence[str] | None = None,
        *,
        source: str = "main",
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Iterator[pyarrow.RecordBatch]:
        """Yield the messages of one source as Arrow record batches, a row each, in their order.

        Columns are source, seq, time (a timestamp of microseconds in UTC), and one for each of
        `channels` (None: all), of its own type, null where a message lacks it; a field's
        metadata has the unit. Rows lie from `start` to before `end`. Memory stays flat.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: it has no such channel.
            PluginError: pyarrow is not installed.
        """
        yield from self._batches(session, channels, source, start, end)[1]

    def overview(
        self,
        session: int | str,
        channel: str,
        t0: datetime | None = None,
        t1: datetime | None = None,
        points: int = 2000,
        *,
        source: str = "main",
    ) -> Overview:
        """Return a channel of numbers from `t0` to before `t1` in at most `points` points.

        The range is cut into points / 4 parts, and of each part the first, the last, the least
        and the greatest reading are there, so that a chart as wide looks as if it had all of
        them. When there are no more readings than points, all are there. See Overview.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: it has no such channel, or one of texts.
            ValueError: `points` is less than 4, or t0 is not before t1.
        """
        found = self._session(session)
        of = find_channel(self.sql_store, found.id, source, channel)
        if of.dtype == "text":
            raise CaptureError(f"the channel {channel!r} holds texts, which have no overview")
        return overview_of(self.sql_store, found.id, of, _us(t0), _us(t1), points)

    def reading_runs(
        self,
        principal: Principal,
        *,
        sessions: Collection[str] | None = None,
        sources: Collection[str] | None = None,
        channels: Collection[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> Iterator[ReadingRun]:
        """Yield the readings that `principal` may see, by session, source, block and channel.

        None means all. Only blocks that have values of these channels near the range of times,
        from `start_us` to before `end_us`, are read, a few at a time; the runs are not cut at
        its ends.
        """
        wanted = BlockRange(sources, channels, start_us, end_us)
        for session in find_sessions(self.sql_store, principal, sessions):
            there = {
                (each.source, each.name): each
                for each in find_channels(self.sql_store, session.id)
                if channels is None or each.name in channels
            }
            if not there:
                continue
            found = find_blocks(self.sql_store, session.id, wanted)
            only = next(iter(channels)) if channels is not None and len(channels) == 1 else None
            ids = [each.id for each in found]
            blocks = decoded_blocks(self.sql_store, ids, channel=only)
            for one, block in zip(found, blocks, strict=True):
                for name, column in sorted(block.columns.items()):
                    channel = there.get((one.source, name))
                    if channel is not None:
                        yield _run(session.name, channel, block, column)

    def _session(self, session: int | str) -> FoundSession:
        return find_session(self.sql_store, self.store_id, self.principal, session)

    def _find(self, session: int | str) -> int:
        """Return the row id of a session that the principal may see."""
        return self._session(session).id

    def _readings(self, session: FoundSession, wanted: BlockRange) -> Iterator[Reading]:
        found = find_blocks(self.sql_store, session.id, wanted)
        blocks = decoded_blocks(self.sql_store, [each.id for each in found])
        for one, block in zip(found, blocks, strict=True):
            columns = [
                (name, listed(column))
                for name, column in block.columns.items()
                if wanted.channels is None or name in wanted.channels
            ]
            numbered = zip(block.times_us.tolist(), block.seqs.tolist(), strict=True)
            for index, (time_us, seq) in enumerate(numbered):
                at = from_us(time_us)
                for name, values in columns:
                    value = values[index]
                    if value is not None:
                        yield Reading(session.name, name, at, value, one.source, seq)

    def _batches(
        self,
        session: int | str,
        channels: Sequence[str] | None,
        source: str,
        start: datetime | None,
        end: datetime | None,
    ) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
        found = self._session(session)
        chosen = self._chosen(found, source, channels)
        columns = batches.named(chosen)
        schema = batches.schema_of(columns, {"session": found.name})
        wanted = BlockRange({source}, channels, _us(start), _us(end))
        return schema, batches.batches(self.sql_store, found.id, source, schema, columns, wanted)

    def _chosen(
        self, session: FoundSession, source: str, names: Sequence[str] | None
    ) -> list[FoundChannel]:
        there = {each.name: each for each in find_channels(self.sql_store, session.id, source)}
        if isinstance(names, str):
            raise TypeError(f"channels is a list of names: channels=[{names!r}]")
        missing = [name for name in names or () if name not in there]
        if missing:
            raise CaptureError(
                f"the session has no channel {missing[0]!r} from the source {source!r}"
            )
        return list(there.values()) if names is None else [there[name] for name in names]


def _run(session: str, channel: FoundChannel, block: Block, column: Column) -> ReadingRun:
    there = present(column)
    seqs, times, values = block.seqs, block.times_us, listed(column)
    if there is not None:
        seqs, times = seqs[there], times[there]
        values = [value for value in values if value is not None]
    return ReadingRun(
        session, channel.source, channel.name, channel.dtype, channel.unit, seqs.tolist(),
        times.tolist(), values,
    )  # fmt: skip


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


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
