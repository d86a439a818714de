"""One editor's changes of one record that is not as it was read, within a write transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from keepline.model import Principal, RecordKey
from keepline.records.merge import FieldState, merge
from keepline.records.outcomes import FINALISED, MESSAGES, Conflict, Outcome, SaveResult
from keepline.records.revisions import field_changes
from keepline.records.rows import Layout, Row, Token, delete_row, lock_row, read_row, update_row
from keepline.records.save import changes_since, refused
from keepline.records.values import own


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an edit came to, and the row that the database then holds where it may be seen."""

    result: SaveResult
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """A record as one editor read it (`token`, `revision`, `base`) and wants it (`mine`).

    `base` and `mine` may hold some of the record's fields only; the others are left alone.
    """

    layout: Layout
    key: str
    token: Token
    revision: int
    principal: Principal
    base: Mapping[str, Any]
    mine: Mapping[str, Any]

    def settle(self, connection: sa.Connection, *, merging: bool = True) -> Attempt:
        """Merge with the row that is there, or say why nothing can be written.

        To be called when no row with `token` could be changed. Without `merging` any change
        by others is a conflict.
        """
        found = lock_row(connection, self.layout, self.key)
        seen = found and read_row(connection, self.layout, self.key, self.principal)
        return self.settle_with(connection, found, may_see=seen is not None, merging=merging)

    def settle_with(
        self, connection: sa.Connection, theirs: Row | None, *, may_see: bool, merging: bool = True
    ) -> Attempt:
        """Do as `settle` does with the row that is there, which this transaction has locked."""
        if theirs is None:
            return Attempt(failed(Outcome.DELETED))
        if not may_see:
            return Attempt(failed(Outcome.FORBIDDEN))
        token = self.layout.token(theirs)
        if token.born != self.token.born:
            return Attempt(failed(Outcome.REPLACED), theirs)
        if token == self.token:
            return Attempt(failed(Outcome.SUPPRESSED), theirs)
        if not merging:
            return Attempt(self._conflict(connection, theirs), theirs)
        if self.layout.finalised(theirs):
            return Attempt(SaveResult(Outcome.FORBIDDEN, FINALISED), theirs)
        return self._merged(connection, theirs)

    def delete(self, connection: sa.Connection) -> Attempt:
        """Delete the row if it is the one that was read; `saved` says that it was."""
        if delete_row(connection, self.layout, self.key, self.token, self.principal):
            return Attempt(SaveResult(Outcome.SAVED))
        return self.settle(connection, merging=False)

    def _merged(self, connection: sa.Connection, theirs: Row) -> Attempt:
        values = self.layout.values(theirs)
        merged = merge(self.base, self.mine, values, self.layout.declared.groups)
        if merged.conflicts:
            return Attempt(self._conflict(connection, theirs), theirs)
        mine = {name: merged.values[name] for name in merged.fields_in(FieldState.MINE)}
        if not mine:
            return Attempt(SaveResult(Outcome.UNCHANGED), theirs)
        try:
            with connection.begin_nested():
                row = update_row(
                    connection,
                    self.layout,
                    self.key,
                    self.layout.token(theirs),
                    self.principal,
                    mine,
                )
        except sa.exc.DBAPIError as error:
            refusal = refused(error)
            if refusal is None or refusal.outcome is not Outcome.INVALID:
                raise
            if refusal.constraint == "reason":
                return Attempt(refusal, theirs)
            # Each side's values may be good alone, but they break a rule together.
            return Attempt(self._conflict(connection, theirs, refusal), theirs)
        if row is None:  # the row is locked, so it was no other editor
            return Attempt(failed(Outcome.SUPPRESSED), theirs)
        return Attempt(SaveResult(Outcome.MERGED), row)

    def _conflict(
        self, connection: sa.Connection, theirs: Row, broken: SaveResult | None = None
    ) -> SaveResult:
        declared = self.layout.declared
        name = RecordKey(declared.name, self.key)
        found = self.layout.values(theirs)
        others = {each: found[each] for each in self.base}
        states = dict(merge(self.base, self.mine, others, declared.groups).states)
        if broken is not None:
            states |= {n: FieldState.CONFLICT for n, s in states.items() if s is FieldState.MINE}
        changed_by, changed_at = changes_since(connection, name, self.revision)
        conflict = Conflict(
            record=name,
            base={each: own(value) for each, value in self.base.items()},
            mine={each: own(value) for each, value in self.mine.items()},
            theirs=others,
            fields=states,
            revision=theirs[self.layout.at["revision"]],
            changed_by=changed_by,
            changed_at=changed_at,
            edits=field_changes(connection, declared, self.key, self.revision),
        )
        result = SaveResult(Outcome.CONFLICT, conflict.message, conflict)
        if broken is None:
            return result
        told = f"both changes together break {broken.constraint or 'a rule'}: {result.message}"
        return replace(result, message=told, constraint=broken.constraint)


def failed(outcome: Outcome) -> SaveResult:
    """Return the result of a save that came to `outcome`."""
    return SaveResult(outcome, MESSAGES[outcome])
