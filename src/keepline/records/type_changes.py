"""Making the difference between the declaration that a store has of a record type and another.

What is done is shown first, as a plan. It is made in one transaction, with the triggers made
anew and compared; tokens, revisions and the feed stay as they are. Only a record of which a
value becomes another one, as its field gets another type, gets a revision for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from keepline.errors import DeclarationError, StoreBusyError
from keepline.model import Principal, RecordType, utc_now
from keepline.records import type_alter, type_rebuild, type_triggers
from keepline.records.conversions import changes_images
from keepline.records.type_difference import Difference, FieldPair, TableChange, difference
from keepline.records.type_plan import TypePlan, converted, creation, kept_values, planned
from keepline.records.types import check, create_type, forget, load_types, note_change
from keepline.store import Store
from keepline.store.engine import first_line
from keepline.store.locks import queue_writers
from keepline.store.tables.declared import record_tables
from keepline.store.tables.records import record_index
from keepline.store.tables.records import record_type as type_table

#: Why a record whose values were converted has a new revision.
REASON = "the record type was migrated"

#: PostgreSQL's states of a transaction that can be tried again.
_TRY_AGAIN = ("40001", "40P01", "55P03")

#: The rows whose values became others, by their new table, and one of its converted fields.
_Touched = dict[str, tuple[str, set[tuple[Any, ...]]]]


def plan_type(connection: sa.Connection, declared: RecordType) -> TypePlan:
    """Return what `migrate_type` would do now; nothing is changed.

    Raises InvalidRecordError or DeclarationError for a declaration that cannot be applied.
    """
    check(declared)
    applied = load_types(connection).get(declared.name)
    if applied is None:
        return creation(declared)
    return planned(connection, difference(applied, declared))


def migrate_type(
    store: Store, declared: RecordType, principal: Principal, *, allow_data_loss: bool = False
) -> TypePlan:
    """Make a store's record type what `declared` says, and return what was done.

    A type that is not there is made. Migrations are made one after the other, in one
    transaction each; everything or nothing is changed.

    Raises:
        DeclarationError: a step is refused, or would lose values and `allow_data_loss` is not
            given; `mistakes` has each of them. Or the declaration cannot be applied, or
            something that others made in the database is in the way.
        StoreBusyError: try again.
    """
    check(declared)
    with _refusals(declared), store.maintenance() as connection:
        queue_writers(connection, type_table)
        plan = plan_type(connection, declared)
        applied = load_types(connection).get(declared.name)
        if applied is None:
            create_type(connection, declared, principal)
        elif plan.steps:
            if store.dialect == "postgresql":
                type_alter.lock(connection, applied)
                plan = plan_type(connection, declared)  # nobody else writes from here on
            _check_allowed(plan, allow_data_loss=allow_data_loss)
            _apply(connection, difference(applied, declared), principal)
    forget(store)
    return plan


def refusals(plan: TypePlan, *, allow_data_loss: bool = False) -> list[str]:
    """Return a line for each step of a plan that `migrate_type` would refuse to make."""
    mistakes = [f"{plan.declared.name}: {step}" for step in plan.refused]
    if not allow_data_loss:
        mistakes += [
            f"{plan.declared.name}: {step}; --allow-data-loss does it all the same"
            for step in plan.steps
            if step.lost and not step.refused
        ]
    return mistakes


def _check_allowed(plan: TypePlan, *, allow_data_loss: bool) -> None:
    if mistakes := refusals(plan, allow_data_loss=allow_data_loss):
        raise DeclarationError(mistakes)


def _apply(connection: sa.Connection, found: Difference, principal: Principal) -> None:
    type_triggers.take_away(connection, found.old)
    on_sqlite = connection.dialect.name == "sqlite"
    touched, others = (_rebuild if on_sqlite else _alter)(connection, found)
    for subtable in found.dropped:
        record_tables(found.old).tables[found.old.subtable_name(subtable)].drop(connection)
    for subtable in found.added:
        record_tables(found.new).tables[found.new.subtable_name(subtable)].create(connection)
    type_triggers.bring_back(connection, found.new)
    type_rebuild.put_back(connection, found.new.name, others)
    connection.execute(
        sa.update(type_table)
        .where(type_table.c.name == found.new.name)
        .values(declaration=found.new.to_json(), applied_at=utc_now())
    )
    note_change(connection, found.new, principal, found.renames)
    _keep_index(connection, found)
    _touch(connection, found, touched, principal)


def _rebuild(connection: sa.Connection, found: Difference) -> tuple[_Touched, list[str]]:
    """Change the tables on SQLite; return what was touched, and what has to be put back."""
    changes = [each for each in found.tables if type_rebuild.changed(connection, found, each)]
    others = [
        statement
        for change in changes
        for statement in type_rebuild.take_down(connection, change.old_table)
    ]
    touched: _Touched = {}
    for change in changes:
        columns = _convert(connection, found, change, touched)
        type_rebuild.rebuild(connection, found, change, columns)
    return touched, others


def _alter(connection: sa.Connection, found: Difference) -> tuple[_Touched, list[str]]:
    """Change the tables on PostgreSQL; return as `_rebuild` does."""
    again = type_alter.silence(connection, found)
    touched: _Touched = {}
    for change in found.tables:
        columns = _convert(connection, found, change, touched)
        type_alter.alter(connection, found, change, columns)
    return touched, again


def _convert(
    connection: sa.Connection, found: Difference, change: TableChange, touched: _Touched
) -> dict[str, str]:
    """Put converted values into columns of their own; return their names by the old field's."""
    columns = {}
    for number, pair in enumerate(each for each in change.kept if each.converted):
        columns[pair.old.name] = name = f"keepline__{number}"
        values = kept_values(connection, found, change, pair)
        _fill(connection, found, change, pair, name, values)
        if changes_images(pair.old, pair.new):
            rows = touched.setdefault(change.new_table, (pair.new.name, set()))[1]
            rows.update(key for key, _ in values)
    return columns


