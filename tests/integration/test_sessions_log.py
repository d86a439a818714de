"""The session log takes what comes, and no bad event stands in a good session's way."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepline.errors import (
    ProgrammingError,
    SessionLogError,
    UnknownInstrumentError,
    UnknownSessionError,
)
from keepline.model import Instrument, Principal, SessionInfo
from keepline.sessions import (
    Session,
    SessionLog,
    SessionLogWarning,
    add_instrument,
    db_query,
    get_sessions_to_build,
    harvest_capture,
    list_instruments,
    make_db_query,
)
from keepline.sessions.log import STATUSES
from keepline.store import current
from tests.stores import ANN, StoreInstance, around

NINE = datetime(2024, 5, 1, 9, tzinfo=UTC)
TEN = NINE + timedelta(hours=1)
Log = Callable[..., bool]


@pytest.fixture
def logged(instance: StoreInstance) -> Log:
    """Insert an event: (session, type, time)."""
    add_instrument(Instrument("m1", tz="Europe/Berlin", group="red"), instance=instance)
    add_instrument(Instrument("m2"), instance=instance)

    def insert(
        session: str,
        kind: str,
        at: Any,
        *,
        instrument: str = "m1",
        user: str | None = "ann",
        status: str | None = None,
    ) -> bool:
        return SessionLog(session, instrument, at, kind, user, status).insert_log(instance=instance)

    return insert


def rows(instance: StoreInstance, query: str, *args: object) -> list[tuple[Any, ...]]:
    return db_query(query, args or None, instance=instance)


def status(instance: StoreInstance, session: str) -> str:
    ((found,),) = rows(instance, "SELECT status FROM session WHERE identifier = ?", session)
    return str(found)


def ready(instance: StoreInstance) -> list[str]:
    return [each.session_identifier for each in get_sessions_to_build(instance=instance)]


def reasons(instance: StoreInstance) -> list[str]:
    query = "SELECT reason FROM quarantine WHERE part = 'sessions' ORDER BY id"
    return [reason for (reason,) in rows(instance, query)]


# Pairs


def test_a_pair_becomes_a_session_to_build(instance: StoreInstance, logged: Log) -> None:
    assert logged("s", "START", NINE)
    assert status(instance, "s") == "WAITING_FOR_END"
    assert ready(instance) == []
    assert logged("s", "END", TEN, user=None)
    device = Instrument("m1", tz="Europe/Berlin", group="red")
    assert get_sessions_to_build(instance=instance) == [Session("s", device, (NINE, TEN), "ann")]
    query = "SELECT status, who, reason FROM session_change ORDER BY id"
    assert rows(instance, query) == [
        ("WAITING_FOR_END", "keepline", "the session log"),
        ("TO_BE_BUILT", "keepline", "the session log"),
    ]
    ((host,),) = rows(instance, "SELECT DISTINCT host FROM session_change")
    assert host
    ((group,),) = rows(instance, "SELECT group_name FROM session")
    assert group == "red"


def test_a_session_that_turns_out_to_be_on_another_instrument_takes_its_group(
    instance: StoreInstance, logged: Log
) -> None:
    add_instrument(Instrument("m3", group="blue"), instance=instance)
    query = "SELECT instrument, group_name FROM session"
    assert logged("s", "END", TEN, instrument="m3")
    assert rows(instance, query) == [("m3", "blue")]
    with pytest.warns(SessionLogWarning, match="quarantine"):
        logged("s", "END", TEN, instrument="m2")
    logged("s", "START", NINE)
    assert rows(instance, query) == [("m1", "red")]
    # The group is the one of the time when the session came, and stays.
    with instance.store.write(ANN) as connection:
        connection.exec_driver_sql("UPDATE instrument SET group_name = 'green' WHERE name = 'm1'")
    logged("s", "END", TEN)
    assert rows(instance, query) == [("m1", "red")]


def test_the_current_instance_is_used(instance: StoreInstance, logged: Log) -> None:
    logged("s", "START", NINE)
    with current.using(instance):
        assert SessionLog("s", "m1", TEN, "END", "ann").insert_log()
        assert [each.session_identifier for each in get_sessions_to_build()] == ["s"]
        assert make_db_query("SELECT identifier FROM session") == [("s",)]


def test_text_without_an_offset_is_on_the_instruments_clock(
    instance: StoreInstance, logged: Log
) -> None:
    logged("s", "START", "2024-01-10T12:00:00")
    logged("s", "END", "2024-07-10T12:00:00")
    (found,) = get_sessions_to_build(instance=instance)
    assert [moment.hour for moment in found.dt_range] == [11, 10]


def test_an_end_may_come_first(instance: StoreInstance, logged: Log) -> None:
    assert logged("s", "END", TEN)
    assert status(instance, "s") == "WAITING_FOR_END"
    assert logged("s", "START", NINE)
    assert ready(instance) == ["s"]
    assert reasons(instance) == []


def test_sessions_come_earliest_first_and_limited(instance: StoreInstance, logged: Log) -> None:
    for number in (3, 1, 2):
        logged(f"s{number}", "START", NINE + timedelta(minutes=number))
        logged(f"s{number}", "END", TEN)
    assert ready(instance) == ["s1", "s2", "s3"]
    limited = get_sessions_to_build(instance=instance, limit=2)
    assert [each.session_identifier for each in limited] == ["s1", "s2"]


# Faults of the original


@pytest.mark.parametrize("done", [False, True])
def test_a_matching_log_is_not_added_even_after_completion(
    instance: StoreInstance, logged: Log, done: bool
) -> None:
    logged("s", "START", NINE)
    logged("s", "END", TEN)
    if done:
        (found,) = get_sessions_to_build(instance=instance)
        found.update_session_status("COMPLETED", instance=instance)
    before = rows(instance, "SELECT * FROM session_event")
    for at in (NINE, "2024-05-01T11:00:00", "2024-05-01T05:00:00-04:00"):
        with pytest.warns(SessionLogWarning, match="in the log already"):
            assert logged("s", "START", at, status="TO_BE_BUILT") is False
    assert rows(instance, "SELECT * FROM session_event") == before
    assert ready(instance) == ([] if done else ["s"])


def test_two_starts_build_once(instance: StoreInstance, logged: Log) -> None:
    logged("s", "START", NINE)
    with pytest.warns(SessionLogWarning, match="another START"):
        assert logged("s", "START", NINE + timedelta(minutes=5)) is False
    logged("s", "END", TEN)
    (found,) = get_sessions_to_build(instance=instance)
    assert found.dt_range == (NINE, TEN)
    assert reasons(instance) == ["the session has another START"]


def test_an_end_before_its_start_is_quarantined(instance: StoreInstance, logged: Log) -> None:
    logged("bad", "START", TEN)
    logged("good", "START", NINE)
    with pytest.warns(SessionLogWarning, match="before the session's START"):
        assert logged("bad", "END", NINE) is False
    logged("good", "END", TEN)
    assert ready(instance) == ["good"]
    assert status(instance, "bad") == "WAITING_FOR_END"
    ((raw, origin),) = rows(instance, "SELECT raw, origin FROM quarantine")
    assert b'"event_type": "END"' in bytes(raw)
    assert origin == "session_event"
    assert logged("bad", "END", TEN + timedelta(hours=1)) is True
    assert ready(instance) == ["good", "bad"]


def test_an_end_that_came_first_and_does_not_fit_gives_way(
    instance: StoreInstance, logged: Log
) -> None:
    logged("s", "END", NINE)
    assert logged("s", "START", TEN) is True
    assert status(instance, "s") == "WAITING_FOR_END"
    assert reasons(instance) == ["the END is before the session's START"]
    assert logged("s", "END", TEN) is True
    (found,) = get_sessions_to_build(instance=instance)
    assert found.dt_range == (TEN, TEN)


def test_an_end_on_another_instrument_is_quarantined(instance: StoreInstance, logged: Log) -> None:
    logged("s", "START", NINE)
    with pytest.warns(SessionLogWarning, match="another instrument"):
        assert logged("s", "END", TEN, instrument="m2") is False
    assert ready(instance) == []
    logged("s", "END", TEN + timedelta(seconds=1))
    assert ready(instance) == ["s"]


def test_a_bad_event_does_not_stand_in_for_a_good_one_of_the_same_moment(
    instance: StoreInstance, logged: Log
) -> None:
    logged("s", "START", NINE)
    with pytest.warns(SessionLogWarning, match="another instrument"):
        logged("s", "END", TEN, instrument="m2")
    assert logged("s", "END", TEN) is True
    assert ready(instance) == ["s"]


def test_a_second_end_changes_nothing(instance: StoreInstance, logged: Log) -> None:
    logged("s", "START", NINE)
    logged("s", "END", TEN)
    with pytest.warns(SessionLogWarning, match="another END"):
        assert logged("s", "END", TEN + timedelta(hours=1)) is False
    (found,) = get_sessions_to_build(instance=instance)
    assert found.dt_range == (NINE, TEN)


def test_lonely_events_block_nobody(instance: StoreInstance, logged: Log) -> None:
    logged("only start", "START", NINE)
    logged("only end", "END", NINE)
    with pytest.warns(SessionLogWarning, match="no START or END"):
        assert logged("neither", "RECORD_GENERATION", NINE) is False
    logged("good", "START", NINE)
    logged("good", "END", TEN)
    assert ready(instance) == ["good"]


@pytest.mark.parametrize("wanted", STATUSES)
def test_every_status_is_taken(instance: StoreInstance, logged: Log, wanted: str) -> None:
    logged("s", "START", NINE)
    logged("s", "END", TEN)
    (found,) = get_sessions_to_build(instance=instance)
    assert found.update_session_status(wanted, reason="because", instance=instance, principal=ANN)
    assert status(instance, "s") == wanted
    last = rows(instance, "SELECT status, who, reason FROM session_change ORDER BY id")[-1]
    if wanted != "TO_BE_BUILT":  # which it was: no change, no row
        assert last == (wanted, "ann", "because")


def test_what_cannot_be_is_refused(instance: StoreInstance, logged: Log) -> None:
    with pytest.raises(UnknownInstrumentError, match="'m3'; add it first"):
        logged("s", "START", NINE, instrument="m3")
    with pytest.raises(SessionLogError, match="START, END, RECORD_GENERATION"):
        logged("s", "BEGIN", NINE)
    with pytest.raises(SessionLogError, match="'BUILT' is not a status"):
        logged("s", "START", NINE, status="BUILT")
    with pytest.raises(SessionLogError, match="identifier"):
        logged("", "START", NINE)
    with pytest.raises(SessionLogError, match="no time zone"):
        logged("s", "START", NINE.replace(tzinfo=None))
    assert rows(instance, "SELECT * FROM session_event") == []
    lost = Session("nothing", Instrument("m1"), (NINE, TEN), "ann")
    assert lost.update_session_status("ERROR", instance=instance) is False
    with pytest.raises(UnknownSessionError):
        lost.insert_record_generation_event(instance=instance)
    with pytest.raises(SessionLogError, match="'DONE' is not a status"):
        lost.update_session_status("DONE", instance=instance)


def test_a_session_without_both_ends_is_never_to_be_built(
    instance: StoreInstance, logged: Log
) -> None:
    logged("s", "START", NINE)
    half = Session("s", Instrument("m1"), (NINE, TEN), "ann")
    with pytest.raises(SessionLogError, match="lacks its START or END"):
        half.update_session_status("TO_BE_BUILT", instance=instance)
    with pytest.raises(sa.exc.IntegrityError), around(instance.store) as connection:
        connection.exec_driver_sql("UPDATE session SET status = 'TO_BE_BUILT'")


def test_the_status_of_a_log_is_given_to_its_session(instance: StoreInstance, logged: Log) -> None:
    logged("s", "START", NINE, status="NO_CONSENT")
    logged("s", "END", TEN)
    assert status(instance, "s") == "NO_CONSENT"
    logged("t", "START", NINE, status="TO_BE_BUILT")
    assert status(instance, "t") == "WAITING_FOR_END"
    logged("t", "END", TEN, status="NO_RESERVATION")
    assert status(instance, "t") == "NO_RESERVATION"
    assert ready(instance) == []


def test_a_record_generation_confirms_this_session(instance: StoreInstance, logged: Log) -> None:
    for name in ("s", "t"):
        logged(name, "START", NINE)
        logged(name, "END", TEN)
    one, other = get_sessions_to_build(instance=instance)
    made = {
        each.session_identifier: each.insert_record_generation_event(instance=instance)
        for each in (other, one)
    }
    for name, event in made.items():
        assert event["session_identifier"] == name
        assert event["event_type"] == "RECORD_GENERATION"
        assert (event["instrument"], event["user_name"]) == ("m1", "ann")
        assert abs(event["happened_at"] - datetime.now(UTC)) < timedelta(minutes=5)
    assert made["s"]["id"] != made["t"]["id"]
    query = "SELECT count(*) FROM session_event WHERE event_type = 'RECORD_GENERATION'"
    assert rows(instance, query) == [(2,)]


def test_start_and_end_at_the_same_moment_meet(instance: StoreInstance, logged: Log) -> None:
    """Two writers at once: neither sees the other's event, the pair is found all the same."""
    names = [f"s{number}" for number in range(10)]

    def insert(kind: str, at: datetime) -> None:
        for name in names:
            logged(name, kind, at)

    threads = [
        threading.Thread(target=insert, args=place) for place in (("START", NINE), ("END", TEN))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ready(instance)) == names


