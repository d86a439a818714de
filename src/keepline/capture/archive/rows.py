"""The archive's rows of one stream, written a batch of blocks at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.archive.blocking import FullBlock, Rejected
from keepline.capture.archive.blocks import CODEC, encode_many
from keepline.capture.archive.bulk_insert import insert_rows
from keepline.capture.archive.clocks import ClockFit, extended
from keepline.capture.archive.columns import dtype_of
from keepline.capture.archive.gaps import Gap, StreamEnd
from keepline.capture.archive.pieces import Hole, content_crc
from keepline.capture.archive.raw import RAW_CODEC, encode_raw
from keepline.capture.archive.statistics import ColumnStatistics, statistics_of_many
from keepline.errors import CaptureError, NoSessionError
from keepline.model import DType, Principal, StreamSpec, TickClock
from keepline.store import Store, quarantine
from keepline.store.tables import capture as tables

#: So many blocks are worked on at once: more, and they leave the processor's cache.
_PACKED_TOGETHER = 4

#: The kinds of gap that are holes in the numbers.
HOLES = ("sequence", "loss", "damage")

#: These say that messages are missing, "count" without saying which.
MISSING = (*HOLES, "count")

#: A line is fitted to so many messages at most; then a new one begins. Of a stream so many are
#: kept: a device that starts anew all the time has no more.
_MAX_FITTED = 1 << 20
_MAX_FITS = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Blocks of a stream that follow one another, and what was found about them.

    `holes` are all those before, between and behind the blocks. With each fit comes whether
    it goes on from the messages before it. `is_again` says that the archive had them before.
    """

    blocks: list[FullBlock]
    gaps: list[Gap]
    holes: list[Hole]
    fits: list[tuple[ClockFit, bool]]
    end: StreamEnd
    is_again: bool = False

    @property
    def rejected(self) -> list[Rejected]:
        """Return the messages that could not be decoded."""
        return [bad for each in self.blocks for bad in each.rejected]

    def again(self) -> Batch:
        """Return the batch for messages that the archive had before, whose holes it knows."""
        gaps = [gap for gap in self.gaps if gap.kind not in HOLES]
        return Batch(self.blocks, gaps, self.holes, self.fits, self.end, is_again=True)

    def count(self, *kinds: str) -> int:
        """Return how many messages are in holes of these kinds."""
        return sum(hole.count for hole in self.holes if hole.kind in kinds)


@dataclass(frozen=True, slots=True)
class _Packed:
    """A block as its rows have it."""

    block: dict[str, Any]
    raw: bytes
    figures: Mapping[str, ColumnStatistics]


