"""The known faults of the original, each as a test; and records that are closed or give reasons.

Those of a caller's transaction are in test_records_joined, that of a composite save in
test_records_composite.
"""

import gc
import tracemalloc
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRecordError,
    RecordError,
    UnknownFieldError,
)
from keepline.model import Field, FieldGroup, Principal, RecordImage, RecordType
from keepline.records import BusinessObject, Outcome, apply_type, business_class, put_record
from keepline.records.etag import ETag, matches
from keepline.render.json import record_value
from keepline.store import Store
from keepline.store.recordset import fetch
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, around

#: A type with everything that a type can ask for.
VISIT = RecordType(
    "visit",
    (
        Field("title", required=True),
        Field("dose", "real"),
        Field("unit", choices=("mg", "g")),
        Field("low", "integer"),
        Field("high", "integer"),
        Field("day", "date"),
        Field("scan", "blob", max_bytes=4),
        Field("score", "integer", choices=(0, 1, 2), missing=((-99, "refused"),)),
        Field("share", "real", minimum=0, maximum=1, missing=((-1.0, "unknown"),)),
    ),
    groups=(FieldGroup("amount", ("dose", "unit")),),
    subject=True,
    finalised=True,
    reason_required=True,
)
Visit, Specimen = business_class(VISIT), business_class(SPECIMEN)


@pytest.fixture
def visits(instance: StoreInstance) -> StoreInstance:
    apply_type(instance.store, VISIT, ANN)
    with instance.store.write(ANN) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO subject (identifier, created_at) "
                "VALUES ('planted', '2024-05-01 00:00:00.000000')"
            )
        )
    Visit.create(
        "v", {"title": "first", "dose": 1.0, "unit": "g", "low": 1, "high": 9},
        subject=1, instance=instance, principal=ANN,
    )  # fmt: skip
    return instance


@pytest.fixture
def specimens(instance: StoreInstance) -> StoreInstance:
    with instance.store.write(ANN) as connection:
        for key in "abc":
            put_record(connection, SPECIMEN, key, {"label": "first", "extra": {"list": [1]}})
    return instance


def opened(instance: StoreInstance, principal: Principal = ANN, **kwargs: Any) -> BusinessObject:
    return Specimen("a", instance=instance, principal=principal, **kwargs)


def visit(instance: StoreInstance, principal: Principal = ANN) -> BusinessObject:
    return Visit("v", instance=instance, principal=principal)


def raw(store: Store, *statements: str) -> None:
    with around(store) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


# The faults, in the order in which they were found


def test_fault_two_updates_in_one_transaction_shared_a_version(specimens: StoreInstance) -> None:
    obj = opened(specimens)
    tokens = {obj.token}
    with around(specimens.store) as connection:
        for label in ("one", "first"):  # the second brings the old values back
            connection.exec_driver_sql(f"UPDATE rec_specimen SET label = '{label}'")
            row = connection.exec_driver_sql(
                "SELECT row_born, row_rev FROM rec_specimen WHERE record_key = 'a'"
            ).one()
            tokens.add(tuple(row))  # type: ignore[arg-type]  # compared only
    assert len(tokens) == 3
    obj["label"] = "mine"
    assert obj.save() is Outcome.MERGED  # it was seen, and nobody's value is overwritten


def test_fault_a_row_made_again_in_one_transaction_passed_as_the_same(
    specimens: StoreInstance,
) -> None:
    obj = opened(specimens)
    raw(
        specimens.store,
        "DELETE FROM rec_specimen WHERE record_key = 'a'",
        "INSERT INTO rec_specimen (record_key, label) VALUES ('a', 'first')",
    )
    obj["label"] = "mine"
    assert obj.save() is Outcome.REPLACED
    with pytest.raises(ConflictError):
        obj.delete()


def test_fault_an_unguarded_last_select_reported_success_on_a_conflict(
    specimens: StoreInstance,
) -> None:
    mine, theirs = opened(specimens), opened(specimens, BEN)
    theirs["label"], mine["label"] = "theirs", "mine"
    theirs.save()
    result = mine.save_payload()
    assert (bool(result), result.outcome) == (False, Outcome.CONFLICT)
    assert mine.token != theirs.token
    assert mine.is_changed()


