"""SQLite's triggers that keep rows about erased subjects out."""

from __future__ import annotations

from keepline.store.triggers.guarded import ERASED
from keepline.store.triggers.sqlite_statements import Trigger, refuse

_ERASED = "EXISTS (SELECT 1 FROM subject WHERE number = NEW.subject_no AND erased_at IS NOT NULL)"


def triggers(table: str) -> list[Trigger]:
    """Return the triggers of a table whose rows are about subjects."""
    return [
        Trigger(
            f"{table}_subject_{verb.split()[0].lower()}",
            table,
            f"BEFORE {verb} ON {table} WHEN NEW.subject_no IS NOT NULL",
            (refuse(ERASED, _ERASED),),
        )
        for verb in ("INSERT", "UPDATE OF subject_no")
    ]
