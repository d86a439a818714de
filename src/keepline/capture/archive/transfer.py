"""Moving one stream from a capture store into the archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from keepline.capture.archive.blocking import FullBlock, blocks
from keepline.capture.archive.gaps import GapFinder, StreamEnd
from keepline.capture.archive.pieces import ContentCrc, Hole, Run, StoredPieces, gathered
from keepline.capture.archive.raw import decode_raw
from keepline.capture.archive.rows import Batch, StreamRows
from keepline.capture.decoders.declared import DeclaredDecoder
from keepline.capture.store import CaptureStore
from keepline.model import Principal, SessionInfo, StreamSpec, to_us
from keepline.store import Store, quarantine
from keepline.store.tables import capture as tables

#: A transaction takes at most so much.
_BATCH_BLOCKS = 64
_BATCH_BYTES = 8 * 1024 * 1024

#: So many messages are decoded at once: a decoder of messages without a fixed format may make
#: thousands of columns of them.
_DECODED_TOGETHER = 1_000
_PACKED_TOGETHER = 8_192


class _OvertakenError(Exception):
    """Another process archived a part of this stream meanwhile."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A stream's declaration with the decoder that it names."""

    spec: StreamSpec
    decoder: DeclaredDecoder

    def finder(self, end: StreamEnd, info: SessionStart) -> GapFinder:
        """Return what finds the gaps in the messages after `end`."""
        return GapFinder(
            end,
            step_us=self.spec.step_us,
            clock=self.spec.clock or self.decoder.clock,
            start_us=info.start_us,
            told_times=self.spec.options.get("position") == "tick",
        )

    @property
    def together(self) -> int:
        """Return how many messages are decoded at once."""
        return _PACKED_TOGETHER if self.decoder.is_packed else _DECODED_TOGETHER


@dataclass(frozen=True, slots=True)
class SessionStart:
    """When a session began and ended, in UTC microseconds."""

    start_us: int
    end_us: int | None


def declare(rows: StreamRows, spec: StreamSpec, *, anew: bool = False) -> Declared:
    """Return the declaration with its decoder, and tell `rows` what it says.

    The decoder knows the channels met so far, unless the stream is decoded `anew`. What the
    declaration leaves open, its decoder may know. Raises PluginError, DecodeError.
    """
    decoder = DeclaredDecoder(spec, {} if anew else rows.channels())
    rows.clock = spec.clock or decoder.clock
    rows.units = {each.name: each.unit for each in (*decoder.channels, *spec.channels)}
    return Declared(spec, decoder)


