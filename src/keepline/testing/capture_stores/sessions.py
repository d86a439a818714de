"""Tests of sessions: their numbers, their states, their levels, and the epoch."""

# ruff: noqa: S101 - assert is how a test speaks

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    NoSessionError,
    SessionClosedError,
    UnsupportedLevelError,
)
from keepline.model import LEVELS, Channel, Level, StreamSpec, TickClock
from keepline.testing.capture_stores.fixtures import StoreFixtures
from keepline.testing.capture_stores.made import (
    START,
    StoreFactory,
    chunk_of,
    end,
    start,
    start_many,
)

PROCESSES = 4
STARTS = 250


class SessionTests(StoreFixtures):
    """Tests of sessions."""

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
            clock=TickClock(bits=24, tick_us=0.5, step=3),
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
            lambda: store.request_stop(99),
            lambda: store.next_seq(99, "main"),
            lambda: store.message_count(99, "main"),
        ]
        for call in calls:
            with pytest.raises(NoSessionError):
                call()
        store.set_archived(99, "main", 5)
        assert store.archived(99, "main") == -1
        assert store.trim(99, "main", 5) == 0
        assert store.trimmed(99, "main") == -1
        assert store.losses(99, "main") == []
        assert list(store.chunks(99, "main")) == []
        assert not store.stop_requested(99)

    def test_session_keeps_its_level(self, store: CaptureStore) -> None:
        for level in store.levels:
            writer = start(store, level=level)
            assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
            assert writer.session.level == level
            assert store.session(writer.session.number).level == level
            writer.close()
            again = store.open_writer(writer.session.number, "main")
            assert again.append([chunk_of(1, [b"b"])]) == ["stored"]
            again.close()

    def test_level_that_cannot_be_kept_is_refused(self, store: CaptureStore) -> None:
        refused: list[Any] = [level for level in LEVELS if level not in store.levels]
        for level in [*refused, "somehow"]:
            with pytest.raises(UnsupportedLevelError):
                start(store, level=level)
        assert store.sessions() == []

    def test_level_that_is_not_given_is_the_stores_own(self, store: CaptureStore) -> None:
        writer = start(store)
        own: Level = writer.session.level
        writer.close()
        assert own in store.levels

    def test_stop_can_be_requested(self, store: CaptureStore, store_factory: StoreFactory) -> None:
        writer, other = start(store), start(store)
        number = writer.session.number
        assert not store.stop_requested(number)
        with store_factory() as elsewhere:
            elsewhere.request_stop(number)
            elsewhere.request_stop(number)
        assert store.stop_requested(number)
        assert not store.stop_requested(other.session.number)
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]  # it is only asked to
        end(store, writer)
        with pytest.raises(SessionClosedError):
            store.request_stop(number)
        other.close()

    def test_epoch_stays_until_it_is_renewed(
        self, store: CaptureStore, store_factory: StoreFactory
    ) -> None:
        first = store.epoch
        with store_factory() as elsewhere:
            assert elsewhere.epoch == store.epoch == first != ""
            renewed = elsewhere.renew()
            assert renewed == elsewhere.epoch == store.epoch != first
            assert elsewhere.store_id == store.store_id

    def test_renewed_store_leaves_out_numbers(self, store: CaptureStore) -> None:
        store.renew(after_number=70)
        high = start(store)
        store.renew(after_number=3)
        higher = start(store)
        high.close()
        higher.close()
        assert higher.session.number > high.session.number > 70

    def test_last_number_is_the_highest_given_out(
        self, store: CaptureStore, store_factory: StoreFactory
    ) -> None:
        assert store.last_number == 0
        writer = start(store)
        writer.close()
        with store_factory() as elsewhere:
            assert elsewhere.last_number == store.last_number == writer.session.number
        end(store, writer)
        store.delete_session(writer.session.number)
        assert store.last_number == writer.session.number
        store.renew(after_number=70)
        assert store.last_number >= 70

    def test_writer_goes_on_over_a_new_epoch(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        writer.append([chunk_of(0, [b"a"])])
        store.renew()
        assert writer.append([chunk_of(1, [b"b"])]) == ["stored"]

    def test_many_sessions_are_listed_by_number(self, store: CaptureStore) -> None:
        for _ in range(12):
            start(store).close()
        numbers = [info.number for info in store.sessions()]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) == 12
