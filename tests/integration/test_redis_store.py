"""A Redis or Valkey capture store through kills, restarts, old copies, and half-done work.

The servers and producers here are killed as processes; the machine's power is not cut.
"""

import functools
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

from keepline.capture.recovery import recover
from keepline.capture.store import StreamWriter
from keepline.capture.stores.redis import RedisCaptureStore
from keepline.capture.stores.redis_connection import RedisConnection
from keepline.capture.stores.redis_register import RedisRegister
from keepline.capture.stores.redis_stream import RedisStream
from keepline.errors import (
    AlreadyCapturedError,
    CaptureWriteError,
    ChunkConflictError,
    NoSessionError,
    SessionClosedError,
)
from keepline.model import Level, StreamSpec
from keepline.testing.capture_stores import START, chunk_of, end, start
from keepline.testing.capture_stores.made import eventually
from tests.conftest import started
from tests.servers import RedisServer, redis_server, valkey_server

SERVERS = [pytest.param(valkey_server, id="valkey"), pytest.param(redis_server, id="redis")]
Start = Callable[..., AbstractContextManager[RedisServer]]
KILLS = 20


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of one's own that may be killed."""
    with started(request.param) as it:
        yield it


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisCaptureStore]:
    """A store on that server."""
    with RedisCaptureStore(server.url, lease_s=1.0) as store:
        yield store


def started_and_left(store: RedisCaptureStore) -> int:
    """Return the number of a session that nobody records."""
    writer = start(store)
    writer.close()
    return writer.session.number


def kept_giving(writer: StreamWriter, done: threading.Event) -> int:
    """Append chunk after chunk, each until it is acknowledged; return how many were."""
    n = 0
    while not done.is_set():
        try:
            writer.append([chunk_of(3 * n, [b"%d.%d" % (n, m) for m in range(3)])])
        except CaptureWriteError:
            time.sleep(0.002)
        else:
            n += 1
    return n


@pytest.mark.parametrize(
    ("start_server", "level", "fsync"),
    [
        pytest.param(valkey_server, "stored", "everysec", id="valkey-stored"),
        pytest.param(valkey_server, "fsynced", "everysec", id="valkey-fsynced"),
        pytest.param(redis_server, "stored", "everysec", id="redis-stored"),
        pytest.param(redis_server, "fsynced", "always", id="redis-fsynced"),
    ],
)
def test_kills_of_the_server_lose_nothing_acknowledged(
    start_server: Start, level: Level, fsync: str
) -> None:
    chance = random.Random(11)
    with (
        started(lambda: start_server(options={"appendfsync": fsync})) as server,
        RedisCaptureStore(server.url) as store,
    ):
        writer = start(store, level=level)
        number, epochs = writer.session.number, {store.epoch}
        done = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            giving = pool.submit(kept_giving, writer, done)
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.01, 0.25))
                server.kill()
                time.sleep(chance.uniform(0.0, 0.02))
                server.restart()
                epochs.add(store.epoch)
            server.restart()
            done.set()
            acknowledged = giving.result()
        assert acknowledged > KILLS / 2
        found = [m for chunk in store.chunks(number, "main") for m in chunk.messages()]
        wanted = [b"%d.%d" % (n, m) for n in range(acknowledged) for m in range(3)]
        assert found[: len(wanted)] == wanted
        assert len(found) <= len(wanted) + 3  # one that was stored and not acknowledged
        assert store.message_count(number, "main") == len(found) == store.next_seq(number, "main")
        assert len(epochs) == KILLS + 1
        writer.close()


def test_restart_is_a_new_epoch_and_leaves_numbers_out(
    server: RedisServer, store: RedisCaptureStore
) -> None:
    writer = start(store)
    writer.close()
    before = store.epoch
    server.restart()
    following = start(store)
    following.close()
    assert following.session.number == writer.session.number + 1001
    assert store.epoch != before
    assert store.epoch == store.epoch


