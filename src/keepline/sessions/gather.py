"""What the archive knows of sessions, gathered for many at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from keepline.model import from_us
from keepline.store.tables.capture import (
    block,
    block_stat,
    capture_session,
    channel,
    gap,
    stream,
)


@dataclass(slots=True)
class Gathered:
    """The archive's account of one session; `channels` has one row a channel, by name."""

    state: str
    messages: int = 0
    readings: int = 0
    gaps: int = 0
    quarantined: int = 0
    channels: list[dict[str, Any]] = field(default_factory=list)


def gather(connection: sa.Connection, names: Sequence[str]) -> dict[str, Gathered]:
    """Return what the archive knows of the sessions called `names`; others are left out.

    Four statements, however many sessions there are. Holes in time and in sequence count as
    gaps, readings out of order do not.
    """
    rows = connection.execute(
        sa.select(
            capture_session.c.id, capture_session.c.global_name, capture_session.c.state
        ).where(capture_session.c.global_name.in_(names))
    ).all()
    found = {row.id: Gathered(row.state) for row in rows}
    _add_streams(connection, found)
    _add_gaps(connection, found)
    _add_channels(connection, found)
    return {row.global_name: found[row.id] for row in rows}


def _add_streams(connection: sa.Connection, found: Mapping[int, Gathered]) -> None:
    total = sa.func.sum
    query = (
        sa.select(
            stream.c.session_id,
            total(stream.c.messages - stream.c.lost).label("messages"),
            total(stream.c.readings).label("readings"),
            total(stream.c.quarantined).label("quarantined"),
        )
        .where(stream.c.session_id.in_(found))
        .group_by(stream.c.session_id)
    )
    for row in connection.execute(query):
        into = found[row.session_id]
        into.messages, into.readings = int(row.messages), int(row.readings)
        into.quarantined = int(row.quarantined)


def _add_gaps(connection: sa.Connection, found: Mapping[int, Gathered]) -> None:
    query = (
        sa.select(gap.c.session_id, sa.func.count().label("gaps"))
        .where(gap.c.session_id.in_(found), gap.c.kind != "disorder")
        .group_by(gap.c.session_id)
    )
    for row in connection.execute(query):
        found[row.session_id].gaps = row.gaps


def _add_channels(connection: sa.Connection, found: Mapping[int, Gathered]) -> None:
    rows = connection.execute(_channel_query(found)).all()
    # Two sources of a session may use the same name for different things.
    uses = Counter((row.session_id, row.name) for row in rows)
    for row in rows:
        shared = uses[row.session_id, row.name] > 1
        found[row.session_id].channels.append(
            {
                "channel": f"{row.source}/{row.name}" if shared else row.name,
                "unit": row.unit,
                "readings": int(row.n or 0),
                "minimum": row.min,
                "mean": _mean(row.total, row.n),
                "maximum": row.max,
                "first_value": row.first,
                "last_value": row.last,
                "first_at": None if row.first_us is None else from_us(row.first_us),
                "last_at": None if row.last_us is None else from_us(row.last_us),
            }
        )


def _channel_query(found: Mapping[int, Gathered]) -> sa.Select[Any]:
    """Sum the blocks up: first and last by time, and by place in the stream where that ties."""
    s = block_stat.c

    def rank(*order: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.func.row_number().over(partition_by=s.channel_id, order_by=order)

    stats = (
        sa.select(
            block_stat,
            rank(s.first_us, block.c.first_seq).label("from_first"),
            rank(s.last_us.desc(), block.c.first_seq.desc()).label("from_last"),
        )
        .join(block, block.c.id == s.block_id)
        .where(block.c.session_id.in_(found), s.n > 0)
        .subquery()
    )
    return (
        sa.select(
            channel.c.session_id,
            channel.c.source,
            channel.c.name,
            channel.c.unit,
            sa.func.sum(stats.c.n).label("n"),
            sa.func.min(stats.c.min).label("min"),
            sa.func.max(stats.c.max).label("max"),
            sa.func.sum(stats.c.total).label("total"),
            sa.func.max(sa.case((stats.c.from_first == 1, stats.c.first))).label("first"),
            sa.func.max(sa.case((stats.c.from_last == 1, stats.c.last))).label("last"),
            sa.func.min(stats.c.first_us).label("first_us"),
            sa.func.max(stats.c.last_us).label("last_us"),
        )
        .outerjoin(stats, stats.c.channel_id == channel.c.id)
        .where(channel.c.session_id.in_(found))
        .group_by(channel.c.id, channel.c.session_id, channel.c.source, channel.c.name)
        .group_by(channel.c.unit)
        .order_by(channel.c.session_id, channel.c.name, channel.c.source)
    )


def _mean(total: float | None, n: int | None) -> float | None:
    if total is None or not n:
        return None
    mean = total / int(n)
    return None if math.isnan(mean) else mean
