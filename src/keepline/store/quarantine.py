"""Keeping input that could not be taken: its bytes, its place and the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.model import utc_now
from keepline.store.tables.common import quarantine


def keep(
    connection: sa.Connection, part: str, origin: str, rejected: list[tuple[int, bytes, str]]
) -> int:
    """Quarantine (position, raw bytes, reason) rows; return how many were not there yet.

    The same bytes from the same place are kept once.
    """
    if not rejected:
        return 0
    now = utc_now()
    rows = [
        {
            "part": part,
            "origin": origin,
            "position": position,
            "raw": raw,
            "digest": hashlib.sha256(raw).hexdigest(),
            "reason": reason,
            "created_at": now,
        }
        for position, raw, reason in rejected
    ]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(quarantine).on_conflict_do_nothing().returning(quarantine.c.id)
    return len(connection.execute(insert, rows).all())


def kept(connection: sa.Connection) -> Iterator[sa.RowMapping]:
    """Yield everything in quarantine, the newest first, raw bytes included."""
    newest = sa.select(quarantine).order_by(quarantine.c.id.desc())
    yield from connection.execute(newest).mappings()
