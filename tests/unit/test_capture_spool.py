"""The spool: through outages of the store, at its bound, after a restore, for dead recorders."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepline.app import captures, pipeline
from keepline.app.instance import init_instance, open_instance
from keepline.capture import CaptureServer, SqliteCaptureStore, recover
from keepline.capture.chunking import cut
from keepline.capture.draining import drain_spool, living_sessions
from keepline.capture.spool import Spool, WhenFull
from keepline.capture.spooling import WENT_BACK, SpoolingWriter
from keepline.capture.store import Appended
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.config import SpoolSettings
from keepline.errors import (
    CaptureError,
    CaptureTimeoutError,
    CaptureWriteError,
    NoSessionError,
    SessionClosedError,
    SpoolFullError,
)
from keepline.model import Chunk, Loss, StreamSpec

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT_NS = int(AT.timestamp()) * 1_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCaptureStore]:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        yield store


class Outage:
    """Puts a store out of reach of its writers while it is `on`; others work on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.on = False
        append, lose = SqliteStreamWriter.append, SqliteStreamWriter.lose

        def check(writer: SqliteStreamWriter) -> None:
            if self.on and writer._path == path:
                raise CaptureWriteError("out of reach")

        def faulty(writer: SqliteStreamWriter, chunks: Sequence[Chunk]) -> list[Appended]:
            check(writer)
            return append(writer, chunks)

        def faulty_lose(writer: SqliteStreamWriter, last_seq: int, reason: str) -> Loss:
            check(writer)
            return lose(writer, last_seq, reason)

        monkeypatch.setattr(SqliteStreamWriter, "append", faulty)
        monkeypatch.setattr(SqliteStreamWriter, "lose", faulty_lose)


@pytest.fixture
def outage(store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch, store.path)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.db") as spool:
        yield spool


def queued(server: CaptureServer, numbers: range, size: int = 0) -> None:
    for number in numbers:
        assert server.queue(b"%d " % number + b"x" * size) == number


def numbers_of(store: SqliteCaptureStore, session: int) -> list[int]:
    return [
        int(message.split()[0])
        for chunk in store.chunks(session, "main")
        for message in chunk.messages()
    ]


@contextmanager
def recording(
    store: SqliteCaptureStore,
    path: Path,
    *,
    max_mb: float,
    when_full: WhenFull,
    max_pending: int = 65_536,
) -> Iterator[tuple[Spool, CaptureServer, int]]:
    """A spool of a size, a recorder that has it, and the session that this has just started."""
    with (
        Spool(path, max_mb=max_mb, when_full=when_full) as spool,
        CaptureServer(
            store, "bench", linger_s=0.001, max_pending=max_pending, spool=spool
        ) as server,
    ):
        yield spool, server, server.start_session()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_outage_is_bridged_in_order(
    store: SqliteCaptureStore, spool: Spool, outage: Outage
) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        queued(server, range(10))
        server.wait(9)
        for begin in (10, 3_010):
            outage.on = True
            queued(server, range(begin, begin + 2_000))
            server.wait(begin + 1_999, timeout_s=20)
            assert server.acknowledged() == begin + 1_999
            assert store.next_seq(number, "main") == begin
            (kept,) = spool.store.sessions()
            assert kept.origin == f"spool:{store.session(number).global_name}/main"
            outage.on = False
            queued(server, range(begin + 2_000, begin + 3_000))
            # Also without another message.
            eventually(lambda begin=begin: store.next_seq(number, "main") == begin + 3_000)
            eventually(lambda: spool.store.sessions() == [])
        assert server.stop_session().state == "complete"
    assert numbers_of(store, number) == list(range(6_010))
    assert store.losses(number, "main") == []


def test_stop_brings_what_is_spooled(
    store: SqliteCaptureStore, spool: Spool, outage: Outage
) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        outage.on = True
        queued(server, range(5))
        with pytest.raises(CaptureWriteError, match="out of reach"):
            server.stop_session()
        assert store.session(number).state == "running"
        outage.on = False
        assert server.stop_session().state == "complete"
    assert numbers_of(store, number) == list(range(5))
    assert spool.store.sessions() == []


