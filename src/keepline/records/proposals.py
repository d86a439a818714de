"""Proposals: values that came in from elsewhere and stood against what others had saved.

Each waits, open, until somebody takes it into its record or drops it; who did and when is kept.
Values are as `json_values` has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from keepline.errors import ForbiddenError, InvalidRecordError, RecordError, RecordNotFoundError
from keepline.model import Principal, RecordKey, utc_now
from keepline.records.json_values import plain_value, typed_value
from keepline.records.landing import Landing, Row, take_batch, take_one
from keepline.records.outcomes import Outcome, SaveResult
from keepline.records.types import load_type, load_types
from keepline.records.values import same
from keepline.store import Store
from keepline.store.access import visible
from keepline.store.current import Current, current
from keepline.store.recordset import fetch
from keepline.store.tables.records import proposal, record_index

_ERRORS = {Outcome.FORBIDDEN: ForbiddenError, Outcome.INVALID: InvalidRecordError}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A value for one field of a record.

    `base` is what was edited, `mine` what was made of it, `theirs` what stood there when it
    came in, `now` what stands there now (None, too, when the record is gone). `state` is open,
    taken or dropped.
    """

    id: int
    bundle: str
    record: RecordKey
    field: str
    base: Any = dataclasses.field(repr=False)
    mine: Any = dataclasses.field(repr=False)
    theirs: Any = dataclasses.field(repr=False)
    now: Any = dataclasses.field(repr=False)
    state: str
    who: str
    proposed_at: datetime
    settled_by: str | None
    settled_at: datetime | None


def proposals(
    *,
    record_type: str | None = None,
    key: str | None = None,
    settled: bool = False,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> list[Proposal]:
    """Return the open proposals that `principal` may see, or the settled ones, as they came in.

    All of them, or those about a type, or about one record of it.
    """
    column, principal = proposal.c, principal or Principal.system()
    wanted = [column.state != "open" if settled else column.state == "open"]
    if record_type is not None:
        wanted.append(column.record_type == record_type)
    if key is not None:
        wanted.append(column.record_key == key)
    with current(instance).store.read() as connection:
        rows = connection.execute(_visible(principal).where(*wanted)).all()
        return _with_values(connection, rows, principal)


def take(
    ids: Iterable[int],
    *,
    anyway: bool = False,
    reason: str | None = None,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> list[RecordKey]:
    """Write open proposals into their records, in one transaction; return the records.

    Raises RecordNotFoundError for a proposal that is not open or not to be seen. Where a field
    is not any more as it was when its proposal came in, it raises RecordError and writes
    nothing, unless `anyway`. Raises what a save would where the database refuses a value.
    """
    store, principal = current(instance).store, principal or Principal.system()
    chosen = sorted(set(ids))

    def taken(connection: sa.Connection) -> list[RecordKey]:
        found: dict[RecordKey, list[Any]] = {}
        for row in _open(connection, chosen, principal):
            found.setdefault(RecordKey(row.record_type, row.record_key), []).append(row)
        for record, rows in sorted(found.items()):
            _write(store, connection, record, rows, principal, reason, anyway=anyway)
        _settle(connection, chosen, "taken", principal)
        return list(found)

    return take_batch(store, principal, reason or f"proposals taken: {_listed(chosen)}", taken)


def drop(
    ids: Iterable[int], *, instance: Current | None = None, principal: Principal | None = None
) -> None:
    """Decide against open proposals; they are kept, as dropped. Raises RecordNotFoundError."""
    store, principal = current(instance).store, principal or Principal.system()
    chosen = sorted(set(ids))

    def dropped(connection: sa.Connection) -> None:
        _open(connection, chosen, principal)
        _settle(connection, chosen, "dropped", principal)

    take_batch(store, principal, f"proposals dropped: {_listed(chosen)}", dropped)


def _visible(principal: Principal) -> sa.Select[Any]:
    """Select proposals whose group, and whose record's group today, `principal` may see."""
    mine, _ = visible(proposal, principal)
    todays, _ = visible(record_index, principal)
    together = sa.and_(
        proposal.c.record_type == record_index.c.record_type,
        proposal.c.record_key == record_index.c.record_key,
    )
    return (
        sa.select(proposal)
        .join_from(proposal, record_index, together)
        .where(mine, todays)
        .order_by(proposal.c.id)
    )


def _with_values(
    connection: sa.Connection, rows: Sequence[Any], principal: Principal
) -> list[Proposal]:
    now: dict[tuple[str, str], Any] = {}
    declared = load_types(connection) if rows else {}
    for name in sorted({row.record_type for row in rows} & declared.keys()):
        keys = sorted({row.record_key for row in rows if row.record_type == name})
        for image in fetch(connection, declared[name], principal, keys):
            now[name, image.key] = image.values
    return [
        Proposal(
            id=row.id,
            bundle=row.bundle,
            record=RecordKey(row.record_type, row.record_key),
            field=row.field,
            base=row.base,
            mine=row.mine,
            theirs=row.theirs,
            now=plain_value(now.get((row.record_type, row.record_key), {}).get(row.field)),
            state=row.state,
            who=row.who,
            proposed_at=row.proposed_at,
            settled_by=row.settled_by,
            settled_at=row.settled_at,
        )
        for row in rows
    ]


def _open(connection: sa.Connection, ids: Sequence[int], principal: Principal) -> Sequence[Any]:
    query = _visible(principal).where(proposal.c.id.in_(ids), proposal.c.state == "open")
    rows = connection.execute(query.with_for_update(of=proposal)).all()
    if missing := sorted(set(ids) - {row.id for row in rows}):
        raise RecordNotFoundError(
            f"there is no open proposal {missing[0]}; `keepline records proposals list` shows them"
        )
    return rows


def _write(
    store: Store,
    connection: sa.Connection,
    record: RecordKey,
    rows: Sequence[Any],
    principal: Principal,
    reason: str | None,
    *,
    anyway: bool,
) -> None:
    declared = load_type(store, record.record_type)
    known = {each.name: each for each in declared.fields}
    landing = Landing(connection, declared, principal, "", reason)
    theirs = landing.locked([record.key]).get(record.key)
    if theirs is None:
        raise RecordNotFoundError(f"{record} was deleted; drop the proposal, or make it anew")
    changes: dict[str, Any] = {}
    for row in rows:
        if row.field not in known:
            raise RecordError(f"{declared.name} has no field {row.field!r} any more")
        if row.field in changes:
            raise RecordError(f"two of the proposals are for {row.field} of {record}; take one")
        if not anyway and not same(plain_value(theirs[row.field]), row.theirs):
            raise RecordError(
                f"{row.field} of {record} was changed since proposal {row.id} came in; "
                "look at it, then take it with --anyway"
            )
        changes[row.field] = typed_value(known[row.field], row.mine)
    answer = take_one(landing, _writing(landing, theirs, changes))
    if isinstance(answer, SaveResult):
        raise _ERRORS.get(answer.outcome, RecordError)(f"{record}: {answer.message}")


def _writing(landing: Landing, theirs: Row, changes: dict[str, Any]) -> Callable[[], Row]:
    return lambda: landing.write(theirs, changes)


def _settle(
    connection: sa.Connection, ids: Sequence[int], state: str, principal: Principal
) -> None:
    connection.execute(
        sa.update(proposal)
        .where(proposal.c.id.in_(ids))
        .values(state=state, settled_by=principal.name, settled_at=utc_now())
    )


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))
