"""Faults injected one at a time: each leaves one row with the right range, and nothing else.

The faults of the program that keepline learned from are here by name, too.
"""

import json
import shutil
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal

from keepline.capture import Archive, SqliteCaptureStore, StreamWriter
from keepline.capture.archive.archive import MissingRange
from keepline.capture.archive.blocks import decode
from keepline.errors import (
    CaptureError,
    DecodeError,
    NoSessionError,
    PluginError,
    TrimmedError,
)
from keepline.model import (
    CaptureState,
    Channel,
    Chunk,
    Principal,
    StreamSpec,
    TickClock,
    from_us,
    to_us,
)
from keepline.store import Store, plugins
from keepline.store.tables import capture as tables
from keepline.store.tables import common
from tests.trimming import archive_untrimmed, clear_while_another_trims

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
START_US = to_us(START)
STEP_US = 20_000
TICK = 20  # of a millisecond
SPEC = StreamSpec(step_us=STEP_US, clock=TickClock(bits=32, tick_us=1_000, step=TICK))


@pytest.fixture
def archive(sql_store: Store, capture_store: SqliteCaptureStore) -> Archive:
    return Archive(sql_store, capture_store)


def chunk(
    first: int,
    n: int = 100,
    *,
    shift_us: int = 0,
    late_us: int = 0,
    ticks: Sequence[int] | None = None,
    messages: list[bytes] | None = None,
) -> Chunk:
    """Return messages one step apart, the host's clock being wrong by `shift_us`.

    They came `late_us` later than their numbers say.
    """
    times = [START_US + seq * STEP_US + shift_us + late_us for seq in range(first, first + n)]
    return Chunk.of(
        first,
        messages or [b'{"a": %d}' % seq for seq in range(first, first + n)],
        array("q", times),
        None if ticks is None else array("q", ticks),
        wall_us=times[-1] + 5,
        monotonic_ns=(times[-1] + 5 - shift_us - START_US) * 1_000,
    )


def begin(store: SqliteCaptureStore, spec: StreamSpec = SPEC) -> StreamWriter:
    return store.create_session("bench", "ann", spec, started=START)


def finish(
    store: SqliteCaptureStore, writer: StreamWriter, state: CaptureState = "complete"
) -> int:
    number = writer.session.number
    writer.close()
    store.close_session(number, state, START + timedelta(hours=1))
    return number


def record(store: SqliteCaptureStore, chunks: list[Chunk], spec: StreamSpec = SPEC) -> int:
    """Record chunks as a session, and return its number."""
    writer = begin(store, spec)
    writer.append(chunks)
    return finish(store, writer)


def ticked(first: int, n: int = 100, **options: Any) -> Chunk:
    """Return a chunk with the ticks of a device that was started with the session."""
    return chunk(first, n, ticks=range(first * TICK, (first + n) * TICK, TICK), **options)


def at(seq: int) -> int:
    """Return when a message came that came in time."""
    return START_US + seq * STEP_US


def gap_rows(store: Store) -> list[tuple[Any, ...]]:
    """Return (kind, after, from, until, missing) of every gap."""
    gap = tables.gap.c
    query = sa.select(gap.kind, gap.after_seq, gap.from_us, gap.until_us, gap.missing)
    with store.read() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(gap.after_seq))]


def quarantined(store: Store) -> list[tuple[int, bytes, str]]:
    kept = common.quarantine.c
    with store.read() as connection:
        rows = connection.execute(sa.select(kept.position, kept.raw, kept.reason))
        return [(row.position, row.raw, row.reason) for row in rows]


def stream_counts(store: Store) -> tuple[int, int, int]:
    """Return a stream's next number, and how many messages are lost and quarantined."""
    stream = tables.stream.c
    with store.read() as connection:
        row = connection.execute(sa.select(stream.messages, stream.lost, stream.quarantined)).one()
    return tuple(row)


def execute(store: SqliteCaptureStore, statement: str) -> None:
    """Do to a capture store's file what nobody should."""
    assert store._connection.execute(statement).rowcount == 1


def seqs_read(archive: Archive, number: int) -> list[int]:
    return archive.read(number, "a")[1].astype(int).tolist()