def test_drop_of_a_full_spool_is_one_loss(
    store: SqliteCaptureStore, tmp_path: Path, outage: Outage
) -> None:
    aside = tmp_path / "spool.db"
    with recording(store, aside, max_mb=0.5, when_full="drop") as (spool, server, number):
        queued(server, range(10))
        server.wait(9)
        outage.on = True
        queued(server, range(10, 2_000), size=1_000)
        server.wait(10, timeout_s=20)
        with pytest.raises(CaptureWriteError, match="message 1999 is lost: dropped"):
            server.wait(1_999, timeout_s=20)
        kept = server.acknowledged()
        assert 10 < kept < 1_999
        assert spool.used_bytes() <= spool.max_bytes + 64 * 1024
        outage.on = False
        time.sleep(0.3)  # for the next try to be due
        queued(server, range(2_000, 2_010))
        server.wait(2_009, timeout_s=20)
        assert server.acknowledged() == 2_009
        assert server.stop_session().state == "partial"
        assert spool.store.sessions() == []
    (loss,) = store.losses(number, "main")
    assert (loss.first_seq, loss.last_seq) == (kept + 1, 1_999)
    assert "0.5 MiB" in loss.reason
    expected = [*range(kept + 1), *range(2_000, 2_010)]
    assert numbers_of(store, number) == expected


def test_drop_is_known_after_the_recorder_gave_up(
    store: SqliteCaptureStore, tmp_path: Path, outage: Outage
) -> None:
    with Spool(tmp_path / "spool.db", max_mb=0.5, when_full="drop") as spool:
        server = CaptureServer(store, "bench", linger_s=0.001, spool=spool)
        number = server.start_session()
        outage.on = True
        queued(server, range(2_000), size=1_000)
        with pytest.raises(CaptureWriteError):
            server.close()
        outage.on = False
        (drained,) = drain_spool(spool, store)
        assert drained.session.number == number
        (loss,) = store.losses(number, "main")
        assert loss.last_seq == 1_999
        assert numbers_of(store, number) == list(range(loss.first_seq))
        assert drained.messages == loss.first_seq


def test_full_spool_raises_and_keeps_what_was_taken(
    store: SqliteCaptureStore, tmp_path: Path, outage: Outage
) -> None:
    aside = tmp_path / "spool.db"
    with recording(store, aside, max_mb=0.25, when_full="raise") as (_, server, number):
        outage.on = True
        taken = 0

        def fill() -> None:
            nonlocal taken
            for taken in range(100_000):
                server.queue(b"%d " % taken + b"x" * 1_000)

        with pytest.raises(SpoolFullError, match=r" has reached 0\.25 MiB$"):
            fill()
        with pytest.raises(SpoolFullError):
            server.queue(b"refused")
        outage.on = False
        eventually(lambda: store.next_seq(number, "main") == taken)
        queued(server, range(taken, taken + 3))
        assert server.stop_session().state == "complete"
    assert numbers_of(store, number) == list(range(taken + 3))
    assert store.losses(number, "main") == []


def test_full_spool_blocks_until_the_store_is_back(
    store: SqliteCaptureStore, tmp_path: Path, outage: Outage
) -> None:
    aside = tmp_path / "spool.db"
    bounded = recording(store, aside, max_mb=0.25, when_full="block", max_pending=100)
    with bounded as (_, server, number):
        outage.on = True
        producer = threading.Thread(target=queued, args=(server, range(1_000), 1_000))
        producer.start()
        eventually(lambda: server.room == 0)
        time.sleep(0.5)
        assert producer.is_alive()
        with pytest.raises(SpoolFullError):
            server.get_all_from_session(number)  # what only looks does not block
        outage.on = False
        producer.join(20)
        assert not producer.is_alive()
        assert server.stop_session().state == "complete"
    assert numbers_of(store, number) == list(range(1_000))
    assert store.losses(number, "main") == []


