"""One editor's changes of one record, carried out within a write transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from keepline.model import Principal, RecordKey, RecordType
from keepline.records.merge import FieldState, merge
from keepline.records.outcomes import MESSAGES, Conflict, Outcome, SaveResult
from keepline.records.save import (
    Row,
    Token,
    changes_since,
    delete_row,
    lock_row,
    read_row,
    update_row,
)
from keepline.records.types import table_of
from keepline.records.values import own


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an edit came to, and the row that the database then holds where it may be seen."""

    result: SaveResult
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """A record as one editor read it (`token`, `revision`, `base`) and wants it (`mine`)."""

    declared: RecordType
    key: str
    token: Token
    revision: int
    principal: Principal
    base: Mapping[str, Any]
    mine: Mapping[str, Any]

    def save(self, connection: sa.Connection, changes: Mapping[str, Any]) -> Attempt:
        """Write `changes`; when the row is not the one that was read, merge or refuse."""
        at = (connection, table_of(self.declared), self.key)
        if row := update_row(*at, self.token, self.principal, changes):
            return Attempt(SaveResult(Outcome.SAVED), row)
        found = self._theirs(connection)
        theirs = found.row
        if theirs is None or found.result.outcome is not Outcome.CONFLICT:
            return found
        merged = merge(self.base, self.mine, values_of(self.declared, theirs))
        if merged.conflicts:
            return Attempt(self._conflict(connection, theirs), theirs)
        mine = {name: merged.values[name] for name in merged.fields_in(FieldState.MINE)}
        if not mine:
            return Attempt(SaveResult(Outcome.UNCHANGED), theirs)
        row = update_row(*at, Token.of(theirs), self.principal, mine)
        if row is None:  # the row is locked, so it was no other editor
            return Attempt(failed(Outcome.SUPPRESSED), theirs)
        return Attempt(SaveResult(Outcome.MERGED), row)

    def delete(self, connection: sa.Connection) -> Attempt:
        """Delete the row if it is the one that was read; `saved` says that it was."""
        if delete_row(connection, table_of(self.declared), self.key, self.token, self.principal):
            return Attempt(SaveResult(Outcome.SAVED))
        found = self._theirs(connection)
        if found.row is None or found.result.outcome is not Outcome.CONFLICT:
            return found
        return Attempt(self._conflict(connection, found.row), found.row)

    def _theirs(self, connection: sa.Connection) -> Attempt:
        """Say why no row with our token was found; keep the row that is there as it is."""
        table = table_of(self.declared)
        theirs = lock_row(connection, table, self.key)
        if theirs is None:
            return Attempt(failed(Outcome.DELETED))
        if read_row(connection, table, self.key, self.principal) is None:
            return Attempt(failed(Outcome.FORBIDDEN))
        if theirs["row_born"] != self.token.born:
            return Attempt(failed(Outcome.REPLACED), theirs)
        same_row = Token.of(theirs) == self.token
        return Attempt(failed(Outcome.SUPPRESSED if same_row else Outcome.CONFLICT), theirs)

    def _conflict(self, connection: sa.Connection, theirs: Row) -> SaveResult:
        name = RecordKey(self.declared.name, self.key)
        others = values_of(self.declared, theirs)
        changed_by, changed_at = changes_since(connection, name, self.revision)
        conflict = Conflict(
            record=name,
            base={each: own(value) for each, value in self.base.items()},
            mine={each: own(value) for each, value in self.mine.items()},
            theirs=others,
            fields=merge(self.base, self.mine, others).states,
            revision=theirs["revision"],
            changed_by=changed_by,
            changed_at=changed_at,
        )
        return SaveResult(Outcome.CONFLICT, conflict.message, conflict)


def values_of(declared: RecordType, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's fields, in the type's order, as the caller's own."""
    return {field.name: own(row[field.name]) for field in declared.fields}


def failed(outcome: Outcome) -> SaveResult:
    """Return the result of a save that came to `outcome`."""
    return SaveResult(outcome, MESSAGES[outcome])
