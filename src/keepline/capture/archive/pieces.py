"""What a capture store holds of a stream, in order: runs of messages, and the holes between."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from keepline.capture.store import CaptureStore
from keepline.errors import ChunkDamagedError
from keepline.model import Chunk, Loss

HoleKind = Literal["sequence", "loss", "damage"]

_RUN_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Run:
    """Consecutive messages of a stream with their times and, where it has them, ticks.

    `raw` is all messages end to end, `lengths` (uint32) their sizes. `marks` has, for each
    chunk that begins in the run, the number of its first message and by how many microseconds
    the host's wall clock was ahead of its monotonic one when the chunk was closed.
    """

    first_seq: int
    raw: bytes
    lengths: NDArray[np.uint32]
    times_us: NDArray[np.int64]
    ticks: NDArray[np.int64] | None
    marks: tuple[tuple[int, int], ...] = ()

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return len(self.lengths)

    @property
    def last_seq(self) -> int:
        """Return the number of the last message."""
        return self.first_seq + len(self.lengths) - 1

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Return where in `raw` each message ends, after a 0: one more than messages."""
        ends = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=ends[1:])
        return ends

    def messages(self) -> list[bytes]:
        """Return the messages one by one."""
        raw, ends = self.raw, self.ends.tolist()
        return [raw[start:stop] for start, stop in itertools.pairwise(ends)]

    def part(self, start: int, stop: int) -> Run:
        """Return the messages at the places `start` to before `stop`."""
        if start <= 0 and stop >= self.count:
            return self
        first, last = self.first_seq + start, self.first_seq + stop
        return Run(
            first,
            self.raw[int(self.ends[start]) : int(self.ends[stop])],
            self.lengths[start:stop],
            self.times_us[start:stop],
            None if self.ticks is None else self.ticks[start:stop],
            tuple(mark for mark in self.marks if first <= mark[0] < last),
        )


@dataclass(frozen=True, slots=True)
class Hole:
    """Messages `first_seq` to `last_seq` that are not there: why, and what is left of them.

    kind "loss": the capture store knows that they are lost, since `at_us`; "damage": their
    chunk no longer has its content, but `raw`; "sequence": they are gone without a trace.
    """

    kind: HoleKind
    first_seq: int
    last_seq: int
    reason: str
    raw: bytes = b""
    at_us: int | None = None

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return self.last_seq - self.first_seq + 1


class ContentCrc:
    """The CRC of messages with their times and ticks, however they were cut into chunks."""

    def __init__(self) -> None:
        self._crcs = [0, 0, 0, 0]

    def add(self, run: Run) -> None:
        """Take the next messages in."""
        ticks = b"" if run.ticks is None else run.ticks.tobytes()
        parts = (run.lengths.tobytes(), run.times_us.tobytes(), ticks, run.raw)
        self._crcs = [zlib.crc32(part, crc) for part, crc in zip(parts, self._crcs, strict=True)]

    @property
    def value(self) -> int:
        """Return the CRC-32 of all that was taken in."""
        return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in self._crcs))


def content_crc(run: Run) -> int:
    """Return the CRC of the messages of a run."""
    crc = ContentCrc()
    crc.add(run)
    return crc.value


