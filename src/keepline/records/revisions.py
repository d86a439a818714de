"""What happened to a record: who changed what when and why, and how it stood at a time.

The history is written by the database's own triggers, in the transaction of the change. When
is when the database wrote it, on SQLite to the millisecond; within one record revisions order
what stamps cannot.

Who may see what: a revision is shown to whoever may see the group that the record had after
it, a deletion to whoever may see the group that it had last. What a record was while it
belonged to another group is not shown, nor what it changed from at the move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any, cast

import sqlalchemy as sa

from keepline.model import Principal, RecordImage, RecordKey, RecordType
from keepline.records.images import (
    FINALISED,
    GROUP,
    Renaming,
    decode,
    later_than,
    renamings,
    subtable_name,
)
from keepline.records.values import same
from keepline.store.access import may_see_group
from keepline.store.current import Current, current
from keepline.store.tables.records import change_feed, record_history, record_index

#: What a value is compared with where there was none.
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Change:
    """A value before and after; None where there was none."""

    before: Any = field(repr=False)
    after: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubrowChange:
    """One row of a sub-table that came, changed or went (`op` insert, update, delete)."""

    subtable: str
    key: str
    op: str
    fields: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs between two states of a record: its own fields, and rows of sub-tables."""

    fields: Mapping[str, Change]
    subrows: tuple[SubrowChange, ...]

    def __bool__(self) -> bool:
        return bool(self.fields or self.subrows)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a record.

    `op` is insert, update or delete; `who` is None when a writer went around keepline; `at` is
    in UTC; `why` is the reason that was given. `after` is the record with its sub-rows as this
    revision left it: None when it was deleted, or its content was erased. Fields that the type
    no longer has stand in `fields` under their last name.
    """

    record: RecordKey
    number: int
    op: str
    who: str | None
    at: datetime
    why: str | None = field(repr=False)
    fields: Mapping[str, Change]
    subrows: tuple[SubrowChange, ...]
    after: RecordImage | None
    erased: bool = False


@dataclass(slots=True)
class _State:
    """A record as the rows of its history up to one revision make it."""

    there: bool = False
    erased: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)
    subject: int | None = None
    #: By sub-table and key; replaced, never changed in place.
    subrows: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def group(self) -> str | None:
        return cast("str | None", self.values.get(GROUP))


def history(
    declared: RecordType,
    key: str,
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> list[Revision]:
    """Return the revisions of a record that `principal` may see, the oldest first.

    Two queries, however many there are. A record that never was has none.
    """
    with current(instance).store.read() as connection:
        return revisions(connection, declared, key, principal or Principal.system())


def revisions(
    connection: sa.Connection, declared: RecordType, key: str, principal: Principal
) -> list[Revision]:
    """Return what `history` does, within the transaction of `connection`."""
    found = []
    before = _State()
    for rows, state in _states(connection, declared, key):
        group = before.group if rows[0].op == "delete" else state.group
        if rows[0].erased:
            group = rows[0].last_group  # its own went with its content
        if may_see_group(group, principal):
            known = before if may_see_group(before.group, principal) else _State()
            found.append(_revision(declared, rows[0], known, state))
        before = state
    return found


def as_of(
    declared: RecordType,
    key: str,
    moment: datetime,
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> RecordImage | None:
    """Return a record with its sub-rows as it was committed at `moment`, an aware time.

    None when it was not there then, was erased since, or belonged to a group that `principal`
    may not see. Its token (`born`, `rev`) is 0, as a state that is past cannot be saved over.
    Raises ValueError for a time without a zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is refused; give it an explicit time zone")
    principal = principal or Principal.system()
    last: tuple[int, _State] | None = None
    with current(instance).store.read() as connection:
        for rows, state in _states(connection, declared, key):
            if rows[0].changed_at <= moment:
                last = rows[0].revision, state
    if last is None or not last[1].there or not may_see_group(last[1].group, principal):
        return None
    return _image(declared, key, *last)


def differences(older: RecordImage | None, newer: RecordImage | None) -> Differences:
    """Return what differs between two states of a record; None is a record that is not there."""
    subrows = [
        each
        for name in {**(older.subrows if older else {}), **(newer.subrows if newer else {})}
        for each in _row_changes(name, _by_key(older, name), _by_key(newer, name))
    ]
    return Differences(
        _changes(older.values if older else _NOTHING, newer.values if newer else _NOTHING),
        tuple(subrows),
    )


def field_changes(
    connection: sa.Connection, declared: RecordType, key: str, since_revision: int
) -> dict[str, tuple[str | None, datetime]]:
    """Return who changed each field last after a revision, and when; two queries.

    Fields that were not changed are left out; who is None for a writer that went around
    keepline. Whoever calls this has seen to it that the record may be seen.
    """
    found: dict[str, tuple[str | None, datetime]] = {}
    renames = renamings(connection, declared.name)
    before: Mapping[str, Any] = {}
    for row in connection.execute(_rows(declared.name, key, since_revision, own=True)):
        after = _decoded(declared, row, renames) or {}
        if row.revision > since_revision:
            changed = _changes(before, after)
            who = (row.actor, row.changed_at)
            found |= {each.name: who for each in declared.fields if each.name in changed}
        before = after
    return found


