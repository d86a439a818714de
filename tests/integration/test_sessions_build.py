"""Sessions become records exactly once, and a broken one stops no other."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import InstanceError
from keepline.model import Instrument, RecordImage, SessionInfo, to_us
from keepline.records import INSTRUMENT_SESSION, business_class, put_record
from keepline.sessions import (
    BuildReport,
    SessionLog,
    add_instrument,
    build_sessions,
    db_query,
    get_sessions_to_build,
    harvest_capture,
)
from keepline.store import Store
from keepline.store.recordset import fetch
from keepline.store.tables.capture import (
    block,
    block_stat,
    capture_session,
    channel,
    gap,
    stream,
)
from tests.stores import ANN, StoreInstance, around

NINE = datetime(2024, 5, 1, 9, tzinfo=UTC)
write_record = partial(put_record, declared=INSTRUMENT_SESSION)


def at(seconds: float) -> int:
    return to_us(NINE + timedelta(seconds=seconds))


def info(number: int, **changes: Any) -> SessionInfo:
    values = {
        "store_id": "x",
        "number": number,
        "instrument": "m1",
        "user": "ann",
        "state": "complete",
        "started": NINE + timedelta(hours=number),
        "ended": NINE + timedelta(hours=number, minutes=30),
    }
    return SessionInfo(**(values | changes))


def archive(
    store: Store,
    found: SessionInfo,
    channels: dict[tuple[str, str], Sequence[dict[str, Any]]],
    *,
    state: str = "complete",
    messages: int = 10,
    gaps: Sequence[str] = (),
) -> None:
    """Lay down what the archive would hold: a block for each statistic of a channel."""
    with store.write(ANN) as connection:
        insert = sa.insert(capture_session).values(
            store_id=found.store_id,
            number=found.number,
            global_name=found.global_name,
            instrument=found.instrument,
            user_name=found.user,
            state=state,
            started_at=found.started,
            ended_at=found.ended,
            level="stored",
        )
        row = connection.execute(insert.returning(capture_session.c.id)).scalar_one()
        for source in sorted({source for source, _ in channels} | {"main"}):
            connection.execute(
                sa.insert(stream).values(
                    session_id=row,
                    source=source,
                    decoder="json",
                    options={},
                    messages=messages,
                    readings=2 * messages,
                    quarantined=1,
                    lost=0,
                )
            )
        for seq, kind in enumerate(gaps):
            connection.execute(
                sa.insert(gap).values(
                    session_id=row, source="main", kind=kind, after_seq=seq, from_us=0, until_us=1
                )
            )
        first_seq = 0
        for (source, name), stats in channels.items():
            insert = sa.insert(channel).values(
                session_id=row, source=source, name=name, dtype="float64", unit="K"
            )
            channel_id = connection.execute(insert.returning(channel.c.id)).scalar_one()
            for stat in stats:
                insert = sa.insert(block).values(
                    session_id=row,
                    source=source,
                    first_seq=first_seq,
                    last_seq=first_seq,
                    readings=1,
                    crc=0,
                    codec="none",
                    payload=b"",
                )
                block_id = connection.execute(insert.returning(block.c.id)).scalar_one()
                connection.execute(
                    sa.insert(block_stat).values(block_id=block_id, channel_id=channel_id, **stat)
                )
                first_seq += 1


def stat(n: int, low: float, high: float, begin: float, first: float, last: float) -> dict:
    """A block's statistics; the total is that of values half-way between low and high."""
    return {
        "n": n,
        "min": low,
        "max": high,
        "total": n * (low + high) / 2,
        "first": first,
        "last": last,
        "first_us": at(begin),
        "last_us": at(begin + n),
    }


NOTHING = {"n": 0}
PLAIN = {("main", "t"): [stat(10, 0.0, 10.0, 0, 1.0, 2.0)]}


@pytest.fixture
def ready(instance: StoreInstance) -> StoreInstance:
    add_instrument(Instrument("m1", group="red"), instance=instance)
    return instance


def images(instance: StoreInstance) -> list[RecordImage]:
    with instance.store.read() as connection:
        return list(fetch(connection, INSTRUMENT_SESSION, ANN))


def state(instance: StoreInstance, number: int) -> str:
    query = "SELECT status FROM session WHERE identifier = ?"
    ((found,),) = db_query(query, [f"capture:x:{number}"], instance=instance)
    return str(found)


def build(instance: StoreInstance, writer: Any = write_record, **options: Any) -> BuildReport:
    return build_sessions(writer, instance=instance, **options)


