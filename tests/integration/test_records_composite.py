"""Composite objects: a view over several records, saved all or nothing."""

from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import (
    InvalidRecordError,
    ReadOnlyFieldError,
    RecordError,
    RecordNotFoundError,
    UnknownFieldError,
)
from keepline.model import Field, FieldGroup, Principal, RecordType
from keepline.records import CompositeObject, Outcome, Part, apply_type, business_class, put_record
from keepline.records.types import table_of
from keepline.store import Store
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, around

#: A second type: where a specimen is kept, and who looked at it.
BOX = RecordType(
    "box",
    (
        Field("specimen"),
        Field("shelf", "integer"),
        Field("closed", "boolean"),
        Field("extra", "json"),
    ),
)
Specimen, Box = business_class(SPECIMEN), business_class(BOX)

VIEW = """CREATE VIEW kept AS
SELECT b.record_key AS box_key, b.row_born AS box_born, b.row_rev AS box_rev, b.shelf, b.extra,
    b.revision AS box_revision,
    s.record_key AS specimen_key, s.row_born AS specimen_born, s.row_rev AS specimen_rev,
    s.label AS what, s.pieces, s.taken,
    coalesce(s.pieces, 0) * 2 AS twice,
    r.record_key AS room_key, r.row_born AS room_born, r.row_rev AS room_rev
FROM rec_box b LEFT JOIN rec_specimen s ON s.record_key = b.specimen
LEFT JOIN rec_specimen r ON r.record_key = 'room'"""


class Kept(CompositeObject):
    """A box with what is in it; valid only while the room stays as it is."""

    _source = "kept"
    _key = "box_key"
    _parts = (
        Part("what", "specimen", "specimen_key", "specimen_born", "specimen_rev",
             {"what": "label", "pieces": "pieces", "taken": "taken"}),
        Part("box", "box", "box_key", "box_born", "box_rev", {"shelf": "shelf", "extra": "extra"},
             revision="box_revision"),
        Part("room", "specimen", "room_key", "room_born", "room_rev", guard=True),
    )  # fmt: skip


@pytest.fixture
def kept(instance: StoreInstance) -> StoreInstance:
    apply_type(instance.store, BOX, ANN)
    with instance.store.write(ANN) as connection:
        put_record(connection, SPECIMEN, "s", {"label": "blood", "pieces": 1}, group="red")
        put_record(connection, SPECIMEN, "room", {"label": "room 1"})
        put_record(connection, BOX, "b", {"specimen": "s", "shelf": 1, "extra": {"a": [1]}})
        put_record(connection, BOX, "empty", {"shelf": 2})
        connection.exec_driver_sql(VIEW)
    return instance


def rows(store: Store) -> tuple[Any, ...]:
    with store.read() as connection:
        box = connection.exec_driver_sql("SELECT shelf FROM rec_box WHERE record_key = 'b'")
        specimen = connection.exec_driver_sql(
            "SELECT label, pieces FROM rec_specimen WHERE record_key = 's'"
        )
        return (box.scalar(), *specimen.one())


def change(store: Store, statement: str) -> None:
    with around(store) as connection:
        connection.exec_driver_sql(statement)


def test_columns_are_read_and_set_by_the_parts_they_belong_to(kept: StoreInstance) -> None:
    obj = Kept("b", instance=kept, principal=BEN)
    assert (obj["what"], obj["shelf"], obj["twice"], obj["taken"]) == ("blood", 1, 2, None)
    assert "what" in obj
    assert repr(obj) == "Kept('b')"
    for name in ("twice", "box_key", "room_rev"):
        with pytest.raises(ReadOnlyFieldError):
            obj[name] = 1
    with pytest.raises(UnknownFieldError):
        obj["nothing"] = 1
    with pytest.raises(InvalidRecordError):
        obj["pieces"] = "1"
    assert obj.save_payload().outcome is Outcome.UNCHANGED
    obj["what"], obj["shelf"] = "plasma", 5
    obj["extra"]["a"].append(2)
    assert obj.changed_fields == ("shelf", "extra", "what")
    result = obj.save_payload()
    assert (result.outcome, bool(result)) == (Outcome.SAVED, True)
    assert {name: part.outcome.value for name, part in result.parts.items()} == {
        "box": "saved",
        "what": "saved",
        "room": "unchanged",
    }
    assert rows(kept.store) == (5, "plasma", 1)
    assert obj.changed_fields == ()
    obj["pieces"] = 3
    assert obj.save_payload()
    assert obj["twice"] == 6