def test_fault_a_failure_was_a_truthy_tuple(specimens: StoreInstance) -> None:
    mine, theirs = opened(specimens), opened(specimens, BEN)
    theirs["label"], mine["label"] = "theirs", "mine"
    theirs.save()
    if result := mine.save_payload():
        pytest.fail(f"taken for a success: {result}")
    ok, (outcome, _) = result
    assert (ok, outcome) == (False, "conflict")


def test_fault_all_fields_were_sent_not_the_changed_ones(specimens: StoreInstance) -> None:
    mine = opened(specimens)
    sent: list[str] = []
    sa.event.listen(specimens.store.engine, "before_cursor_execute", lambda *a: sent.append(a[2]))
    mine["pieces"] = 7
    mine.save()
    (update,) = [text for text in sent if text.startswith("UPDATE rec_specimen")]
    assert update.split("WHERE")[0].count("=") == 1


def test_fault_a_value_set_back_stayed_modified(specimens: StoreInstance) -> None:
    obj = opened(specimens)
    obj["label"] = "x"
    obj["label"] = "first"
    assert (obj.is_changed(), obj.save()) == (False, Outcome.UNCHANGED)


def test_fault_a_value_changed_in_place_went_unseen(specimens: StoreInstance) -> None:
    for number, key in enumerate("ab"):
        obj = Specimen(key, instance=specimens)
        if number:
            obj = next(Specimen.select([key], instance=specimens))
        obj["extra"]["list"].append(2)
        assert obj.changed_fields == ("extra",)
        assert obj.original_payload["extra"] != obj["extra"]
        assert obj.save() is Outcome.SAVED


def test_fault_nothing_held_theirs(specimens: StoreInstance) -> None:
    mine, theirs = opened(specimens), opened(specimens, BEN)
    theirs["label"], mine["label"] = "theirs", "mine"
    theirs["weight"] = 0.5
    theirs.save()
    assert not mine.save_payload()
    assert mine.conflict is not None
    assert mine.modified_payload is not None
    assert mine.conflict.theirs["label"] == mine.modified_payload["label"] == "theirs"
    who, when = mine.conflict.edits["label"]
    assert (who, mine.conflict.edits["weight"][0]) == ("ben", "ben")
    assert abs((when - datetime.now(UTC)).total_seconds()) < 300
    assert "pieces" not in mine.conflict.edits


def test_fault_deletes_checked_no_version(specimens: StoreInstance) -> None:
    mine = opened(specimens)
    raw(specimens.store, "UPDATE rec_specimen SET weight = 2")
    with pytest.raises(ConflictError):
        mine.delete()
    assert opened(specimens)["weight"] == 2.0


# Serialization failures that escaped raw: test_records_save and test_records_joined.


# Groups of fields


def test_a_group_of_fields_conflicts_as_one(visits: StoreInstance) -> None:
    mine, theirs = visit(visits), visit(visits, BEN)
    theirs["dose"], mine["unit"] = 1000.0, "mg"
    theirs.save("converted")
    result = mine.save_payload("converted")
    assert result.conflict is not None
    assert result.conflict.conflicting == ("dose", "unit")
    mine.resolve("dose", choice="theirs")
    mine.resolve("unit", choice="mine")
    assert mine.save("both") is Outcome.SAVED
    assert (visit(visits)["dose"], visit(visits)["unit"]) == (1000.0, "mg")