def test_selecting_reads_only_the_ready(instance: StoreInstance, logged: Log) -> None:
    logged("s", "START", NINE)
    logged("s", "END", TEN)
    asked: list[str] = []
    sa.event.listen(instance.store.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    get_sessions_to_build(instance=instance)
    (query,) = [statement for statement in asked if "session" in statement]
    if instance.store.dialect == "sqlite":
        plan = " ".join(
            str(row) for row in rows(instance, "EXPLAIN QUERY PLAN " + query, "TO_BE_BUILT")
        )
        assert "ix_session_status_started_at (status=?)" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan


# Any history

KINDS = ("START", "END")
HISTORIES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "good"]),
        st.sampled_from(KINDS),
        st.integers(0, 5),
        st.sampled_from(["m1", "m2"]),
    ),
    max_size=12,
)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.filterwarnings("ignore::keepline.sessions.SessionLogWarning")
@given(history=HISTORIES)
def test_any_history_gives_what_a_small_oracle_says(
    instance: StoreInstance, logged: Log, history: list[tuple[str, str, int, str]]
) -> None:
    ((number,),) = rows(instance, "SELECT count(*) FROM session_event")
    prefix = f"{number}-{id(history)}-"
    expected: dict[str, dict[str, Any]] = {}
    for name, kind, minute, device in history:
        logged(prefix + name, kind, NINE + timedelta(minutes=minute), instrument=device)
        expected.setdefault(prefix + name, {"START": [], "END": []})[kind].append((minute, device))
    for name, events in expected.items():
        start = events["START"][0] if events["START"] else None
        ends = [
            end
            for end in events["END"]
            if start is None or (end[1] == start[1] and end[0] >= start[0])
        ]
        end = ends[0] if ends else None
        found = rows(
            instance, "SELECT status, instrument, user_name FROM session WHERE identifier = ?", name
        )
        if start is None and end is None:
            assert found == []
            continue
        both = start is not None and end is not None
        ((state, device, _),) = found
        assert state == ("TO_BE_BUILT" if both else "WAITING_FOR_END")
        assert device == (start or end)[1]
    built = {
        each.session_identifier: each.dt_range for each in get_sessions_to_build(instance=instance)
    }
    assert all(began <= ended for began, ended in built.values())


