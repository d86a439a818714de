"""The archive's small tables, and the original's faults with them."""

import inspect
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.capture import Archive, CaptureServer, SqliteCaptureStore
from keepline.capture.archive.fixtures import CONFIGURATION, TESTING
from keepline.capture.archive.models import (
    Cache,
    Category,
    Config,
    ListedSession,
    Notification,
)
from keepline.capture.archive.readings import Reading
from keepline.errors import CaptureError, NoSessionError, UnknownFieldError
from keepline.model import Principal, StreamSpec, to_us
from keepline.store import Store
from keepline.store.tables import capture as tables

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def archive(sql_store: Store, capture_store: SqliteCaptureStore) -> Archive:
    return Archive(sql_store, capture_store)


def record(store: SqliteCaptureStore, messages: int) -> int:
    server = CaptureServer(store, "bench")
    number = server.start_session(started=START)
    for n in range(messages):
        server.queue(b'{"a": %d}' % n, START + n * SECOND)
    server.stop_session(ended=START + messages * SECOND)
    return number


def statements(store: Store) -> list[str]:
    """Return a list that grows by every statement that is executed."""
    executed: list[str] = []
    sa.event.listen(
        store.engine,
        "before_cursor_execute",
        lambda _c, _cu, statement, *_: executed.append(statement),
    )
    return executed


# Settings


def test_settings_are_added_changed_and_left(archive: Archive) -> None:
    assert archive.get_config("rate") is None
    archive.set_config("rate", 50)
    first = archive.get_config("rate")
    assert first is not None
    assert (first.key, first.value, first.who) == ("rate", 50, "keepline")
    archive.set_config("rate", {"hz": [1, 2.5, None, "é"]})
    changed = archive.get_config("rate")
    assert changed is not None
    assert (changed.id, changed.value) == (first.id, {"hz": [1, 2.5, None, "é"]})
    archive.set_config("rate", 1, do_update=False)
    assert archive.get_config("rate") == changed
    archive.set_config("new", None, do_update=False)
    assert archive.all(Config) == [changed, archive.get_config("new")]


def test_no_update_of_a_setting_is_lost(archive: Archive) -> None:
    """The original's set_config lost updates: what was set was not what was read."""
    other = Archive(archive.sql_store, archive.capture_store)
    for n in range(20):
        (archive, other)[n % 2].set_config("n", n)
        assert (other, archive)[n % 2].get_config("n").value == n


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x", "a\0b", ["\ud800"], {"k\0": 1}])
def test_settings_that_are_no_plain_json_are_refused(archive: Archive, value: Any) -> None:
    with pytest.raises(CaptureError):
        archive.set_config("k", value)
    assert archive.all(Config) == []


def test_fixtures_leave_what_is_there(archive: Archive) -> None:
    archive.set_config("chart_points", 9)
    archive.load_fixtures()
    assert {each.key: each.value for each in archive.all(Config)} == CONFIGURATION | {
        "chart_points": 9
    }
    assert archive.all(Category) == []
    archive.load_fixtures(testing=True)
    archive.load_fixtures(testing=True)
    assert [each.name for each in archive.all(Category)] == list(TESTING)
    assert len(archive.all(Cache)) == sum(len(values) for _, values in TESTING.values())
    assert len(archive.get_cache()) == len(TESTING)


# Categories and the cache


def test_categories_are_made_once(archive: Archive) -> None:
    first = archive.get_or_create_category("speed")
    assert archive.get_or_create_category("speed") == first
    assert archive.get_or_create_category("power") != first
    assert archive.get_by_id(Category, first) == Category("speed", None, first)
    for name in ("a\0b", "\ud800", 5):
        with pytest.raises(CaptureError):
            archive.get_or_create_category(name)


