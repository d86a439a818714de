"""What comes in from elsewhere for one record: merged, with nothing lost where it overlaps.

Files and bundles were edited apart from the database, so that nobody is there to resolve a
conflict. What changed on one side alone is written; where both sides changed a field, the
value that stands stays, and the one that came in is kept as a proposal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from keepline.errors import InvalidRecordError, RecordError, StoreBusyError
from keepline.model import Principal, RecordType, utc_now
from keepline.records.json_values import plain_value
from keepline.records.merge import FieldState, Merge, merge, together_with
from keepline.records.outcomes import REASON_NEEDED, Outcome, SaveResult
from keepline.records.save import Abandoned, attempt, once
from keepline.records.types import table_of
from keepline.records.values import same
from keepline.store import Store
from keepline.store.access import may_see_group
from keepline.store.tables.records import proposal

#: A row of a record type's table, by column.
Row = Mapping[str, Any]
Values = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Landed:
    """What came of values for one record.

    `written` are the fields that were written, `overlaps` those whose values others stand in
    the way of; `revision` is the record's afterwards, None when it is not there.
    """

    outcome: Outcome
    message: str = ""
    written: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """Where values for records of a type are put: who brings them, why, and from what bundle.

    `why` is what a person said; where they came from stands in the history beside it, and is
    no reason for a type that requires one.
    """

    connection: sa.Connection
    declared: RecordType
    principal: Principal
    bundle: str
    why: str | None

    def locked(self, keys: Sequence[str]) -> dict[str, Row]:
        """Return records' rows, whoever may see them; nobody else changes them meanwhile."""
        table = table_of(self.declared)
        query = (
            sa.select(table)
            .where(table.c.record_key.in_(keys))
            # All who lock several records do it in this order.
            .order_by(table.c.record_key)
            .with_for_update()
        )
        return {row.record_key: row._asdict() for row in self.connection.execute(query)}

    def may_see(self, row: Row) -> bool:
        """Return whether the row is this principal's to see."""
        return may_see_group(row["group_name"], self.principal)

    def merge_into(self, theirs: Row, base: Values, mine: Values) -> Landed:
        """Write what `mine` changed since `base` and nobody else did; propose the rest.

        `theirs` is the locked row; `mine` may leave fields out. What is not in `base` had no
        value, as far as a group of fields is concerned. The database's errors pass.
        """
        found = self._merged(theirs, base, mine)
        changes = {name: found.values[name] for name in found.fields_in(FieldState.MINE)}
        row = self.write(theirs, changes) if changes else theirs
        overlaps = {
            name: found.values[name]
            for name in found.conflicts
            if not same(found.values[name], theirs[name])
            # What a field was beside that stands for nothing is no edit.
            and (name in mine or found.values[name] is not None)
        }
        self.propose(theirs["record_key"], base, overlaps, theirs)
        return Landed(
            Outcome.CONFLICT if overlaps else Outcome.SAVED if changes else Outcome.UNCHANGED,
            written=tuple(changes),
            overlaps=tuple(overlaps),
            revision=row["revision"],
        )

    def write(self, row: Row, changes: Values) -> Row:
        """Change fields of a locked row.

        Raises Refused without the reason that the type requires, and when a trigger drops the
        change in silence.
        """
        self.check_reason()
        table, key = table_of(self.declared), row["record_key"]
        here = table.c.record_key == key
        if self.connection.execute(sa.update(table).where(here).values(changes)).rowcount != 1:
            raise Refused(Outcome.SUPPRESSED, "the database refused the change")
        return self.locked([key])[key]

    def check_reason(self) -> None:
        """Raise Refused when a record that is there must not change without a person's reason."""
        if self.declared.reason_required and not self.why:
            raise Refused(Outcome.INVALID, REASON_NEEDED)

    def propose(self, key: str, base: Values, mine: Values, theirs: Row | None) -> None:
        """Keep values that could not be written.

        One that the same bundle brought before, or that waits already, is not kept again.
        """
        if not mine:
            return
        known = self._known(key, None if theirs is None else theirs["group_name"])
        rows = [
            {
                "bundle": self.bundle,
                "record_type": self.declared.name,
                "record_key": key,
                "field": name,
                "base": plain_value(base.get(name)),
                "mine": plain_value(value),
                "theirs": None if theirs is None else plain_value(theirs[name]),
                "revision": None if theirs is None else theirs["revision"],
                "subject_no": None if theirs is None else theirs.get("subject_no"),
                "group_name": None if theirs is None else theirs["group_name"],
                "state": "open",
                "who": self.principal.name,
                "proposed_at": utc_now(),
            }
            for name, value in mine.items()
            if not any(same(plain_value(value), each) for each in known.get(name, ()))
        ]
        if rows:
            self.connection.execute(sa.insert(proposal), rows)

    def _known(self, key: str, group: str | None) -> dict[str, list[Any]]:
        """Return the values that those who may see `group` can find as proposals."""
        column = proposal.c
        rows = self.connection.execute(
            sa.select(column.field, column.mine).where(
                column.record_type == self.declared.name,
                column.record_key == key,
                sa.or_(column.group_name.is_(None), column.group_name == group),
                sa.or_(column.bundle == self.bundle, column.state == "open"),
            )
        )
        found: dict[str, list[Any]] = {}
        for row in rows:
            found.setdefault(row.field, []).append(row.mine)
        return found

    def _merged(self, theirs: Row, base: Values, mine: Values) -> Merge:
        """Merge all fields of the type; what is not in `base` or `mine` is as it is there.

        Of a field that belongs together with one of `mine` that cannot be known.
        """
        now = {field.name: theirs[field.name] for field in self.declared.fields}
        names = list(now)
        together = together_with(self.declared.groups, mine)
        before = {n: base.get(n, None if n in together else now[n]) for n in names}
        after = {name: mine.get(name, before[name]) for name in names}
        return merge(before, after, now, self.declared.groups)


class Refused(Abandoned):
    """What comes in for one record cannot be taken, and nothing of it is written."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(SaveResult(outcome, message))


def changed(base: Values, mine: Values) -> dict[str, Any]:
    """Return the fields of `mine` that are not as in `base`."""
    return {n: value for n, value in mine.items() if n not in base or not same(base[n], value)}


def take_batch(
    store: Store,
    principal: Principal,
    reason: str,
    step: Callable[[sa.Connection], _T],
    *,
    dry_run: bool = False,
) -> _T:
    """Run `step` in a transaction, again where the database asks for that; return its answer.

    A dry run takes back all that was written. Raises StoreBusyError, or RecordError when the
    database refuses the transaction as a whole.
    """

    def tried(connection: sa.Connection) -> _T:
        answer = step(connection)
        if dry_run:
            raise Abandoned(answer)
        return answer

    answer = attempt(store, principal, tried, reason=reason)
    if not isinstance(answer, SaveResult):
        return answer
    if answer.outcome is Outcome.RETRYABLE:
        raise StoreBusyError
    raise RecordError(answer.message)


def take_one(landing: Landing, step: Callable[[], _T]) -> _T | SaveResult:
    """Run `step` for one record of a batch; what refuses it takes back this record alone."""

    def tried() -> _T:
        with landing.connection.begin_nested():
            try:
                return step()
            except InvalidRecordError as error:
                raise Refused(Outcome.INVALID, str(error)) from error

    answer = once(tried)
    if isinstance(answer, SaveResult) and answer.outcome is Outcome.RETRYABLE:
        raise Abandoned(answer)  # with all of the batch, which is tried again
    return answer
