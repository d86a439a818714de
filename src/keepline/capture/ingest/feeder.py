"""The session that a way in fills: its sources, its quarantine, its beginning and end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from keepline.capture.ingest.feed import Feed
from keepline.capture.ingest.sources import ExtraSource
from keepline.capture.server import CaptureServer
from keepline.errors import IngestError, KeeplineError
from keepline.model import CaptureState, Level, SessionInfo, StreamSpec

_log = logging.getLogger(__name__)

#: Keeps (position, bytes, reason) rows of input from an origin; returns how many are new.
Quarantine = Callable[[str, list[tuple[int, bytes, str]]], int]

#: Each source has a thread and a connection to the store.
MAX_SOURCES = 128

_WATCH_S = 0.25
_QUARANTINE_RETRY_S = 1.0
#: How long a quarantine that cannot be written is waited for when the run is stopped.
_QUARANTINE_STOP_S = 5.0


@dataclass(frozen=True)
class Totals:
    """What one run took in: its session, messages by source, and what was quarantined."""

    session: SessionInfo
    messages: int
    sources: dict[str, int]
    quarantined: int


class Feeder:
    """Owns one session of `server` for a run, and the sources that ways in put messages into.

    It starts the session and ends it: as complete or empty, or as interrupted when the run
    fails. Everything here is for one event loop.
    """

    def __init__(
        self,
        server: CaptureServer,
        quarantine: Quarantine,
        *,
        level: Level | None = None,
        linger_s: float = 0.02,
    ) -> None:
        self._server = server
        self._quarantine = quarantine
        self._level = level
        self._linger_s = linger_s
        self._feeds: dict[str, Feed] = {}
        self._extra: list[ExtraSource] = []
        self._opening = asyncio.Lock()
        self._failure: KeeplineError | None = None
        self._positions = itertools.count()
        self._stopping = asyncio.Event()
        self._gave_up = False
        self.rejected = 0

    @property
    def spec(self) -> StreamSpec:
        """Return how the messages of the first source are read."""
        return self._server.spec

    @property
    def session(self) -> SessionInfo:
        """Return the running session; raises IngestError when there is none."""
        if self._server.session is None:
            raise IngestError("no capture session is running")
        return self._server.session

    @property
    def main(self) -> Feed:
        """Return the first source's feed."""
        return self._feeds[self.spec.source]

    @property
    def taken(self) -> int:
        """Return how many messages were taken by all sources."""
        return sum(feed.taken for feed in self._feeds.values())

    @property
    def promises(self) -> bool:
        """Return whether what it takes is sure to be stored: no spool drops anything."""
        spool = self._server.spool
        return spool is None or spool.when_full != "drop"

    async def start(self) -> SessionInfo:
        """Start the session and return it; raises as CaptureServer.start_session does."""
        await asyncio.to_thread(self._server.start_session, level=self._level)
        self._feeds[self.spec.source] = Feed(self._server, archived=self._archived)
        return self.session

    async def source(self, name: str, **changes: object) -> Feed:
        """Return the feed of a source, which is made the first time it is asked for.

        It is read as the first one, but for `changes`, fields of StreamSpec. Raises IngestError
        at the 129th source, and what the store's `add_stream` raises.
        """
        async with self._opening:
            if name not in self._feeds:
                if len(self._feeds) >= MAX_SOURCES:
                    raise IngestError(f"a session has at most {MAX_SOURCES} sources")
                spec = replace(self.spec, source=name, **changes)  # type: ignore[arg-type]
                extra = await asyncio.to_thread(
                    ExtraSource, self._server, spec, linger_s=self._linger_s
                )
                self._extra.append(extra)
                self._feeds[name] = Feed(extra, archived=self._archived)
            return self._feeds[name]

    async def reject(self, raw: bytes, reason: str, *, source: str | None = None) -> None:
        """Quarantine input that cannot be a message; returns once it is kept.

        While the SQL store cannot be written it waits, and the client who sent it with it; not
        for long once the run is being stopped. Raises IngestError when it is given up; then
        the run fails.
        """
        origin = f"{self.session.global_name}:{source or self.spec.source}"
        row = (next(self._positions), raw, reason)
        keeping = asyncio.create_task(self._keep(origin, row))
        try:
            await self._wait_for(keeping)
        finally:
            keeping.cancel()
        if not keeping.done():
            self._gave_up = True
            raise self.lose(raw, "the quarantine cannot be written, and the run is stopped")
        if (error := keeping.exception()) is not None:
            raise self.lose(raw, f"the quarantine refuses it: {type(error).__name__}")

    def hurry(self) -> None:
        """Have `reject` wait for a moment only from now on: the run is being stopped."""
        self._stopping.set()

    def lose(self, raw: bytes, reason: str) -> IngestError:
        """Note that rejected input is kept nowhere: the run fails with the error returned."""
        _log.error("%d bytes of rejected input are lost: %s", len(raw), reason)
        error = IngestError(f"rejected input is lost: {reason}")
        self.fail(error)
        return error

    def fail(self, error: KeeplineError) -> None:
        """Have the run end with `error`, the first one; may be called from any thread."""
        self._failure = self._failure or error

    async def watch(self) -> None:
        """Return when somebody has asked for the session's end; raise when the run has failed.

        Meanwhile has writes that failed tried again.
        """
        while not self._server.stop_requested:
            if self._failure is not None:
                raise self._failure
            for feed in list(self._feeds.values()):
                await asyncio.to_thread(feed.check)
                if feed.ended is not None:
                    raise feed.ended
            await asyncio.sleep(_WATCH_S)

    async def stop(self) -> Totals:
        """Write what is left and end the session.

        Raises CaptureWriteError when it cannot be written, and what the run has failed with.
        """
        if self._failure is not None:
            raise self._failure
        info = await asyncio.to_thread(self._finish)
        sources = {name: feed.taken for name, feed in self._feeds.items()}
        return Totals(info, sum(sources.values()), sources, self.rejected)

    async def abandon(self) -> None:
        """End the session as interrupted, whatever can be written."""
        await asyncio.to_thread(self._abandon)

    @property
    def _archived(self) -> bool:
        return self.session.level == "archived"

    async def _keep(self, origin: str, row: tuple[int, bytes, str]) -> None:
        while True:
            try:
                await asyncio.to_thread(self._quarantine, origin, [row])
            except KeeplineError as error:
                _log.warning("input cannot be quarantined yet: %s", error)
                await asyncio.sleep(_QUARANTINE_RETRY_S)
            else:
                self.rejected += 1
                return

    async def _wait_for(self, keeping: asyncio.Task[None]) -> None:
        """Wait until input is kept; no longer than a moment once the run is being stopped."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((keeping, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        # Once it was in vain, the others are not worth the time of each.
        if not keeping.done() and not self._gave_up:
            await asyncio.wait((keeping,), timeout=_QUARANTINE_STOP_S)

    def _finish(self) -> SessionInfo:
        for extra in self._extra:
            extra.finish()
        # The server knows of its own source only.
        state: CaptureState | None = None
        if any(extra.lossy for extra in self._extra):
            state = "partial"
        elif self.taken and not self.main.taken:
            state = "complete"
        self._extra.clear()
        return self._server.stop_session(state=state)

    def _abandon(self) -> None:
        for extra in self._extra:
            extra.abandon()
        self._extra.clear()
        self._server.close()
