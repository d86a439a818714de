"""Saving business objects: one outcome each, and no edit lost in silence."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRecordError,
    NoInstanceError,
    ReadOnlyFieldError,
    RecordError,
    RecordNotFoundError,
    UnknownFieldError,
    UnknownRecordTypeError,
)
from keepline.model import Principal
from keepline.records import BusinessObject, Outcome, business_class, put_record
from keepline.records.merge import FieldState
from keepline.store import Store, current
from keepline.store.recordset import fetch
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, around

Specimen = business_class(SPECIMEN)
NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
Opener = Callable[..., BusinessObject]


@pytest.fixture
def opened(instance: StoreInstance) -> Opener:
    values = {"label": "first", "pieces": 1, "extra": {"list": [1]}, "taken": NOON}
    parts = {"part": [{"part": "b", "amount": 2.0}, {"part": "a", "amount": 1.0}]}
    with instance.store.write(ANN) as connection:
        put_record(connection, SPECIMEN, "a", values, parts, group="red")

    def open_one(principal: Principal = ANN, kind: type = Specimen, **kwargs: Any) -> Any:
        if not kwargs:
            kwargs = {"pk": "a"}
        return kind(instance=instance, principal=principal, **kwargs)

    return open_one


def stored(obj: BusinessObject, name: str) -> Any:
    with obj._store.read() as connection:
        (image,) = fetch(connection, SPECIMEN, ANN, [obj.key])
    return image.values[name]


def raw(store: Store, statement: str) -> None:
    with around(store) as connection:
        connection.exec_driver_sql(statement)


# The dictionary


def test_fields_are_read_and_set_like_a_dictionary(opened: Opener) -> None:
    obj = opened()
    assert (obj["label"], obj["pieces"], obj["taken"]) == ("first", 1, NOON)
    assert (obj["record_key"], obj["revision"], obj["group_name"]) == ("a", 1, "red")
    obj["label"] = "second"
    assert obj["label"] == "second"
    assert "label" in obj
    assert "nothing" not in obj
    assert obj.fields == tuple(field.name for field in SPECIMEN.fields)
    assert repr(obj) == "Specimen('a')"


def test_wrong_fields_and_values_are_refused_and_change_nothing(opened: Opener) -> None:
    obj = opened()
    with pytest.raises(UnknownFieldError, match="no field 'nothing'"):
        obj["nothing"]
    with pytest.raises(KeyError):
        obj["nothing"] = 1
    for name in ("code", "record_key", "revision", "group_name", "part"):
        with pytest.raises(ReadOnlyFieldError):
            obj[name] = "x"
    for name, value in {"pieces": "5", "label": None, "kind": "water", "weight": True}.items():
        with pytest.raises(InvalidRecordError):
            obj[name] = value
    assert not obj.is_changed()


def test_subrows_come_in_key_order(opened: Opener) -> None:
    obj = opened()
    assert [row["part"] for row in obj["part"]] == ["a", "b"]
    assert obj["part"] == obj.subrows("part") == obj.get_part()
    assert obj["part"][0] == {"part": "a", "amount": 1.0, "checked_at": None}
    with pytest.raises(UnknownFieldError):
        obj.subrows("nothing")


class Annotated(Specimen):  # type: ignore[misc, valid-type]  # the class is made at run time
    """A class of one's own, with related data and fewer updatable fields."""

    _updatable_fields = ("label", "code")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked = 0
        self.notes = ["one"]

    def get_notes(self) -> list[str]:
        self.asked += 1
        return list(self.notes)

    def set_notes(self, notes: list[str]) -> None:
        self.notes = notes

    def get_size(self) -> int:
        return len(self.notes)


def test_related_data_is_kept_apart_from_the_fields(opened: Opener) -> None:
    obj = opened(kind=Annotated)
    assert obj["notes"] == obj["notes"] == ["one"]
    assert obj.asked == 1
    obj["notes"] = ["two"]
    assert obj["notes"] == ["two"]
    assert obj.asked == 2
    assert not obj.is_changed()
    obj["label"] = "x"
    assert obj["notes"] == ["two"]
    assert obj.asked == 2
    assert obj.refetch_payload(ignore_changes=True)
    assert obj["notes"] == ["two"]
    assert obj.asked == 3
    with pytest.raises(ReadOnlyFieldError):
        obj["size"] = 1


def test_a_class_narrows_what_can_be_set_and_never_widens_it(opened: Opener) -> None:
    obj = opened(kind=Annotated)
    assert obj.updatable_fields == ("label",)
    for name in ("pieces", "code"):
        with pytest.raises(ReadOnlyFieldError):
            obj[name] = None


