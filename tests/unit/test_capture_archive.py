"""The archive: nothing lost, nothing doubled, gaps and bad input kept, and read back exactly."""

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal

from keepline.capture import (
    Archive,
    CaptureServer,
    SqliteCaptureStore,
    overlaps,
    recover,
)
from keepline.capture.archive import blocking
from keepline.capture.archive import rows as rows_module
from keepline.capture.archive.blocks import decode
from keepline.capture.archive.readings import Reading
from keepline.capture.decoders import typed_rows
from keepline.capture.decoders.decoder import Decoded
from keepline.errors import (
    CaptureError,
    DecodeError,
    KeeplineError,
    NoSessionError,
    PluginError,
    UnknownInstrumentError,
)
from keepline.model import Channel, Principal, StreamSpec, to_us
from keepline.store import Store, plugins, quarantine
from keepline.store.tables import capture as tables
from keepline.store.tables import common

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(milliseconds=20)


@pytest.fixture
def archive(sql_store: Store, capture_store: SqliteCaptureStore) -> Archive:
    return Archive(sql_store, capture_store)


def record(
    store: SqliteCaptureStore,
    messages: list[bytes],
    *,
    first: int = 0,
    instrument: str = "bench",
    step_us: int | None = 20_000,
    stop: bool = True,
) -> int:
    """Record messages one step apart as a session, and return its number."""
    server = CaptureServer(store, instrument, spec=StreamSpec(step_us=step_us))
    number = server.start_session(started=START)
    for index, message in enumerate(messages, first):
        server.queue(message, START + index * STEP)
    if stop:
        server.stop_session(ended=START + (first + len(messages)) * STEP)
    else:
        server.close()
    return number


def values(n: int, *, channels: int = 3) -> list[bytes]:
    return [
        json.dumps({f"c{c}": index + c / 10 for c in range(channels)}).encode()
        for index in range(n)
    ]


def everything(store: Store) -> dict[str, list[Any]]:
    """Return all rows of the archive, but not when they were written."""
    found: dict[str, list[Any]] = {}
    with store.read() as connection:
        for table in (
            tables.capture_session, tables.stream, tables.channel, tables.block,
            tables.block_stat, tables.gap, common.quarantine,
        ):  # fmt: skip
            columns = [column for column in table.c if column.name != "created_at"]
            found[table.name] = [tuple(row) for row in connection.execute(sa.select(*columns))]
        found["changes"] = [
            (row.state, row.who)
            for row in connection.execute(sa.select(tables.capture_session_change))
        ]
    return found


def test_session_is_archived_whole(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = record(capture_store, values(10_000))
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.added) == (10_000, 30_000, 10_000)
    assert (result.gaps, result.disorder, result.quarantined, result.state) == (0, 0, 0, "complete")
    times, found = archive.read(number, "c2")
    assert_array_equal(times, to_us(START) + np.arange(10_000) * 20_000)
    assert_array_equal(found, [index + 2 / 10 for index in range(10_000)])
    with sql_store.read() as connection:
        sizes = connection.execute(sa.select(tables.block.c.readings)).scalars().all()
    assert sum(sizes) == 30_000
    assert max(sizes) <= 10_000
    assert len(sizes) <= 5
    assert capture_store.archived(number, "main") == 9_999


