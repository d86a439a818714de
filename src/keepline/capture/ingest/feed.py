"""One source of a session as a way in sees it: room, turns, and what is acknowledged."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from keepline.capture.ingest.sources import Source
from keepline.errors import (
    CaptureTimeoutError,
    CaptureWriteError,
    ChunkConflictError,
    IngestError,
    KeeplineError,
    NoSessionError,
    SessionClosedError,
    SpoolFullError,
    StreamLockedError,
)

_log = logging.getLogger(__name__)

#: What one client may put in before the next one has its turn.
TURN_MESSAGES = 1_000
TURN_BYTES = 256 * 1024

_ROOM_POLL_S = 0.005
_LEVEL_POLL_S = 0.002
_ARCHIVED_POLL_S = 0.1
_CHECK_S = 0.1

#: After these no message of the session will ever be stored.
_FINAL = (NoSessionError, SessionClosedError, StreamLockedError, ChunkConflictError)


class Feed:
    """Puts messages into one source, in turns, and tells when they are safe.

    While the store cannot be written, messages wait, and those who bring them with them:
    nothing is dropped. `take` and `acknowledged` are for the one event loop that serves the
    clients; a way in with a thread of its own uses `take_waiting` instead, and then alone.
    """

    def __init__(self, source: Source, *, archived: bool = False) -> None:
        self._source = source
        self._archived = archived
        self._turn = asyncio.Lock()  # first come, first served
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._poller: asyncio.Task[None] | None = None
        self._outage = False
        self._ended: IngestError | None = None
        self.taken = 0
        self.last = -1

    @property
    def name(self) -> str:
        """Return the source's name."""
        return self._source.spec.source

    @property
    def ended(self) -> IngestError | None:
        """Return why no further message can be stored; None as long as they can."""
        return self._ended

    def offer(self, messages: Sequence[bytes], at_us: int) -> int:
        """Put in the first messages, as many as there is room for; return how many. Never waits.

        Raises IngestError when the session takes no more, ever.
        """
        if self._ended is not None:
            raise IngestError(str(self._ended))
        count = min(self._source.room, len(messages))
        if count == 0:
            return 0
        try:
            # The room may be gone by now: others retry a failed write from threads of their own.
            seq = self._source.queue_many(messages[:count], at_us, timeout_s=0)
        except CaptureTimeoutError:
            return 0
        except (CaptureWriteError, SpoolFullError) as error:
            self._failed(error)
            return 0
        if seq is None:
            self._ended = IngestError("the capture session has ended; start a new one")
            return self.offer(messages, at_us)
        self.last = seq
        self.taken += count
        return count

    async def take(self, messages: Sequence[bytes], at_us: int | None = None) -> int:
        """Put messages in, and return the number of the last one.

        Waits for room, and after each 1,000 messages or 256 KiB for the others' turns. Each
        has the time `at_us`, UTC microseconds since 1970, or now. When cancelled, the first
        of them may be in. Raises IngestError when the session takes no more, ever.
        """
        at_us = time.time_ns() // 1000 if at_us is None else at_us
        seq = self.last
        for batch in _turns(messages):
            async with self._turn:
                while batch:
                    batch = batch[self.offer(batch, at_us) :]
                    if batch:
                        await asyncio.sleep(_ROOM_POLL_S)
                seq = self.last
            await asyncio.sleep(0)  # a free lock would let this client go on and on
        return seq

    def take_waiting(self, messages: Sequence[bytes], stopping: Callable[[], bool]) -> int:
        """Put messages in from a thread, waiting for room; return how many are in.

        These are fewer than all when `stopping` said so meanwhile. Raises as `take` does.
        """
        at_us = time.time_ns() // 1000
        done = 0
        while done < len(messages):
            done += self.offer(messages[done : done + TURN_MESSAGES], at_us)
            if done < len(messages):
                if stopping():
                    break
                time.sleep(_ROOM_POLL_S)
        return done

    async def acknowledged(self, seq: int) -> None:
        """Return once message `seq` has reached the session's level.

        Raises IngestError when it never will.
        """
        if not self._archived and self._source.acknowledged() >= seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (seq, next(self._order), future))
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        await future

    def check(self) -> None:
        """Have a write that failed tried again, and wait a moment for what becomes of it.

        A recording tries again only when it is asked something. For a thread of its own.
        """
        if self._ended is not None or self.last < 0:
            return
        try:
            with suppress(CaptureTimeoutError):
                self._source.wait(self.last, timeout_s=_CHECK_S)
            safe = self._outage and self._source.acknowledged() >= self.last
        except KeeplineError as error:
            self._failed(error)
            return
        if safe:
            self._outage = False
            _log.warning("messages of source %s are stored again", self.name)

    async def _poll(self) -> None:
        """Wake those whose message is safe: one look for all of them."""
        try:
            while self._waiting and self._ended is None:
                reached = await self._reached()
                while self._waiting and self._waiting[0][0] <= reached:
                    _wake(heapq.heappop(self._waiting)[2])
                await asyncio.sleep(_ARCHIVED_POLL_S if self._archived else _LEVEL_POLL_S)
        finally:  # whatever ends it, nobody waits for ever
            error = self._ended or IngestError("it cannot be told whether the message is safe")
            while self._waiting:
                _wake(heapq.heappop(self._waiting)[2], error)

    async def _reached(self) -> int:
        """Return the number of the last message that is safe; -1 while nobody can tell."""
        try:
            if self._archived:  # which only the store knows
                return await asyncio.to_thread(self._source.acknowledged)
            return self._source.acknowledged()
        except KeeplineError as error:
            self._failed(error)
            return -1

    def _failed(self, error: Exception) -> None:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _FINAL):
            cause = cause.__cause__
        if cause is not None:
            self._ended = IngestError(f"no more messages can be taken: {cause}")
        elif not self._outage:
            self._outage = True
            _log.warning("messages of source %s have to wait: %s", self.name, error)


def _turns(messages: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield messages in the parts that one turn may take."""
    for start in range(0, len(messages), TURN_MESSAGES):
        part = messages[start : start + TURN_MESSAGES]
        begin = weight = 0
        for place, message in enumerate(part):
            if weight and weight + len(message) > TURN_BYTES:
                yield part[begin:place]
                begin, weight = place, 0
            weight += len(message)
        yield part[begin:]


def _wake(future: asyncio.Future[None], error: IngestError | None = None) -> None:
    if future.done():  # its client has gone
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(IngestError(str(error)))