def test_a_class_may_name_its_type_only(instance: StoreInstance, opened: Opener) -> None:
    class Named(BusinessObject):
        _record_type = "specimen"

    class Wrong(BusinessObject):
        _record_type = "nothing"

    obj = opened(kind=Named)
    obj["label"] = "by name"
    assert obj.save() is Outcome.SAVED
    with pytest.raises(UnknownRecordTypeError, match="specimen"):
        Wrong("a", instance=instance)


def test_a_row_that_was_fetched_needs_no_other_query(opened: Opener) -> None:
    store = opened()._store
    with store.read() as connection:
        (image,) = fetch(connection, SPECIMEN, ANN, ["a"])
        row = connection.exec_driver_sql("SELECT * FROM rec_specimen").mappings().one()
    asked = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    from_image = opened(row=image)
    assert (from_image["label"], len(from_image["part"])) == ("first", 2)
    assert from_image.token == opened(row=dict(row, taken=NOON, extra=None)).token
    assert asked == []
    from_image["label"] = "saved"
    assert from_image.save() is Outcome.SAVED


def test_what_cannot_be_opened_says_so(instance: StoreInstance, opened: Opener) -> None:
    with pytest.raises(RecordNotFoundError):
        opened(pk="nothing")
    with pytest.raises(RecordNotFoundError):
        opened(Principal("x", groups=frozenset({"blue"})))
    with pytest.raises(RecordError, match="either"):
        Specimen(instance=instance)
    with pytest.raises(RecordError, match="either"):
        Specimen("a", row={}, instance=instance)
    with pytest.raises(RecordError, match="lacks the column row_born"):
        opened(row={"record_key": "a"})
    with pytest.raises(NoInstanceError):
        Specimen("a")
    with current.using(instance):
        assert Specimen("a")["label"] == "first"


# Saving


def test_only_changed_fields_are_sent(opened: Opener) -> None:
    obj = opened()
    sent = []
    sa.event.listen(obj._store.engine, "before_cursor_execute", lambda *a: sent.append(a[2]))
    obj["pieces"] = 7
    assert obj.save() is Outcome.SAVED
    (update,) = [statement for statement in sent if statement.startswith("UPDATE rec_specimen")]
    assert "pieces" in update.split("WHERE")[0]
    assert "label" not in update.split("WHERE")[0]
    assert (obj.revision, stored(obj, "pieces")) == (2, 7)
    assert not obj.is_changed()
    assert obj.original_payload["pieces"] == 7
    assert opened().token == obj.token


def test_every_type_comes_back_as_it_went_in(opened: Opener) -> None:
    obj = opened()
    values = {
        "label": "ä'\"%s\U0001f9ea",
        "kind": "50% 'saline'",
        "pieces": -(2**63),
        "weight": 0.1,
        "frozen": False,
        "taken": NOON + timedelta(microseconds=1),
        "extra": {"a": [1, 1.5, None, True, "ü"]},
        "order": "an SQL keyword",
    }
    for name, value in values.items():
        obj[name] = value
    assert obj.save() is Outcome.SAVED
    again = opened()
    assert {name: again[name] for name in values} == values
    assert type(again["frozen"]) is bool


def test_a_value_set_and_set_back_is_unchanged(opened: Opener) -> None:
    obj = opened()
    obj["label"] = "x"
    obj["taken"] = NOON.astimezone()
    assert obj.changed_fields == ("label",)
    obj["label"] = "first"
    assert not obj.is_changed()
    assert obj.save() is Outcome.UNCHANGED
    assert opened().revision == 1


def test_json_changed_in_place_is_seen(opened: Opener) -> None:
    obj = opened()
    obj["extra"]["list"].append(2)
    assert obj.changed_fields == ("extra",)
    assert obj.save() is Outcome.SAVED
    assert stored(obj, "extra") == {"list": [1, 2]}
    obj["extra"]["list"].append(object())
    assert obj.save_payload().outcome is Outcome.INVALID


