"""The protocol of a capture store: where messages are kept before they are archived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from keepline.model import CaptureState, Chunk, Level, Loss, SessionInfo, StreamSpec

#: What became of a chunk: stored now, or recognised as stored before.
Appended = Literal["stored", "repeat"]


class StreamWriter(Protocol):
    """The one living writer of one stream, fenced by a lock that dies with its process.

    Not thread-safe; it may be used from any one thread at a time.
    """

    @property
    def session(self) -> SessionInfo:
        """Return the session as it was when the writer was opened."""

    @property
    def source(self) -> str:
        """Return the name of the stream."""

    @property
    def next_seq(self) -> int:
        """Return the sequence number that the next new chunk has to start at."""

    def append(self, chunks: Sequence[Chunk]) -> list[Appended]:
        """Store consecutive chunks, all or none, and say what became of each.

        On return they are as safe as the session's level says, up to fsynced. A chunk that is
        stored already with the same CRC is a repeat and changes nothing.

        Raises:
            ChunkConflictError: a chunk's numbers are stored with other content, or do not
                follow the last stored or lost one. Its `following` is the number that would.
            SessionClosedError, NoSessionError: the session has ended, or is gone.
            StreamLockedError: another writer has taken the stream over.
            CaptureWriteError: the store could not write, or cannot say whether it did; the same
                chunks may be given again.
        """

    def lose(self, last_seq: int, reason: str) -> Loss:
        """Note that the messages from `next_seq` to `last_seq` are lost, and return that.

        The next chunk follows them. Raises as `append` does.
        """

    def close(self) -> None:
        """Give the stream up; the session stays running. Closing again does nothing."""


class CaptureStore(Protocol):
    """Sessions, their streams and the chunks of these. Safe to share between threads.

    Numbers are given out once each, also between processes, and never again, even after a
    session is deleted. A session is born running, ends once, and takes no data after that.
    Values that are passed in are copied or frozen: the store keeps no reference to a buffer.
    """

    @property
    def store_id(self) -> str:
        """Return the store's identity, which is kept within the store itself."""

    @property
    def epoch(self) -> str:
        """Return the name of this life of the store.

        It changes whenever the store may have gone back behind what it acknowledged: after a
        fail-over to a copy, a restart that may have lost something, or `renew`.
        """

    @property
    def last_number(self) -> int:
        """Return the highest session number given out so far, or left out: 0 when there is none."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Return the acknowledgement levels that the store can keep now, weakest first."""

    def create_session(
        self,
        instrument: str,
        user: str,
        spec: StreamSpec,
        *,
        started: datetime,
        origin: str | None = None,
        level: Level | None = None,
    ) -> StreamWriter:
        """Start a session with its first stream, and return that stream's writer.

        What is acknowledged is as safe as `level` says; None means the store's default. The
        writer holds its lock before anyone can see the session, so that `close_orphan` never
        takes a session that is only just starting.

        Raises:
            AlreadyCapturedError: a running or complete session of this instrument has the
                same `origin`.
            UnsupportedLevelError: the store cannot keep `level`; the message says why.
            CaptureWriteError: the store cannot be reached or written.
        """

    def add_stream(self, number: int, spec: StreamSpec) -> None:
        """Add a stream to a running session; adding it again with the same spec is allowed.

        Raises:
            NoSessionError, SessionClosedError: there is no such running session.
            CaptureError: the session has this source with another spec.
        """

    def open_writer(self, number: int, source: str) -> StreamWriter:
        """Return the writer of a stream of a running session.

        Raises:
            StreamLockedError: another living writer holds the stream.
            NoSessionError, SessionClosedError: there is no such running stream.
        """

    def close_session(self, number: int, state: CaptureState, ended: datetime) -> SessionInfo:
        """End a running session for good.

        Raises:
            NoSessionError, SessionClosedError: there is no such running session.
        """

    def close_orphan(self, number: int) -> SessionInfo | None:
        """End a running session whose writers are all gone, as interrupted.

        Its end is its last stored reading's time, or its start when it has none. Returns
        None, and changes nothing, when a writer lives or the session has ended.
        """

    def sessions(self) -> list[SessionInfo]:
        """Return every session, by number."""

    def session(self, number: int) -> SessionInfo:
        """Return one session; raises NoSessionError."""

    def streams(self, number: int) -> list[StreamSpec]:
        """Return the streams of a session, by source; raises NoSessionError."""

    def next_seq(self, number: int, source: str) -> int:
        """Return the number after the last stored or lost message: 0 when there is none.

        It is 0 as well for a source that the session has not. Raises NoSessionError.
        """

    def message_count(self, number: int, source: str) -> int:
        """Return how many messages of a stream were stored, trimmed ones too, lost ones not.

        It is 0 as well for a source that the session has not. Raises NoSessionError.
        """

    def losses(self, number: int, source: str) -> list[Loss]:
        """Return what of a stream is known to be lost, in order."""

    def chunks(self, number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows it, in order.

        Chunks stored meanwhile are included. No transaction is held between two of them. Where
        messages are lost, trimmed, or gone without a trace, the next chunk that is there comes.

        Raises:
            ChunkDamagedError: a chunk no longer has the CRC that it was stored with. To go
                on, ask again from the message after the error's `last_seq`.
        """

    def last_messages(self, number: int, source: str, n: int) -> list[bytes]:
        """Return the last `n` messages that are there of a stream, oldest first.

        Raises NoSessionError.
        """

    def mark_archived(self, number: int, source: str, seq: int) -> None:
        """Note that the archive holds everything up to `seq`; the mark never goes back."""

    def set_archived(self, number: int, source: str, seq: int) -> None:
        """Put the archive's mark to `seq`, also back; -1 says that the archive holds nothing.

        It is never beyond what is stored or lost. For an archive that was cleared or replaced.
        """

    def archived(self, number: int, source: str) -> int:
        """Return the number of the last message that the archive holds, or -1."""

    def trim(self, number: int, source: str, upto: int) -> int:
        """Remove the chunks that end at or before `upto`; return how many messages they had.

        Whoever calls it knows that the archive holds these. Nothing beyond the archive's mark
        goes, either. The counts stay.
        """

    def trimmed(self, number: int, source: str) -> int:
        """Return the number of the last message that was trimmed, or -1."""

    def request_stop(self, number: int) -> None:
        """Ask whoever records a running session to end it; see `stop_requested`.

        Raises NoSessionError, SessionClosedError: there is no such running session.
        """

    def stop_requested(self, number: int) -> bool:
        """Return whether a session's recorder was asked to end it."""

    def renew(self, after_number: int = 0) -> str:
        """Begin a new epoch and return it; no session gets a number up to `after_number` then.

        For a store that was restored from a copy: what it gave out since would come again.
        """

    def is_live(self, number: int) -> bool:
        """Return whether a session is running and a living writer holds one of its streams."""

    def delete_session(self, number: int) -> None:
        """Remove a session and all its data.

        Raises:
            NoSessionError: there is no such session.
            CaptureError: the session is live.
        """

    def flush(self) -> None:
        """Remove every session; raises CaptureError, removing none, when one is live."""

    def close(self) -> None:
        """Release what the store holds; writers keep their own and are closed by themselves."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
