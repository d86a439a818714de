"""Messages from an MQTT broker, acknowledged to it only once they are safe.

paho-mqtt is used directly, in its own thread: what is built upon it acknowledges a message
when it arrives.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from keepline.capture.ingest.feed import Feed
from keepline.capture.ingest.feeder import Feeder
from keepline.errors import CaptureWriteError, IngestError, KeeplineError

if TYPE_CHECKING:
    from pydantic import SecretStr

_log = logging.getLogger(__name__)

_CONNECT_S = 10.0
_LAST_RETRY_S = 30
_KEEPALIVE_S = 30
_STOP_S = 10.0
_SOURCE_RETRY_S = 0.5
#: A connection that ends sooner than this is short; so many of them in a row are no accident.
_SHORT_S = 10.0
_SHORT_ONES = 3
_HINT_EVERY = 30
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Broker:
    """Where a broker is and who we are to it. `client_id` names the broker's memory of us."""

    host: str
    port: int
    client_id: str
    user: str = ""
    password: SecretStr | None = None
    tls: bool = False
    ca_file: Path | None = None


class MqttMessages:
    """Takes the messages of topics, each payload as one message.

    The broker keeps what is published while nobody is here (QoS 1 and a session that lasts),
    and sends again what was not acknowledged: nothing is lost, but a message may come twice.

    One topic without a wildcard feeds the stream's own source. Otherwise each topic is a
    source of its own, named after it; `sources` has their topics.
    """

    acknowledges = True

    def __init__(self, broker: Broker, topics: Sequence[str], *, max_message_kb: int = 64) -> None:
        self._broker = broker
        self._topics = _checked(topics)
        self._by_topic = len(topics) > 1 or any(sign in topics[0] for sign in "+#")
        self._max_bytes = max_message_kb * 1024
        self._client: paho.Client | None = None
        self._feeder: Feeder
        self._loop: asyncio.AbstractEventLoop
        self._feeds: dict[str, Feed] = {}
        self._full = False  # the session takes no more sources
        self._may_take = threading.Event()
        self._stopping = threading.Event()
        self._connected: asyncio.Future[None] | None = None
        self._subscribed: asyncio.Future[None] | None = None
        self._was_connected = False
        self._connected_at = 0.0
        self._short_ones = 0
        # An acknowledgement counts on the connection that brought the message, and is sent only
        # there; the lock keeps the connection from changing between look and send.
        self._lock = threading.Lock()
        self._connection = 0
        self._unacknowledged: deque[tuple[int, int, Feed | None, int]] = deque()
        self._news = asyncio.Event()
        self._acknowledging: asyncio.Task[None] | None = None
        self.sources: dict[str, str] = {}

    async def prepare(self) -> str:
        """Connect to the broker and return its address; see Way."""
        self._loop = asyncio.get_running_loop()
        self._connected = self._loop.create_future()
        self._subscribed = self._loop.create_future()
        self._client = self._made()
        where = f"{self._broker.host}:{self._broker.port}"
        try:
            await asyncio.to_thread(
                self._client.connect, self._broker.host, self._broker.port, _KEEPALIVE_S
            )
            self._client.loop_start()
            async with asyncio.timeout(_CONNECT_S):
                await self._connected
        except TimeoutError:
            await self.close()
            raise IngestError(f"the MQTT broker at {where} did not answer") from None
        except OSError as error:
            raise IngestError(
                f"the MQTT broker at {where} cannot be reached: {error.strerror or error}"
            ) from error
        except BaseException:
            await self.close()
            raise
        return f"mqtt{'s' if self._broker.tls else ''}://{where}"

    async def open(self, feeder: Feeder) -> None:
        """Begin to take messages; see Way."""
        self._feeder = feeder
        self._acknowledging = asyncio.create_task(self._acknowledge())
        # Not before: what the broker kept for us comes first, and its answer after that.
        self._may_take.set()
        if self._subscribed is not None:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._subscribed
            except TimeoutError:
                raise IngestError("the MQTT broker does not answer to a subscription") from None

    async def close(self) -> None:
        """Acknowledge what is safe by now and disconnect; see Way."""
        self._stopping.set()
        self._may_take.set()
        if self._acknowledging is not None:
            self._news.set()
            await asyncio.wait((self._acknowledging,), timeout=_STOP_S)
            self._acknowledging.cancel()
            await asyncio.gather(self._acknowledging, return_exceptions=True)
            self._acknowledging = None
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)

    def _made(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._broker.client_id,
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )
        if self._broker.user:
            secret = self._broker.password
            client.username_pw_set(
                self._broker.user, secret.get_secret_value() if secret is not None else None
            )
        if self._broker.tls:
            client.tls_set(ca_certs=str(self._broker.ca_file) if self._broker.ca_file else None)
        client.reconnect_delay_set(1, _LAST_RETRY_S)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    # From here on, what paho's thread calls.

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _p: Any) -> None:
        self._next_connection()
        if code.is_failure:
            error = IngestError(
                f"the MQTT broker at {self._broker.host}:{self._broker.port} refuses: {code}; "
                f"{_remedy(str(code))}"
            )
            if self._was_connected:
                _log.warning("%s", error)
            self._tell(self._connected, error)
            return
        self._connected_at = time.monotonic()
        self._tell(self._connected, None)
        client.subscribe([(topic, 1) for topic in self._topics])

    def _on_subscribe(
        self, client: paho.Client, _data: Any, _mid: int, codes: list[Any], _p: Any
    ) -> None:
        refused = [t for t, code in zip(self._topics, codes, strict=False) if code.is_failure]
        if refused:
            error = IngestError(f"the MQTT broker refuses the topic {refused[0]}")
            self._tell(self._subscribed, error)
            if self._was_connected:
                self._feeder.fail(error)
            return
        if self._was_connected and self._short_ones < _SHORT_ONES:
            _log.warning("connected to the MQTT broker again")
        self._was_connected = True
        self._tell(self._subscribed, None)

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: Any, code: Any, _p: Any
    ) -> None:
        self._next_connection()
        if self._was_connected and not self._stopping.is_set():
            self._look_for_a_twin()
            if self._short_ones < _SHORT_ONES:  # it has been said then what it may be
                _log.warning("the connection to the MQTT broker is lost (%s); trying again", code)

    def _look_for_a_twin(self) -> None:
        """Say what it may be when one connection after the other is ended at once.

        MQTT 3.1.1 does not tell a client that another one with its name has taken its place.
        """
        is_short = time.monotonic() - self._connected_at < _SHORT_S
        self._short_ones = self._short_ones + 1 if is_short else 0
        if self._short_ones % _HINT_EVERY == _SHORT_ONES:
            _log.warning(
                "each connection to the MQTT broker ends at once: if another ingester runs with "
                "the client id %s, give one of them a --client-id of its own",
                self._broker.client_id,
            )

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._may_take.wait()
        if self._stopping.is_set():
            return  # not acknowledged: the broker keeps it
        try:
            self._take(message)
        except KeeplineError as error:
            self._feeder.fail(error)
        except Exception as error:  # paho's thread would end in silence
            _log.exception("a message could not be taken")
            self._feeder.fail(IngestError(f"a message could not be taken: {error}"))

    def _take(self, message: paho.MQTTMessage) -> None:
        feed = self._feed_of(message.topic)
        if self._stopping.is_set():
            return  # it may have been waited for in vain
        payload = bytes(message.payload)
        if len(payload) > self._max_bytes:
            self._reject(message, f"a message of more than {self._max_bytes} bytes")
            feed = None
        elif feed is None:
            self._reject(message, "more topics than a session can have sources")
        elif not feed.take_waiting([payload], self._stopping.is_set):
            return  # not acknowledged: the broker keeps it
        if message.qos:
            with self._lock:
                entry = (self._connection, message.mid, feed, feed.last if feed else -1)
            self._unacknowledged.append(entry)
            self._loop.call_soon_threadsafe(self._news.set)

    def _feed_of(self, topic: str) -> Feed | None:
        if not self._by_topic:
            return self._feeder.main
        if topic not in self._feeds and not self._full:
            self._add(topic)
        return self._feeds.get(topic)

    def _add(self, topic: str) -> None:
        """Make a source for a topic, unless there are too many or taking is being stopped."""
        name = self._name_of(topic)
        told = False
        while not self._stopping.is_set():
            making = asyncio.run_coroutine_threadsafe(self._feeder.source(name), self._loop)
            try:
                self._feeds[topic] = making.result()
            except IngestError as error:
                self._full = True
                _log.warning("%s; messages of topic %s and others are quarantined", error, topic)
                return
            except CaptureWriteError as error:  # only the store can begin a source
                if not told:
                    _log.warning("messages of the new topic %s have to wait: %s", topic, error)
                told = True
                self._stopping.wait(_SOURCE_RETRY_S)
            else:
                self.sources[name] = topic
                _log.info("topic %s is source %s", topic, name)
                return

    def _name_of(self, topic: str) -> str:
        """Return a source's name for a topic that no other topic has."""
        name = _UNSAFE.sub("_", topic.strip("/").replace("/", ".")).strip("._-") or "topic"
        name = name[:_LONGEST_NAME]
        known = {self._feeder.spec.source, *self.sources}
        count = 2
        unique = name
        while unique in known:
            unique = f"{name[: _LONGEST_NAME - 4]}-{count}"
            count += 1
        return unique

    def _reject(self, message: paho.MQTTMessage, reason: str) -> None:
        kept = asyncio.run_coroutine_threadsafe(
            self._feeder.reject(bytes(message.payload), reason, source=f"topic {message.topic}"),
            self._loop,
        )
        kept.result()

    def _next_connection(self) -> None:
        with self._lock:
            self._connection += 1

    def _tell(self, asked: asyncio.Future[None] | None, error: IngestError | None) -> None:
        """Answer who waits for it; when that is done already, it does not matter."""
        self._loop.call_soon_threadsafe(_settle, asked, error)

    # From here on, in the event loop again.

    async def _acknowledge(self) -> None:
        """Acknowledge messages to the broker in their order, each once it is safe."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unacknowledged:
                connection, mid, feed, seq = self._unacknowledged[0]
                if feed is not None:
                    await feed.acknowledged(seq)
                with self._lock:
                    if connection == self._connection and self._client is not None:
                        self._client.ack(mid, 1)
                self._unacknowledged.popleft()
            if self._stopping.is_set():
                return


def _remedy(refusal: str) -> str:
    """Return what to do about a broker's refusal."""
    if "identifier" in refusal:
        return "choose another --client-id"
    if "unavailable" in refusal:
        return "try again later"
    return "check --broker-user and KEEPLINE_INGEST__MQTT_PASSWORD"


def _settle(future: asyncio.Future[None] | None, error: IngestError | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _checked(topics: Sequence[str]) -> tuple[str, ...]:
    for topic in topics:
        try:
            topic.encode("utf-8")
        except UnicodeEncodeError:
            raise IngestError("a topic has to be text") from None
        levels = topic.split("/")
        wild = [level for level in levels if "+" in level or "#" in level]
        if (
            not topic
            or "\0" in topic
            or any(level not in ("+", "#") for level in wild)
            or "#" in levels[:-1]
        ):
            raise IngestError(f"{topic!r} is no MQTT topic filter, such as plant/+/temperature")
    if not topics:
        raise IngestError("say which topics to take, with --topic")
    return tuple(topics)