# Instruments


def test_naming_an_instrument_again_keeps_what_it_has(instance: StoreInstance) -> None:
    full = Instrument("m1", tz="Europe/Berlin", group="red", comment="the old one")
    assert add_instrument(full, instance=instance) is True
    assert add_instrument(Instrument("m1"), instance=instance) is False
    assert list_instruments(instance=instance) == [full]
    add_instrument(Instrument("m1", comment="the new one"), instance=instance)
    assert list_instruments(instance=instance) == [
        Instrument("m1", tz="Europe/Berlin", group="red", comment="the new one")
    ]


@pytest.mark.parametrize("tz", ["Mars/Olympus", "", "../etc/passwd", "America", "\x00"])
def test_a_zone_must_exist(instance: StoreInstance, tz: str) -> None:
    with pytest.raises(SessionLogError, match="IANA"):
        add_instrument(Instrument("m1", tz=tz), instance=instance)
    with pytest.raises(SessionLogError, match="name"):
        add_instrument(Instrument(" "), instance=instance)
    assert list_instruments(instance=instance) == []


# Harvesting capture sessions


def info(number: int, **changes: Any) -> SessionInfo:
    values = {
        "store_id": "x",
        "number": number,
        "instrument": "m1",
        "user": "ann",
        "state": "complete",
        "started": NINE + timedelta(minutes=number),
        "ended": TEN,
        **changes,
    }
    return SessionInfo(**values)


