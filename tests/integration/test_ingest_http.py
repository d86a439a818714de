"""Messages by HTTP: plain sockets, hostile ones, and InfluxDB's own client library."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from influxdb_client import InfluxDBClient, Point, WriteOptions
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from keepline.capture.ingest import http as http_way
from keepline.capture.ingest import http_server
from keepline.capture.ingest.http import HttpMessages
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.errors import CaptureWriteError
from keepline.model import StreamSpec
from tests.acceptance.command import error_line, keepline
from tests.ingesting import (
    TOKEN,
    Run,
    archived_numbers,
    feeding,
    ingesting,
    make_instance,
    port_of,
    recovered_messages,
    settings,
    until,
)

pytestmark = pytest.mark.anyio

BEARER = {"Authorization": f"Bearer {TOKEN}"}
INFLUX = StreamSpec(decoder="influx")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Answer:
    """What came back."""

    def __init__(self, found: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = found.status, found.headers, found.read()

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    run: Run,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] = BEARER,
    method: str = "POST",
) -> Answer:
    """Make one request on a connection of its own."""

    def asking() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(run.address), timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            return Answer(connection.getresponse())
        finally:
            connection.close()

    return await asyncio.to_thread(asking)


async def test_lines_are_messages_and_stored_when_it_says_so(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        answer = await ask(run, "/api/v1/ingest", b'{"a": 1}\r\n\n{"a": 2}\n\xff raw')
        assert (answer.status, answer.body) == (204, b"")
        assert run.stored() == [b'{"a": 1}', b'{"a": 2}', b"\xff raw"]
        assert (await ask(run, "/api/v1/ingest", b"")).status == 204
        packed = {**BEARER, "Content-Encoding": "gzip"}
        answer = await ask(run, "/api/v1/ingest", gzip.compress(b"packed\n" * 100_000), packed)
        assert answer.status == 204
        assert run.stored()[3:] == [b"packed"] * 100_000


async def test_one_json_object_is_one_message(tmp_path: Path) -> None:
    as_json = {**BEARER, "Content-Type": "application/json; charset=utf-8"}
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        assert (await ask(run, "/api/v1/ingest", b'{"a":\n 1}', as_json)).status == 204
        answer = await ask(run, "/api/v1/ingest", b' [{"a": 1}]', as_json)
        assert (answer.status, answer.json()["code"]) == (400, "invalid")
        assert "x-ndjson" in answer.json()["message"]
        assert (await ask(run, "/api/v1/ingest", b" \r\n", as_json)).status == 204  # no message
        assert run.stored() == [b'{"a":\n 1}']


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": "Basic not-base64"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/ingest", "/api/v2/write", "/write", "/query"])
async def test_without_the_token_nothing_is_taken(
    tmp_path: Path, headers: dict[str, str], path: str
) -> None:
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:
        answer = await ask(run, path, b"m a=1", headers)
        assert answer.status == 401
        said = answer.json()
        ours = {"code": "unauthorized", "message": "unauthorized access"}
        assert said == (ours if path.startswith("/api/") else {"error": "unauthorized access"})
        assert TOKEN.encode() not in answer.body
        assert run.feeder.taken == 0


async def test_every_way_that_influx_clients_show_a_token_is_understood(tmp_path: Path) -> None:
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    asked: list[tuple[str, dict[str, str]]] = [
        ("/api/v2/write?org=o&bucket=b", {"Authorization": f"Token {TOKEN}"}),
        ("/api/v2/write?org=o&bucket=b&precision=ns", {"Authorization": f"Bearer {TOKEN}"}),
        ("/write?db=d", {"Authorization": f"Basic {basic}"}),
        ("/write?db=d", {"Authorization": f"Token me:{TOKEN}"}),
        (f"/write?db=d&u=me&p={TOKEN}", {}),
    ]
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:
        for n, (path, headers) in enumerate(asked):
            answer = await ask(run, path, b"m v=%d %d" % (n, n), headers)
            assert answer.status == 204, (path, answer.body)
        assert run.stored() == [b"m v=%d %d" % (n, n) for n in range(5)]
        created = await ask(
            run, "/query", b"q=CREATE+DATABASE+%22telegraf%22", {"Authorization": f"Basic {basic}"}
        )
        assert (created.status, created.json()) == (200, {"results": [{"statement_id": 0}]})
        refused = await ask(run, "/query", b"q=DROP+DATABASE+telegraf")
        assert refused.status == 400
        assert "error" in refused.json()


async def test_each_precision_has_a_source_that_says_so(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:
        for path in ("/api/v2/write?precision=s", "/write?precision=s", "/write?precision=n"):
            assert (await ask(run, path, b"m v=1 1")).status == 204
        assert (await ask(run, "/api/v2/write?precision=days", b"m v=1 1")).status == 400
        assert (run.stored(), run.stored("main.s")) == ([b"m v=1 1"], [b"m v=1 1"] * 2)
        for precision in ("m", "h"):
            assert (await ask(run, f"/write?precision={precision}", b"m v=1 1")).status == 204
        specs = {spec.source: dict(spec.options) for spec in run.store.streams(run.number)}
        assert specs == {"main": {}} | {f"main.{each}": {"precision": each} for each in "smh"}
    assert run.totals is not None
    assert run.totals.sources == {"main": 1, "main.s": 2, "main.m": 1, "main.h": 1}


async def test_line_protocol_is_refused_where_another_decoder_is_declared(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        answer = await ask(run, "/api/v2/write", b"m v=1 1")
        assert answer.status == 400
        assert "influx" in answer.json()["message"]
        assert run.feeder.taken == 0


async def test_ping_and_health_need_no_token(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        ping = await ask(run, "/ping", headers={}, method="GET")
        assert (ping.status, bool(ping.headers["X-Influxdb-Version"])) == (204, True)
        health = await ask(run, "/health", headers={}, method="GET")
        assert (health.status, health.json()["status"]) == (200, "pass")
        assert (await ask(run, "/else", method="GET")).status == 404


async def test_a_message_too_large_is_quarantined_and_the_others_are_taken(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        answer = await ask(run, "/api/v1/ingest", b"before\n" + b"x" * 1_025 + b"\nafter\n")
        assert answer.status == 204
        assert run.kept.raw == [b"x" * 1_025]
        assert run.stored() == [b"before", b"after"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x\n" * 600_000, {}, 413),
        (gzip.compress(b"\0" * 300_000_000), {"Content-Encoding": "gzip"}, 413),
        (gzip.compress(b"x" * 1_000)[:-9], {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"x") + b"more", {"Content-Encoding": "gzip"}, 400),
        (b"plain", {"Content-Encoding": "gzip"}, 400),
        (b"x", {"Content-Encoding": "br"}, 415),
    ],
    ids=["large", "bomb", "cut", "trailing", "plain", "other"],
)
async def test_a_body_that_cannot_be_taken_is_refused_whole(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with feeding(tmp_path, HttpMessages(settings(max_body_mb=1))) as run:
        answer = await ask(run, "/api/v1/ingest", body, {**BEARER, **headers})
        assert (answer.status, run.feeder.taken) == (status, 0)
        assert answer.json()["code"]
        assert (await ask(run, "/api/v1/ingest", b"next")).status == 204


async def test_bodies_together_are_bounded_and_the_memory_comes_back(tmp_path: Path) -> None:
    head = (
        f"POST /api/v1/ingest HTTP/1.1\r\nHost: k\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Length: 1048576\r\n\r\n"
    ).encode()
    async with feeding(tmp_path, HttpMessages(settings(max_body_mb=1))) as run:
        port = port_of(run.address)
        slow = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"x" * 1_048_575)
            await writer.drain()
            slow.append((reader, writer))
        await asyncio.sleep(0.3)
        assert (await ask(run, "/api/v1/ingest", b"x" * 1_000)).status == 204
        refused = await ask(run, "/api/v1/ingest", b"x\n" * 300_000)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        for _, writer in slow:
            writer.close()
        await asyncio.sleep(0.3)
        assert (await ask(run, "/api/v1/ingest", b"x\n" * 300_000)).status == 204


async def test_a_body_that_is_long_in_coming_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_way, "_BODY_S", 0.1)
    monkeypatch.setattr(http_way, "_ANSWER_S", 0.1)
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(run.address))
        head = f"POST /api/v1/ingest HTTP/1.1\r\nHost: k\r\nAuthorization: Bearer {TOKEN}\r\n"
        writer.write(head.encode() + b"Content-Length: 100\r\n\r\nfirst\n")
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert run.feeder.taken == 0


async def test_a_store_that_cannot_write_answers_503_and_a_retry_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_way, "_ANSWER_S", 0.3)
    full = threading.Event()
    append = SqliteStreamWriter.append

    def faulty(writer: SqliteStreamWriter, chunks: Any) -> Any:
        if full.is_set():
            raise CaptureWriteError("disk full")
        return append(writer, chunks)

    monkeypatch.setattr(SqliteStreamWriter, "append", faulty)
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        watching = asyncio.create_task(run.feeder.watch())
        full.set()
        answer = await ask(run, "/api/v1/ingest", b"1")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["code"] == "unavailable"
        full.clear()
        assert (await ask(run, "/api/v1/ingest", b"1")).status == 204
        watching.cancel()
    assert run.stored() == [b"1", b"1"]  # at least once


async def test_slow_and_silent_clients_stall_nobody_and_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_HEAD_S", 1.0)
    async with feeding(tmp_path, HttpMessages(settings(max_clients=6))) as run:
        port = port_of(run.address)
        hostile = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        dripping = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for n in range(10):
            for _, writer in dripping:
                if not writer.is_closing():
                    writer.write(b"POST /api/v1/ingest HTTP/1.1\r\nHost: k\r\n"[n : n + 1])
            assert (await ask(run, "/api/v1/ingest", b"%d" % n)).status == 204
        for reader, writer in [*hostile, *dripping]:
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
    assert run.stored() == [b"%d" % n for n in range(10)]


async def test_the_head_of_a_request_is_bounded(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings())) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(run.address))
        writer.write(b"GET /ping HTTP/1.1\r\nX: " + b"x" * 100_000)
        said = await asyncio.wait_for(reader.read(), 20)
        assert said == b"" or said.startswith(b"HTTP/1.1 4")
        writer.close()


async def test_neither_tokens_nor_bodies_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:
        await ask(run, "/api/v1/ingest", b"confidential")
        await ask(run, f"/write?u=me&p={TOKEN}", b"confidential x=1")
        await ask(run, "/write?u=me&p=wrong-secret", b"confidential x=1")
        await ask(run, "/api/v1/ingest", b"x" * 2_000)
    for secret in (TOKEN, "confidential", "wrong-secret"):
        assert secret not in caplog.text


async def test_requests_that_are_there_are_answered_when_taking_is_stopped(tmp_path: Path) -> None:
    way = HttpMessages(settings())
    async with feeding(tmp_path, way) as run:
        asked = asyncio.create_task(ask(run, "/api/v1/ingest", b"x\n" * 400_000))
        await until(lambda: run.feeder.taken > 0)
        await way.close()
        assert (await asked).status == 204
    assert len(run.stored()) == 400_000


# InfluxDB's own client.


def _points(first: int, count: int) -> list[Point]:
    return [
        Point("bench").tag("axis", "x").field("v", float(n)).time(1_700_000_000_000_000_000 + n)
        for n in range(first, first + count)
    ]


def _lines(count: int) -> list[bytes]:
    return [b"bench,axis=x v=%d %d" % (n, 1_700_000_000_000_000_000 + n) for n in range(count)]


@pytest.mark.parametrize("packed", [False, True])
async def test_the_influxdb_client_writes_unchanged(tmp_path: Path, packed: bool) -> None:
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:

        def writing() -> None:
            with (
                InfluxDBClient(run.address, TOKEN, org="o", enable_gzip=packed) as client,
                client.write_api(write_options=SYNCHRONOUS) as write,
            ):
                assert client.ping()
                assert client.version()
                write.write("bucket", "o", _points(0, 10))
                write.write("bucket", "o", _points(10, 490))

        await asyncio.to_thread(writing)
        assert run.stored() == _lines(500)


@pytest.mark.parametrize("packed", [False, True])
async def test_the_influxdb_client_writes_in_batches(tmp_path: Path, packed: bool) -> None:
    options = WriteOptions(batch_size=50, flush_interval=200, jitter_interval=0)
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:

        def writing() -> None:
            with (
                InfluxDBClient(run.address, TOKEN, org="o", enable_gzip=packed) as client,
                client.write_api(write_options=options) as write,
            ):
                for point in _points(0, 480):
                    write.write("bucket", "o", point)

        await asyncio.to_thread(writing)
        assert sorted(run.stored()) == sorted(_lines(480))


async def test_the_influxdb_client_understands_a_refusal(tmp_path: Path) -> None:
    async with feeding(tmp_path, HttpMessages(settings()), spec=INFLUX) as run:

        def writing(token: str) -> ApiException:
            with (
                InfluxDBClient(run.address, token, org="o") as client,
                client.write_api(write_options=SYNCHRONOUS) as write,
                pytest.raises(ApiException) as caught,
            ):
                write.write("bucket", "o", "m v=1", write_precision="s" if token == TOKEN else "d")
            return caught.value

        refused = await asyncio.to_thread(writing, "wrong")
        assert (refused.status, refused.message) == (401, "unauthorized access")


# As a user runs it.


def test_the_command_takes_what_the_client_library_writes(tmp_path: Path) -> None:
    instance = make_instance(tmp_path / "instance", "influx")
    with ingesting(instance, "http", "--stream", "board") as running:
        with (
            InfluxDBClient(running.started["address"], TOKEN, org="o") as client,
            client.write_api(write_options=SYNCHRONOUS) as write,
        ):
            write.write("bucket", "o", _points(0, 20))
        ended = running.stop()
    assert (ended["state"], ended["messages"]) == ("complete", 20)
    keepline("--instance", instance, "archive")
    values = archived_numbers(instance, running.number, "bench,axis=x v")
    assert values == list(range(20))


def test_the_command_needs_a_token(tmp_path: Path) -> None:
    instance = make_instance(tmp_path / "instance")
    said = error_line("--instance", instance, "ingest", "http", "--stream", "board")
    assert "KEEPLINE_INGEST__TOKEN" in said


@pytest.mark.parametrize("seed", range(3))
def test_answered_requests_survive_a_kill_of_the_ingester(killed: Path, seed: int) -> None:
    with ingesting(killed, "http", "--stream", "board") as running:
        timer = threading.Timer(0.1 + 0.15 * seed, running.kill)
        timer.start()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        answered = asked = 0
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                body = b"".join(b'{"n": %d}\n' % n for n in range(asked, asked + 20))
                asked += 20
                connection.request("POST", "/api/v1/ingest", body, BEARER)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 204
                answered = asked
        except (OSError, http.client.HTTPException):
            connection.close()  # it is dead
        finally:
            connection.close()
            timer.join()
    assert answered > 0
    assert answered <= recovered_messages(killed, running.number) <= asked
