"""The record types: those that ship, applying one to a store, and finding what is applied."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keepline.errors import DeclarationError, InvalidRecordError, UnknownRecordTypeError
from keepline.model import Principal, RecordType, utc_now
from keepline.records.declarations import shipped, unknown_summaries
from keepline.store import Store
from keepline.store.locks import queue_writers
from keepline.store.schema import create_record_tables, declared_types
from keepline.store.tables.declared import check_declaration, record_table, record_tables
from keepline.store.tables.records import record_history, record_type_change
from keepline.store.tables.records import record_type as type_table

#: What the build makes of one session of use: who, when, and what each channel measured.
INSTRUMENT_SESSION = shipped("instrument_session")

#: The patient health questionnaire with nine items, and its score.
PHQ9 = shipped("phq9")

#: For so long `load_type` takes what it read for current; another process may change a type.
FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class _Known:
    number: int | None
    types: Mapping[str, RecordType]
    asked_s: float


_known: WeakKeyDictionary[Store, _Known] = WeakKeyDictionary()


def apply_type(store: Store, declared: RecordType, principal: Principal) -> bool:
    """Make a record type's tables and triggers and keep its declaration, in one transaction.

    Return False, and change nothing, when the very same declaration was applied before.
    Raises InvalidRecordError for names that cannot be used, when another declaration has the
    name (`type_changes.migrate_type` makes the difference), or when a table is in the way.
    """
    check(declared)
    with store.write(principal) as connection:
        queue_writers(connection, type_table)
        applied = load_types(connection).get(declared.name)
        if applied == declared:
            return False
        if applied is not None:
            raise InvalidRecordError(
                f"record type {declared.name!r} is declared otherwise already; "
                "`keepline records types migrate` makes the difference, or choose another name"
            )
        create_type(connection, declared, principal)
    forget(store)
    return True


def check(declared: RecordType) -> None:
    """Raise unless a declaration can be applied: InvalidRecordError, or DeclarationError."""
    check_declaration(declared)
    if mistakes := list(unknown_summaries(declared)):
        raise DeclarationError([f"{declared.name}: {mistake}" for mistake in mistakes])


def create_type(connection: sa.Connection, declared: RecordType, principal: Principal) -> None:
    """Make the tables of a type that is not there, and keep its declaration.

    Raises InvalidRecordError when a table is in the way.
    """
    _check_free(connection, declared)
    create_record_tables(connection, declared)
    connection.execute(
        sa.insert(type_table).values(
            name=declared.name, declaration=declared.to_json(), applied_at=utc_now()
        )
    )
    note_change(connection, declared, principal)


def note_change(
    connection: sa.Connection,
    declared: RecordType,
    principal: Principal,
    renames: Mapping[str, str] | None = None,
) -> None:
    """Write down that a type has this declaration from here on in the history."""
    newest = sa.select(sa.func.coalesce(sa.func.max(record_history.c.id), 0)).scalar_subquery()
    connection.execute(
        sa.insert(record_type_change).values(
            record_type=declared.name,
            declaration=declared.to_json(),
            renames=dict(renames or {}),
            after_history=newest,
            who=principal.name,
            applied_at=utc_now(),
        )
    )


def load_types(connection: sa.Connection) -> dict[str, RecordType]:
    """Return the record types that were applied to this store, by name."""
    return {declared.name: declared for declared in declared_types(connection)}


def load_type(store: Store, name: str) -> RecordType:
    """Return one applied record type.

    It is read from the store once; whether a type was changed since, be it by another process,
    is asked again after a second (`FRESH_S`), by the number of the last change alone. Raises
    UnknownRecordTypeError, naming those that there are.
    """
    known = _known.get(store)
    fresh = known is not None and time.monotonic() - known.asked_s < FRESH_S
    if known is None or not fresh or name not in known.types:
        known = _known[store] = _ask(store, known)
    try:
        return known.types[name]
    except KeyError:
        there = ", ".join(sorted(known.types)) or "none"
        raise UnknownRecordTypeError(f"no record type {name!r}; there are: {there}") from None


def forget(store: Store) -> None:
    """Let `load_type` read the types of a store anew."""
    _known.pop(store, None)


def table_of(declared: RecordType) -> sa.Table:
    """Return the SQL table of a record type."""
    return record_table(declared, record_tables(declared))


def _ask(store: Store, known: _Known | None) -> _Known:
    with store.read() as connection:
        asked_s = time.monotonic()
        number = connection.scalar(sa.select(sa.func.max(record_type_change.c.id)))
        if known is not None and known.number == number:
            return _Known(number, known.types, asked_s)
        return _Known(number, load_types(connection), asked_s)


def _check_free(connection: sa.Connection, declared: RecordType) -> None:
    inspector = sa.inspect(connection)
    for name in record_tables(declared).tables:
        if inspector.has_table(name):
            raise InvalidRecordError(f"a table {name} is in the way; rename or drop it first")