def test_a_session_becomes_a_record(ready: StoreInstance) -> None:
    session = info(1)
    channels = {
        # Blocks come in the order of the stream, their times need not.
        ("main", "t"): [
            stat(10, 0.0, 10.0, 100, 1.0, 2.0),
            NOTHING,
            stat(30, -5.0, 3.0, 0, 3.0, 4.0),
        ],
        ("main", "empty"): [NOTHING],
        ("main", "unseen"): [],
    }
    archive(ready.store, session, channels, gaps=("time", "sequence", "disorder", "time"))
    harvest_capture([session], instance=ready)
    report = build(ready)
    assert report.built == ["capture:x:1"]
    assert (report.failed, report.waiting, report.no_files) == ([], [], [])
    (image,) = images(ready)
    assert (image.key, image.revision, image.group) == ("capture:x:1", 1, "red")
    assert image.values == {
        "instrument": "m1",
        "started": session.started,
        "ended": session.ended,
        "state": "complete",
        "messages": 10,
        "readings": 20,
        "gaps": 3,
        "quarantined": 1,
        "user_name": "ann",
        "title": None,
        "sample": None,
        "comment": None,
    }
    by_name = {row["channel"]: row for row in image.subrows["channel"]}
    assert by_name["t"] == {
        "channel": "t",
        "unit": "K",
        "readings": 40,
        "minimum": -5.0,
        "mean": (10 * 5.0 + 30 * -1.0) / 40,
        "maximum": 10.0,
        "first_value": 3.0,
        "last_value": 2.0,
        "first_at": NINE,
        "last_at": NINE + timedelta(seconds=110),
    }
    for name in ("empty", "unseen"):
        assert by_name[name]["readings"] == 0
        assert by_name[name]["mean"] is by_name[name]["first_at"] is None
    query = "SELECT event_type, user_name FROM session_event ORDER BY id"
    assert db_query(query, instance=ready)[-1] == ("RECORD_GENERATION", "ann")
    assert state(ready, 1) == "COMPLETED"


def test_sources_that_share_a_channel_name_are_told_apart(ready: StoreInstance) -> None:
    channels = {
        ("left", "t"): [stat(1, 1.0, 1.0, 0, 1.0, 1.0)],
        ("right", "t"): [stat(1, 2.0, 2.0, 0, 2.0, 2.0)],
        ("right", "u"): [stat(1, 3.0, 3.0, 0, 3.0, 3.0)],
    }
    archive(ready.store, info(1), channels)
    harvest_capture([info(1)], instance=ready)
    build(ready)
    (image,) = images(ready)
    assert [(row["channel"], row["minimum"]) for row in image.subrows["channel"]] == [
        ("left/t", 1.0),
        ("right/t", 2.0),
        ("u", 3.0),
    ]


def test_building_again_builds_nothing(ready: StoreInstance) -> None:
    archive(ready.store, info(1), PLAIN)
    harvest_capture([info(1)], instance=ready)
    build(ready)
    assert build(ready) == BuildReport()
    assert images(ready)[0].revision == 1
    query = "SELECT count(*) FROM session_event WHERE event_type = 'RECORD_GENERATION'"
    assert db_query(query, instance=ready) == [(1,)]


def test_a_rebuild_leaves_edits_alone(ready: StoreInstance) -> None:
    archive(ready.store, info(1), PLAIN)
    harvest_capture([info(1)], instance=ready)
    (session,) = get_sessions_to_build(instance=ready)
    build(ready)
    obj = business_class(INSTRUMENT_SESSION)("capture:x:1", instance=ready, principal=ANN)
    obj["title"], obj["user_name"] = "typed", "ben"
    obj.save()
    assert session.update_session_status("TO_BE_BUILT", reason="again", instance=ready)
    with ready.store.write(ANN) as connection:
        connection.execute(sa.update(stream).values(messages=11))
    assert build(ready).built == ["capture:x:1"]
    values = images(ready)[0].values
    assert (values["messages"], values["title"], values["user_name"]) == (11, "typed", "ben")


