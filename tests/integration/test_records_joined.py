"""Saving within a transaction of the caller's: its end decides what objects take for saved."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import ConflictError, RecordError
from keepline.records import BusinessObject, Outcome, business_class, history, put_record
from keepline.records.joined import _ledgers
from keepline.store import Store
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance, around, on_postgresql, on_sqlite

Specimen = business_class(SPECIMEN)
Opener = Callable[..., BusinessObject]


@pytest.fixture
def opened(instance: StoreInstance) -> Opener:
    with instance.store.write(ANN) as connection:
        for key in "abc":
            put_record(connection, SPECIMEN, key, {"label": "first", "pieces": 1})

    def open_one(pk: str = "a", **kwargs: Any) -> BusinessObject:
        return Specimen(pk, instance=instance, principal=BEN, **kwargs)

    return open_one


@pytest.fixture(params=["store", "engine"])
def joining(request: pytest.FixtureRequest, store: Store) -> Iterator[Callable[..., Any]]:
    """Ways to a connection in a transaction: the store's own, and one of another engine."""
    engine = sa.create_engine(store.engine.url)

    @contextmanager
    def join() -> Iterator[sa.Connection]:
        if request.param == "store":
            with store.write(ANN) as connection:
                yield connection
        else:
            with engine.begin() as connection:
                yield connection

    yield join
    engine.dispose()


def stored(store: Store, key: str = "a") -> Any:
    with store.read() as connection:
        return connection.exec_driver_sql(
            f"SELECT label, pieces FROM rec_specimen WHERE record_key = '{key}'"
        ).one()


class StopError(Exception):
    """Ends a transaction."""


@contextmanager
def undone(transaction: AbstractContextManager[sa.Connection]) -> Iterator[sa.Connection]:
    """Give the connection of a transaction that is rolled back at the end of the block."""
    with suppress(StopError), transaction as connection:
        yield connection
        raise StopError


def test_a_commit_keeps_what_objects_took_for_saved(
    opened: Opener, joining: Any, store: Store
) -> None:
    obj = opened()
    with joining() as connection:
        obj["label"] = "second"
        assert obj.save("why", connection=connection) is Outcome.SAVED
        obj["pieces"] = 2
        assert obj.save("why", connection=connection) is Outcome.SAVED
        assert not obj.is_changed()
    assert tuple(stored(store)) == ("second", 2)
    assert opened().token == obj.token
    assert opened().revision == 2  # one transaction, one revision
    obj["label"] = "third"
    assert obj.save() is Outcome.SAVED


def test_fault_after_the_callers_rollback_the_object_believed_it_was_saved(
    opened: Opener, joining: Any, store: Store
) -> None:
    obj = opened()
    before = obj.token
    with undone(joining()) as connection:
        obj["label"] = "second"
        assert obj.save(connection=connection) is Outcome.SAVED
        obj["pieces"] = 2
        assert obj.save(connection=connection) is Outcome.SAVED
        obj["weight"] = 0.5
        assert obj.token != before
    assert obj.token == before
    assert obj.original_payload["label"] == "first"
    assert obj.changed_fields == ("label", "pieces", "weight")
    assert obj.save() is Outcome.SAVED
    assert tuple(stored(store)) == ("second", 2)


def test_fault_a_conflict_rolled_the_callers_whole_transaction_back(
    opened: Opener, joining: Any, store: Store
) -> None:
    ann, ben = opened(), opened()
    ann["label"], ben["label"] = "by ann", "by ben"
    ann.save()
    with joining() as connection:
        connection.execute(
            sa.text("UPDATE rec_specimen SET label = 'caller' WHERE record_key = 'b'")
        )
        with pytest.raises(ConflictError):
            ben.save(connection=connection)
        connection.execute(sa.text("UPDATE rec_specimen SET pieces = 9 WHERE record_key = 'b'"))
    assert tuple(stored(store, "b")) == ("caller", 9)
    assert stored(store).label == "by ann"
    ben.resolve("label", choice="mine")
    assert ben.save() is Outcome.SAVED


def test_savepoints_are_followed(opened: Opener, joining: Any, store: Store) -> None:
    kept, lost, released = opened("a"), opened("b"), opened("c")
    with joining() as connection:
        kept["label"] = "kept"
        kept.save(connection=connection)
        outer = connection.begin_nested()
        lost["label"] = "lost"
        lost.save(connection=connection)
        inner = connection.begin_nested()
        released["label"] = "released"
        released.save(connection=connection)
        inner.commit()
        assert not released.is_changed()
        outer.rollback()
        assert (lost.changed_fields, released.changed_fields) == (("label",), ("label",))
        assert released.save(connection=connection) is Outcome.SAVED
    assert [stored(store, key).label for key in "abc"] == ["kept", "first", "released"]
    assert not kept.is_changed()
    assert opened("c").token == released.token
    assert lost.save() is Outcome.SAVED


def test_a_connection_closed_without_a_commit_restores(opened: Opener, store: Store) -> None:
    obj, other = opened(), opened("b")
    connection = store.engine.connect()
    obj["label"] = "lost"
    assert obj.save(connection=connection) is Outcome.SAVED
    connection.close()
    assert obj.is_changed()
    connection = store.engine.connect()
    other["label"] = "lost"
    assert other.save(connection=connection) is Outcome.SAVED
    del connection
    gc.collect()
    assert other.is_changed()
    assert (obj.save(), other.save()) == (Outcome.SAVED, Outcome.SAVED)


