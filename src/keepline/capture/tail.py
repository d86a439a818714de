"""What a stream takes in, as it comes: for live displays and for whoever copies it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.declared import DeclaredDecoder
from keepline.capture.decoders.decoder import Decoded
from keepline.capture.store import CaptureStore
from keepline.errors import ChunkDamagedError, NoSessionError, TrimmedError
from keepline.model import CaptureState, Chunk, Loss, to_us, utc_now

#: So many chunks are remembered, to find the place at which a store that went back agrees.
_REMEMBERED = 256

#: An item has so many messages from the archive.
_ARCHIVED = 1_000


class RawMessages(Protocol):
    """What is needed of an archive: the messages that a capture store has no longer."""

    def raw_messages(
        self, session: int | str, source: str = "main", from_seq: int = 0
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield (number, time in UTC microseconds, bytes) of each message, in order."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What comes next of a stream: some messages, a loss, or news of the session or the store.

    The messages have the numbers from `first_seq` on, without a hole, and `times_us` (int64,
    UTC microseconds). A `loss` says which numbers, from `first_seq` on, are not there, and why.
    A number means what it says within its `epoch` only: where another epoch begins, there is
    an item without messages that has the number to go on at, and, as its loss, what the store
    had before and has no longer. To go on later, ask from `next_seq`. `state` is the session's.
    """

    epoch: str
    first_seq: int
    next_seq: int
    messages: tuple[bytes, ...]
    times_us: NDArray[np.int64]
    loss: Loss | None
    state: CaptureState


def tail(
    store: CaptureStore,
    session: int,
    from_seq: int = 0,
    *,
    source: str = "main",
    epoch: str | None = None,
    follow: bool = False,
    poll_s: float = 0.1,
    archive: RawMessages | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Tail]:
    """Yield what a stream has from `from_seq` on, a chunk at a time.

    It ends with what is there or, with `follow`, when the session has ended and all was given,
    or `stop` is set; the last item of an ended session says how it ended. While nothing comes,
    the store is asked every `poll_s` seconds. `epoch` is that of the item at which an earlier
    call left off: when the store has another one by now, or does not reach `from_seq`, the
    first item says so. Messages that were trimmed from the store come from `archive`.

    Raises:
        NoSessionError: there is no such session, it was deleted meanwhile, or it has no such
            source; one that may still come is waited for with `follow`.
        TrimmedError: messages from `from_seq` on are in the archive only, and none was given.
        ValueError: `from_seq` is negative.
    """
    if from_seq < 0:
        raise ValueError("messages are numbered from 0 on")
    if not follow and source not in {spec.source for spec in store.streams(session)}:
        raise NoSessionError(f"capture session {session} has no source {source!r}")
    reader = _Reader(store, session, source, from_seq, epoch, archive)
    stop = stop or threading.Event()
    while not stop.is_set():
        # The state first: what an ended session has does not grow.
        reader.state = store.session(session).state
        yield from reader.renewed()
        yield from reader.stored(stop)
        if not reader.at_end:
            continue
        if reader.state != "running":
            yield reader.item(reader.position)
        if reader.state != "running" or not follow:
            return
        stop.wait(poll_s)