def test_what_is_not_archived_waits_and_stops_nobody(ready: StoreInstance) -> None:
    archive(ready.store, info(2), PLAIN, state="running")
    archive(ready.store, info(3), PLAIN)
    harvest_capture([info(number) for number in (1, 2, 3)], instance=ready)
    report = build(ready, limit=1)
    assert report.built == ["capture:x:3"]
    assert [name for name, _ in report.waiting] == ["capture:x:1", "capture:x:2"]
    assert (state(ready, 1), state(ready, 2)) == ("TO_BE_BUILT", "TO_BE_BUILT")
    with ready.store.write(ANN) as connection:
        connection.execute(sa.update(capture_session).values(state="interrupted"))
    assert build(ready).built == ["capture:x:2"]
    assert images(ready)[0].values["state"] == "interrupted"


def test_a_session_without_readings_has_no_files(ready: StoreInstance) -> None:
    archive(ready.store, info(1), {}, messages=0)
    harvest_capture([info(1)], instance=ready)
    for kind, moment in (("START", NINE), ("END", NINE + timedelta(hours=1))):
        SessionLog("a log of its own", "m1", moment, kind, "ann").insert_log(instance=ready)
    report = build(ready)
    assert report.no_files == ["a log of its own", "capture:x:1"]
    assert state(ready, 1) == "NO_FILES_FOUND"
    assert images(ready) == []
    query = "SELECT reason FROM session_change WHERE status = 'NO_FILES_FOUND'"
    assert set(db_query(query, instance=ready)) == {
        ("the archive holds no readings of the session",)
    }


def test_a_failing_session_is_an_error_and_the_others_go_on(ready: StoreInstance) -> None:
    for number in (1, 2, 3, 4):
        archive(ready.store, info(number), PLAIN)
    harvest_capture([info(number) for number in (1, 2, 3, 4)], instance=ready)

    def failing(connection: sa.Connection, *, key: str, **rest: Any) -> object:
        if key == "capture:x:2":
            put_record(connection, INSTRUMENT_SESSION, key, **rest)
            raise ZeroDivisionError("half-way\nand more")
        if key == "capture:x:3":
            rest["values"] = {**rest["values"], "messages": "many"}
        return put_record(connection, INSTRUMENT_SESSION, key, **rest)

    report = build(ready, failing)
    assert report.built == ["capture:x:1", "capture:x:4"]
    assert report.failed == [
        ("capture:x:2", "ZeroDivisionError"),
        ("capture:x:3", "messages takes integer, not str"),
    ]
    assert [image.key for image in images(ready)] == ["capture:x:1", "capture:x:4"]
    assert [state(ready, number) for number in (1, 2, 3, 4)] == [
        "COMPLETED",
        "ERROR",
        "ERROR",
        "COMPLETED",
    ]
    query = "SELECT session_identifier, reason FROM session_change WHERE status = 'ERROR'"
    assert sorted(db_query(query, instance=ready)) == report.failed
    assert build(ready) == BuildReport()


