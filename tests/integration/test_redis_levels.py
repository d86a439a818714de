"""What a Redis or Valkey has to be set up for, and what errors say when it is not there."""

import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from keepline.capture.stores.redis import RedisCaptureStore
from keepline.capture.stores.redis_connection import await_write
from keepline.config import CaptureSettings
from keepline.errors import (
    CaptureError,
    CaptureWriteError,
    ConfigError,
    KeeplineError,
    UnsupportedLevelError,
)
from keepline.model import LEVELS, Level
from keepline.testing.capture_stores import chunk_of, start
from tests.conftest import started
from tests.servers import RedisServer, redis_server, valkey_server

SERVERS = [pytest.param(valkey_server, id="valkey"), pytest.param(redis_server, id="redis")]
Start = Callable[..., AbstractContextManager[RedisServer]]


@contextmanager
def running(server: Start, password: str | None = None, **options: str) -> Iterator[RedisServer]:
    """Run a server with options; their names have _ for -."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    with started(lambda: server(password=password, options=named)) as it:
        yield it


def refusals(store: RedisCaptureStore) -> dict[Level, str]:
    """Return why each level is refused."""
    reasons: dict[Level, str] = {}
    for level in LEVELS:
        try:
            start(store, level=level).close()
        except UnsupportedLevelError as error:
            reasons[level] = str(error)
    assert tuple(level for level in LEVELS if level not in reasons) == store.levels
    return reasons


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_server_that_evicts_is_refused(server: Start, policy: str) -> None:
    with running(server, maxmemory_policy=policy) as it, RedisCaptureStore(it.url) as store:
        reasons = refusals(store)
        assert list(reasons) == list(LEVELS)
        assert all(policy in reason and "noeviction" in reason for reason in reasons.values())
        assert store.sessions() == []


@pytest.mark.parametrize("server", SERVERS)
def test_server_without_a_file_keeps_nothing_over_its_end(server: Start) -> None:
    with running(server, appendonly="no") as it, RedisCaptureStore(it.url) as store:
        reasons = refusals(store)
        assert list(reasons) == ["stored", "fsynced"]
        assert all("appendonly yes" in reason for reason in reasons.values())


def test_levels_follow_a_change_of_the_server() -> None:
    with running(valkey_server) as it, RedisCaptureStore(it.url) as store:
        writer = start(store)
        writer.append([chunk_of(0, [b"a"])])
        with redis.Redis.from_url(it.url) as admin:
            admin.config_set("appendonly", "no")
        with pytest.raises(UnsupportedLevelError):
            start(store)
        with pytest.raises(CaptureWriteError, match="append-only file"):
            writer.append([chunk_of(1, [b"b"])])
        with redis.Redis.from_url(it.url) as admin:
            admin.config_set("maxmemory-policy", "allkeys-random")
        assert store.levels == ()
        writer.close()


def test_fsynced_needs_waitaof_or_always() -> None:
    with running(redis_server) as it, RedisCaptureStore(it.url) as store:
        version = tuple(map(int, it.version.split(".")))
        if version >= (7, 2):  # it has WAITAOF
            assert refusals(store) == {}
            return
        reasons = refusals(store)
        assert list(reasons) == ["fsynced"]
        assert "appendfsync always" in reasons["fsynced"]
        with redis.Redis.from_url(it.url) as admin:
            admin.config_set("appendfsync", "always")
            assert refusals(store) == {}
            admin.config_set("no-appendfsync-on-rewrite", "yes")
            assert list(refusals(store)) == ["fsynced"]


def test_fsynced_by_waitaof() -> None:
    with running(valkey_server) as it, RedisCaptureStore(it.url) as store:
        writer = start(store, level="fsynced")
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
        with redis.Redis.from_url(it.url) as admin:
            assert admin.info("commandstats")["cmdstat_waitaof"]["calls"] >= 1
        writer.close()


@pytest.mark.parametrize("server", SERVERS)
def test_what_cannot_be_verified_is_refused(server: Start) -> None:
    with running(server) as it:
        with redis.Redis.from_url(it.url) as admin:
            admin.execute_command("ACL SETUSER limited on >word ~keepline:* +@all -config")
        url = it.url.replace("redis://", "redis://limited:word@")
        with RedisCaptureStore(url) as store:
            reasons = refusals(store)
            assert "stored" not in reasons
            if "fsynced" in reasons:
                assert "cannot be verified" in reasons["fsynced"]


@pytest.mark.parametrize("server", SERVERS)
def test_full_memory_is_an_error_and_stores_nothing(server: Start) -> None:
    with running(server) as it, RedisCaptureStore(it.url) as store:
        writer = start(store)
        chunk = chunk_of(0, [b"x" * 1000] * 50)
        with redis.Redis.from_url(it.url) as admin:
            admin.config_set("maxmemory", "1")
            with pytest.raises(CaptureWriteError, match="maxmemory"):
                writer.append([chunk])
            with pytest.raises(CaptureWriteError, match="maxmemory"):
                start(store)
            admin.config_set("maxmemory", "0")
        assert store.message_count(writer.session.number, "main") == 0
        assert writer.append([chunk]) == ["stored"]
        writer.close()


SECRET = "correct-horse"


def said(error: BaseException) -> str:
    """Return all that an error and its causes say."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("cluster", [False, True])
