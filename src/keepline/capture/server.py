"""Recording messages into capture sessions."""

from __future__ import annotations

import atexit
import logging
import operator
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from time import time_ns
from types import TracebackType
from typing import Self

from keepline.capture.recording import LIGHT, Recording
from keepline.capture.store import CaptureStore
from keepline.errors import (
    CaptureError,
    CaptureTimeoutError,
    NoSessionError,
    UnsupportedLevelError,
)
from keepline.model import CaptureState, Level, SessionInfo, StreamSpec, to_us, utc_now

_log = logging.getLogger(__name__)
_INT64 = 1 << 63
_FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US = to_us(datetime.max.replace(tzinfo=UTC))
_POLL_S = 0.02


class CaptureServer:
    """A handle that records one source of an instrument, one session after another.

    `queue`, `stop_session`, `wait` and `acknowledged` act on the session that this handle
    started; sessions of other handles, in this process or others, run beside it. The
    methods that read see every session of the store, and what this handle queued before.
    All methods may be called from any thread.

    `spec` says how the messages are read later (JSON objects when None). A chunk is committed
    at 1,000 messages, 64 KiB, or `linger_s` after its first message. When `max_pending`
    messages wait to be written, `queue` blocks.

    As a context manager it ends a running session on leaving: as complete or empty, or as
    interrupted when the block raised.
    """

    def __init__(
        self,
        store: CaptureStore,
        instrument: str,
        source: str = "main",
        *,
        user: str = "",
        spec: StreamSpec | None = None,
        linger_s: float = 0.2,
        max_pending: int = 65_536,
    ) -> None:
        self.store = store
        self.instrument = instrument
        self.user = user
        self.spec = replace(spec or StreamSpec(), source=source)
        self._linger_s = linger_s
        self._max_pending = max(1, max_pending)
        self._mutex = threading.RLock()  # a session is started and ended by one at a time
        self._recording: Recording | None = None  # the running session's
        self._latest: Recording | None = None  # that of the last session started

    @property
    def session(self) -> SessionInfo | None:
        """Return the session that this handle is recording, as it was at its start."""
        recording = self._recording
        return None if recording is None else recording.writer.session

    def start_session(self, *, origin: str | None = None, started: datetime | None = None) -> int:
        """Start a session and return its number, which is never given out again.

        `started` is an aware time (now when None); `origin` names what is captured when that
        has a name of its own, so that it is captured once only.

        Raises:
            AlreadyCapturedError: this instrument has a running or complete session of `origin`.
            CaptureError: this handle is recording a session already.
        """
        with self._mutex:
            if self._recording is not None:
                number = self._recording.writer.session.number
                raise CaptureError(f"capture session {number} is running; stop it first")
            writer = self.store.create_session(
                self.instrument, self.user, self.spec, started=started or utc_now(), origin=origin
            )
            recording = Recording(writer, linger_s=self._linger_s, max_pending=self._max_pending)
            atexit.register(recording.settle)  # its thread is a daemon, which would be cut off
            self._recording = self._latest = recording
            return writer.session.number

    def queue(
        self,
        message: bytes | str,
        at: datetime | None = None,
        *,
        tick: int | None = None,
        at_us: int | None = None,
    ) -> int | None:
        """Take one message and return its sequence number in the session.

        Returns at once, with the message accepted and not yet stored; see `wait`. Its time is
        `at`, an aware datetime, or `at_us`, UTC microseconds since 1970, or now. `tick` is the
        device's own counter. Text is kept as UTF-8. Without a running session nothing is
        stored: a warning is logged and None returned.

        Raises:
            MessageTooLargeError: the message has more than 16 MiB.
            CaptureWriteError: earlier messages could not be written; this one is not taken.
            TypeError: `at_us` or `tick` is no whole number, or the message neither bytes nor text.
        """
        recording = self._recording
        if type(message) is bytes and at is None and at_us is None and tick is None and recording:
            # See recording.py: no lock as long as nothing is due, and no call, which would
            # cost as much as the rest.
            segment = recording.open
            if segment is not None and len(message) <= LIGHT:
                now_us = time_ns() // 1000
                entries = segment.entries
                entries.extend((message, now_us))
                length = len(entries)
                if length < segment.limit and entries[-1] is now_us:
                    return segment.before + (length >> 1)
                return self._said(recording.look_again(segment, message, now_us))
        if at_us is None:
            at_us = time_ns() // 1000 if at is None else to_us(at)
        else:
            at_us = operator.index(at_us)
            if not _FIRST_US <= at_us <= _LAST_US:
                raise ValueError("at_us is UTC microseconds since 1970, from year 1 to 9999")
        if tick is not None:
            tick = operator.index(tick)
            if not -_INT64 <= tick < _INT64:
                raise ValueError("a tick has to fit 64 bits")
        payload = _encoded(message)
        return self._said(None if recording is None else recording.put(payload, at_us, tick))

    def wait(self, seq: int, level: Level = "stored", timeout_s: float | None = None) -> None:
        """Return once message `seq` of this handle's latest session has reached `level`.

        Raises:
            CaptureTimeoutError: it has not within `timeout_s` seconds.
            CaptureWriteError: it could not be written.
            UnsupportedLevelError: the store does not keep this level.
            ValueError: no message has this number yet.
        """
        recording = self._require(level)
        if seq > recording.accepted_seq:
            raise ValueError(f"no message has the number {seq} yet")
        if level == "accepted":
            return
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        recording.wait(seq, timeout_s)
        while level == "archived" and self.acknowledged(level) < seq:
            if deadline is not None and time.monotonic() >= deadline:
                raise CaptureTimeoutError(f"message {seq} was not archived in {timeout_s:g} s")
            time.sleep(_POLL_S)

    def acknowledged(self, level: Level = "stored") -> int:
        """Return the number of the last message that has reached `level`, or -1.

        It is about this handle's latest session, and so are all messages before that one.

        Raises UnsupportedLevelError, or NoSessionError before the first session.
        """
        recording = self._require(level)
        if level == "archived":
            return self.store.archived(recording.writer.session.number, recording.writer.source)
        return recording.accepted_seq if level == "accepted" else recording.stored_seq

    def stop_session(
        self, *, ended: datetime | None = None, state: CaptureState | None = None
    ) -> SessionInfo:
        """Write what is left, end this handle's session for good, and return it.

        It ends now, or at `ended`; as complete, or empty when it has no message, unless
        `state` says otherwise.

        Raises:
            NoSessionError: this handle is recording no session.
            CaptureWriteError: not everything could be written; the session goes on.
        """
        with self._mutex:
            recording = self._recording
            if recording is None:
                raise NoSessionError("no capture session is running on this handle")
            recording.finish()
            session = recording.writer.session
            if state is None:
                state = "complete" if recording.stored_seq >= 0 else "empty"
            # While the writer's lock is held: nobody may take the session for an orphan.
            info = self.store.close_session(
                session.number, state, ended or max(utc_now(), session.started)
            )
            self._release(recording)
            return info

    def close(self) -> None:
        """End a running session as interrupted and release it, whatever can be written."""
        with self._mutex:
            recording = self._recording
            if recording is None:
                return
            try:
                self.stop_session(state="interrupted")
            finally:
                # Left running when nothing can be written: `recover` ends it later.
                recording.abandon()
                self._release(recording)

    def get_all_from_session(self, session_id: int) -> list[bytes]:
        """Return all messages of this source in a session, in order; raises NoSessionError."""
        self._settle()
        self.store.session(session_id)
        chunks = self.store.chunks(session_id, self.spec.source)
        return [message for chunk in chunks for message in chunk.messages()]

    def get_latest_from_session(self, session_id: int) -> bytes | None:
        """Return the last message of this source in a session, or None when it has none yet.

        Reading takes nothing away: any number of callers get the same. Raises NoSessionError.
        """
        self._settle()
        return next(iter(self.store.last_messages(session_id, self.spec.source, 1)), None)

    def get_ten_from_session(self, session_id: int | None = None) -> list[bytes]:
        """Return the last ten messages of this source, oldest first.

        None means the session that this handle started last. Raises NoSessionError.
        """
        self._settle()
        if session_id is None:
            session_id = self._require("accepted").writer.session.number
        return self.store.last_messages(session_id, self.spec.source, 10)

    def available_sessions(self) -> list[int]:
        """Return the numbers of all sessions in the store, running ones too, in order."""
        return [info.number for info in self.store.sessions()]

    def build_client_session_list(self) -> list[list[float | None]]:
        """Return ``[number, start, end, number of messages]`` for each session in the store.

        Times are UNIX timestamps in seconds with their fraction; the end of a running session
        is None.
        """
        self._settle()
        return [
            [
                info.number,
                info.started.timestamp(),
                None if info.ended is None else info.ended.timestamp(),
                sum(
                    self.store.message_count(info.number, spec.source)
                    for spec in self.store.streams(info.number)
                ),
            ]
            for info in self.store.sessions()
        ]

    def delete_session(self, session_id: int) -> None:
        """Remove a session and all its data; its number is not used again.

        Raises NoSessionError, or CaptureError when the session is live.
        """
        self.store.delete_session(session_id)

    def flush(self) -> None:
        """Remove all sessions and their data from the store, for good.

        Raises CaptureError, removing nothing, when a session is live.
        """
        self.store.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._mutex:
            try:
                if kind is None and self._recording is not None:
                    self.stop_session()
            finally:
                self.close()

    def _said(self, seq: int | None) -> int | None:
        if seq is None:
            _log.warning("no capture session is running on %s: not stored", self.instrument)
        return seq

    def _settle(self) -> None:
        recording = self._recording
        if recording is not None:
            recording.settle()

    def _release(self, recording: Recording) -> None:
        self._recording = None
        atexit.unregister(recording.settle)
        recording.writer.close()

    def _require(self, level: Level) -> Recording:
        if level not in self.store.levels:
            raise UnsupportedLevelError(
                f"the capture store does not keep the level {level!r}; "
                f"it keeps {', '.join(self.store.levels)}"
            )
        if self._latest is None:
            raise NoSessionError("this handle has started no capture session")
        return self._latest


def _encoded(message: object) -> bytes:
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    raise TypeError(f"a message is bytes or text, not {type(message).__name__}")
