"""Choosing among records of all types by what is known about every record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from keepline.model import Principal, RecordKey
from keepline.store.access import visible
from keepline.store.current import Current
from keepline.store.current import current as current_instance
from keepline.store.tables.records import record_index


@dataclass(frozen=True, slots=True)
class Indexed:
    """What is known about a record whatever its type.

    `current` is false once it was deleted. `changed_at` is when its latest revision was written,
    in UTC; `version` counts how often it was finalised.
    """

    record: RecordKey
    revision: int
    group: str | None
    subject: int | None
    created_at: datetime
    changed_at: datetime
    current: bool
    finalised: bool
    anonymous: bool
    version: int


def find(
    record_types: Sequence[str] | None = None,
    *,
    groups: Sequence[str | None] | None = None,
    subject: int | None = None,
    current: bool | None = True,
    finalised: bool | None = None,
    anonymous: bool | None = None,
    changed_since: datetime | None = None,
    limit: int | None = None,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> list[Indexed]:
    """Return the records that `principal` may see and that meet every condition, by type and key.

    None is no condition, but that deleted records are left out unless `current` is None, or
    False for these alone. Among `groups` None stands for records of the whole instance.
    `changed_since` is an aware time, which counts itself. Raises ValueError for a time without
    a zone.
    """
    if changed_since is not None and changed_since.tzinfo is None:
        raise ValueError("a time without a zone is refused; give it an explicit time zone")
    index = record_index.c
    wanted = [visible(record_index, principal or Principal.system())[0]]
    if record_types is not None:
        wanted.append(index.record_type.in_(record_types))
    if groups is not None:
        named = index.group_name.in_([group for group in groups if group is not None])
        wanted.append(sa.or_(named, index.group_name.is_(None)) if None in groups else named)
    states = {index.current: current, index.finalised: finalised, index.anonymous: anonymous}
    wanted += [column.is_(state) for column, state in states.items() if state is not None]
    if subject is not None:
        wanted.append(index.subject_no == subject)
    if changed_since is not None:
        wanted.append(index.changed_at >= changed_since)
    query = sa.select(record_index).where(*wanted).limit(limit)
    with current_instance(instance).store.read() as connection:
        rows = connection.execute(query.order_by(index.record_type, index.record_key)).all()
    return [_indexed(row) for row in rows]


def _indexed(row: sa.Row[tuple[object, ...]]) -> Indexed:
    return Indexed(
        RecordKey(row.record_type, row.record_key),
        row.revision,
        row.group_name,
        row.subject_no,
        row.created_at,
        row.changed_at,
        row.current,
        row.finalised,
        row.anonymous,
        row.version,
    )