def test_password_is_in_no_error(cluster: bool) -> None:
    with running(valkey_server, password=SECRET) as it:
        wrong = it.url.replace(SECRET, SECRET + "-wrong")
        with (
            RedisCaptureStore(wrong, cluster=cluster) as store,
            pytest.raises(CaptureWriteError) as refused,
        ):
            start(store)
        assert SECRET not in said(refused.value) + repr(store) + repr(vars(store))
        store = RedisCaptureStore(it.url, cluster=cluster)
        it.kill()
        with pytest.raises(CaptureWriteError, match=re.escape(f"127.0.0.1:{it.port}")) as gone:
            start(store)
        assert SECRET not in said(gone.value) + repr(store) + repr(vars(store))
        store.close()


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@127.0.0.1:{SECRET}/0",
        f"http://:{SECRET}@127.0.0.1:1/0",
        f"redis://:{SECRET}@127.0.0.1:99999/0",
        f"redis://:{SECRET}@127.0.0.1:1/0?socket_timeout={SECRET}",
        f"{SECRET}@127.0.0.1",
        f"redis://[{SECRET}/0",
    ],
)
def test_url_that_is_none_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://host:port") as error:
        RedisCaptureStore(url)
    assert SECRET not in said(error.value).replace(Path(__file__).read_text(), "")


def test_server_that_is_down_is_said_at_once() -> None:
    with running(valkey_server) as it:
        store = RedisCaptureStore(it.url, timeout_s=60)
        writer = start(store)
        it.kill()
        began = time.monotonic()
        calls: list[Callable[[], Any]] = [
            lambda: writer.append([chunk_of(0, [b"a"])]),
            lambda: writer.lose(3, "gone"),
            lambda: start(store),
            store.sessions,
            lambda: store.epoch,
            lambda: store.levels,
            lambda: store.next_seq(1, "main"),
        ]
        for call in calls:
            with pytest.raises(CaptureWriteError):
                call()
        writer.close()
        assert time.monotonic() - began < 30  # nobody waited for the 60 s
        it.restart()
        assert [info.state for info in store.sessions()] == ["running"]
        store.close()


def test_server_that_hangs_is_given_up() -> None:
    with running(valkey_server) as it, RedisCaptureStore(it.url, timeout_s=0.3) as store:
        writer = start(store)
        it.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(CaptureWriteError):
                writer.append([chunk_of(0, [b"a"])])
        finally:
            it.process.send_signal(signal.SIGCONT)
        # Whether it was stored is not known; giving it again is right either way.
        assert writer.append([chunk_of(0, [b"a"]), chunk_of(1, [b"b"])])[1] == "stored"
        assert store.last_messages(writer.session.number, "main", 9) == [b"a", b"b"]
        writer.close()


def test_settings_name_the_store() -> None:
    with pytest.raises(ConfigError, match="url"):
        RedisCaptureStore.configured(CaptureSettings(store="redis"), folder=Path())
    with running(valkey_server, password=SECRET) as it:
        settings = CaptureSettings(store="redis", url=it.url, prefix="lab", level="accepted")
        assert SECRET not in repr(settings)
        with RedisCaptureStore.configured(settings, folder=Path()) as store:
            writer = start(store)
            assert writer.session.level == "accepted"
            writer.close()
        with redis.Redis.from_url(it.url) as admin:
            assert {key.split(b":")[0] for key in admin.keys("*")} == {b"lab"}


def test_unknown_level_is_refused_before_the_server_is_asked() -> None:
    with pytest.raises(UnsupportedLevelError):
        RedisCaptureStore("redis://127.0.0.1:1/0", level="somehow")  # type: ignore[arg-type]


class Answers:
    """A server's answers to INFO persistence, one after the other."""

    def __init__(self, *answers: tuple[int, int, int]) -> None:
        self.answers = list(answers)

    def execute_command(self, command: str) -> bytes:
        assert command == "INFO persistence"
        buffer, base, size = self.answers.pop(0)
        return (
            "# Persistence\r\naof_enabled:1\r\naof_last_write_status:ok\r\n"
            f"aof_current_size:{size}\r\naof_base_size:{base}\r\naof_buffer_length:{buffer}\r\n"
        ).encode()


def test_write_that_is_put_off_is_waited_for() -> None:
    late = Answers((80, 5, 100), (80, 5, 100), (95, 5, 100), (0, 5, 195))
    await_write(late)
    assert late.answers == []
    # Others write in the meantime, so that the buffer is never empty; but the file grew.
    busy = Answers((80, 5, 100), (30, 5, 180))
    await_write(busy)
    assert busy.answers == []
    # It grew at the end of a rewrite, and holds what it held.
    rewritten = Answers((80, 5, 100), (80, 90, 110), (80, 90, 110), (20, 90, 190))
    await_write(rewritten)
    assert rewritten.answers == []


def test_missing_library_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(KeeplineError, match=r"pip install 'keepline\[redis\]'"):
        RedisCaptureStore("redis://127.0.0.1:1/0")


def test_other_programs_keys_are_left_alone(valkey_url: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(RedisCaptureStore(valkey_url, prefix="one"))
        second = stack.enter_context(RedisCaptureStore(valkey_url, prefix="two"))
        assert first.store_id != second.store_id
        writer = start(second)
        stack.callback(writer.close)
        first.flush()
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]
        with pytest.raises(CaptureError):
            second.flush()
