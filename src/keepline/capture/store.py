"""The protocol of a capture store: where messages are kept before they are archived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from keepline.model import CaptureState, Chunk, Level, SessionInfo, StreamSpec

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

        On return they are as safe as the store's level says. A chunk that is stored already
        with the same CRC is a repeat and changes nothing.

        Raises:
            ChunkConflictError: a chunk's numbers are stored with other content, or do not
                follow the last stored one.
            SessionClosedError: the session has ended.
            CaptureWriteError: the store could not write; nothing of `chunks` is stored.
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
    def levels(self) -> tuple[Level, ...]:
        """Return the acknowledgement levels that the store can keep, weakest first."""

    def create_session(
        self,
        instrument: str,
        user: str,
        spec: StreamSpec,
        *,
        started: datetime,
        origin: str | None = None,
    ) -> StreamWriter:
        """Start a session with its first stream, and return that stream's writer.

        The writer holds its lock before anyone can see the session, so that `close_orphan`
        never takes a session that is only just starting.

        Raises:
            AlreadyCapturedError: a running or complete session of this instrument has the
                same `origin`.
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

    def message_count(self, number: int, source: str) -> int:
        """Return how many messages of a stream are stored: 0 for one that does not exist."""

    def chunks(self, number: int, source: str, from_seq: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that hold `from_seq` and what follows it, in order.

        Chunks stored meanwhile are included. No transaction is held between two of them.

        Raises:
            ChunkDamagedError: a chunk no longer has the CRC that it was stored with.
        """

    def last_messages(self, number: int, source: str, n: int) -> list[bytes]:
        """Return the last `n` messages of a stream, oldest first; raises NoSessionError."""

    def mark_archived(self, number: int, source: str, seq: int) -> None:
        """Note that the archive holds everything up to `seq`; the mark never goes back."""

    def archived(self, number: int, source: str) -> int:
        """Return the number of the last message that the archive holds, or -1."""

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
