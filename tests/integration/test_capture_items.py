"""The archive's small tables and its reading back, on either database and by several at once."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal

from keepline.capture import Archive, CaptureServer, SqliteCaptureStore
from keepline.capture.archive.export import export_csv
from keepline.capture.archive.models import Cache, Category, Config, ListedSession, Notification
from keepline.capture.archive.readings import ArchiveReader, Reading
from keepline.errors import CaptureError, NoSessionError
from keepline.model import Principal, StreamSpec, to_us
from keepline.query.modules.readings import ReadingsModule
from keepline.store import Store
from keepline.store.tables import capture as tables
from keepline.store.tables import common
from keepline.testing.query_modules import QueryModuleConformance
from tests.archived import STORE_ID, SYSTEM, fill_readings

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(milliseconds=20)


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Iterator[Archive]:
    with store.write(SYSTEM) as connection:
        connection.execute(sa.insert(common.instrument).values(name="bench", tz="UTC", comment=""))
    with SqliteCaptureStore(tmp_path / "capture.db") as capture_store:
        yield Archive(store, capture_store)


def record(archive: Archive, n: int) -> int:
    server = CaptureServer(archive.capture_store, "bench", spec=StreamSpec(step_us=20_000))
    number = server.start_session(started=START)
    for index in range(n):
        server.queue(b'{"a": %d, "t": "x%d"}' % (index, index), START + index * STEP)
    server.stop_session(ended=START + n * STEP)
    archive.archive_session(number)
    return number


def at_once(n: int, work: Callable[[int], object]) -> list[object]:
    """Return what `work` returns in `n` threads that begin together."""
    barrier = threading.Barrier(n)
    found: list[object] = [None] * n

    def run(place: int) -> None:
        barrier.wait()
        found[place] = work(place)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_a_category_is_made_once_by_many(archive: Archive) -> None:
    ids = at_once(8, lambda _: archive.get_or_create_category("speed"))
    assert len(set(ids)) == 1
    assert [each.name for each in archive.all(Category)] == ["speed"]


def test_no_setting_is_lost_or_doubled_when_many_set_it(archive: Archive) -> None:
    at_once(8, lambda place: archive.set_config("k", place))
    at_once(8, lambda place: archive.set_config(f"k{place}", place))
    assert archive.get_config("k").value in range(8)
    assert {each.key: each.value for each in archive.all(Config) if each.key != "k"} == {
        f"k{n}": n for n in range(8)
    }
    at_once(8, lambda place: archive.set_config("once", place, do_update=False))
    first = archive.get_config("once")
    archive.set_config("once", 99, do_update=False)
    assert archive.get_config("once") == first


def test_readings_that_many_add_are_all_there_once(archive: Archive) -> None:
    number = record(archive, 5)
    at_once(
        6,
        lambda place: archive.add_many(
            [Reading(number, "x", START + n * STEP, float(100 * place + n)) for n in range(20)]
        ),
    )
    _, values = archive.read(number, "x", source="added")
    assert sorted(values) == sorted(100.0 * place + n for place in range(6) for n in range(20))
    seqs = [each.seq for each in archive.find(Reading, {"source": "added"})]
    assert seqs == list(range(120))


def test_numbers_come_back_as_they_were(archive: Archive) -> None:
    given = [1.0, -3.0, 1, True, 1e16, -1.5e300, 5e-324, 2**53, 2**63 - 1, "1.0", "1e+16", " 7 "]
    speed = archive.get_or_create_category("speed")
    archive.add_many([Cache(speed, START, value) for value in given])
    archive.add_many([Config(f"{n:02}", value) for n, value in enumerate(given)])
    archive.set_config("nested", {'k\\" 1e+16': given})
    for found in (
        [each.value for each in sorted(archive.all(Cache), key=lambda each: each.id)],
        [archive.get_config(f"{n:02}").value for n in range(len(given))],
        archive.get_config("nested").value['k\\" 1e+16'],
    ):
        assert list(map(repr, found)) == list(map(repr, given))


def test_names_may_be_as_long_as_a_database_indexes(archive: Archive) -> None:
    letters = random.Random(7)
    names = [  # that cannot be compressed
        "".join(map(chr, letters.choices(range(0x23, 0x5B), k=1_000))),
        "".join(map(chr, letters.choices(range(0x20000, 0x2A6D0), k=250))),
    ]
    server = CaptureServer(archive.capture_store, "bench")
    number = server.start_session(started=START)
    for n, name in enumerate((*names, "x" * 1_001)):
        server.queue(json.dumps({name: n}).encode(), START + n * STEP)
    server.stop_session(ended=START + 3 * STEP)
    result = archive.archive_session(number)
    assert (result.readings, result.quarantined) == (2, 1)
    assert [archive.read(number, name)[1].tolist() for name in names] == [[0.0], [1.0]]
    archive.add(Reading(number, names[1], START, 5))
    assert archive.get_or_create_category(names[1]) == archive.get_or_create_category(names[1])
    for too_long in (Reading(number, "x" * 1_001, START, 5), Category("x" * 1_001)):
        assert refused(archive.add, too_long)
    for call in (archive.get_or_create_category, lambda name: archive.set_config(name, 1)):
        assert refused(call, "é" * 501)


def test_items_of_every_kind(archive: Archive) -> None:
    speed = archive.get_or_create_category("speed")
    made = archive.add_many(
        [Cache(speed, START + n * STEP, n / 2) for n in range(60)] + [Notification("é", 2)]
    )
    assert len({each.id for each in made[:60]}) == 60
    assert [each.value for each in archive.get_cache()[0]] == [n / 2 for n in range(10, 60)]
    assert archive.find(Cache, {"value": 0.5}) == [made[1]]
    archive.set_config("k", {"é": [1, 2.5, None]})
    assert archive.get(Config, {"value": {"é": [1, 2.5, None]}}).key == "k"
    for text in ("a\0b", "\ud800"):
        for call in (archive.log_error, archive.get_or_create_category, archive.get_config):
            assert call(text) is None if call == archive.get_config else refused(call, text)
    assert refused(archive.find, Notification, {"severity": "x"})
    assert refused(archive.add, Notification("x", 2**40))
    assert refused(archive.add_cache, START, 999, 1.0)
    assert len(archive.all(Notification)) == 1
    archive.load_fixtures(testing=True)
    archive.load_fixtures(testing=True)
    archive.create_tables(force_drop=True)
    assert archive.all(Config) == archive.all(Category) == archive.all(Cache) == []
    assert record(archive, 3) == 1


def refused(call: Callable[..., object], *arguments: object) -> bool:
    try:
        found = call(*arguments)
    except CaptureError:
        return True
    return found == []  # SQLite compares anything with anything


def test_lists_of_sessions(archive: Archive) -> None:
    number = record(archive, 5)
    archive.update_session_list([[number, START, START + 9 * STEP, 9], [70, START, None, 0]])
    assert archive.update_session_availability(number) is False
    with archive.sql_store.read() as connection:
        (gap,) = connection.execute(sa.select(tables.gap)).all()
    assert (gap.kind, gap.after_seq, gap.missing) == ("count", 4, 4)
    with pytest.raises(CaptureError, match="nothing was changed"):
        archive.update_session_list([[number, START, None, 5], [1]])
    assert [each.messages for each in archive.all(ListedSession)] == [9, 0]
    archive.update_session_list([[number, START, None, 5]])
    assert archive.update_session_availability(number) is True
    with archive.sql_store.read() as connection:
        assert connection.execute(sa.select(tables.gap)).all() == []


def test_reading_back(archive: Archive, tmp_path: Path) -> None:
    number = record(archive, 25_000)
    times, values = archive.read(number, "a")
    assert_array_equal(times, to_us(START) + 20_000 * np.arange(25_000))
    assert_array_equal(values, np.arange(25_000))
    start, end = START + 9_990 * STEP, START + 10_010 * STEP
    texts = archive.read(number, "t", start=start, end=end)[1]
    assert texts == [f"x{n}" for n in range(9_990, 10_010)]
    table = archive.read_arrow(number, ["a"], start=start, end=end)
    assert table["seq"].to_pylist() == list(range(9_990, 10_010))
    found = archive.overview(number, "a", points=40)
    assert (found.readings, found.values[0], found.values[-1]) == (25_000, 0, 24_999)
    assert export_csv(archive, number, tmp_path / "a.csv", start=start, end=end) == 20
    for missing in ("x", "a\0b"):
        with pytest.raises(NoSessionError):
            archive.read(missing, "a")
        with pytest.raises(CaptureError):
            archive.read(number, missing)


class TestReadingsModule(QueryModuleConformance):
    @pytest.fixture(autouse=True)
    def filled(self, store: Store) -> None:
        fill_readings(store)
        self.archive = ArchiveReader(store, STORE_ID, principal=SYSTEM)

    def module(self, folder: Path) -> ReadingsModule:
        return ReadingsModule("readings", self.archive)

    def principal(self) -> Principal:
        return Principal("ann", groups=frozenset({"red"}))
