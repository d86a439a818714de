"""Importing a CSV file into records: typed, in batches, and safe to do again.

A row's key says which record it is about. What the file says is merged, by field, with what
people did since: the base is the value that the last import wrote into the field (null when
none did), as the history has it. A cell that says what the last import said changes nothing,
whatever people made of the field; a cell that is new is written where nobody else changed the
field; where somebody did, the field stays and the cell is kept as a proposal. So the same file
twice changes nothing, and neither the file nor a person overwrites the other in silence.

An import's revisions are known by their reason, which begins with ``import sha256:`` and the
file's digest; nobody else can give such a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keepline.errors import ForbiddenError, RecordNotFoundError
from keepline.model import Principal, RecordType
from keepline.records import subjects
from keepline.records.csv_rows import CsvForm, CsvRows, GoodRow, Reject
from keepline.records.images import decode, later_than, renamings
from keepline.records.landing import (
    Landed,
    Landing,
    Refused,
    Row,
    changed,
    take_batch,
    take_one,
)
from keepline.records.outcomes import Outcome, SaveResult
from keepline.records.put import put_record
from keepline.records.rejects import RejectsFile
from keepline.records.save import IMPORTED, ImportReason
from keepline.records.values import same
from keepline.store import Store, quarantine
from keepline.store.access import may_see_group
from keepline.store.current import Current, current
from keepline.store.tables.records import record_history

_BATCH = 500
_MARK = re.compile(IMPORTED + "[0-9a-f]{64}")

#: So many rejected rows a report lists; the file of rejects has all of them.
LISTED = 100


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an import does with the rows that it reads.

    With `update` off, records that are there are left alone. `overwrite` writes over what
    people edited, too. A new record gets `group`. `reason` is kept with each revision,
    and needed to change records of a type that requires one. A dry run does everything and takes
    it back. `rejects` is the file for rejected rows; without one it is made beside the file that
    is imported.
    """

    update: bool = True
    overwrite: bool = False
    group: str | None = None
    reason: str | None = None
    dry_run: bool = False
    rejects: Path | None = None


@dataclass
class ImportReport:
    """What an import did; each row counts once.

    `existing` rows are about records that were there and were not to be updated; of those
    `overlapping` a cell or more was kept as a proposal (`proposed` cells in all). `rejects`
    lists the first 100 rejected rows as (line, reason); `rejects_file` has all of them.
    """

    file: Path
    digest: str
    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    existing: int = 0
    overlapping: int = 0
    proposed: int = 0
    rejected: int = 0
    rejects: list[tuple[int, str]] = field(default_factory=list)
    rejects_file: Path | None = None
    dry_run: bool = False