def test_disjoint_edits_merge(kept: StoreInstance) -> None:
    obj = Kept("b", instance=kept, principal=BEN)
    change(kept.store, "UPDATE rec_specimen SET pieces = 7 WHERE record_key = 's'")
    obj["what"], obj["shelf"] = "plasma", 5
    assert obj.save_payload().outcome is Outcome.MERGED
    assert rows(kept.store) == (5, "plasma", 7)
    assert obj["pieces"] == 7


def test_fault_a_composite_save_committed_its_first_update_before_the_second_was_refused(
    kept: StoreInstance,
) -> None:
    obj = Kept("b", instance=kept, principal=BEN)
    other = Specimen("s", instance=kept, principal=ANN)
    other["label"] = "by ann"
    other.save()
    obj["what"], obj["shelf"] = "by ben", 5
    result = obj.save_payload()
    assert not result
    assert (result.outcome, result.parts["box"].outcome) == (Outcome.CONFLICT, Outcome.SAVED)
    assert result.conflict is not None
    assert result.conflict.conflicting == ("label",)
    assert result.conflict.edits["label"][0] == "ann"
    assert rows(kept.store) == (1, "by ann", 1)
    assert (obj["what"], obj["shelf"], obj.refused) == ("by ben", 5, result)
    assert not obj.refetch_payload()
    assert obj.refetch_payload(ignore_changes=True)
    assert obj["what"] == "by ann"


@pytest.mark.parametrize(
    ("statement", "outcome"),
    [
        ("UPDATE rec_specimen SET label = 'moved' WHERE record_key = 'room'", "conflict"),
        ("DELETE FROM rec_specimen WHERE record_key = 'room'", "deleted"),
    ],
)
def test_a_stale_guard_and_nothing_is_written(
    kept: StoreInstance, statement: str, outcome: str
) -> None:
    obj = Kept("b", instance=kept, principal=BEN)
    change(kept.store, statement)
    obj["what"], obj["shelf"] = "by ben", 5
    result = obj.save_payload()
    assert (result.outcome.value, result.parts["room"].outcome.value) == (outcome, outcome)
    assert rows(kept.store) == (1, "blood", 1)
    assert obj["shelf"] == 5


def test_a_constraint_of_one_part_and_nothing_is_written(kept: StoreInstance) -> None:
    change(kept.store, "CREATE UNIQUE INDEX shelf_once ON rec_box (shelf)")
    obj = Kept("b", instance=kept, principal=BEN)
    obj["what"], obj["shelf"] = "by ben", 2
    result = obj.save_payload()
    assert (result.outcome, result.parts["what"].outcome) == (Outcome.INVALID, Outcome.SAVED)
    assert "shelf" in (result.constraint or "")
    assert rows(kept.store) == (1, "blood", 1)


def test_parts_are_deleted_only_as_they_were_read(kept: StoreInstance) -> None:
    obj = Kept("b", instance=kept, principal=BEN)
    for name in ("room", "nothing"):
        with pytest.raises(RecordError):
            obj.delete_part(name)
    change(kept.store, "UPDATE rec_specimen SET pieces = 7 WHERE record_key = 's'")
    obj["shelf"] = 5
    obj.delete_part("what")
    with pytest.raises(ReadOnlyFieldError):
        obj["what"] = "gone"
    assert obj.save_payload().outcome is Outcome.CONFLICT
    assert rows(kept.store) == (1, "blood", 7)
    obj.refetch_payload(ignore_changes=True)
    obj["shelf"] = 5
    obj.delete_part("what")
    assert obj.save_payload().outcome is Outcome.SAVED
    assert obj["specimen_key"] is None
    assert obj["shelf"] == 5


