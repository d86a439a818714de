"""The statistics of a block's columns, as block_stat keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepline.capture.archive.blocks import Block
from keepline.capture.archive.column_values import plain, present


class ColumnStatistics(NamedTuple):
    """The figures of one channel in a block, missing values left out.

    Of texts there are only the count and the times. `first` and `last` are so in time; `min_us`
    and `max_us` are the times of the first least and the first greatest value, in the order of
    the messages. Times are UTC microseconds.
    """

    n: int
    min: float | None
    max: float | None
    total: float | None
    first: float | None
    last: float | None
    first_us: int
    last_us: int
    min_us: int | None
    max_us: int | None


def statistics(block: Block) -> dict[str, ColumnStatistics]:
    """Return the statistics of each column, which has a value at least."""
    return statistics_of_many([block])[0]


def statistics_of_many(blocks: Sequence[Block]) -> list[dict[str, ColumnStatistics]]:
    """Return what `statistics` does of each block.

    Columns of one length are worked on together, which costs a fraction of the time.
    """
    found: list[dict[str, ColumnStatistics]] = [{} for _ in blocks]
    groups: dict[int, list[tuple[int, str, NDArray[Any], NDArray[np.int64]]]] = {}
    for place, block in enumerate(blocks):
        for name, column in block.columns.items():
            there = None if name in block.complete else present(column)
            times = block.times_us if there is None else block.times_us[there]
            if isinstance(column, list):
                found[place][name] = _of_texts(times)
                continue
            values = plain(column) if there is None else plain(column)[there]
            groups.setdefault(len(values), []).append((place, name, values, times))
    for group in groups.values():
        figures = _of_numbers([each[2] for each in group], [each[3] for each in group])
        for (place, name, _, _), one in zip(group, figures, strict=True):
            found[place][name] = one
    return found


def _of_texts(times_us: NDArray[np.int64]) -> ColumnStatistics:
    return ColumnStatistics(
        n=len(times_us),
        **dict.fromkeys(("min", "max", "total", "first", "last", "min_us", "max_us")),
        first_us=int(times_us.min()),
        last_us=int(times_us.max()),
    )


def _of_numbers(
    columns: Sequence[NDArray[Any]], times_us: Sequence[NDArray[np.int64]]
) -> list[ColumnStatistics]:
    rows = np.array(columns, np.float64)
    least, most = rows.argmin(axis=1), rows.argmax(axis=1)
    every = np.arange(len(rows))
    with np.errstate(invalid="ignore", over="ignore"):  # the sum of infinities is none
        total = np.add.reduce(rows, axis=1)
    figures = zip(
        rows,
        rows[every, least].tolist(),
        rows[every, most].tolist(),
        total.tolist(),
        least.tolist(),
        most.tolist(),
        times_us,
        strict=True,
    )
    n, ends = rows.shape[1], dict[int, tuple[int, int]]()
    found: list[ColumnStatistics] = []
    for row, low, high, sum_, low_at, high_at, times in figures:
        # The columns of a block share their times, which may go back from message to message.
        if id(times) not in ends:
            ends[id(times)] = int(times.argmin()), n - 1 - int(times[::-1].argmax())
        start, end = ends[id(times)]
        when = int(times[start]), int(times[end]), int(times[low_at]), int(times[high_at])
        edges = float(row[start]), float(row[end])
        found.append(ColumnStatistics(n, low, high, sum_, *edges, *when))
    return found
