"""Moving captured sessions into the SQL archive, without losing or doubling a message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.archive_rows import StreamRows
from keepline.capture.blocking import ContentCrc, FullBlock, blocks, runs
from keepline.capture.decoding import DeclaredDecoder
from keepline.capture.readings import ArchiveReader
from keepline.capture.store import CaptureStore
from keepline.errors import (
    AlreadyCapturedError,
    ChunkDamagedError,
    KeeplineError,
    UnknownInstrumentError,
)
from keepline.model import CaptureState, Chunk, Principal, SessionInfo, StreamSpec, utc_now
from keepline.store import Store, quarantine
from keepline.store.tables import capture as tables
from keepline.store.tables import common

#: A transaction takes at most so much.
_BATCH_BLOCKS = 16
_BATCH_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What the archive holds of a session, all calls together.

    `messages` counts those received into the archive, of which some may be among the
    `quarantined`; `quarantined` counts all quarantined input of this session. `added` and
    `repeats` are about this call: messages that are new, and blocks that were there already.
    `state` stays running until everything of an ended session is in.
    """

    session: str
    messages: int
    readings: int
    gaps: int
    disorder: int
    quarantined: int
    state: CaptureState
    added: int = 0
    repeats: int = 0


class _OvertakenError(Exception):
    """Another process archived a part of this stream meanwhile."""


