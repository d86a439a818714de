"""Any declaration becomes any other one: the tables of a new type, with the values that survive."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from keepline.errors import DeclarationError
from keepline.model import Field, RecordType, SubTable
from keepline.records.conversions import changes_images
from keepline.records.type_changes import migrate_type
from keepline.records.type_difference import TableChange, difference
from keepline.records.type_plan import converted
from keepline.records.types import apply_type
from keepline.records.values import same
from keepline.store import Store
from keepline.store.tables.declared import record_tables
from keepline.store.tables.records import change_feed
from tests.stores import ANN
from tests.type_tables import shape

NUMBERS = itertools.count()
NAMES = ("a", "b", "order", "c_1")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(["", "1", "2.5", "true", "2026-01-31", "ü'%", "00ff"]),
    "integer": st.sampled_from([0, 1, 2, -(2**62)]),
    "real": st.sampled_from([0.0, 1.0, 0.1, 1e300]),
    "boolean": st.booleans(),
    "date": st.just(date(2026, 1, 31)),
    "datetime": st.just(datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)),
    "json": st.sampled_from([1, 1.5, "x", True, {"a": [1]}]),
    "blob": st.sampled_from([b"", b"\x00\xff"]),
}

Rows = list[dict[str, Any]]


@st.composite
def a_field(draw: st.DrawFn, name: str, was: str | None = None) -> Field:
    kind = draw(st.sampled_from(sorted(VALUES)))
    field = Field(
        name,
        kind,  # type: ignore[arg-type]  # one of the field types
        comment=draw(st.sampled_from(["", "it's 100%"])),
        required=draw(st.booleans()) and draw(st.booleans()),
        was=was,
    )
    if kind == "integer" and draw(st.booleans()):
        field = replace(field, minimum=draw(st.sampled_from([0, 1])), missing=((-9, "gone"),))
    if kind == "text" and draw(st.booleans()):
        field = replace(field, choices=draw(st.sampled_from([("1", "true"), ("1", "ü'%", "x")])))
    return field


@st.composite
def some_fields(draw: st.DrawFn, old: tuple[Field, ...] = ()) -> tuple[Field, ...]:
    fields = []
    former = [field.name for field in old]
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1)):
        was = draw(st.sampled_from([None, *former]))
        same_as = next((field for field in old if field.name == (was or name)), None)
        if same_as is not None and draw(st.booleans()):
            fields.append(replace(same_as, name=name, was=was))
        else:
            fields.append(draw(a_field(name, was)))
    return tuple(fields)


@st.composite
def a_type(draw: st.DrawFn, old: RecordType | None = None) -> RecordType:
    subtables = []
    former = old.subtables if old else ()
    for name in draw(st.lists(st.sampled_from(["s", "order"]), unique=True)):
        was = draw(st.sampled_from([None, *(each.name for each in former)]))
        before = next((each.fields for each in former if each.name == (was or name)), ())
        key = draw(st.sampled_from(["k", "key"]))
        subtables.append(SubTable(name, key, draw(some_fields(before)), was=was))
    return RecordType(
        "x",
        draw(some_fields(old.fields if old else ())),
        tuple(subtables),
        comment=draw(st.sampled_from(["", "said"])),
        subject=draw(st.booleans()),
        finalised=draw(st.booleans()),
        reason_required=draw(st.booleans()),
    )


@st.composite
def rows(draw: st.DrawFn, fields: tuple[Field, ...]) -> Rows:
    return [{f.name: draw(_value(f)) for f in fields} for _ in range(draw(st.integers(0, 2)))]


def _value(field: Field) -> st.SearchStrategy[Any]:
    values = st.sampled_from(field.choices) if field.choices else VALUES[field.type]
    if field.minimum is not None:
        values = st.sampled_from([1, 2, -9])
    return values if field.required else st.none() | values


@st.composite
def a_migration(draw: st.DrawFn) -> tuple[RecordType, RecordType, Rows, dict[str, Rows]]:
    old = draw(a_type())
    own = draw(rows(old.fields))
    subrows = {each.name: draw(rows(each.fields)) if own else [] for each in old.subtables}
    return old, draw(a_type(old)), own, subrows


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(a_migration())
def test_a_migrated_type_is_as_a_new_one_and_keeps_what_it_can(
    store: Store, drawn: tuple[RecordType, RecordType, Rows, dict[str, Rows]]
) -> None:
    old, new, own, subrows = drawn
    number = next(NUMBERS)
    old, new = (replace(each, name=f"old{number}") for each in (old, new))
    apply_type(store, old, ANN)
    _fill(store, old, own, subrows)
    before, feed = _state(store, old), _feed_length(store)
    mistakes: tuple[str, ...] = ()
    try:
        plan = migrate_type(store, new, ANN, allow_data_loss=True)
    except DeclarationError as error:
        event("refused")
        mistakes = error.mistakes
    if mistakes:
        assert all(mistake.startswith(f"{new.name}: ") for mistake in mistakes)
        assert _state(store, old) == before
        return
    event(f"made, {'with' if plan.lost else 'without'} loss")
    fresh = replace(new, name=f"new{number}")
    apply_type(store, fresh, ANN)
    with store.read() as connection:
        assert shape(connection, new) == shape(connection, fresh)
    found = difference(old, new)
    rewritten = False
    for change in found.tables:
        now = _rows(store, new, change.new_table)
        assert len(now) == len(before[change.old_table])
        for former, row in zip(before[change.old_table], now, strict=True):
            _assert_survived(change, former, row)
            rewritten |= any(
                changes_images(pair.old, pair.new) and former[pair.old.name] is not None
                for pair in change.kept
            )
    assert (_feed_length(store) > feed) == rewritten


def _assert_survived(change: TableChange, former: dict[str, Any], row: dict[str, Any]) -> None:
    for pair in change.kept:
        value = former[pair.old.name]
        if pair.converted and value is not None:
            value = converted(pair, value)
        assert same(row[pair.new.name], value), (pair, former, row)
    for field in change.added:
        assert row[field.name] is None
    for stamp in ("row_born", "revision"):
        if stamp in former and not any(pair.converted for pair in change.kept):
            assert row[stamp] >= former[stamp]


def _fill(store: Store, declared: RecordType, own: Rows, subrows: dict[str, Rows]) -> None:
    tables = record_tables(declared).tables
    with store.write(ANN) as connection:
        for number, row in enumerate(own):
            connection.execute(
                sa.insert(tables[declared.table_name]).values({"record_key": str(number), **row})
            )
        for subtable in declared.subtables:
            table = tables[declared.subtable_name(subtable)]
            for number, row in enumerate(subrows[subtable.name]):
                key = {"record_key": "0", subtable.key: str(number)}
                connection.execute(sa.insert(table).values({**key, **row}))


def _rows(store: Store, declared: RecordType, name: str) -> Rows:
    table = record_tables(declared).tables[name]
    with store.read() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key))
        return [dict(row._mapping) for row in found]


def _state(store: Store, declared: RecordType) -> dict[str, Rows]:
    return {name: _rows(store, declared, name) for name in record_tables(declared).tables}


def _feed_length(store: Store) -> int:
    with store.read() as connection:
        query = sa.select(sa.func.count()).select_from(change_feed)
        return int(connection.execute(query).scalar_one())
