"""Archived readings as rows: what is asked for, and no block more than that takes."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from keepline.capture.archive import readings as readings_module
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.readings import ArchiveReader
from keepline.errors import ModuleUnavailable, OperationalError
from keepline.model import Principal, from_us
from keepline.query import Column, connect, request
from keepline.query.module import Filter, Scan
from keepline.query.modules.readings import ReadingsModule
from keepline.store import Store
from tests.archived import STORE_ID, SYSTEM, Archived
from tests.query_host import host

ANN = Principal("ann", groups=frozenset({"lab"}))
BEN = Principal("ben")


@pytest.fixture
def archive(sql_store: Store) -> ArchiveReader:
    """Two sessions, of which the second is the group lab's, with 40 blocks of 10 messages each."""
    for number, (instrument, group) in enumerate([("bench", None), ("secret", "lab")], start=1):
        session = Archived(sql_store, number, instrument, group)
        session.add(
            *(
                Block(
                    1_000 * (10 * n + np.arange(10)),
                    10 * n + np.arange(10),
                    {
                        "load": np.arange(10 * n, 10 * n + 10) / 4,
                        "count": number * np.arange(10 * n, 10 * n + 10),
                        "open": np.arange(10) % 2 == 0,
                        "note": [None] * 9 + [f"block {n}"],
                    },
                )
                for n in range(40)
            ),
            units={"load": "kN"},
        )
    return ArchiveReader(sql_store, STORE_ID, principal=SYSTEM)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of blocks that each session's scan decodes."""
    counts: list[int] = []
    original = readings_module.decoded_blocks

    def counting(store: Store, ids: list[int], **options: str | None) -> object:
        counts.append(len(ids))
        return original(store, ids, **options)

    monkeypatch.setattr(readings_module, "decoded_blocks", counting)
    return counts


def ask(archive: ArchiveReader, text: str, values: object = (), user: str = "admin") -> list:
    instance = host(ReadingsModule("readings", archive), ann={"lab"}, ben=set())
    with connect(user, instance=instance) as connection:
        return connection.cursor().execute(text, values).fetchall()


def test_each_value_is_in_the_column_of_its_type(archive: ArchiveReader) -> None:
    rows = ask(
        archive,
        "SELECT channel, value_real, value_integer, value_boolean, value_text, unit"
        " FROM readings.reading WHERE session = 'capture:s:1' AND seq = 19 ORDER BY channel",
    )
    assert rows == [
        ("count", None, 19, None, None, None),
        ("load", 4.75, None, None, None, "kN"),
        ("note", None, None, None, "block 1", None),
        ("open", None, None, False, None, None),
    ]


def test_only_blocks_that_the_filters_leave_are_read(
    archive: ArchiveReader, decoded: list[int]
) -> None:
    text = "SELECT taken_at, value_real FROM readings.reading WHERE channel = 'load'"
    text += " AND session = ? AND taken_at >= ? AND taken_at < ? ORDER BY taken_at"
    rows = ask(archive, text, ["capture:s:1", from_us(95_000), from_us(112_000)])
    assert rows == [(from_us(1_000 * n), n / 4) for n in range(95, 112)]
    assert decoded == [3]
    decoded.clear()
    text = "SELECT count(*) FROM readings.reading WHERE taken_at = ?"
    assert ask(archive, text, [from_us(5_000)]) == [(6,)]
    assert decoded == [1, 1]
    decoded.clear()
    assert ask(archive, text, [datetime(2030, 1, 1, tzinfo=UTC)]) == [(0,)]
    assert decoded == [0, 0]
    decoded.clear()
    text = "SELECT count(*) FROM readings.reading WHERE channel = 'nothing'"
    assert ask(archive, text) == [(0,)]
    assert decoded == []
    text = "SELECT count(*) FROM readings.reading WHERE source IN ('other', 'nothing')"
    assert ask(archive, text) == [(0,)]
    assert sum(decoded) == 0


def test_a_scan_without_a_filter_streams_everything(
    archive: ArchiveReader, decoded: list[int]
) -> None:
    assert ask(archive, "SELECT count(*), count(DISTINCT session) FROM readings.reading") == [
        (2 * (3 * 400 + 40), 2)
    ]
    assert decoded == [40, 40]
    scan = ReadingsModule("readings", archive).scan(Scan("reading", ("seq",), SYSTEM))
    sizes = [len(next(scan)) for _ in range(5)]
    scan.close()
    assert max(sizes) <= 1_000


def test_rows_of_other_groups_do_not_exist(archive: ArchiveReader) -> None:
    text = "SELECT DISTINCT session FROM readings.reading ORDER BY session"
    assert ask(archive, text, user="ann") == [("capture:s:1",), ("capture:s:2",)]
    assert ask(archive, text, user="ben") == [("capture:s:1",)]
    text = "SELECT count(*) FROM readings.reading WHERE session = 'capture:s:2'"
    assert ask(archive, text, user="ben") == [(0,)]
    # Whoever the archive is opened by: it is the principal who asks that counts.
    narrow = ArchiveReader(archive.sql_store, STORE_ID, principal=BEN)
    assert ask(narrow, text, user="ann") == [(1_240,)]


def test_a_request_gives_the_same(archive: ArchiveReader) -> None:
    asked = request()
    for name in ("seq", "value_integer"):
        asked.add_field(name, Column("readings", "reading", name))
    asked.add_param(Column("readings", "reading", "session"), "capture:s:2")
    asked.add_param(Column("readings", "reading", "channel"), "count")
    with connect("admin", instance=host(ReadingsModule("readings", archive))) as connection:
        rows = connection.cursor().execute(asked).fetchall()
    assert rows == [(n, 2 * n) for n in range(400)]


def test_a_filter_that_nothing_meets_reads_nothing(
    archive: ArchiveReader, decoded: list[int]
) -> None:
    module = ReadingsModule("readings", archive)
    for filters in (
        (Filter("session", "null"),),
        (Filter("session", "in", ("capture:s:1",)), Filter("session", "in", ("capture:s:2",))),
        (Filter("channel", "in", ("a\0b",)),),
    ):
        assert list(module.scan(Scan("reading", ("seq",), SYSTEM, filters))) == []
    assert sum(decoded) == 0


def test_what_cannot_be_read_is_an_error(archive: ArchiveReader, tmp_path: Path) -> None:
    with archive.sql_store.write(SYSTEM) as connection:
        connection.exec_driver_sql("UPDATE block SET payload = zeroblob(50) WHERE first_seq = 50")
    with pytest.raises(OperationalError, match="damaged"):
        ask(archive, "SELECT count(*) FROM readings.reading")
    missing = Store(f"sqlite:///{tmp_path / 'nowhere' / 'keepline.db'}")
    gone = ReadingsModule("readings", ArchiveReader(missing, STORE_ID, principal=SYSTEM))
    with pytest.raises(ModuleUnavailable):
        list(gone.scan(Scan("reading", ("seq",), SYSTEM)))