def test_a_merge_that_breaks_a_constraint_is_a_conflict(visits: StoreInstance) -> None:
    if visits.store.dialect == "sqlite":
        raw(visits.store, "CREATE UNIQUE INDEX both ON rec_visit (low, high)")
        Visit.create("w", {"title": "w", "low": 5, "high": 3}, instance=visits)
    else:
        raw(visits.store, "ALTER TABLE rec_visit ADD CONSTRAINT sane CHECK (low <= high)")
    mine, theirs = visit(visits), visit(visits, BEN)
    theirs["high"], mine["low"] = 3, 5
    assert theirs.save("lower") is Outcome.SAVED
    result = mine.save_payload("higher")
    assert result.outcome is Outcome.CONFLICT
    assert result.constraint is not None
    assert result.conflict is not None
    assert result.conflict.conflicting == ("low",)
    assert (mine["low"], visit(visits)["low"]) == (5, 1)
    mine.resolve("low", 2)
    assert mine.save("less") is Outcome.SAVED
    assert (visit(visits)["low"], visit(visits)["high"]) == (2, 3)


# Finalised records, reasons, subjects


def test_a_change_without_a_required_reason_is_invalid(visits: StoreInstance) -> None:
    obj = visit(visits)
    obj["title"] = "second"
    result = obj.save_payload()
    assert (result.outcome, result.constraint) == (Outcome.INVALID, "reason")
    assert "reason" in result.message
    with pytest.raises(InvalidRecordError, match="reason"):
        obj.delete()
    assert obj.save("corrected") is Outcome.SAVED
    stale = visit(visits)
    raw(visits.store, "UPDATE subject SET group_name = NULL")
    assert stale.delete("a test") is True


def test_a_finalised_record_is_forbidden_until_it_is_reopened(visits: StoreInstance) -> None:
    obj, early = visit(visits), visit(visits, BEN)
    assert obj.finalise("complete").outcome is Outcome.SAVED
    assert (obj.finalised, obj.revision) == (True, 2)
    assert obj.finalise("again").outcome is Outcome.UNCHANGED
    for each in (obj, early):  # one that knows, one that does not
        each["title"] = "too late"
        result = each.save_payload("typo")
        assert result.outcome is Outcome.FORBIDDEN
        assert "finalised" in result.message
        assert each["title"] == "too late"
    with pytest.raises(ForbiddenError):
        visit(visits).delete("a test")
    with pytest.raises(RecordError, match="unsaved"):
        obj.reopen("typo")
    assert visit(visits).reopen("typo").outcome is Outcome.SAVED
    assert early.save("typo") is Outcome.MERGED
    with pytest.raises(RecordError, match="never finalised"):
        Specimen.create("s", {"label": "x"}, instance=visits).finalise()


def test_what_was_not_seen_is_not_finalised(visits: StoreInstance) -> None:
    obj, other = visit(visits), visit(visits, BEN)
    other["title"] = "second"
    other.save("better")
    result = obj.finalise("complete")
    assert (result.outcome, visit(visits).finalised) == (Outcome.CONFLICT, False)
    assert obj.refetch_payload()
    assert obj.finalise("complete")


def test_a_subject_is_a_number_in_objects_images_and_json(visits: StoreInstance) -> None:
    assert visit(visits).subject == 1
    with visits.store.write(ANN) as connection:
        put_record(connection, VISIT, "p", {"title": "put"}, subject=1)
        (image,) = fetch(connection, VISIT, ANN, ["p"])
        with pytest.raises(InvalidRecordError, match="about no subject"):
            put_record(connection, SPECIMEN, "p", {"label": "x"}, subject=1)
    assert isinstance(image, RecordImage)
    assert (image.subject, image.finalised) == (1, False)
    value = record_value(image)
    assert (value["subject"], value["finalised"]) == (1, False)
    assert Visit(row=image, instance=visits).subject == 1
    with pytest.raises(InvalidRecordError):
        Visit.create("q", {"title": "x"}, subject=77, instance=visits)
    with pytest.raises(InvalidRecordError, match="about no subject"):
        Specimen.create("q", {"label": "x"}, subject=1, instance=visits)