def test_a_commit_that_fails_restores(opened: Opener, store: Store) -> None:
    with around(store) as connection:
        connection.exec_driver_sql("CREATE TABLE parent (id integer PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE child (id integer REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    obj = opened()
    obj["label"] = "lost"

    def save() -> None:
        with store.write(ANN) as connection:
            assert obj.save(connection=connection) is Outcome.SAVED
            assert not obj.is_changed()
            connection.exec_driver_sql("INSERT INTO child VALUES (1)")

    with pytest.raises(sa.exc.IntegrityError):
        save()
    assert obj.changed_fields == ("label",)
    assert stored(store).label == "first"


@on_postgresql
def test_a_commit_of_a_failed_transaction_is_no_commit(opened: Opener, store: Store) -> None:
    obj = opened()
    with store.engine.connect() as connection:
        obj["label"] = "lost"
        assert obj.save(connection=connection) is Outcome.SAVED
        with pytest.raises(sa.exc.ProgrammingError):
            connection.exec_driver_sql("SELECT nothing")
        connection.commit()
    assert obj.changed_fields == ("label",)


def test_what_others_merged_is_merged_again_after_a_rollback(opened: Opener, store: Store) -> None:
    mine, theirs = opened(), opened()
    theirs["pieces"] = 5
    theirs.save()
    mine["label"] = "mine"
    with undone(store.write(BEN)) as connection:
        assert mine.save(connection=connection) is Outcome.MERGED
        assert mine["pieces"] == 5
    assert (mine["pieces"], mine.changed_fields) == (1, ("label",))
    assert mine.save() is Outcome.MERGED
    assert tuple(stored(store)) == ("mine", 5)


def test_the_savers_name_is_kept_and_the_callers_comes_back(
    opened: Opener, joining: Any, store: Store
) -> None:
    obj = opened()
    with joining() as connection:
        obj["label"] = "second"
        obj.save("a reason", connection=connection)
        connection.exec_driver_sql("UPDATE rec_specimen SET pieces = 3 WHERE record_key = 'b'")
        mine = connection.exec_driver_sql(
            "SELECT count(*) FROM change_feed WHERE actor = 'ben'"
        ).scalar_one()
    assert mine == 1
    with store.read() as connection:
        reasons = connection.exec_driver_sql(
            "SELECT record_key, reason FROM record_history WHERE reason IS NOT NULL"
        ).all()
    assert [tuple(row) for row in reasons] == [("a", "a reason")]


@on_sqlite
def test_a_stale_sqlite_transaction_is_retryable(opened: Opener, store: Store) -> None:
    obj, other = opened(), opened()
    obj["label"], other["pieces"] = "mine", 7
    with store.engine.connect() as connection:  # BEGIN, deferred
        connection.exec_driver_sql("SELECT count(*) FROM rec_specimen").all()
        other.save()
        assert obj.save(connection=connection) is Outcome.RETRYABLE
        assert connection.exec_driver_sql("SELECT count(*) FROM rec_specimen").scalar() == 3
    assert obj.changed_fields == ("label",)
    assert obj.save() is Outcome.MERGED


@on_postgresql
def test_a_serialization_failure_in_a_joined_transaction_is_retryable(
    opened: Opener, store: Store
) -> None:
    obj, other = opened(), opened()
    obj["label"], other["pieces"] = "mine", 7
    engine = store.engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM rec_specimen").all()
        other.save()
        assert obj.save(connection=connection) is Outcome.RETRYABLE
    assert obj.save() is Outcome.MERGED


@on_postgresql
def test_a_connection_that_commits_by_itself_is_refused(opened: Opener, store: Store) -> None:
    obj = opened()
    obj["label"] = "second"
    engine = store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(RecordError, match="commits each"):
        obj.save(connection=connection)


def test_records_are_made_read_and_deleted_within_a_transaction(
    opened: Opener, joining: Any, instance: StoreInstance
) -> None:
    with undone(joining()) as connection:
        about = {"instance": instance, "principal": BEN, "connection": connection}
        new = Specimen.create("z", {"label": "new"}, **about)
        assert Specimen("z", **about)["label"] == "new"
        assert [each.key for each in Specimen.select(**about)] == ["a", "b", "c", "z"]
        new["label"] = "newer"
        assert new.save(connection=connection) is Outcome.SAVED
        assert opened("b").delete(connection=connection) is True
    assert [each.key for each in Specimen.select(instance=instance)] == ["a", "b", "c"]
    assert new.save() is Outcome.DELETED
    assert new["label"] == "newer"


def test_nothing_is_left_of_a_transaction_that_ended(opened: Opener, store: Store) -> None:
    known = len(_ledgers)
    obj = opened()
    with store.write(ANN) as connection:
        obj["label"] = "second"
        obj.save(connection=connection)
        connection_there = weakref.ref(connection)
    del connection
    gc.collect()
    assert connection_there() is None
    assert len(_ledgers) == known
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


def test_each_writer_and_each_reason_of_a_transaction_makes_a_revision_of_its_own(
    opened: Opener, joining: Any, instance: StoreInstance
) -> None:
    ann = Specimen("a", instance=instance, principal=ANN)
    saves = [
        (ann, 2, "counted"),
        (ann, 3, "counted"),
        (ann, 4, "counted again"),
        (opened(), 5, "counted again"),
        (ann, 6, "counted"),
        (ann, 7, "counted"),
    ]
    with joining() as connection:
        for obj, pieces, reason in saves:
            obj.refetch_payload(connection=connection)
            obj["pieces"] = pieces
            assert obj.save(reason, connection=connection) is Outcome.SAVED
    found = history(SPECIMEN, "a", instance=instance)[1:]
    made = [(each.who, each.why, each.fields["pieces"].after) for each in found]
    assert made == [
        ("ann", "counted", 3),
        ("ann", "counted again", 4),
        ("ben", "counted again", 5),
        ("ann", "counted", 7),
    ]
