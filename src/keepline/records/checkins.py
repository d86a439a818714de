"""Checking in a bundle: what was edited elsewhere, merged with what is there.

Each record is merged by field from the base that was checked out. Fields that nobody else
changed are written, so that bundles with disjoint edits come to the same in any order. Where
somebody else did, their value stays and the bundle's is kept as a proposal. A bundle can be
checked in again: what it says of a record is taken once, and when it was edited further it is
merged from the same base again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Field, Principal, RecordType, utc_now
from keepline.records.bundles import Bundle, BundleRecord
from keepline.records.images import decode, later_than, renamings
from keepline.records.json_values import digest_of, typed_value
from keepline.records.landing import Landed, Landing, Refused, Row, changed, take_batch, take_one
from keepline.records.merge import together_with
from keepline.records.outcomes import Outcome, SaveResult
from keepline.records.put import put_record
from keepline.records.types import table_of
from keepline.records.values import same
from keepline.store.access import may_see_group
from keepline.store.current import Current, current
from keepline.store.tables.records import checkin as checkin_table
from keepline.store.tables.records import record_history, record_index

_BATCH = 200
_ELSEWHERE = Outcome.REPLACED


@dataclass(frozen=True, slots=True)
class CheckedIn:
    """What came of one record of a bundle.

    `written` are the fields that were written, `proposed` those whose values wait as proposals.
    `again` says that the bundle had brought the same before, and nothing was done. What was not
    `kept` is in the bundle alone, and is tried again when that is checked in again.
    """

    key: str
    outcome: Outcome
    message: str = ""
    written: tuple[str, ...] = ()
    proposed: tuple[str, ...] = ()
    revision: int | None = None
    again: bool = False

    @property
    def kept(self) -> bool:
        """Return whether what was edited is in the database, as a value or as a proposal."""
        return self.again or bool(self.outcome) or bool(self.proposed)


@dataclass
class CheckInReport:
    """What came of a bundle: of each record in which something was edited, and how many not."""

    bundle: str
    records: list[CheckedIn] = field(default_factory=list)
    untouched: int = 0
    dry_run: bool = False

    @property
    def refused(self) -> list[CheckedIn]:
        """Return the records that were not taken, and whose edits are in the bundle alone."""
        return [each for each in self.records if not each.kept]


def checkin(
    bundle: Bundle,
    declared: RecordType,
    *,
    reason: str | None = None,
    dry_run: bool = False,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> CheckInReport:
    """Check in a bundle, in transactions of 200 records; return what came of each.

    A bundle that was made in another life of the instance (before a restore) or in another
    instance changes no record that is there: all its edits of such become proposals. Records of
    a type that requires a reason are refused without `reason`. A dry run does everything and
    takes it back. Raises RecordError for a bundle of another type,
    StoreBusyError.
    """
    if bundle.record_type != declared.name:
        raise RecordError(f"the bundle holds records of type {bundle.record_type!r}")
    here, principal = current(instance), principal or Principal.system()
    report = CheckInReport(bundle.id, dry_run=dry_run)
    edited = [
        each for each in bundle.records.values() if each.delete or each.base is None or _edits(each)
    ]
    report.untouched = len(bundle.records) - len(edited)
    remaining = iter(sorted(edited, key=lambda each: each.key))
    why = f"check-in of bundle {bundle.id}" + (f": {reason}" if reason else "")
    while part := list(islice(remaining, _BATCH)):
        run = _CheckIn(here, declared, principal, bundle, reason)
        step = partial(run.take, part)
        report.records += take_batch(here.store, principal, why, step, dry_run=dry_run)
    return report


class _CheckIn:
    """The check-in of some records of a bundle."""

    def __init__(
        self,
        here: Current,
        declared: RecordType,
        principal: Principal,
        bundle: Bundle,
        why: str | None,
    ) -> None:
        self._declared = declared
        self._principal = principal
        self._bundle = bundle
        self._why = why
        self._elsewhere = bundle.epoch != here.epoch

    def take(self, part: Sequence[BundleRecord], connection: sa.Connection) -> list[CheckedIn]:
        """Take records in the transaction of `connection`, each in a savepoint."""
        landing = Landing(connection, self._declared, self._principal, self._bundle.id, self._why)
        there = landing.locked([each.key for each in part])
        before = self._before(connection, part)
        erased = self._erased(connection, part)
        bases = {} if self._elsewhere else self._bases(connection, part)
        found = []
        for each in part:
            digest = digest_of([each.values, each.delete])
            if known := before.get((each.key, digest)):
                found.append(CheckedIn(each.key, Outcome(known.outcome), again=True))
                continue
            if each.base is not None and (each.revision or 0) <= erased.get(each.key, -1):
                found.append(CheckedIn(each.key, Outcome.DELETED, "its subject is erased"))
                continue
            base = bases.get((each.key, each.revision))
            step = partial(self._one, landing, each, there.get(each.key), base)
            answer = take_one(landing, step)
            if isinstance(answer, SaveResult):
                found.append(CheckedIn(each.key, answer.outcome, answer.message))
                continue
            self._note(connection, each, digest, answer)
            found.append(
                CheckedIn(
                    each.key,
                    answer.outcome,
                    answer.message,
                    answer.written,
                    answer.overlaps,
                    answer.revision,
                )
            )
        return found

    def _one(
        self,
        landing: Landing,
        record: BundleRecord,
        theirs: Row | None,
        history: Mapping[str, Any] | None,
    ) -> Landed:
        base, mine = _typed(self._declared, record)
        if theirs is not None and not landing.may_see(theirs):
            raise Refused(Outcome.FORBIDDEN, "the record is not yours to change")
        if record.base is None:
            return self._new(landing, record.key, mine, theirs)
        if record.delete:
            return self._delete(landing, record, theirs)
        if theirs is None:
            return self._gone(landing, record.key, base, mine)
        if not self._elsewhere:
            base = self._confirmed(record, base, mine, history)
        born, _, rev = (record.token or "").partition(".")
        if self._elsewhere or int(born) != theirs["row_born"]:
            return self._strange(landing, record.key, base, mine, theirs)
        landed = landing.merge_into(theirs, base, mine)
        if landed.outcome is Outcome.SAVED and int(rev) != theirs["row_rev"]:
            return Landed(Outcome.MERGED, "", landed.written, (), landed.revision)
        return landed

    def _confirmed(
        self,
        record: BundleRecord,
        base: Mapping[str, Any],
        mine: Mapping[str, Any],
        history: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Return the base with what its fields stood together with; refuse one that never was."""
        if history is None:
            raise Refused(
                Outcome.INVALID,
                f"revision {record.revision} of it is not in the history; check it out again",
            )
        if not all(same(value, history.get(name)) for name, value in base.items()):
            raise Refused(
                Outcome.INVALID, f"its base is not revision {record.revision}; edit values alone"
            )
        # What others changed in the same group stands against the edit.
        beside = together_with(self._declared.groups, mine) & history.keys()
        return {name: history[name] for name in beside} | dict(base)

    def _new(
        self, landing: Landing, key: str, mine: Mapping[str, Any], theirs: Row | None
    ) -> Landed:
        if theirs is None:
            outcome = put_record(landing.connection, self._declared, key, mine)
            theirs = landing.locked([key])[key]
            if outcome is Outcome.SAVED:
                return Landed(outcome, "", tuple(mine), (), theirs["revision"])
            if not landing.may_see(theirs):
                raise Refused(Outcome.FORBIDDEN, "the record is not yours to change")
        if self._elsewhere:
            return self._strange(landing, key, dict.fromkeys(mine), mine, theirs)
        fixed = [each.name for each in self._declared.fields if not each.updatable]
        if differing := [n for n in fixed if n in mine and not same(mine[n], theirs[n])]:
            raise Refused(
                Outcome.INVALID, f"{differing[0]} of a record that is there cannot be set"
            )
        landed = landing.merge_into(theirs, dict.fromkeys(mine), mine)
        said = "there is a record of that key already"
        return Landed(landed.outcome, said, landed.written, landed.overlaps, landed.revision)

    def _strange(
        self,
        landing: Landing,
        key: str,
        base: Mapping[str, Any],
        mine: Mapping[str, Any],
        theirs: Row,
    ) -> Landed:
        """Propose what was edited of another record than the one that is there."""
        differing = {n: value for n, value in mine.items() if not same(value, theirs[n])}
        if not differing:
            return Landed(Outcome.UNCHANGED, revision=theirs["revision"])
        landing.propose(key, base, differing, theirs)
        said = "the record was deleted, and another one has its key now"
        if self._elsewhere:
            said = "the bundle is from before a restore, or from another instance"
        return Landed(_ELSEWHERE, said, (), tuple(differing), theirs["revision"])

    def _delete(self, landing: Landing, record: BundleRecord, theirs: Row | None) -> Landed:
        if theirs is None:
            return Landed(Outcome.UNCHANGED, "it was deleted already")
        if self._elsewhere or record.token != f"{theirs['row_born']}.{theirs['row_rev']}":
            raise Refused(
                Outcome.CONFLICT, "somebody else changed the record, so it is not deleted"
            )
        landing.check_reason()
        table = table_of(self._declared)
        gone = sa.delete(table).where(table.c.record_key == record.key)
        if landing.connection.execute(gone).rowcount != 1:
            raise Refused(Outcome.SUPPRESSED, "the database refused the change")
        return Landed(Outcome.SAVED, "deleted")

    def _gone(
        self, landing: Landing, key: str, base: Mapping[str, Any], mine: Mapping[str, Any]
    ) -> Landed:
        """Keep edits of a record that is not there any more, for those who could see it."""
        index = record_index.c
        last = landing.connection.execute(
            sa.select(index.revision, index.group_name, index.subject_no).where(
                index.record_type == self._declared.name, index.record_key == key
            )
        ).one_or_none()
        if last is None:
            raise Refused(Outcome.INVALID, "there never was such a record here")
        if not may_see_group(last.group_name, self._principal):
            raise Refused(Outcome.FORBIDDEN, "the record is not yours to change")
        nothing = dict.fromkeys((each.name for each in self._declared.fields), None)
        landing.propose(key, base, mine, {**nothing, **last._asdict()})
        return Landed(Outcome.DELETED, "the record was deleted", (), tuple(mine), None)

    def _before(
        self, connection: sa.Connection, part: Sequence[BundleRecord]
    ) -> dict[tuple[str, str], Any]:
        """Return what the bundle came to before, by key and digest."""
        column = checkin_table.c
        rows = connection.execute(
            sa.select(column.record_key, column.digest, column.outcome).where(
                column.bundle == self._bundle.id,
                column.record_type == self._declared.name,
                column.record_key.in_([each.key for each in part]),
            )
        )
        return {(row.record_key, row.digest): row for row in rows}

    def _erased(self, connection: sa.Connection, part: Sequence[BundleRecord]) -> dict[str, int]:
        """Return the last erased revision of each record: what was checked out then stays gone."""
        kept = record_history.c
        query = (
            sa.select(kept.record_key, sa.func.max(kept.revision))
            .where(
                kept.record_type == self._declared.name,
                kept.record_key.in_([each.key for each in part]),
                kept.erased,
            )
            .group_by(kept.record_key)
        )
        return {row[0]: row[1] for row in connection.execute(query)}

    def _bases(
        self, connection: sa.Connection, part: Sequence[BundleRecord]
    ) -> dict[tuple[str, int | None], dict[str, Any]]:
        """Return the states that were checked out, by key and revision, as the history has them."""
        renames = renamings(connection, self._declared.name)
        kept = record_history.c
        rows = connection.execute(
            sa.select(kept.id, kept.record_key, kept.revision, kept.image).where(
                kept.record_type == self._declared.name,
                kept.subtable == "",
                sa.tuple_(kept.record_key, kept.revision).in_(
                    [(each.key, each.revision) for each in part if each.revision is not None]
                ),
            )
        )
        return {
            (row.record_key, row.revision): decode(
                self._declared, row.image, renames=later_than(row.id, renames)
            )
            for row in rows
            if row.image is not None
        }

    def _note(
        self, connection: sa.Connection, record: BundleRecord, digest: str, landed: Landed
    ) -> None:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        row = {
            "bundle": self._bundle.id,
            "record_type": self._declared.name,
            "record_key": record.key,
            "digest": digest,
            "outcome": landed.outcome.value,
            "revision": landed.revision,
            "who": self._principal.name,
            "checked_in_at": utc_now(),
        }
        connection.execute(dialect.insert(checkin_table).values(row).on_conflict_do_nothing())


def _edits(record: BundleRecord) -> dict[str, Any]:
    """Return the values that are not as they were checked out, as JSON has them."""
    return changed(record.base or {}, record.values)


def _typed(declared: RecordType, record: BundleRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the base and the edited values of the fields that were edited."""
    base: dict[str, Any] = {}
    mine: dict[str, Any] = {}
    known = {each.name: each for each in declared.fields}
    edits = {} if record.delete else _edits(record)
    for name, value in edits.items():
        if name not in known:
            raise InvalidRecordError(f"{declared.name} has no field {name[:40]!r}")
        if record.base is not None and not known[name].updatable:
            raise InvalidRecordError(f"{name} cannot be set")
        mine[name] = typed_value(known[name], value)
        base[name] = _as_it_was(known[name], (record.base or {}).get(name))
    return base, mine


def _as_it_was(field: Field, value: Any) -> Any:
    try:
        return typed_value(field, value)
    except InvalidRecordError:
        return value  # a value that is not of its field's type, as SQLite may hold