def _rows(record_type: str, key: str, since: int = 0, *, own: bool = False) -> sa.Select[Any]:
    kept, feed = record_history.c, change_feed.c
    together = sa.and_(
        kept.record_type == feed.record_type,
        kept.record_key == feed.record_key,
        kept.revision == feed.revision,
    )
    index = record_index.c
    last = sa.select(index.group_name).where(
        index.record_type == record_type, index.record_key == key
    )
    query = (
        sa.select(*kept, feed.actor, feed.changed_at, last.scalar_subquery().label("last_group"))
        .join_from(record_history, change_feed, together)
        .where(kept.record_type == record_type, kept.record_key == key, kept.revision >= since)
        # The record's own row comes first in its revision, the sub-table's name being empty.
        .order_by(kept.revision, kept.subtable, kept.id)
    )
    return query.where(kept.subtable == "") if own else query


def _states(
    connection: sa.Connection, declared: RecordType, key: str
) -> Iterator[tuple[list[Any], _State]]:
    """Yield the rows of each revision, the record's own first, and the state that they left."""
    renames = renamings(connection, declared.name)
    state = _State()
    every = connection.execute(_rows(declared.name, key))
    for _, group in groupby(every, key=lambda row: row.revision):
        rows = list(group)
        state = _followed(declared, state, rows, renames)
        yield rows, state


def _followed(
    declared: RecordType, before: _State, rows: list[Any], renames: Iterable[Renaming]
) -> _State:
    own = rows[0]
    if own.op == "delete":
        return _State()
    values = _decoded(declared, own, renames)
    state = _State(True, own.erased, values or {}, own.subject_no)
    subrows = {} if own.op == "insert" else {n: dict(r) for n, r in before.subrows.items()}
    for row in rows[1:]:
        name = subtable_name(row.subtable, later_than(row.id, renames))
        mine = subrows.setdefault(name, {})
        if row.op == "delete":
            mine.pop(row.sub_key, None)
        else:
            mine[row.sub_key] = _decoded(declared, row, renames) or {}
    return replace(state, subrows=subrows)


def _decoded(declared: RecordType, row: Any, renames: Iterable[Renaming]) -> dict[str, Any] | None:
    if row.image is None:
        return None
    since = later_than(row.id, renames)
    return decode(declared, row.image, subtable=row.subtable, renames=since)


def _revision(declared: RecordType, own: Any, before: _State, after: _State) -> Revision:
    hidden = (GROUP, FINALISED)
    return Revision(
        RecordKey(declared.name, own.record_key),
        own.revision,
        own.op,
        own.actor,
        own.changed_at,
        own.reason,
        _changes(before.values, after.values, without=() if before.there else hidden),
        tuple(_subrow_changes(declared, before, after)),
        None
        if not after.there or after.erased
        else _image(declared, own.record_key, own.revision, after),
        own.erased,
    )


def _image(declared: RecordType, key: str, revision: int, state: _State) -> RecordImage:
    return RecordImage(
        type=declared,
        key=key,
        revision=revision,
        group=state.group,
        born=0,
        rev=0,
        values={each.name: state.values.get(each.name) for each in declared.fields},
        subrows={
            each.name: tuple(
                {each.key: name, **{f.name: values.get(f.name) for f in each.fields}}
                for name, values in sorted(state.subrows.get(each.name, {}).items())
            )
            for each in declared.subtables
        },
        subject=state.subject,
        finalised=bool(state.values.get(FINALISED, False)),
    )


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], *, without: Iterable[str] = ()
) -> dict[str, Change]:
    pairs = {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    return {
        name: Change(*pair)
        for name, pair in pairs.items()
        if name not in without and not same(*pair)
    }


def _subrow_changes(declared: RecordType, before: _State, after: _State) -> Iterator[SubrowChange]:
    order = [each.name for each in declared.subtables]
    names = {*before.subrows, *after.subrows}
    for name in sorted(names, key=lambda each: (each not in order, each)):
        yield from _row_changes(name, before.subrows.get(name, {}), after.subrows.get(name, {}))


def _row_changes(
    subtable: str,
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
) -> Iterator[SubrowChange]:
    for key in sorted({*before, *after}):
        fields = _changes(before.get(key, _NOTHING), after.get(key, _NOTHING))
        if key not in before:
            yield SubrowChange(subtable, key, "insert", fields)
        elif key not in after:
            yield SubrowChange(subtable, key, "delete", fields)
        elif fields:
            yield SubrowChange(subtable, key, "update", fields)


def _by_key(image: RecordImage | None, name: str) -> dict[str, Mapping[str, Any]]:
    if image is None or name not in image.subrows:
        return {}
    key = image.type.subtable(name).key
    return {
        row[key]: {each: value for each, value in row.items() if each != key}
        for row in image.subrows[name]
    }
