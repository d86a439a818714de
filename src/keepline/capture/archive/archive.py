"""Moving captured sessions into the SQL archive, without losing or doubling a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from keepline.capture.archive.clocks import ClockFit
from keepline.capture.archive.items import ArchiveItems
from keepline.capture.archive.redecoding import decode_stream_again, streams_with_messages
from keepline.capture.archive.rows import HOLES, StreamRows
from keepline.capture.archive.session_rows import SessionRows, instrument_group
from keepline.capture.archive.transfer import StreamTransfer, numbered, raw_of_block
from keepline.capture.store import CaptureStore
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    KeeplineError,
    NoSessionError,
    TrimmedError,
)
from keepline.model import CaptureState, Principal, SessionInfo, StreamSpec
from keepline.store import Store, quarantine
from keepline.store.tables import capture as tables


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What the archive holds of a session, all calls together.

    `messages` counts those received into the archive, of which some may be among the
    `quarantined`; `lost` those that never came. `quarantined` counts all quarantined input of
    this session: each message of a damaged chunk, and lines that never became messages, too.
    `gaps` are the rows of every kind of gap but disorder, which `disorder` counts. `added` and
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
    lost: int = 0
    added: int = 0
    repeats: int = 0


class MissingRange(NamedTuple):
    """Messages `first` to `last` of a source that the archive does not have, and why."""

    source: str
    first: int
    last: int
    reason: str


class Archive(ArchiveItems):
    """The archive of one capture store's sessions, and the reading of it.

    Its identity of data is (store id, session, source, first to last sequence number): the
    same messages again are recognised by their CRC and add nothing; other messages for the
    same numbers are quarantined, and the old ones stay. The messages are kept as they came,
    beside what was decoded from them. With `trim`, what is archived is then removed from the
    capture store.
    """

    def __init__(
        self,
        sql_store: Store,
        capture_store: CaptureStore,
        *,
        principal: Principal | None = None,
        trim: bool = False,
    ) -> None:
        super().__init__(
            sql_store, capture_store.store_id, principal=principal or Principal.system()
        )
        self.capture_store = capture_store
        self.trim = trim
        self._rows = SessionRows(sql_store, self.principal)

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
            except sa.exc.SQLAlchemyError as error:
                why = str(getattr(error, "orig", None) or error).partition("\n")[0]
                failed.append(CaptureError(f"{info.global_name} could not be archived: {why}"))
        if failed:
            raise failed[0]
        return results

    def archive_session(self, number: int) -> ArchiveResult:
        """Archive what a session has stored so far, running or ended; a repeat adds nothing.

        Each transaction takes some blocks, after which the capture store is told how far the
        archive is, and then may be trimmed. Interrupted anywhere, the next call goes on at the
        first missing number. Two archivers of one session do not disturb each other. What is
        missing or damaged is a gap each, and does not hold up what follows it.

        Raises:
            NoSessionError: the capture store has no such session, or it was deleted meanwhile.
            CaptureError: it was cleared meanwhile.
            UnknownInstrumentError: the session's instrument is not declared.
            PluginError: a stream's decoder is not installed.
            DecodeError: a stream's decoder cannot be used as the stream declares it.
        """
        info = self.capture_store.session(number)
        session_id = self._rows.make(info)
        added = repeats = 0
        specs = self.capture_store.streams(number)
        for spec in specs:
            rows = self._stream_rows(session_id, info.global_name, spec)
            transfer = StreamTransfer(
                self.sql_store, self.capture_store, self.principal, info, rows, trim=self.trim
            )
            transfer.begin()
            repeats += transfer.compare_again()
            added += transfer.append_new()
        if info.state != "running":
            ends = {each.source: self.capture_store.next_seq(number, each.source) for each in specs}
            self._rows.end(session_id, info, ends)
        sources = [each.source for each in specs]
        return self._result(session_id, info, sources, added, repeats)

    def quarantine_lines(
        self, number: int, lines: list[tuple[int, bytes, str]], *, source: str = "main"
    ) -> int:
        """Keep (line number, bytes, reason) of input that could not become messages.

        Returns how many were not there yet.
        """
        info = self.capture_store.session(number)
        with self.sql_store.write(self.principal) as connection:
            return quarantine.keep(connection, "capture", _origin(info.global_name, source), lines)

    def require_instrument(self, name: str) -> None:
        """Raise UnknownInstrumentError unless the instrument is declared."""
        with self.sql_store.read() as connection:
            instrument_group(connection, name)

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

    def missing_ranges(self, session: int | str) -> list[MissingRange]:
        """Return the messages that are missing of a session, by source and number.

        Raises NoSessionError.
        """
        gap = tables.gap.c
        query = (
            sa.select(gap.source, gap.after_seq, gap.missing, gap.reason)
            .where(gap.session_id == self._find(session), gap.kind.in_(HOLES))
            .order_by(gap.source, gap.after_seq)
        )
        with self.sql_store.read() as connection:
            return [
                MissingRange(row.source, row.after_seq + 1, row.after_seq + row.missing, row.reason)
                for row in connection.execute(query)
            ]

    def clock_fits(self, session: int | str, source: str = "main") -> list[ClockFit]:
        """Return what the ticks of a device are in UTC, in order; see ClockFit.

        There is one for each time that the device's counter ran on without starting anew.
        Raises NoSessionError.
        """
        fit = tables.clock_fit.c
        query = (
            sa.select(*(fit[name] for name in ClockFit.__dataclass_fields__))
            .where(fit.session_id == self._find(session), fit.source == source)
            .order_by(fit.first_seq)
        )
        with self.sql_store.read() as connection:
            return [ClockFit(*row) for row in connection.execute(query)]

    def raw_messages(
        self, session: int | str, source: str = "main", from_seq: int = 0
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield (number, time of arrival in UTC microseconds, bytes) of each message, in order.

        They are those that were captured, quarantined ones too; one block of them is in memory.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: a block has no messages: it was added by hand, or by an old keepline.
        """
        block = tables.block.c
        query = (
            sa.select(block.id)
            .where(
                block.session_id == self._find(session),
                block.source == source,
                block.last_seq >= from_seq,
            )
            .order_by(block.first_seq)
        )
        with self.sql_store.read() as connection:
            ids = list(connection.execute(query).scalars())
        for block_id in ids:
            with self.sql_store.read() as connection:
                run = raw_of_block(connection, block_id)
            if run is None:
                raise CaptureError("the archive has readings only of these messages")
            yield from (each for each in numbered(run) if each[0] >= from_seq)

    def decode_again(self, session: int | str, spec: StreamSpec | None = None) -> None:
        """Decode a session's messages anew, by `spec` or as they were declared.

        `spec` is about the stream that it names; None means every stream of which the archive
        has the messages. The old readings stay until the new ones are complete: each stream is
        one transaction, in which a few blocks at a time are in memory. Gaps, clock fits and
        quarantined messages are found anew, too; what is missing stays as it is.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: it is not yet archived whole, or a stream's messages are not there.
            PluginError, DecodeError: the decoder cannot be used as it is declared.
        """
        found = self._session(session)
        if found.state == "running":
            raise CaptureError("a session is decoded again when it has ended and is archived whole")
        known = streams_with_messages(self.sql_store, found.id)
        if spec is not None and spec.source not in known:
            raise CaptureError(f"the archive has no messages from the source {spec.source!r}")
        for each in known.values() if spec is None else [spec]:
            decode_stream_again(self._stream_rows(found.id, found.name, each), found)

    def clear_session_data(self, session_id: int) -> None:
        """Remove a session's readings, gaps and channels from the archive.

        The session stays, as running in the archive's eyes: what was captured comes back when
        it is archived again. Readings that were added by hand go too, and do not come back:
        export them first, or find them by their source "added". Quarantined input stays.

        Raises:
            NoSessionError: there is no such session.
            TrimmedError: the capture store was trimmed, so the data could not come back.
        """
        found = self._session(session_id)
        numbers = self._numbers(found.name)

        def before() -> None:
            for number in numbers:
                self._refuse_trimmed(number, found.name)
                self._unmark(number)

        self._rows.clear(found.id, found.name, before)

    def delete_session(self, session: int | str) -> None:
        """Remove a session from the archive, with its readings, messages and gaps.

        Quarantined input stays, as what could not be taken in, and so do the states that the
        session was in, with who deleted it when. A capture store that still has
        the session is not touched: when it is archived again, the session is back; delete it
        there, too, to be rid of it. Raises NoSessionError.
        """
        found = self._session(session)
        numbers = self._numbers(found.name)

        def before() -> None:
            for number in numbers:
                with suppress(NoSessionError):  # it may be deleted there, too
                    self._unmark(number)

        self._rows.delete(found.id, found.name, before)

    def _numbers(self, name: str) -> list[int]:
        """Return the number of a session, if the capture store has it."""
        return [each.number for each in self.capture_store.sessions() if each.global_name == name]

    def _refuse_trimmed(self, number: int, name: str) -> None:
        for spec in self.capture_store.streams(number):
            if self.capture_store.trimmed(number, spec.source) >= 0:
                raise TrimmedError(
                    f"only the archive has all of {name}, the capture store was trimmed; "
                    "decode it again, or delete it"
                )

    def _unmark(self, number: int) -> None:
        """Tell the capture store that the archive has nothing of a session."""
        for spec in self.capture_store.streams(number):
            self.capture_store.set_archived(number, spec.source, -1)

    def _stream_rows(self, session_id: int, name: str, spec: StreamSpec) -> StreamRows:
        units = {each.name: each.unit for each in spec.channels}
        return StreamRows(
            self.sql_store,
            self.principal,
            session_id,
            _origin(name, spec.source),
            spec,
            spec.clock,
            units,
        )

    def _result(
        self, session_id: int, info: SessionInfo, sources: list[str], added: int, repeats: int
    ) -> ArchiveResult:
        figures = self._rows.figures(
            session_id, [_origin(info.global_name, source) for source in sources]
        )
        disorder = figures.gaps.pop("disorder", 0)
        return ArchiveResult(
            session=info.global_name,
            messages=figures.messages,
            readings=figures.readings,
            gaps=sum(figures.gaps.values()),
            disorder=disorder,
            quarantined=figures.quarantined,
            state=figures.state,
            lost=figures.lost,
            added=added,
            repeats=repeats,
        )


def _origin(name: str, source: str) -> str:
    return f"{name}/{source}"
