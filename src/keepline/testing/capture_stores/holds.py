"""Tests of holds: one living writer a stream, and orphans, whose writers died."""

# ruff: noqa: S101 - assert is how a test speaks

from __future__ import annotations

import multiprocessing
import threading
from datetime import timedelta

import pytest

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.errors import StreamLockedError
from keepline.model import StreamSpec
from keepline.testing.capture_stores.fixtures import StoreFixtures
from keepline.testing.capture_stores.made import (
    START,
    StoreFactory,
    chunk_of,
    eventually,
    start,
    start_and_die,
)


class HoldTests(StoreFixtures):
    """Tests of who may write a stream."""

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
        assert eventually(lambda: not store.is_live(info.number))
        closed = store.close_orphan(info.number)
        assert closed is not None
        assert closed.state == "interrupted"
        assert store.last_messages(info.number, "main", 1) == [b"kept"]

    def test_writer_that_lost_its_stream_to_another_stores_nothing(
        self, store: CaptureStore, writer: StreamWriter, store_factory: StoreFactory
    ) -> None:
        number = writer.session.number
        writer.append([chunk_of(0, [b"a"])])
        self.expire(store, writer)
        with store_factory() as elsewhere:
            other = elsewhere.open_writer(number, "main")
            for _ in range(2):
                with pytest.raises(StreamLockedError):
                    writer.append([chunk_of(1, [b"late"])])
                with pytest.raises(StreamLockedError):
                    writer.lose(3, "late")
            assert other.append([chunk_of(1, [b"b"])]) == ["stored"]
            writer.close()  # which takes nothing from the other
            assert store.is_live(number)
            assert other.append([chunk_of(2, [b"c"])]) == ["stored"]
            other.close()
        assert store.last_messages(number, "main", 9) == [b"a", b"b", b"c"]

    def test_writer_that_nobody_followed_goes_on(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        self.expire(store, writer)
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
        assert store.is_live(writer.session.number)

    def test_closing_the_store_leaves_its_writers_alone(self, store_factory: StoreFactory) -> None:
        with store_factory() as store:
            writer = start(store)
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
        with store_factory() as again:
            assert again.is_live(writer.session.number)
            writer.close()
            assert not again.is_live(writer.session.number)
