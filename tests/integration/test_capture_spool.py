"""Recording through outages of a real Valkey: killed, restarted, put back from an old copy."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keepline.capture import CaptureServer, recover
from keepline.capture.draining import drain_spool, living_sessions
from keepline.capture.spool import Spool
from keepline.capture.spooling import WENT_BACK
from keepline.capture.stores.redis import RedisCaptureStore
from keepline.capture.stores.redis_connection import RedisConnection
from keepline.errors import CaptureWriteError
from tests.needs import give_up
from tests.servers import RedisServer, ServerMissingError, valkey_server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Valkey of the test's own, to be killed."""
    try:
        with valkey_server() as server:
            yield server
    except ServerMissingError as error:
        give_up(str(error))


@contextmanager
def opened(server: RedisServer) -> Iterator[RedisCaptureStore]:
    with RedisCaptureStore(server.url, lease_s=2, timeout_s=2) as store:
        yield store


def numbers_of(store: RedisCaptureStore, session: int) -> list[int]:
    return [
        int(message.split()[0])
        for chunk in store.chunks(session, "main")
        for message in chunk.messages()
    ]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def queued(recorder: CaptureServer, numbers: range) -> None:
    for number in numbers:
        assert recorder.queue(b"%d" % number) == number


def test_reading_is_not_lost_while_the_server_is_down(server: RedisServer, tmp_path: Path) -> None:
    with (
        opened(server) as store,
        Spool(tmp_path / "spool.db") as spool,
        CaptureServer(store, "bench", linger_s=0.005, spool=spool) as recorder,
    ):
        number = recorder.start_session()
        queued(recorder, range(1_000))
        recorder.wait(999, timeout_s=20)
        server.kill()
        queued(recorder, range(1_000, 3_000))
        recorder.wait(2_999, timeout_s=20)  # in the spool
        assert len(spool.store.sessions()) == 1
        server.restart()
        queued(recorder, range(3_000, 4_000))
        eventually(lambda: spool.store.sessions() == [])
        assert recorder.stop_session().state == "complete"
        assert numbers_of(store, number) == list(range(4_000))
        assert store.losses(number, "main") == []


def test_reading_is_kept_in_memory_while_the_server_is_down(server: RedisServer) -> None:
    with (
        opened(server) as store,
        CaptureServer(store, "bench", linger_s=0.005) as recorder,
    ):
        number = recorder.start_session()
        server.kill()
        queued(recorder, range(100))
        with pytest.raises(CaptureWriteError, match="kept"):
            recorder.wait(99, timeout_s=20)
        server.restart()
        eventually(lambda: stored(recorder, 99))
        queued(recorder, range(100, 200))
        assert recorder.stop_session().state == "complete"
        assert numbers_of(store, number) == list(range(200))


def stored(recorder: CaptureServer, seq: int) -> bool:
    try:
        recorder.wait(seq, timeout_s=5)
    except CaptureWriteError:
        return False
    return True


def test_server_put_back_from_an_old_copy_is_one_loss(server: RedisServer, tmp_path: Path) -> None:
    with (
        opened(server) as store,
        Spool(tmp_path / "spool.db") as spool,
        CaptureServer(store, "bench", linger_s=0.005, spool=spool) as recorder,
    ):
        number = recorder.start_session()
        queued(recorder, range(500))
        recorder.wait(499, timeout_s=20)
        server.kill()
        shutil.copytree(server.folder, tmp_path / "copy")
        server.restart()
        queued(recorder, range(500, 700))
        recorder.wait(699, timeout_s=20)
        eventually(lambda: not spool.store.sessions())
        assert store.next_seq(number, "main") == 700
        server.kill()
        queued(recorder, range(700, 800))
        recorder.wait(799, timeout_s=20)
        shutil.copytree(tmp_path / "copy", server.folder, dirs_exist_ok=True)
        server.restart()
        queued(recorder, range(800, 900))
        eventually(lambda: not spool.store.sessions())
        assert recorder.stop_session().state == "partial"
        (loss,) = store.losses(number, "main")
        assert (loss.first_seq, loss.last_seq, loss.reason) == (500, 699, WENT_BACK)
        assert numbers_of(store, number) == [*range(500), *range(700, 900)]


