"""A capture store in Redis or Valkey: each stream of messages is a Stream of chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from keepline.capture.stores.redis_chunks import StreamKeys
from keepline.capture.stores.redis_connection import RedisConnection
from keepline.capture.stores.redis_levels import store_facts
from keepline.capture.stores.redis_register import RedisRegister
from keepline.capture.stores.redis_stream import Fence, RedisStream
from keepline.capture.stores.redis_writer import LeaseKeeper, RedisStreamWriter
from keepline.capture.stores.stream_specs import check_level, check_source, spec_json
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    ConfigError,
    NoSessionError,
    SessionClosedError,
    StreamLockedError,
)
from keepline.model import CaptureState, Chunk, Level, Loss, SessionInfo, StreamSpec, to_us

if TYPE_CHECKING:  # a recorder needs no settings
    from keepline.config import CaptureSettings

#: Lua counts exactly up to here.
_MAX_NUMBER = 1 << 52

#: How often it is looked whether a lease that ran out is renewed.
_LOOK_AGAIN_S = 0.1


class RedisCaptureStore:
    """Sessions and chunks in a Redis (6.2 or newer) or Valkey (8 or newer).

    All keys begin with `prefix`; those of a stream share a hash tag, so that a cluster can
    hold them (`cluster=True`, `url` is any of its nodes). What is acknowledged is as safe as
    the session's level, which the server has to be set up for: see `levels`. A writer has its
    stream by a lease of `lease_s` seconds, which is renewed while its process lives. The
    server is asked for when it is first needed. Safe to share between threads; not to be
    carried over a fork.

    Raises:
        PluginError: redis-py is not installed.
        ConfigError: `url` is not one of a Redis server.
        UnsupportedLevelError: there is no such level.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "keepline",
        level: Level = "stored",
        cluster: bool = False,
        lease_s: float = 10.0,
        timeout_s: float = 5.0,
    ) -> None:
        check_level(level)
        self._level: Level = level
        self._prefix = prefix
        self._lease_ms = int(lease_s * 1000)
        self._connection = RedisConnection(url, cluster=cluster, timeout_s=timeout_s)
        self._register = RedisRegister(self._connection, prefix)
        self._keeper = LeaseKeeper()
        self._closed = False

    @classmethod
    def configured(cls, settings: CaptureSettings, *, folder: Path) -> Self:
        """Return the store that `settings` describe; `folder` has no part in it."""
        if settings.url is None:
            raise ConfigError("a Redis capture store needs the url of its server: set capture.url")
        return cls(
            settings.url.get_secret_value(),
            prefix=settings.prefix,
            level=settings.level,
            cluster=settings.cluster,
        )

    @property
    def store_id(self) -> str:
        """Return the store's identity, which is kept within the store itself."""
        return self._register.store_id

    @property
    def epoch(self) -> str:
        """Return the name of this life of the store; a server that began anew is a new one."""
        return self._register.epoch()

    @property
    def last_number(self) -> int:
        """Return the highest session number given out; see CaptureStore."""
        return self._register.last_number()

    @property
    def levels(self) -> tuple[Level, ...]:
        """Return the levels that the server can keep as it is set up now, weakest first."""
        return store_facts(self._connection).levels

    def create_session(
        self,
        instrument: str,
        user: str,
        spec: StreamSpec,
        *,
        started: datetime,
        origin: str | None = None,
        level: Level | None = None,
    ) -> RedisStreamWriter:
        """Start a session with its first stream; see CaptureStore."""
        level = level or self._level
        check_source(spec.source)
        spec_json(spec)
        to_us(started)
        facts = store_facts(self._connection)
        facts.check(level, self._connection.place)
        sync = facts.sync(level)
        info = SessionInfo(
            self.store_id,
            self._register.new_number(instrument, origin),
            instrument,
            user,
            "running",
            started,
            None,
            origin,
            level,
        )
        stream, fence = self._stream(info.number, spec.source), self._fence()
        stream.make(fence)
        try:
            self._register.show(info, spec, sync=sync)
        except AlreadyCapturedError:
            stream.delete()
            raise
        stream.keep(sync=sync)
        return RedisStreamWriter(stream, info, fence, self._keeper, next_seq=0, sync=sync)

    def add_stream(self, number: int, spec: StreamSpec) -> None:
        """Add a stream to a running session; see CaptureStore."""
        check_source(spec.source)
        spec_json(spec)
        info = self.session(number)
        sync = store_facts(self._connection).sync(info.level)
        stream = self._stream(number, spec.source)
        stream.make(Fence("", 0))  # what is made and not added goes by itself
        self._register.add(number, spec, sync=sync)
        stream.keep(sync=sync)

    def open_writer(self, number: int, source: str) -> RedisStreamWriter:
        """Return the writer of a stream; see CaptureStore."""
        check_source(source)
        info = self.session(number)
        self._register.require_open(number)
        facts = store_facts(self._connection)
        facts.check(info.level, self._connection.place)
        stream, fence = self._stream(number, source), self._fence()
        following, _ = stream.take(fence)
        sync = facts.sync(info.level)
        return RedisStreamWriter(stream, info, fence, self._keeper, next_seq=following, sync=sync)

    def close_session(self, number: int, state: CaptureState, ended: datetime) -> SessionInfo:
        """End a running session for good; see CaptureStore."""
        info = self.session(number)
        if state == "running" or ended < info.started:
            raise CaptureError(f"a capture session cannot end as {state} at {ended}")
        self._end(info, state, to_us(ended))
        return self.session(number)

    def close_orphan(self, number: int) -> SessionInfo | None:
        """End a running session whose writers are all gone; see CaptureStore.

        A writer whose lease ran out may live, and have been cut off from the server. It has as
        long as a lease to renew it, and this waits for that.
        """
        info = self.session(number)
        if info.state != "running" or self.is_live(number) or self._comes_back(number):
            return None
        taken: list[tuple[RedisStream, Fence, str]] = []
        try:
            if not self._take_all(number, taken):
                self._register.unseal(number)
                return None
            self._end(info, "interrupted", self._last_us(info))
        except SessionClosedError:
            return None
        finally:
            for stream, fence, before in taken:  # as it was, where the session goes on
                stream.give(fence, before)
        return self.session(number)

    def sessions(self) -> list[SessionInfo]:
        """Return every session, by number."""
        return list(self._register.sessions())

    def session(self, number: int) -> SessionInfo:
        """Return one session; raises NoSessionError."""
        return self._register.session(number)

    def streams(self, number: int) -> list[StreamSpec]:
        """Return the streams of a session, by source; raises NoSessionError."""
        return self._register.specs(number)

    def next_seq(self, number: int, source: str) -> int:
        """Return the number after the last stored or lost message: 0 when there is none."""
        return self._counted("next", number, source)

    def message_count(self, number: int, source: str) -> int:
        """Return how many messages of a stream were stored, trimmed ones too, lost ones not."""
        return self._counted("messages", number, source)

    def losses(self, number: int, source: str) -> list[Loss]:
        """Return what of a stream is known to be lost, in order."""
        return self._stream(number, source).losses()

    def chunks(self, number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows, in order; see CaptureStore."""
        return self._stream(number, source).chunks(from_seq)

    def last_messages(self, number: int, source: str, n: int) -> list[bytes]:
        """Return the last `n` messages that are there of a stream; see CaptureStore."""
        self.session(number)
        return self._stream(number, source).last_messages(n)

    def mark_archived(self, number: int, source: str, seq: int) -> None:
        """Note that the archive holds everything up to `seq`."""
        self._stream(number, source).mark_archived(seq)

    def set_archived(self, number: int, source: str, seq: int) -> None:
        """Put the archive's mark to `seq`, also back; see CaptureStore."""
        self._stream(number, source).set_archived(seq)

    def archived(self, number: int, source: str) -> int:
        """Return the number of the last message that the archive holds, or -1."""
        return self._value("archived", number, source, -1)

    def trim(self, number: int, source: str, upto: int) -> int:
        """Remove the chunks that end at or before `upto`; see CaptureStore."""
        return self._stream(number, source).trim(upto)

    def trimmed(self, number: int, source: str) -> int:
        """Return the number of the last message that was trimmed, or -1."""
        return self._value("trimmed", number, source, -1)

    def request_stop(self, number: int) -> None:
        """Ask whoever records a running session to end it; see CaptureStore."""
        self._register.request_stop(number)

    def stop_requested(self, number: int) -> bool:
        """Return whether a session's recorder was asked to end it."""
        return self._register.stop_requested(number)

    def renew(self, after_number: int = 0) -> str:
        """Begin a new epoch and return it; see CaptureStore."""
        if not 0 <= after_number <= _MAX_NUMBER:
            raise ValueError(f"session numbers go up to {_MAX_NUMBER}")
        return self._register.renew(after_number)

    def is_live(self, number: int) -> bool:
        """Return whether a session is running and a living writer holds one of its streams."""
        if self.session(number).state != "running":
            return False
        return any(self._stream(number, spec.source).is_live() for spec in self.streams(number))

    def delete_session(self, number: int) -> None:
        """Remove a session and all its data; see CaptureStore.

        It is no longer seen before the first of its streams goes. What a deletion that was cut
        off has left of them goes with the next one.
        """
        self._sweep()
        info = self.session(number)
        if info.state == "running":
            self.close_orphan(number)
            if self.session(number).state == "running":
                raise CaptureError(f"capture session {number} is live; stop it before deleting it")
        self._register.remove(number, sync=store_facts(self._connection).sync(info.level))
        self._sweep()

    def flush(self) -> None:
        """Remove every session; raises CaptureError, removing none, when one is live."""
        self._sweep()
        known = [info.number for info in self.sessions()]
        for number in known:
            if self.is_live(number):
                raise CaptureError(f"capture session {number} is live; stop it before flushing")
        for number in known:
            self.delete_session(number)

    def close(self) -> None:
        """Close the connections, unless writers use them: then the last writer does."""
        if not self._closed:
            self._closed = True
            self._connection.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(self, number: int, source: str) -> RedisStream:
        keys = StreamKeys(self._prefix, number, source)
        return RedisStream(self._connection, keys, self.store_id)

    def _value(self, name: str, number: int, source: str, otherwise: int) -> int:
        return self._stream(number, source).value(name, otherwise)

    def _counted(self, name: str, number: int, source: str) -> int:
        """Return a count of a session that is there.

        The session is looked for last: one that is being deleted goes before its streams.
        """
        count = self._value(name, number, source, 0)
        self.session(number)
        return count

    def _sweep(self) -> None:
        """Delete the streams of the sessions that were removed."""
        for number, sources in self._register.removed():
            for source in sources:
                self._stream(number, source).delete()
            self._register.forget(number)

    def _fence(self) -> Fence:
        return Fence(secrets.token_hex(16), self._lease_ms)

    def _comes_back(self, number: int) -> bool:
        """Return whether a writer whose lease ran out renews it within as long as a lease."""
        streams = [self._stream(number, spec.source) for spec in self.streams(number)]
        lapsed = [stream for stream in streams if not stream.is_given_up()]
        deadline = time.monotonic() + self._lease_ms / 1000
        while lapsed and time.monotonic() < deadline:
            time.sleep(min(_LOOK_AGAIN_S, self._lease_ms / 1000))
            if any(stream.is_live() for stream in lapsed):
                return True
        return False

    def _take_all(self, number: int, taken: list[tuple[RedisStream, Fence, str]]) -> bool:
        """Seal a session and take its streams; return False when a writer lives after all."""
        for source in self._register.seal(number):
            stream, fence = self._stream(number, source), self._fence()
            try:
                taken.append((stream, fence, stream.take(fence)[1]))
            except StreamLockedError:
                return False
            except (NoSessionError, SessionClosedError):
                continue  # whoever made it, or ended the session, died on the way
        return True

    def _end(self, info: SessionInfo, state: CaptureState, ended_us: int) -> None:
        """End a session: first its streams, so that it takes no data when it is seen ended."""
        sync = store_facts(self._connection).sync(info.level)
        for source in self._register.seal(info.number):
            self._stream(info.number, source).close(sync=sync)
        self._register.end(info.number, state, ended_us, sync=sync)

    def _last_us(self, info: SessionInfo) -> int:
        """Return when a session's last reading that can be read was taken, or its start."""
        streams = [self._stream(info.number, spec.source) for spec in self.streams(info.number)]
        found = [last for stream in streams if (last := stream.last_us()) is not None]
        return max([to_us(info.started), *found])