@pytest.mark.usefixtures("logged")
def test_a_harvest_adds_what_is_missing_and_nothing_twice(instance: StoreInstance) -> None:
    running = info(2, state="running", ended=None)
    first = harvest_capture([info(1), running], instance=instance)
    assert (first.sessions, first.events, first.unfit, first.refused) == (2, 3, (), ())
    assert ready(instance) == ["capture:x:1"]
    again = harvest_capture(iter([info(1), running]), instance=instance)
    assert (again.sessions, again.events, again.quarantined) == (2, 0, 0)
    assert harvest_capture([info(2)], instance=instance).events == 1
    assert ready(instance) == ["capture:x:1", "capture:x:2"]


@pytest.mark.usefixtures("logged")
def test_an_empty_session_has_no_files_and_stays_as_it_was_set(instance: StoreInstance) -> None:
    harvest_capture([info(1, state="empty")], instance=instance)
    assert status(instance, "capture:x:1") == "NO_FILES_FOUND"
    found = Session("capture:x:1", Instrument("m1"), (NINE, TEN), "ann")
    found.update_session_status("COMPLETED", instance=instance)
    harvest_capture([info(1, state="empty"), info(2)], instance=instance)
    assert status(instance, "capture:x:1") == "COMPLETED"


@pytest.mark.usefixtures("logged")
def test_a_session_that_cannot_be_logged_stops_no_other(instance: StoreInstance) -> None:
    harvest_capture([info(3)], instance=instance)
    bad = [info(1, instrument="m9"), info(3, ended=TEN + timedelta(hours=1))]
    result = harvest_capture([*bad, info(2)], instance=instance)
    assert [name for name, _ in result.refused] == ["capture:x:1"]
    assert result.unfit == (("capture:x:3", "the session has another END"),)
    assert result.quarantined == 2
    assert ready(instance) == ["capture:x:2", "capture:x:3"]
    add_instrument(Instrument("m9"), instance=instance)
    again = harvest_capture([*bad, info(2)], instance=instance)
    assert (again.events, again.quarantined) == (2, 0)
    assert ready(instance) == ["capture:x:1", "capture:x:2", "capture:x:3"]