def test_without_a_fault_there_is_no_row(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = record(capture_store, [ticked(first) for first in range(0, 1_000, 100)])
    result = archive.archive_session(number)
    assert (result.messages, result.lost, result.gaps, result.disorder) == (1_000, 0, 0, 0)
    assert (result.quarantined, result.state) == (0, "complete")
    assert gap_rows(sql_store) == []
    assert archive.missing_ranges(number) == []


@pytest.mark.parametrize("first", [0, 300, 900])
def test_dropped_chunk_is_one_gap(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store, first: int
) -> None:
    number = record(capture_store, [ticked(each) for each in range(0, 1_000, 100)])
    execute(capture_store, f"DELETE FROM chunk WHERE first_seq = {first}")
    result = archive.archive_session(number)
    (found,) = gap_rows(sql_store)
    before = at(first - 1) if first else START_US
    after = at(first + 100) if first < 900 else to_us(START + timedelta(hours=1))
    assert found == ("sequence", first - 1, before, after, 100)
    assert archive.missing_ranges(number) == [
        MissingRange("main", first, first + 99, "gone without a trace")
    ]
    assert (result.messages, result.lost, result.gaps, result.state) == (900, 100, 1, "partial")
    assert (result.disorder, result.quarantined) == (0, 0)
    assert seqs_read(archive, number) == [n for n in range(1_000) if not first <= n < first + 100]
    assert archive.archive_session(number).gaps == 1


@pytest.mark.parametrize("first", [0, 300, 900])
def test_damaged_chunk_is_one_gap_and_its_bytes_are_quarantined_once(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store, first: int
) -> None:
    number = record(capture_store, [ticked(each) for each in range(0, 1_000, 100)])
    execute(
        capture_store, f"UPDATE chunk SET raw = zeroblob(length(raw)) WHERE first_seq = {first}"
    )
    result = archive.archive_session(number)
    (found,) = gap_rows(sql_store)
    assert (found[:2], found[4]) == (("damage", first - 1), 100)
    ((position, raw, reason),) = quarantined(sql_store)
    assert (position, set(raw)) == (first, {0})
    assert f"messages {first} to {first + 99}" in reason
    # received = good + quarantined, and next = received + lost
    assert stream_counts(sql_store) == (1_000, 0, 100)
    assert (result.messages, result.quarantined, result.state) == (1_000, 100, "partial")
    assert (result.readings, result.gaps) == (900, 1)
    assert len(seqs_read(archive, number)) == 900
    assert archive.archive_session(number).quarantined == 100
    assert len(quarantined(sql_store)) == 1


def test_damage_after_archiving_is_seen_and_the_archive_keeps_what_it_has(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    sql_store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = record(capture_store, [ticked(0), ticked(100)])
    with monkeypatch.context() as patch:  # the archiver dies before it can say so
        patch.setattr(capture_store, "mark_archived", lambda *_: None)
        archive.archive_session(number)
    execute(capture_store, "UPDATE chunk SET raw = x'00' WHERE first_seq = 100")
    for _ in range(2):
        result = archive.archive_session(number)
        assert (result.messages, result.state, result.gaps) == (200, "complete", 0)
        assert [each[0] for each in quarantined(sql_store)] == [100]


def test_board_reset_is_one_gap(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    pause_us = 3_000_000
    again = [chunk(500, ticks=range(7, 2_007, TICK), late_us=pause_us)]
    later = chunk(600, ticks=range(2_007, 4_007, TICK), late_us=pause_us)
    number = record(capture_store, [*map(ticked, range(0, 500, 100)), *again, later])
    result = archive.archive_session(number)
    assert gap_rows(sql_store) == [("reset", 499, at(499), at(500) + pause_us, None)]
    assert (result.gaps, result.disorder, result.state) == (1, 0, "complete")
    one, other = archive.clock_fits(number)
    assert (one.first_seq, one.last_seq, one.first_tick) == (0, 499, 0)
    assert (other.first_seq, other.last_seq, other.first_tick) == (500, 699, 7)
    assert one.origin_us == START_US
    assert one.tick_us == other.tick_us == 1_000
    assert other.origin_us == at(500) + pause_us
    assert one.max_residual_us < 1


def test_jump_of_the_counter_is_one_gap(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    ticks = [seq * TICK if seq < 130 else (seq + 5) * TICK for seq in range(100, 200)]
    times = [at(seq) if seq < 130 else at(seq + 5) for seq in range(100, 200)]
    jumping = Chunk.of(
        100, [b"{}"] * 100, array("q", times), array("q", ticks),
        wall_us=times[-1], monotonic_ns=(times[-1] - START_US) * 1_000,
    )  # fmt: skip
    number = record(capture_store, [ticked(0), jumping])
    result = archive.archive_session(number)
    assert gap_rows(sql_store) == [("counter", 129, at(129), at(135), 5)]
    # Messages that the device never sent have no number here.
    assert (result.lost, result.state) == (0, "complete")


@pytest.mark.parametrize("shift_us", [-600_000_000, -80_000, 80_000, 600_000_000])
@pytest.mark.parametrize("is_ticked", [True, False])
def test_step_of_the_hosts_clock_is_one_gap(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    sql_store: Store,
    shift_us: int,
    is_ticked: bool,
) -> None:
    make = ticked if is_ticked else chunk
    chunks = [make(each) for each in range(0, 400, 100)]
    chunks += [make(each, shift_us=shift_us) for each in range(400, 900, 100)]
    number = record(capture_store, chunks)
    result = archive.archive_session(number)
    assert gap_rows(sql_store) == [("clock", 399, at(399), at(400) + shift_us, None)]
    assert (result.gaps, result.disorder, result.state) == (1, 0, "complete")


def test_store_restored_from_an_old_copy_is_one_loss(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store, tmp_path: Path
) -> None:
    writer = begin(capture_store)
    writer.append([ticked(0), ticked(100)])
    number = writer.session.number
    archive.archive_session(number)
    writer.append([ticked(200)])
    copy = tmp_path / "copy.db"
    capture_store._connection.execute("VACUUM INTO ?", (str(copy),))
    writer.append([ticked(300), ticked(400)])
    writer.close()
    with SqliteCaptureStore(copy) as restored:
        restored.renew()
        again = restored.open_writer(number, "main")
        again.lose(499, "the store was restored from an old copy")
        again.append([ticked(500)])
        finish(restored, again)
        result = Archive(sql_store, restored).archive_session(number)
    assert gap_rows(sql_store) == [("loss", 299, at(299), at(500), 200)]
    assert archive.missing_ranges(number) == [
        MissingRange("main", 300, 499, "the store was restored from an old copy")
    ]
    assert stream_counts(sql_store) == (600, 200, 0)
    assert (result.messages, result.gaps, result.quarantined) == (400, 1, 0)
    assert result.state == "partial"


def test_store_restored_from_a_copy_older_than_the_archive_loses_nothing(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store, tmp_path: Path
) -> None:
    writer = begin(capture_store)
    writer.append([ticked(0), ticked(100)])
    number = writer.session.number
    copy = tmp_path / "copy.db"
    capture_store._connection.execute("VACUUM INTO ?", (str(copy),))
    writer.append([ticked(200), ticked(300)])
    archive.archive_session(number)
    writer.close()
    with SqliteCaptureStore(copy) as restored:
        again = restored.open_writer(number, "main")
        again.lose(399, "the store was restored from an old copy")
        again.append([ticked(400)])
        finish(restored, again)
        result = Archive(sql_store, restored).archive_session(number)
    assert gap_rows(sql_store) == []
    assert (result.messages, result.quarantined, result.state) == (500, 0, "complete")
    assert seqs_read(archive, number) == list(range(500))


@pytest.mark.parametrize(
    ("state", "archived"), [("complete", "partial"), ("interrupted", "interrupted")]
)
def test_loss_at_the_end_is_a_gap_once_the_session_has_ended(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    sql_store: Store,
    state: CaptureState,
    archived: CaptureState,
) -> None:
    writer = begin(capture_store)
    writer.append([ticked(0)])
    writer.lose(149, "the spool was full")
    assert archive.archive_session(writer.session.number).state == "running"
    assert gap_rows(sql_store) == []
    number = finish(capture_store, writer, state)
    result = archive.archive_session(number)
    end_us = to_us(START + timedelta(hours=1))
    assert gap_rows(sql_store) == [("loss", 99, at(99), end_us, 50)]
    assert (result.lost, result.state) == (50, archived)
    assert capture_store.archived(number, "main") == 149


def test_decoder_that_is_given_packed_messages_quarantines_the_short_one_alone(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    """One short line aborted its whole block once, or was decoded to plausible numbers."""
    spec = StreamSpec(
        decoder="struct", options={"fields": [{"name": "a", "type": "u16"}]}, step_us=STEP_US
    )
    messages = [seq.to_bytes(2, "little") for seq in range(100)]
    messages[40] = b"\1"
    number = record(capture_store, [chunk(0, messages=messages)], spec)
    result = archive.archive_session(number)
    assert (result.messages, result.quarantined, result.readings) == (100, 1, 99)
    assert seqs_read(archive, number) == [seq for seq in range(100) if seq != 40]
    assert [each[:2] for each in quarantined(sql_store)] == [(40, b"\1")]


def test_importing_twice_doubles_nothing(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    """Importing twice doubled the rows once."""
    number = record(capture_store, [ticked(0), ticked(100)])
    archive.archive_session(number)
    archive.archive_session(number)
    Archive(sql_store, capture_store).archive_all()
    assert seqs_read(archive, number) == list(range(200))
    assert [seq for seq, _, _ in archive.raw_messages(number)] == list(range(200))


def test_interrupted_download_goes_on_at_the_first_missing_number(
    archive: Archive, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that broke off was begun again once, or taken for complete."""
    monkeypatch.setattr("keepline.capture.archive.transfer._BATCH_BLOCKS", 1)
    monkeypatch.setattr("keepline.capture.archive.blocking.MAX_READINGS", 130)
    number = record(capture_store, [ticked(first) for first in range(0, 1_000, 100)])
    asked: list[int] = []
    chunks = capture_store.chunks

    def failing(number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        asked.append(from_seq)
        for count, each in enumerate(chunks(number, source, from_seq)):
            if count == 3:
                raise CaptureError("the line is dead")
            yield each

    with monkeypatch.context() as patch:
        patch.setattr(capture_store, "chunks", failing)
        patch.setattr("keepline.capture.archive.transfer._DECODED_TOGETHER", 100)
        with pytest.raises(CaptureError, match="dead"):
            archive.archive_session(number)
        with archive.sql_store.read() as connection:
            states = connection.execute(sa.select(tables.capture_session.c.state)).scalars().all()
        assert states == ["running"]
        have = seqs_read(archive, number)
        assert have == list(range(len(have)))
        assert len(have) > 0
    result = archive.archive_session(number)
    assert result.messages == 1_000
    assert result.added == 1_000 - len(have)
    assert seqs_read(archive, number) == list(range(1_000))


def test_statements_do_not_grow_with_the_lines(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    """A download of 100 lines issued 1,003 statements once."""
    few = record(capture_store, [ticked(0, 10)])
    many = record(capture_store, [ticked(first) for first in range(0, 5_000, 100)])
    archive.archive_session(record(capture_store, [ticked(0, 10)]))
    counts = []
    for number in (few, many):
        statements: list[str] = []

        def count(*args: Any, into: list[str] = statements) -> None:
            into.append(args[2])

        sa.event.listen(sql_store.engine, "before_cursor_execute", count)
        archive.archive_session(number)
        sa.event.remove(sql_store.engine, "before_cursor_execute", count)
        counts.append(len(statements))
    assert counts[1] <= counts[0] + 5
    assert counts[0] < 60


def test_clock_of_32_bits_in_milliseconds_goes_on_after_49_days(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    """It wrapped around once, and the times began anew."""
    size = 1 << 32
    begin_at = size - 150 * TICK

    def wrapping(first: int) -> Chunk:
        return chunk(
            first, ticks=[(begin_at + seq * TICK) % size for seq in range(first, first + 100)]
        )

    writer = begin(capture_store)
    writer.append([wrapping(0)])
    archive.archive_session(writer.session.number)
    writer.append([wrapping(100)])
    archive.archive_session(writer.session.number)  # with the wrap-around within a call
    writer.append([wrapping(200)])
    number = finish(capture_store, writer)
    assert archive.archive_session(number).gaps == 0
    (fit,) = archive.clock_fits(number)
    assert (fit.first_seq, fit.last_seq, fit.n) == (0, 299, 300)
    assert fit.tick_us == pytest.approx(1_000)
    assert fit.max_residual_us < 1
    with sql_store.read() as connection:
        last = connection.execute(sa.select(tables.stream.c.last_tick)).scalar_one()
    assert last == begin_at + 299 * TICK


def test_values_have_the_types_of_their_channels(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    """Values were texts once."""
    fields = [
        {"name": "n", "type": "i64"},
        {"name": "on", "type": "bool"},
        {"name": "x", "type": "f32"},
        {"name": "id", "type": "char[2]"},
    ]
    spec = StreamSpec(
        decoder="struct", options={"fields": fields}, channels=(Channel("x", unit="V"),)
    )
    dtype = np.dtype([("n", "<i8"), ("on", "?"), ("x", "<f4"), ("id", "S2")])
    rows = [(2**62 + seq, seq % 2 == 1, seq / 2, b"ab") for seq in range(100)]
    messages = [np.array(row, dtype).tobytes() for row in rows]
    number = record(capture_store, [chunk(0, messages=messages)], spec)
    archive.archive_session(number)
    found = {each.name: (each.dtype, each.unit) for each in archive.get_session_variables(number)}
    assert found == {
        "n": ("int64", None), "on": ("bool", None), "x": ("float64", "V"), "id": ("text", None),
    }  # fmt: skip
    assert archive.read(number, "n")[1].tolist() == [row[0] for row in rows]
    assert archive.read(number, "on")[1].tolist() == [row[1] for row in rows]
    assert archive.read(number, "x")[1].tolist() == [row[2] for row in rows]
    assert list(archive.read(number, "id")[1]) == ["ab"] * 100
    with sql_store.read() as connection:
        stat = connection.execute(
            sa.select(tables.block_stat).join(tables.channel).where(tables.channel.c.name == "x")
        ).one()
    assert (stat.n, stat.min, stat.max, stat.min_us, stat.max_us) == (
        100, 0, 49.5, at(0), at(99),
    )  # fmt: skip


def test_raw_messages_are_kept_when_the_capture_store_is_trimmed(
    sql_store: Store, capture_store: SqliteCaptureStore
) -> None:
    archive = Archive(sql_store, capture_store, trim=True)
    bad = chunk(100, messages=[b"bad %d" % seq for seq in range(100)])
    number = record(capture_store, [chunk(0), bad, chunk(200)], StreamSpec(step_us=STEP_US))
    result = archive.archive_session(number)
    assert (result.messages, result.quarantined, result.readings) == (300, 100, 200)
    assert capture_store.trimmed(number, "main") == 299
    assert list(capture_store.chunks(number, "main")) == []
    found = list(archive.raw_messages(number))
    assert [seq for seq, _, _ in found] == list(range(300))
    assert [at_us for _, at_us, _ in found] == [at(seq) for seq in range(300)]
    assert (found[7][2], found[107][2]) == (b'{"a": 7}', b"bad 7")
    assert [seq for seq, _, _ in archive.raw_messages(number, from_seq=298)] == [298, 299]
    again = archive.archive_session(number)
    assert (again.added, again.messages, again.state) == (0, 300, "complete")
    with pytest.raises(TrimmedError, match="only the archive"):
        archive.clear_session_data(number)
    assert len(seqs_read(archive, number)) == 200


def test_running_session_is_trimmed_as_it_is_archived(
    sql_store: Store, capture_store: SqliteCaptureStore
) -> None:
    archive = Archive(sql_store, capture_store, trim=True)
    writer = begin(capture_store)
    for first in range(0, 300, 100):
        writer.append([ticked(first)])
        assert archive.archive_session(writer.session.number).added == 100
    number = finish(capture_store, writer)
    result = archive.archive_session(number)
    assert (result.messages, result.gaps, result.state) == (300, 0, "complete")


def test_archive_older_than_the_trimmed_store_says_what_is_missing(
    archive: Archive, capture_store: SqliteCaptureStore
) -> None:
    number = record(capture_store, [ticked(0), ticked(100)])
    capture_store.mark_archived(number, "main", 99)
    capture_store.trim(number, "main", 99)
    result = archive.archive_session(number)
    assert (result.messages, result.lost, result.state) == (100, 100, "partial")
    (missing,) = archive.missing_ranges(number)
    assert (missing.first, missing.last) == (0, 99)
    assert "trimmed" in missing.reason


CSV = StreamSpec(
    decoder="csv",
    options={"columns": ["a", "b"]},
    step_us=STEP_US,
    channels=(Channel("a"), Channel("b", unit="V")),
)


def csv_session(store: SqliteCaptureStore) -> int:
    """Record 300 lines, of which 100 are missing and 10 bad, by a wrong declaration."""
    messages = [b"%d,%d.5" % (seq, seq) for seq in range(300)]
    for seq in range(5, 300, 30):
        messages[seq] = b"bad"
    spec = StreamSpec(decoder="json", step_us=STEP_US // 10)
    chunks = [chunk(first, messages=messages[first : first + 100]) for first in range(0, 300, 100)]
    number = record(store, chunks, spec)
    execute(store, "DELETE FROM chunk WHERE first_seq = 100")
    return number


def test_messages_are_decoded_again_by_another_declaration(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = csv_session(capture_store)
    result = archive.archive_session(number)
    assert (result.readings, result.quarantined, result.gaps) == (0, 200, 199)
    raw = list(archive.raw_messages(number))
    archive.decode_again(number, CSV)
    good = [seq for seq in (*range(100), *range(200, 300)) if seq % 30 != 5]
    assert seqs_read(archive, number) == good
    assert gap_rows(sql_store) == [("sequence", 99, at(99), at(200), 100)]
    bad = [each[0] for each in quarantined(sql_store)]
    assert bad == [seq for seq in (*range(100), *range(200, 300)) if seq % 30 == 5]
    assert list(archive.raw_messages(number)) == raw
    assert stream_counts(sql_store) == (300, 100, len(bad))
    units = {each.name: each.unit for each in archive.get_session_variables(number)}
    assert units == {"a": None, "b": "V"}
    # Again, as it is declared now.
    before = everything(sql_store)
    archive.decode_again(number)
    assert everything(sql_store) == before
    assert archive.archive_session(number).added == 0


def everything(store: Store) -> dict[str, list[Any]]:
    """Return the rows of a session's data without their ids."""
    found: dict[str, list[Any]] = {}
    with store.read() as connection:
        for table in (tables.stream, tables.gap, tables.clock_fit, common.quarantine):
            columns = [each for each in table.c if each.name not in ("id", "created_at")]
            rows = connection.execute(sa.select(*columns)).all()
            found[table.name] = sorted(map(repr, rows))
        block = tables.block.c
        found["block"] = list(
            map(
                tuple,
                connection.execute(
                    sa.select(
                        block.first_seq, block.last_seq, block.crc, block.payload,
                        tables.block_raw.c.payload,
                    )
                    .join(tables.block_raw)
                    .order_by(block.first_seq)
                ),
            )
        )  # fmt: skip
        stat = tables.block_stat.c
        figures = sa.select(stat.n, stat.min, stat.max, stat.total, stat.min_us, stat.max_us)
        found["block_stat"] = sorted(map(repr, connection.execute(figures)))
    return found


def test_what_was_decoded_again_is_as_if_it_had_been_decoded_so_at_once(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    chunks = [ticked(0), ticked(100), *(ticked(each, late_us=900_000) for each in (300, 400))]
    writer = begin(capture_store)
    writer.append(chunks[:2])
    writer.lose(299, "the spool was full")
    writer.append([chunks[2]])
    archive.archive_session(writer.session.number)
    writer.append([chunks[3]])
    number = finish(capture_store, writer)
    archive.archive_session(number)
    archive.decode_again(number, StreamSpec(decoder="csv", options={"columns": ["x"]}))
    assert seqs_of_blocks(sql_store) == [(0, 199), (300, 499)]
    archive.decode_again(number, SPEC)
    again = everything(sql_store)
    archive.clear_session_data(number)
    archive.archive_session(number)
    assert everything(sql_store) == again


def seqs_of_blocks(store: Store) -> list[tuple[int, int]]:
    block = tables.block.c
    with store.read() as connection:
        query = sa.select(block.first_seq, block.last_seq).order_by(block.first_seq)
        return [tuple(row) for row in connection.execute(query)]


@pytest.mark.parametrize("spec", [CSV, StreamSpec(decoder="morse"), StreamSpec(decoder="csv")])
def test_old_data_stays_until_the_new_is_complete(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    sql_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    spec: StreamSpec,
) -> None:
    """Old data was deleted once before the new had arrived."""
    monkeypatch.setattr("keepline.capture.archive.blocking.MAX_READINGS", 40)
    number = csv_session(capture_store)
    archive.archive_session(number)
    archive.decode_again(number, CSV)
    before = everything(sql_store)
    if spec == CSV:
        decoder, calls = plugins.load("decoders", "csv"), []

        class Failing(decoder):  # type: ignore[misc, valid-type]
            def decode(self, messages: Sequence[bytes]) -> Any:
                calls.append(len(messages))
                if len(calls) == 2:
                    raise ZeroDivisionError
                return super().decode(messages)

        monkeypatch.setattr(plugins, "load", lambda *_: Failing)
        monkeypatch.setattr("keepline.capture.archive.transfer._DECODED_TOGETHER", 100)
    with pytest.raises((DecodeError, PluginError)):
        archive.decode_again(number, spec)
    assert everything(sql_store) == before


def test_what_has_no_messages_cannot_be_decoded_again(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    writer = begin(capture_store)
    writer.append([ticked(0)])
    archive.archive_session(writer.session.number)
    with pytest.raises(CaptureError, match="has ended"):
        archive.decode_again(writer.session.number)
    number = finish(capture_store, writer)
    archive.archive_session(number)
    with pytest.raises(CaptureError, match="'other'"):
        archive.decode_again(number, StreamSpec("other"))
    before = seqs_read(archive, number)
    with sql_store.write(Principal.system()) as connection:
        connection.execute(sa.delete(tables.block_raw))
    with pytest.raises(CaptureError, match="no messages"):
        archive.decode_again(number, SPEC)
    with pytest.raises(CaptureError, match="readings only"):
        list(archive.raw_messages(number))
    archive.decode_again(number)
    assert seqs_read(archive, number) == before


def test_deleted_session_is_gone_until_it_is_archived_again(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number, other = (record(capture_store, [ticked(0), ticked(100)]) for _ in range(2))
    execute(capture_store, "DELETE FROM chunk WHERE id = 1")
    archive.archive_all()
    archive.delete_session(number)
    for call in (archive.delete_session, archive.missing_ranges, archive.get_session_variables):
        with pytest.raises(NoSessionError):
            call(number)
    assert seqs_read(archive, other) == list(range(200))
    with sql_store.read() as connection:
        for table in (tables.block_raw, tables.stream, tables.clock_fit, tables.capture_session):
            assert len(connection.execute(sa.select(table)).all()) == 1
        assert connection.execute(sa.select(tables.gap)).all() == []
        change = tables.capture_session_change.c
        reasons = connection.execute(
            sa.select(change.reason).where(change.session_name.endswith(f":{number}"))
        )
        assert list(reasons.scalars())[-1] == "it was deleted here"
    # It is back when the capture store still has it.
    assert archive.archive_session(number).lost == 100


def test_messages_own_times_are_those_that_are_checked_and_kept(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    options = {"time": "t", "time_format": "unix_us"}
    spec = StreamSpec(decoder="json", options=options, step_us=STEP_US)
    own = [to_us(START - timedelta(days=1)) + seq * STEP_US for seq in range(100)]
    own[60:] = [each + 5 * STEP_US for each in own[60:]]
    messages = [json.dumps({"t": each, "a": seq}).encode() for seq, each in enumerate(own)]
    messages[10] = b"bad"
    late = chunk(0, messages=messages)
    number = record(capture_store, [late], spec)
    archive.archive_session(number)
    assert gap_rows(sql_store) == [("time", 59, own[59], own[60], None)]
    times, found = archive.read(number, "a")
    assert_array_equal(times, [each for seq, each in enumerate(own) if seq != 10])
    assert len(found) == 99
    assert next(archive.raw_messages(number))[1] == at(0)
    assert archive.get_session_variables(number)[0].first_at == from_us(own[0])


def emptied(how: str, archive: Archive, number: int, archive_template: Path, folder: Path) -> Store:
    """Make the archive hold nothing of a session any more, and return its SQL store."""
    if how == "cleared":
        archive.clear_session_data(number)
    elif how == "deleted":
        archive.delete_session(number)
    else:
        shutil.copy(archive_template, folder / "other.db")
        return Store(f"sqlite:///{folder / 'other.db'}")
    return archive.sql_store


@pytest.mark.parametrize("how", ["cleared", "deleted", "another"])
def test_archive_that_was_emptied_is_filled_again_before_anything_is_trimmed(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    archive_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    number = record(capture_store, [ticked(first) for first in range(0, 10_000, 100)])
    archive.archive_session(number)
    store = emptied(how, archive, number, archive_template, tmp_path)
    if how != "another":
        assert capture_store.archived(number, "main") == -1
        assert capture_store.trim(number, "main", 9_999) == 0
    monkeypatch.setattr("keepline.capture.archive.transfer._BATCH_BLOCKS", 1)
    monkeypatch.setattr("keepline.capture.archive.blocking.MAX_READINGS", 1_000)
    trim, trimmed = capture_store.trim, list[tuple[int, int]]()

    def watched_trim(number: int, source: str, upto: int) -> int:
        removed = trim(number, source, upto)
        with store.read() as connection:
            held = connection.execute(sa.select(tables.stream.c.messages)).scalar_one()
        trimmed.append((capture_store.trimmed(number, source), held))
        return removed

    monkeypatch.setattr(capture_store, "trim", watched_trim)
    result = Archive(store, capture_store, trim=True).archive_session(number)
    assert (result.messages, result.lost, result.state) == (10_000, 0, "complete")
    assert trimmed == [(first + 999, first + 1_000) for first in range(0, 10_000, 1_000)]
    assert capture_store.archived(number, "main") == 9_999
    store.close()


def test_session_is_not_cleared_while_another_archiver_trims_it(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    sql_store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = record(capture_store, [ticked(0), ticked(100)])
    archive_untrimmed(archive, capture_store, number, monkeypatch)
    clear_while_another_trims(sql_store, capture_store, number, monkeypatch)
    result = archive.archive_session(number)
    assert (result.messages, result.lost, result.state) == (200, 0, "complete")


def test_captured_session_that_is_deleted_meanwhile_is_not_complete(
    archive: Archive, capture_store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = record(capture_store, [ticked(0)])
    streams = capture_store.streams

    with monkeypatch.context() as patch:

        def deleted(number: int) -> list[StreamSpec]:
            patch.undo()
            found = streams(number)
            capture_store.delete_session(number)
            return found

        patch.setattr(capture_store, "streams", deleted)
        with pytest.raises(NoSessionError):
            archive.archive_session(number)
    with archive.sql_store.read() as connection:
        states = connection.execute(sa.select(tables.capture_session.c.state)).scalars().all()
    assert states == ["running"]


@pytest.mark.parametrize("how", ["cleared", "deleted"])
def test_session_that_is_emptied_right_before_its_end_is_not_complete(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    number = record(capture_store, [ticked(0)])
    ask = capture_store.next_seq

    def emptying(number: int, source: str) -> int:
        if capture_store.archived(number, source) == 99:
            (archive.clear_session_data if how == "cleared" else archive.delete_session)(number)
        return ask(number, source)

    with monkeypatch.context() as patch:
        patch.setattr(capture_store, "next_seq", emptying)
        if how == "cleared":
            result = archive.archive_session(number)
            assert (result.messages, result.state) == (0, "running")
        else:
            with pytest.raises(NoSessionError, match="deleted"):
                archive.archive_session(number)
    result = archive.archive_session(number)
    assert (result.messages, result.added, result.state) == (100, 100, "complete")


def test_session_that_is_decoded_again_still_lacks_what_its_list_says(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store
) -> None:
    number = record(capture_store, [ticked(0)])
    archive.archive_session(number)
    archive.update_session_list([[number, START.timestamp(), START.timestamp() + 3_600, 110]])
    assert archive.update_session_availability(number) is False
    assert archive.archive_session(number).state == "partial"
    before = gap_rows(sql_store)
    assert [(row[0], row[4]) for row in before] == [("count", 10)]
    archive.decode_again(number)
    assert gap_rows(sql_store) == before
    assert archive.archive_session(number).state == "partial"


LAG_US = 7_200_000_000  # the device's clock is two hours behind
OWN_TIMES = {"time": "time", "time_format": "unix_us"}


def timed(first: int, *bad: int) -> list[bytes]:
    """Return 100 messages that say when they were sent, but for some that are no JSON."""
    return [
        b"bad" if seq in bad else b'{"a": %d, "time": %d}' % (seq, at(seq) - LAG_US)
        for seq in range(first, first + 100)
    ]


@pytest.mark.parametrize("case", ["damage", "rejected", "rejected at first", "ticks"])
def test_outcome_does_not_depend_on_where_a_call_ends(
    archive: Archive, capture_store: SqliteCaptureStore, sql_store: Store, case: str
) -> None:
    spec = StreamSpec(step_us=STEP_US, options=OWN_TIMES)
    bad: tuple[int, ...] = ()
    ticks: list[Sequence[int] | None] = [None] * 3
    if case == "damage":
        spec = StreamSpec(step_us=STEP_US)
    elif case == "ticks":
        spec = StreamSpec(step_us=STEP_US, options=OWN_TIMES, clock=TickClock(16, 1_000.0, TICK))
        ticks = [[seq * TICK for seq in range(first, first + 100)] for first in (0, 100, 200)]
    else:
        bad = (98, 99, 197, 198, 199) if case == "rejected" else tuple(range(100))
    outcomes = []
    for is_split in (False, True):
        writer = begin(capture_store, spec)
        number = writer.session.number
        for place, first in enumerate((0, 100, 200)):
            messages = timed(first, *bad)
            writer.append([chunk(first, ticks=ticks[place], messages=messages)])
            if case == "damage" and first == 100:
                execute(
                    capture_store,
                    "UPDATE chunk SET raw = x'00' WHERE first_seq = 100"
                    f" AND stream_id = (SELECT max(id) FROM stream WHERE number = {number})",
                )
            if is_split:
                archive.archive_session(number)
        finish(capture_store, writer)
        result = archive.archive_session(number)
        block = tables.block.c
        with sql_store.read() as connection:
            rows = connection.execute(
                sa.select(block.payload, block.codec)
                .where(block.session_id == archive._find(number))
                .order_by(block.first_seq)
            ).all()
        found = [decode(*row, channel="").ticks for row in rows]
        known = [tick for each in found if each is not None for tick in each.tolist()]
        outcomes.append((result.gaps, result.disorder, result.quarantined, known))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][:2] == (1 if case == "damage" else 0, 0)
    if case == "ticks":
        assert outcomes[0][3] == list(range(0, 300 * TICK, TICK))
