"""A channel in few points, with every extreme kept.

The range is cut into equal parts ("pixels"), and of each the first, least, greatest and last
reading are kept: the M4 aggregation of Jugel, Jerzak, Hackenbroich and Markl (PVLDB 7(10),
2014), after which a line chart as many pixels wide is the same. A block that lies within one
pixel is taken by its statistics, and only those that lie across a border are decoded. Where
there are at least half as many blocks as pixels, borders move to where a block begins, by half
a pixel at most; so that about half as many blocks are decoded as there are pixels at the very
most, however many readings there are. (Blocks that overlap others in time, as of data that
came late, are decoded besides.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from keepline.capture.archive.column_values import plain, present
from keepline.capture.archive.scanning import FoundChannel, decoded_blocks
from keepline.store import Store
from keepline.store.tables import capture as tables

_Times = NDArray[np.int64]
_Values = NDArray[np.float64]

MAX_POINTS = 1_000_000

#: So few pixels are quicker one by one.
_FEW = 16

#: Stands for a time that an older keepline did not note.
_UNKNOWN = -(2**63)


@dataclass(frozen=True, slots=True)
class Overview:
    """Points of one channel in a range, in order of time.

    `times_us` (int64, UTC microseconds) and `values` (float64; a truth is 0 or 1) are readings
    that were taken, none is made up. `readings` is how many the range has; when `reduced` is
    False, these are all of them. The range goes from `start_us` to before `end_us`, and
    `borders_us` are the borders of its pixels, of which each has its extremes. `gaps_us` (int64,
    a row of from and until each) are the gaps at least one pixel wide, where a line should
    break; `gaps` counts all. Disorder is no gap.
    """

    times_us: _Times
    values: _Values
    reduced: bool
    readings: int
    start_us: int
    end_us: int
    borders_us: _Times
    gaps_us: _Times
    gaps: int
    unit: str | None


def overview_of(
    store: Store,
    session_id: int,
    channel: FoundChannel,
    start_us: int | None,
    end_us: int | None,
    points: int,
) -> Overview:
    """Return the overview of a channel of numbers or truths; see ArchiveReader.overview."""
    if not 4 <= points <= MAX_POINTS:
        raise ValueError(f"an overview has 4 to {MAX_POINTS:,} points")
    if start_us is not None and end_us is not None and start_us >= end_us:
        raise ValueError("an overview's range begins before it ends")
    stats = _read_statistics(store, channel.id, start_us, end_us)
    start_us, end_us = _range(stats, start_us, end_us)
    borders = _borders(start_us, end_us, points // 4)
    if 2 * len(stats.n) >= len(borders) - 1:
        borders = _moved(borders, stats.first_us)
    summed = _within_one_pixel(stats, borders)
    gathered = _Points(borders, points)
    for part in _decoded(store, channel.name, stats.block_ids[~summed], start_us, end_us):
        gathered.add(*part)
    readings = gathered.count + int(stats.n[summed].sum())
    if readings <= points:
        for part in _decoded(store, channel.name, stats.block_ids[summed], start_us, end_us):
            gathered.add(*part)
    else:
        gathered.reduce()
        gathered.add_summaries(stats, summed)
    times, values = gathered.result()
    gaps_us, gaps = _gaps(store, session_id, channel.source, borders)
    return Overview(
        times, values, readings > points, readings, start_us, end_us, borders, gaps_us, gaps,
        channel.unit,
    )  # fmt: skip


def m4(times_us: _Times, values: _Values, borders_us: _Times) -> NDArray[np.intp]:
    """Return the places of the first, least, greatest and last value of each pixel, in order.

    Times must not go back and must lie between the first border and before the last; of equal
    values the first one counts. A pixel without a reading gives none.
    """
    if not len(times_us):
        return np.empty(0, np.intp)
    low, high = np.searchsorted(borders_us, (times_us[0], times_us[-1]), "right")
    inner = np.searchsorted(times_us, borders_us[low:high])
    firsts = np.concatenate(([0], inner))
    ends = np.concatenate((inner, [len(times_us)]))
    some = firsts < ends
    firsts, ends = firsts[some], ends[some]
    if len(firsts) <= _FEW:
        chosen: set[int] = set()
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
            part = values[first:end]
            chosen |= {first, first + int(part.argmin()), first + int(part.argmax()), end - 1}
        return np.array(sorted(chosen), np.intp)
    least = _first_places(np.minimum, values, firsts, ends)
    greatest = _first_places(np.maximum, values, firsts, ends)
    return np.unique(np.concatenate((firsts, least, greatest, ends - 1)))


def _first_places(
    extreme: np.ufunc, values: _Values, firsts: NDArray[np.intp], ends: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return where the extreme of each part is, the first time."""
    of_part = np.repeat(extreme.reduceat(values, firsts), ends - firsts)
    found = np.flatnonzero(values == of_part)
    return found[np.searchsorted(found, firsts)]


@dataclass(frozen=True, slots=True)
class _Statistics:
    """The block_stat rows of a channel, a column each."""

    block_ids: _Times
    n: _Times
    first_us: _Times
    last_us: _Times
    min_us: _Times
    max_us: _Times
    first: _Values
    last: _Values
    min: _Values
    max: _Values


def _read_statistics(
    store: Store, channel_id: int, start_us: int | None, end_us: int | None
) -> _Statistics:
    stat = tables.block_stat.c
    query = sa.select(
        stat.block_id, stat.n, stat.first_us, stat.last_us,
        sa.func.coalesce(stat.min_us, _UNKNOWN), sa.func.coalesce(stat.max_us, _UNKNOWN),
        stat.first, stat.last, stat.min, stat.max,
    ).where(stat.channel_id == channel_id)  # fmt: skip
    if start_us is not None:
        query = query.where(stat.last_us >= start_us)
    if end_us is not None:
        query = query.where(stat.first_us < end_us)
    with store.read() as connection:
        rows = connection.execute(query).all()
    columns: Sequence[Sequence[float]] = list(zip(*rows, strict=True)) or [()] * 10
    whole = (np.array(column, np.int64) for column in columns[:6])
    others = (np.array(column, np.float64) for column in columns[6:])
    return _Statistics(*whole, *others)  # type: ignore[arg-type]


