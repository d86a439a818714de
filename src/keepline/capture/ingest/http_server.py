"""An HTTP server that no client can hold up: uvicorn with limits of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

#: A client has this long to send the head of a request, or to think about its next one.
_HEAD_S = 10.0
_HEAD_BYTES = 16 * 1024
_STOP_S = 10


class GuardedProtocol(H11Protocol):
    """One connection, which is closed when a request's head is too long in coming.

    Beyond `max_clients` connections the one that has been without a request for the longest
    is closed, or the new one when all of them have a request.
    """

    max_clients = 256
    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, and wait for a head."""
        super().connection_made(transport)
        self._arm()
        if len(self.connections) > self.max_clients:
            others = [each for each in self.connections if isinstance(each, GuardedProtocol)]
            idle = [each for each in others if each is not self and not each.busy]
            min(idle, key=lambda each: each.since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait no longer once the head is there."""
        super().data_received(data)
        if self.busy:
            self._disarm()
        elif self._timer is None:
            self._arm()

    def on_response_complete(self) -> None:
        """Wait for the next head, and for the rest of a body that nobody wanted."""
        super().on_response_complete()
        if not self.busy:
            self._arm()

    @property
    def busy(self) -> bool:
        """Return whether there is a request without its whole answer."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        return cycle is not None and not cycle.response_complete

    @property
    def since(self) -> float:
        """Return when it was last without a request."""
        return self._since

    def _arm(self) -> None:
        self._disarm()
        self._since = self.loop.time()
        self._timer = self.loop.call_later(_HEAD_S, self._too_late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if not self.busy:
            self.transport.abort()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever runs the server."""
        yield


class HttpServer:
    """Serves an ASGI application on a listening socket, in a task of its own."""

    def __init__(self, app: Any, listening: socket.socket, *, max_clients: int) -> None:
        protocol = type("Protocol", (GuardedProtocol,), {"max_clients": max_clients})
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # it would log what strangers send
            access_log=False,  # a query string may hold a password
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(_HEAD_S),
            timeout_graceful_shutdown=_STOP_S,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        self._server = _Server(config)
        self._socket = listening
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> asyncio.Task[None]:
        """Begin to serve; the task ends when serving does."""
        self._task = asyncio.create_task(self._server.serve([self._socket]))
        return self._task

    async def stop(self) -> None:
        """Take no more requests, answer those that are there, and end."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
