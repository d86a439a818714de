"""Subjects of a group: nobody else makes records about them, or learns that they are there."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.errors import InvalidRecordError
from keepline.model import Field, Principal, RecordType
from keepline.records import apply_type, business_class, import_csv, put_record, subjects
from keepline.records.importing import ImportOptions
from keepline.records.subjects import subjects as known
from tests.stores import StoreInstance

PERSON = RecordType("person", (Field("note"),), subject=True)
RED = Principal("red", groups=frozenset(["red"]))
BLUE = Principal("blue", groups=frozenset(["blue"]))
UNSEEN = "^there is no such subject, or it is not yours to see$"


@pytest.fixture
def hidden(instance: StoreInstance) -> int:
    """The number of a subject of the group red."""
    apply_type(instance.store, PERSON, RED)
    return subjects.add("P-1", group="red", instance=instance, principal=RED).number


@pytest.mark.parametrize("there", [True, False])
def test_a_subject_of_another_group_is_as_one_that_is_not_there(
    instance: StoreInstance, hidden: int, there: bool
) -> None:
    wanted = hidden if there else hidden + 1000
    with pytest.raises(InvalidRecordError, match=UNSEEN):
        business_class(PERSON).create(
            "a", {}, group="blue", subject=wanted, instance=instance, principal=BLUE
        )
    with (
        pytest.raises(InvalidRecordError, match=UNSEEN),
        instance.store.write(BLUE) as connection,
    ):
        put_record(connection, PERSON, "a", {}, group="blue", subject=wanted, principal=BLUE)
    with instance.store.read() as connection:
        kept = sa.text("SELECT count(*) FROM rec_person")
        assert connection.execute(kept).scalar_one() == 0


def test_whoever_sees_a_subject_makes_records_about_it(
    instance: StoreInstance, hidden: int
) -> None:
    made = business_class(PERSON).create(
        "a", {}, group="red", subject=hidden, instance=instance, principal=RED
    )
    assert made.subject == hidden
    with instance.store.write(RED) as connection:
        assert put_record(connection, PERSON, "b", {}, subject=hidden, principal=RED)


def _import(instance: StoreInstance, path: Path, text: str, principal: Principal) -> list[str]:
    path.write_text(f"record_key,subject,note\n{text}")
    (group,) = principal.groups
    options = ImportOptions(group=group)
    report = import_csv(path, PERSON, options=options, instance=instance, principal=principal)
    return [reason for _, reason in report.rejects]


@pytest.mark.usefixtures("hidden")
def test_an_import_rejects_rows_about_subjects_of_another_group(
    instance: StoreInstance, tmp_path: Path
) -> None:
    file = tmp_path / "in.csv"
    (refused,) = _import(instance, file, "a,P-1,x\nb,P-2,y\n", BLUE)
    assert "it is not yours to see" in refused
    assert [each.identifier for each in known(instance=instance)] == ["P-1", "P-2"]


def test_an_import_does_not_tell_whose_record_it_is(
    instance: StoreInstance, hidden: int, tmp_path: Path
) -> None:
    file = tmp_path / "in.csv"
    with instance.store.write(RED) as connection:
        put_record(connection, PERSON, "a", {"note": "x"}, subject=hidden, principal=RED)
    said = [_import(instance, file, f"a,{name},x\n", BLUE) for name in ("P-1", "P-2", "P-9")]
    assert said == [["the record is about another subject, or about none"]] * 3
    assert _import(instance, file, "a,P-1,x\n", RED) == []
    assert len(known(instance=instance)) == 1
