"""Regrouping what a stream holds into the blocks of the archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keepline.capture.archive.blocks import Block
from keepline.capture.archive.column_values import present
from keepline.capture.archive.pieces import Hole, Run, joined_runs
from keepline.capture.decoders.decoder import NO_TIME, Column, Decoded

#: A block has at most so many readings, unless one message has more.
MAX_READINGS = 10_000
MAX_BLOCK_BYTES = 4 * 1024 * 1024

#: So many values, missing ones too, are columns times rows at most, unless one row has more.
MAX_CELLS = 1_000_000


class RunDecoder(Protocol):
    """Decodes runs; see DeclaredDecoder."""

    @property
    def is_packed(self) -> bool:
        """Return whether it reads messages that lie end to end."""

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""

    def decode_packed(self, raw: bytes, lengths: NDArray[np.uint32]) -> Decoded:
        """Return the values of consecutive messages that lie end to end."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that its decoder could not read."""

    seq: int
    tick: int | None
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class FullBlock:
    """A block with what the archive keeps beside it.

    `run` has all its messages, those that were rejected too, and `before` the holes between
    the message before it and its first one. `own_times` says that the messages told their
    times, `own_ticks` that they told the device's.
    """

    run: Run
    readings: int
    block: Block
    rejected: list[Rejected]
    before: tuple[Hole, ...]
    own_times: bool
    own_ticks: bool

    @property
    def first_seq(self) -> int:
        """Return the number of the first message."""
        return self.run.first_seq

    @property
    def last_seq(self) -> int:
        """Return the number of the last message."""
        return self.run.last_seq

    @property
    def cells(self) -> int:
        """Return the number of its columns times that of its rows."""
        return len(self.block.columns) * len(self.block.times_us)


def blocks(pieces: Iterable[Run | Hole], decoder: RunDecoder) -> Iterator[FullBlock | Hole]:
    """Yield the decoded messages of consecutive pieces as blocks, in order.

    Blocks cover every message, those that the decoder rejects too; none reaches over a hole.
    Holes at the end come by themselves.
    """
    holes: list[Hole] = []
    building = _Building()
    for piece in pieces:
        if isinstance(piece, Hole) or building.differs_from(piece):
            yield from building.finished()
        if isinstance(piece, Hole):
            holes.append(piece)
            continue
        if holes:
            building.before, holes = tuple(holes), []
        yield from building.filled_with(_decoded(piece, decoder))
    yield from building.finished()
    yield from holes


@dataclass(frozen=True, slots=True)
class _Part:
    """A decoded run, or messages of it.

    `good` are the places of its good messages, `complete` the columns without a missing value,
    `counts` how many readings each message of the whole run has.
    """

    run: Run
    good: NDArray[np.intp]
    columns: dict[str, Column]
    complete: frozenset[str]
    counts: NDArray[np.int64] | int
    times_us: NDArray[np.int64]
    ticks: NDArray[np.int64] | None
    rejected: Sequence[tuple[int, bytes, str]]
    own_times: bool
    own_ticks: bool

    def cut(self, start: int, stop: int) -> _Part:
        """Return the messages at the places `start` to before `stop`."""
        if start == 0 and stop == self.run.count:
            return self
        if self.rejected:
            first, last = np.searchsorted(self.good, (start, stop)).tolist()
        else:
            first, last = start, stop
        return _Part(
            self.run.part(start, stop),
            self.good[first:last] - start,
            {name: column[first:last] for name, column in self.columns.items()},
            self.complete,
            self.counts,
            self.times_us[first:last],
            None if self.ticks is None else self.ticks[first:last],
            [
                (place - start, raw, reason)
                for place, raw, reason in self.rejected
                if start <= place < stop
            ],
            self.own_times,
            self.own_ticks,
        )


@dataclass
class _Building:
    """A block in the making."""

    before: tuple[Hole, ...] = ()
    _parts: list[_Part] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _rows: int = 0
    _readings: int = 0
    _size_bytes: int = 0

    def differs_from(self, run: Run) -> bool:
        """Return whether only one of the two has ticks."""
        return bool(self._parts) and (self._parts[0].run.ticks is None) != (run.ticks is None)

    def filled_with(self, part: _Part) -> Iterator[FullBlock]:
        """Take messages in, and yield each block that is full."""
        start, count = 0, part.run.count
        readings, sizes = _until(part.counts, count), part.run.ends
        while start < count:
            stop = min(
                _fitting(readings, start, MAX_READINGS - self._readings),
                _fitting(sizes, start, MAX_BLOCK_BYTES - self._size_bytes),
                start + self._rows_left(part),
                count,
            )
            if stop <= start and not self._parts:
                stop = start + 1  # one message is more than a block should have
            if stop > start:
                self._add(part.cut(start, stop), int(readings[stop] - readings[start]))
            start = max(start, stop)
            if start < count:
                yield from self.finished()

    def finished(self) -> Iterator[FullBlock]:
        """Yield the block, if there is anything in it, and begin a new one."""
        if not self._parts:
            return
        parts, run = self._parts, joined_runs([part.run for part in self._parts])
        seqs = [part.run.first_seq + part.good for part in parts]
        ticks = [part.ticks for part in parts if part.ticks is not None]
        complete = _complete(parts)
        block = Block(
            _joined([part.times_us for part in parts]),
            _joined(seqs).astype(np.int64, copy=False),
            _columns(parts, complete),
            _joined(ticks) if len(ticks) == len(parts) else None,
            complete,
        )
        yield FullBlock(
            run,
            self._readings,
            block,
            [_rejected(part.run, each) for part in parts for each in part.rejected],
            self.before,
            any(part.own_times for part in parts),
            any(part.own_ticks for part in parts),
        )
        self.before, self._parts, self._names = (), [], set()
        self._rows = self._readings = self._size_bytes = 0

    def _add(self, part: _Part, readings: int) -> None:
        self._parts.append(part)
        self._names.update(part.columns)
        self._rows += len(part.good)
        self._readings += readings
        self._size_bytes += len(part.run.raw)

    def _rows_left(self, part: _Part) -> int:
        columns = len(self._names | part.columns.keys())
        return MAX_CELLS // max(1, columns) - self._rows


