"""Replaying CSV files: all good rows, each bad one named, and nothing twice."""

import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from keepline.capture import Archive, ReplayResult, SqliteCaptureStore, recover, replay_csv
from keepline.capture.decoders.localtime import LocalClock, zone
from keepline.errors import (
    AlreadyCapturedError,
    DecodeError,
    ReplayError,
    UnknownInstrumentError,
)
from keepline.model import Principal, from_us, to_us
from keepline.store.tables import common
from tests.stores import new_store

HEADER = "time;a;note\n"
Replay = Callable[..., ReplayResult]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    sql_store = new_store(tmp_path / "keepline.db")
    with sql_store.write(Principal.system()) as connection:
        connection.execute(
            sa.insert(common.instrument),
            [{"name": name, "tz": "UTC", "comment": ""} for name in ("bench", "other")],
        )
    with SqliteCaptureStore(tmp_path / "capture.db") as capture_store:
        yield Archive(sql_store, capture_store)
    sql_store.close()


@pytest.fixture
def replay(archive: Archive, tmp_path: Path) -> Replay:
    def replay(content: str | bytes, **options: Any) -> ReplayResult:
        path = tmp_path / "data.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        chosen = {
            "instrument": "bench", "tz": "UTC", "time_column": "time", "delimiter": ";", **options,
        }  # fmt: skip
        return replay_csv(archive.capture_store, archive, path, **chosen)

    return replay


def rows(*seconds: float, value: str = "1") -> str:
    start = datetime(2026, 3, 1, 12)  # noqa: DTZ001 - the local time of a file
    return "".join(f"{start + timedelta(seconds=s)};{value};x\n" for s in seconds)


def bad_lines(archive: Archive) -> list[tuple[int, bytes, str]]:
    table = common.quarantine
    with archive.sql_store.read() as connection:
        found = connection.execute(sa.select(table).order_by(table.c.position))
        return [(row.position, row.raw, row.reason) for row in found]


def test_file_becomes_a_session(replay: Replay, archive: Archive, tmp_path: Path) -> None:
    result = replay(HEADER + rows(0, 1, 2, 5, 4), tz="Europe/Moscow", user="ann")
    info, archived = result.session, result.archived
    assert (info.state, info.user) == ("complete", "ann")
    assert info.started == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert info.ended == datetime(2026, 3, 1, 9, 0, 5, tzinfo=UTC)
    digest = hashlib.sha256((tmp_path / "data.csv").read_bytes()).hexdigest()
    assert info.origin == f"sha256:{digest}"
    assert (result.step_us, result.inferred, result.already) == (1_000_000, True, False)
    assert (archived.messages, archived.readings) == (5, 10)
    assert (archived.gaps, archived.disorder, archived.quarantined) == (1, 1, 0)
    times, values = archive.read(info.number, "a")
    assert_array_equal(times - to_us(info.started), [0, 1_000_000, 2_000_000, 5_000_000, 4_000_000])
    assert_array_equal(values, [1] * 5)
    note = archive.get_session_variables(info.number)[1]
    assert (note.name, note.dtype, note.n) == ("note", "text", 5)


def test_same_file_again_adds_nothing(replay: Replay, archive: Archive) -> None:
    content = HEADER + rows(0, 1) + "broken\n"
    first = replay(content)
    again = replay(content)
    assert (again.already, again.archived.added) == (True, 0)
    assert again.session == first.session
    assert again.archived.readings == first.archived.readings
    assert len(archive.capture_store.sessions()) == 1
    assert len(bad_lines(archive)) == 1
    assert replay(content, instrument="other").already is False
    assert replay(content + rows(2)).already is False


def test_a_lost_capture_store_does_not_double_a_file(
    replay: Replay, archive: Archive, tmp_path: Path
) -> None:
    content = HEADER + rows(0, 1, 2)
    first = replay(content)
    with SqliteCaptureStore(tmp_path / "another.db") as another:
        again = Archive(archive.sql_store, another)
        options = {"instrument": "bench", "tz": "UTC", "time_column": "time", "delimiter": ";"}
        with pytest.raises(AlreadyCapturedError, match=first.session.global_name):
            replay_csv(another, again, tmp_path / "data.csv", **options)
        assert another.sessions() == []


@pytest.mark.parametrize("step_s", [float("inf"), float("nan"), 1e-9, 0, -1, 1e13])
def test_steps_that_are_none_start_no_session(
    replay: Replay, archive: Archive, step_s: float
) -> None:
    with pytest.raises(ReplayError, match="step"):
        replay(HEADER + rows(0, 1), step_s=step_s)
    assert archive.capture_store.sessions() == []


def test_numbers_too_large_are_no_numbers(replay: Replay, archive: Archive) -> None:
    big = rows(1, value="1e999") + rows(2, value="9" * 400) + rows(3, value="-inf")
    found = replay(HEADER + rows(0) + big)
    assert found.archived.quarantined == 2
    _, values = archive.read(found.session.number, "a")
    assert values.tolist() == [1, float("-inf")]


def test_given_step_is_not_inferred(replay: Replay) -> None:
    result = replay(HEADER + rows(0, 1, 2), step_s=0.5)
    assert (result.step_us, result.inferred, result.archived.gaps) == (500_000, False, 2)


