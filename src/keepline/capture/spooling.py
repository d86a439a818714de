"""Writing one stream through outages of its store."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from keepline.capture.spool import batches
from keepline.errors import (
    CaptureError,
    CaptureWriteError,
    ChunkConflictError,
    SpoolFullError,
    StreamLockedError,
)
from keepline.model import Chunk, Loss, SessionInfo, StreamSpec, to_us, utc_now

if TYPE_CHECKING:
    from keepline.capture.spool import Spool, SpooledStream
    from keepline.capture.store import Appended, CaptureStore, StreamWriter

_log = logging.getLogger(__name__)

WENT_BACK = "the capture store went back behind what it had acknowledged"
_FIRST_RETRY_S = 0.25
_LAST_RETRY_S = 5.0


class SpoolingWriter:
    """A StreamWriter of `store` that keeps what it cannot deliver in `spool`, if there is one.

    It takes `writer` over. While the store is out of reach chunks go to the spool, and go on
    doing so until that is drained, so that their order holds. When the spool is full and set
    to drop, messages are dropped from there on until the store is back, and then noted as one
    loss. What the store has lost of what it had is noted as a loss as well.
    """

    def __init__(
        self, store: CaptureStore, writer: StreamWriter, spec: StreamSpec, spool: Spool | None
    ) -> None:
        self.session: SessionInfo = writer.session
        self.source: str = writer.source
        self.next_seq: int = writer.next_seq
        #: The losses noted by this writer, and the one that is to be noted, in order.
        self.losses: tuple[Loss, ...] = ()
        self._store = store
        self._writer = writer
        self._spec = spec
        self._spool = spool
        self._stream: SpooledStream | None = None  # what is not delivered yet
        self._dropped: Loss | None = None  # not noted anywhere yet
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S

    @property
    def spooling(self) -> bool:
        """Return whether there is something that the store does not have."""
        return self._stream is not None or self._dropped is not None

    @property
    def safe_seq(self) -> int:
        """Return the number of the last message that is kept, or noted as lost; or -1."""
        return (self.next_seq if self._dropped is None else self._dropped.first_seq) - 1

    def append(self, chunks: Sequence[Chunk]) -> list[Appended]:
        """Store consecutive chunks, or keep them in the spool; see StreamWriter.

        Raises SpoolFullError when the spool is full, unless it is set to drop.
        """
        try:
            if self.spooling and time.monotonic() >= self._retry_at:
                self._try()
            if not self.spooling:
                self._deliver(chunks)
                self.next_seq = chunks[-1].last_seq + 1
                return ["stored"] * len(chunks)
        except CaptureWriteError as error:
            if self._spool is None:
                raise
            self._put_off(error)
        except CaptureError:  # the stream has ended, or is somebody else's: keep them for later
            if self._spool is not None:
                self._keep(chunks, self._spool)
            raise
        if self._spool is not None:
            self._keep(chunks, self._spool)
        return ["stored"] * len(chunks)

    def lose(self, last_seq: int, reason: str) -> Loss:
        """Note that the messages from `next_seq` to `last_seq` are lost; see StreamWriter."""
        self.drain()
        loss = self._writer.lose(last_seq, reason)
        self.next_seq = last_seq + 1
        self.losses += (loss,)
        return loss

    def tend(self) -> None:
        """Try to bring what is spooled to the store, when it is time for another try."""
        if self.spooling and time.monotonic() >= self._retry_at:
            with suppress(CaptureError):
                self.drain()

    def drain(self) -> None:
        """Bring all that is spooled to the store.

        Raises CaptureWriteError when the store is still out of reach, or what `append` raises.
        """
        if not self.spooling:
            return
        try:
            self._try()
        except CaptureError as error:
            self._put_off(error)
            raise

    def close(self) -> None:
        """Give the stream up. What is spooled stays there, for `drain_spool`."""
        if self._stream is not None:
            if self._dropped is not None:
                with suppress(CaptureError):
                    self._stream.lose(self._dropped.last_seq, self._dropped.reason)
            self._stream.close()
        self._writer.close()

    def _put_off(self, error: CaptureError) -> None:
        if not self.spooling:
            _log.warning("spooling %s: %s", self.session.global_name, error)
            self._retry_s = _FIRST_RETRY_S
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    def _try(self) -> None:
        """Deliver what is spooled, in order, and note what was dropped after it."""
        stream, dropped = self._stream, self._dropped
        if stream is not None:
            for item in batches(stream.items()):
                if isinstance(item, Loss):
                    if self._note(item):
                        self._know(item)
                    continue
                self._deliver(item)
                with suppress(CaptureWriteError):  # a full disk: it is recognised another time
                    stream.release(item[-1].last_seq)
        if dropped is not None:
            self._note(dropped)
            self._dropped = None
        if stream is not None:
            self._stream = None
            with suppress(CaptureError):  # then it is recognised another time as well
                stream.remove()
        _log.warning("%s is stored again, with all that was spooled", self.session.global_name)

    def _note(self, loss: Loss) -> bool:
        """Note a loss in the store, unless an earlier try has done so; return whether it did."""
        if self._writer.next_seq > loss.last_seq:
            return False
        self._writer.lose(loss.last_seq, loss.reason)
        return True

    def _know(self, loss: Loss) -> None:
        """Remember a loss; one that is not noted anywhere yet stays the last."""
        self.losses = tuple(sorted((*self.losses, loss), key=lambda each: each.first_seq))

    def _deliver(self, chunks: Sequence[Chunk]) -> None:
        try:
            self._written(chunks)
        except StreamLockedError:  # by ourselves perhaps: a lease ran out during the outage
            self._writer.close()
            self._writer = self._store.open_writer(self.session.number, self.source)
            self._written(chunks)

    def _written(self, chunks: Sequence[Chunk]) -> None:
        loss = deliver(self._writer, chunks)
        if loss is not None:
            _log.warning("messages %d to %d: %s", loss.first_seq, loss.last_seq, loss.reason)
            self._know(loss)

    def _keep(self, chunks: Sequence[Chunk], spool: Spool) -> None:
        for place, chunk in enumerate(chunks):
            if self._dropped is None:
                try:
                    self._spooled(chunk, spool)
                    continue
                except (CaptureWriteError, SpoolFullError) as error:
                    if spool.when_full != "drop":
                        raise SpoolFullError(_one_line(error)) from error
                    reason = f"dropped: {_one_line(error)}"
                    _log.warning("messages from %d on are %s", chunk.first_seq, reason)
            else:
                reason = self._dropped.reason
            self._drop(chunks[place:], reason)
            return

    def _spooled(self, chunk: Chunk, spool: Spool) -> None:
        if self._stream is None:
            self._stream = spool.stream(self.session, self._spec, chunk.first_seq)
        self._stream.append(chunk)
        self.next_seq = chunk.last_seq + 1

    def _drop(self, chunks: Sequence[Chunk], reason: str) -> None:
        if self._dropped is not None:
            self.losses = self.losses[:-1]
        first = chunks[0].first_seq if self._dropped is None else self._dropped.first_seq
        self._dropped = Loss(first, chunks[-1].last_seq, reason, to_us(utc_now()))
        self.losses += (self._dropped,)
        self.next_seq = self._dropped.last_seq + 1


def deliver(writer: StreamWriter, chunks: Sequence[Chunk]) -> Loss | None:
    """Append chunks to a stream; return what it has lost of what it had, noting it there.

    A store that was restored from an old copy, or failed over to one, expects numbers that it
    had before. They are never given to other messages. Raises as StreamWriter.append does.
    """
    try:
        writer.append(chunks)
    except ChunkConflictError as error:
        first = chunks[0].first_seq
        if error.following is None or error.following >= first:
            raise
        loss = writer.lose(first - 1, WENT_BACK)
        writer.append(chunks)
        return loss
    return None


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
