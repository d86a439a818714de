"""A server whose disk is slow answers before it has written; `append` waits for the write.

At appendfsync everysec Redis and Valkey put write(2) off while a background fsync is late. The
servers here run with an fdatasync(2) that takes long, so that this is so nearly all the time.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis

from keepline.capture.store import StreamWriter
from keepline.capture.stores.redis import RedisCaptureStore
from keepline.errors import NoSessionError
from keepline.testing.capture_stores import chunk_of, start
from tests.conftest import started
from tests.needs import give_up
from tests.servers import RedisServer, redis_server, valkey_server

SLOW_FSYNC = """
#include <unistd.h>
int fdatasync(int fd) { (void)fd; usleep(1500000); return 0; }
"""
ROUNDS = 3
PATIENCE_S = 60


@pytest.fixture(scope="module")
def slow_fsync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, in which fdatasync takes 1.5 s."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        give_up("a slow disk is played by a C library for Linux; there is no compiler for it")
    folder = tmp_path_factory.mktemp("slow")
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SLOW_FSYNC)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture(params=[valkey_server, redis_server], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest, slow_fsync: Path) -> Iterator[RedisServer]:
    """A server with a slow disk."""
    start_server: Callable[..., AbstractContextManager[RedisServer]] = request.param
    with started(lambda: start_server(env={"LD_PRELOAD": str(slow_fsync)})) as it:
        yield it


def until_writes_are_late(server: RedisServer, writer: StreamWriter) -> None:
    """Append with `writer`, which does not wait, until what it wrote stays in the buffer."""
    deadline = time.monotonic() + PATIENCE_S
    with redis.Redis.from_url(server.url) as admin:
        while time.monotonic() < deadline:
            writer.append([chunk_of(writer.next_seq, [b"x" * 100])])
            # A late write is put off for more than a second; we are well within it.
            if admin.info("persistence")["aof_buffer_length"]:
                return
    pytest.fail("the server never put a write off")


def test_what_is_stored_survives_a_kill_while_writes_are_late(server: RedisServer) -> None:
    with RedisCaptureStore(server.url) as store:
        forgetful, writer = start(store, level="accepted"), start(store, level="stored")
        for n in range(ROUNDS):
            until_writes_are_late(server, forgetful)
            assert writer.append([chunk_of(n, [b"kept"])]) == ["stored"]
            server.kill()
            server.restart()
            assert store.next_seq(writer.session.number, "main") == n + 1
            forgetful.next_seq = store.next_seq(forgetful.session.number, "main")
        forgetful.close()
        writer.close()


def test_sessions_that_are_started_while_writes_are_late_are_kept(server: RedisServer) -> None:
    with RedisCaptureStore(server.url) as store:
        forgetful = start(store, level="accepted")
        until_writes_are_late(server, forgetful)
        writer = start(store)
        server.kill()
        server.restart()
        assert store.session(writer.session.number) == writer.session
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
        forgetful.close()
        writer.close()


def test_what_is_only_accepted_may_go(server: RedisServer) -> None:
    """The other tests here would prove nothing if this did not happen."""
    with RedisCaptureStore(server.url) as store:
        forgetful = start(store, level="accepted")
        until_writes_are_late(server, forgetful)
        said = forgetful.next_seq
        server.kill()
        server.restart()
        try:
            kept = store.next_seq(forgetful.session.number, "main")
        except NoSessionError:  # the session itself had not reached the disk
            kept = 0
        assert kept < said
        forgetful.close()
