"""Recording: numbers, acknowledgement, back-pressure, failures, and the seed's reading methods."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keepline.capture import CaptureServer, SqliteCaptureStore, recording, recover
from keepline.capture.chunking import cut
from keepline.capture.store import Appended
from keepline.capture.stores import sqlite as sqlite_store
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.errors import (
    CaptureError,
    CaptureTimeoutError,
    CaptureWriteError,
    MessageTooLargeError,
    NoSessionError,
    SessionClosedError,
    StreamLockedError,
    TrimmedError,
    UnsupportedLevelError,
)
from keepline.model import Chunk, to_us

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCaptureStore]:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        yield store


@pytest.fixture
def server(store: SqliteCaptureStore) -> Iterator[CaptureServer]:
    with CaptureServer(store, "bench", user="ann", linger_s=0.02) as server:
        yield server


class FaultyDisk:
    """Makes the writers of a store fail, or wait, as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.go = threading.Event()
        self.go.set()
        append = SqliteStreamWriter.append

        def faulty(writer: SqliteStreamWriter, chunks: Sequence[Chunk]) -> list[Appended]:
            self.go.wait()
            if self.full:
                raise CaptureWriteError("the disk is full")
            return append(writer, chunks)

        monkeypatch.setattr(SqliteStreamWriter, "append", faulty)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    return FaultyDisk(monkeypatch)


def test_messages_come_back_as_they_were_queued(server: CaptureServer) -> None:
    number = server.start_session()
    messages = [
        b"a",
        b"",
        b"\0\xff",
        "grüße",
        bytearray(b"b"),
        b"x" * 100_000,
        b"y" * 65,
        b"z" * 66,
    ]
    numbers = [server.queue(message) for message in messages]
    assert numbers == list(range(8))
    expected = [m.encode() if isinstance(m, str) else bytes(m) for m in messages]
    assert server.get_all_from_session(number) == expected
    assert server.stop_session().state == "complete"
    assert server.get_all_from_session(number) == expected


def test_time_and_tick_are_kept(server: CaptureServer, store: SqliteCaptureStore) -> None:
    number = server.start_session()
    before = time.time_ns() // 1000
    server.queue(b"now")
    server.queue(b"then", AT)
    server.queue(b"exactly", at_us=5)
    server.queue(b"ticked", AT, tick=-7)
    server.stop_session()
    first, second = store.chunks(number, "main")
    now, *others = first.times()
    assert before <= now <= time.time_ns() // 1000
    assert others == [to_us(AT), 5]
    assert (first.ticks, list(second.times()), list(second.messages())) == (
        b"", [to_us(AT)], [b"ticked"],
    )  # fmt: skip
    assert int.from_bytes(second.ticks, sys.byteorder, signed=True) == -7