class Archive(ArchiveReader):
    """The archive of one capture store's sessions, and the reading of it.

    Its identity of data is (store id, session, source, first to last sequence number): the
    same messages again are recognised by their CRC and add nothing; other messages for the
    same numbers are quarantined, and the old ones stay.
    """

    def __init__(
        self,
        sql_store: Store,
        capture_store: CaptureStore,
        *,
        principal: Principal | None = None,
    ) -> None:
        super().__init__(
            sql_store, capture_store.store_id, principal=principal or Principal.system()
        )
        self.capture_store = capture_store

    def archive_all(self) -> list[ArchiveResult]:
        """Archive what every session has stored so far, and return a result each, by number.

        A session that cannot be archived does not keep the others from it; the first error
        is raised at the end.
        """
        results: list[ArchiveResult] = []
        failed: list[KeeplineError] = []
        for info in self.capture_store.sessions():
            try:
                results.append(self.archive_session(info.number))
            except KeeplineError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return results

    def archive_session(self, number: int) -> ArchiveResult:
        """Archive what a session has stored so far, running or ended; a repeat adds nothing.

        Each transaction takes some blocks, after which the capture store is told how far the
        archive is. Interrupted anywhere, the next call goes on at the first missing number.
        Two archivers of one session do not disturb each other.

        Raises:
            NoSessionError: the capture store has no such session.
            UnknownInstrumentError: the session's instrument is not declared.
            ChunkDamagedError: a chunk is damaged; what lies before it is archived.
            PluginError: a stream's decoder is not installed.
            DecodeError: a stream's decoder cannot be used as the stream declares it.
        """
        info = self.capture_store.session(number)
        session_id = self._session_row(info)
        added = repeats = 0
        for spec in self.capture_store.streams(number):
            rows = StreamRows(self.sql_store, self.principal, session_id, info.global_name, spec)
            repeats += self._compare_again(info, spec, rows)
            added += self._append_new(info, spec, rows)
        if info.state != "running":
            self._set_state(session_id, info)
        return self._result(session_id, info, added, repeats)

    def quarantine_lines(
        self, number: int, lines: list[tuple[int, bytes, str]], *, source: str = "main"
    ) -> int:
        """Keep (line number, bytes, reason) of input that could not become messages.

        Returns how many were not there yet.
        """
        info = self.capture_store.session(number)
        with self.sql_store.write(self.principal) as connection:
            return quarantine.keep(connection, "capture", _origin(info, source), lines)

    def require_instrument(self, name: str) -> None:
        """Raise UnknownInstrumentError unless the instrument is declared."""
        with self.sql_store.read() as connection:
            self._instrument_group(connection, name)

    def refuse_twice(self, instrument: str, origin: str) -> None:
        """Raise AlreadyCapturedError when another capture store's session has this origin.

        A capture store knows what it captured itself; one that was lost and made anew does
        not, and would double what the archive holds.
        """
        kept = tables.capture_session
        other = sa.select(kept.c.global_name).where(
            kept.c.instrument == instrument,
            kept.c.origin == origin,
            kept.c.state == "complete",
            kept.c.store_id != self.capture_store.store_id,
        )
        with self.sql_store.read() as connection:
            name = connection.execute(other).scalar()
        if name is not None:
            raise AlreadyCapturedError(
                f"the archive has this already, as {name} of another capture store"
            )

    def clear_session_data(self, session_id: int) -> None:
        """Remove a session's readings, gaps and channels from the archive.

        The session stays, as running in the archive's eyes: its data comes back when it is
        archived again. Quarantined input stays. Raises NoSessionError.
        """
        row_id = self._find(session_id)
        session = tables.capture_session
        with self.sql_store.write(self.principal) as connection:
            of_session = sa.select(tables.block.c.id).where(tables.block.c.session_id == row_id)
            connection.execute(
                sa.delete(tables.block_stat).where(tables.block_stat.c.block_id.in_(of_session))
            )
            for table in (tables.block, tables.gap, tables.channel, tables.stream):
                connection.execute(sa.delete(table).where(table.c.session_id == row_id))
            connection.execute(
                sa.update(session)
                .where(session.c.id == row_id)
                .values(state="running", ended_at=None)
            )
            self._note_state(connection, row_id, "running", "its data was cleared")

    def _append_new(self, info: SessionInfo, spec: StreamSpec, rows: StreamRows) -> int:
        added = 0
        while True:
            try:
                for count in self._new_batches(info, spec, rows):
                    added += count
            except _OvertakenError:
                continue
            return added

    def _new_batches(self, info: SessionInfo, spec: StreamSpec, rows: StreamRows) -> Iterator[int]:
        position = rows.position()
        decoder = DeclaredDecoder(spec, rows.channels())
        chunks = _UntilDamage(
            self.capture_store.chunks(info.number, spec.source, position.messages)
        )
        for batch in _batches(blocks(runs(chunks, position.messages), decoder)):
            following = rows.append(position, batch)
            if following is None:
                raise _OvertakenError
            self.capture_store.mark_archived(info.number, spec.source, batch[-1].last_seq)
            yield following.messages - position.messages
            position = following
        if chunks.damage is not None:
            raise chunks.damage

    def _compare_again(self, info: SessionInfo, spec: StreamSpec, rows: StreamRows) -> int:
        """Compare what is archived but not marked so in the capture store; return the repeats."""
        number, source = info.number, spec.source
        stored = self.capture_store.message_count(number, source)
        repeats = 0
        for first, last, crc in rows.blocks_from(self.capture_store.archived(number, source) + 1):
            if first >= stored or (last >= stored and info.state == "running"):
                break  # the rest of the block may still come
            if self._crc(number, source, first, last) == crc:
                repeats += 1
            else:
                self._quarantine_range(info, source, first, last)
            self.capture_store.mark_archived(number, source, last)
        return repeats

    def _crc(self, number: int, source: str, first: int, last: int) -> int:
        crc = ContentCrc()
        for run in runs(self.capture_store.chunks(number, source, first), first, last + 1):
            crc.add(run)
        return crc.value

    def _quarantine_range(self, info: SessionInfo, source: str, first: int, last: int) -> None:
        reason = f"other content than the archive has for messages {first} to {last}"
        chunks = self.capture_store.chunks(info.number, source, first)
        with self.sql_store.write(self.principal) as connection:
            for run in runs(chunks, first, last + 1):
                rejected = [
                    (seq, raw, reason) for seq, raw in enumerate(run.messages, run.first_seq)
                ]
                quarantine.keep(connection, "capture", _origin(info, source), rejected)

    def _session_row(self, info: SessionInfo) -> int:
        """Return the row id of a session, which is made as running when it is new."""
        table = tables.capture_session
        dialect = postgresql if self.sql_store.dialect == "postgresql" else sqlite
        with self.sql_store.write(self.principal) as connection:
            group = self._instrument_group(connection, info.instrument)
            known = sa.select(table.c.id).where(table.c.global_name == info.global_name)
            row_id = connection.execute(known).scalar()
            if row_id is not None:
                return int(row_id)
            made = connection.execute(
                dialect.insert(table)
                .values(
                    store_id=info.store_id,
                    number=info.number,
                    global_name=info.global_name,
                    instrument=info.instrument,
                    user_name=info.user,
                    state="running",
                    started_at=info.started,
                    origin=info.origin,
                    group_name=group,
                )
                .on_conflict_do_nothing()
            )
            row_id = int(connection.execute(known).scalar_one())
            if made.rowcount:
                self._note_state(connection, row_id, "running", "archiving began")
        return row_id

    def _set_state(self, session_id: int, info: SessionInfo) -> None:
        table = tables.capture_session
        with self.sql_store.write(self.principal) as connection:
            changed = connection.execute(
                sa.update(table)
                .where(table.c.id == session_id, table.c.state != info.state)
                .values(state=info.state, ended_at=info.ended)
            )
            if changed.rowcount:
                self._note_state(connection, session_id, info.state, "everything is archived")

    def _note_state(
        self, connection: sa.Connection, session_id: int, state: str, reason: str
    ) -> None:
        connection.execute(
            sa.insert(tables.capture_session_change).values(
                session_id=session_id,
                state=state,
                changed_at=utc_now(),
                who=self.principal.name,
                reason=reason,
            )
        )

    def _instrument_group(self, connection: sa.Connection, name: str) -> str | None:
        instrument = common.instrument.c
        row = connection.execute(
            sa.select(instrument.group_name).where(instrument.name == name)
        ).one_or_none()
        if row is None:
            raise UnknownInstrumentError(f"the instrument {name!r} is not declared; add it first")
        group: str | None = row.group_name
        return group

    def _result(
        self, session_id: int, info: SessionInfo, added: int, repeats: int
    ) -> ArchiveResult:
        count = sa.func.count
        streams, gap = tables.stream.c, tables.gap.c
        with self.sql_store.read() as connection:
            sums = connection.execute(
                sa.select(
                    sa.func.coalesce(sa.func.sum(streams.messages), 0),
                    sa.func.coalesce(sa.func.sum(streams.readings), 0),
                ).where(streams.session_id == session_id)
            ).one()
            kinds: dict[str, int] = {
                row[0]: row[1]
                for row in connection.execute(
                    sa.select(gap.kind, count())
                    .where(gap.session_id == session_id)
                    .group_by(gap.kind)
                )
            }
            origins = [
                _origin(info, each.source) for each in self.capture_store.streams(info.number)
            ]
            kept = common.quarantine.c
            quarantined = connection.execute(
                sa.select(count()).where(kept.part == "capture", kept.origin.in_(origins))
            ).scalar_one()
            state = connection.execute(
                sa.select(tables.capture_session.c.state).where(
                    tables.capture_session.c.id == session_id
                )
            ).scalar_one()
        return ArchiveResult(
            session=info.global_name,
            messages=int(sums[0]),
            readings=int(sums[1]),
            gaps=kinds.get("time", 0),
            disorder=kinds.get("disorder", 0),
            quarantined=quarantined,
            state=state,
            added=added,
            repeats=repeats,
        )


class _UntilDamage:
    """Chunks up to the first damaged one, so that what lies before it can be finished."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self.damage: ChunkDamagedError | None = None

    def __iter__(self) -> Iterator[Chunk]:
        try:
            yield from self._chunks
        except ChunkDamagedError as error:
            self.damage = error


def _origin(info: SessionInfo, source: str) -> str:
    return f"{info.global_name}/{source}"


def _batches(stream: Iterator[FullBlock]) -> Iterator[list[FullBlock]]:
    for first in stream:
        batch, size = [first], _weight(first)
        while len(batch) < _BATCH_BLOCKS and size < _BATCH_BYTES:
            block = next(stream, None)
            if block is None:
                break
            batch.append(block)
            size += _weight(block)
        yield batch


def _weight(block: FullBlock) -> int:
    """Return the bytes that a block takes: as messages, or as columns when that is more."""
    return max(block.size_bytes, 8 * block.cells)
