"""Bundles that are edited elsewhere: disjoint edits converge, overlaps keep every value."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepline.errors import InvalidRecordError, RecordError, RecordNotFoundError
from keepline.model import Field, FieldGroup, Principal, RecordType
from keepline.records import Outcome, apply_type, business_class, put_record
from keepline.records.bundles import Bundle, checkout
from keepline.records.checkins import CheckInReport, checkin
from keepline.records.proposals import proposals
from keepline.records.revisions import history
from keepline.store.recordset import fetch
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, on_sqlite

START = {"label": "first", "pieces": 1, "weight": 2.0, "frozen": False, "extra": {"n": [1]}}


def put(instance: StoreInstance, *keys: str, group: str | None = None) -> None:
    with instance.store.write(ANN) as connection:
        for key in keys:
            put_record(connection, SPECIMEN, key, START, group=group)


def out(instance: StoreInstance, *keys: str, who: Principal = ANN) -> Bundle:
    return checkout(SPECIMEN, keys or None, instance=instance, principal=who)


def edited(instance: StoreInstance, key: str, **values: Any) -> Bundle:
    bundle = out(instance, key)
    bundle.records[key].values.update(values)
    return bundle


def back(instance: StoreInstance, bundle: Bundle, who: Principal = ANN) -> CheckInReport:
    again = Bundle.from_json(json.loads(json.dumps(bundle.to_json())))
    return checkin(again, SPECIMEN, instance=instance, principal=who)


def values(instance: StoreInstance, key: str = "a") -> Any:
    with instance.store.read() as connection:
        image = next(fetch(connection, SPECIMEN, ANN, [key]), None)
    return None if image is None else image.values


def change(instance: StoreInstance, key: str = "a", **changes: Any) -> None:
    obj = business_class(SPECIMEN)(key, instance=instance, principal=BEN)
    for name, value in changes.items():
        obj[name] = value
    assert obj.save()


def waiting(instance: StoreInstance, key: str = "a") -> list[tuple[str, Any]]:
    return [(each.field, each.mine) for each in proposals(key=key, instance=instance)]


def test_an_edited_bundle_is_written_with_its_reason(instance: StoreInstance) -> None:
    put(instance, "a", "b")
    bundle = out(instance)
    bundle.records["a"].values |= {"label": "typed", "taken": "2026-03-02T10:00:00+01:00"}
    report = back(instance, bundle, BEN)
    (record,) = report.records
    assert (record.outcome, set(record.written), report.untouched) == (
        Outcome.SAVED,
        {"label", "taken"},
        1,
    )
    last = history(SPECIMEN, "a", instance=instance)[-1]
    assert (last.who, last.why) == ("ben", f"check-in of bundle {bundle.id}")
    assert set(last.fields) == {"label", "taken"}


def test_a_doubled_bundle_is_taken_once(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = edited(instance, "a", label="typed")
    back(instance, bundle)
    change(instance, label="later")
    (record,) = back(instance, bundle).records
    assert record.again
    assert values(instance)["label"] == "later"
    assert waiting(instance) == []


def test_others_edits_stay_and_the_bundles_become_proposals(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = edited(instance, "a", label="mine", pieces=5)
    change(instance, label="theirs")
    (record,) = back(instance, bundle).records
    assert record.outcome is Outcome.CONFLICT
    assert (record.written, record.proposed) == (("pieces",), ("label",))
    assert (values(instance)["label"], values(instance)["pieces"]) == ("theirs", 5)
    assert waiting(instance) == [("label", "mine")]


def test_a_bundle_edited_further_merges_from_its_base(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = edited(instance, "a", label="one")
    back(instance, bundle)
    bundle.records["a"].values |= {"label": "two", "pieces": 9}
    (record,) = back(instance, bundle).records
    assert (record.written, record.proposed) == (("pieces",), ("label",))
    assert values(instance)["label"] == "one"


def test_new_records_come_in_and_deletions_are_guarded(instance: StoreInstance) -> None:
    put(instance, "a", "b")
    bundle = out(instance)
    bundle.add("c", {"label": "new", "code": "c1"})
    bundle.records["a"].delete = bundle.records["b"].delete = True
    change(instance, "b", label="later")
    found = {each.key: each for each in back(instance, bundle).records}
    assert {key: each.outcome for key, each in found.items()} == {
        "a": Outcome.SAVED,
        "b": Outcome.CONFLICT,
        "c": Outcome.SAVED,
    }
    assert not found["b"].kept
    assert values(instance, "a") is None
    assert values(instance, "b")["label"] == "later"
    assert values(instance, "c")["code"] == "c1"


def test_edits_of_a_record_that_is_gone_or_another_wait(instance: StoreInstance) -> None:
    put(instance, "a", "b")
    bundle = out(instance)
    bundle.records["a"].values["label"] = bundle.records["b"].values["label"] = "typed"
    for key in "ab":
        business_class(SPECIMEN)(key, instance=instance).delete()
    put(instance, "b")
    found = {each.key: each.outcome for each in back(instance, bundle).records}
    assert found == {"a": Outcome.DELETED, "b": Outcome.REPLACED}
    assert waiting(instance, "a") == waiting(instance, "b") == [("label", "typed")]


def test_a_bundle_of_another_epoch_only_proposes(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = edited(instance, "a", label="typed")
    bundle.epoch = "another"
    (record,) = back(instance, bundle).records
    assert record.outcome is Outcome.REPLACED
    assert values(instance)["label"] == "first"
    assert waiting(instance) == [("label", "typed")]


def test_a_base_that_was_tampered_with_is_refused(instance: StoreInstance) -> None:
    put(instance, "a")
    change(instance, label="theirs")
    bundle = edited(instance, "a", label="mine")
    bundle.records["a"].base = {**(bundle.records["a"].base or {}), "label": "other"}
    (record,) = back(instance, bundle).records
    assert record.outcome is Outcome.INVALID
    assert values(instance)["label"] == "theirs"


@pytest.mark.parametrize(
    ("name", "value"),
    [("pieces", "5"), ("label", None), ("taken", "2026-03-02T10:00:00"), ("code", "x"), ("no", 1)],
)
def test_values_that_do_not_fit_refuse_their_record_alone(
    instance: StoreInstance, name: str, value: Any
) -> None:
    put(instance, "a", "b")
    bundle = out(instance)
    bundle.records["a"].values |= {"weight": 3.0, name: value}
    bundle.records["b"].values["weight"] = 3.0
    report = back(instance, bundle)
    assert [each.outcome for each in report.records] == [Outcome.INVALID, Outcome.SAVED]
    assert [each.key for each in report.refused] == ["a"]
    assert (values(instance, "a")["weight"], values(instance, "b")["weight"]) == (2.0, 3.0)


def test_other_groups_records_are_neither_given_nor_taken(instance: StoreInstance) -> None:
    blue = Principal("blue", groups=frozenset(["blue"]))
    put(instance, "a", group="red")
    with pytest.raises(RecordNotFoundError):
        out(instance, "a", who=blue)
    bundle = edited(instance, "a", label="typed")
    assert [each.outcome for each in back(instance, bundle, blue).records] == [Outcome.FORBIDDEN]
    change(instance, label="theirs")
    back(instance, bundle)
    assert proposals(instance=instance, principal=blue) == []
    business_class(SPECIMEN)("a", instance=instance).delete()
    again = back(instance, bundle, blue).records
    assert [each.again for each in again] == [True]


def test_a_dry_run_leaves_nothing(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = edited(instance, "a", label="typed")
    report = checkin(bundle, SPECIMEN, dry_run=True, instance=instance, principal=ANN)
    assert [each.outcome for each in report.records] == [Outcome.SAVED]
    assert values(instance)["label"] == "first"
    assert not back(instance, bundle).records[0].again


def test_a_bundle_goes_through_its_file(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = out(instance)
    path = instance.folder / "bundle.json"
    bundle.write(path)
    assert Bundle.read(path) == bundle
    assert path.stat().st_mode & 0o77 == 0
    with pytest.raises(RecordError, match="is there already"):
        bundle.write(path)


Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("epoch"),
        lambda found: found.update(keepline_bundle=2),
        lambda found: found.update(id="../x"),
        lambda found: found.update(more=1),
        lambda found: found.update(records={}),
        lambda found: found.update(checked_out_at="2026-03-02T10:00:00"),
        lambda found: found["records"].append(found["records"][0]),
        lambda found: found["records"].append(7),
        lambda found: found["records"][0].update(value={}),
        lambda found: found["records"][0].update(values=[]),
        lambda found: found["records"][0].update(revision=True),
        lambda found: found["records"][0].update(token="1.x"),
        lambda found: found["records"][0].pop("token"),
        lambda found: found["records"][0].update(delete=1),
        lambda found: found["records"][0].update(key="k" * 501),
        lambda found: found["records"][0].update(key="\x00"),
    ],
    ids=map(str, range(16)),
)
@on_sqlite  # no matter of the database
def test_what_is_no_bundle_is_refused_whole(instance: StoreInstance, spoil: Spoil) -> None:
    put(instance, "a")
    found = json.loads(json.dumps(out(instance).to_json()))
    spoil(found)
    with pytest.raises(RecordError):
        Bundle.from_json(found)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1, "a": 2}', "[" * 100_000, '{"a": NaN}', "\ufffe", "1" * 5000]
)
def test_text_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError):
        Bundle.read(path)


EDITS = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["x", "y", "z"]),
        "pieces": st.integers(5, 8),
        "weight": st.sampled_from([0.5, 1e300]),
        "extra": st.sampled_from([None, {"m": 1}, [1, 2]]),
    },
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(edits=st.lists(EDITS, min_size=1, max_size=4), data=st.data())
def test_every_typed_value_is_the_final_one_or_waits(
    instance: StoreInstance, edits: list[dict[str, Any]], data: st.DataObject
) -> None:
    key = uuid.uuid4().hex
    put(instance, key)
    bundles = [edited(instance, key, **edit) for edit in edits]
    # In any order, some of them twice.
    order = data.draw(st.lists(st.sampled_from(range(len(bundles))), max_size=3))
    for n in data.draw(st.permutations([*range(len(bundles)), *order])):
        back(instance, bundles[n])
    final, open_ = values(instance, key), waiting(instance, key)
    for edit in edits:
        for name, value in edit.items():
            assert final[name] == value or (name, value) in open_
    typed = [name for edit in edits for name in edit]
    for name in START.keys() - set(typed):
        assert final[name] == START[name]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None
)
@given(edit=EDITS, owners=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_disjoint_edits_come_to_the_same_in_any_order(
    instance: StoreInstance, edit: dict[str, Any], owners: list[int]
) -> None:
    names = ("label", "pieces", "weight", "extra")
    parts = [
        {n: edit[n] for n, owner in zip(names, owners, strict=True) if owner == who and n in edit}
        for who in range(3)
    ]
    for order in itertools.permutations(range(3)):
        key = uuid.uuid4().hex
        put(instance, key)
        bundles = [edited(instance, key, **part) for part in parts]
        for n in order:
            back(instance, bundles[n])
        final = values(instance, key)
        assert {name: final[name] for name in START} == {**START, **edit}
        assert waiting(instance, key) == []


DOSED = RecordType(
    "dosed",
    (Field("dose", "real"), Field("unit"), Field("note")),
    groups=(FieldGroup("amount", ("dose", "unit")),),
)


@pytest.fixture
def dosed(instance: StoreInstance) -> StoreInstance:
    """An instance with a record of 5 mg."""
    apply_type(instance.store, DOSED, ANN)
    with instance.store.write(ANN) as connection:
        put_record(connection, DOSED, "a", {"dose": 5.0, "unit": "mg"})
    return instance


def amount(instance: StoreInstance) -> tuple[Any, Any]:
    obj = business_class(DOSED)("a", instance=instance)
    return obj["dose"], obj["unit"]


@pytest.mark.parametrize("hidden", [False, True])
def test_fields_that_belong_together_are_written_together_or_wait(
    dosed: StoreInstance, hidden: bool
) -> None:
    bundle = checkout(DOSED, instance=dosed)
    bundle.records["a"].values.update(dose=7.0, note="more")
    if hidden:  # nobody has to leave the other field in the file
        bundle.records["a"].values.pop("unit")
        bundle.records["a"].base = {"dose": 5.0, "note": None}
    obj = business_class(DOSED)("a", instance=dosed, principal=ANN)
    obj["unit"] = "g"
    assert obj.save()
    (record,) = checkin(bundle, DOSED, instance=dosed, principal=BEN).records
    assert (record.outcome, record.written) == (Outcome.CONFLICT, ("note",))
    assert amount(dosed) == (5.0, "g")
    assert sorted(waiting(dosed)) == [("dose", 7.0), ("unit", "mg")]


def test_a_new_records_field_does_not_join_what_stands_there(dosed: StoreInstance) -> None:
    obj = business_class(DOSED)("a", instance=dosed)
    obj["dose"] = None
    assert obj.save()
    bundle = checkout(DOSED, [], instance=dosed)
    bundle.add("a", {"dose": 7.0})
    (record,) = checkin(bundle, DOSED, instance=dosed).records
    assert record.proposed == ("dose",)
    assert amount(dosed) == (None, "mg")


def test_a_base_that_the_history_does_not_have_is_refused(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = edited(instance, "a", label="typed")
    record = bundle.records["a"]
    change(instance, label="theirs")
    record.revision, record.base = 77, {**(record.base or {}), "label": "theirs"}
    (found,) = back(instance, bundle).records
    assert (found.outcome, found.kept) == (Outcome.INVALID, False)
    assert "not in the history" in found.message
    assert values(instance)["label"] == "theirs"


def test_a_new_record_from_elsewhere_changes_none_that_is_there(instance: StoreInstance) -> None:
    put(instance, "a")
    bundle = out(instance, "a")
    bundle.records.clear()
    bundle.add("a", {"label": "first", "kind": "blood"})
    bundle.add("new", {"label": "new"})
    bundle.epoch = "another"
    found = {each.key: each for each in back(instance, bundle).records}
    assert (found["a"].outcome, found["a"].proposed) == (Outcome.REPLACED, ("kind",))
    assert found["new"].outcome is Outcome.SAVED
    assert values(instance)["kind"] is None
    assert waiting(instance) == [("kind", "blood")]


def test_a_time_that_utc_cannot_say_refuses_its_record_alone(instance: StoreInstance) -> None:
    put(instance, "a", "b")
    bundle = out(instance)
    bundle.records["a"].values["taken"] = "0001-01-01T00:00:00+14:00"
    bundle.records["b"].values["taken"] = "0001-01-01T00:00:00Z"
    found = {each.key: each for each in back(instance, bundle).records}
    assert found["a"].outcome is Outcome.INVALID
    assert "1 to 9999" in found["a"].message
    assert values(instance, "b")["taken"].year == 1
    obj = business_class(SPECIMEN)("a", instance=instance)
    with pytest.raises(InvalidRecordError, match="1 to 9999"):
        obj["taken"] = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))
    assert obj.save_payload().outcome is Outcome.UNCHANGED


def test_a_proposal_that_a_group_cannot_see_hides_no_other(instance: StoreInstance) -> None:
    put(instance, "a", group="red")
    one, two = edited(instance, "a", label="typed"), edited(instance, "a", label="typed")
    change(instance, label="theirs")
    back(instance, one)
    with instance.store.write(ANN) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET group_name = 'blue'")
    blue = Principal("cay", groups=frozenset({"blue"}))
    (record,) = back(instance, two, blue).records
    assert record.proposed == ("label",)
    (seen,) = proposals(instance=instance, principal=blue)
    assert (seen.field, seen.mine) == ("label", "typed")