def test_a_part_that_is_not_there_cannot_be_set(kept: StoreInstance) -> None:
    obj = Kept("empty", instance=kept, principal=BEN)
    with pytest.raises(ReadOnlyFieldError):
        obj["what"] = "something"
    obj["shelf"] = 3
    assert obj.save_payload().outcome is Outcome.SAVED


def test_a_view_shows_only_what_each_part_shows(kept: StoreInstance) -> None:
    blue = Principal("cleo", groups=frozenset({"blue"}))
    with pytest.raises(RecordNotFoundError):
        Kept("b", instance=kept, principal=blue)
    assert Kept("empty", instance=kept, principal=blue)["shelf"] == 2


def test_the_callers_transaction_is_joined(kept: StoreInstance) -> None:
    obj = Kept("b", instance=kept, principal=BEN)
    connection = kept.store.engine.connect()
    obj["shelf"], obj["what"] = 9, "lost"
    assert obj.save_payload(connection=connection).outcome is Outcome.SAVED
    assert obj.changed_fields == ()
    connection.close()
    assert obj.changed_fields == ("shelf", "what")
    assert rows(kept.store) == (1, "blood", 1)
    assert obj.save_payload("why").outcome is Outcome.SAVED
    assert rows(kept.store) == (9, "lost", 1)


def test_something_selectable_is_a_view_too(kept: StoreInstance) -> None:
    box, specimen = table_of(BOX), table_of(SPECIMEN)

    class Joined(CompositeObject):
        _source = sa.select(
            box.c.record_key.label("k"), box.c.row_born, box.c.row_rev, box.c.shelf,
            specimen.c.label,
        ).join_from(box, specimen, specimen.c.record_key == box.c.specimen)  # fmt: skip
        _key = "k"
        _parts = (Part("box", "box", "k", "row_born", "row_rev", {"shelf": "shelf"}),)

    obj = Joined("b", instance=kept)
    assert obj["label"] == "blood"
    obj["shelf"] = 4
    assert obj.save_payload()
    assert rows(kept.store)[0] == 4


DOSED = RecordType(
    "dosed",
    (Field("dose", "real"), Field("unit"), Field("note")),
    groups=(FieldGroup("amount", ("dose", "unit")),),
)


class Doses(CompositeObject):
    """A view that shows a dose without its unit."""

    _source = "doses"
    _key = "record_key"
    _parts = (Part("dosed", "dosed", "record_key", "row_born", "row_rev", {"dose": "dose"}),)


def test_a_field_that_belongs_to_a_hidden_one_does_not_join_what_others_made_of_it(
    instance: StoreInstance,
) -> None:
    apply_type(instance.store, DOSED, ANN)
    with instance.store.write(ANN) as connection:
        put_record(connection, DOSED, "a", {"dose": 5.0, "unit": "mg"})
        connection.exec_driver_sql(
            "CREATE VIEW doses AS SELECT record_key, row_born, row_rev, dose FROM rec_dosed"
        )
    mine, theirs = Doses("a", instance=instance), business_class(DOSED)("a", instance=instance)
    mine["dose"], theirs["note"] = 6.0, "watch"
    assert theirs.save()
    assert mine.save_payload().outcome is Outcome.MERGED
    assert "unit" not in mine
    theirs.refetch_payload()
    mine["dose"], theirs["unit"] = 7.0, "g"
    assert theirs.save()
    result = mine.save_payload()
    assert result.outcome is Outcome.CONFLICT
    assert result.conflict is not None
    assert result.conflict.conflicting == ("dose", "unit")
    theirs.refetch_payload()
    assert (theirs["dose"], theirs["unit"]) == (6.0, "g")
    mine.refetch_payload(ignore_changes=True)
    mine["dose"] = 8.0
    assert mine.save_payload().outcome is Outcome.SAVED
