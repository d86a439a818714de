"""Lines over TCP, with real sockets: acknowledgement, limits, and clients that misbehave."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.capture.ingest import tcp
from keepline.capture.ingest.feeder import Feeder
from keepline.capture.ingest.run import run
from keepline.capture.ingest.tcp import TcpLines
from keepline.errors import IngestError
from tests.acceptance.command import error_line, keepline, keepline_json
from tests.ingesting import (
    TOKEN,
    Kept,
    Run,
    feeding,
    ingesting,
    make_instance,
    port_of,
    recovered_messages,
    settings,
    until,
)

pytestmark = pytest.mark.anyio

HELLO = b"token " + TOKEN.encode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client:
    """One connection, as a test wants to use it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def line(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), 20)

    async def lines(self) -> list[bytes]:
        """Return all lines until the server ends the connection."""
        try:
            return (await asyncio.wait_for(self.reader.read(), 20)).splitlines()
        except ConnectionError:
            return []

    async def told(self, line: bytes) -> None:
        """Wait until the server says a line."""
        while (found := await self.line()) != line:
            assert found, f"the connection ended before {line!r}"


@asynccontextmanager
async def client(run: Run, hello: bytes = HELLO + b"\n") -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(run.address))
    try:
        writer.write(hello)
        yield Client(reader, writer)
    finally:
        writer.close()


async def test_lines_are_messages_as_they_came(tmp_path: Path) -> None:
    async with feeding(tmp_path, TcpLines(settings())) as run, client(run) as one:
        one.send(b'{"a": 1}\n\xff\x00 raw\r\n\n\r\n{"a": 2}\n')
        await until(lambda: run.feeder.taken == 3)
    assert run.stored() == [b'{"a": 1}', b"\xff\x00 raw", b'{"a": 2}']
    assert run.kept.rows == []


async def test_acknowledged_lines_are_stored(tmp_path: Path) -> None:
    async with (
        feeding(tmp_path, TcpLines(settings())) as run,
        client(run, HELLO + b" ack\r\n") as one,
    ):
        assert await one.line() == b"ok 0\n"
        for n in range(20):
            one.send(b"%d\n" % n)
            await one.told(b"ok %d\n" % (n + 1))
            assert run.stored() == [b"%d" % each for each in range(n + 1)]
        one.send(b"x\n" * 5_000)
        one.writer.write_eof()
        assert (await one.lines())[-1] == b"ok 5020"
        assert len(run.stored()) == 5_020


@pytest.mark.parametrize(
    "hello",
    [
        b"token wrong\n",
        b"token \n",
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"x" + HELLO + b"\n",
        HELLO[:-1] + b"\n",
        b"token " + b"x" * 200_000 + b"\n",
    ],
)
async def test_without_the_token_nothing_is_taken(tmp_path: Path, hello: bytes) -> None:
    async with (
        feeding(tmp_path, TcpLines(settings())) as run,
        client(run, hello + b"message\n") as one,
    ):
        assert await one.lines() in ([b"error token refused"], [])
        assert run.feeder.taken == 0
    assert (run.stored(), run.kept.rows) == ([], [])


@pytest.mark.parametrize("more", [b" more", b" ACK", b" ack more", b" "])
async def test_another_word_after_the_token_is_said_to_be_none(tmp_path: Path, more: bytes) -> None:
    async with (
        feeding(tmp_path, TcpLines(settings())) as run,
        client(run, HELLO + more + b"\nmessage\n") as one,
    ):
        assert await one.lines() in ([b"error after the token comes ack, or nothing"], [])
        assert run.feeder.taken == 0


@pytest.mark.parametrize("messages", [b"", b"good\n"])
async def test_an_error_is_the_last_that_a_client_is_told(tmp_path: Path, messages: bytes) -> None:
    async with (
        feeding(tmp_path, TcpLines(settings())) as run,
        client(run, HELLO + b" ack\n" + messages + b"x" * 2_000 + b"\n") as one,
    ):
        *told, last = await one.lines()
    assert last == b"error a message has at most 1024 bytes"
    assert told == [b"ok 0"] + [b"ok 1"] * bool(messages)


async def test_a_client_that_shows_no_token_in_time_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_TOKEN_S", 0.1)
    async with feeding(tmp_path, TcpLines(settings())) as run, client(run, b"tok") as one:
        assert await one.lines() == []


async def test_strangers_cannot_keep_clients_out(tmp_path: Path) -> None:
    way = TcpLines(settings(max_clients=5))
    async with feeding(tmp_path, way) as run:
        strangers = [
            await asyncio.open_connection("127.0.0.1", port_of(run.address)) for _ in range(30)
        ]
        async with client(run, HELLO + b" ack\n") as one:
            one.send(b"in\n")
            await one.told(b"ok 1\n")
        for _, writer in strangers:
            writer.close()