def test_bad_arguments_are_refused_and_nothing_is_stored(server: CaptureServer) -> None:
    number = server.start_session()
    with pytest.raises(ValueError, match="zone"):
        server.queue(b"a", datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose
    with pytest.raises(ValueError, match="64 bits"):
        server.queue(b"a", tick=2**63)
    for at_us in (to_us(AT) * 1_000, -(2**63)):  # nanoseconds, for one
        with pytest.raises(ValueError, match="microseconds"):
            server.queue(b"a", at_us=at_us)
    with pytest.raises(TypeError, match="float"):
        server.queue(b"a", at_us=time.time() * 1e6)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(TypeError, match="float"):
        server.queue(b"a", tick=1.0)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(TypeError, match="int"):
        server.queue(5)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(MessageTooLargeError, match="16777216"):
        server.queue(bytes(16 * 1024 * 1024 + 1))
    assert server.get_all_from_session(number) == []
    assert server.queue(b"good") == 0


def test_largest_message_is_kept(server: CaptureServer) -> None:
    number = server.start_session()
    largest = bytes(16 * 1024 * 1024)
    server.queue(largest)
    assert server.get_latest_from_session(number) == largest


def test_queue_without_session_warns_and_stores_nothing(
    server: CaptureServer, store: SqliteCaptureStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert server.queue(b"early") is None
        number = server.start_session()
        server.queue(b"kept")
        server.stop_session()
        assert server.queue(b"late") is None
    assert len(caplog.records) == 2
    assert "not stored" in caplog.text
    assert server.get_all_from_session(number) == [b"kept"]
    assert len(store.sessions()) == 1


def test_closed_session_takes_nothing_after_a_restart(
    server: CaptureServer, tmp_path: Path
) -> None:
    first = server.start_session()
    server.queue(b"a")
    server.stop_session()
    with (
        SqliteCaptureStore(tmp_path / "capture.db") as again,
        CaptureServer(again, "bench") as restarted,
    ):
        assert restarted.queue(b"b") is None
        second = restarted.start_session()
        restarted.queue(b"c")
        assert restarted.get_all_from_session(first) == [b"a"]
        assert restarted.get_all_from_session(second) == [b"c"]


def test_states_are_what_happened(server: CaptureServer) -> None:
    server.start_session(started=AT)
    assert server.stop_session(ended=AT).state == "empty"
    server.start_session(started=AT)
    server.queue(b"a")
    info = server.stop_session(ended=AT + timedelta(microseconds=1), state="partial")
    assert (info.state, info.started, info.ended) == (
        "partial", AT, AT + timedelta(microseconds=1),
    )  # fmt: skip


def test_leaving_by_an_error_marks_the_session_interrupted(store: SqliteCaptureStore) -> None:
    def record_and_fail() -> None:
        with CaptureServer(store, "bench") as server:
            server.start_session()
            server.queue(b"a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        record_and_fail()
    (info,) = store.sessions()
    assert info.state == "interrupted"
    assert store.last_messages(info.number, "main", 2) == [b"a"]


def test_handles_do_not_touch_each_others_sessions(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "one") as one, CaptureServer(store, "two", "aux") as two:
        first, second = one.start_session(), two.start_session()
        one.queue(b"a")
        two.queue(b"b")
        one.stop_session()
        assert two.queue(b"c") == 1
        with pytest.raises(NoSessionError):
            one.stop_session()
        assert one.get_all_from_session(first) == [b"a"]
        assert two.get_all_from_session(second) == [b"b", b"c"]
        assert store.session(second).state == "running"


def test_a_handle_records_one_session_at_a_time(server: CaptureServer) -> None:
    number = server.start_session()
    with pytest.raises(CaptureError, match=str(number)):
        server.start_session()
    assert server.session is not None
    assert server.session.number == number


def test_numbers_and_order_hold_among_threads(store: SqliteCaptureStore) -> None:
    threads, each = 8, 3_000
    with CaptureServer(store, "bench", linger_s=0.001, max_pending=700) as server:
        number = server.start_session()

        def produce(who: int) -> list[int | None]:
            return [server.queue(b"%d:%d" % (who, index)) for index in range(each)]

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            with ThreadPoolExecutor(threads) as pool:
                numbers = list(pool.map(produce, range(threads)))
        finally:
            sys.setswitchinterval(interval)
        stored = server.get_all_from_session(number)
    assert len(stored) == threads * each
    assert sorted(n for part in numbers for n in part if n is not None) == list(range(len(stored)))
    for who, part in enumerate(numbers):
        assert part == sorted(part)
        assert [stored[n] for n in part if n is not None] == [
            b"%d:%d" % (who, index) for index in range(each)
        ]


def test_stop_while_others_queue_loses_no_acknowledged_message(store: SqliteCaptureStore) -> None:
    for _ in range(10):
        with CaptureServer(store, "bench", linger_s=0.001) as server:
            number = server.start_session()
            taken: list[dict[int, bytes]] = [{} for _ in range(4)]

            def produce(who: int) -> None:
                for index in range(100_000):
                    message = b"%d:%d" % (who, index)
                    seq = server.queue(message)
                    if seq is None:
                        return
                    taken[who][seq] = message  # noqa: B023

            producers = [threading.Thread(target=produce, args=(who,)) for who in range(4)]
            for producer in producers:
                producer.start()
            time.sleep(0.02)
            server.stop_session()
            for producer in producers:
                producer.join()
            stored = server.get_all_from_session(number)
        everything = {seq: message for part in taken for seq, message in part.items()}
        assert everything == dict(enumerate(stored))


def test_many_are_taken_as_one(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, max_pending=5_000) as server:
        assert server.queue_many([b"early"]) is None
        number = server.start_session()
        assert server.queue_many([]) == -1
        assert server.queue_many([b"a", "b"], at_us=5) == 1
        assert server.queue_many([]) == 1

        def produce(who: int) -> list[int | None]:
            return [server.queue_many([b"%d" % who] * 7) for _ in range(300)]

        with ThreadPoolExecutor(5) as pool:
            lone = pool.submit(lambda: [server.queue(b"lone") for _ in range(3_000)])
            lasts = list(pool.map(produce, range(4)))
            alone = lone.result()
        server.queue_many([b"more than max_pending"] * 6_000)
        stored = server.get_all_from_session(number)
        assert next(store.chunks(number, "main")).times()[:2].tolist() == [5, 5]
    assert stored[:2] == [b"a", b"b"]
    assert len(stored) == 2 + 3_000 + 4 * 300 * 7 + 6_000
    for who, part in enumerate(lasts):
        for last in part:
            assert last is not None
            assert stored[last - 6 : last + 1] == [b"%d" % who] * 7
    assert all(seq is not None and stored[seq] == b"lone" for seq in alone)


def test_many_are_refused_as_one(server: CaptureServer) -> None:
    number = server.start_session()
    with pytest.raises(MessageTooLargeError):
        server.queue_many([b"a", bytes(16 * 1024 * 1024 + 1)])
    with pytest.raises(TypeError, match="int"):
        server.queue_many([b"a", 5])  # type: ignore[list-item] # wrong on purpose
    with pytest.raises(ValueError, match="microseconds"):
        server.queue_many([b"a"], at_us=2**62)
    assert server.get_all_from_session(number) == []


def test_room_says_what_does_not_block(store: SqliteCaptureStore, disk: FaultyDisk) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, max_pending=50) as server:
        assert server.room == 50
        server.start_session()
        disk.go.clear()
        server.queue_many([b"a"] * 30)
        assert server.room == 20
        server.queue_many([b"a"] * server.room)
        assert server.room == 0
        disk.go.set()
        server.wait(49, timeout_s=10)
        assert server.room == 50


@pytest.mark.parametrize("idle", [False, True])
def test_request_to_stop_is_seen_and_loses_nothing(
    store: SqliteCaptureStore, tmp_path: Path, idle: bool
) -> None:
    with CaptureServer(store, "bench", linger_s=0.01) as server:
        assert not server.stop_requested
        number = server.start_session()
        server.queue(b"0")
        with SqliteCaptureStore(tmp_path / "capture.db") as other:
            other.request_stop(number)
        n = 1
        deadline = time.monotonic() + 10
        while not server.stop_requested:
            assert time.monotonic() < deadline
            if not idle:
                server.queue(b"%d" % n)
                n += 1
            time.sleep(0.005)
        assert server.stop_session().state == "complete"
        assert not server.stop_requested
        assert server.get_all_from_session(number) == [b"%d" % index for index in range(n)]
        server.start_session()
        time.sleep(1.5)
        assert not server.stop_requested


def test_trimmed_messages_are_told_and_not_left_out(
    server: CaptureServer, store: SqliteCaptureStore
) -> None:
    number = server.start_session()
    for begin in (0, 20):
        server.queue_many([b"%d" % n for n in range(begin, begin + 20)])
        server.wait(begin + 19)
    store.mark_archived(number, "main", 19)
    assert store.trim(number, "main", 19) == 20
    with pytest.raises(TrimmedError, match="up to 19"):
        server.get_all_from_session(number)
    assert server.get_ten_from_session(number) == [b"%d" % n for n in range(30, 40)]
    server.stop_session()
    store.mark_archived(number, "main", 39)
    store.trim(number, "main", 39)
    with pytest.raises(TrimmedError, match="up to 39"):
        server.get_ten_from_session(number)
    with pytest.raises(TrimmedError):
        server.get_latest_from_session(number)
    assert server.build_client_session_list()[0][3] == 40
    empty = server.start_session()
    assert server.get_latest_from_session(empty) is None


def test_wait_returns_once_stored(server: CaptureServer, store: SqliteCaptureStore) -> None:
    number = server.start_session()
    assert server.acknowledged() == -1
    seq = server.queue(b"a")
    assert seq == 0
    server.wait(seq)
    assert store.message_count(number, "main") == 1
    assert server.acknowledged("accepted") == server.acknowledged("stored") == 0
    with pytest.raises(ValueError, match="number 1"):
        server.wait(1)


def test_wait_for_the_archive(server: CaptureServer, store: SqliteCaptureStore) -> None:
    number = server.start_session()
    server.queue(b"a")
    with pytest.raises(CaptureTimeoutError):
        server.wait(0, "archived", timeout_s=0.1)
    store.mark_archived(number, "main", 0)
    server.wait(0, "archived", timeout_s=0.1)
    assert server.acknowledged("archived") == 0


def test_level_that_a_session_does_not_keep_is_refused(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "x") as server:
        server.start_session()
        server.queue(b"a")
        for ask in (lambda: server.wait(0, "fsynced"), lambda: server.acknowledged("fsynced")):
            with pytest.raises(UnsupportedLevelError, match="stored"):
                ask()


def test_level_is_chosen_per_session_and_is_the_default(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "x") as server:
        for level in ("stored", "fsynced"):
            number = server.start_session(level=level)  # type: ignore[arg-type] # both are
            assert store.session(number).level == level
            assert server.queue(b"a") == 0
            server.wait(0, timeout_s=10)
            assert server.acknowledged() == server.acknowledged(level) == 0  # type: ignore[arg-type]
            server.stop_session()
        number = server.start_session(level="archived")
        server.queue(b"a")
        with pytest.raises(CaptureTimeoutError):
            server.wait(0, timeout_s=0.1)
        assert server.acknowledged() == -1
        store.mark_archived(number, "main", 0)
        server.wait(0, timeout_s=10)
        assert server.acknowledged() == 0


def test_lone_message_is_stored_within_linger(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "bench", linger_s=0.05) as server:
        server.start_session()
        for _ in range(5):
            seq = server.queue(b"a")
            assert seq is not None
            server.wait(seq, timeout_s=5)


def test_chunks_close_at_their_limits(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "bench", linger_s=30) as server:
        number = server.start_session()
        for _ in range(1_000):
            server.queue(b"a")
        server.wait(999, timeout_s=10)  # long before linger_s
        for _ in range(4):
            server.queue(b"x" * 20_000)
        server.wait(1_003, timeout_s=10)
        server.queue(b"y" * 20_000)
    chunks = list(store.chunks(number, "main"))
    assert sum(chunk.count for chunk in chunks) == 1_005
    assert all(chunk.count <= 1_000 and len(chunk.raw) <= 64 * 1024 for chunk in chunks)


def test_full_queue_blocks_until_there_is_room(store: SqliteCaptureStore, disk: FaultyDisk) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, max_pending=50) as server:
        number = server.start_session()
        disk.go.clear()
        producer = threading.Thread(target=lambda: [server.queue(b"a") for _ in range(500)])
        producer.start()
        time.sleep(0.2)
        taken = server.acknowledged("accepted") + 1
        assert producer.is_alive()
        assert taken <= 51
        disk.go.set()
        producer.join(10)
        assert len(server.get_all_from_session(number)) == 500


def test_failed_write_surfaces_and_loses_nothing(
    store: SqliteCaptureStore, disk: FaultyDisk
) -> None:
    with CaptureServer(store, "bench", linger_s=0.001) as server:
        number = server.start_session()
        disk.full = True
        server.queue(b"a")
        for call in (
            lambda: server.wait(0),
            server.stop_session,
            lambda: server.get_all_from_session(number),
        ):
            with pytest.raises(CaptureWriteError, match="disk is full"):
                call()
        with pytest.raises(CaptureWriteError, match="1 messages"):
            server.queue(b"refused")
        disk.full = False
        server.wait(0, timeout_s=10)
        assert server.queue(b"b") == 1
        assert server.stop_session().state == "complete"
    assert store.last_messages(number, "main", 9) == [b"a", b"b"]


def test_failure_before_the_write_surfaces_and_loses_nothing(
    store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[Chunk]:
        yield from cut([(b"half", 0)], 0, {})
        raise MemoryError("too little memory")

    with CaptureServer(store, "bench", linger_s=0.001) as server:
        server.start_session()
        with monkeypatch.context() as patch:
            patch.setattr(recording, "cut", broken)
            server.queue(b"a", tick=7)
            for _ in range(2):
                with pytest.raises(CaptureWriteError, match="too little memory"):
                    server.wait(0, timeout_s=10)
        server.wait(0, timeout_s=10)
        assert server.queue(b"b") == 1
        assert server.stop_session().state == "complete"
    assert store.last_messages(1, "main", 9) == [b"a", b"b"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_death_of_the_writing_thread_is_told_to_everyone(
    store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> list[Appended]:
        raise SystemExit

    monkeypatch.setattr(SqliteStreamWriter, "append", dying)
    server = CaptureServer(store, "bench", linger_s=0.001)
    server.start_session()
    server.queue(b"a")
    for call in (
        lambda: server.wait(0, timeout_s=10),
        lambda: server.queue(b"b"),
        server.stop_session,
        server.close,
    ):
        with pytest.raises(CaptureWriteError, match="given up"):
            call()
    assert store.session(1).state == "running"
    assert not store.is_live(1)


def test_handle_given_up_on_a_full_disk_leaves_the_session_to_recovery(
    store: SqliteCaptureStore, disk: FaultyDisk
) -> None:
    server = CaptureServer(store, "bench", linger_s=0.001)
    number = server.start_session()
    server.queue(b"a")
    server.wait(0)
    disk.full = True
    server.queue(b"lost")
    with pytest.raises(CaptureWriteError):
        server.close()
    assert store.session(number).state == "running"
    assert not store.is_live(number)
    assert store.close_orphan(number) is not None
    server.close()


def test_failed_stop_leaves_the_session_live(
    store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def uncommitted(connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    with CaptureServer(store, "bench", linger_s=0.001) as server:
        number = server.start_session()
        server.queue(b"a")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_store, "transaction", uncommitted)
            with pytest.raises(CaptureWriteError, match="disk is full"):
                server.stop_session()
            assert store.is_live(number)
            with pytest.raises(StreamLockedError):
                store.open_writer(number, "main")
        assert recover(store) == []
        assert server.stop_session().state == "complete"

        with monkeypatch.context() as patch:
            orphan = store.create_session("bench", "", server.spec, started=AT)
            orphan.close()
            patch.setattr(sqlite_store, "transaction", uncommitted)
            for end in (store.close_orphan, store.delete_session):
                with pytest.raises(CaptureWriteError, match="disk is full"):
                    end(orphan.session.number)
                assert list(store.path.parent.glob(f"*-locks/{orphan.session.number}.*"))
    assert recover(store)[0].number == orphan.session.number
    assert not list(store.path.parent.glob(f"*-locks/{orphan.session.number}.*"))


@pytest.mark.parametrize("call", ["start_session", "stop_session", "close"])
def test_session_is_started_and_ended_by_one_thread_only(
    store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    server = CaptureServer(store, "bench", linger_s=0.001)
    barrier = threading.Barrier(3)

    def outcome() -> object:
        barrier.wait(10)
        try:
            return getattr(server, call)()
        except (CaptureError, NoSessionError) as error:
            return type(error)

    def slowly(name: str) -> Callable[..., object]:
        method = getattr(store, name)

        def slow(*values: object, **options: object) -> object:
            time.sleep(0.03)
            return method(*values, **options)

        return slow

    if call != "start_session":
        server.start_session()
    for name in ("create_session", "close_session"):
        monkeypatch.setattr(store, name, slowly(name))
    with ThreadPoolExecutor(3) as pool:
        outcomes = [each.result() for each in [pool.submit(outcome) for _ in range(3)]]
    (info,) = store.sessions()
    expected = {
        "start_session": (1, CaptureError, CaptureError),
        "stop_session": (info, NoSessionError, NoSessionError),
        "close": (None, None, None),
    }
    assert sorted(outcomes, key=str) == sorted(expected[call], key=str)
    server.close()
    assert store.session(1).state == ("empty" if call == "stop_session" else "interrupted")
    assert not store.is_live(1)


def test_stopping_session_is_no_orphan_at_any_moment(
    store: SqliteCaptureStore, tmp_path: Path
) -> None:
    done = threading.Event()
    recovered = []

    def look_for_orphans() -> None:
        with SqliteCaptureStore(tmp_path / "capture.db") as other:
            while not done.is_set():
                recovered.extend(recover(other))

    looking = threading.Thread(target=look_for_orphans)
    looking.start()
    try:
        for _ in range(50):
            with CaptureServer(store, "bench", linger_s=0.001) as server:
                server.start_session()
                server.queue(b"a")
                assert server.stop_session().state == "complete"
    finally:
        done.set()
        looking.join()
    assert recovered == []


def test_session_ended_by_somebody_else_surfaces(
    store: SqliteCaptureStore, server: CaptureServer
) -> None:
    number = server.start_session(started=AT)
    store.close_session(number, "interrupted", AT)
    server.queue(b"a")
    with pytest.raises(CaptureWriteError) as caught:
        server.wait(0)
    assert isinstance(caught.value.__cause__, SessionClosedError)
    with pytest.raises(CaptureWriteError):
        server.close()
    assert store.session(number).state == "interrupted"


def test_recorder_that_cannot_end_its_session_says_what_does(
    store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise CaptureWriteError("out of reach")

    def recorded() -> None:
        with CaptureServer(store, "bench") as server:
            server.start_session()
            server.queue_many([b"a", b"b"])

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStreamWriter, "append", away)
        with pytest.raises(CaptureWriteError) as caught:
            recorded()
    assert str(caught.value) == (
        "capture session 1 could not be ended, and 2 messages are lost: out of reach; "
        "`keepline capture recover` ends it when the store is back"
    )
    assert [info.state for info in recover(store)] == ["interrupted"]


def test_latest_is_the_same_for_every_client(server: CaptureServer, tmp_path: Path) -> None:
    number = server.start_session()
    assert server.get_latest_from_session(number) is None
    server.queue(b"a")
    server.queue(b"b")
    with (
        SqliteCaptureStore(tmp_path / "capture.db") as other,
        CaptureServer(other, "bench") as client,
    ):
        for reader in (server, client, server, client):
            assert reader.get_latest_from_session(number) == b"b"


def test_ten_latest(server: CaptureServer) -> None:
    with pytest.raises(NoSessionError):
        server.get_ten_from_session()
    number = server.start_session()
    for index in range(12):
        server.queue(b"%d" % index)
    expected = [b"%d" % index for index in range(2, 12)]
    assert server.get_ten_from_session() == expected
    server.stop_session()
    assert server.get_ten_from_session(number) == server.get_ten_from_session() == expected
    with pytest.raises(NoSessionError):
        server.get_ten_from_session(99)


def test_session_list_keeps_fractions_of_a_second(server: CaptureServer) -> None:
    assert server.available_sessions() == server.build_client_session_list() == []
    first = server.start_session(started=AT)
    server.queue(b"a")
    server.stop_session(ended=AT + timedelta(seconds=1.5))
    second = server.start_session(started=AT)
    server.queue(b"a")
    server.queue(b"b")
    assert server.available_sessions() == [first, second]
    assert server.build_client_session_list() == [
        [first, AT.timestamp(), AT.timestamp() + 1.5, 1],
        [second, AT.timestamp(), None, 2],
    ]


def test_delete_and_flush(server: CaptureServer) -> None:
    first = server.start_session()
    server.queue(b"a")
    with pytest.raises(CaptureError, match="live"):
        server.delete_session(first)
    with pytest.raises(CaptureError, match="live"):
        server.flush()
    assert server.queue(b"b") == 1
    server.stop_session()
    server.delete_session(first)
    with pytest.raises(NoSessionError):
        server.get_all_from_session(first)
    second = server.start_session()
    assert second > first
    server.stop_session()
    server.flush()
    assert server.available_sessions() == []


def test_original_restart_appended_to_the_closed_session(
    store: SqliteCaptureStore,
) -> None:
    """After a stop and a restart, `queue` of the original wrote into the session before."""
    server = CaptureServer(store, "bench", linger_s=0.001)
    first = server.start_session()
    server.queue(b"a")
    server.stop_session()
    again = CaptureServer(store, "bench", linger_s=0.001)
    assert again.queue(b"nowhere") is None
    assert server.queue(b"nowhere") is None
    assert again.get_all_from_session(first) == [b"a"]
    with pytest.raises(SessionClosedError):
        store.open_writer(first, "main")


def test_original_gave_concurrent_starts_the_same_number(store: SqliteCaptureStore) -> None:
    """400 concurrent starts gave 190 numbers; test_capture_starts.py has several processes."""
    servers = [CaptureServer(store, "bench") for _ in range(40)]
    with ThreadPoolExecutor(20) as pool:
        numbers = list(pool.map(lambda server: server.start_session(), servers))
    assert len(set(numbers)) == 40
    for server in servers:
        server.close()


def test_original_gave_latest_to_the_first_client_only(server: CaptureServer) -> None:
    """A second client got an empty string."""
    number = server.start_session()
    server.queue(b"a")
    with ThreadPoolExecutor(4) as pool:
        latest = list(pool.map(server.get_latest_from_session, [number] * 8))
    assert latest == [b"a"] * 8


def test_original_recreated_the_running_session_that_was_deleted(
    server: CaptureServer, store: SqliteCaptureStore
) -> None:
    """Deleting the running session left an orphan of what came in afterwards."""
    number = server.start_session()
    server.queue(b"a")
    with pytest.raises(CaptureError, match="stop it before"):
        server.delete_session(number)
    server.queue(b"b")
    server.stop_session()
    server.delete_session(number)
    assert server.queue(b"c") is None
    assert store.sessions() == []


def test_original_cut_live_time_to_seconds(
    server: CaptureServer, store: SqliteCaptureStore
) -> None:
    """Times of messages were whole seconds."""
    number = server.start_session()
    before = time.time_ns() // 1000
    for _ in range(100):
        server.queue(b"a")
    server.stop_session()
    after = time.time_ns() // 1000
    times = [at_us for chunk in store.chunks(number, "main") for at_us in chunk.times()]
    assert before <= times[0] <= times[-1] <= after
    assert times == sorted(times)
    assert len({at_us % 1_000_000 for at_us in times}) > 1


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database" * 100)
    with pytest.raises(CaptureError, match="not a capture store"):
        SqliteCaptureStore(text)
    assert text.read_text() == "not a database" * 100
    with pytest.raises(CaptureWriteError, match="cannot be used"):
        SqliteCaptureStore(tmp_path / "nowhere" / "capture.db")


def test_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        store._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CaptureError, match="99"):
        SqliteCaptureStore(tmp_path / "capture.db")


def test_recorder_loads_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from keepline.capture import CaptureServer, SqliteCaptureStore, recover\n"
        "heavy = {'numpy', 'sqlalchemy', 'pandas', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_process_that_ends_without_stopping_leaves_what_it_queued(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from keepline.capture import CaptureServer, SqliteCaptureStore\n"
        "server = CaptureServer(SqliteCaptureStore(sys.argv[1]), 'bench', linger_s=50)\n"
        "server.start_session()\n"
        "server.queue(b'last words')\n"
    )
    path = tmp_path / "capture.db"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    with SqliteCaptureStore(path) as store:
        (info,) = recover(store)
        assert info.state == "interrupted"
        assert store.last_messages(info.number, "main", 5) == [b"last words"]