@dataclass
class StreamRows:
    """The rows of one stream of an archived session, named `origin` in the quarantine."""

    store: Store
    principal: Principal
    session_id: int
    origin: str
    spec: StreamSpec
    clock: TickClock | None
    units: Mapping[str, str | None]
    _ids: dict[str, int] = field(default_factory=dict)

    def make(self) -> None:
        """Make the stream's own row, if it is new; raises NoSessionError."""
        with self.store.write(self.principal) as connection:
            lock_session(connection, self.session_id, shared=True)
            connection.execute(
                self._insert(tables.stream)
                .values(
                    session_id=self.session_id,
                    source=self.spec.source,
                    messages=0,
                    **self._declared(),
                    **dict.fromkeys(("readings", "quarantined", "lost"), 0),
                )
                .on_conflict_do_nothing()
            )

    def end(self) -> StreamEnd:
        """Return how far the stream is archived."""
        with self.store.read() as connection:
            return self._end(connection)

    @contextmanager
    def held(self) -> Iterator[int]:
        """Give the number of the last archived message, or -1, which cannot go in the block.

        What is there is committed, and nobody adds to it or clears it meanwhile. Raises
        CaptureError when the stream was cleared.
        """
        with self.store.write(self.principal) as connection:
            yield self.lock(connection).messages - 1

    def lock(self, connection: sa.Connection) -> StreamEnd:
        """Return how far the stream is archived; to the transaction's end only it changes that.

        The session's row comes first, as for who clears it: else one waited for the other.
        Raises NoSessionError, CaptureError when the stream was cleared.
        """
        lock_session(connection, self.session_id, shared=True)
        return self._end(connection, lock=True)

    def channels(self) -> dict[str, DType]:
        """Return the names and types of the channels met so far."""
        channel = tables.channel.c
        with self.store.read() as connection:
            rows = connection.execute(
                sa.select(channel.name, channel.dtype).where(*self._of_stream(tables.channel))
            )
            return {row.name: row.dtype for row in rows}

    def blocks_from(self, seq: int) -> list[tuple[int, int, int, int]]:
        """Return (id, first, last, CRC) of the blocks with `seq` or later messages, in order."""
        block = tables.block.c
        with self.store.read() as connection:
            rows = connection.execute(
                sa.select(block.id, block.first_seq, block.last_seq, block.crc)
                .where(*self._of_stream(tables.block), block.last_seq >= seq)
                .order_by(block.first_seq)
            )
            return [(row.id, row.first_seq, row.last_seq, row.crc) for row in rows]

    def append(self, end: StreamEnd, batch: Batch) -> bool:
        """Add a batch in one transaction.

        Returns False, adding nothing, when the stream no longer ends at `end`.
        """
        packed = self._packed(batch.blocks)
        with self.store.write(self.principal) as connection:
            if self.lock(connection) != end:
                return False
            self._add(connection, batch, packed)
        return True

    def add(self, connection: sa.Connection, batch: Batch) -> None:
        """Add a batch in a transaction of the caller's."""
        self._add(connection, batch, self._packed(batch.blocks))

    def begin_anew(self, connection: sa.Connection) -> None:
        """Forget what was made of the messages, but for blocks and what is missing.

        For a stream that is decoded again: the caller replaces the blocks.
        """
        blocks = sa.select(tables.block.c.id).where(*self._of_stream(tables.block))
        connection.execute(
            sa.delete(tables.block_stat).where(tables.block_stat.c.block_id.in_(blocks))
        )
        for table in (tables.channel, tables.clock_fit):
            connection.execute(sa.delete(table).where(*self._of_stream(table)))
        connection.execute(
            sa.delete(tables.gap).where(
                *self._of_stream(tables.gap), tables.gap.c.kind.not_in(MISSING)
            )
        )
        connection.execute(
            sa.update(tables.stream)
            .where(*self._of_stream(tables.stream))
            .values(readings=0, quarantined=0, lost=0, **self._declared())
        )

    def _declared(self) -> dict[str, Any]:
        return {
            "decoder": self.spec.decoder,
            "options": dict(self.spec.options),
            "step_us": self.spec.step_us,
            "clock": None if self.clock is None else asdict(self.clock),
        }

    def _insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        dialect = postgresql if self.store.dialect == "postgresql" else sqlite
        insert: postgresql.Insert | sqlite.Insert = dialect.insert(table)
        return insert

    def _of_stream(self, table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
        return table.c.session_id == self.session_id, table.c.source == self.spec.source

    def _end(self, connection: sa.Connection, *, lock: bool = False) -> StreamEnd:
        stream = tables.stream.c
        query = sa.select(
            stream.messages,
            stream.last_time_us,
            stream.last_tick,
            stream.clock_offset_us,
            stream.arrived_us,
            stream.last_good_seq,
            sa.func.coalesce(stream.after_hole, sa.false()),
        ).where(*self._of_stream(tables.stream))
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise CaptureError("the session's data was cleared meanwhile; archive it again")
        return StreamEnd(*row)

    def _packed(self, blocks: Sequence[FullBlock]) -> list[_Packed]:
        packed: list[_Packed] = []
        for start in range(0, len(blocks), _PACKED_TOGETHER):
            some = blocks[start : start + _PACKED_TOGETHER]
            payloads = encode_many([each.block for each in some])
            figures = statistics_of_many([each.block for each in some])
            packed += map(self._one_packed, some, payloads, figures)
        return packed

    def _one_packed(
        self, each: FullBlock, payload: bytes, figures: Mapping[str, ColumnStatistics]
    ) -> _Packed:
        row = {
            **self._key(),
            "first_seq": each.first_seq,
            "last_seq": each.last_seq,
            "readings": each.readings,
            "crc": content_crc(each.run),
            "codec": CODEC,
            "payload": payload,
        }
        return _Packed(row, encode_raw(each.run, each.block), figures)

    def _add(self, connection: sa.Connection, batch: Batch, packed: Sequence[_Packed]) -> None:
        if packed:
            self._know_channels(connection, batch.blocks)
            self._insert_blocks(connection, packed)
        if batch.gaps:
            rows = [{**self._key(), **gap._asdict()} for gap in batch.gaps]
            connection.execute(sa.insert(tables.gap), rows)
        bad = [self._placed(each) for each in batch.rejected]
        if not batch.is_again:
            bad += [(h.first_seq, h.raw, h.reason) for h in batch.holes if h.kind == "damage"]
        quarantine.keep(connection, "capture", self.origin, bad)
        for fit, follows in batch.fits:
            self._keep_fit(connection, fit, follows=follows)
        self._advance(connection, batch)

    def _key(self) -> dict[str, Any]:
        return {"session_id": self.session_id, "source": self.spec.source}

    def _know_channels(self, connection: sa.Connection, blocks: Iterable[FullBlock]) -> None:
        """Make the channels that are new, and learn the ids of all that these blocks have."""
        found = {name: column for each in blocks for name, column in each.block.columns.items()}
        # Asked for each time: when the session was cleared and archived again, they are others.
        self._ids = self._channel_ids(connection)
        new = [name for name in found if name not in self._ids]
        if not new:
            return
        rows = [
            {
                **self._key(),
                "name": name,
                "dtype": dtype_of(found[name]),
                "unit": self.units.get(name),
            }
            for name in new
        ]
        connection.execute(self._insert(tables.channel).on_conflict_do_nothing(), rows)
        self._ids = self._channel_ids(connection)

    def _channel_ids(self, connection: sa.Connection) -> dict[str, int]:
        channel = tables.channel.c
        known = connection.execute(
            sa.select(channel.name, channel.id).where(*self._of_stream(tables.channel))
        )
        return {row.name: row.id for row in known}

    def _insert_blocks(self, connection: sa.Connection, packed: Sequence[_Packed]) -> None:
        block = tables.block
        made = connection.execute(
            sa.insert(block).returning(block.c.first_seq, block.c.id),
            [each.block for each in packed],
        )
        ids = {row.first_seq: row.id for row in made}
        connection.execute(
            sa.insert(tables.block_raw),
            [
                {"block_id": ids[each.block["first_seq"]], "codec": RAW_CODEC, "payload": each.raw}
                for each in packed
            ],
        )
        insert_rows(
            connection,
            tables.block_stat,
            ("block_id", "channel_id", *ColumnStatistics._fields),
            [
                (ids[each.block["first_seq"]], self._ids[name], *one)
                for each in packed
                for name, one in each.figures.items()
            ],
        )

    def _placed(self, bad: Rejected) -> tuple[int, bytes, str]:
        return position_of(self.spec, bad.seq, bad.tick), bad.raw, bad.reason

    def _keep_fit(self, connection: sa.Connection, fit: ClockFit, *, follows: bool) -> None:
        table = tables.clock_fit
        of_stream = self._of_stream(table)
        if follows:
            query = sa.select(*(table.c[name] for name in ClockFit.__dataclass_fields__))
            last = connection.execute(
                query.where(*of_stream).order_by(table.c.first_seq.desc()).limit(1)
            ).one_or_none()
            if last is not None and last.n < _MAX_FITTED:
                longer = extended(ClockFit(*last), fit)
                connection.execute(
                    sa.update(table)
                    .where(*of_stream, table.c.first_seq == longer.first_seq)
                    .values(**asdict(longer))
                )
                return
        count = sa.select(sa.func.count()).select_from(table).where(*of_stream)
        if connection.execute(count).scalar_one() < _MAX_FITS:
            connection.execute(sa.insert(table).values(**self._key(), **asdict(fit)))

    def _advance(self, connection: sa.Connection, batch: Batch) -> None:
        stream, end = tables.stream.c, batch.end
        quarantined = len(batch.rejected) + batch.count("damage")
        connection.execute(
            sa.update(tables.stream)
            .where(*self._of_stream(tables.stream))
            .values(
                messages=end.messages,
                last_time_us=end.time_us,
                last_tick=end.tick,
                clock_offset_us=end.clock_offset_us,
                arrived_us=end.arrived_us,
                last_good_seq=end.last_good_seq,
                after_hole=end.after_hole,
                readings=stream.readings + sum(each.readings for each in batch.blocks),
                quarantined=stream.quarantined + quarantined,
                lost=stream.lost + batch.count("sequence", "loss"),
            )
        )


def lock_session(connection: sa.Connection, row_id: int, *, shared: bool = False) -> None:
    """Lock a session's row until the transaction ends.

    Who adds to its streams shares it; who ends, clears or deletes the session does not. Rows
    that refer to it can be added all the same. Raises NoSessionError.
    """
    session = tables.capture_session.c
    query = sa.select(session.id).where(session.id == row_id)
    query = query.with_for_update(read=True) if shared else query.with_for_update(key_share=True)
    if connection.execute(query).one_or_none() is None:
        raise NoSessionError("the session was deleted from the archive meanwhile")


def position_of(spec: StreamSpec, seq: int, tick: int | None) -> int:
    """Return where a rejected message is looked for: its number, or its line in a file.

    A replayed file's ticks are its line numbers; a device's own are no place to look at.
    """
    by_tick = spec.options.get("position") == "tick" and tick is not None
    return tick if by_tick and tick is not None else seq
