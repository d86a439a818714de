"""Reading the sessions of a capture store, one source at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepline.errors import NoSessionError, TrimmedError

if TYPE_CHECKING:
    from keepline.capture.store import CaptureStore
    from keepline.model import StreamSpec


class SessionReader:
    """What `store` has of the source that `spec` names, in any session, of any recorder.

    What the archive has and the store no longer is refused, and never left out in silence.
    """

    def __init__(self, store: CaptureStore, spec: StreamSpec) -> None:
        self.store = store
        self.spec = spec

    def get_all_from_session(self, session_id: int) -> list[bytes]:
        """Return all messages of this source in a session, in order.

        Raises NoSessionError, or TrimmedError when only the archive has them all.
        """
        self._settle()
        self.store.session(session_id)
        chunks = self.store.chunks(session_id, self.spec.source)
        messages = [message for chunk in chunks for message in chunk.messages()]
        self._refuse_trimmed(session_id)  # not before: they may be trimmed while we read
        return messages

    def get_latest_from_session(self, session_id: int) -> bytes | None:
        """Return the last message of this source in a session, or None when it has none yet.

        Reading takes nothing away: any number of callers get the same. Raises NoSessionError,
        or TrimmedError when only the archive has it.
        """
        self._settle()
        return next(iter(self._last(session_id, 1)), None)

    def get_ten_from_session(self, session_id: int | None = None) -> list[bytes]:
        """Return the last ten messages of this source, oldest first.

        None means the session that this handle started last. Raises NoSessionError, or
        TrimmedError when only the archive has them all.
        """
        self._settle()
        if session_id is None:
            session_id = self._latest_number()
        return self._last(session_id, 10)

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

    def _settle(self) -> None:
        """Have everything in the store that a reader may expect there; nothing to do here."""

    def _latest_number(self) -> int:
        """Return the session that is meant by default; raises NoSessionError."""
        raise NoSessionError("no session was named, and this handle has started none")

    def _last(self, number: int, n: int) -> list[bytes]:
        messages = self.store.last_messages(number, self.spec.source, n)
        if len(messages) < min(n, self.store.message_count(number, self.spec.source)):
            self._refuse_trimmed(number)
        return messages

    def _refuse_trimmed(self, number: int) -> None:
        trimmed = self.store.trimmed(number, self.spec.source)
        if trimmed >= 0:
            raise TrimmedError(
                f"messages up to {trimmed} of capture session {number}, source "
                f"{self.spec.source}, are in the archive; read them there"
            )
