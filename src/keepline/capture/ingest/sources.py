"""Where a way in puts its messages: the sources of one running session."""

from __future__ import annotations

from collections.abc import Sequence
from time import time_ns
from typing import Protocol

from keepline.capture.server import CaptureServer
from keepline.capture.stream_recording import StreamRecording
from keepline.errors import NoSessionError
from keepline.model import StreamSpec

_MAX_PENDING = 65_536


class Source(Protocol):
    """One stream of a running session. A CaptureServer is its session's first."""

    @property
    def spec(self) -> StreamSpec:
        """Return how its messages are read."""

    @property
    def room(self) -> int:
        """Return how many messages it takes now without blocking."""

    def queue_many(
        self,
        messages: Sequence[bytes],
        at_us: int | None = None,
        *,
        timeout_s: float | None = None,
    ) -> int | None:
        """Take messages, all or none, and return the number of the last one.

        Raises CaptureTimeoutError when there is no room for them for `timeout_s` seconds.
        """

    def acknowledged(self) -> int:
        """Return the number of the last message that has reached the session's level, or -1."""

    def wait(self, seq: int, *, timeout_s: float) -> None:
        """Have a write that failed tried again, and return once message `seq` is stored.

        A CaptureServer waits for its session's level. Raises as CaptureServer.wait does.
        """


class ExtraSource:
    """A further source of the session that `server` is recording.

    Raises NoSessionError when that is recording none, and what the store's `add_stream` does.
    """

    def __init__(self, server: CaptureServer, spec: StreamSpec, *, linger_s: float) -> None:
        session = server.session
        if session is None:
            raise NoSessionError("no capture session is running on this handle")
        self.spec = spec
        self._level = session.level
        server.store.add_stream(session.number, spec)
        writer = server.store.open_writer(session.number, spec.source)
        self._recording = StreamRecording(
            server.store,
            writer,
            spec,
            server.spool,
            linger_s=linger_s,
            max_pending=_MAX_PENDING,
        )

    @property
    def room(self) -> int:
        """Return how many messages it takes now without blocking."""
        return self._recording.room

    def queue_many(
        self,
        messages: Sequence[bytes],
        at_us: int | None = None,
        *,
        timeout_s: float | None = None,
    ) -> int | None:
        """Take messages, all or none, and return the number of the last one; see Source."""
        at_us = time_ns() // 1000 if at_us is None else at_us
        return self._recording.put_many(messages, at_us, timeout_s)

    def acknowledged(self) -> int:
        """Return the number of the last message that has reached the session's level, or -1."""
        return self._recording.acknowledged(self._level)

    def wait(self, seq: int, *, timeout_s: float) -> None:
        """Return once message `seq` is stored; see Source."""
        self._recording.wait(seq, timeout_s)

    @property
    def lossy(self) -> bool:
        """Return whether some of its messages are lost."""
        return self._recording.lossy

    def finish(self) -> None:
        """Write what is left and give the stream up.

        Raises CaptureWriteError when that cannot be written, or brought from the spool; then
        all is as before, and it can be called again.
        """
        self._recording.finish()
        try:
            self._recording.writer.drain()
            self._recording.writer.close()
        except BaseException:
            self._recording.resume()
            raise

    def abandon(self) -> None:
        """Give the stream up; what cannot be written at one more try is lost."""
        self._recording.abandon()
        self._recording.writer.close()