def test_disjoint_edits_merge(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"], ben["pieces"] = "by ann", 2
    assert ann.save() is Outcome.SAVED
    assert ben.save() is Outcome.MERGED
    assert (ben["label"], ben["pieces"], ben.revision) == ("by ann", 2, 3)
    assert not ben.is_changed()
    assert (stored(ben, "label"), stored(ben, "pieces")) == ("by ann", 2)


def test_the_same_edit_twice_is_written_once(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"] = ben["label"] = "same"
    ann["weight"] = 1.0
    assert ann.save() is Outcome.SAVED
    assert ben.save() is Outcome.UNCHANGED
    assert (ben.revision, ben["weight"]) == (2, 1.0)


def test_a_conflict_shows_base_mine_and_theirs_and_loses_neither(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"], ann["weight"] = "by ann", 1.5
    ben["label"], ben["pieces"] = "by ben", 5
    ann.save()
    with pytest.raises(ConflictError, match=r"label of .* edited by ann") as caught:
        ben.save()
    conflict = caught.value.conflict
    assert conflict is ben.conflict
    assert [conflict.base["label"], conflict.mine["label"], conflict.theirs["label"]] == [
        "first",
        "by ben",
        "by ann",
    ]
    assert conflict.conflicting == ("label",)
    assert conflict.fields["weight"] is FieldState.THEIRS
    assert conflict.fields["pieces"] is FieldState.MINE
    assert conflict.fields["taken"] is FieldState.UNCHANGED
    assert (conflict.changed_by, conflict.revision) == (("ann",), 2)
    assert abs(conflict.changed_at - datetime.now(UTC)) < timedelta(minutes=5)
    # The page's three payloads.
    assert ben.original_payload["label"] == "first"
    assert ben.modified_payload["label"] == "by ann"
    assert ben._payload["label"] == ben["label"] == "by ben"
    assert stored(ben, "label") == "by ann"
    assert stored(ben, "pieces") == 1


def test_a_conflict_is_resolved_field_by_field(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    for obj, who in ((ann, "ann"), (ben, "ben")):
        obj["label"], obj["order"] = f"label of {who}", f"order of {who}"
    ann["weight"], ben["pieces"] = 1.5, 5
    ann.save()
    assert not ben.save_payload()
    ben.resolve("label", "both")
    with pytest.raises(ConflictError) as caught:
        ben.save()
    assert caught.value.conflict.conflicting == ("order",)
    ben.resolve("order", choice="theirs")
    assert ben.conflict is None
    assert ben.changed_fields == ("label", "pieces")
    assert ben.save() is Outcome.SAVED
    again = opened()
    assert [again[name] for name in ("label", "order", "weight", "pieces")] == [
        "both",
        "order of ann",
        1.5,
        5,
    ]
    assert ben.modified_payload is None


@pytest.mark.parametrize(
    ("choice", "label"), [("mine", "by ben"), ("theirs", "by ann"), ("base", "first")]
)
def test_a_conflict_is_resolved_by_a_side(opened: Opener, choice: Any, label: str) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"], ben["label"] = "by ann", "by ben"
    ann.save()
    ben.save_payload()
    ben.resolve("label", choice=choice)
    assert ben.save() in (Outcome.SAVED, Outcome.UNCHANGED)
    assert stored(ben, "label") == label


def test_a_decision_about_old_values_does_not_overwrite_new_ones(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"], ben["label"] = "by ann", "by ben"
    ann.save()
    ben.save_payload()
    ben.resolve("label", "decided")
    ann["label"] = "by ann again"
    ann.save()
    with pytest.raises(ConflictError) as caught:
        ben.save()
    assert caught.value.conflict.base["label"] == "by ann"
    assert caught.value.conflict.theirs["label"] == "by ann again"
    assert ben["label"] == "decided"


def test_only_conflicts_are_resolved(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    with pytest.raises(RecordError, match="no conflict about label"):
        ben.resolve("label", "x")
    ann["label"], ben["label"] = "by ann", "by ben"
    ann.save()
    ben.save_payload()
    for wrong in ({}, {"value": "x", "choice": "mine"}):
        with pytest.raises(RecordError, match="decide by"):
            ben.resolve("label", **wrong)
    with pytest.raises(InvalidRecordError):
        ben.resolve("label", 5)
    assert ben.conflict is not None


# Faults of the original


def test_a_failure_is_false_and_unpacks_as_the_seeds(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"], ben["label"] = "by ann", "by ben"
    good = ann.save_payload()
    ok, data = good
    assert (bool(good), ok, data) == (True, True, None)
    bad = ben.save_payload()
    ok, (code, message) = bad
    assert (bool(bad), ok, code) == (False, False, "conflict")
    assert "label" in message
    assert not Outcome.CONFLICT
    assert Outcome.MERGED


def test_a_conflict_names_everybody_who_edited_since(opened: Opener) -> None:
    mine, first, second = opened(), opened(ANN), opened(BEN)
    first["label"] = "by ann"
    first.save()
    second["pieces"] = 7
    assert second.save() is Outcome.MERGED
    mine["label"] = "mine"
    result = mine.save_payload()
    assert result.conflict.changed_by == ("ann", "ben")


def test_two_raw_updates_in_one_transaction_are_no_lost_update(opened: Opener) -> None:
    obj = opened()
    with around(obj._store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET label = 'one'")
        connection.exec_driver_sql("UPDATE rec_specimen SET label = 'two'")
    obj["label"] = "mine"
    result = obj.save_payload()
    assert result.outcome is Outcome.CONFLICT
    assert result.conflict.theirs["label"] == "two"
    assert result.conflict.changed_by == ()


def test_a_record_deleted_and_made_again_in_one_transaction_is_another(opened: Opener) -> None:
    obj = opened()
    with around(obj._store) as connection:
        connection.exec_driver_sql("DELETE FROM rec_specimen")
        connection.exec_driver_sql(
            "INSERT INTO rec_specimen (record_key, label) VALUES ('a', 'first')"
        )
    obj["pieces"] = 9
    assert obj.save() is Outcome.REPLACED
    assert obj["pieces"] == 9
    assert obj.modified_payload["pieces"] is None
    assert stored(obj, "pieces") is None
    assert not obj.refetch_payload()
    assert obj.refetch_payload(ignore_changes=True)
    obj["pieces"] = 10
    assert obj.save() is Outcome.SAVED


def test_a_save_of_a_deleted_record_creates_nothing(opened: Opener) -> None:
    obj = opened()
    raw(obj._store, "DELETE FROM rec_specimen")
    obj["label"] = "mine"
    assert obj.save() is Outcome.DELETED
    assert (obj["label"], obj.modified_payload) == ("mine", None)
    with pytest.raises(RecordNotFoundError):
        obj.refetch_payload(ignore_changes=True)
    assert obj["label"] == "mine"


def test_a_change_of_subrows_alone_merges(opened: Opener) -> None:
    obj = opened()
    assert len(obj["part"]) == 2
    raw(obj._store, "DELETE FROM rec_specimen__part WHERE part = 'a'")
    obj["label"] = "mine"
    assert obj.save() is Outcome.MERGED
    assert (obj.revision, len(obj["part"])) == (3, 1)


def test_a_conflict_leaves_the_transactions_of_others_alone(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"], ben["label"] = "by ann", "by ben"
    ann.save()
    if ben._store.dialect == "postgresql":  # on SQLite writers queue
        with ben._store.write(BEN) as connection:
            put_record(connection, SPECIMEN, "b", {"label": "b"})
            assert not ben.save_payload()
        with ben._store.read() as connection:
            assert len(list(fetch(connection, SPECIMEN, ANN))) == 2
    with ben._store.read() as connection:
        assert not ben.save_payload()
        assert len(list(fetch(connection, SPECIMEN, ANN, ["a"]))) == 1


def test_a_delete_is_guarded(opened: Opener) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann["label"] = "by ann"
    ann.save()
    with pytest.raises(ConflictError, match="read it again") as caught:
        ben.delete()
    assert caught.value.conflict.theirs["label"] == "by ann"
    assert ben.refetch_payload()
    assert ben.delete() is True
    assert ben.delete() is False
    assert ann.delete() is False
    ann["label"] = "too late"
    assert ann.save() is Outcome.DELETED


def test_a_group_that_was_left_forbids(opened: Opener) -> None:
    member = Principal("cleo", groups=frozenset({"red"}))
    obj = opened(member)
    raw(obj._store, "UPDATE rec_specimen SET group_name = 'blue'")
    obj["label"] = "mine"
    result = obj.save_payload()
    assert (result.outcome, obj.modified_payload) == (Outcome.FORBIDDEN, None)
    assert obj["label"] == "mine"
    with pytest.raises(ForbiddenError):
        obj.delete()
    assert stored(obj, "label") == "first"


def test_a_broken_constraint_is_named(opened: Opener) -> None:
    obj = opened()
    raw(obj._store, "UPDATE rec_specimen SET pieces = 4")
    table = "rec_specimen" if obj._store.dialect == "postgresql" else None
    if table:
        raw(obj._store, "ALTER TABLE rec_specimen ADD CONSTRAINT few CHECK (pieces < 5)")
    else:
        raw(obj._store, "CREATE UNIQUE INDEX few ON rec_specimen (pieces)")
        raw(
            obj._store,
            "INSERT INTO rec_specimen (record_key, label, pieces) VALUES ('z', 'z', 9)",
        )
    obj = opened()
    obj["pieces"] = 9
    result = obj.save_payload()
    assert result.outcome is Outcome.INVALID
    assert result.constraint == ("few" if table else "rec_specimen.pieces")
    assert result.constraint in result.message
    assert (obj["pieces"], obj.modified_payload["pieces"]) == (9, 4)
    obj["pieces"] = 3
    assert obj.save() is Outcome.SAVED


def test_a_refusing_trigger_is_suppressed(opened: Opener) -> None:
    obj = opened()
    _refuse(obj._store, silently=False)
    obj["label"] = "mine"
    assert obj.save() is Outcome.SUPPRESSED
    assert (obj["label"], obj.modified_payload["label"]) == ("mine", "first")


def test_a_silent_trigger_is_suppressed_and_no_success(opened: Opener) -> None:
    obj = opened()
    _refuse(obj._store, silently=True)
    obj["label"] = "mine"
    assert obj.save() is Outcome.SUPPRESSED
    assert stored(obj, "label") == "first"


def _refuse(store: Store, *, silently: bool) -> None:
    if store.dialect == "sqlite":
        act = "IGNORE" if silently else "ABORT, 'no'"
        raw(
            store,
            "CREATE TRIGGER nope BEFORE UPDATE OF label ON rec_specimen "
            f"BEGIN SELECT RAISE({act}); END",
        )
        return
    act = "RETURN NULL;" if silently else "RAISE EXCEPTION 'no';"
    raw(
        store,
        "CREATE FUNCTION nope() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {act} RETURN NULL; END $$",
    )
    raw(
        store,
        "CREATE TRIGGER nope BEFORE UPDATE ON rec_specimen FOR EACH ROW EXECUTE FUNCTION nope()",
    )


@pytest.mark.usefixtures("opened")
def test_a_database_that_stays_busy_is_retryable(instance: StoreInstance) -> None:
    if instance.store.dialect == "sqlite":
        url = instance.store.engine.url.render_as_string()
        store = Store(url, busy_timeout_s=0.05)
    else:
        store = instance.store
        raw(store, "ALTER DATABASE " + store.engine.url.database + " SET lock_timeout = '50ms'")
        store.close()  # the setting is read by new connections
    quick = StoreInstance(store, instance.folder)
    obj = Specimen("a", instance=quick, principal=BEN)
    obj["label"] = "mine"
    with around(store) as connection:
        if store.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("UPDATE rec_specimen SET weight = 2")
        assert obj.save() is Outcome.RETRYABLE
        assert obj["label"] == "mine"
        connection.exec_driver_sql("COMMIT")
    assert obj.save() is Outcome.MERGED
    store.close()


def test_a_serialization_failure_is_tried_again_and_never_escapes(
    opened: Opener, instance: StoreInstance
) -> None:
    store = instance.store
    if store.dialect == "postgresql":
        database = store.engine.url.database
        strict = f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"
        raw(store, strict)
        store.close()  # the setting is read by new connections
    obj = opened(BEN)
    obj["label"] = "mine"
    outcomes = []
    saver = threading.Thread(target=lambda: outcomes.append(obj.save()))
    with around(store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET weight = 2")
        saver.start()
        saver.join(0.3)  # it waits for the row, or for the write lock
        assert saver.is_alive()
    saver.join()
    assert outcomes == [Outcome.MERGED]
    assert (stored(obj, "label"), stored(obj, "weight")) == ("mine", 2.0)


def test_editors_on_one_record_lose_nothing(opened: Opener) -> None:
    """Increments of four threads add up.

    A conflict is resolved on theirs, then saved; when somebody else has saved the very same
    number nothing is written, and the increment is still to be made.
    """
    each, editors = 15, 4
    failures: list[BaseException] = []

    def edit(name: str) -> None:
        try:
            obj = opened(Principal(name, sees_all=True))
            for _ in range(each):
                obj.refetch_payload()
                obj["pieces"] += 1
                while (result := obj.save_payload()).outcome is not Outcome.SAVED:
                    if result.conflict:
                        obj.resolve("pieces", result.conflict.theirs["pieces"] + 1)
                    elif result.outcome is Outcome.UNCHANGED:
                        obj["pieces"] += 1
                    else:
                        assert result.outcome is Outcome.RETRYABLE
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=edit, args=(f"editor{n}",)) for n in range(editors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    final = opened()
    assert final["pieces"] == 1 + each * editors
    with final._store.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM change_feed").scalar_one()
    assert count == final.revision
