"""What every capture store has to keep: a suite that its author can run.

Subclass CaptureStoreSuite in a test module, and give it a fixture `store_factory`::

    class TestMyCaptureStore(CaptureStoreSuite):
        @pytest.fixture
        def store_factory(self, tmp_path):
            return functools.partial(MyCaptureStore, tmp_path / "capture")

The factory opens the same store at each call, empty at first, and can be pickled, because
some of the tests open it in other processes too.
"""

# ruff: noqa: S101 - assert is how a test speaks

from __future__ import annotations

import multiprocessing
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    ChunkConflictError,
    NoSessionError,
    SessionClosedError,
    StreamLockedError,
)
from keepline.model import Channel, Chunk, StreamSpec

StoreFactory = Callable[[], CaptureStore]

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
PROCESSES = 4
STARTS = 100


def chunk_of(first_seq: int, messages: Sequence[bytes], *, ticks: bool = False) -> Chunk:
    """Return messages as a chunk; message number n has its time n ms after START."""
    numbers = range(first_seq, first_seq + len(messages))
    start_us = int(START.timestamp()) * 1_000_000 + START.microsecond
    return Chunk.of(
        first_seq,
        list(messages),
        array("q", [start_us + 1000 * number for number in numbers]),
        array("q", [7 * number for number in numbers]) if ticks else None,
        wall_us=start_us,
        monotonic_ns=1,
    )


