"""The live capture store as a module: sessions, streams, and their last messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from keepline.errors import CaptureError, NoSessionError, OperationalError, ProgrammingError
from keepline.model import Chunk, Principal, SessionInfo, StreamSpec, from_us
from keepline.query.module import ColumnInfo, Scan, TableInfo
from keepline.store.access import may_see_group

#: How many messages of each stream `latest` shows.
LATEST = 10

_TABLES = (
    TableInfo(
        "session",
        (
            ColumnInfo("number", "integer", nullable=False, filters="equal"),
            ColumnInfo("global_name", nullable=False),
            ColumnInfo("instrument", nullable=False),
            ColumnInfo("user_name", nullable=False),
            ColumnInfo("state", nullable=False),
            ColumnInfo("started_at", "datetime", nullable=False),
            ColumnInfo("ended_at", "datetime"),
            ColumnInfo("origin"),
        ),
        key=("number",),
    ),
    TableInfo(
        "stream",
        (
            ColumnInfo("session", "integer", nullable=False, filters="equal"),
            ColumnInfo("source", nullable=False),
            ColumnInfo("decoder", nullable=False),
            ColumnInfo("messages", "integer", nullable=False),
            ColumnInfo("last_seq", "integer"),
            ColumnInfo("archived_seq", "integer"),
            ColumnInfo("last_at", "datetime"),
        ),
        key=("session", "source"),
    ),
    TableInfo(
        "latest",
        (
            ColumnInfo("session", "integer", nullable=False, filters="equal"),
            ColumnInfo("source", nullable=False),
            ColumnInfo("seq", "integer", nullable=False),
            ColumnInfo("taken_at", "datetime", nullable=False),
            ColumnInfo("message", nullable=False),
        ),
        key=("session", "source", "seq"),
    ),
)


class CaptureSource(Protocol):
    """What the module needs of a capture store."""

    def sessions(self) -> list[SessionInfo]:
        """Return every session, by number."""
        ...

    def session(self, number: int) -> SessionInfo:
        """Return one session; raises NoSessionError."""
        ...

    def streams(self, number: int) -> list[StreamSpec]:
        """Return the streams of a session, by source; raises NoSessionError."""
        ...

    def message_count(self, number: int, source: str) -> int:
        """Return how many messages of a stream are stored."""
        ...

    def chunks(self, number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows it, in order."""
        ...

    def archived(self, number: int, source: str) -> int:
        """Return the number of the last message that the archive holds, or -1."""
        ...


class CaptureModule:
    """What a capture store holds now: tables `session`, `stream` and `latest`.

    `latest` shows the last ten messages of each stream, as text. A session belongs to the
    group of its instrument, which `group_of` tells by the instrument's name. Safe to use from
    several threads as far as both are.
    """

    def __init__(
        self, name: str, source: CaptureSource, group_of: Callable[[str], str | None]
    ) -> None:
        self._name = name
        self._source = source
        self._group_of = group_of

    @property
    def name(self) -> str:
        """Return the name that queries call the module by."""
        return self._name

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        """Return the tables; they exist for everybody."""
        return _TABLES

    def scan(self, scan: Scan) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows as they are now, a batch a session, by the session's number.

        Raises OperationalError when the capture store cannot be read.
        """
        info = next((each for each in _TABLES if each.name == scan.table), None)
        if info is None:
            raise ProgrammingError(f"there is no table {self._name}.{scan.table}")
        names = [column.name for column in info.columns]
        try:
            positions = [names.index(name) for name in scan.columns]
        except ValueError:
            raise ProgrammingError(f"{scan.table} has no such column") from None
        rows_of = {"session": _session_rows, "stream": _stream_rows, "latest": _latest_rows}
        try:
            for session in self._sessions(scan):
                rows = rows_of[scan.table](self._source, session)
                batch = [tuple(row[place] for place in positions) for row in rows]
                if batch:
                    yield batch
        except CaptureError as error:
            raise OperationalError(f"module {self._name!r} cannot be read: {error}") from error

    def _sessions(self, scan: Scan) -> Iterator[SessionInfo]:
        group_of = lru_cache(maxsize=None)(self._group_of)  # asked once an instrument and scan
        for session in self._wanted(scan):
            if may_see_group(group_of(session.instrument), scan.principal):
                yield session

    def _wanted(self, scan: Scan) -> list[SessionInfo]:
        numbers: set[int] | None = None
        for each in scan.filters:  # all stand on the session's number, which is never missing
            asked = set(each.values)
            numbers = asked if numbers is None else numbers & asked
        if numbers is None:
            return self._source.sessions()
        found = []
        for number in sorted(numbers):
            try:
                found.append(self._source.session(number))
            except NoSessionError:
                continue
        return found


_Rows = Iterator[tuple[Any, ...]]


def _session_rows(_source: CaptureSource, session: SessionInfo) -> _Rows:
    yield (
        session.number,
        session.global_name,
        session.instrument,
        session.user,
        session.state,
        session.started,
        session.ended,
        session.origin,
    )


def _stream_rows(source: CaptureSource, session: SessionInfo) -> _Rows:
    for spec in _streams(source, session):
        count = source.message_count(session.number, spec.source)
        archived = source.archived(session.number, spec.source)
        last_at = None
        if count:
            for chunk in source.chunks(session.number, spec.source, count - 1):
                last_at = from_us(chunk.times()[-1])
        yield (
            session.number,
            spec.source,
            spec.decoder,
            count,
            count - 1 if count else None,
            archived if archived >= 0 else None,
            last_at,
        )


def _latest_rows(source: CaptureSource, session: SessionInfo) -> _Rows:
    for spec in _streams(source, session):
        count = source.message_count(session.number, spec.source)
        first = max(0, count - LATEST)
        for chunk in source.chunks(session.number, spec.source, first) if count else ():
            numbered = enumerate(zip(chunk.times(), chunk.messages(), strict=True), chunk.first_seq)
            for seq, (time_us, message) in numbered:
                if first <= seq < count:
                    yield (
                        session.number,
                        spec.source,
                        seq,
                        from_us(time_us),
                        message.decode("utf-8", "replace"),
                    )


def _streams(source: CaptureSource, session: SessionInfo) -> list[StreamSpec]:
    try:
        return source.streams(session.number)
    except NoSessionError:  # deleted since it was listed
        return []