def _decoded(run: Run, decoder: RunDecoder) -> _Part:
    if decoder.is_packed:
        decoded = decoder.decode_packed(run.raw, run.lengths)
    else:
        decoded = decoder.decode(run.messages())
    places = [place for place, _, _ in decoded.rejected]
    good = np.arange(run.count)
    if places:
        good = np.delete(good, places)
    complete, counts = _readings(decoded, good if places else None, run.count)
    times, own_times = _times(run.times_us[good] if places else run.times_us, decoded)
    ticks = run.ticks
    if decoded.ticks is not None:
        ticks = decoded.ticks
    elif ticks is not None and places:
        ticks = ticks[good]
    return _Part(
        run,
        good,
        dict(decoded.columns),
        complete,
        counts,
        times,
        ticks,
        decoded.rejected,
        own_times,
        decoded.ticks is not None,
    )


def _times(arrival: NDArray[np.int64], decoded: Decoded) -> tuple[NDArray[np.int64], bool]:
    """Return the times of good messages, and whether any message told its own."""
    if decoded.times_us is None:
        return arrival, False
    untold = decoded.times_us == NO_TIME
    # Where none could be decoded, none came at a time that others' are compared with.
    own_times = not len(untold) or not untold.all()
    return np.where(untold, arrival, decoded.times_us), own_times


def _readings(
    decoded: Decoded, good: NDArray[np.intp] | None, messages: int
) -> tuple[frozenset[str], NDArray[np.int64] | int]:
    """Return the columns without a missing value, and how many readings each message has.

    The latter is one number where it is always the same.
    """
    complete: list[str] = []
    counts: NDArray[np.int64] | None = None
    for name, column in decoded.columns.items():
        there = present(column)
        if there is None:
            complete.append(name)
        else:
            counts = there.astype(np.int64) if counts is None else counts + there
    names = frozenset(complete) if decoded.good else frozenset[str]()
    if good is None:
        return names, len(complete) if counts is None else counts + len(complete)
    all_counts = np.zeros(messages, np.int64)
    all_counts[good] = len(complete) if counts is None else counts + len(complete)
    return names, all_counts


def _until(counts: NDArray[np.int64] | int, messages: int) -> NDArray[np.int64]:
    """Return how many readings there are before each message, and in all."""
    if isinstance(counts, int):
        return np.arange(messages + 1, dtype=np.int64) * counts
    until = np.zeros(messages + 1, np.int64)
    np.cumsum(counts, out=until[1:])
    return until


def _fitting(until: NDArray[np.int64], start: int, room: int) -> int:
    """Return where the messages from `start` on end that take at most `room`."""
    return int(np.searchsorted(until, until[start] + room, "right")) - 1


def _rejected(run: Run, each: tuple[int, bytes, str]) -> Rejected:
    place, raw, reason = each
    tick = None if run.ticks is None else int(run.ticks[place])
    return Rejected(run.first_seq + place, tick, raw, reason)


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _complete(parts: Sequence[_Part]) -> frozenset[str]:
    """Return the columns that lack no value in any part."""
    known = [part.complete for part in parts if len(part.good)]
    return frozenset.intersection(*known) if known else frozenset()


def _columns(parts: Sequence[_Part], complete: Collection[str]) -> dict[str, Column]:
    """Return the columns of consecutive parts, without those that have no value here."""
    if len(parts) == 1:
        columns = parts[0].columns
    else:
        names = dict.fromkeys(name for part in parts for name in part.columns)
        columns = {name: _joined_column(name, parts) for name in names}
    return {
        name: column for name, column in columns.items() if name in complete or _any_present(column)
    }


def _any_present(column: Column) -> bool:
    there = present(column)
    return len(column) > 0 and (there is None or bool(there.any()))


def _joined_column(name: str, parts: Sequence[_Part]) -> Column:
    found = [part.columns.get(name) for part in parts]
    if len(found) == 1 and found[0] is not None:
        return found[0]
    if any(isinstance(column, list) for column in found):
        texts: list[str | None] = []
        for part, column in zip(parts, found, strict=True):
            texts += [None] * len(part.good) if column is None else list(column)
        return texts
    arrays: list[NDArray[Any] | None] = [
        None if isinstance(column, list) else column for column in found
    ]
    dtype = next(array.dtype for array in arrays if array is not None)
    filled = [
        _missing(len(part.good), dtype) if array is None else array
        for part, array in zip(parts, arrays, strict=True)
    ]
    if any(isinstance(array, np.ma.MaskedArray) for array in filled):
        concatenate: Callable[..., Column] = np.ma.concatenate  # not every numpy types it
        return concatenate(filled)
    return np.concatenate(filled)


def _missing(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype == np.float64:
        return np.full(count, np.nan)
    return np.ma.MaskedArray(np.zeros(count, dtype), mask=True)