def test_the_new_types_come_back_as_they_went_in(visits: StoreInstance) -> None:
    obj = visit(visits)
    scan = bytearray(b"\x00\xff'%")
    obj["day"], obj["scan"], obj["score"], obj["share"] = date(1, 1, 1), scan, -99, -1
    scan[0] = 7
    assert obj.save("filled in") is Outcome.SAVED
    again = visit(visits)
    assert again["day"] == date(1, 1, 1)
    assert type(again["day"]) is date
    assert (again["scan"], type(again["scan"])) == (b"\x00\xff'%", bytes)
    assert (again["score"], again["share"]) == (-99, -1.0)
    with visits.store.read() as connection:
        (image,) = fetch(connection, VISIT, ANN, ["v"])
    fields = record_value(image)["fields"]
    assert (fields["day"], fields["scan"]) == ("0001-01-01", "AP8nJQ==")
    for name, value in {
        "scan": b"12345",
        "score": 3,
        "share": 1.5,
        "day": datetime.now(UTC),
    }.items():
        with pytest.raises(InvalidRecordError):
            again[name] = value


# Making, selecting, tagging


def test_a_key_that_is_taken_is_not_made_again(specimens: StoreInstance) -> None:
    made = Specimen.create("new", {"label": "x", "code": "built"}, group="red", instance=specimens)
    assert (made.revision, made.group, made["code"]) == (1, "red", "built")
    for key, values in {"new": {"label": "y"}, "": {"label": "y"}, "z": {}, "y": {"no": 1}}.items():
        with pytest.raises(InvalidRecordError):
            Specimen.create(key, values, instance=specimens)
    member = Principal("cleo", groups=frozenset({"blue"}))
    with pytest.raises(ForbiddenError):
        Specimen.create("z", {"label": "x"}, group="red", instance=specimens, principal=member)


def test_records_are_selected_by_key_and_by_value(specimens: StoreInstance) -> None:
    raw(specimens.store, "UPDATE rec_specimen SET pieces = 5 WHERE record_key <> 'b'")
    raw(specimens.store, "UPDATE rec_specimen SET group_name = 'red' WHERE record_key = 'c'")

    def found(*args: Any, **kwargs: Any) -> list[str]:
        return [obj.key for obj in Specimen.select(*args, instance=specimens, **kwargs)]

    assert found() == ["a", "b", "c"]
    assert found(["c", "a", "a", "nothing"]) == ["a", "c"]
    assert found(limit=2) == ["a", "b"]
    assert found(where={"pieces": 5}) == ["a", "c"]
    assert found(where={"pieces": None}) == ["b"]
    assert found(["a", "b"], Specimen.table(specimens).c.pieces > 4) == ["a"]
    assert found(principal=Principal("cleo", groups=frozenset({"blue"}))) == ["a", "b"]
    assert found([]) == []
    with pytest.raises(UnknownFieldError):
        found(where={"nothing": 1})


def test_a_class_with_a_constructor_of_its_own_is_selected_too(specimens: StoreInstance) -> None:
    class Counting(Specimen):  # type: ignore[misc, valid-type]  # the class is made at run time
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.count = 1

    obj = next(Counting.select(instance=specimens))
    obj["pieces"] = obj.count
    assert obj.save() is Outcome.SAVED


def test_an_object_is_small(specimens: StoreInstance) -> None:
    assert not hasattr(opened(specimens), "__dict__")
    with specimens.store.write(ANN) as connection:
        connection.exec_driver_sql("DELETE FROM rec_specimen")
        for number in range(300):
            put_record(connection, SPECIMEN, f"k{number}", {"label": "x"})
    list(Specimen.select(instance=specimens))
    gc.collect()
    tracemalloc.start()
    kept = list(Specimen.select(instance=specimens))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(kept) < 1200


def test_a_tag_changes_with_every_change(specimens: StoreInstance) -> None:
    obj = opened(specimens)
    before = obj.etag
    parsed = ETag.parse(before)
    assert parsed is not None
    assert (parsed.epoch, parsed.table, parsed.key) == (specimens.epoch, "rec_specimen", "a")
    obj["label"] = "second"
    obj.save()
    assert not matches(before, ETag.parse(obj.etag))
    assert matches(obj.etag, ETag.parse(opened(specimens).etag))
