"""Erasing a subject: its records, their history, and all that the instance keeps of them.

What stays are numbers and digests: the subject's number, the rows of feed and history without
content, the seals without salts, and the erasure itself with who and why.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from keepline.errors import InvalidRecordError, StoreBusyError
from keepline.model import Principal, RecordKey, RecordType, to_us, utc_now
from keepline.records.seals import seal_within
from keepline.records.subjects import Subject
from keepline.store import Store
from keepline.store.erasing import Part, Scope, of_past, of_records, rename_keys
from keepline.store.mentions import Mentions
from keepline.store.schema import declared_types
from keepline.store.tables import LOOKUP_ROWS, metadata
from keepline.store.tables.declared import record_tables, tables_of
from keepline.store.tables.delivery import delivery_backlog, sent_log
from keepline.store.tables.records import (
    change_feed,
    checkin,
    erasure,
    history_seal,
    proposal,
    record_history,
    record_index,
    subject,
)

_TRIES = 5
_BATCH = 500

#: Who is locked out while an erasure looks and removes: writers of records and deliveries.
_LOCKED = (change_feed, record_history, history_seal, proposal, sent_log, delivery_backlog)


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed, or would remove, and what it cannot reach.

    `removed` counts rows by what they are. `renamed` are the new keys of records whose keys
    held the identifier. `tables` are those whose rows were changed.
    """

    number: int
    digest: str
    removed: Mapping[str, int]
    renamed: int
    out_of_reach: Sequence[str]
    erased_at: datetime | None = None
    tables: Sequence[str] = field(default=(), repr=False)


class _PreviewOnlyError(Exception):
    """Ends the transaction of a preview."""


def digest_of(found: Subject) -> str:
    """Return by what a subject is known again where its identifier is gone.

    It is made of its number and the moment when it was added, and says nothing else.
    """
    return hashlib.sha256(f"{found.number} {to_us(found.created_at)}".encode()).hexdigest()


def erase(
    store: Store, found: Subject, parts: Sequence[Part], *, principal: Principal, reason: str
) -> Erased:
    """Erase a subject in one transaction, and say what was removed.

    `parts` are what other capabilities do in it. Afterwards the rows are gone from the tables;
    `keepline.store.purging` removes what the files still hold of them. A subject that is erased
    already is erased again: what is found under its number goes. Raises InvalidRecordError
    without a reason, StoreBusyError when others write without end.
    """
    return _run(store, found, parts, principal, reason, keep=True)


def preview(store: Store, found: Subject, parts: Sequence[Part], principal: Principal) -> Erased:
    """Return what `erase` would do; it is done and undone, so it keeps writers waiting as well."""
    return _run(store, found, parts, principal, "preview", keep=False)


def _run(
    store: Store,
    found: Subject,
    parts: Sequence[Part],
    principal: Principal,
    reason: str,
    *,
    keep: bool,
) -> Erased:
    if not reason.strip():
        raise InvalidRecordError("an erasure needs a reason")
    if Mentions(found.identifier).in_text(reason):
        raise InvalidRecordError("the reason stays: it must not name the subject")
    result: Erased | None = None
    for attempt in range(_TRIES):
        try:
            with store.write(principal, reason=reason, erasing=True) as connection:
                if store.dialect == "sqlite":  # pages that become free are overwritten
                    connection.exec_driver_sql("PRAGMA secure_delete = ON")
                result = _erase(connection, found, parts, principal, reason)
                if not keep:
                    raise _PreviewOnlyError
        except _PreviewOnlyError:
            pass
        except sa.exc.OperationalError as error:
            # A deadlock: somebody who had a record already then wrote its history.
            if getattr(error.orig, "sqlstate", None) != "40P01" or attempt == _TRIES - 1:
                raise StoreBusyError from error
            continue
        break
    assert result is not None  # noqa: S101 - the loop ends with a result or raises
    return result