async def test_too_many_clients_are_told_so(tmp_path: Path) -> None:
    async with feeding(tmp_path, TcpLines(settings(max_clients=2))) as run:
        async with client(run, HELLO + b" ack\n") as one, client(run, HELLO + b" ack\n") as two:
            assert (await one.line(), await two.line()) == (b"ok 0\n", b"ok 0\n")
            async with client(run) as three:
                assert await three.lines() == [b"error too many clients; try again later"]
        await asyncio.sleep(0.05)
        async with client(run, HELLO + b" ack\n") as four:
            assert await four.line() == b"ok 0\n"


async def test_a_partial_last_line_is_quarantined_and_not_a_message(tmp_path: Path) -> None:
    async with feeding(tmp_path, TcpLines(settings())) as run:
        async with client(run) as one:
            one.send(b'{"a": 1}\n{"a": 12')
        await until(lambda: bool(run.kept.rows))
    ((origin, position, raw, reason),) = run.kept.rows
    assert (raw, position, origin.endswith(":main")) == (b'{"a": 12', 0, True)
    assert "in the middle" in reason
    assert run.stored() == [b'{"a": 1}']
    assert run.totals is not None
    assert (run.totals.messages, run.totals.quarantined) == (1, 1)


@pytest.mark.parametrize("stop_s", [0.5, 30.0])
async def test_a_run_whose_rejected_input_is_lost_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_s: float
) -> None:
    monkeypatch.setattr(tcp, "_STOP_S", 1.0)
    monkeypatch.setattr("keepline.capture.ingest.feeder._QUARANTINE_STOP_S", stop_s)
    way = TcpLines(settings())
    kept = Kept()
    kept.failures = 1_000_000

    async def say(address: str) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
        writer.write(HELLO + b"\ngood\nhalf")
        writer.close()

    saying: list[asyncio.Task[None]] = []
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        feeder = Feeder(CaptureServer(store, "bench"), kept)
        running = run(
            feeder,
            way,
            seconds=0.5,
            started=lambda _, address: saying.append(asyncio.create_task(say(address))),
        )
        with pytest.raises(IngestError, match="rejected input is lost"):
            await asyncio.wait_for(running, 20)
        (info,) = store.sessions()
    assert (info.state, feeder.taken, feeder.rejected) == ("interrupted", 1, 0)


@pytest.mark.parametrize("end", [b"", b"\n", b"\nmore\nand more\n"])
async def test_a_message_too_large_ends_the_client_and_is_kept(tmp_path: Path, end: bytes) -> None:
    long = b"x" * 1_026
    async with feeding(tmp_path, TcpLines(settings())) as run, client(run) as other:
        async with client(run, HELLO + b" ack\n") as one:
            one.send(b"good\n" + long + end)
            said = await one.lines()
        await until(lambda: bool(run.kept.rows))
        other.send(b"goes on\n")
        await until(lambda: run.feeder.taken == 2)
    assert b"error a message has at most 1024 bytes" in said
    assert b"".join(run.kept.raw).startswith(long)
    assert run.stored() == [b"good", b"goes on"]


async def test_a_silent_client_is_cut_and_what_it_began_is_kept(tmp_path: Path) -> None:
    async with feeding(tmp_path, TcpLines(settings(idle_s=0.2))) as run, client(run) as one:
        one.send(b"whole\npart")
        assert await one.lines() == [b"error silent for too long"]
    assert (run.stored(), run.kept.raw) == ([b"whole"], [b"part"])


async def _hold_open(run: Run) -> None:
    async with client(run, HELLO + b" ack\n") as one:
        await one.line()
        await asyncio.sleep(60)


async def _never_end_a_line(run: Run) -> None:
    async with client(run) as one:
        while True:
            one.send(b"x")
            await asyncio.sleep(0.01)


async def _flood_and_never_read(run: Run) -> None:
    async with client(run, HELLO + b" ack\n") as one:
        while True:
            one.send(b"flood\n" * 1_000)
            await one.writer.drain()


async def _come_and_go(run: Run) -> None:
    while True:
        async with client(run, b"token") as one:
            one.writer.transport.abort()
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "hostile", [_hold_open, _never_end_a_line, _flood_and_never_read, _come_and_go]
)
async def test_no_client_stalls_the_others(tmp_path: Path, hostile: object) -> None:
    assert callable(hostile)
    async with feeding(tmp_path, TcpLines(settings())) as run:
        tasks = [asyncio.create_task(hostile(run)) for _ in range(8)]
        try:
            async with client(run, HELLO + b" ack\n") as good:
                for n in range(20):
                    good.send(b"good %d\n" % n)
                    await good.told(b"ok %d\n" % (n + 1))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        stored = run.stored()
    assert [m for m in stored if m.startswith(b"good")] == [b"good %d" % n for n in range(20)]
    assert run.totals is not None
    assert run.totals.session.state == "complete"


