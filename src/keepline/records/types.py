"""The record types: the one that ships, applying one to a store, and finding what is applied."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keepline.errors import InvalidRecordError, UnknownRecordTypeError
from keepline.model import Field, Principal, RecordType, SubTable, utc_now
from keepline.store import Store
from keepline.store.locks import queue_writers
from keepline.store.schema import create_record_tables, declared_types
from keepline.store.tables.records import check_declaration, record_table, record_tables
from keepline.store.tables.records import record_type as type_table


def _built(name: str, type_: str, comment: str) -> Field:
    return Field(name, type_, comment=comment, updatable=False)  # type: ignore[arg-type]  # a FieldType


#: What the build makes of one session of use: who, when, and what each channel measured.
INSTRUMENT_SESSION = RecordType(
    name="instrument_session",
    comment="One session of use of an instrument, built from the session log and the archive",
    fields=(
        Field("instrument", required=True, updatable=False, comment="Which instrument"),
        _built("started", "datetime", "When the session began"),
        _built("ended", "datetime", "When the session ended"),
        _built("state", "text", "How completely the readings were captured"),
        _built("messages", "integer", "Messages in the archive"),
        _built("readings", "integer", "Readings in the archive"),
        _built("gaps", "integer", "Holes in the streams, in time or in sequence"),
        _built("quarantined", "integer", "Messages that could not be read"),
        Field("user_name", comment="Who used the instrument"),
        Field("title", comment="What the session was about"),
        Field("sample", comment="What was measured"),
        Field("comment", comment="Remarks"),
    ),
    subtables=(
        SubTable(
            name="channel",
            key="channel",
            comment="One row for each channel",
            fields=(
                _built("unit", "text", "The unit of the values"),
                _built("readings", "integer", "Readings that hold a number"),
                _built("minimum", "real", "The least value"),
                _built("mean", "real", "The arithmetic mean"),
                _built("maximum", "real", "The greatest value"),
                _built("first_value", "real", "The first value"),
                _built("last_value", "real", "The last value"),
                _built("first_at", "datetime", "When the first value was read"),
                _built("last_at", "datetime", "When the last value was read"),
            ),
        ),
    ),
)

_known: WeakKeyDictionary[Store, dict[str, RecordType]] = WeakKeyDictionary()


def apply_type(store: Store, declared: RecordType, principal: Principal) -> bool:
    """Make a record type's tables and triggers and keep its declaration, in one transaction.

    Return False, and change nothing, when the very same declaration was applied before.
    Raises InvalidRecordError for names that cannot be used, when another declaration has the
    name, or when a table is in the way.
    """
    check_declaration(declared)
    with store.write(principal) as connection:
        queue_writers(connection, type_table)
        applied = load_types(connection).get(declared.name)
        if applied == declared:
            return False
        if applied is not None:
            raise InvalidRecordError(
                f"record type {declared.name!r} is declared otherwise already; "
                "choose another name for this declaration"
            )
        _check_free(connection, declared)
        create_record_tables(connection, declared)
        connection.execute(
            sa.insert(type_table).values(
                name=declared.name, declaration=declared.to_json(), applied_at=utc_now()
            )
        )
    return True


def load_types(connection: sa.Connection) -> dict[str, RecordType]:
    """Return the record types that were applied to this store, by name."""
    return {declared.name: declared for declared in declared_types(connection)}


def load_type(store: Store, name: str) -> RecordType:
    """Return one applied record type; it is read from the store once.

    Raises UnknownRecordTypeError, naming those that there are.
    """
    known = _known.setdefault(store, {})
    if name not in known:
        with store.read() as connection:
            known.update(load_types(connection))
    try:
        return known[name]
    except KeyError:
        there = ", ".join(sorted(known)) or "none"
        raise UnknownRecordTypeError(f"no record type {name!r}; there are: {there}") from None


def table_of(declared: RecordType) -> sa.Table:
    """Return the SQL table of a record type."""
    return record_table(declared, record_tables(declared))


def _check_free(connection: sa.Connection, declared: RecordType) -> None:
    inspector = sa.inspect(connection)
    for name in record_tables(declared).tables:
        if inspector.has_table(name):
            raise InvalidRecordError(f"a table {name} is in the way; rename or drop it first")