def restored(store: SqliteCaptureStore, copy: Path) -> None:
    """Put an old copy back in place, as `sqlite3 capture.db '.restore copy'` does."""
    with closing(sqlite3.connect(copy)) as old, closing(sqlite3.connect(store.path)) as new:
        old.backup(new)


@pytest.mark.parametrize("spooled", [False, True])
def test_store_restored_from_an_old_copy_is_one_loss(
    store: SqliteCaptureStore, spool: Spool, tmp_path: Path, outage: Outage, spooled: bool
) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool if spooled else None) as server:
        number = server.start_session()
        queued(server, range(100))
        server.wait(99)
        with (
            closing(sqlite3.connect(store.path)) as live,
            closing(sqlite3.connect(tmp_path / "old.db")) as copy,
        ):
            live.backup(copy)
        queued(server, range(100, 150))
        server.wait(149)
        if spooled:
            outage.on = True
            queued(server, range(150, 170))
            server.wait(169, timeout_s=20)
        restored(store, tmp_path / "old.db")
        outage.on = False
        queued(server, range(170 if spooled else 150, 200))
        server.wait(199, timeout_s=20)
        info = server.stop_session()
    assert info.state == "partial"
    (loss,) = store.losses(number, "main")
    assert (loss.first_seq, loss.last_seq, loss.reason) == (100, 149, WENT_BACK)
    assert numbers_of(store, number) == [*range(100), *range(150, 200)]


