"""Decoding the messages that the archive keeps anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from keepline.capture.archive.blocking import blocks
from keepline.capture.archive.blocks import decode
from keepline.capture.archive.gaps import StreamEnd
from keepline.capture.archive.pieces import Hole, Run, gathered
from keepline.capture.archive.raw import decode_raw
from keepline.capture.archive.rows import HOLES, StreamRows, position_of
from keepline.capture.archive.scanning import FoundSession
from keepline.capture.archive.transfer import SessionStart, batches, declare
from keepline.errors import CaptureError
from keepline.model import Channel, StreamSpec, TickClock, to_us
from keepline.store import Store
from keepline.store.tables import capture as tables
from keepline.store.tables import common


def streams_with_messages(store: Store, session_id: int) -> dict[str, StreamSpec]:
    """Return the streams of a session whose messages the archive keeps, as they are declared.

    Their channels are those that were met.
    """
    stream, channel = tables.stream.c, tables.channel.c
    kept = sa.select(tables.block.c.source).join(tables.block_raw)
    kept = kept.where(tables.block.c.session_id == session_id).distinct()
    with store.read() as connection:
        sources = set(connection.execute(kept).scalars())
        rows = connection.execute(
            sa.select(stream.source, stream.decoder, stream.options, stream.step_us, stream.clock)
            .where(stream.session_id == session_id)
            .order_by(stream.source)
        ).all()
        channels = connection.execute(
            sa.select(channel.source, channel.name, channel.dtype, channel.unit)
            .where(channel.session_id == session_id)
            .order_by(channel.id)
        ).all()
    return {
        row.source: StreamSpec(
            row.source,
            row.decoder,
            row.options,
            row.step_us,
            tuple(Channel(*each[1:]) for each in channels if each.source == row.source),
            None if row.clock is None else TickClock(**row.clock),
        )
        for row in rows
        if row.source in sources
    }


def decode_stream_again(rows: StreamRows, session: FoundSession) -> None:
    """Replace a stream's blocks by what the decoder that `rows` declares makes of its messages.

    One transaction, with a few blocks at a time in memory. Raises CaptureError when a block's
    messages are not there.
    """
    declared = declare(rows, rows.spec, anew=True)
    info = SessionStart(
        to_us(session.started), None if session.ended is None else to_us(session.ended)
    )
    with rows.store.write(rows.principal) as connection:
        old = _OldStream(connection, rows)
        rows.begin_anew(connection)
        end = StreamEnd()
        full = blocks(gathered(old.pieces(), declared.together), declared.decoder)
        for batch in batches(full, declared.finder(end, info), info):
            rows.add(connection, batch.again())


class _OldStream:
    """The messages and holes of an archived stream, whose blocks go as they are read."""

    def __init__(self, connection: sa.Connection, rows: StreamRows) -> None:
        self._connection = connection
        self._rows = rows
        stream, block = tables.stream.c, tables.block.c
        of_stream = (stream.session_id == rows.session_id, stream.source == rows.spec.source)
        rows.lock(connection)
        row = connection.execute(sa.select(stream.options).where(*of_stream)).one()
        # What was rejected was placed by the old declaration.
        self._spec = StreamSpec(rows.spec.source, options=row.options)
        self._blocks = connection.execute(
            sa.select(block.id, block.first_seq)
            .where(block.session_id == rows.session_id, block.source == rows.spec.source)
            .order_by(block.first_seq)
        ).all()
        gap = tables.gap.c
        self._holes = [
            Hole(row.kind, row.after_seq + 1, row.after_seq + row.missing, row.reason or "")
            for row in connection.execute(
                sa.select(gap.kind, gap.after_seq, gap.missing, gap.reason)
                .where(
                    gap.session_id == rows.session_id,
                    gap.source == rows.spec.source,
                    gap.kind.in_(HOLES),
                )
                .order_by(gap.after_seq)
            )
        ]

    def pieces(self) -> Iterator[Run | Hole]:
        """Yield the messages and holes in order; the rows of blocks that were read are gone."""
        for block_id, first_seq in self._blocks:
            while self._holes and self._holes[0].first_seq < first_seq:
                yield self._holes.pop(0)
            yield self._taken(block_id)
        yield from self._holes

    def _taken(self, block_id: int) -> Run:
        block, raw = tables.block, tables.block_raw
        row = self._connection.execute(
            sa.select(raw.c.payload, raw.c.codec, block.c.payload, block.c.codec)
            .join_from(block, raw)
            .where(block.c.id == block_id)
        ).one_or_none()
        if row is None:
            raise CaptureError("the archive has readings only of some of these messages")
        run = decode_raw(*row)
        self._forget_rejected(run, decode(row[2], row[3], channel="").seqs.tolist())
        for table, key in ((raw, raw.c.block_id), (block, block.c.id)):
            self._connection.execute(sa.delete(table).where(key == block_id))
        return run

    def _forget_rejected(self, run: Run, good: list[int]) -> None:
        """Take the messages that could not be decoded out of the quarantine."""
        bad = sorted(set(range(run.first_seq, run.last_seq + 1)).difference(good))
        if not bad:
            return
        messages, kept = run.messages(), common.quarantine.c
        keys: list[dict[str, Any]] = []
        for seq in bad:
            place = seq - run.first_seq
            tick = None if run.ticks is None else int(run.ticks[place])
            keys.append(
                {
                    "at": position_of(self._spec, seq, tick),
                    "of": hashlib.sha256(messages[place]).hexdigest(),
                }
            )
        self._connection.execute(
            sa.delete(common.quarantine).where(
                kept.part == "capture",
                kept.origin == self._rows.origin,
                kept.position == sa.bindparam("at"),
                kept.digest == sa.bindparam("of"),
            ),
            keys,
        )
