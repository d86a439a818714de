"""The people that records are about: an identifier each, and a number that all else holds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.errors import InvalidRecordError, RecordNotFoundError
from keepline.model import Principal, RecordType, utc_now
from keepline.store.access import visible
from keepline.store.current import Current, current
from keepline.store.tables.records import subject

_LONGEST = 200

#: The same words whether there is none or it is somebody else's, so that they tell neither.
_UNSEEN = "there is no such subject, or it is not yours to see"


@dataclass(frozen=True, slots=True)
class Subject:
    """A person; `identifier` is None once the person is erased, and never in a repr."""

    number: int
    identifier: str | None = field(repr=False)
    group: str | None
    created_at: datetime
    erased_at: datetime | None


def number(connection: sa.Connection, identifier: str, *, group: str | None = None) -> int:
    """Return the number of the subject with this identifier, made when it is new.

    A subject that is there keeps its group. Raises InvalidRecordError for an identifier that is
    empty, too long, padded with spaces, or not printable.
    """
    _check(identifier)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    made = (
        dialect.insert(subject)
        .values(identifier=identifier, group_name=group, created_at=utc_now())
        .on_conflict_do_nothing(index_elements=["identifier"])
        .returning(subject.c.number)
    )
    known = sa.select(subject.c.number).where(subject.c.identifier == identifier)
    found = connection.execute(known).scalar()
    if found is None:
        found = connection.execute(made).scalar()
    if found is None:  # another transaction made it between the two
        found = connection.execute(known).scalar_one()
    return int(found)


def find(connection: sa.Connection, identifier: str, principal: Principal) -> Subject:
    """Return the subject with this identifier; raises RecordNotFoundError, without saying it."""
    return _find(connection, subject.c.identifier == identifier, principal)


def find_number(connection: sa.Connection, wanted: int, principal: Principal) -> Subject:
    """Return the subject with this number, erased or not; raises RecordNotFoundError."""
    return _find(connection, subject.c.number == wanted, principal)


def check_subject(
    connection: sa.Connection, declared: RecordType, wanted: int | None, principal: Principal
) -> None:
    """Raise InvalidRecordError unless `principal` may make a record about this subject, if any."""
    if wanted is None:
        return
    if not declared.subject:
        raise InvalidRecordError(f"a record of type {declared.name} is about no subject")
    seen, _ = visible(subject, principal)
    there = sa.select(subject.c.number).where(subject.c.number == wanted, seen)
    if connection.execute(there).first() is None:
        raise InvalidRecordError(_UNSEEN)


def subjects(
    *, instance: Current | None = None, principal: Principal | None = None
) -> Sequence[Subject]:
    """Return the subjects that `principal` may see, in the order of their numbers."""
    condition, _ = visible(subject, principal or Principal.system())
    query = sa.select(subject).where(condition).order_by(subject.c.number)
    with current(instance).store.read() as connection:
        return [_subject(row) for row in connection.execute(query)]


def add(
    identifier: str,
    *,
    group: str | None = None,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> Subject:
    """Return the subject with this identifier, made when it is new; see `number`."""
    who = principal or Principal.system()
    with current(instance).store.write(who) as connection:
        made = number(connection, identifier, group=group)
        return find_number(connection, made, who)


def _find(
    connection: sa.Connection, wanted: sa.ColumnElement[bool], principal: Principal
) -> Subject:
    condition, _ = visible(subject, principal)
    row = connection.execute(sa.select(subject).where(condition, wanted)).first()
    if row is None:
        raise RecordNotFoundError(_UNSEEN)
    return _subject(row)


def _subject(row: sa.Row[tuple[object, ...]]) -> Subject:
    return Subject(row.number, row.identifier, row.group_name, row.created_at, row.erased_at)


def _check(identifier: str) -> None:
    if (
        not identifier.isprintable()
        or not identifier
        or identifier != identifier.strip()
        or len(identifier) > _LONGEST
        or not unicodedata.is_normalized("NFC", identifier)
    ):
        raise InvalidRecordError(
            "a subject's identifier is 1 to 200 printable characters (NFC), "
            "without spaces at its ends"
        )
