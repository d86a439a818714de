"""Stores on either database, made once and copied for each test."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.model import Principal
from keepline.records.types import INSTRUMENT_SESSION, apply_type
from keepline.store import Store, schema
from tests.ingesting import make_instance
from tests.stores import ANN, SPECIMEN, StoreInstance
from tests.visits import DOSE, INSERT, STRICT, VISIT, WIDE, run


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
    with _template(postgres_url) as name:
        yield name


@pytest.fixture(scope="session")
def old_postgres_template(old_postgres_url: str) -> Iterator[str]:
    """As `postgres_template`, of the oldest PostgreSQL that keepline works with."""
    with _template(old_postgres_url) as name:
        yield name


@contextmanager
def _template(postgres_url: str) -> Iterator[str]:
    name = f"keepline_template_{uuid.uuid4().hex}"
    server = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = sa.make_url(postgres_url).set(database=name)
    _prepare(url.render_as_string(hide_password=False))
    yield name
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


#: What runs over the oldest PostgreSQL too: tests of what the database itself does.
_ON_OLD_POSTGRES = ("test_record", "test_store_")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the oldest PostgreSQL to the tests that are about the database."""
    gone = [
        item
        for item in items
        if getattr(item, "callspec", None) is not None
        and item.callspec.params.get("store") == "old-postgresql"
        and not item.path.name.startswith(_ON_OLD_POSTGRES)
    ]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in set(gone)]


@pytest.fixture(params=["sqlite", "postgresql", "old-postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of one's own with the schema, the shipped record type and SPECIMEN."""
    if request.param == "sqlite":
        file = tmp_path / "keepline.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), file)
        store = Store(f"sqlite:///{file}", busy_timeout_s=20)
        yield store
        store.close()
        return
    which = {"postgresql": "postgres", "old-postgresql": "old_postgres"}[request.param]
    url = sa.make_url(request.getfixturevalue(f"{which}_url"))
    template = request.getfixturevalue(f"{which}_template")
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


@pytest.fixture
def visits(store: Store) -> Store:
    """A store with the record types of `tests.visits`."""
    for declared in (VISIT, STRICT, WIDE):
        apply_type(store, declared, ANN)
    return store


@pytest.fixture
def raw(visits: Store) -> Store:
    """A store with a visit and a dose, written around the library."""
    run(visits, INSERT, DOSE)
    return visits


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One instance for all kills, as they pile up in real life."""
    return make_instance(tmp_path_factory.mktemp("kill") / "instance")
