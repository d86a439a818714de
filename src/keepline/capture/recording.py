"""The messages of one running session on their way into the store, and who waits for them.

Producers append messages to a list; one thread cuts what has gathered into chunks and writes
them. A group commit costs a message a thousandth of a commit.

Producers take no lock as long as nothing is due, because a lock would double what a message
costs. They rely on list.append being atomic, and on this order: the thread sets a segment's
`limit` to 0 before it counts the messages that it takes, and a producer looks at `limit` after
its append. So either the message is counted, or its producer sees the limit, looks again under
the lock, and puts the message into the next segment. Whatever else a producer has to act upon
(waking the thread, waiting for room) is a limit as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from keepline.capture.chunking import CHUNK_BYTES, CHUNK_MESSAGES, cut
from keepline.capture.segment import Entry, Segment
from keepline.capture.store import StreamWriter
from keepline.errors import (
    CaptureError,
    CaptureTimeoutError,
    CaptureWriteError,
    MessageTooLargeError,
    SpoolFullError,
)
from keepline.model import Chunk

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

#: Messages up to this size cannot fill a chunk's bytes before its count: they are not weighed,
#: and may be appended without the lock.
LIGHT = CHUNK_BYTES // CHUNK_MESSAGES
_MAX_WEIGHT = 64 * 1024 * 1024

#: So many chunks are written at once: few commits, and room again for those who wait.
_BATCH_CHUNKS = 32

#: How often the thread looks after what is not a message, and tries again while it has to wait.
_ROUND_S = 1.0
_PATIENCE_S = 0.2


class Recording:
    """Takes messages for one stream and has them written by a thread of its own.

    It owns `writer`. At most some `max_pending` messages, and 64 MiB, wait to be written;
    then `put` blocks. When a write fails, what was not written is kept and tried again at
    the next call, which also raises. With `patient`, a full spool is no failure: the thread
    tries again and again, and who waits for room goes on waiting. The thread calls
    `each_round` about once a second while it records.
    """

    def __init__(
        self,
        writer: StreamWriter,
        *,
        linger_s: float,
        max_pending: int,
        patient: bool = False,
        each_round: Callable[[], None] | None = None,
    ) -> None:
        self.writer = writer
        self._patient = patient
        self._each_round = each_round
        self._next_round = time.monotonic() + _ROUND_S
        self._linger_s = linger_s
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # the thread waits for something to do
        self._progress = threading.Condition(self._lock)  # others wait for the thread
        self._current = Segment(writer.next_seq)
        #: Where to append without the lock; None when that needs care.
        self.open: Segment | None = self._current
        self._stored = writer.next_seq  # the number after the last stored message
        self._uncut: list[tuple[Segment, dict[int, int]]] = []  # with their ticks
        self._unwritten: list[Chunk] = []
        self._weight = 0  # bytes of the heavier messages that are not stored
        self._gathered = 0  # those of them that no chunk holds yet
        self._ticks: dict[int, int] = {}  # of messages that no chunk holds yet, by number
        self._idle = False  # the thread waits for a first message
        self._urgent = False  # it is not to linger
        self._closed = False  # no more messages are taken
        self._ending = False  # the thread is to end
        self._ended = False
        self._failure: Exception | None = None
        self._obstacle: SpoolFullError | None = None  # what a patient thread waits for
        self._begin()

    @property
    def stored_seq(self) -> int:
        """Return the number of the last stored message, or -1."""
        return self._stored - 1

    @property
    def accepted_seq(self) -> int:
        """Return the number of the last message taken, or -1."""
        with self._lock:
            return self._next() - 1

    def put(self, message: bytes, at_us: int, tick: int | None) -> int | None:
        """Take a message and return its number; None when the recording is closed.

        CaptureServer.queue does the same without the lock for messages that need no care.

        Raises:
            MessageTooLargeError: it has more than 16 MiB.
            CaptureWriteError: earlier messages could not be written; this one is not taken.
        """
        with self._lock:
            if not self._admit((message,)):
                return None
            entry = (message, at_us * 1000)
            segment = self._current
            segment.append(entry)
            seq = segment.base + segment.place(entry)
            if tick is not None:
                self._ticks[seq] = tick
            self._act()
            return seq

    def put_many(
        self, messages: Sequence[bytes], at_us: int, timeout_s: float | None = None
    ) -> int | None:
        """Take messages as one, so that their numbers follow each other; return the last one.

        Otherwise as `put`; without a message, the number of the last one taken. Raises
        CaptureTimeoutError, taking none, when there is no room for `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            if not self._admit(messages, deadline):
                return None
            at_ns = at_us * 1000
            entries = [(message, at_ns) for message in messages]
            segment = self._current
            segment.extend(entries)  # of a list: as atomic as an append
            last = segment.place(entries[-1]) if entries else len(segment) - 1
            self._act()
            return segment.base + last

    @property
    def room(self) -> int:
        """Return how many messages can be taken without waiting.

        A call that would raise or return None instead does not wait either.
        """
        with self._lock:
            if self._closed or self._ended or self._failure is not None:
                return self._max_pending
            return 0 if self._weight > _MAX_WEIGHT else max(0, self._room())

    def look_again(self, segment: Segment, entry: Entry) -> int | None:
        """Return the number of an entry just appended to `segment`, if it counts there.

        Else put it where it does, with the same outcomes as `put`. Acts on what is due.
        """
        with self._lock:
            place = segment.place(entry)
            if segment.taken is None or place < segment.taken:
                self._act()
                return segment.base + place
        message, at_ns = entry
        return self.put(message, at_ns // 1000, None)

    def settle(self) -> None:
        """Have everything written that was taken so far; raises CaptureWriteError.

        It does not wait for a full spool, but raises SpoolFullError.
        """
        with self._lock:
            self._retry()
            self._urgent = True
            self._work.notify()
            self._wait_until(self._next(), None, patient=False)

    def wait(self, seq: int, timeout_s: float | None) -> None:
        """Return once message `seq` is stored.

        Raises CaptureTimeoutError, CaptureWriteError, SpoolFullError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            self._retry()
            self._wait_until(seq + 1, deadline)

    def finish(self) -> None:
        """Take no more messages, write what is left, and end the thread.

        Raises CaptureWriteError or SpoolFullError; then all is as before, and it can be
        called again, unless the error says that messages are given up.
        """
        with self._lock:
            self._close()
        try:
            self.settle()
        except BaseException:
            self._closed = False
            raise
        self.abandon()
        if self._stored < self._next():  # one came in while it closed, and could not be written
            raise self._error()

    def resume(self) -> None:
        """Take messages again after `finish`, as before it."""
        with self._lock:
            self._closed = self._ending = self._ended = False
            self._begin()

    def abandon(self) -> None:
        """Take no more and end the thread; what cannot be written at one more try is lost."""
        with self._lock:
            self._close()
            self._ending = True
            self._work.notify()
        self._thread.join()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="keepline-capture", daemon=True)
        self._thread.start()

    def _admit(self, messages: Sequence[bytes], deadline: float | None = None) -> bool:
        """Wait for room for messages, weigh them, and open up; False when closed."""
        sizes = [len(message) for message in messages if len(message) > LIGHT]
        if max(sizes, default=0) > MAX_MESSAGE_BYTES:
            raise MessageTooLargeError(
                f"a message has {max(sizes)} bytes; a capture store takes at most "
                f"{MAX_MESSAGE_BYTES}"
            )
        needed = max(1, min(len(messages), self._max_pending))
        while not self._closed:
            if self._failure is not None or self._ended:
                error = self._error()
                if not isinstance(self._failure, SpoolFullError):  # the thread itself does
                    self._retry()
                raise error
            if self._room() >= needed and self._weight <= _MAX_WEIGHT:
                break
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise CaptureTimeoutError("there was no room for messages within the given time")
            self._progress.wait(remaining)
        else:
            return False
        self._weight += sum(sizes)
        self._gathered += sum(sizes)
        self.open = self._current
        return True

    def _act(self) -> None:
        """Wake the thread if it is due, seal if the room is used up, and say when to act next."""
        gathered = len(self._current)
        full = gathered >= CHUNK_MESSAGES or self._gathered >= CHUNK_BYTES
        if gathered and (self._idle or full):
            self._work.notify()
        room = self._room()
        if room <= 0:
            self.open = None
        limit = gathered + room if full else min(CHUNK_MESSAGES, gathered + room)
        self._current.limit = limit

    def _room(self) -> int:
        return self._stored + self._max_pending - self._next()

    def _next(self) -> int:
        return self._current.base + len(self._current)

    def _close(self) -> None:
        self._closed = True
        self.open = None
        self._progress.notify_all()

    def _retry(self) -> None:
        if self._failure is not None and not self._ended:
            self._failure = None
            self._work.notify()

    def _wait_until(self, following: int, deadline: float | None, *, patient: bool = True) -> None:
        while self._stored < following:
            if self._failure is not None or self._ended:
                raise self._error()
            if self._obstacle is not None and not patient:
                raise self._obstacle
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise CaptureTimeoutError(
                    f"message {following - 1} was not stored within the given time"
                )
            self._progress.wait(remaining)

    def _error(self) -> CaptureError:
        if isinstance(self._failure, SpoolFullError) and not self._ended:
            return SpoolFullError(str(self._failure))
        count = self._next() - self._stored
        fate = "given up" if self._ended else "kept, and tried again at the next call"
        cause = self._failure or self._obstacle or "the thread that writes them has ended"
        error = CaptureWriteError(f"{count} messages are not stored, but {fate}: {cause}")
        error.__cause__ = self._failure
        return error

    def _run(self) -> None:
        try:
            while self._gather():
                self._write()
                self._look_round()
        finally:
            with self._lock:
                self._ended = True
                self.open = None
                self._progress.notify_all()

    def _write(self) -> None:
        try:
            self._cut()
            batch = self._unwritten[:_BATCH_CHUNKS]
            if batch:
                self.writer.append(batch)
        except SpoolFullError as error:
            self._wait_a_while(error) if self._patient else self._failed(error)
        except Exception as error:  # whatever it is: those who wait must learn of it
            self._failed(error)
        else:
            self._written(batch)

    def _look_round(self) -> None:
        if self._each_round is not None and time.monotonic() >= self._next_round:
            try:
                self._each_round()
            except Exception:  # messages come first
                _log.exception("looking round failed")
            self._next_round = time.monotonic() + _ROUND_S

    def _gather(self) -> bool:
        """Wait for messages and take them over; False when there will be no more.

        It also returns when there are none for so long that it is time to look round.
        """
        with self._lock:
            while self._failure is not None and not self._ending:
                full = isinstance(self._failure, SpoolFullError)
                if not self._work.wait(_ROUND_S if full else None):
                    break  # and try again: the store may be back
            if not self._unwritten and not self._uncut:
                self._linger()
            if self._current or self._ending:
                self._take()
            return bool(self._unwritten or self._uncut or not self._ending)

    def _take(self) -> None:
        segment = self._current
        segment.limit = 0  # before counting: see above
        segment.taken = len(segment)
        self._current = Segment(segment.base + segment.taken)
        self._gathered = 0
        ticks, self._ticks = self._ticks, {}
        if segment.taken:
            self._uncut.append((segment, ticks))
        room = self._room()
        self._current.limit = min(CHUNK_MESSAGES, room)
        self.open = self._current if room > 0 and not self._closed else None

    def _cut(self) -> None:
        # A segment is dropped once all its messages are in chunks, so that a failure loses none.
        while self._uncut:
            segment, ticks = self._uncut[0]
            self._unwritten += list(cut(segment[: segment.taken], segment.base, ticks))
            del self._uncut[0]

    def _linger(self) -> None:
        """Wait for a first message, and then a while for more; the lock is held."""
        segment = self._current
        self._idle = True
        segment.limit = 0  # before looking: a producer looks after its append
        while not segment and not self._ending:
            self._urgent = False
            if not self._work.wait(None if self._each_round is None else _ROUND_S):
                break
        self._idle = False
        segment.limit = min(CHUNK_MESSAGES, len(segment) + self._room())
        due = time.monotonic() + self._linger_s
        while segment and not self._due(segment) and (remaining := due - time.monotonic()) > 0:
            self._work.wait(remaining)

    def _due(self, segment: Segment) -> bool:
        return (
            self._urgent
            or self._ending
            or len(segment) >= CHUNK_MESSAGES
            or self._gathered >= CHUNK_BYTES
        )

    def _written(self, batch: list[Chunk]) -> None:
        with self._lock:
            self._obstacle = self._failure = None
            if batch:
                self._stored = batch[-1].last_seq + 1
                del self._unwritten[: len(batch)]
                self._weight = self._gathered + sum(len(chunk.raw) for chunk in self._unwritten)
                self._progress.notify_all()

    def _wait_a_while(self, error: SpoolFullError) -> None:
        """Let those know who do not want to wait, and wait before the next try."""
        with self._lock:
            self._obstacle = error
            self._progress.notify_all()
            if self._ending:
                self._uncut, self._unwritten = [], []
            else:
                self._work.wait(_PATIENCE_S)

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._failure = error
            self.open = None
            if self._ending:
                self._uncut, self._unwritten = [], []
            self._progress.notify_all()
