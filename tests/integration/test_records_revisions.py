"""The history of a record: who changed what when and why, and how it stood at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from keepline.model import Field, FieldGroup, Principal, RecordImage, RecordType, SubTable, utc_now
from keepline.records import apply_type, put_record
from keepline.records.images import Renaming, decode
from keepline.records.revisions import (
    Change,
    Revision,
    as_of,
    differences,
    field_changes,
    history,
)
from keepline.store import Store
from keepline.store.recordset import fetch
from keepline.store.tables.records import record_history
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, around, on_sqlite

NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
VALUES = {"label": "first", "pieces": 1, "weight": 2.0, "taken": NOON, "extra": {"n": 1.0}}
PARTS = {"part": [{"part": "a", "amount": 1.0, "checked_at": NOON}, {"part": "b"}]}

#: A record type with what SPECIMEN lacks.
VISIT = RecordType(
    name="visit",
    fields=(
        Field("day", "date"),
        Field("scan", "blob"),
        Field("weight", "real"),
        Field("unit", choices=("g", "kg")),
    ),
    groups=(FieldGroup("mass", ("weight", "unit")),),
)


def put(store: Store, values: Any = None, parts: Any = None, **options: Any) -> None:
    with store.write(options.pop("who", ANN), options.pop("reason", None)) as connection:
        put_record(connection, SPECIMEN, "a", values or VALUES, parts or PARTS, **options)


def change(store: Store, statement: str, who: Principal = ANN, reason: str | None = None) -> None:
    with store.write(who, reason) as connection:
        for each in statement.split(";"):
            connection.exec_driver_sql(each)


def image(store: Store, declared: RecordType = SPECIMEN) -> RecordImage | None:
    with store.read() as connection:
        return next(fetch(connection, declared, ANN, ["a"]), None)


def told(instance: StoreInstance, principal: Principal = ANN) -> list[Revision]:
    return history(SPECIMEN, "a", instance=instance, principal=principal)


def like(found: RecordImage | None, wanted: RecordImage | None) -> bool:
    """Return whether a state of the history is a state that was read, but for its token."""
    if found is None or wanted is None:
        return found is wanted
    return replace(found, born=0, rev=0) == replace(wanted, born=0, rev=0)


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """Give the queries that run within the block."""
    queries: list[str] = []

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            queries.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    yield queries
    event.remove(store.engine, "before_cursor_execute", note)


def test_a_new_record_is_one_revision_with_all_its_values(instance: StoreInstance) -> None:
    before = utc_now() - timedelta(milliseconds=1)
    put(instance.store, reason="came by post")
    (first,) = told(instance)
    assert (first.number, first.op, first.who, first.why) == (1, "insert", "ann", "came by post")
    assert before <= first.at <= utc_now()
    assert first.fields["taken"] == Change(None, NOON)
    assert first.fields["extra"] == Change(None, {"n": 1.0})
    assert "frozen" not in first.fields
    assert [(each.key, each.op) for each in first.subrows] == [("a", "insert"), ("b", "insert")]
    assert like(first.after, image(instance.store))


def test_an_update_tells_before_and_after_of_what_changed_alone(instance: StoreInstance) -> None:
    put(instance.store)
    change(
        instance.store,
        "UPDATE rec_specimen SET label = 'second', frozen = (1 = 1) WHERE record_key = 'a'",
        BEN,
        "misread",
    )
    revision = told(instance)[-1]
    assert (revision.number, revision.op, revision.who, revision.why) == (
        2,
        "update",
        "ben",
        "misread",
    )
    assert revision.fields == {"label": Change("first", "second"), "frozen": Change(None, True)}
    assert revision.subrows == ()
    assert like(revision.after, image(instance.store))


def test_subrows_that_come_change_and_go_are_told_by_key(instance: StoreInstance) -> None:
    put(instance.store)
    parts = {"part": [{"part": "a", "amount": 7.0, "checked_at": NOON}, {"part": "c"}]}
    put(instance.store, parts=parts)
    revision = told(instance)[-1]
    assert revision.number == 2
    assert revision.fields == {}
    assert [(each.subtable, each.key, each.op) for each in revision.subrows] == [
        ("part", "a", "update"),
        ("part", "b", "delete"),
        ("part", "c", "insert"),
    ]
    assert revision.subrows[0].fields == {"amount": Change(1.0, 7.0)}
    assert like(revision.after, image(instance.store))


def test_all_of_one_transaction_is_one_revision(instance: StoreInstance) -> None:
    put(instance.store)
    change(
        instance.store,
        "UPDATE rec_specimen SET label = 'x' WHERE record_key = 'a';"
        "UPDATE rec_specimen__part SET amount = 5 WHERE record_key = 'a' AND part = 'a';"
        "UPDATE rec_specimen SET label = 'y', pieces = 2 WHERE record_key = 'a';"
        "UPDATE rec_specimen__part SET amount = 6 WHERE record_key = 'a' AND part = 'a'",
    )
    revision = told(instance)[-1]
    assert revision.number == 2
    assert revision.fields == {"label": Change("first", "y"), "pieces": Change(1, 2)}
    assert [each.fields for each in revision.subrows] == [{"amount": Change(1.0, 6.0)}]
    assert like(revision.after, image(instance.store))


def test_a_deleted_and_recreated_record_begins_anew(instance: StoreInstance) -> None:
    put(instance.store)
    change(instance.store, "DELETE FROM rec_specimen WHERE record_key = 'a'", BEN)
    put(instance.store, {"label": "again"}, {"part": [{"part": "z"}]})
    first, gone, again = told(instance)
    assert (gone.op, gone.who, gone.after) == ("delete", "ben", None)
    assert gone.fields["label"] == Change("first", None)
    assert [(each.key, each.op) for each in gone.subrows] == [("a", "delete"), ("b", "delete")]
    assert again.fields == {"label": Change(None, "again")}
    assert [(each.key, each.op) for each in again.subrows] == [("z", "insert")]
    assert like(again.after, image(instance.store))
    assert first.number < gone.number < again.number


def test_a_writer_that_went_around_has_no_name(instance: StoreInstance) -> None:
    put(instance.store)
    with around(instance.store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET label = 'raw'")
    assert (told(instance)[-1].who, told(instance)[-1].why) == (None, None)


def test_as_of_gives_the_state_at_and_between_commits(instance: StoreInstance) -> None:
    store = instance.store
    states = [(utc_now() - timedelta(seconds=1), None)]
    for step in (
        lambda: put(store),
        lambda: change(store, "UPDATE rec_specimen SET label = 'b', weight = 1e300"),
        lambda: change(store, "DELETE FROM rec_specimen__part WHERE part = 'a'"),
        lambda: change(store, "DELETE FROM rec_specimen"),
        lambda: put(store, {"label": "again"}),
    ):
        time.sleep(0.003)  # SQLite stamps milliseconds
        step()
        time.sleep(0.003)
        states.append((utc_now(), image(store)))
    for moment, wanted in states:
        found = as_of(SPECIMEN, "a", moment, instance=instance, principal=ANN)
        assert like(found, wanted), moment
    for revision in told(instance):
        found = as_of(SPECIMEN, "a", revision.at, instance=instance)
        assert like(found, revision.after)


def test_as_of_needs_a_zone_and_a_record(instance: StoreInstance) -> None:
    with pytest.raises(ValueError, match="zone"):
        as_of(SPECIMEN, "a", datetime(2024, 5, 1), instance=instance)  # noqa: DTZ001
    assert as_of(SPECIMEN, "a", utc_now(), instance=instance) is None
    assert told(instance) == []


def test_differences_are_told_by_field_and_subrow(instance: StoreInstance) -> None:
    put(instance.store)
    change(instance.store, "UPDATE rec_specimen SET label = 'b'; DELETE FROM rec_specimen__part")
    first, second = (each.after for each in told(instance))
    found = differences(first, second)
    assert found.fields == {"label": Change("first", "b")}
    assert [(each.key, each.op) for each in found.subrows] == [("a", "delete"), ("b", "delete")]
    assert not differences(second, second)
    assert differences(None, second).fields["label"] == Change(None, "b")
    assert differences(second, None).fields["label"] == Change("b", None)


def test_the_last_change_of_each_field_has_a_name_and_a_time(instance: StoreInstance) -> None:
    put(instance.store)
    change(instance.store, "UPDATE rec_specimen SET label = 'b', pieces = 2", ANN)
    change(instance.store, "UPDATE rec_specimen SET label = 'c'", BEN)
    change(instance.store, "UPDATE rec_specimen__part SET amount = 3", BEN)
    revisions = told(instance)
    with instance.store.read() as connection:
        found = field_changes(connection, SPECIMEN, "a", 1)
        assert field_changes(connection, SPECIMEN, "a", 3) == {}
    assert found == {"label": ("ben", revisions[2].at), "pieces": ("ann", revisions[1].at)}


def test_the_number_of_queries_does_not_grow(instance: StoreInstance) -> None:
    put(instance.store)
    for n in range(9):
        change(instance.store, f"UPDATE rec_specimen SET pieces = {n + 10}")
    with counted(instance.store) as queries:
        assert len(told(instance)) == 10
    assert len(queries) <= 2


def test_the_group_of_each_image_decides_who_sees_it(instance: StoreInstance) -> None:
    red, blue = (Principal(name, groups=frozenset([name])) for name in ("red", "blue"))
    put(instance.store, group="red")
    change(instance.store, "UPDATE rec_specimen SET label = 'b'")
    change(instance.store, "UPDATE rec_specimen SET label = 'c', group_name = 'blue'")
    change(instance.store, "DELETE FROM rec_specimen")
    assert [each.number for each in told(instance, red)] == [1, 2]
    moved, gone = told(instance, blue)
    assert (moved.number, gone.number) == (3, 4)
    assert moved.fields["label"] == Change(None, "c")  # not what it was in the other group
    assert told(instance, Principal("nobody")) == []
    moments = [each.at for each in told(instance)]
    assert as_of(SPECIMEN, "a", moments[1], instance=instance, principal=blue) is None
    assert as_of(SPECIMEN, "a", moments[1], instance=instance, principal=red) is not None


def test_dates_blobs_and_odd_numbers_come_back_as_they_are_read(instance: StoreInstance) -> None:
    apply_type(instance.store, VISIT, ANN)
    numbers = (0.1, 1e300, 5e-324, -0.0, 1 / 3, 2.0**60, float("inf"), 123456789.0)
    for number in numbers:
        values = {"day": date(2024, 2, 29), "scan": b"\x00\xff", "weight": number, "unit": "kg"}
        with instance.store.write(ANN) as connection:
            connection.exec_driver_sql("DELETE FROM rec_visit")
            put_record(connection, VISIT, "a", values)
        last = history(VISIT, "a", instance=instance)[-1].after
        assert like(last, image(instance.store, VISIT))
        assert last is not None
        # Neither SQLite nor PostgreSQL's JSON knows the sign of a zero.
        assert repr(last.values["weight"]) == repr(number).replace("-0.0", "0.0")


@on_sqlite
def test_weakly_typed_values_stay_as_they_are(instance: StoreInstance) -> None:
    put(instance.store)
    change(instance.store, "UPDATE rec_specimen SET weight = 'heavy', pieces = 1.5")
    found = told(instance)[-1].after
    assert found is not None
    assert (found.values["weight"], found.values["pieces"]) == ("heavy", 1.5)


RENAMED = replace(
    SPECIMEN,
    fields=tuple(
        replace(each, name="title", was="label") if each.name == "label" else each
        for each in SPECIMEN.fields
        if each.name != "pieces"
    ),
    subtables=(
        SubTable(
            name="slice",
            key="part",
            fields=(Field("mass", "real"), Field("checked_at", "datetime")),
        ),
    ),
)


def test_images_are_read_by_the_names_of_today() -> None:
    renames = [Renaming(9, {"label": "title", "part": "slice", "part.amount": "slice.mass"})]
    found = decode(RENAMED, {"label": "l", "pieces": 3, "weight": 2}, renames=renames)
    assert found == {"title": "l", "pieces": 3, "weight": 2.0}
    found = decode(
        RENAMED,
        {"amount": 1, "checked_at": "2024-05-01 12:00:00.123456"},
        subtable="part",
        renames=renames,
    )
    assert found == {"mass": 1.0, "checked_at": NOON}


def test_renames_follow_one_another_and_may_swap_names() -> None:
    fields = (Field("a", "integer"), Field("b", "real"))
    declared = RecordType(name="swapped", fields=fields)
    renames = [Renaming(5, {"x": "b"}), Renaming(9, {"a": "b", "b": "a"})]
    assert decode(declared, {"x": 1, "a": 2}, renames=renames) == {"a": 1, "b": 2.0}


def test_an_erased_image_is_told_without_its_content(instance: StoreInstance) -> None:
    put(instance.store)
    change(instance.store, "UPDATE rec_specimen SET label = 'b'")
    with instance.store.write(ANN, erasing=True) as connection:
        connection.execute(sa.update(record_history).values(image=None, reason=None, erased=True))
    assert [(each.erased, each.after, dict(each.fields)) for each in told(instance)] == [
        (True, None, {}),
        (True, None, {}),
    ]
