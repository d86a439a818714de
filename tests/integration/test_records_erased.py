"""Nothing comes back about an erased subject, and what was about it before is found."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from keepline.app.subjects import parts
from keepline.errors import InstanceError
from keepline.model import Field, Principal, RecordType, utc_now
from keepline.records import apply_type, business_class, erasing, subjects
from keepline.records.bundles import checkout
from keepline.records.checkins import checkin
from keepline.records.erasing import Erased
from keepline.records.outcomes import Outcome
from keepline.records.proposals import proposals
from keepline.records.revisions import history
from keepline.records.subjects import Subject
from keepline.records.type_changes import migrate_type
from keepline.store.purging import purge
from keepline.store.tables.declared import record_tables
from keepline.store.tables.delivery import sent_log
from tests.stores import ANN, StoreInstance, around, on_sqlite

NOTE = RecordType("note", subject=True, fields=(Field("text"),))


def _subject(instance: StoreInstance, name: str = "P-1", group: str | None = None) -> Subject:
    apply_type(instance.store, NOTE, ANN)
    return subjects.add(name, group=group, instance=instance, principal=ANN)


def _create(instance: StoreInstance, key: str, about: int, text: str = "secret") -> None:
    made = business_class(NOTE)
    made.create(key, {"text": text}, subject=about, instance=instance, principal=ANN)


def _erase(instance: StoreInstance, found: Subject) -> Erased:
    return erasing.erase(instance.store, found, parts(), principal=ANN, reason="asked")


def test_a_bundle_brings_nothing_back(instance: StoreInstance) -> None:
    found = _subject(instance)
    _create(instance, "n1", found.number)
    bundle = checkout(NOTE, ["n1"], instance=instance, principal=ANN)
    bundle.records["n1"].values["text"] = "secret again"
    _erase(instance, found)
    report = checkin(bundle, NOTE, instance=instance, principal=ANN)
    assert [each.key for each in report.refused] == ["n1"]
    assert report.records[0].outcome is Outcome.DELETED
    assert list(proposals(instance=instance, principal=ANN)) == []
    other = replace(bundle, epoch="of another life")
    _create(instance, "n1", _subject(instance, "P-2").number)
    assert checkin(other, NOTE, instance=instance, principal=ANN).refused
    assert list(proposals(instance=instance, principal=ANN)) == []


def test_the_database_refuses_rows_about_an_erased_subject(instance: StoreInstance) -> None:
    found = _subject(instance)
    _create(instance, "n1", found.number)
    _create(instance, "n2", _subject(instance, "P-2").number)
    _erase(instance, found)
    for statement in (
        f"INSERT INTO rec_note (record_key, subject_no) VALUES ('n3', {found.number})",
        f"UPDATE rec_note SET subject_no = {found.number} WHERE record_key = 'n2'",
    ):
        with (
            pytest.raises(sa.exc.DBAPIError, match="the subject is erased"),
            around(instance.store) as raw,
        ):
            raw.exec_driver_sql(statement)


def test_a_record_waits_for_the_erasure_of_its_subject(instance: StoreInstance) -> None:
    found = _subject(instance)
    table = record_tables(NOTE).tables[NOTE.table_name]
    begun, failed = threading.Event(), []

    def insert() -> None:
        begun.set()
        try:
            with instance.store.write(ANN) as connection:
                values = {"record_key": "late", "subject_no": found.number}
                connection.execute(sa.insert(table).values(values))
        except sa.exc.DBAPIError as error:
            failed.append(str(error.orig))

    late = threading.Thread(target=insert)

    class Waits:
        def erase(self, connection: sa.Connection, scope: object) -> dict[str, int]:
            late.start()
            begun.wait(10)
            late.join(0.3)
            return {}

        def out_of_reach(self, connection: sa.Connection, scope: object) -> list[str]:
            return []

    erasing.erase(instance.store, found, [Waits()], principal=ANN, reason="asked")
    late.join(30)
    assert "the subject is erased" in failed[0]


def test_a_subject_can_be_erased_again(instance: StoreInstance) -> None:
    found = _subject(instance)
    _erase(instance, found)
    with instance.store.write(ANN) as connection:  # as it was before the database refused it
        connection.execute(sa.text("UPDATE subject SET identifier = 'x', erased_at = NULL"))
    _create(instance, "n1", found.number)
    with instance.store.write(ANN) as connection:
        now = sa.text("UPDATE subject SET identifier = NULL, erased_at = :now")
        connection.execute(now, {"now": utc_now().isoformat(" ")})
    with instance.store.read() as connection:
        gone = subjects.find_number(connection, found.number, ANN)
    assert _erase(instance, gone).removed["records"] == 1


def test_what_was_sent_under_a_key_that_is_anothers_now_is_told(instance: StoreInstance) -> None:
    found, other = _subject(instance), _subject(instance, "P-2")
    _create(instance, "n1", found.number)
    with instance.store.write(ANN) as connection:
        connection.execute(sa.insert(sent_log).values(_sent(1)))
    with instance.store.write(ANN) as connection:
        connection.execute(
            sa.text("UPDATE rec_note SET subject_no = :n, text = 'other'"), {"n": other.number}
        )
    told = _erase(instance, found).out_of_reach
    assert any("recipient r was sent 1 revisions" in line for line in told)
    with instance.store.read() as connection:
        assert connection.execute(sa.select(sent_log.c.send_key)).scalar_one() != "of content"
        assert connection.exec_driver_sql("SELECT text FROM rec_note").scalar_one() == "other"


def _sent(revision: int) -> dict[str, object]:
    return {
        "recipient": "r",
        "record_type": "note",
        "record_key": "n1",
        "revision": revision,
        "target_key": "t",
        "send_key": "of content",
        "state": "sent",
        "started_at": utc_now(),
    }


def test_a_record_of_a_type_that_was_about_subjects_goes_too(instance: StoreInstance) -> None:
    found = _subject(instance)
    _create(instance, "n1", found.number)
    migrate_type(instance.store, replace(NOTE, subject=False), ANN, allow_data_loss=True)
    assert _erase(instance, found).removed["records"] == 1
    with instance.store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rec_note").scalar_one() == 0


def test_erased_revisions_are_shown_to_the_group_alone(instance: StoreInstance) -> None:
    found = _subject(instance, group="a")
    made = business_class(NOTE)
    made.create(
        "n1", {"text": "x"}, group="a", subject=found.number, instance=instance, principal=ANN
    )
    _erase(instance, found)
    outside = Principal("eve", groups=frozenset({"b"}))
    assert history(NOTE, "n1", instance=instance, principal=outside) == []
    inside = Principal("ida", groups=frozenset({"a"}))
    assert history(NOTE, "n1", instance=instance, principal=inside)


@pytest.fixture
def full() -> Iterator[None]:
    """A disk that takes no file beyond a few pages."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@on_sqlite
def test_files_that_could_not_be_rebuilt_are_told_with_the_reason(
    instance: StoreInstance, request: pytest.FixtureRequest
) -> None:
    _erase(instance, _subject(instance))
    request.getfixturevalue("full")
    (left,) = purge(instance.store, [])
    assert "could not be rebuilt" in left
    assert "another program" not in left


@on_sqlite
def test_a_migration_on_a_full_disk_is_one_clear_error(
    instance: StoreInstance, request: pytest.FixtureRequest
) -> None:
    found = _subject(instance)
    for number in range(40):
        _create(instance, f"n{number}", found.number, "x" * 2000)
    request.getfixturevalue("full")
    wider = replace(NOTE, fields=(*NOTE.fields, Field("more")))
    with pytest.raises(InstanceError, match="cannot be written"):
        migrate_type(instance.store, wider, ANN)


def test_an_identifier_that_comes_again_is_a_new_person(instance: StoreInstance) -> None:
    found = _subject(instance)
    erased = _erase(instance, found)
    again = _subject(instance)
    assert again.number > found.number
    assert erasing.digest_of(again) != erased.digest  # which no identifier goes into
