"""Reading one channel's times and values, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from keepline.capture.archive.blocks import decode
from keepline.capture.archive.column_values import NUMPY_TYPES, plain, present
from keepline.capture.archive.scanning import BATCH_BLOCKS, FoundChannel, fetch_payloads
from keepline.model import DType
from keepline.store import Store
from keepline.store.tables import capture as tables


def read_channel(
    sql_store: Store, channel: FoundChannel, low: int | None, high: int | None
) -> tuple[NDArray[np.int64], NDArray[Any] | list[str]]:
    """Return the times and values from `low` to before `high`, in UTC microseconds; None: all.

    See ArchiveReader.read.
    """
    stat, name = tables.block_stat.c, channel.name
    query = (
        sa.select(stat.block_id, stat.n)
        .join(tables.block)
        .where(stat.channel_id == channel.id)
        .order_by(tables.block.c.first_seq)
    )
    if low is not None:
        query = query.where(stat.last_us >= low)
    if high is not None:
        query = query.where(stat.first_us < high)
    with sql_store.read() as connection:
        rows = connection.execute(query).all()
        into = _Gathered(channel.dtype, sum(row[1] for row in rows), low, high)
        for begin in range(0, len(rows), BATCH_BLOCKS):
            ids = [row[0] for row in rows[begin : begin + BATCH_BLOCKS]]
            payloads = fetch_payloads(connection, ids)
            for block_id in ids:
                block = decode(*payloads.pop(block_id), channel=name)
                into.add(block.times_us, block.columns[name], name in block.complete)
    return into.result()


class _Gathered:
    """The times and values of one channel, put together block by block."""

    def __init__(self, dtype: DType, n: int, low: int | None, high: int | None) -> None:
        self._low, self._high = low, high
        self._times = np.empty(n, np.int64)
        self._texts: list[str] | None = [] if dtype == "text" else None
        self._values = np.empty(0 if dtype == "text" else n, NUMPY_TYPES.get(dtype, np.bool_))
        self._filled = 0

    def add(self, times_us: NDArray[np.int64], column: Any, complete: bool) -> None:
        rows = self._rows(times_us, None if complete else present(column))
        times = times_us if rows is None else times_us[rows]
        stop = self._filled + len(times)
        self._times[self._filled : stop] = times
        if self._texts is not None:
            places = range(len(column)) if rows is None else np.flatnonzero(rows).tolist()
            self._texts += [column[place] for place in places]
        else:
            values = plain(column)
            self._values[self._filled : stop] = values if rows is None else values[rows]
        self._filled = stop

    def _rows(
        self, times_us: NDArray[np.int64], there: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_] | None:
        """Return which rows are wanted; None means all."""
        rows = there
        if self._low is not None:
            after = times_us >= self._low
            rows = after if rows is None else rows & after
        if self._high is not None:
            before = times_us < self._high
            rows = before if rows is None else rows & before
        return rows

    def result(self) -> tuple[NDArray[np.int64], NDArray[Any] | list[str]]:
        times = self._times[: self._filled]
        return times, self._values[: self._filled] if self._texts is None else self._texts
