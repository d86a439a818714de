"""Choosing among records of all types."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keepline.errors import InvalidRecordError
from keepline.model import Field, Principal, RecordType
from keepline.query import connect
from keepline.query.modules.store import records_module
from keepline.records import apply_type, business_class, find, subjects
from keepline.store import Store
from tests.query_host import host
from tests.stores import ANN, StoreInstance
from tests.visits import STRICT, VISIT

RED = Principal("rita", groups=frozenset({"red"}))
NOBODY = Principal("ned")

Make = Callable[..., Any]


@pytest.fixture
def found(visits: Store, tmp_path: Path) -> Make:
    """Return what finds records, as ``type/key``, among four of two types, one deleted."""
    instance = StoreInstance(visits, tmp_path)
    visit, strict = business_class(VISIT), business_class(STRICT)
    person = subjects.add("P-1", group="red", instance=instance).number
    visit.create("everybodys", {}, instance=instance)
    visit.create("red", {}, group="red", subject=person, instance=instance).finalise()
    strict.create("blue", {}, group="blue", instance=instance)
    strict.create("gone", {}, group="red", instance=instance).delete("made by mistake")

    def names(*args: Any, **options: Any) -> list[str]:
        return [str(each.record) for each in find(*args, instance=instance, **options)]

    return names


def test_each_condition_narrows(found: Make, instance: StoreInstance) -> None:
    blue, everybodys, red = "strict/blue", "visit/everybodys", "visit/red"
    assert found() == [blue, everybodys, red]
    assert found(["visit"]) == [everybodys, red]
    assert found([]) == []
    assert found(groups=["red"]) == [red]
    assert found(groups=["blue", None]) == [blue, everybodys]
    assert found(current=False) == ["strict/gone"]
    assert found(current=None, groups=["red"]) == ["strict/gone", red]
    assert found(finalised=True) == [red]
    assert found(finalised=False) == [blue, everybodys]
    assert found(anonymous=True) == [blue]
    assert found(subject=1) == [red]
    assert found(limit=1) == [blue]
    (entry,) = find(finalised=True, instance=instance)
    assert (entry.revision, entry.version, entry.group, entry.subject) == (2, 1, "red", 1)


def test_changes_since_a_time_count_that_time(found: Make, instance: StoreInstance) -> None:
    times = {str(each.record): each.changed_at for each in find(instance=instance)}
    for moment in times.values():
        since = [name for name, at in times.items() if at >= moment]
        assert found(changed_since=moment) == since
    assert found(changed_since=max(times.values()) + timedelta(seconds=1)) == []
    with pytest.raises(ValueError, match="without a zone"):
        found(changed_since=datetime(2026, 3, 2))  # noqa: DTZ001 - what is refused


def test_records_of_other_groups_are_not_found(found: Make) -> None:
    assert found(principal=RED, current=None) == ["strict/gone", "visit/everybodys", "visit/red"]
    assert found(principal=NOBODY, current=None) == ["visit/everybodys"]
    assert found(principal=NOBODY, subject=1, groups=["red"]) == []


@pytest.mark.usefixtures("found")
def test_queries_show_the_index_and_no_identifier_of_other_groups(visits: Store) -> None:
    asked = host(records_module(visits), rita={"red"}, ned=set())
    for user, keys, people in (
        ("admin", 4, [("P-1",)]),
        ("rita", 3, [("P-1",)]),
        ("ned", 1, []),
    ):
        with connect(user, instance=asked) as connection:
            cursor = connection.cursor()
            rows = cursor.execute("SELECT record_key FROM records.index").fetchall()
            assert len(rows) == keys
            shown = cursor.execute("SELECT identifier FROM records.subject").fetchall()
            assert shown == people
            text = "SELECT count(*) FROM records.subject WHERE identifier = 'P-1'"
            assert cursor.execute(text).fetchall() == [(len(people),)]


@pytest.mark.parametrize("name", ["index", "subject"])
def test_no_type_takes_the_name_of_such_a_table(store: Store, name: str) -> None:
    with pytest.raises(InvalidRecordError, match="queries have a table of that name"):
        apply_type(store, RecordType(name, (Field("note"),)), ANN)