def import_csv(
    path: Path,
    declared: RecordType,
    form: CsvForm | None = None,
    options: ImportOptions | None = None,
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> ImportReport:
    """Import a CSV file into records of a type; return what was done with its rows.

    Rows are taken in transactions of 500; an import that breaks off is completed by doing it
    again. Rows that do not fit are left out, each with its reason: in the file of rejects and
    in quarantine. A key that stands twice is rejected the second time. `progress` is told the
    rows done, the bytes read and the bytes of the file.

    Raises RecordError for a file whose header, encoding or form does not fit the type,
    ForbiddenError for a group that `principal` does not belong to, StoreBusyError.
    """
    options = options or ImportOptions()
    rows = CsvRows(path, declared, form or CsvForm())
    run = _Import(current(instance).store, rows, options, principal or Principal.system())
    report = ImportReport(path, rows.digest, dry_run=options.dry_run)
    delimiter = (form or CsvForm()).delimiter
    wanted = not options.dry_run
    with RejectsFile(path, rows.header, delimiter, options.rejects, wanted=wanted) as rejects:
        for batch, read in _batches(rows):
            done = run.take(batch)
            rejects.add(done.rejected)
            _count(report, done, len(batch))
            if progress is not None:
                progress(report.rows, read, rows.size_bytes)
        report.rejects_file = rejects.path
    return report


@dataclass
class _Done:
    """What came of the rows of one batch."""

    outcomes: list[tuple[str, Landed]] = field(default_factory=list)
    rejected: list[Reject] = field(default_factory=list)


class _Import:
    """One import, batch after batch."""

    def __init__(
        self, store: Store, rows: CsvRows, options: ImportOptions, principal: Principal
    ) -> None:
        if not may_see_group(options.group, principal):
            raise ForbiddenError(f"you do not belong to the group {options.group!r}")
        self._store = store
        self._declared = rows.declared
        self._options = options
        self._principal = principal
        self._bundle = f"{IMPORTED}{rows.digest}"
        why = f": {options.reason}" if options.reason else ""
        self._reason = ImportReason(f"{self._bundle} {rows.path.name}{why}")

    def take(self, batch: Sequence[GoodRow | Reject]) -> _Done:
        """Take rows in a transaction, or in none where nothing of them is to be kept."""
        return take_batch(
            self._store,
            self._principal,
            self._reason,
            lambda connection: self._taken(connection, batch),
            dry_run=self._options.dry_run,
        )

    def _taken(self, connection: sa.Connection, batch: Sequence[GoodRow | Reject]) -> _Done:
        done = _Done(rejected=[each for each in batch if isinstance(each, Reject)])
        good = sorted((e for e in batch if isinstance(e, GoodRow)), key=lambda row: row.key)
        landing = Landing(
            connection, self._declared, self._principal, self._bundle, self._options.reason
        )
        there = landing.locked([row.key for row in good])
        differing = [row.key for row in good if row.key in there and _differs(row, there[row.key])]
        bases = _imported(connection, self._declared, differing)
        for row in good:
            theirs = there.get(row.key)
            step = partial(self._one, landing, row, theirs, bases.get(row.key, {}))
            if theirs is not None and self._as_it_is(landing, row, theirs):
                answer: Any = step()
            else:
                answer = take_one(landing, step)
            if isinstance(answer, SaveResult):
                done.rejected.append(Reject(row.line, row.cells, row.raw, answer.message))
            else:
                done.outcomes.append(answer)
        done.rejected.sort(key=lambda each: each.line)
        quarantine.keep(
            connection,
            "records",
            f"{self._declared.name} {self._bundle}",
            [(each.line, each.raw, each.reason) for each in done.rejected],
        )
        return done

    def _one(
        self, landing: Landing, row: GoodRow, theirs: Row | None, imported: Mapping[str, Any]
    ) -> tuple[str, Landed]:
        if theirs is None:
            if self._insert(landing.connection, row):
                return "inserted", Landed(Outcome.SAVED)
            theirs = landing.locked([row.key])[row.key]  # somebody else was faster
        if not landing.may_see(theirs):
            raise Refused(Outcome.FORBIDDEN, "the record is not yours to change")
        if not self._options.update:
            return "existing", Landed(Outcome.UNCHANGED)
        self._check_fixed(landing.connection, row, theirs)
        if not _differs(row, theirs):
            return "unchanged", Landed(Outcome.UNCHANGED)
        base = dict.fromkeys(row.values) | dict(imported)
        if self._options.overwrite:
            base |= {each.name: theirs[each.name] for each in self._declared.fields}
        landed = landing.merge_into(theirs, base, row.values)
        if landed.overlaps:
            return "overlapping", landed
        return ("updated" if landed.written else "unchanged"), landed

    def _as_it_is(self, landing: Landing, row: GoodRow, theirs: Row) -> bool:
        """Return whether nothing is to be written or refused, so that no savepoint is needed."""
        return landing.may_see(theirs) and row.subject is None and not _differs(row, theirs)

    def _insert(self, connection: sa.Connection, row: GoodRow) -> bool:
        group, subject = self._options.group, None
        if row.subject is not None:
            subject = subjects.number(connection, row.subject, group=group)
        outcome = put_record(
            connection,
            self._declared,
            row.key,
            row.values,
            group=group,
            subject=subject,
            principal=self._principal,
        )
        return outcome is Outcome.SAVED

    def _check_fixed(self, connection: sa.Connection, row: GoodRow, theirs: Row) -> None:
        """Refuse a row that would change what an import may set in new records only."""
        for each in self._declared.fields:
            name = each.name
            if each.updatable or name not in row.values:
                continue
            if not same(row.values[name], theirs[name]):
                raise Refused(Outcome.INVALID, f"{name} of a record that is there cannot be set")
        if row.subject is None:
            return
        with suppress(RecordNotFoundError):
            named = subjects.find(connection, row.subject, self._principal)
            if named.number == theirs["subject_no"]:
                return
        raise Refused(Outcome.INVALID, "the record is about another subject, or about none")


def _batches(rows: CsvRows) -> Iterator[tuple[list[GoodRow | Reject], int]]:
    batch: list[GoodRow | Reject] = []
    read = 0
    for row, read in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch, read
            batch = []
    if batch:
        yield batch, read


def _differs(row: GoodRow, theirs: Row) -> bool:
    return not all(same(value, theirs[name]) for name, value in row.values.items())


def _imported(
    connection: sa.Connection, declared: RecordType, keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return what imports wrote last into the fields of these records, by key; two queries."""
    found: dict[str, dict[str, Any]] = {}
    if not keys:
        return found
    renames = renamings(connection, declared.name)
    kept = record_history.c
    query = (
        sa.select(kept.id, kept.record_key, kept.op, kept.image, kept.reason)
        .where(kept.record_type == declared.name, kept.record_key.in_(keys), kept.subtable == "")
        .order_by(kept.record_key, kept.revision)
    )
    key, before = None, dict[str, Any]()
    for row in connection.execute(query):
        if row.record_key != key or row.op == "delete":
            key, before = row.record_key, {}
            found[row.record_key] = {}
        if row.image is None:
            continue
        after = decode(declared, row.image, renames=later_than(row.id, renames))
        if _MARK.match(row.reason or ""):
            found[row.record_key] |= changed(before, after)
        before = after
    return found


def _count(report: ImportReport, done: _Done, rows: int) -> None:
    report.rows += rows
    for outcome, landed in done.outcomes:
        setattr(report, outcome, getattr(report, outcome) + 1)
        report.proposed += len(landed.overlaps)
    report.rejected += len(done.rejected)
    room = LISTED - len(report.rejects)
    report.rejects += [(each.line, each.reason) for each in done.rejected[:room]]