def test_the_reason_of_an_error_holds_no_data(ready: StoreInstance) -> None:
    with ready.store.maintenance() as connection:
        connection.exec_driver_sql(
            "CREATE UNIQUE INDEX one_state ON rec_instrument_session (state)"
        )
    for number in (1, 2, 3, 4):
        archive(ready.store, info(number), PLAIN)
    harvest_capture([info(number) for number in (1, 2, 3, 4)], instance=ready)

    def failing(connection: sa.Connection, *, key: str, **rest: Any) -> object:
        if key == "capture:x:2":
            raise ValueError("invalid literal: 'Jane Doe'")
        if key == "capture:x:3":
            insert = "INSERT INTO instrument (name, tz, comment) VALUES ('Jane Doe', NULL, '')"
            connection.exec_driver_sql(insert)
        return put_record(connection, INSTRUMENT_SESSION, key, **rest)

    report = build(ready, failing)
    assert report.built == ["capture:x:1"]
    refused = "the database refused it: "
    unique, required = ("23505 one_state", "23502 tz")
    if ready.store.dialect == "sqlite":
        unique = "SQLITE_CONSTRAINT_UNIQUE rec_instrument_session.state"
        required = "SQLITE_CONSTRAINT_NOTNULL instrument.tz"
    assert report.failed == [
        ("capture:x:2", "ValueError"),
        ("capture:x:3", refused + required),
        ("capture:x:4", refused + unique),
    ]
    query = "SELECT session_identifier, reason FROM session_change WHERE status = 'ERROR'"
    assert sorted(db_query(query, instance=ready)) == report.failed


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_a_record_that_others_insert_at_the_same_moment_is_merged_with(
    ready: StoreInstance,
) -> None:
    archive(ready.store, info(1), PLAIN)
    harvest_capture([info(1)], instance=ready)
    inserted, waiting = threading.Event(), "SELECT count(*) FROM pg_locks WHERE NOT granted"

    def insert() -> None:
        with around(ready.store) as connection:
            connection.exec_driver_sql(
                "INSERT INTO rec_instrument_session (record_key, instrument, started, state, title)"
                " VALUES ('capture:x:1', 'm1', '2024-05-01', 'complete', 'typed')"
            )
            inserted.set()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if connection.exec_driver_sql(waiting).scalar():
                    break

    thread = threading.Thread(target=insert)
    thread.start()
    assert inserted.wait(10)
    report = build(ready)
    thread.join()
    assert (report.built, report.failed) == (["capture:x:1"], [])
    (image,) = images(ready)
    assert (image.revision, image.values["title"], image.values["messages"]) == (2, "typed", 10)
    assert [row["channel"] for row in image.subrows["channel"]] == ["t"]


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["change_feed", "rec_instrument_session"])
def test_a_session_whose_record_others_write_is_tried_again(
    ready: StoreInstance, table: str
) -> None:
    for number in (1, 2, 3):
        archive(ready.store, info(number), PLAIN)
    harvest_capture([info(number) for number in (1, 2, 3)], instance=ready)
    tries: list[str] = []

    def contended(connection: sa.Connection, *, key: str, **rest: Any) -> object:
        put_record(connection, INSTRUMENT_SESSION, key, **rest)
        tries.append(key)
        if key == "capture:x:1" or (key == "capture:x:2" and tries.count(key) < 3):
            # What a writer meets whose row was not there yet when it looked.
            columns = {
                "change_feed": "record_type, record_key, revision, op, txid, changed_at",
                "rec_instrument_session": "record_key, instrument, started, state",
            }[table]
            connection.exec_driver_sql(
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}"
            )
        return None

    report = build(ready, contended, limit=2)
    assert (report.built, report.failed) == (["capture:x:2", "capture:x:3"], [])
    ((identifier, reason),) = report.waiting
    assert (identifier, reason[:28]) == ("capture:x:1", "others write its record at t")
    assert [state(ready, number) for number in (1, 2, 3)] == [
        "TO_BE_BUILT",
        "COMPLETED",
        "COMPLETED",
    ]
    assert tries.count("capture:x:1") < 10
    assert build(ready).built == ["capture:x:1"]
    assert {image.revision for image in images(ready)} == {1}


def test_a_store_that_fails_makes_no_session_an_error(ready: StoreInstance) -> None:
    for number in (1, 2):
        archive(ready.store, info(number), PLAIN)
    harvest_capture([info(1), info(2)], instance=ready)

    def losing(connection: sa.Connection, *, key: str, **rest: Any) -> object:
        if key == "capture:x:2":
            raise sa.exc.OperationalError("", None, Exception("the disk is gone"))
        return put_record(connection, INSTRUMENT_SESSION, key, **rest)

    with pytest.raises(InstanceError, match="the disk is gone"):
        build(ready, losing)
    assert (state(ready, 1), state(ready, 2)) == ("COMPLETED", "TO_BE_BUILT")
    assert build(ready).built == ["capture:x:2"]


def test_two_builds_at_once_build_each_session_once(ready: StoreInstance) -> None:
    numbers = range(1, 21)
    for number in numbers:
        archive(ready.store, info(number), PLAIN)
    harvest_capture([info(number) for number in numbers], instance=ready)
    reports: list[BuildReport] = []
    threads = [threading.Thread(target=lambda: reports.append(build(ready))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built = [name for report in reports for name in report.built]
    assert sorted(built) == sorted(f"capture:x:{number}" for number in numbers)
    assert all(not report.failed and not report.waiting for report in reports)
    assert {image.revision for image in images(ready)} == {1}
    query = "SELECT count(*) FROM session_event WHERE event_type = 'RECORD_GENERATION'"
    assert db_query(query, instance=ready) == [(20,)]


def test_many_sessions_are_gathered_together(ready: StoreInstance) -> None:
    numbers = range(1, 6)
    for number in numbers:
        archive(ready.store, info(number), PLAIN)
    harvest_capture([info(number) for number in numbers], instance=ready)
    asked: list[str] = []
    sa.event.listen(ready.store.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    assert len(build(ready).built) == 5
    for table in ("block_stat", "gap", "stream", "capture_session"):
        assert sum(f"FROM {table}" in each or f"JOIN {table}" in each for each in asked) <= 1
