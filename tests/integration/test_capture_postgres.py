"""The archive on PostgreSQL: the same outcome, and archivers at once."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal

from keepline.capture import Archive, CaptureServer, SqliteCaptureStore, overlaps
from keepline.model import Principal, StreamSpec
from keepline.store import Store, schema
from keepline.store.tables import common

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
        message = b'{"a": %d, "inf": Infinity, "note": "\\u0000"}' % index
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
    monkeypatch.setattr("keepline.capture.archive._BATCH_BLOCKS", 1)
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