@pytest.mark.usefixtures("logged")
def test_many_sessions_are_harvested_in_batches(instance: StoreInstance) -> None:
    day = NINE + timedelta(days=1)
    infos = (info(number, ended=day) for number in range(1, 1203))
    result = harvest_capture(infos, instance=instance)
    assert (result.sessions, result.events, result.unfit) == (1202, 2404, ())
    assert len(ready(instance)) == 1202


# SQL


def test_queries_take_arguments_the_same_way_on_every_database(instance: StoreInstance) -> None:
    query = """SELECT 'a?%', "name", ? -- what?
        FROM session_status WHERE name LIKE 'NO%' /* ? */ AND name <> ? ORDER BY name"""
    assert rows(instance, query, "x", "NO_CONSENT") == [
        ("a?%", "NO_FILES_FOUND", "x"),
        ("a?%", "NO_RESERVATION", "x"),
    ]
    assert db_query("SELECT '100%' || name FROM event_type", instance=instance)[0][0][:4] == "100%"
    assert db_query("SELECT 1 WHERE 1 = ?", [1], instance=instance) == [(1,)]


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_postgresql_quotes_are_understood(instance: StoreInstance) -> None:
    query = r"SELECT E'it\'s ?', $$?$$, $x$ ? $$ $x$, ?::int % 3, '{\"a\":1}'::jsonb"
    ((escaped, dollars, tagged, rest, _),) = rows(instance, query.replace(r"\"", '"'), 5)
    assert (escaped, dollars, tagged, rest) == ("it's ?", "?", " ? $$ ", 2)
    assert db_query("""SELECT '{"a":1}'::jsonb ? 'a'""", instance=instance) == [(True,)]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM event_type",
        "INSERT INTO event_type VALUES ('X')",
        "DROP TABLE quarantine",
        "SELECT 1; DELETE FROM event_type",
        "COMMIT; DELETE FROM event_type",
        "WITH x AS (DELETE FROM event_type RETURNING name) SELECT * FROM x",
        "SELECT nothing FROM nowhere",
        "SELECT ?",
        "ATTACH 'other.db' AS other",
    ],
)
def test_queries_cannot_write(instance: StoreInstance, query: str) -> None:
    with pytest.raises(ProgrammingError, match="the query failed"):
        db_query(query, instance=instance)
    with instance.store.write(Principal("x")) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM event_type").scalar() == 3


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'",
        "COPY (SELECT 1) TO '/dev/null'",
        "SET TRANSACTION READ WRITE",
        "SET search_path = pg_catalog",
        "LISTEN anything",
        "DO $$ BEGIN PERFORM 1; END $$",
        "COMMIT",
        "SELECT 1; COMMIT",
    ],
)
def test_postgresql_takes_queries_and_no_other_statement(
    instance: StoreInstance, query: str
) -> None:
    with pytest.raises(ProgrammingError, match="the query failed"):
        db_query(query, instance=instance)
    assert db_query("TABLE feed_op", instance=instance)
    assert db_query("VALUES (1, NULL), (2, 'x');", instance=instance) == [(1, None), (2, "x")]
    assert db_query("SELECT 1 WHERE false", instance=instance) == []


def test_settings_do_not_outlive_their_query(instance: StoreInstance) -> None:
    if instance.store.dialect == "sqlite":
        db_query("PRAGMA query_only = OFF", instance=instance)
        db_query("PRAGMA recursive_triggers = ON", instance=instance)
        assert db_query("PRAGMA recursive_triggers", instance=instance) == [(0,)]
    else:
        change = "SELECT set_config('search_path', 'pg_catalog', false), pg_advisory_lock(42)"
        assert db_query(change, instance=instance) == [("pg_catalog", "")]
        query = "SELECT current_setting('search_path'), count(*) FROM pg_locks WHERE objid = 42"
        assert db_query(query, instance=instance) == [('"$user", public', 0)]
    with pytest.raises(ProgrammingError):
        db_query("DELETE FROM event_type", instance=instance)
    add_instrument(Instrument("m1"), instance=instance)
