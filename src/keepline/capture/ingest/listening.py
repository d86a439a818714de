"""Ports to listen on, and places for those who have not shown yet who they are."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Generic, TypeVar

from keepline.errors import IngestError

_BACKLOG = 256

_T = TypeVar("_T")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises IngestError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # clients inherit it
            listening.bind(address)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise IngestError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Return ``host:port`` of a socket."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Slots(Generic[_T]):
    """Places in the order in which they were taken."""

    def __init__(self) -> None:
        self._taken: dict[_T, None] = {}

    def __iter__(self) -> Iterator[_T]:
        return iter(self._taken)

    def add(self, one: _T, limit: int) -> _T | None:
        """Give `one` a place; beyond `limit`, return the oldest, which has lost its own."""
        self._taken[one] = None
        if len(self._taken) <= limit:
            return None
        oldest = next(iter(self._taken))
        del self._taken[oldest]
        return oldest

    def discard(self, one: _T) -> None:
        """Take the place of `one` back, if it has any."""
        self._taken.pop(one, None)
