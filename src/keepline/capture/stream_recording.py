"""Recording one stream of a session, through outages of its store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from keepline.capture.recording import Recording
from keepline.capture.spooling import SpoolingWriter
from keepline.errors import CaptureWriteError

if TYPE_CHECKING:
    from keepline.capture.spool import Spool
    from keepline.capture.store import CaptureStore, StreamWriter
    from keepline.model import Level, StreamSpec


class StreamRecording(Recording):
    """A recording that keeps what `store` does not take in `spool`, and knows what is safe.

    It takes `writer` over, a writer of `store` for the stream that `spec` declares; whoever
    made the recording closes `self.writer` when it has ended. About once a second it brings
    what is spooled to the store, when it is time for another try, and calls `each_round`.
    """

    writer: SpoolingWriter

    def __init__(
        self,
        store: CaptureStore,
        writer: StreamWriter,
        spec: StreamSpec,
        spool: Spool | None,
        *,
        linger_s: float,
        max_pending: int,
        each_round: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._then = each_round
        super().__init__(
            SpoolingWriter(store, writer, spec, spool),
            linger_s=linger_s,
            max_pending=max_pending,
            patient=spool is not None and spool.when_full == "block",
            each_round=self._tend,
        )

    @property
    def lossy(self) -> bool:
        """Return whether some of its messages are lost."""
        return bool(self.writer.losses)

    def wait(self, seq: int, timeout_s: float | None) -> None:
        """Return once message `seq` is stored; CaptureWriteError also tells that it is lost."""
        super().wait(seq, timeout_s)
        for loss in self.writer.losses:
            if loss.first_seq <= seq <= loss.last_seq:
                raise CaptureWriteError(f"message {seq} is lost: {loss.reason}")

    def acknowledged(self, level: Level) -> int:
        """Return the number of the last message that has reached `level`, or -1.

        What the spool holds counts as stored.
        """
        if level == "archived":
            return self._store.archived(self.writer.session.number, self.writer.source)
        if level == "accepted":
            return self.accepted_seq
        return min(self.stored_seq, self.writer.safe_seq)

    def _tend(self) -> None:
        self.writer.tend()
        if self._then is not None:
            self._then()
