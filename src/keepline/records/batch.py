"""Saving many objects at once: an outcome for each, in one statement for those that are alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Principal
from keepline.records.batch_rows import lock_rows, update_rows
from keepline.records.business import BusinessObject
from keepline.records.edit import Attempt
from keepline.records.outcomes import Outcome, SaveResult
from keepline.records.rows import Layout, Row, read_row
from keepline.records.save import Abandoned, attempt, refused
from keepline.store import Store
from keepline.store.access import may_see_group
from keepline.store.current import Current, current

_ABANDONED = "nothing was saved, since another object of the batch was refused"


@dataclass(slots=True)
class _Item:
    """One object's changes, and what they came to."""

    obj: BusinessObject
    changes: dict[str, Any]
    layout: Layout
    place: tuple[str, str]
    answer: Attempt | None = None

    @property
    def key(self) -> str:
        return self.place[1]


def save_all(
    objects: Iterable[BusinessObject],
    *,
    atomic: bool = False,
    reason: str | None = None,
    instance: Current | None = None,
    principal: Principal | None = None,
    connection: sa.Connection | None = None,
) -> list[SaveResult]:
    """Save the changed fields of many objects in one transaction; return a result for each.

    The results are in the order given. Objects of one type with the same changed fields are
    written together; what others changed meanwhile is merged, as by `save_payload`. An object
    that is refused keeps what was typed and stops no other, unless the batch is `atomic`: then
    nothing is written, and those that could have been are `retryable`. All objects are of one
    store, and saved in the name of `principal`, else of the one who read them. With a
    `connection` all of it happens in a savepoint of that connection's transaction. Raises
    RecordError or InstanceError when the store itself fails.
    """
    objects = list(objects)
    if not objects:
        return []
    store, who = _common(objects, instance, principal)
    found = [_prepared(obj) for obj in objects]
    items = [item for item in found if isinstance(item, _Item)]
    if items:
        given_up = atomic and not all(found)
        _carry_out(store, who, items, atomic, given_up, reason, connection)
    results = [
        item.obj._conclude(item.answer or Attempt(_WAITED), connection)
        if isinstance(item, _Item)
        else item
        for item in found
    ]
    return results


_WAITED = SaveResult(Outcome.RETRYABLE, _ABANDONED)


def _prepared(obj: BusinessObject) -> _Item | SaveResult:
    try:
        changes = obj._changes()
    except InvalidRecordError as error:
        return SaveResult(Outcome.INVALID, str(error))
    if not changes:
        return SaveResult(Outcome.UNCHANGED)
    layout = obj._home.stored
    return _Item(obj, changes, layout, (layout.declared.name, obj.key))


def _common(
    objects: Sequence[BusinessObject], instance: Current | None, principal: Principal | None
) -> tuple[Store, Principal]:
    store = current(instance).store if instance else objects[0]._home.store
    who = principal or objects[0]._home.principal
    if any(obj._home.store is not store for obj in objects):
        raise RecordError("the objects are of several stores; save those of each by themselves")
    if principal is None and any(obj._home.principal != who for obj in objects):
        raise RecordError("the objects were read by several people; say who saves them")
    return store, who


def _carry_out(
    store: Store,
    who: Principal,
    items: list[_Item],
    atomic: bool,
    given_up: bool,
    reason: str | None,
    connection: sa.Connection | None,
) -> None:
    """Fill in every item's answer."""
    ordered = sorted(items, key=attrgetter("place"))
    write = partial(_write, items=ordered, who=who, atomic=atomic, given_up=given_up)
    # Savepoints cost as much as statements do, and most batches hold no bad row.
    answer: SaveResult | None = None
    for isolated in (False, True):
        answer = attempt(
            store, who, partial(write, isolated=isolated), reason=reason, connection=connection
        )
        if answer is None:
            return
        if answer.outcome is Outcome.RETRYABLE:
            break
    for item in items:
        item.answer = Attempt(answer or _WAITED)


def _write(
    connection: sa.Connection,
    *,
    items: list[_Item],
    who: Principal,
    atomic: bool,
    given_up: bool,
    isolated: bool,
) -> None:
    for item in items:
        item.answer = None
    run = _isolated if isolated else _at_once
    firsts, seconds = _first_of_each(items)
    groups = _alike(firsts)
    if len(groups) > 1:
        _lock_in_order(connection, firsts)
    for group in groups:
        run(connection, group, who)
    for item in seconds:
        run(connection, [item], who)
    if atomic and (given_up or not all(item.answer and item.answer.result for item in items)):
        for item in items:
            if item.answer and item.answer.result:
                item.answer = Attempt(_WAITED, None)
        raise Abandoned(None)


def _first_of_each(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Tell objects of records that come for the first time from those that come again."""
    firsts: dict[tuple[str, str], _Item] = {}
    seconds = [item for item in items if firsts.setdefault(item.place, item) is not item]
    return list(firsts.values()), seconds


def _alike(items: list[_Item]) -> list[list[_Item]]:
    """Group items by their types and changed fields, each group in key order."""

    def kind(item: _Item) -> tuple[str, tuple[str, ...]]:
        return (item.place[0], tuple(item.changes))

    return [list(group) for _, group in groupby(sorted(items, key=kind), kind)]


def _lock_in_order(connection: sa.Connection, items: list[_Item]) -> None:
    """Lock all rows by type and key, so that two batches never wait for each other."""
    for _, group in groupby(items, lambda item: item.place[0]):
        members = list(group)
        lock_rows(connection, members[0].layout, [item.key for item in members])


def _isolated(connection: sa.Connection, items: list[_Item], who: Principal) -> None:
    """Write what can be written, halving the items until each bad one is alone."""
    try:
        with connection.begin_nested():
            _at_once(connection, items, who)
    except sa.exc.DBAPIError as error:
        refusal = refused(error)
        if refusal is None or refusal.outcome is Outcome.RETRYABLE:
            raise
        if len(items) == 1:
            (item,) = items
            row = read_row(connection, item.layout, item.key, who)
            item.answer = Attempt(refusal, row)
            return
        middle = len(items) // 2
        _isolated(connection, items[:middle], who)
        _isolated(connection, items[middle:], who)


def _at_once(connection: sa.Connection, items: list[_Item], who: Principal) -> None:
    layout, names = items[0].layout, tuple(items[0].changes)
    rows = [(item.key, item.obj.token, item.changes) for item in items]
    written, found = update_rows(connection, layout, names, rows, who)
    for item in items:
        row = written.get(item.key)
        if row is not None:
            item.answer = Attempt(_SAVED, row)
        else:
            item.answer = _settled(connection, item, found.get(item.key), who)


_SAVED = SaveResult(Outcome.SAVED)


def _settled(connection: sa.Connection, item: _Item, theirs: Row | None, who: Principal) -> Attempt:
    edit = replace(item.obj._edit(), principal=who)
    group = None if theirs is None else theirs[item.layout.at["group_name"]]
    return edit.settle_with(connection, theirs, may_see=may_see_group(group, who))