#: Records through an outage with a spool on a full disk: no file of it may grow beyond a limit.
ON_A_FULL_DISK = """
import resource, sys
from keepline.capture import CaptureServer
from keepline.capture.spool import Spool
from keepline.capture.stores.redis import RedisCaptureStore
from keepline.errors import CaptureWriteError

url, path = sys.argv[1:]
store = RedisCaptureStore(url, timeout_s=2)
spool = Spool(path, when_full="drop")
with CaptureServer(store, "bench", linger_s=0.005, spool=spool) as server:
    number = server.start_session()
    server.queue(b"0")
    server.wait(0)
    print("recording", flush=True)
    input()
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    for n in range(1, 2_000):
        server.queue(b"%d " % n + b"x" * 1_000)
    try:
        server.wait(1_999 - 1)
        print("nothing was dropped", flush=True)
    except CaptureWriteError:
        print(server.acknowledged(), flush=True)
    input()
    while server.acknowledged() < 1_999:
        server.queue(b"%d" % 2_000)
        try:
            server.wait(server.acknowledged("accepted"))
        except CaptureWriteError:
            pass
    print(server.stop_session().state, flush=True)
"""


def test_full_disk_under_the_spool_is_one_loss(server: RedisServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_FULL_DISK, server.url, str(tmp_path / "spool.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "recording\n"
        server.kill()
        child.stdin.write("down\n")
        child.stdin.flush()
        kept = int(child.stdout.readline())
        server.restart()
        child.stdin.write("up\n")
        child.stdin.flush()
        assert child.stdout.readline() == "partial\n"
    with opened(server) as store:
        (loss,) = store.losses(1, "main")
        assert loss.first_seq == kept + 1
        assert loss.last_seq >= 1_998
        assert "full" in loss.reason or "disk" in loss.reason
        found = numbers_of(store, 1)
        assert found[: kept + 1] == list(range(kept + 1))
        assert set(found[kept + 1 :]) == {2_000}
        assert store.next_seq(1, "main") == len(found) + loss.count


def test_recovery_spares_a_recorder_that_spools(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RedisConnection.run
    with opened(server) as other:
        other.renew()  # so that its first use is not in the outage
        with (
            RedisCaptureStore(server.url, lease_s=0.5, timeout_s=2) as store,
            Spool(tmp_path / "spool.db") as spool,
            CaptureServer(store, "bench", linger_s=0.002, spool=spool) as recorder,
        ):
            number = recorder.start_session()
            queued(recorder, range(10))
            recorder.wait(9)

            def away(connection: RedisConnection, *words: Any, **options: Any) -> Any:
                if connection is store._connection:
                    raise CaptureWriteError("out of reach")
                return run(connection, *words, **options)

            with monkeypatch.context() as patch:
                patch.setattr(RedisConnection, "run", away)
                queued(recorder, range(10, 20))
                recorder.wait(19, timeout_s=20)
                eventually(lambda: not other.is_live(number))  # its lease has run out
                with Spool(tmp_path / "spool.db") as elsewhere:
                    assert drain_spool(elsewhere, other) == []
                    living = living_sessions(elsewhere, other)
                    assert living == {number}
                    assert recover(other, spared=living) == []
            queued(recorder, range(20, 30))
            assert recorder.stop_session().state == "complete"
            assert living_sessions(spool, other) == frozenset()
        assert numbers_of(other, number) == list(range(30))


#: Records message n as b"n", and prints the number of the last one that is stored.
RECORDER = """
import sys, time
from keepline.capture import CaptureServer
from keepline.capture.spool import Spool
from keepline.capture.stores.redis import RedisCaptureStore

url, path = sys.argv[1:]
server = CaptureServer(
    RedisCaptureStore(url, lease_s=1, timeout_s=2), "bench", linger_s=0.002, spool=Spool(path)
)
print("session", server.start_session(), flush=True)
n = 0
told = -1
while True:
    for _ in range(37):
        server.queue(b"%d" % n)
        n += 1
    time.sleep(0.001)
    if server.acknowledged() > told:
        told = server.acknowledged()
        print(told, flush=True)
"""


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_recorder_killed_while_spooling_loses_nothing_acknowledged(
    server: RedisServer, tmp_path: Path, seed: int, late: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, server.url, str(tmp_path / "spool.db")],
        stdout=subprocess.PIPE,
        text=True,
    ) as recorder:
        assert recorder.stdout is not None
        number = int(recorder.stdout.readline().split()[1])
        time.sleep(0.1 + 0.05 * seed)
        server.kill()
        time.sleep(0.3 + 0.1 * seed)
        recorder.kill()
        told = [int(line) for line in recorder.stdout if line.endswith("\n")]
    server.restart()
    with opened(server) as store, Spool(tmp_path / "spool.db") as spool:
        eventually(lambda: not store.is_live(number))  # its lease has to run out
        if late:
            (info,) = recover(store)
            assert info.number == number
        (drained,) = drain_spool(spool, store)
        assert drained.late is late
        assert drain_spool(spool, store) == spool.store.sessions() == []
        recover(store)
        assert {info.state for info in store.sessions()} == {"interrupted"}
        found = [n for info in store.sessions() for n in numbers_of(store, info.number)]
        assert found == list(range(len(found)))
        assert len(found) > told[-1]
        assert drained.messages > 0