def _erase(
    connection: sa.Connection,
    found: Subject,
    parts: Sequence[Part],
    principal: Principal,
    reason: str,
) -> Erased:
    types = declared_types(connection)
    _lock(connection, types, found.number)
    scope = _scope(connection, found, types)
    left = [line for part in parts for line in part.out_of_reach(connection, scope)]
    removed = _remove_records(connection, scope, types)
    seal_within(connection)
    removed["history rows"] = _blank_history(connection, scope)
    removed |= _remove_bundles(connection, scope)
    for table in (change_feed, record_index):
        rename_keys(connection, table, scope)
    _rename_actor(connection, scope)
    for part in parts:
        removed |= part.erase(connection, scope)
    now, digest = utc_now(), digest_of(found)
    connection.execute(
        sa.update(subject)
        .where(subject.c.number == scope.number, subject.c.erased_at.is_(None))
        .values(identifier=None, erased_at=now)
    )
    connection.execute(
        sa.insert(erasure).values(
            subject_no=scope.number,
            digest=digest,
            records=len(scope.keys),
            images=removed["history rows"],
            who=principal.name,
            reason=reason,
            erased_at=now,
        )
    )
    left += _mentioned(connection, scope, types)
    return Erased(
        number=scope.number,
        digest=digest,
        removed={name: count for name, count in removed.items() if count},
        renamed=sum(new != old.key for old, new in scope.keys.items()),
        out_of_reach=left,
        erased_at=now,
        tables=_touched(types),
    )


def _lock(connection: sa.Connection, types: Sequence[RecordType], number: int) -> None:
    if connection.dialect.name != "postgresql":
        return
    tables = [table for each in types for table in tables_of(each)]
    quote = connection.dialect.identifier_preparer.format_table
    names = ", ".join(quote(table) for table in [*tables, *_LOCKED])
    connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
    # Triggers look at the subject of each row that is written; from here on they wait.
    held = sa.select(subject.c.number).where(subject.c.number == number).with_for_update()
    connection.execute(held)


def _scope(connection: sa.Connection, found: Subject, types: Sequence[RecordType]) -> Scope:
    mentions = Mentions(found.identifier)
    mine = sa.select(record_index.c.record_type, record_index.c.record_key).where(
        record_index.c.subject_no == found.number
    )
    names = {RecordKey(*row) for row in connection.execute(mine)}
    for declared in types:
        if declared.subject:  # the index follows from the tables, which are the truth
            table = record_tables(declared).tables[declared.table_name]
            keys = sa.select(table.c.record_key).where(table.c.subject_no == found.number)
            names |= {RecordKey(declared.name, key) for key in connection.execute(keys).scalars()}
    past = _past(connection, found.number, names)
    former = {each.name for each in types if not each.subject}
    for name in [*past]:
        if name.record_type in former and _left_behind(connection, found.number, name):
            names.add(name)
            del past[name]
    pseudonyms: dict[RecordKey, str] = {}
    for name in sorted(names):
        hidden = f"erased-{found.number}-{secrets.token_hex(8)}"
        pseudonyms[name] = hidden if mentions.within(name.key) else name.key
    return Scope(found.number, pseudonyms, mentions, past)


def _past(
    connection: sa.Connection, number: int, names: Collection[RecordKey]
) -> dict[RecordKey, list[int]]:
    """Return the revisions that were about the subject of records beside `names`."""
    kept = record_history.c
    query = (
        sa.select(kept.record_type, kept.record_key, kept.revision)
        .where(kept.subject_no == number)
        .distinct()
        .order_by(kept.revision)
    )
    found: dict[RecordKey, list[int]] = {}
    for record_type, key, revision in connection.execute(query):
        if (name := RecordKey(record_type, key)) not in names:
            found.setdefault(name, []).append(revision)
    return found


def _left_behind(connection: sa.Connection, number: int, name: RecordKey) -> bool:
    """Return whether a record was about the subject until its type was about subjects no more."""
    kept = record_history.c
    query = (
        sa.select(kept.op, kept.subject_no)
        .where(
            kept.record_type == name.record_type,
            kept.record_key == name.key,
            kept.subtable == "",
        )
        .order_by(kept.revision.desc())
    )
    for row in connection.execute(query):
        if row.subject_no is not None or row.op == "insert":
            return bool(row.subject_no == number)
    return False


