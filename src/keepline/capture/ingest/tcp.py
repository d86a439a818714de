"""Lines over TCP.

A client's first line is ``token SECRET`` or ``token SECRET ack``; every further line is a
message. With ``ack`` it is told ``ok COUNT``: so many of its messages have reached the session's
level. What goes wrong it is told as ``error REASON`` before its connection ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keepline.capture.ingest.feeder import Feeder
from keepline.capture.ingest.lines import LineSplitter
from keepline.capture.ingest.listening import Slots, address_of, listen
from keepline.capture.ingest.token import Token
from keepline.errors import IngestError

if TYPE_CHECKING:
    from keepline.config import IngestSettings

_log = logging.getLogger(__name__)

_TOKEN_S = 10.0
_TOKEN_BYTES = 1_024
_READ_BYTES = 64 * 1024
#: How long a client that is going is given to read what it is told.
_FAREWELL_S = 5.0
_STOP_S = 10.0
#: How long what has arrived by then is read, when taking messages is stopped.
_DRAIN_S = 2.0


@dataclass(eq=False)
class _Client:
    """One connection. `last` is the number of its latest message, `count` how many it has."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    count: int = 0
    last: int = -1
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    error: str = ""  # what went wrong: the last that it is told

    def say(self, line: str) -> None:
        """Tell the client something, if it is still there."""
        if not self.writer.is_closing():
            self.writer.write(line.encode() + b"\n")

    def drop(self) -> None:
        """End the connection at once."""
        self.writer.transport.abort()

    def hang_up(self) -> None:
        """Read no more than what has arrived already."""
        with suppress(OSError):  # it has gone
            self.writer.get_extra_info("socket").shutdown(socket.SHUT_RD)


class TcpLines:
    """Takes lines from TCP clients. Raises ConfigError when the settings have no good token."""

    acknowledges = False  # not every client; see _serve

    def __init__(self, settings: IngestSettings, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._token = Token(settings.token)
        self._max_bytes = settings.max_message_kb * 1024
        self._max_clients = settings.max_clients
        self._idle_s = settings.idle_s
        self._where = (host, port)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._feeder: Feeder
        self._strangers: Slots[_Client] = Slots()  # who has not shown the token yet
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._drain_until = 0.0

    async def prepare(self) -> str:
        """Bind the port and return the address; see Way."""
        self._socket = listen(*self._where)
        return f"tcp://{address_of(self._socket)}"

    async def open(self, feeder: Feeder) -> None:
        """Begin to take clients; see Way."""
        self._feeder = feeder
        self._server = await asyncio.start_server(self._met, sock=self._socket, limit=_READ_BYTES)

    async def close(self) -> None:
        """Take no more clients, and what these have sent by now; see Way."""
        if self._server is None:
            if self._socket is not None:
                self._socket.close()
            return
        if self._closing:
            return
        self._closing = True
        self._drain_until = asyncio.get_running_loop().time() + _DRAIN_S
        self._server.close()
        for client in [*self._strangers, *self._clients]:
            client.hang_up()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._closing:
            client.drop()
            return
        # Strangers have places of their own, and the oldest has to make room: they cannot keep
        # out those who show the token at once.
        evicted = self._strangers.add(client, self._max_clients)
        if evicted is not None:
            evicted.drop()
        try:
            await self._serve(client)
        except (OSError, EOFError, TimeoutError):
            _log.debug("a client has gone")
        except IngestError as error:
            _log.debug("a client is sent away: %s", error)
        finally:
            self._strangers.discard(client)
            self._clients.discard(client)
            await _farewell(client)

    async def _serve(self, client: _Client) -> None:
        try:
            async with asyncio.timeout(_TOKEN_S):
                wants_ack = await self._admit(client)
        except IngestError as error:
            client.say(f"error {error}")
            raise
        self._strangers.discard(client)
        self._clients.add(client)
        telling = None
        if wants_ack:
            client.say("ok 0")
            telling = asyncio.create_task(self._tell(client))
        try:
            await self._take(client)
            client.ended = True
            client.news.set()
            if telling is not None:
                await asyncio.wait((telling,), timeout=_STOP_S)
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
            if client.error:
                client.say(f"error {client.error}")

    async def _admit(self, client: _Client) -> bool:
        """Return whether the client wants acknowledgements.

        Raises IngestError with what it is told when it is not let in.
        """
        try:
            line = await client.reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise IngestError("token refused") from None
        words = line.strip(b"\r\n").split(b" ")
        known = self._token.matches(words[1] if len(words) > 1 else b"")
        if not known or words[0] != b"token" or len(line) > _TOKEN_BYTES:
            raise IngestError("token refused")
        if words[2:] not in ([], [b"ack"]):
            raise IngestError("after the token comes ack, or nothing")
        if len(words) > 2 and not self._feeder.promises:
            raise IngestError("no acknowledgements here: messages may be dropped")
        if len(self._clients) >= self._max_clients:
            raise IngestError("too many clients; try again later")
        return len(words) > 2

    async def _take(self, client: _Client) -> None:
        splitter = LineSplitter(self._max_bytes)
        reason = "the connection ended in the middle of this message"
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_s):
                        data = await client.reader.read(_READ_BYTES)
                except TimeoutError:
                    reason = f"no more came for {self._idle_s:g} s in the middle of this message"
                    client.error = "silent for too long"
                    return
                if not data:
                    return
                await self._put(client, splitter.split(data))
                if self._closing and self._overdue():
                    return
                if splitter.overlong is not None:
                    client.error = f"a message has at most {self._max_bytes} bytes"
                    return
        except IngestError:
            reason = "the capture session ended before this message"
            client.error = "no more messages are taken"
            raise
        finally:
            await self._quarantine(splitter, reason)

    async def _put(self, client: _Client, messages: list[bytes]) -> None:
        if messages:
            client.last = await self._feeder.main.take(messages)
            client.count += len(messages)
            client.news.set()

    async def _quarantine(self, splitter: LineSplitter, reason: str) -> None:
        if self._closing and splitter.rest:
            reason = "taking messages was stopped in the middle of this message"
        raw = splitter.rest
        if splitter.overlong is not None:
            raw = splitter.overlong
            reason = (
                f"a message of more than {self._max_bytes} bytes; the connection was ended here"
            )
        if raw:
            try:
                await self._feeder.reject(raw, reason)
            except asyncio.CancelledError:
                self._feeder.lose(raw, "the run is stopped")
                raise

    def _overdue(self) -> bool:
        return asyncio.get_running_loop().time() > self._drain_until

    async def _tell(self, client: _Client) -> None:
        """Tell the client how many of its messages are safe, each time that more are."""
        told = 0
        with suppress(OSError, IngestError):
            while not (client.ended and told == client.count):
                await client.news.wait()
                client.news.clear()
                count, last = client.count, client.last
                if count > told:
                    await self._feeder.main.acknowledged(last)
                    client.say(f"ok {count}")
                    told = count
                # A client that does not read holds up nobody but itself.
                await client.writer.drain()
                if client.ended:
                    client.news.set()


async def _farewell(client: _Client) -> None:
    """Give the client time to read what it was told; then it is cut off."""
    with suppress(OSError, TimeoutError):
        client.writer.close()
        async with asyncio.timeout(_FAREWELL_S):
            await client.writer.wait_closed()
            return
    client.drop()