def test_restart_that_lost_nothing_leaves_no_number_out() -> None:
    with (
        started(lambda: valkey_server(options={"appendfsync": "always"})) as server,
        RedisCaptureStore(server.url) as store,
    ):
        start(store).close()
        before = store.epoch
        server.restart()
        writer = start(store)
        writer.close()
        assert writer.session.number == 2
        assert store.epoch != before


def test_old_copy_of_the_server_gives_no_number_twice_and_is_noticed_by_the_writer(
    server: RedisServer, store: RedisCaptureStore, tmp_path: Path
) -> None:
    files, copy = server.folder / "appendonlydir", tmp_path / "copy"
    writer = start(store)
    number, before = writer.session.number, store.epoch
    writer.append([chunk_of(0, [b"a", b"b"])])
    server.kill()
    shutil.copytree(files, copy)
    server.restart()
    assert writer.append([chunk_of(2, [b"c", b"d"])]) == ["stored"]
    later = {started_and_left(store) for _ in range(3)}
    server.kill()
    shutil.rmtree(files)
    shutil.copytree(copy, files)
    server.restart()
    with pytest.raises(ChunkConflictError) as conflict:
        writer.append([chunk_of(4, [b"e"])])
    assert conflict.value.following == writer.next_seq == 2
    loss = writer.lose(3, "the store went back")
    assert (loss.first_seq, loss.last_seq) == (2, 3)
    assert writer.append([chunk_of(4, [b"e"])]) == ["stored"]
    assert store.last_messages(number, "main", 9) == [b"a", b"b", b"e"]
    assert store.epoch != before
    assert started_and_left(store) > max(later)
    writer.close()


@pytest.mark.parametrize("start_server", SERVERS)
def test_fail_over_to_a_replica_that_lacks_the_tail(start_server: Start) -> None:
    with (
        started(start_server) as primary,
        started(start_server) as replica,
        RedisCaptureStore(primary.url) as store,
        redis.Redis.from_url(primary.url) as first,
        redis.Redis.from_url(replica.url) as second,
    ):
        second.replicaof("127.0.0.1", primary.port)
        writer = start(store)
        number, before = writer.session.number, store.epoch
        writer.append([chunk_of(0, [b"a", b"b"])])
        assert eventually(lambda: first.wait(1, 100) == 1)
        second.replicaof("NO", "ONE")
        writer.append([chunk_of(2, [b"c"])])
        missed = started_and_left(store)
        primary.kill()
        second.config_set("port", primary.port)  # as a name that leads to it from now on
        with pytest.raises(ChunkConflictError) as conflict:
            writer.append([chunk_of(3, [b"d"])])
        assert conflict.value.following == 2
        assert store.epoch != before
        loss = writer.lose(2, "the fail-over lost it")
        assert writer.append([chunk_of(3, [b"d"])]) == ["stored"]
        assert store.losses(number, "main") == [loss]
        assert store.last_messages(number, "main", 9) == [b"a", b"b", b"d"]
        assert started_and_left(store) > missed
        writer.close()


def test_write_to_a_replica_is_an_error(server: RedisServer, store: RedisCaptureStore) -> None:
    writer = start(store)
    with redis.Redis.from_url(server.url) as admin:
        admin.replicaof("127.0.0.1", 1)
        with pytest.raises(CaptureWriteError):
            writer.append([chunk_of(0, [b"a"])])
        with pytest.raises(CaptureWriteError):
            start(store)
        admin.replicaof("NO", "ONE")
    assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
    writer.close()


def test_flushed_server_is_noticed(server: RedisServer, store: RedisCaptureStore) -> None:
    writer = start(store)
    writer.append([chunk_of(0, [b"a"])])
    old_id = store.store_id
    with redis.Redis.from_url(server.url) as admin:
        admin.flushall()
    with pytest.raises(NoSessionError, match="flushed or replaced"):
        writer.append([chunk_of(1, [b"b"])])
    for call in (store.sessions, lambda: start(store), lambda: store.epoch):
        with pytest.raises(CaptureWriteError, match="flushed or replaced"):
            call()
    writer.close()
    with RedisCaptureStore(server.url) as another:
        assert another.store_id != old_id
        # The other store's first session has the same number; the old writer is not its.
        new = start(another)
        assert new.session.number == writer.session.number
        with pytest.raises(NoSessionError):
            writer.append([chunk_of(0, [b"late"])])
        new.close()