def _range(stats: _Statistics, start_us: int | None, end_us: int | None) -> tuple[int, int]:
    """Return the range asked for, or from the first reading to the last one."""
    some = len(stats.n) > 0
    if start_us is None:
        start_us = int(stats.first_us.min()) if some else (end_us or 1) - 1
    if end_us is None:
        end_us = max(start_us, int(stats.last_us.max()) if some else start_us) + 1
    return start_us, end_us


def _borders(start_us: int, end_us: int, pixels: int) -> _Times:
    step, rest = divmod(end_us - start_us, pixels)
    places = np.arange(pixels + 1, dtype=np.int64)
    return start_us + places * step + places * rest // pixels


def _moved(borders: _Times, begins_us: _Times) -> _Times:
    """Return the borders with each inner one moved to where a block begins, if one is near."""
    inside = (begins_us > borders[0]) & (begins_us < borders[-1])
    begins, inner = np.unique(begins_us[inside]), borders[1:-1]
    if not len(begins):
        return borders
    place = np.searchsorted(begins, inner)
    before = begins[np.maximum(place - 1, 0)]
    after = begins[np.minimum(place, len(begins) - 1)]
    nearest = np.where(np.abs(inner - before) <= np.abs(after - inner), before, after)
    half = int(borders[-1] - borders[0]) // (2 * (len(borders) - 1))
    moved = np.where(np.abs(nearest - inner) <= half, nearest, inner)
    return np.unique(np.concatenate((borders[:1], moved, borders[-1:])))


def _within_one_pixel(stats: _Statistics, borders: _Times) -> NDArray[np.bool_]:
    first = np.searchsorted(borders, stats.first_us, "right")
    last = np.searchsorted(borders, stats.last_us, "right")
    within: NDArray[np.bool_] = (
        (first == last)
        & (first > 0)
        & (last < len(borders))
        & (stats.min_us != _UNKNOWN)
        & (stats.max_us != _UNKNOWN)
    )
    return within


def _decoded(
    store: Store, name: str, block_ids: _Times, start_us: int, end_us: int
) -> Iterator[tuple[_Times, _Values]]:
    """Yield the readings of each block that lie in the range, in order of time."""
    for block in decoded_blocks(store, block_ids.tolist(), channel=name):
        times, column = block.times_us, block.columns[name]
        values = np.asarray(plain(column), np.float64)
        there = present(column)
        if there is not None:
            times, values = times[there], values[there]
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            times, values = times[order], values[order]
        low, high = np.searchsorted(times, (start_us, end_us))
        yield times[low:high], values[low:high]


class _Points:
    """Points gathered block by block; reduced as soon as they are more than are wanted."""

    def __init__(self, borders: _Times, limit: int) -> None:
        self._borders = borders
        self._limit = limit
        self._reduced = False
        self._parts: list[tuple[_Times, _Values]] = []
        self.count = 0

    def add(self, times: _Times, values: _Values) -> None:
        """Take readings in order of time, which need not follow those before."""
        self.count += len(times)
        self._parts.append(self._fewer(times, values) if self._reduced else (times, values))
        if self.count > self._limit:
            self.reduce()

    def reduce(self) -> None:
        """Keep no more of each part, from now on, than every pixel needs."""
        if not self._reduced:
            self._parts = [self._fewer(*part) for part in self._parts]
            self._reduced = True

    def add_summaries(self, stats: _Statistics, chosen: NDArray[np.bool_]) -> None:
        """Take the first, least, greatest and last reading of each chosen block."""
        for times, values in (
            (stats.first_us, stats.first),
            (stats.min_us, stats.min),
            (stats.max_us, stats.max),
            (stats.last_us, stats.last),
        ):
            self._parts.append((times[chosen], values[chosen]))

    def result(self) -> tuple[_Times, _Values]:
        """Return the points in order of time; reduced, those of all parts together."""
        times = np.concatenate([np.empty(0, np.int64), *(part[0] for part in self._parts)])
        values = np.concatenate([np.empty(0), *(part[1] for part in self._parts)])
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        return self._fewer(times, values) if self._reduced else (times, values)

    def _fewer(self, times: _Times, values: _Values) -> tuple[_Times, _Values]:
        kept = m4(times, values, self._borders)
        return times[kept], values[kept]


def _gaps(store: Store, session_id: int, source: str, borders: _Times) -> tuple[_Times, int]:
    """Return the gaps of a source that are as wide as a pixel, and how many there are in all."""
    gap = tables.gap.c
    width_us = max(1, (int(borders[-1]) - int(borders[0])) // (len(borders) - 1))
    within = (
        gap.session_id == session_id,
        gap.source == source,
        gap.kind != "disorder",
        gap.until_us > int(borders[0]),
        gap.from_us < int(borders[-1]),
    )
    wide = sa.select(gap.from_us, gap.until_us).distinct()
    wide = wide.where(*within, gap.until_us - gap.from_us >= width_us).order_by(gap.from_us)
    with store.read() as connection:
        rows = [tuple(row) for row in connection.execute(wide)]
        count = connection.execute(
            sa.select(sa.func.count()).select_from(tables.gap).where(*within)
        ).scalar_one()
    return np.array(rows, np.int64).reshape(-1, 2), int(count)