def test_broken_rows_are_quarantined_and_their_neighbours_kept(
    replay: Replay, archive: Archive
) -> None:
    good = rows(*range(8)).splitlines()
    lines = [
        good[0].encode(),
        b"2026-03-01 12:00:00;1",
        good[1].encode(),
        b"soon;1;x",
        b"2026-03-01 12:00:01.5;one;x",
        good[2].encode(),
        b"2026-03-01 12:00:02;\xff;x",
        b"2026-03-01 12:00:02;1;\0",
        b"",
        b'2026-03-01 12:00:02;1;"open',
        *(line.encode() for line in good[3:]),
    ]
    result = replay(b"\xef\xbb\xbf" + HEADER.encode() + b"\r\n".join(lines))
    assert result.archived.readings == 16
    assert result.archived.quarantined == 6
    found = bad_lines(archive)
    assert [(line, raw) for line, raw, _ in found] == [
        (3, lines[1]), (5, lines[3]), (6, lines[4]), (8, lines[6]), (9, lines[7]), (11, lines[9]),
    ]  # fmt: skip
    for (_, _, reason), words in zip(
        found,
        ("2 fields", "ISO 8601", "a is not a number", "not UTF-8", "NUL", "not a line of CSV"),
        strict=True,
    ):
        assert words in reason
    assert_array_equal(archive.read(result.session.number, "a")[1], [1] * 8)


def test_column_is_of_texts_when_most_fields_are(replay: Replay, archive: Archive) -> None:
    content = "time;n;t;e\n" + "".join(
        f"2026-03-01 12:00:0{index};{n};{t};\n"
        for index, (n, t) in enumerate([("1", "x"), ("2", "y"), ("?", "3"), ("", "")])
    )
    result = replay(content)
    assert [
        (each.name, each.dtype, each.n)
        for each in archive.get_session_variables(result.session.number)
    ] == [("n", "float64", 2), ("t", "text", 2)]
    assert bad_lines(archive)[0][0] == 4


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", {}, "is empty"),
        (HEADER, {}, "no row"),
        (HEADER + "soon;1;x\n", {}, "line 2: not a time"),
        (HEADER + rows(0), {"tz": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        (HEADER + rows(0), {"tz": "../etc/passwd"}, "no time zone"),
        (HEADER + rows(0), {"tz": ""}, "no time zone"),
        (HEADER + rows(0), {"time_column": "datetime"}, "its header has: time, a, note"),
        (HEADER + rows(0), {"delimiter": ","}, "no column 'time'"),
        (HEADER + rows(0), {"delimiter": ";;"}, "one character"),
        (HEADER + rows(0), {"speed": 0.0}, "speed"),
        (HEADER + rows(0), {"step_s": -1.0}, "step"),
        ("time;a;a\n" + rows(0), {}, "twice 'a'"),
        ("time;;a\n" + rows(0), {}, "without name"),
        (b"time;\xff;a\n", {}, "header"),
    ],
)
def test_unusable_input_is_one_clear_error(
    replay: Replay, archive: Archive, content: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ReplayError) as caught:
        replay(content, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert archive.capture_store.sessions() == []


def test_missing_file_and_instrument(replay: Replay, archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(UnknownInstrumentError, match="nowhere"):
        replay(HEADER + rows(0), instrument="nowhere")
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(ReplayError, match="cannot be read"):
            replay_csv(
                archive.capture_store, archive, path,
                instrument="bench", tz="UTC", time_column="time",
            )  # fmt: skip


def test_speed_is_kept(replay: Replay) -> None:
    began = time.monotonic()
    replay(HEADER + rows(0, 1, 2), speed=10)
    assert 0.2 <= time.monotonic() - began < 2


def test_progress_is_told(replay: Replay) -> None:
    told: list[tuple[int, int]] = []
    replay(HEADER + rows(*range(2_500)), progress=lambda done, total: told.append((done, total)))
    assert told == [(1_000, 2_500), (2_000, 2_500), (2_500, 2_500)]


def test_replay_that_was_stopped_can_be_done_again(replay: Replay, archive: Archive) -> None:
    content = HEADER + rows(*range(3_000))

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(content, progress=stop)
    assert [info.state for info in archive.capture_store.sessions()] == ["interrupted"]
    assert recover(archive.capture_store) == []
    result = replay(content)
    assert (result.already, result.archived.messages) == (False, 3_000)


def test_archiving_of_a_captured_file_is_made_up_for(
    replay: Replay, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = HEADER + rows(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "archive_session", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            replay(content)
    result = replay(content)
    assert (result.already, result.archived.added) == (True, 2)


def test_local_times_when_clocks_change() -> None:
    clock = LocalClock(zone("Europe/Berlin"))
    texts = ["2026-10-25 02:30", "2026-10-25 02:59:59", "2026-10-25T02:00:00", "2026-10-25 03:00"]
    read = [from_us(clock.read(text)).strftime("%H:%M:%S") for text in texts]
    assert read == ["00:30:00", "00:59:59", "01:00:00", "02:00:00"]
    with pytest.raises(DecodeError, match="does not exist in Europe/Berlin"):
        clock.read("2026-03-29 02:30:00")
    assert clock.read("2026-03-29 02:30:00+02:00") == to_us(
        datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    )
    assert from_us(clock.read("2026-03-29T03:00:00Z")).hour == 3
    for text in ("", "noon", "2026-02-30", "0001-01-01T00:00:00+14:00"):
        with pytest.raises(DecodeError):
            clock.read(text)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants them naive
def test_local_times_come_back(moment: datetime) -> None:
    berlin = zone("Europe/Berlin")
    local = moment.astimezone(berlin)
    found = LocalClock(berlin).read(local.replace(tzinfo=None, fold=0).isoformat())
    assert from_us(found) == (moment - timedelta(hours=1) if local.fold else moment)
