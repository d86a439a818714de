"""What a save came to: exactly one outcome, and all there is to know about a conflict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from keepline.model import RecordKey
from keepline.records.merge import FieldState


class Outcome(StrEnum):
    """What a save came to. Only saved, unchanged and merged are true."""

    #: The changes are in the database.
    SAVED = "saved"
    #: There was nothing to write: the database holds the same values, perhaps because
    #: somebody else saved them meanwhile.
    UNCHANGED = "unchanged"
    #: The changes are in the database, beside those that somebody else made meanwhile.
    MERGED = "merged"
    #: Somebody else changed the same fields to other values.
    CONFLICT = "conflict"
    #: The record was deleted and another one created under its key.
    REPLACED = "replaced"
    #: The record is gone.
    DELETED = "deleted"
    #: A trigger or a policy of the database refused the change.
    SUPPRESSED = "suppressed"
    #: A constraint of the database refused a value, or the reason is missing.
    INVALID = "invalid"
    #: The record is not this principal's to change, or it is finalised.
    FORBIDDEN = "forbidden"
    #: The database was busy with others for too long, or the rest of an atomic batch was
    #: refused; the same save may work later.
    RETRYABLE = "retryable"

    def __bool__(self) -> bool:
        return self in _GOOD


_GOOD = frozenset((Outcome.SAVED, Outcome.UNCHANGED, Outcome.MERGED))

MESSAGES: Mapping[Outcome, str] = {
    Outcome.CONFLICT: "somebody else changed the same fields",
    Outcome.REPLACED: "the record was deleted, and another one has its key now",
    Outcome.DELETED: "the record was deleted",
    Outcome.SUPPRESSED: "the database refused the change",
    Outcome.FORBIDDEN: "you may not change this record",
    Outcome.RETRYABLE: "the database is busy; try again",
}

#: What is said of records that are closed to changes, and of changes that lack a reason.
FINALISED = "the record is finalised; reopen it first"
REASON_NEEDED = "a reason is required"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two people's changes of one record that do not go together.

    `base` is what both started from, `mine` what this editor wants, `theirs` what the database
    holds now; `fields` says what happened to each field. `changed_by` names all who changed
    the record since it was read (nobody is named whose change went around keepline),
    `changed_at` is the last time. `edits` says of each field that was changed since who did it
    last (None for a change that went around keepline), and when.
    """

    record: RecordKey
    base: Mapping[str, Any] = field(repr=False)
    mine: Mapping[str, Any] = field(repr=False)
    theirs: Mapping[str, Any] = field(repr=False)
    fields: Mapping[str, FieldState]
    revision: int
    changed_by: tuple[str, ...] = ()
    changed_at: datetime | None = None
    edits: Mapping[str, tuple[str | None, datetime]] = field(default_factory=dict)

    @property
    def conflicting(self) -> tuple[str, ...]:
        """Return the fields that need a decision."""
        return tuple(n for n, state in self.fields.items() if state is FieldState.CONFLICT)

    @property
    def message(self) -> str:
        """Return one line that names the fields, without their values."""
        who = ", ".join(self.changed_by) or "somebody"
        names = ", ".join(self.conflicting) or "the record"
        return (
            f"{names} of {self.record} was changed meanwhile (the record was edited by {who}); "
            "resolve each, then save again"
        )


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What `save_payload` answers: true when the changes are in the database.

    It unpacks as ``(ok, data)``, where data is None, or (outcome, message) of a failure.
    `constraint` names what made it invalid, where the database says so.
    """

    outcome: Outcome
    message: str = ""
    conflict: Conflict | None = None
    constraint: str | None = None

    def __bool__(self) -> bool:
        return bool(self.outcome)

    def __iter__(self) -> Iterator[Any]:
        yield bool(self)
        yield None if self else (self.outcome.value, self.message)
