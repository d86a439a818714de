"""Records that programs write, the types they have, and class hints."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keepline.errors import InvalidRecordError, RecordError, UnknownRecordTypeError
from keepline.model import Field, Instrument, Principal, RecordType, SubTable
from keepline.records import (
    INSTRUMENT_SESSION,
    Outcome,
    apply_type,
    business_class,
    jsonclasshintify,
    load_type,
    load_types,
    put_record,
)
from keepline.store import Store
from keepline.store.recordset import fetch
from tests.stores import ANN, SPECIMEN, StoreInstance

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
VALUES = {"label": "l", "pieces": 1, "code": "c1", "taken": NOON}
PARTS = [{"part": name, "amount": float(n)} for n, name in enumerate("abc")]


def put(store: Store, key: str = "a", values: Any = None, parts: Any = None) -> Outcome:
    subrows = {"part": PARTS if parts is None else parts}
    with store.write(ANN) as connection:
        return put_record(connection, SPECIMEN, key, values or VALUES, subrows, "red")


def image(store: Store, key: str = "a") -> Any:
    with store.read() as connection:
        return next(fetch(connection, SPECIMEN, ANN, [key]))


def test_a_new_record_is_one_revision_with_its_subrows(store: Store) -> None:
    assert put(store) is Outcome.SAVED
    found = image(store)
    assert (found.revision, found.group) == (1, "red")
    assert {**found.values, **VALUES} == found.values
    assert [row["part"] for row in found.subrows["part"]] == ["a", "b", "c"]


def test_the_same_again_writes_nothing(store: Store) -> None:
    put(store)
    assert put(store) is Outcome.UNCHANGED
    assert image(store).revision == 1


def test_a_trigger_that_drops_records_in_silence_is_an_error(store: Store) -> None:
    drop = "CREATE TRIGGER aa_drop BEFORE INSERT ON rec_specimen"
    with store.maintenance() as connection:
        if store.dialect == "postgresql":
            connection.exec_driver_sql(
                "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RETURN NULL; END $$"
            )
            connection.exec_driver_sql(f"{drop} FOR EACH ROW EXECUTE FUNCTION nothing()")
        else:
            connection.exec_driver_sql(f"{drop} BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(RecordError, match="does not take"):
        put(store)


def test_what_people_edit_is_left_alone(store: Store, tmp_path: Any) -> None:
    put(store)
    obj = business_class(SPECIMEN)("a", instance=StoreInstance(store, tmp_path), principal=ANN)
    obj["label"] = "typed"
    obj.save()
    assert put(store, values={**VALUES, "label": "built", "code": "c2"}) is Outcome.SAVED
    found = image(store)
    assert (found.values["label"], found.values["code"]) == ("typed", "c2")
    assert found.revision == 3


def test_changed_subrows_are_replaced_in_one_revision(store: Store) -> None:
    put(store)
    parts = [{"part": "b", "amount": 9.0}, {"part": "c", "amount": 2.0}, {"part": "d"}]
    assert put(store, parts=parts) is Outcome.SAVED
    found = image(store)
    assert [(row["part"], row["amount"]) for row in found.subrows["part"]] == [
        ("b", 9.0),
        ("c", 2.0),
        ("d", None),
    ]
    assert found.revision == 2
    put(store, parts=[])
    assert image(store).subrows["part"] == ()


@pytest.mark.parametrize(
    ("values", "parts", "said"),
    [
        ({"label": None}, [], "label needs a value"),
        ({"pieces": 1}, [], "label needs a value"),
        ({"label": "l", "nothing": 1}, [], "no field 'nothing'"),
        ({"label": "l", "pieces": "1"}, [], "takes integer"),
        ({"label": "l"}, [{"part": "a"}, {"part": "a"}], "twice"),
        ({"label": "l"}, [{"amount": 1.0}], "part needs a value"),
        ({"label": "l"}, [{"part": "a", "amount": math.nan}], "None says"),
        ({"label": "l"}, [{"part": "a", "size": 1}], "part has no field 'size'"),
    ],
)
def test_what_does_not_fit_is_refused_whole(
    store: Store, values: Any, parts: Any, said: str
) -> None:
    with pytest.raises(InvalidRecordError, match=said):
        put(store, values=values, parts=parts)
    with store.read() as connection:
        assert list(fetch(connection, SPECIMEN, ANN)) == []


def test_an_unknown_subtable_is_refused(store: Store) -> None:
    with (
        pytest.raises(InvalidRecordError, match="no sub-table 'nothing'"),
        store.write(ANN) as connection,
    ):
        put_record(connection, SPECIMEN, "a", VALUES, {"nothing": []})


# Types


def test_a_type_is_applied_once(store: Store) -> None:
    extra = RecordType("extra", (Field("note"),), comment="it's 100%")
    assert apply_type(store, extra, ANN) is True
    assert apply_type(store, extra, ANN) is False
    with store.read() as connection:
        assert load_types(connection) == {
            "extra": extra,
            "instrument_session": INSTRUMENT_SESSION,
            "specimen": SPECIMEN,
        }
    assert load_type(store, "extra") == extra


def test_another_declaration_of_the_same_name_is_refused(store: Store) -> None:
    other = replace(SPECIMEN, fields=SPECIMEN.fields[:-1])
    with pytest.raises(InvalidRecordError, match="declared otherwise"):
        apply_type(store, other, ANN)
    assert load_type(store, "specimen") == SPECIMEN


def test_a_table_in_the_way_is_left_alone(store: Store) -> None:
    with store.write(ANN) as connection:
        connection.exec_driver_sql("CREATE TABLE rec_extra (precious text)")
    with pytest.raises(InvalidRecordError, match="rec_extra is in the way"):
        apply_type(store, RecordType("extra", (Field("note"),)), ANN)
    with store.read() as connection:
        connection.exec_driver_sql("SELECT precious FROM rec_extra")
        assert "extra" not in load_types(connection)


def test_an_unknown_type_names_those_that_there_are(store: Store) -> None:
    with pytest.raises(UnknownRecordTypeError, match="instrument_session, specimen"):
        load_type(store, "nothing")


@pytest.mark.parametrize(
    "declared",
    [
        RecordType("Bad", ()),
        RecordType("a; drop table x", ()),
        RecordType("two__words", ()),
        RecordType("x" * 32, ()),
        RecordType("a", (Field("b"), Field("b"))),
        RecordType("a", (Field("row_rev"),)),
        RecordType("a", (Field("record_key"),)),
        RecordType("a", (), (SubTable("s", "k", (Field("k"),)),)),
        RecordType("a", (), (SubTable("s", "record_key", ()),)),
        RecordType("a", (), (SubTable("s", "k", ()), SubTable("s", "k", ()))),
        RecordType("a" * 31, (), (SubTable("b" * 31, "k", ()),)),
    ],
)
def test_names_that_cannot_be_used_are_refused(store: Store, declared: RecordType) -> None:
    with pytest.raises(InvalidRecordError):
        apply_type(store, declared, ANN)


def test_the_shipped_type_says_what_people_edit() -> None:
    editable = [field.name for field in INSTRUMENT_SESSION.fields if field.updatable]
    assert editable == ["user_name", "title", "sample", "comment"]
    assert RecordType.from_json(json.loads(json.dumps(INSTRUMENT_SESSION.to_json()))) == (
        INSTRUMENT_SESSION
    )


# Class hints


def test_an_object_becomes_a_dict_that_says_what_it_was(store: Store, tmp_path: Any) -> None:
    put(store, values={**VALUES, "extra": {"list": [1, {"deep": None}]}})
    obj = business_class(SPECIMEN)("a", instance=StoreInstance(store, tmp_path))
    hinted = jsonclasshintify([obj, {"obj": (obj,)}])
    assert json.loads(json.dumps(hinted, allow_nan=False)) == hinted
    assert hinted[0] == hinted[1]["obj"][0]
    assert hinted[0]["__jsonclass__"] == ["Specimen", ["specimen", "a"]]
    assert hinted[0]["extra"] == {"list": [1, {"deep": None}]}
    assert hinted[0]["taken"] == {
        "__jsonclass__": ["DateTime", ["2024-05-01T12:00:00.000000+00:00"]],
        "tzinfo": {"__jsonclass__": ["TimeZone", ["UTC"]]},
    }
    assert [row["part"] for row in hinted[0]["part"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (timedelta(days=1, seconds=2, microseconds=3), ["TimeDelta", [1, 2, 3]]),
        (NOON.date(), ["Date", ["2024-05-01"]]),
        (NOON.time(), ["Time", ["12:00:00"]]),
        (NOON.replace(tzinfo=None), ["DateTime", ["2024-05-01T12:00:00.000000"]]),
        (math.nan, ["Number", ["nan"]]),
    ],
)
def test_values_that_json_lacks_are_hinted(value: Any, hint: Any) -> None:
    assert jsonclasshintify(value) == {"__jsonclass__": hint}


def test_plain_values_stay_and_dataclasses_are_hinted() -> None:
    assert jsonclasshintify([1, True, None, "x", 1.5, {2: {3}}]) == [
        1,
        True,
        None,
        "x",
        1.5,
        {"2": [3]},
    ]
    assert jsonclasshintify(Instrument("m1")) == {
        "__jsonclass__": ["Instrument", []],
        "name": "m1",
        "tz": "UTC",
        "group": None,
        "comment": "",
    }
    assert jsonclasshintify(Principal("ann"))["groups"] == []