def test_cache_gives_fifty_values_a_variable_oldest_first(archive: Archive) -> None:
    speed, power = (archive.get_or_create_category(name) for name in ("speed", "power"))
    archive.add_many([Cache(speed, START + n * SECOND, n) for n in range(60)])
    made = archive.add_cache(START.timestamp() + 0.25, power, "high")
    assert made == Cache(power, START + SECOND / 4, "high", made.id)
    powers, speeds = archive.get_cache()
    assert [each.value for each in speeds] == list(range(10, 60))
    assert powers == [made]
    assert [each.value for each in archive.get_cache_variables()] == ["high", 59]
    since = (START + 57.5 * SECOND).timestamp()
    assert [[each.value for each in values] for values in archive.get_cache(since)] == [[58, 59]]
    assert archive.get_cache(START + 90 * SECOND) == []
    assert len(archive.get_cache(since=(START + 2 * SECOND).timestamp())[0]) == 50
    archive.clear_cache()
    assert archive.get_cache() == archive.get_cache_variables() == []
    assert len(archive.all(Category)) == 2


def test_cached_values_keep_their_type_and_their_microseconds(archive: Archive) -> None:
    speed = archive.get_or_create_category("speed")
    at = START + timedelta(microseconds=123_457)
    for value in (1, 1.5, True, "1", 0.1 + 0.2, 2**60):
        made = archive.add_cache(at, speed, value)
        found = archive.get_by_id(Cache, made.id)
        assert (found.value, type(found.value), found.logged_at) == (value, type(value), at)
        assert found in archive.find(Cache, {"value": value})
    assert archive.find(Cache, {"value": 77}) == archive.find(Cache, {"logged_at": None}) == []
    assert len(archive.find(Cache, {"logged_at": at})) == 6
    for value in (float("inf"), None, b"x", [1]):
        with pytest.raises(CaptureError):
            archive.add_cache(at, speed, value)
    with pytest.raises(CaptureError, match="lacks what it refers to"):
        archive.add_cache(at, 999, 1)
    for time in ("now", datetime(2026, 1, 1), True, 1e300, None):  # noqa: DTZ001
        with pytest.raises(CaptureError, match="aware datetime"):
            archive.add_cache(time, speed, 1)


# Errors


def test_errors_are_noted_and_put_aside(archive: Archive) -> None:
    first = archive.log_error("a sensor is gone")
    second = archive.log_error("fire", severity=3)
    assert (first.severity, second.severity) == (1, 3)
    assert archive.all(Notification) == [first, second]
    assert archive.find(Notification, {"severity": 3}) == [second]
    archive.handle_error(first.id)
    archive.handle_error(first.id)
    assert archive.all(Notification) == [second]
    archive.clear_errors()
    assert archive.all(Notification) == []


# Items


def test_items_come_back_with_their_ids_in_their_order(archive: Archive) -> None:
    items = [Category("b", "V"), Notification("x", 2), Category("a"), Config("k", [1])]
    added = archive.add_many(items)
    assert [type(each) for each in added] == [type(each) for each in items]
    assert [each.id for each in added] == [1, 1, 2, 1]
    assert archive.get(Category, {"name": "b"}) == added[0] == archive.get_by_id(Category, 1)
    assert archive.all(Category) == [added[0], added[2]]
    assert archive.find(Category, {"unit": None}) == [added[2]]
    assert archive.get(Category, {"name": "c"}) is None
    assert archive.get_by_id(Category, 77) is None
    assert archive.add_many([]) == []


def test_many_items_are_all_added_or_none(archive: Archive) -> None:
    with pytest.raises(CaptureError, match="such an item already"):
        archive.add_many([Category("a"), Notification("x"), Category("a")])
    with pytest.raises(CaptureError, match="NUL"):
        archive.add_many([Category("a"), Notification("x\0")])
    assert archive.all(Category) == archive.all(Notification) == []
    made = archive.add(Category("a"))
    with pytest.raises(CaptureError, match="in the archive already"):
        archive.add(made)


