"""Whether the database still watches over records, and rows that changed while it did not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa

from keepline.errors import InvalidRecordError
from keepline.model import Principal, RecordKey, RecordType
from keepline.records import images, seals
from keepline.records.save import NOT_AN_IMPORT, claims_import, refused
from keepline.records.values import same
from keepline.store import Store
from keepline.store.current import Current, current
from keepline.store.schema import declared_types
from keepline.store.triggers.differences import Difference, adopt, differences
from keepline.store.triggers.inspection import faults

_BATCH = 200


def verify(*, instance: Current | None = None) -> Iterator[str]:
    """Yield a line, which says what to do, for each thing that does not hold.

    Each trigger is there, on, as this version makes it, and covers every column; the history is
    as it was sealed; what is new in it is sealed first.
    """
    store = current(instance).store
    with store.read() as connection:
        yield from faults(connection, declared_types(connection))
    seals.seal(store)  # afterwards: a write puts some of these faults right
    with store.read() as connection:
        for line in seals.check(connection):
            yield f"{line}: restore a backup of before, or find out who wrote the history"


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A row that is not as its record's history says.

    `subtable` and `sub_key` are empty for the record's own row. `fields` are those whose values
    differ, where the row is there and in the history; none when only the revision is wrong.
    """

    record: RecordKey
    subtable: str
    sub_key: str
    kind: Literal["changed", "added", "removed", "misplaced"]
    fields: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def row(self) -> str:
        """Return the name of the row, for people."""
        part = f" {self.subtable}[{self.sub_key}]" if self.subtable else ""
        return f"{self.record}{part}"


def unrecorded(*, instance: Current | None = None) -> Iterator[Unrecorded]:
    """Yield each row that differs from its last image in the history, is missing, or is extra.

    It shows names and never values. Nothing is held beyond a batch of rows.
    """
    with current(instance).store.read() as connection:
        for declared in declared_types(connection):
            for found, _ in _unrecorded(connection, declared):
                yield found


def adopt_all(
    principal: Principal, reason: str, *, instance: Current | None = None
) -> Iterator[Unrecorded]:
    """Record what is there as new revisions, by `principal` and for `reason`; yield each row.

    One that the database refuses, such as a finalised record's, has its `refusal`. It works in
    transactions of some hundred rows, so when it is interrupted, what it yielded is recorded.
    Raises InvalidRecordError for a reason that only imports may give.
    """
    if claims_import(reason):
        raise InvalidRecordError(NOT_AN_IMPORT.message)
    store = current(instance).store
    with store.read() as connection:
        for declared in declared_types(connection):
            pending = _unrecorded(connection, declared)
            while batch := list(islice(pending, _BATCH)):
                yield from _adopted(store, declared, batch, principal, reason)


def _adopted(
    store: Store,
    declared: RecordType,
    batch: Sequence[tuple[Unrecorded, Difference]],
    principal: Principal,
    reason: str,
) -> list[Unrecorded]:
    done = []
    with store.write(principal, reason) as connection:
        for found, difference in batch:
            refusal = None
            try:
                with connection.begin_nested():
                    adopt(connection, declared, difference)
            except sa.exc.DBAPIError as error:
                result = refused(error)
                if result is None:
                    raise
                refusal = result.message
            done.append(replace(found, refusal=refusal))
    return done


def _unrecorded(
    connection: sa.Connection, declared: RecordType
) -> Iterator[tuple[Unrecorded, Difference]]:
    renames = images.renamings(connection, declared.name)
    former = {each.name: _names(each.name, renames) for each in declared.subtables}
    for each in differences(connection, declared, former):
        record = RecordKey(declared.name, each.key)
        where = (record, each.subtable, each.sub_key)
        if each.then is None:
            yield Unrecorded(*where, "added"), each
        elif each.now is None:
            yield Unrecorded(*where, "removed"), each
        elif fields := _changed(declared, each, renames):
            yield Unrecorded(*where, "changed", fields), each
        elif each.misplaced:
            yield Unrecorded(*where, "misplaced"), each


def _names(today: str, renames: Sequence[images.Renaming]) -> tuple[str, ...]:
    """Return every name that a sub-table has had."""
    names = {today}
    for position, each in enumerate(renames):
        names |= {
            name
            for name in each.names
            if "." not in name and images.subtable_name(name, renames[position:]) == today
        }
    return tuple(sorted(names))


def _changed(
    declared: RecordType, found: Difference, renames: Sequence[images.Renaming]
) -> tuple[str, ...]:
    """Return the fields whose values differ, by the names and types of today.

    A field that the history does not know yet is the same when it holds nothing.
    """
    if found.now is None or found.then is None or found.history_id is None:
        return ()
    later = images.later_than(found.history_id, renames)
    now: dict[str, Any] = images.decode(declared, json.loads(found.now), subtable=found.subtable)
    then = images.decode(
        declared, json.loads(found.then), subtable=found.subtable_then, renames=later
    )
    return tuple(name for name in now if not same(now[name], then.get(name)))
