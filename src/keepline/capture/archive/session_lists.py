"""The list of sessions that a capture store elsewhere sends, and what the archive has of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.archive.models import ListedSession, moment
from keepline.capture.archive.readings import ADDED
from keepline.errors import CaptureError, NoSessionError
from keepline.model import to_us
from keepline.store.tables import capture as tables

_INT64 = 2**63
_REASON = "fewer messages than the session list says"


def parsed(entries: Sequence[Sequence[Any]], store_id: str) -> list[ListedSession]:
    """Return the sessions of a list of ``[number, start, end, number of messages]``.

    Times are UNIX timestamps in seconds or aware datetimes, the end of a running session None.
    Raises CaptureError, which names the first entry that is not like that.
    """
    if isinstance(entries, str | bytes) or not isinstance(entries, Sequence):
        raise CaptureError("a session list is a list of [number, start, end, messages]")
    found: dict[int, ListedSession] = {}
    for place, entry in enumerate(entries):
        try:
            session = _session(entry, store_id)
            if session.number in found:
                raise CaptureError(f"the session {session.number} is there twice")
        except (CaptureError, TypeError, ValueError) as error:
            raise CaptureError(
                f"entry {place} of the session list is not [number, start, end, messages]: "
                f"{error}; nothing was changed"
            ) from None
        found[session.number] = session
    return list(found.values())


def _session(entry: Sequence[Any], store_id: str) -> ListedSession:
    if isinstance(entry, str | bytes):
        raise CaptureError("it is a text")
    number, start, end, messages = entry
    started = moment(start)
    ended = None if end is None else moment(end)
    if ended is not None and ended < started:
        raise CaptureError("it ends before it starts")
    return ListedSession(_count(number), started, ended, _count(messages), store_id=store_id)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _INT64:
        raise CaptureError("a number is whole, and not negative")
    return value


def replace_list(
    connection: sa.Connection, sessions: Sequence[ListedSession], store_id: str
) -> None:
    """Put a list in the place of the one that there is of this store."""
    listed = tables.listed_session
    connection.execute(sa.delete(listed).where(listed.c.store_id == store_id))
    held = _held(connection, store_id)
    rows = [
        {
            "store_id": store_id,
            "number": each.number,
            "started_at": each.started_at,
            "ended_at": each.ended_at,
            "messages": each.messages,
            "available": each.number in held and held[each.number] >= each.messages,
        }
        for each in sessions
    ]
    if rows:
        connection.execute(sa.insert(listed), rows)


def update_availability(connection: sa.Connection, number: int, store_id: str) -> bool:
    """Note whether the archive has all of a listed session, and return that.

    What it lacks is a gap of the kind "count" after the last message that it has, which goes
    when the rest has come. Raises NoSessionError when the session is not listed.
    """
    listed = tables.listed_session
    this = (listed.c.store_id == store_id, listed.c.number == number)
    row = connection.execute(sa.select(listed).where(*this)).one_or_none()
    if row is None:
        raise NoSessionError(f"session {number} is not in the session list")
    held = _held(connection, store_id, number).get(number)
    available = held is not None and held >= row.messages
    connection.execute(sa.update(listed).where(*this).values(available=available))
    if held is not None:
        _note_shortfall(connection, number, store_id, row.messages - held, row.ended_at)
    return available


def _held(connection: sa.Connection, store_id: str, number: int | None = None) -> dict[int, int]:
    """Return how many messages the archive has of each session of a store, by its number."""
    session, stream = tables.capture_session, tables.stream
    count = sa.func.coalesce(sa.func.sum(stream.c.messages - stream.c.lost), 0)
    captured = (stream.c.session_id == session.c.id) & (stream.c.decoder != ADDED)
    query = (
        sa.select(session.c.number, count)
        .select_from(session.outerjoin(stream, captured))
        .where(session.c.store_id == store_id)
        .group_by(session.c.number)
    )
    if number is not None:
        query = query.where(session.c.number == number)
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def _note_shortfall(
    connection: sa.Connection, number: int, store_id: str, missing: int, ended: datetime | None
) -> None:
    session, stream, gap = tables.capture_session, tables.stream, tables.gap
    row = connection.execute(
        sa.select(
            session.c.id, session.c.started_at, stream.c.source, stream.c.messages,
            stream.c.last_time_us,
        )
        .join_from(session, stream, stream.c.session_id == session.c.id)
        .where(
            session.c.store_id == store_id,
            session.c.number == number,
            stream.c.decoder != ADDED,
        )
        .order_by(stream.c.source)
    ).first()  # fmt: skip
    if row is None:  # nothing to put a gap beside
        return
    connection.execute(
        sa.delete(gap).where(
            gap.c.session_id == row.id, gap.c.kind == "count", gap.c.reason == _REASON
        )
    )
    # A hole in the numbers is a row already; what is known as lost was never counted.
    holes = sa.select(sa.func.coalesce(sa.func.sum(gap.c.missing), 0)).where(
        gap.c.session_id == row.id, gap.c.kind == "sequence"
    )
    missing -= int(connection.execute(holes).scalar_one())
    if missing <= 0:
        return
    from_us = to_us(row.started_at) if row.last_time_us is None else row.last_time_us
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(gap)
        .values(
            session_id=row.id,
            source=row.source,
            kind="count",
            after_seq=row.messages - 1,
            from_us=from_us,
            until_us=from_us if ended is None else max(from_us, to_us(ended)),
            missing=missing,
            reason=_REASON,
        )
        .on_conflict_do_nothing()
    )