@pytest.mark.parametrize(
    "item",
    [
        Category(5), Category("a", "\0"), Config(None, 1), Notification("x", "bad"),
        Notification("x", True), Notification("x", 2**31), Notification(b"x"),
        Notification("x", 1, datetime(2026, 1, 1)), Cache("1", START, 1),  # noqa: DTZ001
        ListedSession("1", START, None, 1), ListedSession(1, "now", None, 1),
    ],
)  # fmt: skip
def test_fields_of_another_type_are_refused(archive: Archive, item: Any) -> None:
    with pytest.raises(CaptureError):
        archive.add(item)
    assert archive.all(type(item)) == []


def test_queries_name_fields_only(archive: Archive) -> None:
    archive.add(Category("a"))
    for call in (archive.get, archive.find):
        with pytest.raises(UnknownFieldError, match="a Category has no field 'nam'; there are"):
            call(Category, {"nam": "a"})
        with pytest.raises(UnknownFieldError):
            call(Category, {"1=1; --": "a"})
        with pytest.raises(CaptureError, match="str is no model of the archive; there are Read"):
            call(str, {})
    with pytest.raises(UnknownFieldError, match="a Reading has no field 'id'"):
        archive.find(Reading, {"id": 1})
    assert archive.find(Category, {"name": "' OR 1=1 --"}) == []
    for query in ({"name": {1}}, {"id": 2**70}):
        with pytest.raises(CaptureError, match="not one of its field"):
            archive.find(Category, query)
    with pytest.raises(CaptureError, match="dict is no model"):
        archive.add({"name": "a"})


# Readings by hand


def test_readings_are_added_beside_what_was_captured(archive: Archive) -> None:
    number = record(archive.capture_store, 3)
    archive.archive_session(number)
    before = list(archive.get_session_readings(number))
    speed = archive.add(Category("speed", "km/h"))
    late = archive.add_reading(number, START - SECOND, speed.id, 12.5)
    name = archive.capture_store.session(number).global_name
    assert late == Reading(name, "speed", START - SECOND, 12.5, "added", 0)
    archive.add_reading(name, START.timestamp() + 0.5, speed.id, 13)
    after = list(archive.get_session_readings(number))
    assert after[2:] == before
    assert [(each.seq, each.value) for each in after[:2]] == [(0, 12.5), (1, 13.0)]
    times, values = archive.read(number, "speed", source="added")
    assert times.tolist() == [to_us(START - SECOND), to_us(START) + 500_000]
    assert values.tolist() == [12.5, 13.0]
    (variable,) = [each for each in archive.get_session_variables(number) if each.name == "speed"]
    assert (variable.unit, variable.n, variable.min, variable.max) == ("km/h", 2, 12.5, 13)
    # The archiver takes no notice of them.
    again = archive.archive_session(number)
    assert (again.state, again.added, again.repeats) == ("complete", 0, 0)