async def test_what_has_arrived_is_taken_when_taking_is_stopped(tmp_path: Path) -> None:
    async with feeding(tmp_path, TcpLines(settings())) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(run.address))
        writer.write(HELLO + b" ack\n")
        assert await reader.readline() == b"ok 0\n"
        writer.write(b"line\n" * 2_000 + b"part")
        await writer.drain()
        await asyncio.sleep(0.05)
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert said.splitlines()[-1] == b"ok 2000"
    assert run.kept.raw == [b"part"]
    assert run.totals is not None
    assert run.totals.messages == 2_000


async def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    way = TcpLines(settings())
    address = await way.prepare()
    with pytest.raises(IngestError, match="cannot listen on"):
        await TcpLines(settings(), port=port_of(address)).prepare()
    await way.close()


# As a user runs it.


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """An instance with a stream `board` of JSON."""
    return make_instance(tmp_path / "instance")


def test_the_command_records_a_session_and_says_what_it_took(instance: Path) -> None:
    with ingesting(instance, "tcp", "--stream", "board") as running:
        with socket.create_connection(("127.0.0.1", running.port), 20) as one:
            one.sendall(HELLO + b' ack\n{"v": 1}\nnot json\n{"v": 2}\n')
            one.shutdown(socket.SHUT_WR)
            said = one.makefile("rb").read().splitlines()
        assert said[-1] == b"ok 3"
        ended = running.stop()
    assert (ended["state"], ended["messages"], ended["quarantined"]) == ("complete", 3, 0)
    archived = keepline_json("--instance", instance, "archive")
    assert (archived["messages"], archived["readings"], archived["quarantined"]) == (3, 2, 1)


def test_the_command_ends_when_the_session_is_asked_to(instance: Path) -> None:
    with ingesting(instance, "tcp", "--stream", "board") as running:
        keepline("--instance", instance, "capture", "stop", str(running.number))
        assert running.ended()["state"] == "empty"


def test_the_command_ends_after_the_given_seconds(instance: Path) -> None:
    with ingesting(instance, "tcp", "--stream", "board", "--seconds", "0.2") as running:
        assert running.ended()["state"] == "empty"


def test_the_command_needs_a_token_and_a_stream(instance: Path) -> None:
    arguments = ("--instance", instance, "ingest", "tcp", "--stream")
    line = error_line(*arguments, "board")
    assert "export KEEPLINE_INGEST__TOKEN=$(openssl rand -hex 16)" in line
    line = error_line(*arguments, "other", KEEPLINE_INGEST__TOKEN=TOKEN)
    assert "'other'" in line
    assert "board" in line
    assert keepline_json("--instance", instance, "capture", "list") == {"sessions": []}


def _send_until_killed(port: int, kill: Iterator[None]) -> tuple[int, int]:
    """Send numbered lines; return how many were sent and how many acknowledged."""
    sent = told = 0
    rest = b""
    with socket.create_connection(("127.0.0.1", port), 20) as one:
        one.sendall(HELLO + b" ack\n")
        one.settimeout(20)
        try:
            while True:
                one.sendall(b"".join(b'{"n": %d}\n' % n for n in range(sent, sent + 50)))
                sent += 50
                data = one.recv(4_096)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                told = max([told, *(int(line.split()[1]) for line in lines)])
                next(kill, None)
        except OSError:
            pass
        return sent, told


@pytest.mark.parametrize("seed", range(3))
def test_acknowledged_lines_survive_a_kill_of_the_ingester(killed: Path, seed: int) -> None:
    with ingesting(killed, "tcp", "--stream", "board") as running:
        until_s = time.monotonic() + 0.05 + 0.12 * seed

        def killing() -> Iterator[None]:
            while time.monotonic() < until_s:
                yield
            running.kill()
            yield

        sent, told = _send_until_killed(running.port, killing())
    assert told > 0
    assert told <= recovered_messages(killed, running.number) <= sent


def test_ingesting_by_tcp_loads_no_extra() -> None:
    code = (
        "import sys, keepline.capture.ingest.tcp; "
        "print(sorted({'starlette', 'uvicorn', 'paho', 'serial', 'redis'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("uvicorn", ("http",), "http"),
        ("paho", ("mqtt", "--topic", "t"), "mqtt"),
        ("serial", ("serial", "--device", "/dev/null"), "serial"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    instance: Path, module: str, command: tuple[str, ...], extra: str
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from keepline.cli import main; main()"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "--instance",
            str(instance),
            "ingest",
            *command,
            "--stream",
            "board",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr.startswith("keepline: ")
    assert found.stderr.count("\n") == 1
    assert f"pip install 'keepline[{extra}]'" in found.stderr