def test_archiving_again_adds_nothing(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = record(capture_store, [*values(2_500), b"bad"])
    first = archive.archive_session(number)
    before = everything(sql_store)
    second = archive.archive_session(number)
    assert (second.added, second.repeats) == (0, 0)
    assert (second.messages, second.readings, second.quarantined) == (
        first.messages, first.readings, 1,
    )  # fmt: skip
    assert everything(sql_store) == before


def test_running_session_is_archived_so_far_and_completed_later(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    with CaptureServer(capture_store, "bench", spec=StreamSpec(step_us=20_000)) as server:
        number = server.start_session(started=START)
        for index in range(100):
            server.queue(b'{"a": %d}' % index, START + index * STEP)
        server.wait(99)
        result = archive.archive_session(number)
        assert (result.messages, result.state) == (100, "running")
        server.wait(99, "archived", timeout_s=1)
        # The gap between the two archivings is seen, too.
        server.queue(b'{"a": 100}', START + 200 * STEP)
    result = archive.archive_session(number)
    assert (result.messages, result.added, result.gaps, result.state) == (101, 1, 1, "complete")
    assert_array_equal(archive.read(number, "a")[1], np.arange(101.0))


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("where", ["before commit", "after commit"])
def test_interrupted_archive_goes_on_at_the_first_missing_number(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    sql_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    where: str,
) -> None:
    monkeypatch.setattr("keepline.capture.archive.transfer._BATCH_BLOCKS", 1)
    messages = values(700, channels=60)  # 166 a block
    messages[333] = b"bad"
    number = record(capture_store, messages)
    calls = 0

    def count_down() -> None:
        nonlocal calls
        calls += 1
        if calls == after + 1:
            raise InterruptionError

    with monkeypatch.context() as patch:
        if where == "before commit":
            keep = rows_module.quarantine.keep

            def interrupted_keep(*args: Any) -> int:
                count_down()
                return keep(*args)

            patch.setattr(rows_module.quarantine, "keep", interrupted_keep)
        else:
            mark = capture_store.mark_archived

            def interrupted_mark(*args: Any) -> None:
                count_down()
                mark(*args)

            patch.setattr(capture_store, "mark_archived", interrupted_mark)
        with pytest.raises(InterruptionError):
            archive.archive_session(number)
        assert "complete" not in str(everything(sql_store)["capture_session"])
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.quarantined) == (700, 699 * 60, 1)
    assert result.repeats == (1 if where == "after commit" else 0)
    assert result.state == "complete"
    straight = archive.archive_session(record(capture_store, messages))
    assert (straight.messages, straight.readings) == (result.messages, result.readings)
    block = tables.block.c
    with sql_store.read() as connection:
        one, other = (
            connection.execute(
                sa.select(block.first_seq, block.last_seq, block.crc, block.payload)
                .where(block.session_id == session_id)
                .order_by(block.first_seq)
            ).all()
            for session_id in (1, 2)
        )
    assert one == other
    assert len(one) == 5


def test_two_archivers_at_once_double_nothing(
    capture_store: SqliteCaptureStore, sql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.capture.archive.transfer._BATCH_BLOCKS", 1)
    number = record(capture_store, values(3_000, channels=20))
    archives = [Archive(sql_store, capture_store) for _ in range(3)]
    added = []

    def work(each: Archive) -> None:
        added.append(each.archive_session(number).added)

    threads = [threading.Thread(target=work, args=(each,)) for each in archives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 3_000
    assert_array_equal(archives[0].read(number, "c0")[1], np.arange(3_000.0))


def test_bad_messages_are_quarantined_and_counted(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    messages = values(100)
    for place in (0, 7, 99):
        messages[place] = b"bad %d" % place
    number = record(capture_store, messages)
    result = archive.archive_session(number)
    assert (result.messages, result.quarantined, result.readings) == (100, 3, 97 * 3)
    with sql_store.read() as connection:
        kept = connection.execute(sa.select(common.quarantine)).all()
        stream = connection.execute(sa.select(tables.stream)).one()
    assert [(row.position, row.raw) for row in kept] == [
        (0, b"bad 0"), (7, b"bad 7"), (99, b"bad 99"),
    ]  # fmt: skip
    assert all("not JSON" in row.reason for row in kept)
    assert kept[0].origin == f"capture:{capture_store.store_id}:{number}/main"
    assert (stream.messages, stream.quarantined) == (100, 3)
    seqs = [reading.seq for reading in archive.get_session_readings(number)]
    assert sorted(set(seqs)) == [seq for seq in range(100) if seq not in (0, 7, 99)]


def test_session_of_bad_messages_only(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    number = record(capture_store, [b"bad"] * 3)
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.quarantined) == (3, 0, 3)
    assert archive.get_session_variables(number) == []
    assert list(archive.get_session_readings(number)) == []


def test_empty_session(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    result = archive.archive_session(record(capture_store, []))
    assert (result.messages, result.state) == (0, "empty")


def test_gaps_and_disorder_are_rows(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    server = CaptureServer(capture_store, "bench", spec=StreamSpec(step_us=20_000))
    number = server.start_session(started=START)
    for step in (0, 1, 2, 5, 4, 5, 5, 6):
        server.queue(b'{"a": 1}', START + step * STEP)
    server.stop_session(ended=START + 9 * STEP)
    result = archive.archive_session(number)
    assert (result.gaps, result.disorder) == (1, 1)  # two that came together are in order
    start = to_us(START)
    with sql_store.read() as connection:
        found = connection.execute(sa.select(tables.gap).order_by(tables.gap.c.after_seq)).all()
    assert [
        (row.kind, row.after_seq, row.from_us - start, row.until_us - start) for row in found
    ] == [
        ("time", 2, 40_000, 100_000),
        ("disorder", 3, 100_000, 80_000),
    ]


def test_restored_capture_store_with_other_content_is_quarantined(
    archive: Archive, sql_store: Store, capture_store: SqliteCaptureStore, tmp_path: Path
) -> None:
    number = record(capture_store, values(50))
    archive.archive_session(number)
    # An old copy of the store comes back, and its next session gets a number again.
    with SqliteCaptureStore(tmp_path / "restored.db") as restored:
        restored._connection.execute("UPDATE store SET id = ?", (capture_store.store_id,))
    with SqliteCaptureStore(tmp_path / "restored.db") as restored:
        assert record(restored, [b'{"c0": -1}'] * 60) == number
        result = Archive(sql_store, restored).archive_session(number)
        again = Archive(sql_store, restored).archive_session(number)
    assert (result.messages, result.quarantined, result.repeats, result.added) == (60, 50, 0, 10)
    assert again.quarantined == 50
    assert_array_equal(archive.read(number, "c0")[1], [*range(50), *[-1.0] * 10])


def test_restored_capture_store_with_less_of_the_same(
    archive: Archive, sql_store: Store, capture_store: SqliteCaptureStore, tmp_path: Path
) -> None:
    messages = values(50)
    number = record(capture_store, messages)
    archive.archive_session(number)
    with SqliteCaptureStore(tmp_path / "restored.db") as restored:
        restored._connection.execute("UPDATE store SET id = ?", (capture_store.store_id,))
    with SqliteCaptureStore(tmp_path / "restored.db") as restored:
        assert record(restored, messages[:20]) == number
        result = Archive(sql_store, restored).archive_session(number)
    # What is there is the same; the archive keeps the rest.
    assert (result.messages, result.quarantined, result.added) == (50, 0, 0)
    assert len(archive.read(number, "c0")[1]) == 50


def test_unknown_decoder_or_instrument_or_session(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    with pytest.raises(NoSessionError):
        archive.archive_session(99)
    for call in (archive.get_session_variables, archive.clear_session_data):
        with pytest.raises(NoSessionError):
            call(99)
    with pytest.raises(UnknownInstrumentError, match="nowhere"):
        archive.archive_session(record(capture_store, values(1), instrument="nowhere"))
    server = CaptureServer(capture_store, "bench", spec=StreamSpec(decoder="morse"))
    number = server.start_session()
    server.stop_session()
    with pytest.raises(PluginError, match="morse"):
        archive.archive_session(number)


def test_archive_all(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    numbers = [record(capture_store, values(count)) for count in (3, 0, 5)]
    results = archive.archive_all()
    assert [result.messages for result in results] == [3, 0, 5]
    assert [result.session for result in results] == [
        f"capture:{capture_store.store_id}:{number}" for number in numbers
    ]


def test_one_bad_session_does_not_stop_the_rest(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    record(capture_store, values(2), instrument="nowhere")
    good = record(capture_store, values(3))
    with pytest.raises(UnknownInstrumentError):
        archive.archive_all()
    assert len(archive.read(good, "c0")[0]) == 3


CSV_OPTIONS: dict[str, Any] = {"columns": ["t", "a"]}


def test_fault_of_the_database_in_one_session_does_not_stop_the_rest(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    record(capture_store, values(3))
    other = record(capture_store, values(5))
    with sql_store.maintenance() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE INSERT ON block WHEN NEW.session_id = 1"
            " BEGIN SELECT RAISE(ABORT, 'the disk is broken'); END"
        )
    with pytest.raises(KeeplineError, match="the disk is broken") as caught:
        archive.archive_all()
    assert "\n" not in str(caught.value)
    assert archive.archive_session(other).added == 0
    assert len(archive.read(other, "c0")[0]) == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "columns: this key is missing"),
        ({"columns": "ab"}, "columns: Input should be"),
        ({"columns": [1, 2]}, "columns.0: Input should be"),
        ({"columns": ["t", "b"]}, "'a' has to be one of the CSV columns"),
        ({"columns": ["a", "a"]}, "'a' has to be one of the CSV columns"),
        ({**CSV_OPTIONS, "delimiter": "ab"}, "one ASCII character, not 'ab'"),
        ({**CSV_OPTIONS, "delimiter": 5}, "delimiter: Input should be"),
    ],
)
def test_bad_declaration_is_one_clear_error_and_does_not_stop_the_rest(
    archive: Archive, capture_store: SqliteCaptureStore, options: dict[str, Any], reason: str
) -> None:
    spec = StreamSpec(decoder="csv", options=options, channels=(Channel("a"),))
    with CaptureServer(capture_store, "bench", spec=spec) as server:
        server.start_session()
        server.queue(b'1,"2"')
    good = record(capture_store, values(3))
    with pytest.raises(DecodeError, match=reason):
        archive.archive_all()
    assert len(archive.read(good, "c0")[0]) == 3


class FaultyPlugin:
    """A decoder that does what a test says: raises it, or returns it."""

    outcome: Exception | Decoded

    def __init__(self, spec: StreamSpec, known: object) -> None:
        if spec.options.get("unmade"):
            raise KeyError("missing")

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


ONE, TWO = np.zeros(1), np.zeros(2)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (ZeroDivisionError("by\nzero"), "failed: ZeroDivisionError: by zero"),
        (None, "failed: AttributeError"),
        (Decoded(1, {"a": ONE}), "1 good and 0 rejected messages of 2"),
        (Decoded(1, {"a": ONE}, [(2, b"", "bad")]), "rejected messages out of order"),
        (Decoded(2, {"a": ONE}), "one value a good message for 'a'"),
        (Decoded(2, {"a": TWO.astype(np.int32)}), "one value a good message for 'a'"),
        (Decoded(2, {"\0": TWO}), "cannot name a channel"),
    ],
)
def test_faulty_decoder_is_named_and_does_not_stop_the_rest(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Any,
    reason: str,
) -> None:
    load = plugins.load
    monkeypatch.setattr(FaultyPlugin, "outcome", outcome, raising=False)
    monkeypatch.setattr(
        plugins, "load", lambda kind, name: FaultyPlugin if name == "faulty" else load(kind, name)
    )
    for options in ({}, {"unmade": True}):
        spec = StreamSpec(decoder="faulty", options=options)
        with CaptureServer(capture_store, "bench", spec=spec) as server:
            bad = server.start_session()
            server.queue(b"1")
            server.queue(b"2")
        with pytest.raises(DecodeError, match="KeyError" if options else reason):
            archive.archive_session(bad)
    good = record(capture_store, values(3))
    with pytest.raises(DecodeError, match="'faulty'"):
        archive.archive_all()
    assert len(archive.read(good, "c0")[0]) == 3


def test_variables_have_their_statistics(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    messages = [b'{"t": %d, "note": "x"}' % index for index in range(11_000)]
    messages[1] = b'{"late": -2.5}'
    number = record(capture_store, messages)
    archive.archive_session(number)
    late, note, t = archive.get_session_variables(number)
    assert (late.name, late.n, late.min, late.max, late.mean) == ("late", 1, -2.5, -2.5, -2.5)
    assert late.first_at == late.last_at == START + STEP
    assert (note.dtype, note.n, note.mean, note.last_at) == (
        "text", 10_999, None, START + 10_999 * STEP,
    )  # fmt: skip
    assert (t.n, t.min, t.max) == (10_999, 0, 10_999)
    assert t.mean == pytest.approx((sum(range(11_000)) - 1) / 10_999)


def test_reading_back_a_range(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    number = record(capture_store, values(12_000, channels=1))
    info = capture_store.session(number)
    archive.archive_session(number)
    start, end = START + 9_990 * STEP, START + 10_010 * STEP
    times, found = archive.read(info.global_name, "c0", start=start, end=end)
    assert_array_equal(found, np.arange(9_990.0, 10_010.0))
    assert (times[0], times.dtype, found.dtype) == (to_us(start), np.int64, np.float64)
    assert len(archive.read(number, "c0", start=START + 12_000 * STEP)[0]) == 0
    with pytest.raises(CaptureError, match="nothing"):
        archive.read(number, "nothing")


def test_readings_one_by_one(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    number = record(capture_store, [b'{"a": 1, "b": "x"}', b'{"b": null}', b'{"a": 2.5}'])
    archive.archive_session(number)
    assert [
        (each.source, each.channel, each.seq, each.at, each.value)
        for each in archive.get_session_readings(number)
    ] == [
        ("main", "a", 0, START, 1.0),
        ("main", "b", 0, START, "x"),
        ("main", "a", 2, START + 2 * STEP, 2.5),
    ]


def test_cleared_data_comes_back(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    numbers = [record(capture_store, values(20)) for _ in range(2)]
    archive.archive_all()
    archive.clear_session_data(numbers[0])
    assert list(archive.get_session_readings(numbers[0])) == []
    assert [row[6] for row in everything(sql_store)["capture_session"]] == ["running", "complete"]
    assert len(archive.read(numbers[1], "c0")[0]) == 20
    result = archive.archive_session(numbers[0])
    assert (result.added, result.repeats, result.state) == (20, 0, "complete")
    assert [state for state, _ in everything(sql_store)["changes"]].count("complete") == 3


def test_clearing_takes_what_was_added_by_hand_for_good(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    number = record(capture_store, values(20))
    archive.archive_all()
    before = list(archive.get_session_readings(number))
    for value in (1.0, 2.0):
        archive.add(Reading(number, "c0", START, value))
        archive.clear_session_data(number)
        assert list(archive.get_session_readings(number)) == []
        archive.archive_session(number)
        assert list(archive.get_session_readings(number)) == before


#: What a local clock showed on the day when it was put back at three, with values, of which one
#: is bad; then what time it was in UTC at the others.
TWICE = (
    [("01:30", 1), ("02:00", 1), ("02:50", "bad"), ("02:10", 1), ("02:40", 1), ("03:20", 1)],
    ["23:30", "00:00", "01:10", "01:40", "02:20"],
)


@pytest.mark.parametrize("decoder", ["json", "csv"])
@pytest.mark.parametrize("cut", range(6))
def test_an_hour_that_a_clock_shows_twice_is_read_the_same_when_archiving_is_resumed(
    archive: Archive, capture_store: SqliteCaptureStore, decoder: str, cut: int
) -> None:
    options: dict[str, Any] = {"time": "at", "tz": "Europe/Berlin"}
    if decoder == "csv":
        options["columns"] = ["at", "v"]
    spec = StreamSpec(decoder=decoder, options=options, channels=(Channel("v"),))
    server = CaptureServer(capture_store, "bench", spec=spec)
    number = server.start_session(started=START)
    for place, (clock, value) in enumerate(TWICE[0]):
        if place == cut > 0:
            server.wait(place - 1)
            archive.archive_session(number)
        at = f"2026-10-25T{clock}"
        row = json.dumps({"at": at, "v": value}) if decoder == "json" else f"{at},{value}"
        server.queue(row.encode(), START + place * STEP)
    server.stop_session()
    assert archive.archive_session(number).quarantined == 1
    times = [each.at.strftime("%H:%M") for each in archive.get_session_readings(number)]
    assert times == TWICE[1]


def test_what_belongs_to_a_group_is_shown_to_its_members_only(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = record(capture_store, values(3), instrument="secret")
    archive.archive_session(number)
    ann = Principal("ann", groups=frozenset({"lab"}))
    ben = Principal("ben")
    assert len(Archive(sql_store, capture_store, principal=ann).get_session_variables(number)) == 3
    with pytest.raises(NoSessionError):
        Archive(sql_store, capture_store, principal=ben).get_session_variables(number)


def test_overlaps_are_half_open(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    def session(start_s: float, end_s: float) -> str:
        server = CaptureServer(capture_store, "bench")
        number = server.start_session(started=START + timedelta(seconds=start_s))
        server.queue(b'{"a": 1}')
        return (
            server.stop_session(ended=START + timedelta(seconds=end_s)).global_name
            if number
            else ""
        )

    one, other, *_ = [session(*each) for each in ((0, 10), (9.5, 20), (20, 30), (25, 25), (40, 41))]
    archive.archive_all()
    (found,) = overlaps(sql_store, "bench")
    assert (found.first, found.second) == (one, other)
    assert found.start == START + timedelta(seconds=9.5)
    assert found.end == START + timedelta(seconds=10)
    assert overlaps(sql_store, "secret") == []


def test_recovered_session_is_archived_as_interrupted(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    live = CaptureServer(capture_store, "bench")
    number = live.start_session()
    writer = capture_store.create_session("bench", "ann", StreamSpec(), started=START)
    writer.close()
    (recovered,) = recover(capture_store)
    assert recovered.number == writer.session.number
    assert archive.archive_session(recovered.number).state == "interrupted"
    assert archive.archive_session(number).state == "running"
    live.stop_session()
    assert recover(capture_store) == []


def test_states_of_a_session_are_appended(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    archive.archive_session(record(capture_store, values(1)))
    assert everything(sql_store)["changes"] == [("running", "keepline"), ("complete", "keepline")]


def test_wide_messages_make_small_blocks(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = record(capture_store, values(5, channels=4_000))
    assert archive.archive_session(number).readings == 20_000
    with sql_store.read() as connection:
        sizes = connection.execute(sa.select(tables.block.c.readings)).scalars().all()
    assert sizes == [8_000, 8_000, 4_000]


def test_messages_with_ever_new_channels_are_quarantined_beyond_a_number(
    archive: Archive, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typed_rows, "MAX_CHANNELS", 50)
    new = [b'{"c%d": 1, "n%d": null}' % (n, n) for n in range(60)]
    number = record(capture_store, [*new, b'{"c0": 2}', b'{"c0": 3, "c99": 1}'])
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.quarantined) == (62, 51, 11)
    assert len(archive.get_session_variables(number)) == 50
    assert_array_equal(archive.read(number, "c0")[1], [1, 2])
    with archive.sql_store.read() as connection:
        rows = list(quarantine.kept(connection))
    assert {row["reason"] for row in rows} == {"more channels than the 50 that a stream can have"}
    again = record(capture_store, [b'{"c": 1}'] * 3)
    assert archive.archive_session(again).quarantined == 0


def test_sparse_messages_make_blocks_of_few_cells(
    archive: Archive, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "MAX_CELLS", 500)
    count, names = 300, 40
    number = record(capture_store, [b'{"c%d": %d}' % (n % names, n) for n in range(count)])
    assert archive.archive_session(number).readings == count
    cells = []
    with archive.sql_store.read() as connection:
        for payload in connection.execute(sa.select(tables.block.c.payload)).scalars():
            block = decode(payload)
            cells.append(len(block.columns) * len(block.times_us))
    assert max(cells) <= 500
    assert len(cells) < 40
    for n in range(names):
        assert_array_equal(archive.read(number, f"c{n}")[1], range(n, count, names))


def test_numbers_too_large_are_quarantined(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    messages = [b'{"a": 1e999}', b'{"a": -1e999}', b'{"a": Infinity}', b'{"a": 1}']
    found = archive.archive_session(record(capture_store, messages))
    assert (found.readings, found.quarantined) == (2, 2)


def test_infinities_are_values(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    number = record(capture_store, [b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e308}'])
    assert archive.archive_session(number).readings == 3
    (variable,) = archive.get_session_variables(number)
    assert (variable.n, variable.min, variable.max) == (3, -np.inf, np.inf)
    assert_array_equal(archive.read(number, "a")[1], [np.inf, -np.inf, 1e308])


def test_device_ticks_do_not_disturb(archive: Archive, capture_store: SqliteCaptureStore) -> None:
    server = CaptureServer(capture_store, "bench")
    number = server.start_session(started=START)
    for index, tick in enumerate((None, 1, 2, None, None)):
        server.queue(b'{"a": %d}' % index, START + index * STEP, tick=tick)
    server.queue(b"bad", START + 5 * STEP, tick=77)
    server.stop_session(ended=START + 9 * STEP)
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.quarantined) == (6, 5, 1)
    assert_array_equal(archive.read(number, "a")[1], np.arange(5.0))
