"""Regrouping the chunks of a stream into the blocks of the archive."""

from __future__ import annotations

import itertools
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keepline.capture.blocks import Block
from keepline.capture.decoders import Column, Decoded, Decoder
from keepline.model import Chunk

#: A block has at most so many readings, unless one message has more.
MAX_READINGS = 10_000
MAX_BLOCK_BYTES = 4 * 1024 * 1024

#: So many values, missing ones too, are columns times rows at most, unless one row has more.
MAX_CELLS = 1_000_000

_RUN_MESSAGES = 1_000
_RUN_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive messages of a stream with their times and, where it has them, ticks."""

    first_seq: int
    messages: list[bytes]
    times_us: NDArray[np.int64]
    ticks: NDArray[np.int64] | None

    @property
    def last_seq(self) -> int:
        """Return the number of the last message."""
        return self.first_seq + len(self.messages) - 1

    def part(self, start: int, stop: int) -> Run:
        """Return the messages at the places `start` to before `stop`."""
        return Run(
            self.first_seq + start,
            self.messages[start:stop],
            self.times_us[start:stop],
            None if self.ticks is None else self.ticks[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that its decoder could not read."""

    seq: int
    tick: int | None
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class FullBlock:
    """A block with what the archive keeps beside it; `all_times_us` are those of all messages."""

    first_seq: int
    last_seq: int
    crc: int
    size_bytes: int
    readings: int
    block: Block
    all_times_us: NDArray[np.int64]
    rejected: list[Rejected]

    @property
    def cells(self) -> int:
        """Return the number of its columns times that of its rows."""
        return len(self.block.columns) * len(self.block.times_us)


class ContentCrc:
    """The CRC of messages with their times and ticks, however they were cut into chunks."""

    def __init__(self) -> None:
        self._crcs = [0, 0, 0, 0]

    def add(self, run: Run) -> None:
        """Take the next messages in."""
        parts = (
            array("I", map(len, run.messages)).tobytes(),
            run.times_us.tobytes(),
            b"" if run.ticks is None else run.ticks.tobytes(),
            b"".join(run.messages),
        )
        self._crcs = [zlib.crc32(p, c) for p, c in zip(parts, self._crcs, strict=True)]

    @property
    def value(self) -> int:
        """Return the CRC-32 of all that was taken in."""
        return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in self._crcs))


def runs(chunks: Iterable[Chunk], from_seq: int = 0, until_seq: int | None = None) -> Iterator[Run]:
    """Yield the messages `from_seq` to before `until_seq` of consecutive chunks, as runs.

    A run has at most some thousand messages and a few MiB, all with a tick or all without.
    """
    gathered: list[Run] = []
    for chunk in chunks:
        run = _run_of(chunk)
        end = len(run.messages) if until_seq is None else until_seq - run.first_seq
        if end <= 0:
            break
        run = run.part(max(0, from_seq - run.first_seq), end)
        if gathered and (gathered[0].ticks is None) != (run.ticks is None):
            yield _joined(gathered)
            gathered = []
        gathered.append(run)
        if _is_enough(gathered):
            yield _joined(gathered)
            gathered = []
    if gathered:
        yield _joined(gathered)


def blocks(stream_runs: Iterable[Run], decoder: Decoder) -> Iterator[FullBlock]:
    """Yield the decoded messages of consecutive runs as blocks, in order.

    Blocks cover every message, those that the decoder rejects too.
    """
    building = _Building()
    for run in stream_runs:
        for part in _decoded_parts(run, decoder):
            if building.parts and not building.has_room_for(part):
                yield building.done()
                building = _Building()
            building.add(part)
    if building.parts:
        yield building.done()


@dataclass(frozen=True, slots=True)
class _Part:
    run: Run
    good: NDArray[np.intp]
    columns: dict[str, Column]
    rejected: list[Rejected]
    readings: int


