"""The messages of one running session on their way into the store, and who waits for them.

Producers append messages to a list; one thread cuts what has gathered into chunks and writes
them. A group commit costs a message a thousandth of a commit.

Producers take no lock as long as nothing is due, because a lock would double what a message
costs. They rely on list.extend with a tuple being atomic, and on this order: the thread sets
a segment's `limit` to 0 before it counts the messages that it takes, and a producer looks at
`limit` after its append. So either the message is counted, or its producer sees the limit,
looks again under the lock, and puts the message into the next segment. Whatever else a
producer has to act upon (waking the thread, waiting for room) is a limit as well.
"""

from __future__ import annotations

import threading
import time

from keepline.capture.chunking import CHUNK_BYTES, CHUNK_MESSAGES, Entries, cut
from keepline.capture.store import StreamWriter
from keepline.errors import CaptureTimeoutError, CaptureWriteError, MessageTooLargeError
from keepline.model import Chunk

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

#: Messages up to this size cannot fill a chunk's bytes before its count: they are not weighed,
#: and may be appended without the lock.
LIGHT = CHUNK_BYTES // CHUNK_MESSAGES
_MAX_WEIGHT = 64 * 1024 * 1024


class Segment:
    """Messages and their times by turns in the order of their numbers, from `base`.

    Those from the place `taken` on do not count; None says that all of them do. An entry is
    known again by its time, an int object that no other entry appended without the lock has.
    From the length `limit` of `entries` on an append is something to act upon. `before` is
    the number before the first one.
    """

    __slots__ = ("base", "before", "entries", "limit", "taken")

    def __init__(self, base: int) -> None:
        self.base = base
        self.before = base - 1
        self.entries: Entries = []
        self.limit = 0
        self.taken: int | None = None

    def __len__(self) -> int:
        return len(self.entries) >> 1

    def place(self, at_us: int) -> int:
        """Return the place of the message that was appended with `at_us` a moment ago."""
        index = len(self.entries) - 1
        while self.entries[index] is not at_us:
            index -= 2
        return index >> 1


