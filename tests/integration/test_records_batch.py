"""Saving many objects at once: an outcome for each, in the order given."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import RecordError
from keepline.model import Principal
from keepline.records import BusinessObject, Outcome, business_class, put_record, save_all
from keepline.records.types import INSTRUMENT_SESSION
from keepline.store import Store
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, around

Specimen = business_class(SPECIMEN)
NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def many(instance: StoreInstance) -> list[BusinessObject]:
    with instance.store.write(ANN) as connection:
        for number in range(250):
            put_record(
                connection, SPECIMEN, f"k{number:03}", {"label": f"l{number}", "pieces": number}
            )
    return list(Specimen.select(instance=instance, principal=BEN))


def values(instance: StoreInstance, name: str) -> list[Any]:
    return [obj[name] for obj in Specimen.select(instance=instance)]


def outcomes(objects: Any, **kwargs: Any) -> list[str]:
    return [str(result.outcome) for result in save_all(objects, **kwargs)]


def test_a_thousand_alike_are_one_statement(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    for obj in many:
        obj["pieces"] += 1
    sent: list[str] = []
    sa.event.listen(instance.store.engine, "before_cursor_execute", lambda *a: sent.append(a[2]))
    assert outcomes(many) == ["saved"] * 250
    about = [statement for statement in sent if "rec_specimen" in statement]
    if instance.store.dialect == "postgresql":
        assert len(about) == 1
    assert not any("label =" in statement or "label=" in statement for statement in about)
    assert values(instance, "pieces") == [number + 1 for number in range(250)]
    fresh = list(Specimen.select(instance=instance))
    assert [obj.token for obj in fresh] == [obj.token for obj in many]
    assert {obj.revision for obj in many} == {2}
    assert not any(obj.is_changed() for obj in many)


def test_every_type_comes_back_as_it_went_in(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    wanted = [
        {
            "label": "ä'\"%s{},\\ \U0001f9ea NULL",
            "kind": "50% 'saline'",
            "pieces": -(2**63),
            "weight": 0.1,
            "frozen": False,
            "taken": NOON,
            "extra": {"a": [1, 1.5, 1e20, None, True, 'ü"']},
            "order": "",
        },
        dict.fromkeys(("kind", "pieces", "weight", "frozen", "taken", "extra", "order")),
        {"label": "x", "kind": "blood", "weight": float("inf"), "frozen": True, "extra": [[]]},
    ]
    for obj, row in zip(many, wanted, strict=False):
        for name, value in row.items():
            obj[name] = value
    assert all(save_all(many[:3]))
    for obj, row in zip(Specimen.select(instance=instance), wanted, strict=False):
        assert {name: obj[name] for name in row} == row


def test_each_gets_its_outcome_in_the_order_given(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    with around(instance.store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET label = 'x' WHERE record_key = 'k001'")
        connection.exec_driver_sql("UPDATE rec_specimen SET pieces = 0 WHERE record_key = 'k002'")
        connection.exec_driver_sql("DELETE FROM rec_specimen WHERE record_key IN ('k003', 'k004')")
        connection.exec_driver_sql(
            "INSERT INTO rec_specimen (record_key, label) VALUES ('k004', 'l4')"
        )
        connection.exec_driver_sql("UPDATE rec_specimen SET pieces = 70 WHERE record_key = 'k007'")
    many[0]["pieces"] = many[1]["pieces"] = many[2]["pieces"] = 1000
    many[3]["pieces"] = many[4]["pieces"] = 1000
    many[6]["extra"] = {"list": []}
    many[6]["extra"]["list"].append(object())
    many[7]["pieces"] = 70
    given = list(reversed(many[:8]))
    results = save_all(given)
    assert [str(result.outcome) for result in reversed(results)] == [
        "saved",
        "merged",
        "conflict",
        "deleted",
        "replaced",
        "unchanged",
        "invalid",
        "unchanged",
    ]
    conflict = results[5].conflict
    assert conflict is not None
    assert conflict is many[2].conflict
    assert (conflict.base["pieces"], conflict.mine["pieces"], conflict.theirs["pieces"]) == (
        2,
        1000,
        0,
    )
    assert many[4].modified_payload["pieces"] is None  # type: ignore[index]  # it is there
    assert (many[1]["label"], many[1]["pieces"]) == ("x", 1000)
    many[2].resolve("pieces", choice="mine")
    assert many[2].save() is Outcome.SAVED


def _forbid(store: Store, pieces: str) -> None:
    if store.dialect == "postgresql":
        statement = f"ALTER TABLE rec_specimen ADD CONSTRAINT few CHECK (pieces NOT IN ({pieces}))"
    else:
        statement = (
            f"CREATE TRIGGER few BEFORE UPDATE ON rec_specimen WHEN NEW.pieces IN ({pieces}) "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with around(store) as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize("joined", [False, True])
def test_bad_rows_stop_no_other(
    many: list[BusinessObject], instance: StoreInstance, joined: bool
) -> None:
    _forbid(instance.store, "1013, 1200")
    for number, obj in enumerate(many):
        obj["pieces"] = 1000 + number
    if joined:
        with instance.store.write(ANN) as connection:
            found = outcomes(many, connection=connection)
    else:
        found = outcomes(many)
    bad = "invalid" if instance.store.dialect == "postgresql" else "suppressed"
    assert {n: each for n, each in enumerate(found) if each != "saved"} == {13: bad, 200: bad}
    there = values(instance, "pieces")
    assert [n for n, value in enumerate(there) if value != 1000 + n] == [13, 200]
    assert many[13]["pieces"] == 1013
    assert many[13].modified_payload["pieces"] == 13  # type: ignore[index]  # it is there


def test_an_atomic_batch_is_written_whole_or_not_at_all(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    with around(instance.store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET pieces = 0 WHERE record_key = 'k002'")
    for obj in many[:4]:
        obj["pieces"] = 500
    found = outcomes(many[:5], atomic=True)
    assert found == ["retryable", "retryable", "conflict", "retryable", "unchanged"]
    assert values(instance, "pieces")[:4] == [0, 1, 0, 3]
    assert many[0].changed_fields == ("pieces",)
    many[2].resolve("pieces", choice="mine")
    assert outcomes(many[:5], atomic=True) == ["saved"] * 4 + ["unchanged"]
    many[0]["pieces"] = 1
    many[1]["extra"] = []
    many[1]["extra"].append(object())
    assert outcomes(many[:2], atomic=True) == ["retryable", "invalid"]
    assert values(instance, "pieces")[0] == 500


def test_objects_of_several_types_and_fields_go_together(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    session_class = business_class(INSTRUMENT_SESSION)
    session = session_class.create("s", {"instrument": "bench"}, instance=instance, principal=BEN)
    session["title"] = "about"
    many[0]["pieces"], many[1]["label"], many[2]["pieces"] = 9, "other", 9
    assert outcomes([many[0], session, many[1], many[2]]) == ["saved"] * 4
    assert (values(instance, "pieces")[0], values(instance, "label")[1]) == (9, "other")
    assert session_class("s", instance=instance)["title"] == "about"


def test_one_record_twice_in_a_batch_merges(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    one, again = many[0], Specimen("k000", instance=instance, principal=BEN)
    third = Specimen("k000", instance=instance, principal=BEN)
    one["pieces"], again["label"], third["pieces"] = 5, "again", 6
    assert outcomes([one, again, third]) == ["saved", "merged", "conflict"]
    assert (values(instance, "pieces")[0], values(instance, "label")[0]) == (5, "again")


def test_a_rolled_back_batch_is_unsaved_again(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    connection = instance.store.engine.connect()
    for obj in many[:3]:
        obj["pieces"] = 7
    assert outcomes(many[:3], connection=connection) == ["saved"] * 3
    connection.close()
    assert all(obj.is_changed() for obj in many[:3])
    assert outcomes(many[:3]) == ["saved"] * 3


@pytest.mark.usefixtures("many")
def test_who_may_not_see_a_record_changes_it_in_no_batch(instance: StoreInstance) -> None:
    member = Principal("cleo", groups=frozenset({"red", "o'blue"}))
    mine = list(Specimen.select(["k000", "k001"], instance=instance, principal=member))
    with around(instance.store) as connection:
        connection.exec_driver_sql(
            "UPDATE rec_specimen SET group_name = 'green' WHERE record_key = 'k001'"
        )
    for obj in mine:
        obj["pieces"] = 7
    assert outcomes(mine) == ["saved", "forbidden"]
    assert mine[1].modified_payload is None
    fresh = [Specimen("k001", instance=instance)]
    fresh[0]["pieces"] = 8
    assert outcomes(fresh, principal=member) == ["forbidden"]


def test_what_cannot_go_together_is_refused(
    many: list[BusinessObject], instance: StoreInstance
) -> None:
    assert save_all([]) == []
    other = Specimen("k001", instance=instance, principal=ANN)
    many[0]["pieces"] = other["pieces"] = 7
    with pytest.raises(RecordError, match="several people"):
        save_all([many[0], other])
    assert outcomes([many[0], other], principal=ANN) == ["saved"] * 2