class _Reader:
    """A place in a stream, and what is known of the way to it."""

    def __init__(
        self,
        store: CaptureStore,
        session: int,
        source: str,
        position: int,
        epoch: str | None,
        archive: RawMessages | None,
    ) -> None:
        self._store, self._session, self._source = store, session, source
        self._epoch = epoch
        self._archive = archive
        self._given: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # first number and CRC
        self.position = position
        self.state: CaptureState = "running"
        self.at_end = False

    def renewed(self) -> Iterator[Tail]:
        """Yield an item when the store is not in the epoch that it was, or does not reach here."""
        epoch = self._store.epoch
        end = self._store.next_seq(self._session, self._source)
        if epoch == self._epoch and self.position <= end:
            return
        known, self._epoch = self._epoch, epoch
        if known is None:  # nobody said that the store ever had more
            return
        before = self.position
        self.position = min(self._agreed(), end)
        lost = None
        if self.position < before:
            reason = "the store went back behind these messages"
            lost = Loss(self.position, before - 1, reason, to_us(utc_now()))
        yield self.item(self.position, lost)

    def stored(self, stop: threading.Event) -> Iterator[Tail]:
        """Yield what the store has from the position on."""
        self.at_end = False
        while not stop.is_set():
            # The end first: what lies before it and does not come then is missing.
            end = self._store.next_seq(self._session, self._source)
            if self.position >= end:
                self.at_end = True
                return
            try:
                for chunk in self._store.chunks(self._session, self._source, self.position):
                    if self._store.epoch != self._epoch:
                        return
                    yield from self._missing(chunk.first_seq)
                    yield self._messages(chunk)
                    if stop.is_set():
                        return
                yield from self._missing(end)
            except ChunkDamagedError as error:
                yield from self._missing(error.first_seq)
                yield self._lost(self.position, error.last_seq, "the stored chunk is damaged")

    def item(self, next_seq: int, loss: Loss | None = None) -> Tail:
        """Return an item without messages at the position."""
        nothing = np.empty(0, np.int64)
        epoch = self._epoch or ""
        return Tail(epoch, self.position, next_seq, (), nothing, loss, self.state)

    def _messages(self, chunk: Chunk) -> Tail:
        skipped = max(0, self.position - chunk.first_seq)
        messages = tuple(chunk.messages())[skipped:]
        times = np.frombuffer(chunk.times_us, np.int64)[skipped:]
        self._given.append((chunk.first_seq, chunk.crc))
        return self._given_on(messages, times)

    def _given_on(self, messages: tuple[bytes, ...], times_us: NDArray[np.int64]) -> Tail:
        first, self.position = self.position, self.position + len(messages)
        epoch = self._epoch or ""
        return Tail(epoch, first, self.position, messages, times_us, None, self.state)

    def _from_archive(self, last_seq: int) -> Iterator[Tail]:
        """Yield the archive's messages from the position to `last_seq`, a thousand at a time."""
        if self._archive is None:
            raise TrimmedError(
                f"messages {self.position} to {last_seq} of session {self._session} are no "
                "longer in the capture store; the archive has them"
            )
        rows = self._archive.raw_messages(self._session, self._source, self.position)
        gathered: list[tuple[int, int, bytes]] = []
        for row in takewhile(lambda each: each[0] <= last_seq, rows):
            if gathered and (row[0] != gathered[-1][0] + 1 or len(gathered) == _ARCHIVED):
                yield from self._archived(gathered)
                gathered = []
            gathered.append(row)
        yield from self._archived(gathered)

    def _archived(self, rows: list[tuple[int, int, bytes]]) -> Iterator[Tail]:
        if rows:
            yield from self._holes(rows[0][0])
            times = np.array([row[1] for row in rows], np.int64)
            yield self._given_on(tuple(row[2] for row in rows), times)

    def _missing(self, end: int) -> Iterator[Tail]:
        """Yield what is not in the store from the position to before `end`, or that it is lost."""
        if self.position >= end:
            return
        trimmed = self._store.trimmed(self._session, self._source)
        if self.position <= trimmed:
            yield from self._from_archive(min(trimmed, end - 1))
        yield from self._holes(end)

    def _holes(self, end: int) -> Iterator[Tail]:
        """Yield a loss for each part from the position to before `end`."""
        for loss in self._store.losses(self._session, self._source):
            if loss.last_seq < self.position or loss.first_seq >= end:
                continue
            yield from self._unexplained(min(loss.first_seq, end))
            yield self._lost(self.position, min(loss.last_seq, end - 1), loss.reason, loss.at_us)
        yield from self._unexplained(end)

    def _unexplained(self, end: int) -> Iterator[Tail]:
        if self.position < end:
            yield self._lost(self.position, end - 1, "the capture store does not have it")

    def _lost(self, first: int, last: int, reason: str, at_us: int | None = None) -> Tail:
        loss = Loss(first, last, reason, to_us(utc_now()) if at_us is None else at_us)
        item = self.item(last + 1, loss)
        self.position = last + 1
        return item

    def _agreed(self) -> int:
        """Return the number up to which the store still has what was given."""
        while self._given:
            first, crc = self._given[-1]
            if first <= self._store.trimmed(self._session, self._source):
                return self.position
            if self._crc(first) == crc:
                return self.position
            self._given.pop()
            self.position = first
        return self.position

    def _crc(self, first: int) -> int | None:
        try:
            chunk = next(self._store.chunks(self._session, self._source, first), None)
        except ChunkDamagedError:
            return None
        return None if chunk is None or chunk.first_seq != first else chunk.crc


@dataclass(frozen=True, slots=True)
class LiveValues:
    """The values of some messages: their times (int64, UTC microseconds), and the columns.

    Rejected messages have no row. `item` is what they were decoded from.
    """

    item: Tail
    times_us: NDArray[np.int64]
    decoded: Decoded


def live_values(
    store: CaptureStore, session: int, items: Iterator[Tail], *, source: str = "main"
) -> Iterator[LiveValues]:
    """Yield the values of the messages that `tail` yields, by the stream's own decoder.

    Items without messages are yielded with no columns. Raises NoSessionError, and DecodeError
    or PluginError when the decoder cannot be used.
    """
    spec = next((each for each in store.streams(session) if each.source == source), None)
    decode: Callable[[tuple[bytes, ...]], Decoded]
    decode = DeclaredDecoder(spec, {}).decode if spec is not None else lambda _: Decoded(0, {})
    for item in items:
        decoded = decode(item.messages) if item.messages else Decoded(0, {})
        times = decoded.times_us
        if times is None:
            times = np.delete(item.times_us, [place for place, _, _ in decoded.rejected])
        yield LiveValues(item, times, decoded)
