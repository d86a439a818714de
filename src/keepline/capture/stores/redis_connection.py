"""The connection of a RedisCaptureStore: one client, its errors, and when a write is safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from keepline.capture.stores.redis_scripts import Script
from keepline.errors import CaptureWriteError, ConfigError, PluginError

# redis-py is imported late, and most of what it returns has no type: its clients are Any here.

#: What an answer waits for. none: the server's memory; written: its write(2) to the append-only
#: file, which a kill of the server does not undo; fsynced: WAITAOF, its fsync as well.
Sync = Literal["none", "written", "fsynced"]

#: The server puts a write off for 2 s at most while a background fsync is late.
_WRITE_S = 4.0
_LOOK_AGAIN_S = 0.002

Argument = bytes | str | int


class RedisConnection:
    """A client of one server or of a cluster, whose errors are CaptureWriteError.

    It is shared by a store and its writers, and closed when each of them has let go of it. It
    connects when it is first used. No call waits much longer than `timeout_s`, except for
    an fsync. Safe to share between threads.

    Raises:
        PluginError: redis-py is not installed.
        ConfigError: `url` is not one of a Redis server.
    """

    def __init__(self, url: str, *, cluster: bool, timeout_s: float) -> None:
        self._url = url
        self._is_cluster = cluster
        self._timeout_s = timeout_s
        self.place = _place(url)
        self._users = 1
        self._mutex = threading.Lock()
        self._single: Any = None
        self._cluster: Any = None
        if not cluster:
            self._single = self._client(_library().Redis)

    @property
    def is_cluster(self) -> bool:
        """Return whether the keys lie on the nodes of a cluster."""
        return self._is_cluster

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument] = (),
        *,
        sync: Sync = "none",
    ) -> list[Any]:
        """Run a script where its keys are, and return its answer once it is as safe as `sync`."""
        with self.translated():
            try:
                return self._run(self.node(keys[0]), script, keys, arguments, sync)
            except _library().exceptions.AskError:  # a slot has moved, or moves
                self._look_for_nodes()
                return self._run(self.node(keys[0]), script, keys, arguments, sync)

    def call(self, key: str, *words: Argument) -> Any:
        """Run one reading command where `key` is."""
        with self.translated():
            try:
                return self.node(key).execute_command(*words)
            except _library().exceptions.AskError:
                self._look_for_nodes()
                return self.node(key).execute_command(*words)

    def node(self, key: str) -> Any:
        """Return the client of the server that has `key`."""
        if self._single is not None:
            return self._single
        cluster: Any = self._nodes()
        return cluster.get_redis_connection(cluster.get_node_from_key(key))

    def servers(self) -> list[Any]:
        """Return a client for each server that takes writes."""
        if self._single is not None:
            return [self._single]
        cluster: Any = self._nodes()
        return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn redis-py's errors into CaptureWriteError; no text of ours has the URL."""
        exceptions = _library().exceptions
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            # After a fail-over the name may lead to another server, or the slots.
            if self._is_cluster or isinstance(error, exceptions.ReadOnlyError):
                self._forget()
            raise CaptureWriteError(
                f"the capture store at {self.place} cannot be used: {_reason(error)}"
            ) from error

    def hold(self) -> None:
        """Have one more user."""
        with self._mutex:
            self._users += 1

    def let_go(self) -> None:
        """Have one user less; close every connection when there is none."""
        with self._mutex:
            self._users -= 1
            unused = self._users <= 0
        if unused:
            for client in (self._single, self._cluster):
                if client is not None:
                    client.close()

    def _run(
        self,
        node: Any,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        sync: Sync,
    ) -> list[Any]:
        words = (len(keys), *keys, *arguments)
        if sync == "fsynced":
            return self._run_fsynced(node, script, words)
        try:
            answer = node.execute_command("EVALSHA", script.digest, *words)
        except _library().exceptions.NoScriptError:
            answer = node.execute_command("EVAL", script.text, *words)
        if sync == "written":
            await_write(node)
        return list(answer)

    def _run_fsynced(self, node: Any, script: Script, words: tuple[Argument, ...]) -> list[Any]:
        """Run a script and WAITAOF on the same connection, whose writes it waits for."""
        answers = self._with_waitaof(node, "EVALSHA", script.digest, words)
        if isinstance(answers[0], _library().exceptions.NoScriptError):
            answers = self._with_waitaof(node, "EVAL", script.text, words)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if answers[1][0] < 1:
            raise CaptureWriteError(
                f"the capture store at {self.place} did not confirm an fsync in time"
            )
        return list(answers[0])

    def _with_waitaof(
        self, node: Any, command: str, script: str, words: tuple[Argument, ...]
    ) -> list[Any]:
        with node.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(command, script, *words)
            pipeline.execute_command("WAITAOF", 1, 0, int(self._timeout_s * 800))
            return list(pipeline.execute(raise_on_error=False))

    def _nodes(self) -> Any:
        if self._cluster is None:
            self._cluster = self._client(_library().RedisCluster)
        return self._cluster

    def _look_for_nodes(self) -> None:
        if self._cluster is not None:
            self._cluster.nodes_manager.initialize()

    def _forget(self) -> None:
        if self._single is not None:
            self._single.connection_pool.disconnect(inuse_connections=False)
        elif self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _client(self, kind: Any) -> Any:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # A connection that is found closed is opened again before a command goes out. A command
        # that went out is not repeated here: whoever gave it has to know that it may have run.
        options: dict[str, Any] = {
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "socket_keepalive": True,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            return kind.from_url(self._url, **options)
        except (ValueError, TypeError):
            # The cause may quote the URL, and so the password.
            raise ConfigError(
                "the url of the capture store is not valid; give it as redis://host:port/0"
            ) from None


def _library() -> Any:
    try:
        import redis
    except ImportError as error:
        raise PluginError(
            "a Redis capture store needs redis-py: pip install 'keepline[redis]'"
        ) from error
    return redis


def _reason(error: Exception) -> str:
    """Return what is wrong, once, and what to do: redis-py repeats where the server is."""
    exceptions = _library().exceptions
    below = error.__cause__ or error.__context__
    if isinstance(error, exceptions.AuthenticationError):
        return "it refuses user or password; check [capture] url or KEEPLINE_CAPTURE__URL"
    if isinstance(error, exceptions.TimeoutError):
        return "it does not answer in time; check that it runs, and [capture] url"
    if isinstance(error, exceptions.ConnectionError) and isinstance(below, OSError):
        reason = (below.strerror or type(below).__name__).lower()
        return f"{reason}; check that it runs, and [capture] url"
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _place(url: str) -> str:
    """Return where `url` leads to, without its user and password."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = None, ""
    if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(
            "the url of the capture store is not valid; give it as redis://host:port/0"
        )
    return f"{parts.hostname}{port}" if parts.hostname else parts.path


def await_write(node: Any) -> None:
    """Return once all that `node` has answered is in its append-only file by write(2).

    The server writes before it answers, with one exception: at appendfsync everysec, while a
    background fsync is late, it puts the write off and answers (flushAppendOnlyFile in its
    aof.c). It tells so in the length of its buffer. What others wrote in the same moment stands
    there as well; but a file that has grown since we looked first holds what is ours, because
    the buffer is written whole. A rewrite changes the size too, and the size at its end.
    """
    deadline = time.monotonic() + _WRITE_S
    first: tuple[int, int] | None = None
    while True:
        # In one word, as the library's own reading of the answer costs more than the rest.
        told = _fields(node.execute_command("INFO persistence"))
        if told.get(b"aof_enabled") != b"1" or told.get(b"aof_last_write_status", b"ok") != b"ok":
            raise CaptureWriteError(
                "the capture store's server does not write its append-only file; "
                "what it took may not survive its end"
            )
        if told[b"aof_buffer_length"] == b"0":
            return
        base, size = int(told[b"aof_base_size"]), int(told[b"aof_current_size"])
        if first is None or base != first[0]:
            first = base, size
        elif size > first[1]:
            return
        if time.monotonic() > deadline:
            raise CaptureWriteError(
                f"the capture store's server has not written its append-only file for {_WRITE_S} s"
            )
        time.sleep(_LOOK_AGAIN_S)


def _fields(told: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b":", 1) for line in told.split(b"\r\n") if b":" in line)
