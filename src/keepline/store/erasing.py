"""What an erasure is told, and what each capability does for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa

from keepline.model import RecordKey
from keepline.store.mentions import Mentions


@dataclass(frozen=True, slots=True)
class Scope:
    """One subject's erasure: its number, its records, and how to know its identifier.

    `keys` maps each of the subject's records to its key from now on: a pseudonym where the old
    one holds the identifier, else the same. `past` names revisions that were about the subject
    of records that are about somebody else, or nobody, by now: those stay, under their keys.
    """

    number: int
    keys: Mapping[RecordKey, str] = field(repr=False)
    mentions: Mentions
    past: Mapping[RecordKey, Sequence[int]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Return what stands in the place of the subject's identifier from now on."""
        return f"subject-{self.number}"


class Part(Protocol):
    """One capability's share of an erasure, in the erasure's transaction."""

    def erase(self, connection: sa.Connection, scope: Scope) -> Mapping[str, int]:
        """Remove or rename what is the subject's; return how many rows of what."""
        ...

    def out_of_reach(self, connection: sa.Connection, scope: Scope) -> list[str]:
        """Say, a line each, what left this instance; asked before anything is erased."""
        ...


def of_records(table: sa.Table, keys: Mapping[RecordKey, str]) -> sa.ColumnElement[bool]:
    """Return the condition on rows of `table`, with record_type and record_key, about these."""
    by_type: dict[str, list[str]] = {}
    for key in keys:
        by_type.setdefault(key.record_type, []).append(key.key)
    return sa.or_(
        sa.false(),
        *(
            sa.and_(table.c.record_type == name, table.c.record_key.in_(wanted))
            for name, wanted in sorted(by_type.items())
        ),
    )


def of_past(table: sa.Table, scope: Scope) -> sa.ColumnElement[bool]:
    """Return the condition on rows of `table`, which has revisions too, about past ones."""
    return sa.or_(
        sa.false(),
        *(
            sa.and_(
                table.c.record_type == key.record_type,
                table.c.record_key == key.key,
                table.c.revision.in_(revisions),
            )
            for key, revisions in sorted(scope.past.items())
        ),
    )


def rename_keys(connection: sa.Connection, table: sa.Table, scope: Scope) -> None:
    """Put the pseudonyms in the place of the keys that hold the identifier."""
    renamed = [
        {"type_": old.record_type, "old_": old.key, "new_": new}
        for old, new in scope.keys.items()
        if new != old.key
    ]
    if renamed:
        statement = sa.update(table).where(
            table.c.record_type == sa.bindparam("type_"),
            table.c.record_key == sa.bindparam("old_"),
        )
        connection.execute(statement.values(record_key=sa.bindparam("new_")), renamed)