class CaptureStoreSuite:
    """Tests of the promises that the protocol CaptureStore makes."""

    @pytest.fixture
    def store_factory(self) -> StoreFactory:
        """Return what opens the store under test; a subclass has to give this."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, store_factory: StoreFactory) -> Iterator[CaptureStore]:
        """Open the store under test, and close it at the end."""
        with store_factory() as store:
            yield store

    @pytest.fixture
    def writer(self, store: CaptureStore) -> Iterator[StreamWriter]:
        """Start a session, and close its writer at the end."""
        writer = start(store)
        yield writer
        writer.close()

    def test_id_is_kept_in_the_store(
        self, store: CaptureStore, store_factory: StoreFactory
    ) -> None:
        with store_factory() as again:
            assert again.store_id == store.store_id != ""

    def test_levels_are_in_order(self, store: CaptureStore) -> None:
        known = ["accepted", "stored", "fsynced", "archived"]
        assert [level for level in known if level in store.levels] == list(store.levels)
        assert "accepted" in store.levels

    def test_session_is_kept_as_given(
        self, store: CaptureStore, store_factory: StoreFactory
    ) -> None:
        writer = start(store, origin="sha256:1")
        writer.close()
        with store_factory() as again:
            info = again.session(writer.session.number)
        assert info == writer.session
        assert (info.instrument, info.user, info.state) == ("bench", "ann", "running")
        assert (info.started, info.ended, info.origin) == (START, None, "sha256:1")
        assert info.store_id == store.store_id

    def test_spec_is_kept_as_given(self, store: CaptureStore, writer: StreamWriter) -> None:
        spec = StreamSpec(
            source="second",
            decoder="csv",
            options={"columns": ["t", "a"], "delimiter": ";"},
            step_us=20_000,
            channels=(Channel("a", unit="°C"), Channel("b", "text")),
        )
        store.add_stream(writer.session.number, spec)
        store.add_stream(writer.session.number, spec)
        assert store.streams(writer.session.number) == [StreamSpec(), spec]
        with pytest.raises(CaptureError):
            store.add_stream(writer.session.number, StreamSpec(source="second"))

    def test_numbers_are_unique_among_processes(
        self, store: CaptureStore, store_factory: StoreFactory
    ) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(PROCESSES) as pool:
            lists = pool.map(start_many, [(store_factory, STARTS)] * PROCESSES)
        numbers = [number for each in lists for number in each]
        assert len(set(numbers)) == PROCESSES * STARTS
        assert sorted(numbers) == [info.number for info in store.sessions()]

    def test_numbers_are_unique_among_threads(self, store: CaptureStore) -> None:
        def start_one(_: int) -> int:
            writer = start(store)
            writer.close()
            return writer.session.number

        with ThreadPoolExecutor(8) as pool:
            numbers = list(pool.map(start_one, range(40)))
        assert len(set(numbers)) == 40

    def test_number_is_not_used_again_after_delete(self, store: CaptureStore) -> None:
        writer = start(store)
        end(store, writer)
        store.delete_session(writer.session.number)
        following = start(store)
        following.close()
        assert following.session.number > writer.session.number

    def test_number_is_not_used_again_after_flush(self, store: CaptureStore) -> None:
        writer = start(store)
        end(store, writer)
        store.flush()
        assert store.sessions() == []
        following = start(store)
        following.close()
        assert following.session.number > writer.session.number

    def test_chunks_come_back_in_order_and_equal(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [
            chunk_of(0, [b"a", b"", b"c\0\xff"]),
            chunk_of(3, [b"d"], ticks=True),
            chunk_of(4, [b"e" * 70_000, b"f"]),
        ]
        assert writer.append(chunks[:1]) == ["stored"]
        assert writer.append(chunks[1:]) == ["stored", "stored"]
        number = writer.session.number
        assert list(store.chunks(number, "main")) == chunks
        assert list(store.chunks(number, "main", 3)) == chunks[1:]
        assert list(store.chunks(number, "main", 5)) == chunks[2:]
        assert list(store.chunks(number, "main", 6)) == []
        assert store.message_count(number, "main") == 6

    def test_reading_follows_what_is_stored_meanwhile(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        writer.append([chunk_of(0, [b"a"])])
        reading = store.chunks(writer.session.number, "main")
        assert next(reading).first_seq == 0
        writer.append([chunk_of(1, [b"b"])])
        assert next(reading).first_seq == 1

    def test_last_messages(self, store: CaptureStore, writer: StreamWriter) -> None:
        number = writer.session.number
        assert store.last_messages(number, "main", 2) == []
        writer.append([chunk_of(0, [b"a", b"b"]), chunk_of(2, [b"c"])])
        for _ in range(2):  # looking takes nothing away
            assert store.last_messages(number, "main", 2) == [b"b", b"c"]
        assert store.last_messages(number, "main", 9) == [b"a", b"b", b"c"]
        assert store.last_messages(number, "main", 0) == []

    def test_repeat_is_recognised(self, store: CaptureStore, writer: StreamWriter) -> None:
        chunk = chunk_of(0, [b"a", b"b"])
        assert writer.append([chunk]) == ["stored"]
        assert writer.append([chunk, chunk_of(2, [b"c"])]) == ["repeat", "stored"]
        assert store.message_count(writer.session.number, "main") == 3

    def test_other_content_for_the_same_numbers_is_refused(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunk = chunk_of(0, [b"a", b"b"])
        writer.append([chunk])
        for other in ([b"a", b"X"], [b"a"], [b"a", b"b", b"c"]):
            with pytest.raises(ChunkConflictError):
                writer.append([chunk_of(0, other)])
        assert list(store.chunks(writer.session.number, "main")) == [chunk]

    def test_hole_is_refused_and_nothing_of_the_call_stored(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        with pytest.raises(ChunkConflictError):
            writer.append([chunk_of(0, [b"a"]), chunk_of(2, [b"c"])])
        assert store.message_count(writer.session.number, "main") == 0
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]

    def test_reopened_writer_goes_on_where_it_was(self, store: CaptureStore) -> None:
        writer = start(store)
        writer.append([chunk_of(0, [b"a", b"b"])])
        writer.close()
        writer.close()
        with_more = store.open_writer(writer.session.number, "main")
        assert with_more.next_seq == 2
        with_more.append([chunk_of(2, [b"c"])])
        with_more.close()
        assert store.last_messages(writer.session.number, "main", 9) == [b"a", b"b", b"c"]

    def test_one_writer_a_stream(
        self, store: CaptureStore, writer: StreamWriter, store_factory: StoreFactory
    ) -> None:
        number = writer.session.number
        with pytest.raises(StreamLockedError):
            store.open_writer(number, "main")
        with store_factory() as other, pytest.raises(StreamLockedError):
            other.open_writer(number, "main")
        store.add_stream(number, StreamSpec(source="second"))
        second = store.open_writer(number, "second")
        second.append([chunk_of(0, [b"x"])])
        second.close()
        assert store.message_count(number, "second") == 1

    def test_looking_whether_a_session_lives_disturbs_no_writer(self, store: CaptureStore) -> None:
        first = start(store)
        first.close()
        number = first.session.number
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                store.is_live(number)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for _ in range(20):
                store.open_writer(number, "main").close()
        finally:
            done.set()
            looking.join()

    def test_ended_session_takes_no_more_data(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        writer.append([chunk_of(0, [b"a"])])
        ended = START + timedelta(seconds=1)
        info = store.close_session(number, "complete", ended)
        assert (info.state, info.ended) == ("complete", ended)
        with pytest.raises(SessionClosedError):
            writer.append([chunk_of(1, [b"b"])])
        with pytest.raises(SessionClosedError):
            store.add_stream(number, StreamSpec(source="second"))
        with pytest.raises(SessionClosedError):
            store.close_session(number, "interrupted", ended)
        writer.close()
        with pytest.raises(SessionClosedError):
            store.open_writer(number, "main")
        assert store.session(number).state == "complete"
        assert store.message_count(number, "main") == 1

    def test_session_cannot_end_before_it_started(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        with pytest.raises(CaptureError):
            store.close_session(
                writer.session.number, "complete", START - timedelta(microseconds=1)
            )
        with pytest.raises(CaptureError):
            store.close_session(writer.session.number, "running", START)
        assert store.session(writer.session.number).state == "running"

    def test_origin_is_captured_once(self, store: CaptureStore) -> None:
        running = start(store, origin="sha256:1")
        with pytest.raises(AlreadyCapturedError):
            start(store, origin="sha256:1")
        store.close_session(running.session.number, "complete", START)
        running.close()
        with pytest.raises(AlreadyCapturedError):
            start(store, origin="sha256:1")
        for instrument, origin in (("other", "sha256:1"), ("bench", "sha256:2"), ("bench", None)):
            start(store, instrument=instrument, origin=origin).close()

    def test_origin_of_an_interrupted_session_may_come_again(self, store: CaptureStore) -> None:
        first = start(store, origin="sha256:1")
        end(store, first, state="interrupted")
        start(store, origin="sha256:1").close()

    def test_live_session_is_no_orphan(self, store: CaptureStore, writer: StreamWriter) -> None:
        number = writer.session.number
        store.add_stream(number, StreamSpec(source="second"))  # which nobody writes
        assert store.is_live(number)
        assert store.close_orphan(number) is None
        assert store.session(number).state == "running"
        writer.append([chunk_of(0, [b"a"])])

    def test_orphan_ends_at_its_last_reading(self, store: CaptureStore) -> None:
        writer = start(store)
        number = writer.session.number
        store.add_stream(number, StreamSpec(source="second"))
        second = store.open_writer(number, "second")
        writer.append([chunk_of(0, [b"a", b"b"]), chunk_of(2, [b"c"])])
        second.append([chunk_of(0, [b"x"] * 5)])
        writer.close()
        assert store.close_orphan(number) is None  # the other source's writer lives
        second.close()
        assert not store.is_live(number)
        info = store.close_orphan(number)
        assert info is not None
        assert (info.state, info.ended) == ("interrupted", START + timedelta(milliseconds=4))
        assert store.close_orphan(number) is None

    def test_orphan_without_data_ends_at_its_start(self, store: CaptureStore) -> None:
        writer = start(store)
        writer.close()
        info = store.close_orphan(writer.session.number)
        assert info is not None
        assert (info.state, info.ended) == ("interrupted", START)

    def test_writer_dies_with_its_process(
        self, store: CaptureStore, store_factory: StoreFactory
    ) -> None:
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=start_and_die, args=(store_factory,))
        child.start()
        child.join()
        assert child.exitcode == 9
        (info,) = store.sessions()
        assert not store.is_live(info.number)
        closed = store.close_orphan(info.number)
        assert closed is not None
        assert closed.state == "interrupted"
        assert store.last_messages(info.number, "main", 1) == [b"kept"]

    def test_archived_mark_never_goes_back(self, store: CaptureStore, writer: StreamWriter) -> None:
        number = writer.session.number
        assert store.archived(number, "main") == -1
        store.mark_archived(number, "main", 7)
        store.mark_archived(number, "main", 3)
        assert store.archived(number, "main") == 7

    def test_live_session_cannot_be_deleted(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        with pytest.raises(CaptureError):
            store.delete_session(writer.session.number)
        with pytest.raises(CaptureError):
            store.flush()
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]

    def test_deleted_session_is_gone_with_its_data(self, store: CaptureStore) -> None:
        writer = start(store)
        writer.append([chunk_of(0, [b"a"])])
        end(store, writer)
        number = writer.session.number
        store.delete_session(number)
        assert store.sessions() == []
        assert list(store.chunks(number, "main")) == []
        with pytest.raises(NoSessionError):
            store.delete_session(number)

    def test_unknown_session(self, store: CaptureStore) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.session(99),
            lambda: store.streams(99),
            lambda: store.last_messages(99, "main", 1),
            lambda: store.open_writer(99, "main"),
            lambda: store.close_session(99, "complete", START),
            lambda: store.add_stream(99, StreamSpec()),
            lambda: store.is_live(99),
        ]
        for call in calls:
            with pytest.raises(NoSessionError):
                call()
        assert store.message_count(99, "main") == 0
        assert store.archived(99, "main") == -1


def start(
    store: CaptureStore, *, instrument: str = "bench", origin: str | None = None
) -> StreamWriter:
    """Start a session of one stream with the default declaration."""
    return store.create_session(instrument, "ann", StreamSpec(), started=START, origin=origin)


def end(store: CaptureStore, writer: StreamWriter, *, state: Any = "complete") -> None:
    """End a writer's session."""
    store.close_session(writer.session.number, state, START)
    writer.close()


def start_many(task: tuple[StoreFactory, int]) -> list[int]:
    """Start sessions in a process of its own, and return their numbers."""
    factory, count = task
    numbers = []
    with factory() as store:
        for _ in range(count):
            writer = start(store)
            writer.close()
            numbers.append(writer.session.number)
    return numbers


def start_and_die(factory: StoreFactory) -> None:
    """Record one message, and end without any cleaning up."""
    writer = start(factory())
    writer.append([chunk_of(0, [b"kept"])])
    os._exit(9)