class Recording:
    """Takes messages for one stream and has them written by a thread of its own.

    It owns `writer`. At most some `max_pending` messages, and 64 MiB, wait to be written;
    then `put` blocks. When a write fails, what was not written is kept and tried again at
    the next call, which also raises.
    """

    def __init__(self, writer: StreamWriter, *, linger_s: float, max_pending: int) -> None:
        self.writer = writer
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
        self._thread = threading.Thread(target=self._run, name="keepline-capture", daemon=True)
        self._thread.start()

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
            if not self._admit(len(message)):
                return None
            segment = self._current
            segment.entries.extend((message, at_us))
            seq = segment.base + segment.place(at_us)
            if tick is not None:
                self._ticks[seq] = tick
            self._act()
            return seq

    def look_again(self, segment: Segment, message: bytes, at_us: int) -> int | None:
        """Return the number of a message just appended to `segment`, if it counts there.

        Else put it where it does, with the same outcomes as `put`. Acts on what is due.
        """
        with self._lock:
            place = segment.place(at_us)
            if segment.taken is None or place < segment.taken:
                self._act()
                return segment.base + place
        return self.put(message, at_us, None)

    def settle(self) -> None:
        """Have everything written that was taken so far; raises CaptureWriteError."""
        with self._lock:
            self._retry()
            self._urgent = True
            self._work.notify()
            self._wait_until(self._next(), None)

    def wait(self, seq: int, timeout_s: float | None) -> None:
        """Return once message `seq` is stored.

        Raises CaptureTimeoutError, CaptureWriteError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            self._retry()
            self._wait_until(seq + 1, deadline)

    def finish(self) -> None:
        """Take no more messages, write what is left, and end the thread.

        Raises CaptureWriteError; then all is as before, and it can be called again.
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

    def abandon(self) -> None:
        """Take no more and end the thread; what cannot be written at one more try is lost."""
        with self._lock:
            self._close()
            self._ending = True
            self._work.notify()
        self._thread.join()

    def _admit(self, size: int) -> bool:
        """Wait for room for a message, weigh it, and open up; False when closed."""
        if size > MAX_MESSAGE_BYTES:
            raise MessageTooLargeError(
                f"a message has {size} bytes; a capture store takes at most {MAX_MESSAGE_BYTES}"
            )
        while not self._closed:
            if self._failure is not None or self._ended:
                error = self._error()
                self._retry()
                raise error
            if self._room() > 0 and self._weight <= _MAX_WEIGHT:
                break
            self._progress.wait()
        else:
            return False
        if size > LIGHT:
            self._weight += size
            self._gathered += size
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
        self._act_from(gathered + room if full else min(CHUNK_MESSAGES, gathered + room))

    def _act_from(self, messages: int) -> None:
        self._current.limit = 2 * messages

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

    def _wait_until(self, following: int, deadline: float | None) -> None:
        while self._stored < following:
            if self._failure is not None or self._ended:
                raise self._error()
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise CaptureTimeoutError(
                    f"message {following - 1} was not stored within the given time"
                )
            self._progress.wait(remaining)

    def _error(self) -> CaptureWriteError:
        count = self._next() - self._stored
        fate = "given up" if self._ended else "kept, and tried again at the next call"
        cause = self._failure or "the thread that writes them has ended"
        error = CaptureWriteError(f"{count} messages are not stored, but {fate}: {cause}")
        error.__cause__ = self._failure
        return error

    def _run(self) -> None:
        try:
            while self._gather():
                try:
                    self._cut()
                    self.writer.append(self._unwritten)
                except Exception as error:  # whatever it is: those who wait must learn of it
                    self._failed(error)
                else:
                    self._written()
        finally:
            with self._lock:
                self._ended = True
                self.open = None
                self._progress.notify_all()

    def _gather(self) -> bool:
        """Wait for messages and take them over; False when there will be no more."""
        with self._lock:
            while self._failure is not None and not self._ending:
                self._work.wait()
            if not self._unwritten and not self._uncut:
                self._linger()
            segment = self._current
            segment.limit = 0
            segment.taken = len(segment)
            self._current = Segment(segment.base + segment.taken)
            self._gathered = 0
            ticks, self._ticks = self._ticks, {}
            if segment.taken:
                self._uncut.append((segment, ticks))
            room = self._room()
            self._act_from(min(CHUNK_MESSAGES, room))
            self.open = self._current if room > 0 and not self._closed else None
        return bool(self._unwritten or self._uncut)

    def _cut(self) -> None:
        # A segment is dropped once all its messages are in chunks, so that a failure loses none.
        while self._uncut:
            segment, ticks = self._uncut[0]
            entries = segment.entries[: 2 * (segment.taken or 0)]
            self._unwritten += list(cut(entries, segment.base, ticks))
            del self._uncut[0]

    def _linger(self) -> None:
        """Wait for a first message, and then a while for more; the lock is held."""
        segment = self._current
        self._idle = True
        self._act_from(0)  # set before looking: a producer looks after its append
        while not segment.entries and not self._ending:
            self._urgent = False
            self._work.wait()
        self._idle = False
        self._act_from(min(CHUNK_MESSAGES, len(segment) + self._room()))
        due = time.monotonic() + self._linger_s
        while not self._due(segment) and (remaining := due - time.monotonic()) > 0:
            self._work.wait(remaining)

    def _due(self, segment: Segment) -> bool:
        return (
            self._urgent
            or self._ending
            or len(segment) >= CHUNK_MESSAGES
            or self._gathered >= CHUNK_BYTES
        )

    def _written(self) -> None:
        with self._lock:
            self._stored = self._unwritten[-1].last_seq + 1
            self._weight = self._gathered
            self._unwritten = []
            self._progress.notify_all()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._failure = error
            self.open = None
            if self._ending:
                self._uncut, self._unwritten = [], []
            self._progress.notify_all()
