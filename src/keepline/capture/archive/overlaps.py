"""Sessions of one instrument that ran at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from keepline.model import Principal
from keepline.store import Store
from keepline.store.access import visible
from keepline.store.tables import capture as tables


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two archived sessions of one instrument that ran at the same time, by global name."""

    first: str
    second: str
    start: datetime
    end: datetime


def overlaps(
    sql_store: Store, instrument: str, *, principal: Principal | None = None
) -> list[Overlap]:
    """Return each pair of ended sessions of an instrument that overlap in time, by start.

    A session covers its start but not its end, so that one may begin where another ends.
    """
    one, other = tables.capture_session.alias("one"), tables.capture_session.alias("other")
    who = principal or Principal.system()
    query = sa.select(
        one.c.global_name, other.c.global_name, one.c.started_at, other.c.started_at,
        one.c.ended_at, other.c.ended_at,
    ).where(
        one.c.instrument == instrument,
        other.c.instrument == instrument,
        one.c.id < other.c.id,
        one.c.started_at < other.c.ended_at,
        other.c.started_at < one.c.ended_at,
        one.c.started_at < one.c.ended_at,
        other.c.started_at < other.c.ended_at,
        visible(one, who)[0],
        visible(other, who)[0],
    )  # fmt: skip
    with sql_store.read() as connection:
        found = [
            Overlap(row[0], row[1], max(row[2], row[3]), min(row[4], row[5]))
            for row in connection.execute(query)
        ]
    return sorted(found, key=lambda each: (each.start, each.first, each.second))