class StreamTransfer:
    """Moves what is new of one stream; see Archive.archive_session."""

    def __init__(
        self,
        sql_store: Store,
        capture_store: CaptureStore,
        principal: Principal,
        info: SessionInfo,
        rows: StreamRows,
        *,
        trim: bool,
    ) -> None:
        self._sql_store = sql_store
        self._capture_store = capture_store
        self._principal = principal
        self._info = info
        self._rows = rows
        self._source = rows.spec.source
        self._trim = trim
        self._pieces = StoredPieces(capture_store, info.number, self._source)

    def begin(self) -> None:
        """Make the stream's row, and bring the capture store's mark back to what is archived.

        It says more when the session was cleared or deleted, or the archive is another one.
        """
        self._rows.make()
        number, source = self._info.number, self._source
        if self._capture_store.archived(number, source) < self._rows.end().messages:
            return
        with self._rows.held() as last:
            if self._capture_store.archived(number, source) > last:
                self._capture_store.set_archived(number, source, last)

    def append_new(self) -> int:
        """Archive what is not yet archived, and return how many messages and holes' that is."""
        added = 0
        declared = declare(self._rows, self._rows.spec)
        while True:
            try:
                for count in self._new_batches(declared):
                    added += count
            except _OvertakenError:
                declared = declare(self._rows, self._rows.spec)
                continue
            return added

    def compare_again(self) -> int:
        """Compare what is archived but not marked so in the capture store.

        The same content counts as a repeat, and the number of these is returned; messages with
        another content are quarantined, and the archive keeps what it has.
        """
        number, source, running = self._info.number, self._source, self._info.state == "running"
        stored = self._capture_store.next_seq(number, source)
        repeats = compared = 0
        mark = upto = self._capture_store.archived(number, source)
        for block_id, first, last, crc in self._rows.blocks_from(mark + 1):
            if first >= stored or (last >= stored and running):
                break  # the rest of the block may still come
            repeats += self._is_repeat(block_id, first, last, crc)
            compared, upto = compared + 1, last
            if compared % _BATCH_BLOCKS == 0:
                self._mark(upto)
        if upto > mark:
            self._mark(upto)
        return repeats

    def _new_batches(self, declared: Declared) -> Iterator[int]:
        end = self._rows.end()
        declared.decoder.follow(end.time_us, self._rejected_last(end, declared.together))
        info = SessionStart(
            to_us(self._info.started),
            None if self._info.ended is None else to_us(self._info.ended),
        )
        pieces = self._pieces.read(end.messages, to_end=self._info.state != "running")
        full = blocks(gathered(pieces, declared.together), declared.decoder)
        for batch in batches(full, declared.finder(end, info), info):
            if not self._rows.append(end, batch):
                raise _OvertakenError
            self._mark(batch.end.messages - 1)
            yield batch.end.messages - end.messages - batch.count("sequence", "loss")
            end = batch.end

    def _rejected_last(self, end: StreamEnd, together: int) -> Iterator[list[bytes]]:
        """Yield the messages after the last good one that are archived, some at a time."""
        if end.last_good_seq is None:
            return
        for block_id, *_ in self._rows.blocks_from(end.last_good_seq + 1):
            with self._sql_store.read() as connection:
                run = raw_of_block(connection, block_id)
            if run is not None:
                messages = run.messages()[max(0, end.last_good_seq + 1 - run.first_seq) :]
                for start in range(0, len(messages), together):
                    yield messages[start : start + together]

    def _mark(self, seq: int) -> None:
        """Tell the capture store that the archive has all up to `seq`, while that is so."""
        number, source = self._info.number, self._source
        with self._rows.held() as last:
            upto = min(seq, last)
            self._capture_store.mark_archived(number, source, upto)
            if self._trim:
                self._capture_store.trim(number, source, upto)

    def _is_repeat(self, block_id: int, first: int, last: int, crc: int) -> bool:
        content, whole = ContentCrc(), True
        for piece in self._pieces.read(first, last + 1):
            if isinstance(piece, Run):
                content.add(piece)
            else:
                whole = False
        if whole and content.value == crc:
            return True
        return not self._quarantine_others(block_id, first, last)

    def _quarantine_others(self, block_id: int, first: int, last: int) -> int:
        """Quarantine what is stored for a block's messages and differs from it; return how many."""
        known: dict[int, tuple[int, bytes]] = {}
        with self._sql_store.read() as connection:
            run = raw_of_block(connection, block_id)
        if run is not None:
            known = {seq: (at_us, raw) for seq, at_us, raw in numbered(run)}
        found = 0
        with self._sql_store.write(self._principal) as connection:
            for piece in self._pieces.read(first, last + 1):
                bad: list[tuple[int, bytes, str]] = []
                if isinstance(piece, Run):
                    bad = [
                        (seq, raw, f"other content than the archive has for message {seq}")
                        for seq, at_us, raw in numbered(piece)
                        if known.get(seq) != (at_us, raw)
                    ]
                elif piece.kind == "damage":
                    bad = [(piece.first_seq, piece.raw, f"{piece.reason}; the archive has them")]
                quarantine.keep(connection, "capture", self._rows.origin, bad)
                found += len(bad)
        return found


def batches(
    full: Iterable[FullBlock | Hole], finder: GapFinder, info: SessionStart
) -> Iterator[Batch]:
    """Yield blocks a batch at a time, with what is found about them."""
    batch, size = _new_batch(), 0
    for each in full:
        if isinstance(each, Hole):
            before_us = info.start_us if finder.time_us is None else finder.time_us
            until_us = max(before_us, info.end_us or before_us)
            batch.gaps.extend(finder.holes([each], until_us))
            batch.holes.append(each)
            messages = each.last_seq + 1
        else:
            one, gaps = finder.look_at(each)
            batch.blocks.append(one)
            batch.gaps.extend(gaps)
            batch.holes.extend(one.before)
            messages = one.last_seq + 1
            size += max(len(one.run.raw), 8 * one.cells)
        if len(batch.blocks) >= _BATCH_BLOCKS or size >= _BATCH_BYTES:
            yield _finished(batch, finder, messages)
            batch, size = _new_batch(), 0
    if batch.blocks or batch.holes:
        yield _finished(batch, finder, messages)


def raw_of_block(connection: sa.Connection, block_id: int) -> Run | None:
    """Return the messages that a block was decoded from, or None where they are not kept."""
    block, raw = tables.block.c, tables.block_raw.c
    row = connection.execute(
        sa.select(raw.payload, raw.codec, block.payload, block.codec)
        .join_from(tables.block_raw, tables.block)
        .where(block.id == block_id)
    ).one_or_none()
    return None if row is None else decode_raw(*row)


def numbered(run: Run) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number, time of arrival in UTC microseconds and bytes of each message."""
    seqs = range(run.first_seq, run.last_seq + 1)
    yield from zip(seqs, run.times_us.tolist(), run.messages(), strict=True)


def _new_batch() -> Batch:
    return Batch([], [], [], [], StreamEnd())


def _finished(batch: Batch, finder: GapFinder, messages: int) -> Batch:
    return Batch(batch.blocks, batch.gaps, batch.holes, finder.fits(), finder.end(messages))
