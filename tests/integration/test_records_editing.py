"""Editing a record as text: what was typed is saved, decided or kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Field
from keepline.records import BusinessObject, Conflict, Outcome, business_class, put_record
from keepline.records.editing import Desk, decided, edit_record, form, read_form
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance

TEXT = 'two\nlines "quoted" \\ and #'


@pytest.fixture
def obj(instance: StoreInstance) -> BusinessObject:
    values = {"label": TEXT, "pieces": 1, "extra": {"list": [1, "x"]}, "code": "c1"}
    with instance.store.write(ANN) as connection:
        put_record(connection, SPECIMEN, "a", values)
    return business_class(SPECIMEN)("a", instance=instance, principal=ANN)


def no_conflict(_conflict: Conflict, _field: Field) -> Any:
    raise AssertionError("there is no conflict")


def desk(
    edit: Callable[[str], str],
    decide: Callable[[Conflict, Field], Any] = no_conflict,
    go_on: bool = False,
) -> Desk:
    def change(path: Path) -> None:
        path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")

    return Desk(change, decide, lambda _said: go_on)


def test_the_form_says_what_the_record_holds(obj: BusinessObject) -> None:
    text = form(obj)
    assert read_form(obj, text) == {name: obj[name] for name in obj.updatable_fields}
    assert "# real in g" in text
    assert '# code = "c1"   (cannot be set)' in text


def test_what_is_typed_is_saved(obj: BusinessObject, tmp_path: Path) -> None:
    def edit(text: str) -> str:
        return text.replace("pieces = 1", "pieces = 2 # counted").replace(
            "two\nlines", "three\nlines"
        )

    outcome = edit_record(obj, tmp_path / "draft", desk(edit), reason="counted")
    assert outcome is Outcome.SAVED
    assert (obj["pieces"], obj["label"]) == (2, TEXT.replace("two", "three"))


def test_nothing_typed_is_nothing_saved(obj: BusinessObject, tmp_path: Path) -> None:
    assert edit_record(obj, tmp_path / "draft", desk(lambda text: text)) is Outcome.UNCHANGED
    assert obj.revision == 1


def test_a_conflict_is_decided_field_by_field(
    obj: BusinessObject, tmp_path: Path, instance: StoreInstance
) -> None:
    asked = []

    def edit(_text: str) -> str:
        other = business_class(SPECIMEN)("a", instance=instance, principal=BEN)
        other["label"], other["pieces"], other["weight"] = "theirs", 7, 3.0
        other.save()
        return 'label = "mine"\npieces = 8\n'

    def decide(conflict: Conflict, field: Field) -> Any:
        asked.append((field.name, conflict.edits[field.name][0]))
        return decided(conflict, field, {"label": "t", "pieces": "15"}[field.name])

    assert edit_record(obj, tmp_path / "draft", desk(edit, decide))
    assert asked == [("label", "ben"), ("pieces", "ben")]
    assert (obj["label"], obj["pieces"], obj["weight"]) == ("theirs", 15, 3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label = first", "line 1: label is not JSON"),
        ('# x\n\nlabel = "a" "b"', "line 3: label is not JSON"),
        ("pieces = 1.5", "line 1: pieces takes integer"),
        ("pieces = 1\npieces = 2", "line 2: pieces stands here twice"),
        ("size = 1", "no field 'size'"),
        ('code = "x"', "no field 'code'"),
        ("what", "line 1: this is not field = value"),
        ('taken = "2026-03-02T10:00:00"', "time zone"),
    ],
)
def test_what_cannot_be_read_is_said_and_kept(
    obj: BusinessObject, tmp_path: Path, text: str, said: str
) -> None:
    draft = tmp_path / "draft"
    with pytest.raises(InvalidRecordError, match=said):
        edit_record(obj, draft, desk(lambda _text: text))
    assert draft.read_text(encoding="utf-8") == text


def test_a_mistake_can_be_mended(obj: BusinessObject, tmp_path: Path) -> None:
    tries = iter(["pieces = x", "pieces = 5"])
    assert edit_record(obj, tmp_path / "draft", desk(lambda _text: next(tries), go_on=True))
    assert obj["pieces"] == 5


def test_what_was_typed_about_a_deleted_record_is_kept(
    obj: BusinessObject, tmp_path: Path, instance: StoreInstance
) -> None:
    def edit(_text: str) -> str:
        business_class(SPECIMEN)("a", instance=instance).delete()
        return "pieces = 5"

    draft = tmp_path / "draft"
    with pytest.raises(RecordError, match="deleted"):
        edit_record(obj, draft, desk(edit))
    assert draft.read_text(encoding="utf-8") == "pieces = 5"