def test_400_concurrent_starts_give_400_numbers(store: RedisCaptureStore) -> None:
    def started_one(_: int) -> int:
        writer = start(store)
        writer.close()
        return writer.session.number

    with ThreadPoolExecutor(16) as pool:
        numbers = list(pool.map(started_one, range(400)))
    assert len(set(numbers)) == 400


def test_origin_is_captured_once_among_concurrent_starts(store: RedisCaptureStore) -> None:
    def tried(_: int) -> StreamWriter | None:
        try:
            return start(store, origin="sha256:1")
        except AlreadyCapturedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        writers = [writer for writer in pool.map(tried, range(40)) if writer is not None]
    assert len(writers) == len(store.sessions()) == 1
    writers[0].close()


def test_idle_writer_keeps_its_stream(store: RedisCaptureStore) -> None:
    writer = start(store)
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert store.is_live(writer.session.number)
        time.sleep(0.05)
    assert recover(store) == []
    assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
    writer.close()


def test_lease_that_ran_out_unnoticed_is_renewed(
    server: RedisServer, store: RedisCaptureStore
) -> None:
    writer = start(store)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # longer than the lease
    server.process.send_signal(signal.SIGCONT)
    assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
    assert store.is_live(writer.session.number)
    writer.close()


def test_idle_recorder_that_was_cut_off_is_not_recovered(
    server: RedisServer, store: RedisCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RedisConnection.run

    def away(connection: RedisConnection, *words: Any, **options: Any) -> Any:
        if connection is store._connection:
            raise CaptureWriteError("out of reach")
        return run(connection, *words, **options)

    writer, dead = start(store), [start(store) for _ in range(3)]
    for each in dead:
        store._keeper.remove(each)  # nobody renews their leases
    number = writer.session.number
    with (
        RedisCaptureStore(server.url, lease_s=1.0) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(RedisConnection, "run", away)
            assert eventually(lambda: not any(map(other.is_live, range(1, 5))))
            begun = time.monotonic()
            recovering = pool.submit(recover, other)
            time.sleep(0.2)
        recovered = recovering.result()
        assert time.monotonic() - begun < 3  # for all of them at a time
        assert [info.number for info in recovered] == [each.session.number for each in dead]
        assert other.session(number).state == "running"
    assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
    for each in (writer, *dead):
        each.close()


def test_unusable_server_is_said_once_with_what_to_do(server: RedisServer) -> None:
    def said(url: str) -> str:
        with RedisCaptureStore(url, timeout_s=0.5) as store:
            with pytest.raises(CaptureWriteError) as caught:
                store.sessions()
            return str(caught.value).removeprefix("the capture store at ")

    place = f"127.0.0.1:{server.port} cannot be used: "
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", "secret-word")
    refused = "it refuses user or password; check [capture] url or KEEPLINE_CAPTURE__URL"
    for url in (server.url, f"redis://:wrong-word@127.0.0.1:{server.port}/0"):
        assert said(url) == place + refused
    server.process.send_signal(signal.SIGSTOP)
    late = "it does not answer in time; check that it runs, and [capture] url"
    assert said(server.url) == place + late
    server.process.send_signal(signal.SIGCONT)
    server.kill()
    gone = "connection refused; check that it runs, and [capture] url"
    assert said(server.url) == place + gone
    unknown = said("redis://nowhere.invalid:1/0")
    assert unknown.count("nowhere.invalid") == 1
    assert unknown.endswith("; check that it runs, and [capture] url")


def test_threads_that_keep_leases_end_with_the_last_writer(store: RedisCaptureStore) -> None:
    def keeping() -> int:
        return sum(thread.name == "keepline-leases" for thread in threading.enumerate())

    assert eventually(lambda: keeping() == 0)  # those of the tests before
    for _ in range(2):
        writers = [start(store) for _ in range(5)]
        assert keeping() == 1
        for writer in writers:
            writer.close()
        assert eventually(lambda: keeping() == 0)


def die_in_close(url: str) -> None:
    """End a session, and die when its streams are closed, before the register knows."""
    RedisRegister.end = lambda *_, **__: os._exit(9)  # type: ignore[method-assign,assignment]
    store = RedisCaptureStore(url, lease_s=1.0)
    writer = start(store)
    writer.append([chunk_of(0, [b"a"])])
    store.close_session(writer.session.number, "complete", START)


def die_before_seen(url: str) -> None:
    """Start a session, and die when its stream is made, before it can be seen."""
    RedisRegister.show = lambda *_, **__: os._exit(9)  # type: ignore[method-assign,assignment]
    start(RedisCaptureStore(url, lease_s=1.0))


def die_before_kept(url: str) -> None:
    """Start a session, and die when it can be seen, before its stream is kept for good."""
    RedisStream.keep = lambda *_, **__: os._exit(9)  # type: ignore[method-assign,assignment]
    start(RedisCaptureStore(url, lease_s=1.0))


def deleted(url: str) -> None:
    """Delete a session of two streams that has some messages."""
    store = RedisCaptureStore(url, lease_s=1.0)
    writer = start(store, origin="sha256:1")
    store.add_stream(writer.session.number, StreamSpec(source="second"))
    writer.append([chunk_of(0, [b"a", b"b"])])
    end(store, writer)
    store.delete_session(writer.session.number)


def die_at_first_stream(url: str) -> None:
    """Delete a session, and die when the first of its streams is gone."""
    delete = RedisStream.delete

    def dying(stream: RedisStream) -> None:
        delete(stream)
        os._exit(9)

    RedisStream.delete = dying  # type: ignore[method-assign]
    deleted(url)


def die_in_register(url: str) -> None:
    """Delete a session, and die when the register has removed it."""
    remove = RedisRegister.remove

    def dying(*words: Any, **options: Any) -> None:
        remove(*words, **options)
        os._exit(9)

    RedisRegister.remove = dying  # type: ignore[method-assign]
    deleted(url)


def killed_in(work: Callable[[str], None], url: str) -> None:
    """Have work done by a process that dies of it."""
    child = multiprocessing.get_context("spawn").Process(target=work, args=(url,))
    child.start()
    child.join()
    assert child.exitcode == 9


def test_end_that_was_cut_off_takes_no_data_and_is_recovered(
    server: RedisServer, store: RedisCaptureStore
) -> None:
    killed_in(die_in_close, server.url)
    (info,) = store.sessions()
    assert info.state == "running"
    assert store.close_orphan(info.number) is None  # its lease has not run out
    assert eventually(lambda: store.close_orphan(info.number) is not None)
    assert store.session(info.number).state == "interrupted"
    with pytest.raises(SessionClosedError):
        store.open_writer(info.number, "main")
    assert store.last_messages(info.number, "main", 9) == [b"a"]


def test_start_that_was_cut_off_leaves_only_keys_that_expire(
    server: RedisServer, store: RedisCaptureStore
) -> None:
    killed_in(die_before_seen, server.url)
    assert store.sessions() == []
    with redis.Redis.from_url(server.url) as admin:
        lasting = [key for key in admin.keys("*") if admin.pttl(key) == -1]
        assert lasting == [b"keepline:{keepline}:store"]
        assert len(admin.keys("*")) == 2


def test_start_that_was_cut_off_once_seen_is_recovered(
    server: RedisServer, store: RedisCaptureStore
) -> None:
    killed_in(die_before_kept, server.url)
    assert len(store.sessions()) == 1
    with redis.Redis.from_url(server.url) as admin:
        (meta,) = admin.keys("*:meta")
        admin.delete(meta)  # as its expiry does
    assert [each.state for each in recover(store)] == ["interrupted"]
    store.flush()
    assert store.sessions() == []


@pytest.mark.parametrize("die", [die_at_first_stream, die_in_register])
def test_session_whose_deletion_was_cut_off_is_seen_by_nobody(
    server: RedisServer, store: RedisCaptureStore, die: Callable[[str], None]
) -> None:
    killed_in(die, server.url)
    assert store.sessions() == []
    calls: list[Callable[[], object]] = [
        lambda: store.session(1),
        lambda: store.streams(1),
        lambda: store.next_seq(1, "main"),
        lambda: store.message_count(1, "main"),
        lambda: store.delete_session(1),
    ]
    for call in calls:
        with pytest.raises(NoSessionError):
            call()
    start(store, origin="sha256:1").close()


@pytest.mark.parametrize("die", [die_at_first_stream, die_in_register])
def test_what_a_deletion_has_left_goes_with_the_next_one(
    server: RedisServer, store: RedisCaptureStore, die: Callable[[str], None]
) -> None:
    killed_in(die, server.url)
    with redis.Redis.from_url(server.url) as admin:
        assert admin.keys("*:1:*")
        assert admin.keys("*specs:1")
        store.flush()
        assert admin.keys("*") == [b"keepline:{keepline}:store"]


def test_deletions_at_once_leave_nothing(server: RedisServer, store: RedisCaptureStore) -> None:
    numbers = [started_and_left(store) for _ in range(8)]

    def delete(number: int) -> bool:
        with RedisCaptureStore(server.url, lease_s=1.0) as other:
            try:
                other.delete_session(number)
            except (NoSessionError, SessionClosedError):
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(delete, numbers * 2))
    assert done.count(True) >= len(numbers)
    with redis.Redis.from_url(server.url) as admin:
        assert admin.keys("*") == [b"keepline:{keepline}:store"]


def test_stream_can_be_added_again_after_a_cut(
    server: RedisServer, store: RedisCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = start(store)
    number, spec = writer.session.number, StreamSpec(source="second")
    with monkeypatch.context() as patch:
        patch.setattr(RedisStream, "keep", lambda *_, **__: None)
        store.add_stream(number, spec)
    store.add_stream(number, spec)
    with redis.Redis.from_url(server.url) as admin:
        assert all(admin.pttl(key) == -1 for key in admin.keys("*"))
    store.open_writer(number, "second").close()
    writer.close()


def test_ending_and_recovering_at_once_never_lose_the_end(store: RedisCaptureStore) -> None:
    """A session that its recorder is just ending is not taken for an orphan."""
    stopped = threading.Event()

    def recovering() -> None:
        while not stopped.is_set():
            recover(store)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(recovering)
        try:
            for _ in range(40):
                writer = start(store)
                store.close_session(writer.session.number, "complete", START)
                writer.close()
        finally:
            stopped.set()
        running.result()
    assert {info.state for info in store.sessions()} == {"complete"}


def test_settled_appends_are_in_the_file(server: RedisServer, store: RedisCaptureStore) -> None:
    """What `append` returned from at level stored is found in the append-only file itself."""
    writer = start(store)
    for n in range(30):
        word = b"needle-%d-" % n
        writer.append([chunk_of(n, [word])])
        files = (server.folder / "appendonlydir").glob("*.incr.aof")
        assert any(word in file.read_bytes() for file in files)
    writer.close()


def test_sessions_are_found_by_another_process(
    server: RedisServer, store: RedisCaptureStore
) -> None:
    writer = start(store)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.map(functools.partial(live_of, server.url), [writer.session.number])
    assert found == [True]
    writer.close()


def live_of(url: str, number: int) -> bool:
    """Return whether a session lives, as another process sees it."""
    with RedisCaptureStore(url) as store:
        return store.is_live(number)