def _remove_records(
    connection: sa.Connection, scope: Scope, types: Sequence[RecordType]
) -> dict[str, int]:
    removed = {"records": 0, "sub-rows": 0}
    for declared in types:
        table, *children = tables_of(declared)
        if declared.subject:
            mine = table.c.subject_no == scope.number
        else:  # it was about subjects once
            held = [name.key for name in scope.keys if name.record_type == declared.name]
            mine = table.c.record_key.in_(held)
        keys = sa.select(table.c.record_key).where(mine)
        for child in children:
            removed["sub-rows"] += _count(connection, child, child.c.record_key.in_(keys))
        removed["records"] += connection.execute(sa.delete(table).where(mine)).rowcount
    return removed


def _blank_history(connection: sa.Connection, scope: Scope) -> int:
    """Take the content out of the subject's history rows; return how many there were."""
    unowned = sa.and_(record_history.c.subject_no.is_(None), of_records(record_history, scope.keys))
    mine = sa.and_(
        sa.not_(record_history.c.erased),
        sa.or_(record_history.c.subject_no == scope.number, unowned),
    )
    numbers = list(connection.execute(sa.select(record_history.c.id).where(mine)).scalars())
    hidden = sa.literal("erased-") + sa.cast(record_history.c.id, sa.Text)
    blank = sa.update(record_history).values(
        image=None,
        reason=None,
        erased=True,
        subject_no=scope.number,
        sub_key=sa.case((record_history.c.sub_key == "", ""), else_=hidden),
    )
    unsalt = sa.update(history_seal).values(salt=None)
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        connection.execute(blank.where(record_history.c.id.in_(batch)))
        connection.execute(unsalt.where(history_seal.c.history_id.in_(batch)))
    rename_keys(connection, record_history, scope)
    return len(numbers)


def _remove_bundles(connection: sa.Connection, scope: Scope) -> dict[str, int]:
    mine = sa.or_(proposal.c.subject_no == scope.number, of_records(proposal, scope.keys))
    proposals = connection.execute(sa.delete(proposal).where(mine)).rowcount
    taken = sa.or_(of_records(checkin, scope.keys), of_past(checkin, scope))
    return {
        "proposals": proposals,
        "check-ins": connection.execute(sa.delete(checkin).where(taken)).rowcount,
    }


def _rename_actor(connection: sa.Connection, scope: Scope) -> None:
    """Put the subject's number in the place of its identifier where it wrote records itself."""
    actors = connection.execute(sa.select(change_feed.c.actor).distinct()).scalars().all()
    for actor in actors:
        if actor is not None and scope.mentions.in_text(actor):
            connection.execute(
                sa.update(change_feed).where(change_feed.c.actor == actor).values(actor=scope.name)
            )


def _mentioned(connection: sa.Connection, scope: Scope, types: Sequence[RecordType]) -> list[str]:
    """Say where else texts hold the identifier: they belong to others, and stay."""
    if scope.mentions.identifier is None:
        return []
    lines = []
    tables = [table for table in metadata.sorted_tables if table not in LOOKUP_ROWS]
    for table in [*tables, *(table for each in types for table in tables_of(each))]:
        for column in table.c:
            if not isinstance(column.type, (sa.Text, sa.JSON)):
                continue
            if count := _count(connection, table, _holds(column, scope.mentions.identifier)):
                lines.append(f"{count} rows of others: {table.name}.{column.name} mentions it")
    return lines


def _holds(column: sa.Column[Any], identifier: str) -> sa.ColumnElement[bool]:
    text = sa.func.lower(sa.cast(column, sa.Text))
    escaped = identifier.encode("ascii", "backslashreplace").decode()
    forms = {identifier.lower(), escaped.lower()}
    return sa.or_(*(text.contains(form, autoescape=True) for form in sorted(forms)))


def _count(connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(where)
    return connection.execute(query).scalar_one()


def _touched(types: Sequence[RecordType]) -> list[str]:
    own = [table.name for each in types for table in tables_of(each)]
    fixed = (*_LOCKED, record_index, proposal, checkin, subject)
    return [*own, *(table.name for table in fixed)]
