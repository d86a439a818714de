"""Stores on either database, made once and copied for each test."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.model import Principal
from keepline.records.types import INSTRUMENT_SESSION, apply_type
from keepline.store import Store, schema
from tests.stores import SPECIMEN, StoreInstance


def _prepare(url: str) -> None:
    store = Store(url)
    schema.migrate(store)
    for declared in (INSTRUMENT_SESSION, SPECIMEN):
        apply_type(store, declared, Principal.system())
    store.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema and two record types; copy it."""
    file = tmp_path_factory.mktemp("template") / "template.db"
    _prepare(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The name of a PostgreSQL database with the schema and two record types; copy it."""
    name = f"keepline_template_{uuid.uuid4().hex}"
    server = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = sa.make_url(postgres_url).set(database=name)
    _prepare(url.render_as_string(hide_password=False))
    yield name
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of one's own with the schema, the shipped record type and SPECIMEN."""
    if request.param == "sqlite":
        file = tmp_path / "keepline.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), file)
        store = Store(f"sqlite:///{file}", busy_timeout_s=20)
        yield store
        store.close()
        return
    url = sa.make_url(request.getfixturevalue("postgres_url"))
    template = request.getfixturevalue("postgres_template")
    name = f"keepline_test_{uuid.uuid4().hex}"
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    store = Store(url.set(database=name).render_as_string(hide_password=False))
    yield store
    store.close()
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def instance(store: Store, tmp_path: Path) -> StoreInstance:
    """What capabilities need of an open instance, on `store`."""
    return StoreInstance(store, tmp_path)
