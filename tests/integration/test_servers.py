"""The servers that the other tests rely on are real, fresh, and gone afterwards."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import sqlalchemy

from tests.conftest import started
from tests.needs import needed
from tests.servers import (
    MqttServer,
    RedisServer,
    RunningServer,
    mosquitto_server,
    postgres_server,
    redis_server,
    valkey_cluster,
    valkey_server,
)


def ask_postgres(url: str, statement: str) -> object:
    """Return the one value that a statement gives."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return connection.exec_driver_sql(statement).scalar_one()


def ask_valkey(url: str, command: str) -> str:
    """Return what a one-line command answers, as text."""
    address = sqlalchemy.make_url(url)
    with socket.create_connection((address.host, address.port), timeout=5) as connection:
        connection.sendall(command.encode() + b"\r\nQUIT\r\n")
        with connection.makefile("rb") as answer:
            return answer.read().decode()


def test_postgres_answers(postgres_url: str) -> None:
    assert int(str(ask_postgres(postgres_url, "SHOW server_version_num"))) >= 150000


def test_postgres_database_is_empty_and_utf8(postgres_database: str) -> None:
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    assert ask_postgres(postgres_database, tables) == 0
    assert ask_postgres(postgres_database, "SHOW server_encoding") == "UTF8"


def test_each_test_has_a_postgres_database_of_its_own(
    postgres_url: str, postgres_database: str
) -> None:
    assert ask_postgres(postgres_database, "SELECT current_database()") != ask_postgres(
        postgres_url, "SELECT current_database()"
    )


def test_valkey_answers_and_appends_to_a_file(valkey_url: str) -> None:
    assert "valkey_version:" in ask_valkey(valkey_url, "INFO server")
    assert "aof_enabled:1" in ask_valkey(valkey_url, "INFO persistence")


def test_redis_answers(redis_url: str) -> None:
    assert "redis_version:" in ask_valkey(redis_url, "INFO server")


def test_mosquitto_takes_its_user_only(mosquitto: MqttServer) -> None:
    client = needed("paho.mqtt.client")
    for password, welcome in ((mosquitto.password, True), ("another", False)):
        codes: list[bool] = []
        guest = client.Client(client.CallbackAPIVersion.VERSION2)
        guest.username_pw_set(mosquitto.user, password)
        guest.on_connect = lambda *answer, codes=codes: codes.append(not answer[3].is_failure)
        guest.connect(mosquitto.host, mosquitto.port)
        deadline = time.monotonic() + 30
        while not codes and time.monotonic() < deadline:
            guest.loop(0.1)
        guest.disconnect()
        assert codes == [welcome]


@pytest.mark.parametrize("start", [valkey_server, redis_server])
def test_server_can_be_killed_and_started_again(
    start: Callable[..., AbstractContextManager[RedisServer]],
) -> None:
    with started(lambda: start(password="secret", options={"appendfsync": "always"})) as server:
        first = server.pid
        assert "+OK" in ask_valkey(server.url, "AUTH secret\r\nSET a kept")
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            ask_valkey(server.url, "PING")
        server.restart()
        assert server.pid != first
        assert "kept" in ask_valkey(server.url, "AUTH secret\r\nGET a")
        assert "NOAUTH" in ask_valkey(server.url, "GET a")


@pytest.mark.parametrize(
    "start",
    [postgres_server, valkey_server, valkey_cluster, redis_server, mosquitto_server],
)
def test_server_is_gone_after_its_context(
    start: Callable[[], AbstractContextManager[RunningServer | RedisServer | MqttServer]],
) -> None:
    with started(start) as server:
        port = (
            server.port if isinstance(server, MqttServer) else sqlalchemy.make_url(server.url).port
        )
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.fixture(scope="module")
def caller_settings() -> Iterator[None]:
    """Settings from outside, made before the fixtures of a single test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEEPLINE_INSTANCE", "/elsewhere")
        patch.setenv("KEEPLINE_TEST_EXAMPLE", "kept")
        yield


@pytest.mark.usefixtures("caller_settings")
def test_settings_of_the_caller_do_not_reach_a_test() -> None:
    assert "KEEPLINE_INSTANCE" not in os.environ
    assert os.environ["KEEPLINE_TEST_EXAMPLE"] == "kept"