class StoredPieces:
    """The pieces of one stream in a capture store."""

    def __init__(self, store: CaptureStore, number: int, source: str) -> None:
        self._store = store
        self._number = number
        self._source = source
        self._losses: list[Loss] = []
        self._trimmed = -1

    def read(
        self, from_seq: int, until_seq: int | None = None, *, to_end: bool = False
    ) -> Iterator[Run | Hole]:
        """Yield the messages from `from_seq` to before `until_seq` (None: what there is).

        Each is in a run or in a hole, in order; a run is a chunk, or what is wanted of it. What
        is missing at the end is a hole only when `until_seq` is given or `to_end` is true,
        which says that the stream has ended.
        """
        # Asked for first: chunks that are stored meanwhile then are no hole.
        end = until_seq
        if end is None and to_end:
            end = self._store.next_seq(self._number, self._source)
        self._losses = self._store.losses(self._number, self._source)
        self._trimmed = self._store.trimmed(self._number, self._source)
        following = from_seq
        for piece in self._chunks(from_seq):
            first, last = piece.first_seq, piece.last_seq
            if until_seq is not None and first >= until_seq:
                break
            if last < following:
                continue
            if first > following:
                yield from self._holes(following, first - 1)
            stop = last + 1 if until_seq is None else min(last + 1, until_seq)
            yield _clipped(piece, max(first, following), stop)
            following = stop
        if end is not None and following < end:
            yield from self._holes(following, end - 1)

    def _chunks(self, from_seq: int) -> Iterator[Run | Hole]:
        while True:
            try:
                for chunk in self._store.chunks(self._number, self._source, from_seq):
                    yield _run_of(chunk)
                    from_seq = chunk.last_seq + 1
                return
            except ChunkDamagedError as error:
                first = max(error.first_seq, from_seq)
                last = max(error.last_seq, first)
                reason = f"messages {first} to {last} are damaged: their chunk's CRC is wrong"
                yield Hole("damage", first, last, reason, error.raw)
                from_seq = last + 1

    def _holes(self, first: int, last: int) -> Iterator[Hole]:
        """Yield what is known of missing messages, the whole range, a hole for each cause."""
        if first <= self._trimmed:
            stop = min(last, self._trimmed)
            yield Hole("sequence", first, stop, "the capture store was trimmed before")
            first = stop + 1
        for loss in sorted(self._losses, key=lambda each: each.first_seq):
            if loss.last_seq < first or loss.first_seq > last:
                continue
            if loss.first_seq > first:
                yield Hole("sequence", first, loss.first_seq - 1, "gone without a trace")
            start, stop = max(first, loss.first_seq), min(last, loss.last_seq)
            yield Hole("loss", start, stop, loss.reason, at_us=loss.at_us)
            first = stop + 1
        if first <= last:
            yield Hole("sequence", first, last, "gone without a trace")


def gathered(pieces: Iterator[Run | Hole], messages: int) -> Iterator[Run | Hole]:
    """Yield the same pieces with runs put together, up to so many messages or a MiB each.

    The messages of a run all have a tick, or none has.
    """
    runs: list[Run] = []
    count = size_bytes = 0
    for piece in pieces:
        ends = isinstance(piece, Hole) or (
            bool(runs) and (runs[0].ticks is None) != (piece.ticks is None)
        )
        if runs and (ends or count >= messages or size_bytes >= _RUN_BYTES):
            yield joined_runs(runs)
            runs, count, size_bytes = [], 0, 0
        if isinstance(piece, Hole):
            yield piece
            continue
        runs.append(piece)
        count += piece.count
        size_bytes += len(piece.raw)
    if runs:
        yield joined_runs(runs)


def joined_runs(runs: Sequence[Run]) -> Run:
    """Return consecutive runs, which all have ticks or all have none, as one."""
    if len(runs) == 1:
        return runs[0]
    ticks = [run.ticks for run in runs if run.ticks is not None]
    return Run(
        runs[0].first_seq,
        b"".join([run.raw for run in runs]),
        np.concatenate([run.lengths for run in runs]),
        np.concatenate([run.times_us for run in runs]),
        np.concatenate(ticks) if ticks else None,
        tuple(mark for run in runs for mark in run.marks),
    )


def _run_of(chunk: Chunk) -> Run:
    return Run(
        chunk.first_seq,
        chunk.raw,
        np.frombuffer(chunk.lengths, "<u4"),
        np.frombuffer(chunk.times_us, "<i8"),
        np.frombuffer(chunk.ticks, "<i8") if chunk.ticks else None,
        ((chunk.first_seq, chunk.wall_us - chunk.monotonic_ns // 1000),),
    )


def _clipped(piece: Run | Hole, first: int, stop: int) -> Run | Hole:
    if isinstance(piece, Run):
        return piece.part(first - piece.first_seq, stop - piece.first_seq)
    return Hole(piece.kind, first, stop - 1, piece.reason, piece.raw, piece.at_us)
