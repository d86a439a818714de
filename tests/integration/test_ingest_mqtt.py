"""Messages from a real Mosquitto: kills, restarts, and a broker that refuses."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from keepline.capture import SqliteCaptureStore
from keepline.capture.ingest import mqtt
from keepline.capture.ingest.mqtt import Broker, MqttMessages
from keepline.capture.store import Appended
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.errors import CaptureWriteError, IngestError
from keepline.model import Chunk
from tests.acceptance.command import error_line, keepline, keepline_json
from tests.ingesting import (
    PATIENCE_S,
    archived_numbers,
    feeding,
    ingesting,
    make_instance,
    until,
)
from tests.needs import give_up
from tests.servers import MqttServer, ServerMissingError, mosquitto_program

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Mosquitto:
    """A broker on a port of its own, which can be stopped and started again with its memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = mosquitto_program()
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])

    def start(self) -> None:
        """Start it and wait until it answers."""
        config = self._folder / "mosquitto.conf"
        account = pwd.getpwuid(os.geteuid()).pw_name
        config.write_text(
            f"user {account}\nlistener {self.port} {HOST}\nallow_anonymous true\n"
            f"persistence true\npersistence_location {self._folder}/\nmax_queued_messages 0\n"
        )
        self._process = subprocess.Popen(
            [str(self._program), "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("mosquitto did not start")

    def stop(self) -> None:
        """Have it write down what it remembers, and end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            self._process = None

    def way(self, *topics: str, client_id: str = "keepline-test") -> MqttMessages:
        return MqttMessages(Broker(HOST, self.port, client_id), topics, max_message_kb=1)

    @contextmanager
    def publisher(self) -> Iterator[paho.Client]:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect(HOST, self.port)
        client.loop_start()
        try:
            yield client
        finally:
            client.disconnect()
            client.loop_stop()

    def publish(self, topic: str, payloads: Sequence[bytes], qos: int = 1) -> None:
        """Publish messages, and wait until the broker has each of them."""
        with self.publisher() as client:
            for payload in payloads:
                client.publish(topic, payload, qos).wait_for_publish(PATIENCE_S)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of one's own, which takes everybody."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    try:
        own = Mosquitto(folder)
    except ServerMissingError as error:
        give_up(str(error))
    own.start()
    yield own
    own.stop()


def numbers(first: int, count: int) -> list[bytes]:
    return [b'{"n": %d}' % n for n in range(first, first + count)]


async def test_payloads_are_messages_as_they_came(tmp_path: Path, broker: Mosquitto) -> None:
    payloads = [b'{"a": 1}', b"two\nlines", b"\xff\x00", b""]
    async with feeding(tmp_path, broker.way("bench/1")) as run:
        await asyncio.to_thread(broker.publish, "bench/1", payloads)
        await asyncio.to_thread(broker.publish, "bench/1", [b"unsure"], 0)
        await asyncio.to_thread(broker.publish, "bench/1", [b"twice sure"], 2)
        await asyncio.to_thread(broker.publish, "other", [b"not ours"])
        await until(lambda: run.feeder.taken == 6)
    assert run.stored() == [*payloads, b"unsure", b"twice sure"]


async def test_each_topic_of_a_filter_is_a_source(tmp_path: Path, broker: Mosquitto) -> None:
    way = broker.way("plant/+/temp", "plant/+/with space")
    async with feeding(tmp_path, way) as run:
        for topic in ("plant/1/temp", "plant/2/temp", "plant/2/with space", "plant/2/temp"):
            await asyncio.to_thread(broker.publish, topic, [topic.encode()])
        await asyncio.to_thread(broker.publish, "plant/2/flow", [b"not ours"])
        await until(lambda: run.feeder.taken == 4)
    assert run.totals is not None
    assert run.totals.sources == {
        "main": 0,
        "plant.1.temp": 1,
        "plant.2.temp": 2,
        "plant.2.with_space": 1,
    }
    assert way.sources["plant.2.with_space"] == "plant/2/with space"
    assert run.stored("plant.2.temp") == [b"plant/2/temp"] * 2
    assert run.totals.session.state == "complete"


async def test_topics_that_look_alike_keep_apart(tmp_path: Path, broker: Mosquitto) -> None:
    topics = ["a/b", "a.b", "a/b/", "main", "/", "x" * 90, "x" * 91, "ü x/a b"]
    way = broker.way("#")
    async with feeding(tmp_path, way) as run:
        for topic in topics:
            await asyncio.to_thread(broker.publish, topic, [topic.encode()])
        await until(lambda: run.feeder.taken == len(topics))
    assert sorted(way.sources.values()) == sorted(topics)
    assert way.sources["x.a_b"] == "ü x/a b"
    for source, topic in way.sources.items():
        assert run.stored(source) == [topic.encode()]


async def test_more_topics_than_sources_are_quarantined(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.capture.ingest.feeder.MAX_SOURCES", 2)
    async with feeding(tmp_path, broker.way("t/#")) as run:
        for topic in ("t/1", "t/2", "t/1"):
            await asyncio.to_thread(broker.publish, topic, [topic.encode()])
        await asyncio.to_thread(broker.publish, "t/1", [b"x" * 1_025])
        await until(lambda: run.feeder.taken == 2 and len(run.kept.rows) == 2)
    assert run.kept.raw == [b"t/2", b"x" * 1_025]
    assert run.kept.rows[0][0].endswith(":topic t/2")


async def test_however_many_topics_are_too_many_one_line_says_so(
    tmp_path: Path,
    broker: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("keepline.capture.ingest.feeder.MAX_SOURCES", 2)
    async with feeding(tmp_path, broker.way("t/#")) as run:
        for number in range(10):
            await asyncio.to_thread(broker.publish, f"t/{number}", [b"%d" % number])
        await until(lambda: len(run.kept.rows) == 9)
    assert [row[0].rpartition(" ")[2] for row in run.kept.rows] == [f"t/{n}" for n in range(1, 10)]
    assert caplog.text.count("at most 2 sources") == 1


@pytest.mark.parametrize("where", ["add_stream", "open_writer"])
async def test_a_new_topic_waits_for_a_store_that_is_away(
    tmp_path: Path,
    broker: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    real = getattr(SqliteCaptureStore, where)
    failures = 2

    def faulty(store: SqliteCaptureStore, *arguments: object) -> object:
        nonlocal failures
        if failures and (way.sources or run.feeder.taken):
            failures -= 1
            raise CaptureWriteError("away")
        return real(store, *arguments)

    way = broker.way("t/#")
    async with feeding(tmp_path, way) as run:
        watching = asyncio.create_task(run.feeder.watch())
        monkeypatch.setattr(SqliteCaptureStore, where, faulty)
        for topic in ("t/1", "t/2", "t/3"):
            await asyncio.to_thread(broker.publish, topic, [topic.encode()])
        await until(lambda: run.feeder.taken == 3 or watching.done())
        assert not watching.done()
        watching.cancel()
    assert failures == 0
    assert [run.stored(f"t.{n}") for n in (1, 2, 3)] == [[b"t/1"], [b"t/2"], [b"t/3"]]
    assert caplog.text.count("have to wait") == 1


async def test_a_new_topic_whose_store_is_away_does_not_hold_up_a_stop(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def away(*_: object) -> None:
        asked.set()
        raise CaptureWriteError("away")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteCaptureStore, "add_stream", away)
        async with feeding(tmp_path, broker.way("t/#")) as first:
            await asyncio.to_thread(broker.publish, "t/1", [b"1"])
            await until(asked.is_set)
    assert first.totals is not None
    assert first.totals.session.state == "empty"
    async with feeding(tmp_path, broker.way("t/#")) as second:  # the broker has kept it
        await until(lambda: second.feeder.taken == 1)
    assert second.stored("t.1") == [b"1"]


async def test_nothing_published_while_we_are_away_is_lost(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with feeding(tmp_path, broker.way("bench")) as first:
        await asyncio.to_thread(broker.publish, "bench", numbers(0, 5))
        await until(lambda: first.feeder.taken == 5)
    await asyncio.to_thread(broker.publish, "bench", numbers(5, 50))
    async with feeding(tmp_path, broker.way("bench")) as second:
        await until(lambda: second.feeder.taken == 50)
    assert first.stored() == numbers(0, 5)
    assert second.stored() == numbers(5, 50)  # what was stored was acknowledged, and not again


async def test_nothing_is_acknowledged_before_it_is_stored(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_STOP_S", 0.2)
    disk = threading.Event()
    append = SqliteStreamWriter.append

    def slow(writer: SqliteStreamWriter, chunks: Sequence[Chunk]) -> list[Appended]:
        disk.wait()
        return append(writer, chunks)

    monkeypatch.setattr(SqliteStreamWriter, "append", slow)
    way = broker.way("bench")
    async with feeding(tmp_path, way) as first:
        await asyncio.to_thread(broker.publish, "bench", numbers(0, 5))
        await until(lambda: first.feeder.taken == 5)
        await way.close()
        disk.set()
    async with feeding(tmp_path, broker.way("bench")) as second:
        await until(lambda: second.feeder.taken == 5)
    assert first.stored() == second.stored() == numbers(0, 5)


async def test_a_restart_of_the_broker_is_survived(
    tmp_path: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with feeding(tmp_path, broker.way("bench")) as run:
        await asyncio.to_thread(broker.publish, "bench", numbers(0, 5))
        await until(lambda: run.feeder.taken == 5)
        await asyncio.to_thread(broker.stop)
        await until(lambda: "is lost" in caplog.text)
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(broker.publish, "bench", numbers(5, 5))
        # The broker may send the first five again, so that a number taken says nothing.
        await until(lambda: set(run.stored()) == set(numbers(0, 10)))
    assert "connected to the MQTT broker again" in caplog.text


async def test_two_with_one_client_id_are_told_what_to_do(
    tmp_path: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    async with feeding(tmp_path, broker.way("t")), feeding(tmp_path / "other", broker.way("t")):
        await until(
            lambda: "client id keepline-test, give one of them a --client-id" in caplog.text
        )


@pytest.mark.parametrize(
    "topics", [(), ("",), ("a/b#",), ("a/#/b",), ("a+/b",), ("nul\0",), ("good", "b/++")]
)
def test_a_filter_that_is_none_is_refused(topics: tuple[str, ...]) -> None:
    with pytest.raises(IngestError, match="topic"):
        MqttMessages(Broker(HOST, 1, "test"), topics)


async def test_a_broker_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        way = MqttMessages(Broker(HOST, probe.getsockname()[1], "test"), ["t"])
        with pytest.raises(IngestError, match="cannot be reached"):
            async with feeding(tmp_path, way):
                pass


def test_a_broker_never_shows_its_password() -> None:
    broker = Broker(HOST, 1, "test", "me", SecretStr("confidential"))
    assert "confidential" not in repr(broker)


# As a user runs it.


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """An instance with a stream `board` of JSON."""
    return make_instance(tmp_path / "instance")


def test_a_wrong_password_is_one_line_and_leaves_no_session(
    instance: Path, mosquitto: MqttServer
) -> None:
    arguments = (
        "ingest", "mqtt", "--stream", "board", "--topic", "t", "--port", str(mosquitto.port),
        "--broker-user", mosquitto.user,
    )  # fmt: skip
    said = error_line(
        "--instance", instance, *arguments, KEEPLINE_INGEST__MQTT_PASSWORD="wrong-secret"
    )
    assert "refuses" in said
    assert said.endswith("check --broker-user and KEEPLINE_INGEST__MQTT_PASSWORD")
    assert "wrong-secret" not in said
    assert keepline_json("--instance", instance, "capture", "list") == {"sessions": []}
    right = {"KEEPLINE_INGEST__MQTT_PASSWORD": mosquitto.password}
    with ingesting(instance, *arguments[1:], **right) as running:
        assert running.stop()["state"] == "empty"


def test_everything_published_is_in_after_kills(instance: Path, broker: Mosquitto) -> None:
    arguments = (
        "mqtt", "--stream", "board", "--topic", "bench", "--port", str(broker.port),
    )  # fmt: skip
    published = 0
    sessions = []
    for round_ in range(3):
        with ingesting(instance, *arguments) as running:
            sessions.append(running.number)
            with broker.publisher() as client:
                sent = [
                    client.publish("bench", payload, 1) for payload in numbers(published, 2_000)
                ]
                time.sleep(0.05 * round_)
                running.kill()
                for each in sent:
                    each.wait_for_publish(PATIENCE_S)
            published += 2_000
    with ingesting(instance, *arguments) as running:
        sessions.append(running.number)
        deadline = time.monotonic() + PATIENCE_S
        stored: list[bytes] = []
        while len(set(stored)) < published and time.monotonic() < deadline:
            time.sleep(0.2)
            with SqliteCaptureStore(instance / "capture.db") as store:
                stored = [
                    message
                    for number in sessions
                    for chunk in store.chunks(number, "main")
                    for message in chunk.messages()
                ]
        assert running.stop()["state"] == "complete"
    assert set(stored) == set(numbers(0, published))
    keepline("--instance", instance, "capture", "recover")
    keepline("--instance", instance, "archive")
    archived = [value for number in sessions for value in archived_numbers(instance, number)]
    assert sorted(set(archived)) == list(range(published))