def test_unclear_failure_stores_nothing_twice(
    store: SqliteCaptureStore, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SqliteStreamWriter.append
    failed: list[int] = []

    def unclear(writer: SqliteStreamWriter, chunks: Sequence[Chunk]) -> list[Appended]:
        outcome = append(writer, chunks)
        if writer._path == store.path and len(failed) < 3:
            failed.append(chunks[0].first_seq)
            raise CaptureWriteError("the answer was lost")
        return outcome

    monkeypatch.setattr(SqliteStreamWriter, "append", unclear)
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        queued(server, range(50))
        server.wait(49, timeout_s=20)
        eventually(lambda: spool.store.sessions() == [])
        assert server.stop_session().state == "complete"
    assert len(failed) == 3
    assert numbers_of(store, number) == list(range(50))


def test_session_ended_by_somebody_else_keeps_the_rest_for_later(
    store: SqliteCaptureStore, spool: Spool
) -> None:
    server = CaptureServer(store, "bench", linger_s=0.001, spool=spool)
    number = server.start_session()
    queued(server, range(5))
    server.wait(4)
    store.close_session(number, "interrupted", datetime.now(UTC))
    queued(server, range(5, 9))
    with pytest.raises(CaptureWriteError) as caught:
        server.wait(8, timeout_s=20)
    assert isinstance(caught.value.__cause__, SessionClosedError)
    with pytest.raises(CaptureWriteError):
        server.close()
    (late,) = drain_spool(spool, store)
    assert (late.late, late.messages, late.session.state) == (True, 4, "interrupted")
    assert late.session.origin == f"late:{store.session(number).global_name}/main:5"
    assert numbers_of(store, late.session.number) == [5, 6, 7, 8]
    assert numbers_of(store, number) == [0, 1, 2, 3, 4]


def left_behind(store: SqliteCaptureStore, spool: Spool, outage: Outage, messages: int) -> int:
    """Leave a session of which only 10 messages are in the store, and the rest is spooled."""
    writer = store.create_session("bench", "ann", StreamSpec(), started=AT)
    spooling = SpoolingWriter(store, writer, StreamSpec(), spool)
    entries = [(b"%d " % number, AT_NS + number * 1_000_000) for number in range(messages)]
    spooling.append(list(cut(entries[:10], 0, {})))
    outage.on = True
    for begin in range(10, messages, 20):
        spooling.append(list(cut(entries[begin : begin + 20], begin, {})))
    outage.on = False
    spooling.close()
    return writer.session.number


def test_what_a_dead_recorder_left_goes_into_its_session(
    store: SqliteCaptureStore, spool: Spool, outage: Outage
) -> None:
    number = left_behind(store, spool, outage, 2_010)
    (drained,) = drain_spool(spool, store)
    assert (drained.session.number, drained.messages, drained.late) == (number, 2_000, False)
    assert drain_spool(spool, store) == spool.store.sessions() == []
    assert numbers_of(store, number) == list(range(2_010))
    (info,) = recover(store)
    assert (info.number, info.state) == (number, "interrupted")


def test_living_recorder_is_left_alone(
    store: SqliteCaptureStore, spool: Spool, outage: Outage
) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        outage.on = True
        queued(server, range(5))
        server.wait(4, timeout_s=20)
        outage.on = False
        assert drain_spool(spool, store) == []
        server.stop_session()
    assert numbers_of(store, number) == list(range(5))


def expired(store: SqliteCaptureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every session of `store` for one without a living writer, as after a lease ran out."""

    held = SqliteCaptureStore._all_locks

    def locks(each: SqliteCaptureStore, number: int) -> AbstractContextManager[bool]:
        return nullcontext(True) if each.path == store.path else held(each, number)

    monkeypatch.setattr(SqliteCaptureStore, "_all_locks", locks)


def test_session_of_a_recorder_that_spools_is_not_ended_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with init_instance(tmp_path / "i") as instance:
        settings = instance.folder / "keepline.toml"
        settings.write_text(settings.read_text() + '\n[capture.spool]\npath = "spool.db"\n')
    with open_instance(tmp_path / "i") as instance:
        store, spool = instance.capture_store, instance.spool
        assert isinstance(store, SqliteCaptureStore)
        outage = Outage(monkeypatch, store.path)
        with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
            number = server.start_session()
            outage.on = True
            queued(server, range(5))
            server.wait(4, timeout_s=20)
            with monkeypatch.context() as patch:
                expired(store, patch)
                assert pipeline.recover(instance) == []
                with pytest.raises(CaptureTimeoutError):
                    captures.stop(instance, number, timeout_s=0.2)
                with pytest.raises(CaptureError, match="live: its recorder is spooling"):
                    captures.delete(instance, number, force=True)
                assert store.session(number).state == "running"
            outage.on = False
            eventually(lambda: server.stop_requested)
            assert server.stop_session().state == "complete"
        assert numbers_of(store, number) == list(range(5))
        captures.delete(instance, number, force=True)


def test_only_a_living_recorder_is_spared(
    store: SqliteCaptureStore, spool: Spool, outage: Outage, tmp_path: Path
) -> None:
    dead = left_behind(store, spool, outage, 30)
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        outage.on = True
        queued(server, range(5))
        server.wait(4, timeout_s=20)
        outage.on = False
        assert living_sessions(spool, store) == {number}
        with SqliteCaptureStore(tmp_path / "other.db") as other:
            assert living_sessions(spool, other) == frozenset()
        assert [info.number for info in recover(store, spared={number})] == [dead]
        assert server.stop_session().state == "complete"
    assert living_sessions(spool, store) == frozenset()


@pytest.mark.parametrize("fails", ["drain", "close_session"])
def test_recording_goes_on_after_a_stop_that_failed(
    store: SqliteCaptureStore,
    spool: Spool,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    def refused(*_: object) -> None:
        raise CaptureWriteError("out of reach")

    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        for begin in (0, 10):
            outage.on = fails == "drain"
            queued(server, range(begin, begin + 5))
            with monkeypatch.context() as patch:
                if fails == "close_session":
                    patch.setattr(SqliteCaptureStore, "close_session", refused)
                with pytest.raises(CaptureWriteError, match="out of reach"):
                    server.stop_session()
            queued(server, range(begin + 5, begin + 10))
            server.wait(begin + 9, timeout_s=20)
            outage.on = False
            eventually(lambda begin=begin: store.next_seq(number, "main") == begin + 10)
        store.request_stop(number)
        eventually(lambda: server.stop_requested)
        assert server.stop_session().state == "complete"
    assert numbers_of(store, number) == list(range(20))
    assert spool.store.sessions() == []


def test_spooled_stream_is_removed_before_anybody_can_take_it(
    store: SqliteCaptureStore, spool: Spool, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each moment that a writer lets its stream go, another takes it as `drain_spool` does."""
    close = SqliteStreamWriter.close
    taken: list[SqliteStreamWriter] = []

    def closing_and_taken(writer: SqliteStreamWriter) -> None:
        close(writer)
        if writer._path == spool.store.path:
            with suppress(NoSessionError):
                taken.append(spool.store.open_writer(writer.session.number, writer.source))

    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        outage.on = True
        queued(server, range(5))
        server.wait(4, timeout_s=20)
        outage.on = False
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStreamWriter, "close", closing_and_taken)
            eventually(lambda: store.next_seq(number, "main") == 5)
            eventually(lambda: not server._recording.writer.spooling)  # type: ignore[union-attr]
        assert taken == spool.store.sessions() == []
        queued(server, range(5, 8))
        server.wait(7)
        left_behind(store, spool, outage, 50)
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStreamWriter, "close", closing_and_taken)
            assert len(drain_spool(spool, store)) == 1
        assert taken == spool.store.sessions() == []


