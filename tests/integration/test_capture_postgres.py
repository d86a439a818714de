"""The archive on PostgreSQL: the same outcome, and archivers at once."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal

from keepline.capture import Archive, CaptureServer, SqliteCaptureStore, overlaps
from keepline.errors import CaptureError, NoSessionError
from keepline.model import Channel, Principal, StreamSpec, TickClock
from keepline.store import Store, schema
from keepline.store.tables import common
from tests.trimming import archive_untrimmed, clear_while_another_trims

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(milliseconds=20)


@pytest.fixture
def sql_store(postgres_database: str) -> Iterator[Store]:
    store = Store(postgres_database)
    schema.migrate(store)
    with store.write(Principal.system()) as connection:
        connection.execute(sa.insert(common.instrument).values(name="bench", tz="UTC", comment=""))
    yield store
    store.close()


@pytest.fixture
def capture_store(tmp_path: Path) -> Iterator[SqliteCaptureStore]:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        yield store


def record(store: SqliteCaptureStore, n: int) -> int:
    server = CaptureServer(store, "bench", spec=StreamSpec(step_us=20_000))
    number = server.start_session(started=START)
    for index in range(n):
        message = b'{"a": %d, "inf": Infinity, "note": "\\u0001"}' % index
        server.queue(b"bad" if index == 7 else message, START + index * STEP * (1 + index // 900))
    server.stop_session(ended=START + n * STEP * 2)
    return number


def test_archive_and_read_back(sql_store: Store, capture_store: SqliteCaptureStore) -> None:
    archive = Archive(sql_store, capture_store)
    number = record(capture_store, 1_000)
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.quarantined) == (1_000, 999 * 3, 1)
    assert (result.gaps, result.disorder, result.state) == (100, 0, "complete")
    assert archive.archive_session(number).added == 0
    assert_array_equal(archive.read(number, "a")[1], [n for n in range(1_000) if n != 7])
    a, inf, note = archive.get_session_variables(number)
    assert (a.n, a.min, a.max, a.mean) == (999, 0, 999, pytest.approx((499_500 - 7) / 999))
    assert (inf.max, note.dtype, note.n) == (np.inf, "text", 999)
    assert next(archive.get_session_readings(number)).value == 0.0
    archive.clear_session_data(number)
    assert archive.archive_session(number).readings == 999 * 3
    record(capture_store, 10)
    archive.archive_all()
    assert len(overlaps(sql_store, "bench")) == 1


def test_archivers_at_once_double_nothing(
    sql_store: Store, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.capture.archive.transfer._BATCH_BLOCKS", 1)
    number = record(capture_store, 20_000)
    added: list[int] = []

    def work() -> None:
        added.append(Archive(sql_store, capture_store).archive_session(number).added)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 20_000
    assert len(added) == 4
    assert len(Archive(sql_store, capture_store).read(number, "a")[1]) == 19_999


def test_clearing_and_trimming_at_once_lose_nothing(
    sql_store: Store, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(sql_store, capture_store)
    number = record(capture_store, 1_000)
    archive_untrimmed(archive, capture_store, number, monkeypatch)
    clear_while_another_trims(sql_store, capture_store, number, monkeypatch)
    result = archive.archive_session(number)
    assert (result.messages, result.lost, result.readings) == (1_000, 0, 999 * 3)


def test_clearing_and_archiving_over_and_over_lose_nothing(
    sql_store: Store, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.capture.archive.transfer._BATCH_BLOCKS", 1)
    monkeypatch.setattr("keepline.capture.archive.blocking.MAX_READINGS", 1_000)
    number = record(capture_store, 3_000)
    archive = Archive(sql_store, capture_store)
    archive.archive_session(number)
    odd: list[Exception] = []

    def work() -> None:
        for _ in range(5):
            try:
                Archive(sql_store, capture_store).archive_session(number)
            except CaptureError:  # cleared meanwhile
                continue
            except Exception as error:
                odd.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        archive.clear_session_data(number)
    assert odd == []
    result = archive.archive_session(number)
    assert (result.messages, result.lost, result.readings) == (3_000, 0, 2_999 * 3)
    assert archive.get_session_variables(number)[0].n == 2_999


def test_messages_are_kept_and_decoded_again(
    sql_store: Store, capture_store: SqliteCaptureStore
) -> None:
    archive = Archive(sql_store, capture_store, trim=True)
    clock = TickClock(tick_us=1_000, step=20)
    spec = StreamSpec(decoder="csv", options={"columns": ["a", "b"]}, step_us=20_000, clock=clock)
    with CaptureServer(capture_store, "bench", spec=spec) as server:
        number = server.start_session(started=START)
        for index in range(2_000):
            line = b"%d,%d" % (index, index % 2)
            server.queue(b"bad" if index == 7 else line, START + index * STEP, tick=index * 20)
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.quarantined) == (2_000, 3_998, 1)
    assert capture_store.trimmed(number, "main") == 1_999
    found = list(archive.raw_messages(number))
    assert [seq for seq, _, _ in found] == list(range(2_000))
    assert (found[7][2], found[8][2]) == (b"bad", b"8,0")
    assert archive.read(number, "b")[1].dtype == np.float64
    (fit,) = archive.clock_fits(number)
    assert (fit.n, fit.tick_us) == (2_000, pytest.approx(1_000))
    channels = (Channel("a"), Channel("b", "int64", "V"))
    archive.decode_again(number, replace(spec, channels=channels))
    assert_array_equal(archive.read(number, "a")[1], [n for n in range(2_000) if n != 7])
    assert archive.read(number, "b")[1].dtype == np.int64
    assert list(archive.raw_messages(number)) == found
    assert archive.clock_fits(number) == [fit]
    again = archive.archive_session(number)
    assert (again.readings, again.quarantined, again.state) == (3_998, 1, "complete")
    archive.delete_session(number)
    with pytest.raises(NoSessionError):
        archive.missing_ranges(number)


def test_dropped_and_damaged_chunks_are_one_gap_each(
    sql_store: Store, capture_store: SqliteCaptureStore
) -> None:
    archive = Archive(sql_store, capture_store)
    with CaptureServer(capture_store, "bench", spec=StreamSpec(step_us=20_000)) as server:
        number = server.start_session(started=START)
        for index in range(5_000):
            server.queue(b'{"a": %d}' % index, START + index * STEP)
            if index % 1_000 == 999:
                server.wait(index)
    firsts = [chunk.first_seq for chunk in capture_store.chunks(number, "main")]
    capture_store._connection.execute("DELETE FROM chunk WHERE first_seq = ?", (firsts[1],))
    capture_store._connection.execute(
        "UPDATE chunk SET raw = x'00' WHERE first_seq = ?", (firsts[3],)
    )
    result = archive.archive_session(number)
    ranges = [(each.first, each.last) for each in archive.missing_ranges(number)]
    assert ranges == [(firsts[1], firsts[2] - 1), (firsts[3], firsts[4] - 1)]
    assert (result.gaps, result.disorder, result.state) == (2, 0, "partial")
    assert result.quarantined == firsts[4] - firsts[3]
