"""A save by the driver alone: nothing of it is left on the connection, and none is half done."""

import threading
import time

import pytest
import sqlalchemy as sa

from keepline.errors import InstanceError
from keepline.records import BusinessObject, Outcome, business_class, put_record
from tests.stores import ANN, SPECIMEN, StoreInstance, around, on_postgresql

Specimen = business_class(SPECIMEN)
RAW = "UPDATE rec_specimen SET pieces = 9 WHERE record_key = 'a'"
FEED = (
    "SELECT f.actor, h.reason FROM change_feed AS f JOIN record_history AS h "
    "ON h.record_key = f.record_key AND h.revision = f.revision AND h.subtable = '' ORDER BY f.id"
)
BLOCKED = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    "AND datname = current_database()"
)


@pytest.fixture
def obj(instance: StoreInstance) -> BusinessObject:
    with instance.store.write(ANN) as connection:
        put_record(connection, SPECIMEN, "a", {"label": "first"}, {})
    return Specimen("a", instance=instance, principal=ANN)


def test_who_and_why_are_told_and_end_with_the_save(
    obj: BusinessObject, instance: StoreInstance
) -> None:
    for number in range(7):  # more often than drivers wait before they prepare a statement
        obj["pieces"] = number
        assert obj.save(f"because {number}") is Outcome.SAVED
    with instance.store.engine.begin() as connection:  # the same pooled connection
        connection.exec_driver_sql(RAW)
    with instance.store.read() as connection:
        told = [tuple(row) for row in connection.exec_driver_sql(FEED)]
    assert told == [
        ("ann", None),
        *(("ann", f"because {number}") for number in range(7)),
        (None, None),
    ]


def fail_after(connection: sa.Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)
    connection.exec_driver_sql("nonsense")


def test_a_connection_that_saved_makes_transactions_again(
    obj: BusinessObject, instance: StoreInstance
) -> None:
    obj["label"] = "saved"
    assert obj.save()
    with pytest.raises(sa.exc.DBAPIError), instance.store.write(ANN) as connection:
        fail_after(connection, RAW)
    obj.refetch_payload()
    assert (obj["label"], obj["pieces"]) == ("saved", None)


def test_a_refused_save_leaves_no_trace(obj: BusinessObject, instance: StoreInstance) -> None:
    with around(instance.store) as other:
        other.exec_driver_sql("UPDATE rec_specimen SET label = 'theirs'")
    obj["label"] = "mine"
    assert obj.save_payload().outcome is Outcome.CONFLICT
    with instance.store.engine.begin() as connection:
        connection.exec_driver_sql(RAW)
    with instance.store.read() as connection:
        assert connection.exec_driver_sql(FEED).all()[-1] == (None, None)
        assert connection.exec_driver_sql("SELECT count(*) FROM change_feed").scalar_one() == 3


@on_postgresql
def test_a_server_that_cut_idle_connections_is_asked_anew(
    obj: BusinessObject, instance: StoreInstance
) -> None:
    with instance.store.read() as connection:
        number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with around(instance.store) as other:
        other.execute(sa.text("SELECT pg_terminate_backend(:n, 10000)"), {"n": number})
    obj["label"] = "saved"
    assert obj.save() is Outcome.SAVED


@on_postgresql
def test_a_save_that_is_cut_off_is_one_clear_error(
    obj: BusinessObject, instance: StoreInstance
) -> None:
    raised: list[BaseException] = []

    def save() -> None:
        try:
            obj.save()
        except InstanceError as error:
            raised.append(error)

    obj["label"] = "mine"
    thread = threading.Thread(target=save)
    with around(instance.store) as other, around(instance.store) as watcher:
        other.exec_driver_sql(RAW)
        thread.start()
        while not (blocked := watcher.exec_driver_sql(BLOCKED).scalars().all()):
            time.sleep(0.01)
        for number in blocked:
            watcher.execute(sa.text("SELECT pg_terminate_backend(:n, 10000)"), {"n": number})
        thread.join()
    assert "the SQL store cannot be written" in str(raised[0])
    assert obj["label"] == "mine"
    assert obj.save() is Outcome.MERGED