def test_recorder_waits_for_a_stream_that_is_just_drained(
    store: SqliteCaptureStore, spool: Spool
) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=AT)
    spool.stream(writer.session, StreamSpec(), 0).close()  # could not be removed
    (left,) = spool.store.sessions()
    drainer = spool.store.open_writer(left.number, "main")
    release = threading.Timer(1.0, spool.store.delete_held, [drainer])
    release.start()
    stream = spool.stream(writer.session, StreamSpec(), 7)
    release.join()
    assert stream.next_seq == 7
    assert [info.number for info in spool.store.sessions()] == [left.number + 1]
    stream.close()
    writer.close()


def test_spool_of_another_store_is_left_alone(
    store: SqliteCaptureStore, spool: Spool, outage: Outage, tmp_path: Path
) -> None:
    left_behind(store, spool, outage, 50)
    with SqliteCaptureStore(tmp_path / "other.db") as other:
        assert drain_spool(spool, other) == []
        assert other.sessions() == []
    assert len(drain_spool(spool, store)) == 1


#: Drains a spool in small steps, until it is killed.
DRAINER = """
import sys, time
from keepline.capture import SqliteCaptureStore, draining
from keepline.capture.spool import Spool, batches

draining.batches = lambda items: batches(items, max_chunks=2)
store, spool = SqliteCaptureStore(sys.argv[1]), Spool(sys.argv[2])
print("ready", flush=True)
draining.drain_spool(spool, store)
print("done", flush=True)
"""


@pytest.mark.parametrize("ended", [False, True])
def test_killed_drainer_is_followed_by_another(
    store: SqliteCaptureStore, spool: Spool, outage: Outage, ended: bool
) -> None:
    number = left_behind(store, spool, outage, 8_010)
    if ended:
        recover(store)
    for kill in range(1, 200):
        with subprocess.Popen(
            [sys.executable, "-c", DRAINER, str(store.path), str(spool.store.path)],
            stdout=subprocess.PIPE,
            text=True,
        ) as drainer:
            assert drainer.stdout is not None
            assert drainer.stdout.readline() == "ready\n"
            time.sleep(0.004 * kill)
            drainer.kill()
            if drainer.stdout.read() == "done\n":
                break
        if kill % 3 == 0:
            recover(store)  # ends what is there half-way
    drain_spool(spool, store)
    assert spool.store.sessions() == []
    recover(store)
    found: list[int] = []
    for info in store.sessions():
        assert info.state == "interrupted"
        found += numbers_of(store, info.number)
        if info.number != number:
            assert info.origin is not None
            assert info.origin.startswith(f"late:{store.session(number).global_name}/main:")
    assert found == list(range(8_010))
    assert kill > 1


