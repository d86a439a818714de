"""Messages by HTTP: newline-separated, and InfluxDB's line protocol as its clients write it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keepline.capture.ingest.bodies import Bodies, BodyError
from keepline.capture.ingest.feed import Feed
from keepline.capture.ingest.feeder import Feeder
from keepline.capture.ingest.http_server import HttpServer
from keepline.capture.ingest.lines import split_lines
from keepline.capture.ingest.listening import address_of, listen
from keepline.capture.ingest.token import Token
from keepline.errors import IngestError, KeeplineError

if TYPE_CHECKING:
    from keepline.config import IngestSettings

_log = logging.getLogger(__name__)

#: After this a client that waits for its answer is told to try again later.
_ANSWER_S = 10.0
#: So long a body may be in coming.
_BODY_S = 60.0
_PART_BYTES = 256 * 1024
_RETRY_AFTER = {"Retry-After": "1"}

#: What InfluxDB clients look for to know that they talk to one.
_INFLUX = {"X-Influxdb-Version": "2.7-keepline", "X-Influxdb-Build": "OSS"}

#: The precisions of InfluxDB's API by what its versions 1 and 2 call them.
_PRECISIONS = {"": "ns", "n": "ns", "u": "us"} | {
    each: each for each in ("ns", "us", "ms", "s", "m", "h")
}
_CODES = {
    400: "invalid",
    401: "unauthorized",
    408: "request timeout",
    413: "request too large",
    415: "unsupported media type",
    503: "unavailable",
}
_CREATE = re.compile(r"\s*CREATE\s+DATABASE\s+\S.*", re.IGNORECASE | re.DOTALL)

_Answer = Callable[[Request], Awaitable[Response]]


class HttpMessages:
    """Takes messages from HTTP clients and answers once they have reached the session's level.

    ``POST /api/v1/ingest`` takes a message a line, or one JSON object as application/json;
    ``POST /api/v2/write`` and ``POST /write`` are InfluxDB's. Raises ConfigError when the
    settings have no good token.
    """

    acknowledges = True

    def __init__(self, settings: IngestSettings, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._token = Token(settings.token)
        self._max_bytes = settings.max_message_kb * 1024
        self._max_clients = settings.max_clients
        self._idle_s = settings.idle_s
        self._bodies = Bodies(settings.max_body_mb * 1024 * 1024)
        self._where = (host, port)
        self._socket: socket.socket | None = None
        self._server: HttpServer | None = None
        self._feeder: Feeder

    async def prepare(self) -> str:
        """Bind the port and return the address; see Way."""
        self._socket = listen(*self._where)
        return f"http://{address_of(self._socket)}"

    async def open(self, feeder: Feeder) -> None:
        """Begin to take requests; see Way."""
        assert self._socket is not None, "prepare comes first"  # noqa: S101 - says what holds
        self._feeder = feeder
        self._server = HttpServer(self._app(), self._socket, max_clients=self._max_clients)
        serving = await self._server.start()
        serving.add_done_callback(self._ended)

    async def close(self) -> None:
        """Take no more requests, and answer those that are there; see Way."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
        elif self._socket is not None:
            self._socket.close()

    def _ended(self, serving: asyncio.Task[None]) -> None:
        if self._server is not None and not serving.cancelled():
            self._feeder.fail(IngestError(f"the HTTP server has ended: {serving.exception()}"))

    def _app(self) -> Starlette:
        ours: tuple[tuple[str, _Answer, str], ...] = (
            ("/api/v1/ingest", self._guarded(self._ingest), "POST"),
            ("/api/v2/write", self._guarded(self._write), "POST"),
            ("/write", self._guarded(self._write), "POST"),
            ("/query", self._guarded(self._query), "POST"),
            ("/ping", self._ping, "GET"),
            ("/health", self._health, "GET"),
        )
        return Starlette(routes=[Route(path, do, methods=[how]) for path, do, how in ours])

    async def _ping(self, request: Request) -> Response:
        return Response(status_code=204, headers=_INFLUX)

    async def _health(self, request: Request) -> Response:
        ended = self._feeder.main.ended is not None
        said: dict[str, Any] = {
            "name": "keepline",
            "status": "fail" if ended else "pass",
            "message": "no more messages are taken" if ended else "ready for writes",
            "version": _INFLUX["X-Influxdb-Version"],
            "checks": [],
        }
        return JSONResponse(said, 503 if ended else 200)

    async def _ingest(self, request: Request) -> Response:
        async with self._body(request) as body:
            if _media_type(request) != "application/json":
                return await self._put(self._feeder.main, _parts(body))
            if body.lstrip()[:1] == b"[":
                raise BodyError(
                    400, "an array is no message; send an object a line as application/x-ndjson"
                )
            return await self._put(self._feeder.main, [[bytes(body)]] if body.strip() else [])

    async def _write(self, request: Request) -> Response:
        asked = request.query_params.get("precision", "")
        precision = _PRECISIONS.get(asked)
        if precision is None:
            raise BodyError(400, "the precision is ns, us, ms, s, m or h")
        feed = await self._feed_of(precision)
        async with self._body(request) as body:
            return await self._put(feed, _parts(body))

    async def _query(self, request: Request) -> Response:
        """Let clients of version 1 create the database that is there already."""
        async with self._body(request) as body:
            asked = parse_qs(bytes(body).decode(errors="replace")).get("q", [])
        asked += request.query_params.getlist("q")
        if len(asked) != 1 or not _CREATE.fullmatch(asked[0]):
            raise BodyError(400, "only CREATE DATABASE is understood here: this only takes writes")
        return JSONResponse({"results": [{"statement_id": 0}]})

    async def _feed_of(self, precision: str) -> Feed:
        """Return where lines with times of this precision go: each has a source of its own."""
        spec = self._feeder.spec
        if spec.decoder != "influx":
            raise BodyError(400, "this stream is not declared with the decoder influx")
        if precision == spec.options.get("precision", "ns"):
            return self._feeder.main
        return await self._feeder.source(
            f"{spec.source}.{precision}", options={**spec.options, "precision": precision}
        )

    async def _put(self, feed: Feed, parts: Iterable[list[bytes]]) -> Response:
        """Put messages in, and answer once they are safe; what is too long is quarantined."""
        last = -1
        try:
            async with asyncio.timeout(_ANSWER_S):
                for messages in parts:
                    fitting = [each for each in messages if len(each) <= self._max_bytes]
                    if len(fitting) < len(messages):
                        await self._reject(feed, messages)
                    if fitting:
                        last = await feed.take(fitting)
                await feed.acknowledged(last)
        except TimeoutError:
            raise BodyError(503, "not stored yet; try again later") from None
        return Response(status_code=204, headers=_INFLUX)

    async def _reject(self, feed: Feed, messages: list[bytes]) -> None:
        for message in messages:
            if len(message) > self._max_bytes:
                reason = f"a message of more than {self._max_bytes} bytes"
                await self._feeder.reject(message, reason, source=feed.name)

    def _body(self, request: Request) -> Any:
        return self._bodies.read(
            request.stream(),
            encoding=request.headers.get("content-encoding", "").strip().lower(),
            announced=request.headers.get("content-length"),
        )

    def _guarded(self, answer: _Answer) -> _Answer:
        """Return `answer` for those who show the token, with every failure as a status."""

        async def guarded(request: Request) -> Response:
            version_1 = not request.url.path.startswith("/api/")
            if not self._is_known(request):
                return _refusal(401, "unauthorized access", version_1=version_1)
            try:
                async with asyncio.timeout(min(self._idle_s, _BODY_S) + _ANSWER_S):
                    return await answer(request)
            except BodyError as error:
                return _refusal(error.status, str(error), version_1=version_1)
            except (TimeoutError, ClientDisconnect):
                return _refusal(408, "the body was too long in coming", version_1=version_1)
            except KeeplineError as error:
                _log.warning("messages of a request are not taken: %s", error)
                return _refusal(503, "no messages are taken now", version_1=version_1)

        return guarded

    def _is_known(self, request: Request) -> bool:
        given = _given(request.headers.get("authorization", ""), request.query_params)
        return self._token.matches(given.encode(errors="replace"))


def _given(authorization: str, query: Mapping[str, str]) -> str:
    """Return the secret of a request: Bearer, Token, Basic, or version 1's password."""
    scheme, _, value = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "token":  # in version 1 a user and a colon stand before it
            return value.strip().rpartition(":")[2]
        case "basic":
            try:
                return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return ""
    return query.get("p", "")


def _parts(body: bytearray) -> Iterator[list[bytes]]:
    """Yield the lines of a body a part at a time, so that no long one holds the others up."""
    start = 0
    while start < len(body):
        end = body.rfind(b"\n", start, start + _PART_BYTES)
        if end < 0:
            end = body.find(b"\n", start + _PART_BYTES)
        if end < 0:
            end = len(body)
        if lines := split_lines(bytes(body[start:end])):
            yield lines
        start = end + 1


def _refusal(status: int, message: str, *, version_1: bool) -> Response:
    said = {"error": message} if version_1 else {"code": _CODES[status], "message": message}
    return JSONResponse(said, status, {**_INFLUX, **(_RETRY_AFTER if status == 503 else {})})


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