class _Building:
    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self._names: dict[str, None] = {}  # in the order in which they came
        self._rows = 0
        self._readings = 0
        self._size_bytes = 0

    def has_room_for(self, part: _Part) -> bool:
        columns = len(self._names.keys() | part.columns.keys())
        return (
            self._readings + part.readings <= MAX_READINGS
            and self._size_bytes + sum(map(len, part.run.messages)) <= MAX_BLOCK_BYTES
            and (self._rows + len(part.good)) * columns <= MAX_CELLS
        )

    def add(self, part: _Part) -> None:
        self.parts.append(part)
        self._names.update(dict.fromkeys(part.columns))
        self._rows += len(part.good)
        self._readings += part.readings
        self._size_bytes += sum(map(len, part.run.messages))

    def done(self) -> FullBlock:
        crc = ContentCrc()
        for part in self.parts:
            crc.add(part.run)
        return FullBlock(
            first_seq=self.parts[0].run.first_seq,
            last_seq=self.parts[-1].run.last_seq,
            crc=crc.value,
            size_bytes=self._size_bytes,
            readings=self._readings,
            block=Block(
                np.concatenate([part.run.times_us[part.good] for part in self.parts]),
                np.concatenate([part.run.first_seq + part.good for part in self.parts]),
                {name: _joined_column(name, self.parts) for name in self._names},
            ),
            all_times_us=np.concatenate([part.run.times_us for part in self.parts]),
            rejected=[each for part in self.parts for each in part.rejected],
        )


def _run_of(chunk: Chunk) -> Run:
    ticks = np.frombuffer(chunk.ticks, np.int64) if chunk.ticks else None
    times = np.frombuffer(chunk.times_us, np.int64)
    return Run(chunk.first_seq, list(chunk.messages()), times, ticks)


def _is_enough(gathered: Sequence[Run]) -> bool:
    return (
        sum(len(run.messages) for run in gathered) >= _RUN_MESSAGES
        or sum(len(message) for run in gathered for message in run.messages) >= _RUN_BYTES
    )


def _joined(gathered: list[Run]) -> Run:
    if len(gathered) == 1:
        return gathered[0]
    ticks = [run.ticks for run in gathered if run.ticks is not None]
    return Run(
        gathered[0].first_seq,
        [message for run in gathered for message in run.messages],
        np.concatenate([run.times_us for run in gathered]),
        np.concatenate(ticks) if ticks else None,
    )


def _decoded_parts(run: Run, decoder: Decoder) -> Iterator[_Part]:
    """Decode a run and yield it in parts that each fit into a block."""
    decoded = decoder.decode(run.messages)
    bad = [index for index, _, _ in decoded.rejected]
    good = np.delete(np.arange(len(run.messages)), bad)
    for start, stop in itertools.pairwise(_borders(decoded, good, len(run.messages))):
        first, last = np.searchsorted(good, (start, stop))
        columns = {
            name: column[first:last]
            for name, column in decoded.columns.items()
            if _present(column[first:last])
        }
        yield _Part(
            run.part(start, stop),
            good[first:last] - start,
            columns,
            [
                Rejected(run.first_seq + index, _tick(run, index), raw, reason)
                for index, raw, reason in decoded.rejected
                if start <= index < stop
            ],
            sum(map(_present, columns.values())),
        )


def _borders(decoded: Decoded, good: NDArray[np.intp], messages: int) -> list[int]:
    """Return where parts begin and end, so that each has few enough readings and cells."""
    present = np.zeros(messages + 1, np.int64)
    for column in decoded.columns.values():
        present[good + 1] += _is_present(column)
    until = np.cumsum(present)
    rows = max(1, MAX_CELLS // max(1, len(decoded.columns)))
    borders = [0]
    while borders[-1] < messages:
        start = borders[-1]
        fitting = int(np.searchsorted(until, until[start] + MAX_READINGS, "right")) - 1
        borders.append(min(max(fitting, start + 1), start + rows, messages))
    return borders


def _is_present(column: Column) -> NDArray[np.bool_]:
    if isinstance(column, list):
        return np.array([value is not None for value in column], np.bool_)
    present: NDArray[np.bool_] = ~np.isnan(column)
    return present


def _tick(run: Run, index: int) -> int | None:
    return None if run.ticks is None else int(run.ticks[index])


def _present(column: Column) -> int:
    if isinstance(column, list):
        return len(column) - column.count(None)
    return int(np.count_nonzero(~np.isnan(column)))


def _joined_column(name: str, parts: Sequence[_Part]) -> Column:
    columns = [part.columns.get(name) for part in parts]
    if any(isinstance(column, list) for column in columns):
        texts: list[str | None] = []
        for part, column in zip(parts, columns, strict=True):
            texts.extend([None] * len(part.good) if column is None else list(column))
        return texts
    return np.concatenate(
        [
            np.full(len(part.good), np.nan) if column is None else np.asarray(column)
            for part, column in zip(parts, columns, strict=True)
        ]
    )
