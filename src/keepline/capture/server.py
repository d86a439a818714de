"""Recording messages into capture sessions."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Self

from keepline.capture.messages import checked_tick, checked_us, payload_of
from keepline.capture.reader import SessionReader
from keepline.capture.recording import LIGHT
from keepline.capture.store import CaptureStore
from keepline.capture.stream_recording import StreamRecording
from keepline.errors import (
    CaptureError,
    CaptureTimeoutError,
    CaptureWriteError,
    NoSessionError,
    SpoolFullError,
    UnsupportedLevelError,
)
from keepline.model import LEVELS, CaptureState, Level, SessionInfo, StreamSpec, to_us, utc_now

if TYPE_CHECKING:
    from keepline.capture.spool import Spool

_log = logging.getLogger(__name__)
_POLL_S = 0.02


class CaptureServer(SessionReader):
    """A handle that records one source of an instrument, one session after another.

    `queue`, `stop_session`, `wait` and `acknowledged` act on the session that this handle
    started; sessions of other handles, in this process or others, run beside it. The
    methods that read see every session of the store, and what this handle queued before.
    All methods may be called from any thread.

    `spec` says how the messages are read later (JSON objects when None). A chunk is committed
    at 1,000 messages, 64 KiB, or `linger_s` after its first message. When `max_pending`
    messages wait to be written, `queue` blocks.

    While the store is out of reach messages are kept in `spool`, and brought to the store when
    it is back; a full spool blocks, raises SpoolFullError, or drops messages, as it is set. A
    drop is noted in the store as a loss with its range, and so is what the store itself has
    lost, such as after it was restored from an old copy. Numbers are never given out again.
    Without a spool messages are kept in memory and tried again at the next call, which raises.

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
        spool: Spool | None = None,
    ) -> None:
        super().__init__(store, replace(spec or StreamSpec(), source=source))
        self.spool = spool
        self.instrument = instrument
        self.user = user
        self._linger_s = linger_s
        self._max_pending = max(1, max_pending)
        self._mutex = threading.RLock()  # a session is started and ended by one at a time
        self._recording: StreamRecording | None = None  # the running session's
        self._latest: StreamRecording | None = None  # that of the last session started
        self._stop_requested = False

    @property
    def session(self) -> SessionInfo | None:
        """Return the session that this handle is recording, as it was at its start."""
        recording = self._recording
        return None if recording is None else recording.writer.session

    @property
    def stop_requested(self) -> bool:
        """Return whether somebody asked to end this handle's session.

        Whoever feeds it looks here, stops feeding it and calls `stop_session`, so that nothing
        accepted is lost. A request is seen within some seconds.
        """
        return self._stop_requested and self._recording is not None

    def start_session(
        self,
        *,
        origin: str | None = None,
        started: datetime | None = None,
        level: Level | None = None,
    ) -> int:
        """Start a session and return its number, which is never given out again.

        `started` is an aware time (now when None); `origin` names what is captured when that
        has a name of its own, so that it is captured once only. `level` is how safe what is
        acknowledged has to be, the store's default when None.

        Raises:
            AlreadyCapturedError: this instrument has a running or complete session of `origin`.
            CaptureError: this handle is recording a session already.
            UnsupportedLevelError: the store cannot keep this level; the message says why.
            CaptureWriteError: the store is out of reach. A spool does not help here: only the
                store can give a session its number.
        """
        with self._mutex:
            if self._recording is not None:
                number = self._recording.writer.session.number
                raise CaptureError(f"capture session {number} is running; stop it first")
            writer = self.store.create_session(
                self.instrument,
                self.user,
                self.spec,
                started=started or utc_now(),
                origin=origin,
                level=level,
            )
            self._stop_requested = False
            recording = StreamRecording(
                self.store,
                writer,
                self.spec,
                self.spool,
                linger_s=self._linger_s,
                max_pending=self._max_pending,
                each_round=self._look_for_a_stop,
            )
            atexit.register(recording.settle)  # its thread is a daemon, which would be cut off
            self._recording = self._latest = recording
            return writer.session.number

    def queue(
        self,
        message: bytes | str,
        at: datetime | None = None,
        tick: int | None = None,  # by name only would cost a call a tenth more
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
        if (
            type(message) is bytes
            and at is None
            and tick is None
            and at_us is None
            and recording is not None
        ):
            # See recording.py: no lock as long as nothing is due, and no call, which would
            # cost as much as the rest.
            segment = recording.open
            if segment is not None and len(message) <= LIGHT:
                entry = (message, time_ns())
                segment.append(entry)
                length = len(segment)
                if length < segment.limit and segment[-1] is entry:
                    return segment.before + length
                return self._said(recording.look_again(segment, entry))
        if at_us is None:
            at_us = time_ns() // 1000 if at is None else to_us(at)
        else:
            at_us = checked_us(at_us)
        if tick is not None:
            tick = checked_tick(tick)
        payload = payload_of(message)
        return self._said(None if recording is None else recording.put(payload, at_us, tick))

    def queue_many(
        self,
        messages: Sequence[bytes | str],
        at_us: int | None = None,
        *,
        timeout_s: float | None = None,
    ) -> int | None:
        """Take messages in one call and return the sequence number of the last one.

        All or none are taken, and no other message comes between them. Each has the time
        `at_us`, UTC microseconds since 1970, or now. Blocks while there is no `room` for all
        of them; more than `max_pending` wait until no other message is pending. Otherwise as
        `queue`, and raises as it does; and CaptureTimeoutError, with none taken, when there is
        no room for `timeout_s` seconds: with 0 it never waits for the store.
        """
        recording = self._recording
        at_us = time_ns() // 1000 if at_us is None else checked_us(at_us)
        payloads = [payload_of(message) for message in messages]
        return self._said(
            None if recording is None else recording.put_many(payloads, at_us, timeout_s)
        )

    @property
    def room(self) -> int:
        """Return how many messages `queue` or `queue_many` takes now without blocking.

        It is at most `max_pending`, also when a call would raise, or warn, at once.
        """
        recording = self._recording
        return self._max_pending if recording is None else recording.room

    def wait(self, seq: int, level: Level | None = None, timeout_s: float | None = None) -> None:
        """Return once message `seq` of this handle's latest session has reached `level`.

        None means the session's own level. What the spool holds counts as stored: it survives
        a kill of this process as well.

        Raises:
            CaptureTimeoutError: it has not within `timeout_s` seconds.
            CaptureWriteError: it could not be written, or was dropped.
            UnsupportedLevelError: the session does not keep this level.
            ValueError: no message has this number yet.
        """
        recording = self._require_latest()
        level = self._kept(recording, level)
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

    def acknowledged(self, level: Level | None = None) -> int:
        """Return the number of the last message that has reached `level`, or -1.

        None means the session's own level. It is about this handle's latest session, and so
        are all messages before that one, but those that the store's `losses` name. What the
        spool holds counts as stored.

        Raises UnsupportedLevelError, or NoSessionError before the first session.
        """
        recording = self._require_latest()
        return recording.acknowledged(self._kept(recording, level))

    def stop_session(
        self, *, ended: datetime | None = None, state: CaptureState | None = None
    ) -> SessionInfo:
        """Write what is left, end this handle's session for good, and return it.

        It ends now, or at `ended`; as complete, as partial when messages are lost, or as empty
        when it has none, unless `state` says otherwise.

        Raises:
            NoSessionError: this handle is recording no session.
            CaptureWriteError: not everything could be written, or brought from the spool; the
                session goes on.
        """
        with self._mutex:
            recording = self._recording
            if recording is None:
                raise NoSessionError("no capture session is running on this handle")
            recording.finish()
            try:
                info = self._end(recording, ended, state)
            except BaseException:
                recording.resume()
                raise
            self._release(recording)
            return info

    def close(self) -> None:
        """End a running session as interrupted and release it, whatever can be written.

        Raises CaptureWriteError, which says what is lost, when it could not be ended: `recover`
        ends it later.
        """
        with self._mutex:
            recording = self._recording
            if recording is None:
                return
            try:
                self.stop_session(state="interrupted")
            except (CaptureWriteError, SpoolFullError) as error:
                recording.abandon()  # which is one more try
                raise _not_ended(recording, error) from error
            finally:
                recording.abandon()
                self._release(recording)

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

    def _end(
        self,
        recording: StreamRecording,
        ended: datetime | None,
        state: CaptureState | None,
    ) -> SessionInfo:
        """End the session of a finished recording, in which all has to be."""
        recording.writer.drain()
        session = recording.writer.session
        if state is None:
            state = _outcome(recording)
        # While the writer's lock is held: nobody may take the session for an orphan.
        return self.store.close_session(
            session.number, state, ended or max(utc_now(), session.started)
        )

    def _release(self, recording: StreamRecording) -> None:
        self._recording = None
        atexit.unregister(recording.settle)
        recording.writer.close()

    def _look_for_a_stop(self) -> None:
        """See whether the session's end was asked for; called by the writing thread."""
        recording = self._recording
        if recording is not None and not recording.writer.spooling and not self._stop_requested:
            with suppress(CaptureError):
                self._stop_requested = self.store.stop_requested(recording.writer.session.number)

    def _latest_number(self) -> int:
        return self._require_latest().writer.session.number

    def _require_latest(self) -> StreamRecording:
        if self._latest is None:
            raise NoSessionError("this handle has started no capture session")
        return self._latest

    def _kept(self, recording: StreamRecording, level: Level | None) -> Level:
        """Return the level that is meant, if the session keeps it."""
        own = recording.writer.session.level
        if level is None:
            return own
        if level == "archived" or LEVELS.index(level) <= LEVELS.index(own):
            return level
        raise UnsupportedLevelError(
            f"the capture session was started with the level {own!r} and does not keep {level!r}"
        )


def _not_ended(recording: StreamRecording, error: CaptureError) -> CaptureWriteError:
    """Return what to say of a session that its recorder has given up and could not end."""
    lost = recording.accepted_seq - recording.stored_seq
    reason = error.__cause__ if isinstance(error.__cause__, CaptureError) else error
    return CaptureWriteError(
        f"capture session {recording.writer.session.number} could not be ended"
        f"{f', and {lost} messages are lost' if lost else ''}: {reason}; "
        "`keepline capture recover` ends it when the store is back"
    )


def _outcome(recording: StreamRecording) -> CaptureState:
    if recording.lossy:
        return "partial"
    return "complete" if recording.stored_seq >= 0 else "empty"