def test_a_thousand_readings_are_one_block_and_few_statements(archive: Archive) -> None:
    """The original's download of 100 lines took 1,003 statements."""
    number = record(archive.capture_store, 1)
    archive.archive_session(number)
    readings = [Reading(number, f"c{n % 4}", START + n // 4 * SECOND, n / 2) for n in range(1_000)]
    executed = statements(archive.sql_store)
    added = archive.add_many(readings)
    assert len(executed) <= 20
    assert [each.seq for each in added] == [n // 4 for n in range(1_000)]
    with archive.sql_store.read() as connection:
        blocks = connection.execute(
            sa.select(tables.block.c.readings).where(tables.block.c.source == "added")
        )
        assert blocks.scalars().all() == [1_000]
    assert archive.find(Reading, {"session": number, "source": "added"}) == added
    archive.add_many(readings[:2])
    assert archive.read(number, "c0", source="added")[1].tolist()[-1] == 0


def test_added_values_keep_their_type(archive: Archive) -> None:
    number = record(archive.capture_store, 1)
    archive.archive_session(number)

    def add(channel: str, *values: Any) -> None:
        archive.add_many([Reading(number, channel, START, value) for value in values])

    add("f", 1.5, 2)
    add("n", 2**60, -1)
    add("b", True, False)
    add("t", "x", "")
    add("mixed", 1, 2.5)
    add("f", 3)
    add("n", 4.0)
    found: dict[str, list[Any]] = {}
    for each in archive.find(Reading, {"source": "added"}):
        found.setdefault(each.channel, []).append(each.value)
    assert found == {
        "f": [1.5, 2.0, 3.0], "n": [2**60, -1, 4], "b": [True, False], "t": ["x", ""],
        "mixed": [1.0, 2.5],
    }  # fmt: skip
    assert {name: {type(value) for value in values} for name, values in found.items()} == {
        "f": {float}, "n": {int}, "b": {bool}, "t": {str}, "mixed": {float},
    }  # fmt: skip
    for channel, value in (
        ("f", "x"), ("n", 0.5), ("b", 1), ("t", 1), ("f", 2**60), ("f", True), ("n", 2**63),
        ("f", float("nan")), ("f", None), ("", 1.0), ("é" * 501, 1.0), ("a\0", 1.0),
    ):  # fmt: skip
        with pytest.raises(CaptureError):
            add(channel, value)
    assert len(archive.find(Reading, {"source": "added"})) == sum(map(len, found.values()))


def test_many_sparse_readings_become_several_blocks(archive: Archive) -> None:
    number = record(archive.capture_store, 1)
    archive.archive_session(number)
    readings = [Reading(number, f"c{n % 200}", START + n * SECOND, float(n)) for n in range(12_000)]
    added = archive.add_many(readings)
    assert [each.seq for each in added] == list(range(12_000))
    assert archive.read(number, "c7", source="added")[1].tolist() == list(range(7, 12_000, 200))
    with archive.sql_store.read() as connection:
        rows = connection.execute(
            sa.select(tables.block.c.first_seq, tables.block.c.last_seq)
            .where(tables.block.c.source == "added")
            .order_by(tables.block.c.first_seq)
        ).all()
    assert [row[0] for row in rows] == [0, *(row[1] + 1 for row in rows[:-1])]
    assert all(row[1] - row[0] < 10_000 for row in rows)


def test_readings_are_added_to_sessions_that_are_there(archive: Archive) -> None:
    number = record(archive.capture_store, 1)
    archive.archive_session(number)
    with pytest.raises(NoSessionError):
        archive.add_many([Reading(number, "a", START, 1.0), Reading(99, "a", START, 1.0)])
    with pytest.raises(CaptureError, match="there is no category 5"):
        archive.add_reading(number, START, 5, 1.0)
    read = next(archive.get_session_readings(number))
    with pytest.raises(CaptureError, match="was read back cannot be added"):
        archive.add(read)
    assert archive.find(Reading, {"source": "added"}) == []


def test_readings_are_found_by_their_fields(archive: Archive) -> None:
    first, second = (record(archive.capture_store, 4) for _ in range(2))
    archive.archive_all()
    assert len(archive.all(Reading)) == 8
    found = archive.find(Reading, {"session": second, "at": START + 2 * SECOND})
    assert [(each.channel, each.seq, each.value) for each in found] == [("a", 2, 2.0)]
    assert archive.get(Reading, {"value": 3.0}).session.endswith(f":{first}")
    name = found[0].session
    assert archive.get_by_id(Reading, (name, "main", "a", 2)) == found[0]
    assert archive.find(Reading, {"session": 99}) == archive.find(Reading, {"channel": "b"}) == []
    with pytest.raises(CaptureError, match="a reading's id is"):
        archive.get_by_id(Reading, 2)


# Lists of sessions


def listed(archive: Archive) -> list[tuple[int, int, bool]]:
    return [(each.number, each.messages, each.available) for each in archive.all(ListedSession)]


def test_a_list_of_sessions_replaces_the_one_before(archive: Archive) -> None:
    number = record(archive.capture_store, 3)
    writer = archive.capture_store.create_session("bench", "ann", StreamSpec(), started=START)
    running = writer.session.number
    server = CaptureServer(archive.capture_store, "bench")
    entries = server.build_client_session_list()
    writer.close()
    archive.update_session_list(entries)
    assert listed(archive) == [(number, 3, False), (running, 0, False)]
    assert archive.get_by_id(ListedSession, running).ended_at is None
    archive.update_session_list([[7, START, START + SECOND, 5]], store_id="elsewhere")
    archive.archive_session(number)
    archive.update_session_list(entries[:1])
    assert sorted(listed(archive)) == [(number, 3, True), (7, 5, False)]
    assert archive.get_by_id(ListedSession, number).started_at == START
    archive.update_session_list([])
    assert listed(archive) == [(7, 5, False)]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([2, 1.0, 2.0], "entry 1 of the session list is not"),
        ([2, 1.0, 2.0, 3, 4], "entry 1"),
        ([2, "noon", 2.0, 3], "aware datetime"),
        ([2, 2.0, 1.0, 3], "ends before it starts"),
        ([2, 1.0, 2.0, -3], "not negative"),
        ([2, 1.0, 2.0, "3"], "whole"),
        (["2", 1.0, 2.0, 3], "whole"),
        ([True, 1.0, 2.0, 3], "whole"),
        ([1, 1.0, 2.0, 3], "twice"),
        ([2, float("nan"), 2.0, 3], "aware datetime"),
        ([2**63, 1.0, 2.0, 3], "whole"),
        ("abcd", "a text"),
        (None, "entry 1"),
    ],
)
def test_a_malformed_list_of_sessions_changes_nothing(
    archive: Archive, entry: Any, words: str
) -> None:
    """The original's local table was empty after one."""
    archive.update_session_list([[1, 1.5, 2.5, 3]])
    before = archive.all(ListedSession)
    with pytest.raises(CaptureError, match=words) as raised:
        archive.update_session_list([[1, 1.0, 2.0, 4], entry])
    assert "nothing was changed" in str(raised.value)
    assert archive.all(ListedSession) == before


@pytest.mark.parametrize("entries", [None, "[]", 5, {"a": 1}])
def test_what_is_no_list_changes_nothing(archive: Archive, entries: Any) -> None:
    archive.update_session_list([[1, 1.5, 2.5, 3]])
    with pytest.raises(CaptureError, match="a session list is a list"):
        archive.update_session_list(entries)
    assert len(archive.all(ListedSession)) == 1


def test_one_reading_of_a_thousand_makes_no_session_available(archive: Archive) -> None:
    """The original's did."""
    number = record(archive.capture_store, 1)
    end = START + 1_000 * SECOND
    archive.update_session_list([[number, START.timestamp(), end.timestamp(), 1_000]])
    assert archive.update_session_availability(number) is False  # nothing is archived
    archive.archive_session(number)
    for _ in range(2):
        assert archive.update_session_availability(number) is False
    assert listed(archive) == [(number, 1_000, False)]
    gap = tables.gap
    with archive.sql_store.read() as connection:
        (row,) = connection.execute(sa.select(gap).where(gap.c.kind == "count")).all()
    assert (row.after_seq, row.missing) == (0, 999)
    assert (row.from_us, row.until_us) == (to_us(START), to_us(end))
    # Readings that are added by hand are not what the list counts.
    archive.add_many([Reading(number, "x", START, float(n)) for n in range(1_000)])
    assert archive.update_session_availability(number) is False


def test_a_hole_in_the_numbers_is_not_a_shortfall_as_well(archive: Archive) -> None:
    server = CaptureServer(archive.capture_store, "bench", linger_s=0.001)
    number = server.start_session()
    for _ in range(30):
        server.wait(server.queue(b'{"x": 1}') or 0)  # a chunk each
    server.stop_session()
    archive.update_session_list([[*row[:3], 30] for row in server.build_client_session_list()])
    store = archive.capture_store
    assert isinstance(store, SqliteCaptureStore)
    with sqlite3.connect(store.path) as connection:
        connection.execute("DELETE FROM chunk WHERE first_seq BETWEEN 10 AND 14")
    connection.close()
    archive.archive_session(number)
    assert archive.update_session_availability(number) is False
    with archive.sql_store.read() as connection:
        rows = connection.execute(sa.select(tables.gap.c.kind, tables.gap.c.missing)).all()
    assert rows == [("sequence", 5)]


def test_a_session_is_available_when_all_of_it_has_come(archive: Archive) -> None:
    number = record(archive.capture_store, 5)
    archive.update_session_list([[number, START.timestamp(), None, 6]])
    archive.archive_session(number)
    assert archive.update_session_availability(number) is False
    archive.update_session_list([[number, START.timestamp(), None, 5]])
    assert archive.update_session_availability(number) is True
    assert listed(archive) == [(number, 5, True)]
    with archive.sql_store.read() as connection:
        assert connection.execute(sa.select(tables.gap)).all() == []
    with pytest.raises(NoSessionError, match="session 99 is not in the session list"):
        archive.update_session_availability(99)


def test_a_deleted_session_is_gone_from_the_list_too(archive: Archive) -> None:
    first, second = (record(archive.capture_store, 3) for _ in range(2))
    archive.archive_all()
    server = CaptureServer(archive.capture_store, "bench")
    archive.update_session_list(server.build_client_session_list())
    archive.add_many([Reading(number, "x", START, 1.0) for number in (first, second)])
    archive.delete_session(first)
    assert listed(archive) == [(second, 3, True)]
    with pytest.raises(NoSessionError):
        archive.read(first, "a")
    assert len(archive.all(Reading)) == 4
    assert archive.archive_session(first).added == 3


# Tables


def test_tables_can_be_made_again_empty(archive: Archive, capture_store: Any) -> None:
    number = record(capture_store, 3)
    archive.archive_session(number)
    archive.set_config("k", 1)
    archive.create_tables()
    assert archive.get_config("k").value == 1
    archive.create_tables(force_drop=True)
    assert archive.get_config("k") is None
    with pytest.raises(NoSessionError):
        archive.read(number, "a")
    assert archive.archive_session(number).readings == 3


def test_only_who_sees_everything_may_drop_the_archive(archive: Archive) -> None:
    archive.set_config("k", 1)
    ann = Principal("ann", groups=frozenset({"lab"}))
    theirs = Archive(archive.sql_store, archive.capture_store, principal=ann)
    with pytest.raises(CaptureError, match="sees everything"):
        theirs.create_tables(force_drop=True)
    assert theirs.get_config("k").value == 1


def test_every_documented_method_is_there() -> None:
    documented = {
        "add": ["item"], "add_cache": ["time_logged", "category_id", "value"],
        "add_many": ["items"], "all": ["model"], "clear_cache": [], "clear_errors": [],
        "add_reading": ["session_id", "time_logged", "category_id", "value"],
        "clear_session_data": ["session_id"], "create_tables": ["force_drop"],
        "find": ["model", "query"], "get": ["model", "query"], "get_by_id": ["model", "model_id"],
        "get_cache": ["since"], "get_cache_variables": [], "get_config": ["key"],
        "get_or_create_category": ["key"], "handle_error": ["err_id"],
        "load_fixtures": ["testing"], "log_error": ["description", "severity"],
        "set_config": ["key", "value", "do_update"],
        "update_session_availability": ["session_id"], "update_session_list": ["sessions_list"],
    }  # fmt: skip
    for name, parameters in documented.items():
        signature = inspect.signature(getattr(Archive, name))
        positional = [
            each.name
            for each in signature.parameters.values()
            if each.kind is each.POSITIONAL_OR_KEYWORD
        ]
        assert positional[1:] == parameters, name
