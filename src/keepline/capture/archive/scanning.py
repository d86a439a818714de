"""Finding sessions, channels and blocks in the archive, as far as a principal may see them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from keepline.capture.archive.blocks import Block, decode
from keepline.errors import CaptureError, NoSessionError
from keepline.model import DType, Principal
from keepline.store import Store
from keepline.store.access import visible
from keepline.store.tables import capture as tables

#: So many payloads are in memory at once.
BATCH_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class FoundSession:
    """An archived session that the principal may see."""

    id: int
    name: str
    instrument: str
    user: str
    state: str
    started: datetime
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class FoundChannel:
    """One channel of an archived session."""

    id: int
    source: str
    name: str
    dtype: DType
    unit: str | None


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Which blocks of a session are wanted.

    `sources` and `channels` are names, None for all of them; times are UTC microseconds, from
    `start_us` to before `end_us`. A block is wanted when a wanted channel has values near
    enough; what lies within it is for the caller to look at.
    """

    sources: Collection[str] | None = None
    channels: Collection[str] | None = None
    start_us: int | None = None
    end_us: int | None = None

    @property
    def needs_statistics(self) -> bool:
        """Return whether the blocks' statistics say which are wanted."""
        return not (self.channels is None and self.start_us is None and self.end_us is None)


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A block as it is found, before its payload is read."""

    id: int
    source: str
    first_seq: int
    last_seq: int
    readings: int


def find_session(
    store: Store, store_id: str, principal: Principal, session: int | str
) -> FoundSession:
    """Return a session by its number in the capture store `store_id`, or by its global name.

    Raises NoSessionError, also when the principal may not see it.
    """
    table = tables.capture_session.c
    if isinstance(session, str):
        named = table.global_name == session
    else:
        named = (table.store_id == store_id) & (table.number == session)
    askable = not isinstance(session, str) or "\0" not in session  # see _askable
    found = list(_sessions(store, principal, named)) if askable else []
    if not found:
        raise NoSessionError(f"capture session {session} is not in the archive")
    return found[0]


def find_sessions(
    store: Store, principal: Principal, names: Collection[str] | None = None
) -> Iterator[FoundSession]:
    """Yield the sessions that the principal may see, in the order in which they were archived.

    `names` are global names; None means every session.
    """
    table = tables.capture_session.c
    yield from _sessions(
        store, principal, sa.true() if names is None else table.global_name.in_(_askable(names))
    )


def _sessions(
    store: Store, principal: Principal, condition: sa.ColumnElement[bool]
) -> Iterator[FoundSession]:
    table = tables.capture_session
    allowed, _ = visible(table, principal)
    query = (
        sa.select(
            table.c.id, table.c.global_name, table.c.instrument, table.c.user_name,
            table.c.state, table.c.started_at, table.c.ended_at,
        )
        .where(condition, allowed)
        .order_by(table.c.id)
    )  # fmt: skip
    with store.read() as connection:
        rows = connection.execute(query).all()
    for row in rows:
        yield FoundSession(*row)


def find_channels(store: Store, session_id: int, source: str | None = None) -> list[FoundChannel]:
    """Return the channels of a session, or of one of its sources, by source and name."""
    channel = tables.channel.c
    query = sa.select(channel.id, channel.source, channel.name, channel.dtype, channel.unit)
    query = query.where(channel.session_id == session_id)
    if source is not None:
        query = query.where(channel.source == source)
    with store.read() as connection:
        rows = connection.execute(query.order_by(channel.source, channel.name)).all()
    return [FoundChannel(*row) for row in rows]


def find_channel(store: Store, session_id: int, source: str, name: str) -> FoundChannel:
    """Return one channel of a session; raises CaptureError when there is none."""
    for each in find_channels(store, session_id, source):
        if each.name == name:
            return each
    raise CaptureError(f"the session has no channel {name!r} from the source {source!r}")


def find_blocks(store: Store, session_id: int, wanted: BlockRange) -> list[FoundBlock]:
    """Return the blocks that are wanted of a session, by source and in their messages' order."""
    block = tables.block.c
    query = (
        sa.select(block.id, block.source, block.first_seq, block.last_seq, block.readings)
        .where(block.session_id == session_id)
        .order_by(block.source, block.first_seq)
    )
    if wanted.sources is not None:
        query = query.where(block.source.in_(_askable(wanted.sources)))
    if wanted.needs_statistics:
        query = query.where(block.id.in_(_with_values(session_id, wanted)))
    with store.read() as connection:
        return [FoundBlock(*row) for row in connection.execute(query)]


def _with_values(session_id: int, wanted: BlockRange) -> sa.Select[tuple[int]]:
    stat, channel = tables.block_stat.c, tables.channel.c
    query = sa.select(stat.block_id).join(tables.channel).where(channel.session_id == session_id)
    if wanted.channels is not None:
        query = query.where(channel.name.in_(_askable(wanted.channels)))
    if wanted.sources is not None:
        query = query.where(channel.source.in_(_askable(wanted.sources)))
    if wanted.start_us is not None:
        query = query.where(stat.last_us >= wanted.start_us)
    if wanted.end_us is not None:
        query = query.where(stat.first_us < wanted.end_us)
    return query


def decoded_blocks(
    store: Store, ids: Sequence[int], *, channel: str | None = None
) -> Iterator[Block]:
    """Yield blocks by their ids, in that order; with `channel` given, only that column of them.

    A few at a time are in memory, and no transaction is held between two: the caller may take
    its time. Raises CaptureError when a block is gone by the time that it is reached.
    """
    for start in range(0, len(ids), BATCH_BLOCKS):
        part = ids[start : start + BATCH_BLOCKS]
        with store.read() as connection:
            payloads = fetch_payloads(connection, part)
        for block_id in part:
            payload, codec = _there(payloads, block_id)
            yield decode(payload, codec, channel=channel)


def fetch_payloads(connection: sa.Connection, ids: Sequence[int]) -> dict[int, tuple[bytes, str]]:
    """Return the payload and codec of each block that is there; meant for a few at a time."""
    block = tables.block.c
    query = sa.select(block.id, block.payload, block.codec).where(block.id.in_(ids))
    return {row[0]: (row[1], row[2]) for row in connection.execute(query)}


def _there(payloads: dict[int, tuple[bytes, str]], block_id: int) -> tuple[bytes, str]:
    try:
        return payloads.pop(block_id)
    except KeyError:
        raise CaptureError(
            "the session's data was removed while it was being read; read it again"
        ) from None


def _askable(names: Collection[str]) -> list[str]:
    """Return the names without those that PostgreSQL holds in no column and refuses to look for."""
    return sorted(name for name in names if "\0" not in name)