def _fill(
    connection: sa.Connection,
    found: Difference,
    change: TableChange,
    pair: FieldPair,
    name: str,
    values: Sequence[tuple[tuple[Any, ...], Any]],
) -> None:
    old = record_tables(found.old).tables[change.old_table]
    type_ = record_tables(found.new).tables[change.new_table].c[pair.new.name].type
    key = [each.name for each in old.primary_key]
    columns = [sa.Column(each, sa.Text) for each in key]
    table = sa.Table(change.old_table, sa.MetaData(), *columns, sa.Column(name, type_))
    specified = CreateColumn(table.c[name]).compile(connection)
    quote = connection.dialect.identifier_preparer.quote
    connection.exec_driver_sql(f"ALTER TABLE {quote(change.old_table)} ADD COLUMN {specified}")
    parameters = [
        _key_parameters(row) | {"converted": converted(pair, value)} for row, value in values
    ]
    if parameters:
        update = sa.update(table).where(_at(table, key)).values({name: sa.bindparam("converted")})
        connection.execute(update, parameters)


def _at(table: sa.TableClause, key: Sequence[str]) -> sa.ColumnElement[bool]:
    parts = (table.c[name] == sa.bindparam(f"key_{i}") for i, name in enumerate(key))
    return sa.and_(*parts)


def _key_parameters(key: tuple[Any, ...]) -> dict[str, Any]:
    return {f"key_{i}": part for i, part in enumerate(key)}


def _keep_index(connection: sa.Connection, found: Difference) -> None:
    """Bring what the index copies from the declaration to what that says now."""
    kept: dict[str, Any] = {}
    if found.old.anonymous != found.new.anonymous:
        kept["anonymous"] = found.new.anonymous
    if found.old.subject and not found.new.subject:
        kept["subject_no"] = None
    if found.old.finalised and not found.new.finalised:
        kept["finalised"] = False
    if kept:
        mine = record_index.c.record_type == found.new.name
        connection.execute(sa.update(record_index).where(mine).values(kept))


def _touch(
    connection: sa.Connection, found: Difference, touched: _Touched, principal: Principal
) -> None:
    """Give the records with converted values a revision, and an image that holds these."""
    if not any(keys for _, keys in touched.values()):
        return
    with type_triggers.acting(connection, principal, REASON):
        for name, (field, keys) in touched.items():
            table = record_tables(found.new).tables[name]
            at = _at(table, [each.name for each in table.primary_key])
            update = sa.update(table).where(at).values({field: table.c[field]})
            for key in sorted(keys):
                connection.execute(update, _key_parameters(key))


@contextmanager
def _refusals(declared: RecordType) -> Iterator[None]:
    """Say what the database refuses; its first line holds no values."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _TRY_AGAIN:
            raise StoreBusyError from error
        said = f"{declared.name}: the database refuses the migration: {first_line(error)}"
        raise DeclarationError([said]) from error