@pytest.mark.parametrize(
    ("max_mb", "shown"), [(0.05, "0.05"), (1024, "1024"), (2.0, "2"), (5_000_000, "5000000")]
)
def test_size_of_a_full_spool_is_told_as_it_was_set(
    store: SqliteCaptureStore, tmp_path: Path, max_mb: float, shown: str
) -> None:
    writer = store.create_session("bench", "", StreamSpec(), started=AT)
    (chunk,) = cut([(b"1", AT_NS)], 0, {})
    with Spool(tmp_path / "spool.db", max_mb=max_mb) as spool:
        spool.max_bytes = 0
        with (
            closing(spool.stream(writer.session, StreamSpec(), 0)) as stream,
            pytest.raises(SpoolFullError) as caught,
        ):
            stream.append(chunk)
    assert str(caught.value).endswith(f" has reached {shown} MiB")
    writer.close()


def test_spool_is_made_from_settings(tmp_path: Path) -> None:
    settings = SpoolSettings(path="aside.db", max_mb=2, when_full="drop")
    with Spool.configured(settings, folder=tmp_path) as spool:
        assert (spool.max_bytes, spool.when_full) == (2 * 1024 * 1024, "drop")
        assert spool.store.path == tmp_path / "aside.db"


def test_a_spool_whose_size_cannot_be_told_is_an_error_of_a_store(spool: Spool) -> None:
    spool._sizes.set_progress_handler(lambda: 1, 1)  # every statement is interrupted
    with pytest.raises(CaptureWriteError, match=r"spool\.db cannot be used: interrupted"):
        spool.used_bytes()


def spoilt(spool: Spool, first_seq: int) -> None:
    """Change a byte of a spooled chunk, as a bad disk does."""
    with closing(sqlite3.connect(spool.store.path, isolation_level=None)) as connection:
        changed = connection.execute(
            "UPDATE chunk SET raw = x'58' WHERE first_seq = ?", (first_seq,)
        )
        assert changed.rowcount == 1


def spooled_one_by_one(server: CaptureServer, numbers: range) -> None:
    for number in numbers:
        queued(server, range(number, number + 1))
        server.wait(number)


def test_a_chunk_that_is_damaged_in_the_spool_is_one_loss(
    store: SqliteCaptureStore, spool: Spool, outage: Outage
) -> None:
    with CaptureServer(store, "bench", linger_s=0.001, spool=spool) as server:
        number = server.start_session()
        outage.on = True
        spooled_one_by_one(server, range(5))
        spoilt(spool, 2)
        outage.on = False
        eventually(lambda: store.next_seq(number, "main") == 5)
        eventually(lambda: spool.store.sessions() == [])
        with pytest.raises(CaptureWriteError, match="message 2 is lost: damaged in the spool"):
            server.wait(2)
        server.wait(4)
        assert server.stop_session().state == "partial"
    assert numbers_of(store, number) == [0, 1, 3, 4]
    assert [(each.first_seq, each.last_seq) for each in store.losses(number, "main")] == [(2, 2)]


def test_what_a_dead_recorder_left_is_brought_over_around_a_damaged_chunk(
    store: SqliteCaptureStore, spool: Spool, outage: Outage
) -> None:
    server = CaptureServer(store, "bench", linger_s=0.001, spool=spool)
    number = server.start_session()
    outage.on = True
    spooled_one_by_one(server, range(5))
    with pytest.raises(CaptureWriteError):
        server.close()
    spoilt(spool, 0)
    outage.on = False
    (drained,) = drain_spool(spool, store)
    assert (drained.session.number, drained.messages) == (number, 4)
    assert numbers_of(store, number) == [1, 2, 3, 4]
    assert [(each.first_seq, each.last_seq) for each in store.losses(number, "main")] == [(0, 0)]
    assert spool.store.sessions() == []
