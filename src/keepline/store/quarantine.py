"""Keeping input that could not be taken: its bytes, its place and the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.model import utc_now
from keepline.store.erasing import Scope
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


class QuarantineErasing:
    """The share of the quarantine in an erasure; see `keepline.store.erasing.Part`."""

    def erase(self, connection: sa.Connection, scope: Scope) -> Mapping[str, int]:
        """Remove the rows whose bytes, origin or reason mention the subject."""
        wanted = sa.select(quarantine.c.id, quarantine.c.origin, quarantine.c.reason)
        found = []
        every = wanted.add_columns(quarantine.c.raw).order_by(quarantine.c.id)
        with connection.execute(every.execution_options(yield_per=100)) as rows:
            for row in rows:
                texts = (row.origin, row.reason)
                if any(map(scope.mentions.in_text, texts)) or scope.mentions.in_bytes(row.raw):
                    found.append({"id_": row.id})
        if found:
            mine = quarantine.c.id == sa.bindparam("id_")
            connection.execute(sa.delete(quarantine).where(mine), found)
        return {"quarantined rows": len(found)}

    def out_of_reach(self, connection: sa.Connection, scope: Scope) -> list[str]:
        """Nothing: what is in quarantine is here."""
        return []
