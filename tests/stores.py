"""SQL stores for tests: an instance's parts that capabilities need, and ways around the library."""

import functools
import secrets
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.config import Settings
from keepline.model import Field, Principal, RecordType, SubTable
from keepline.store import Store, schema
from keepline.store.tables import common

#: Marks of a test that is about one of the databases alone.
on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("store", ["postgresql", "old-postgresql"], indirect=True)

ANN = Principal("ann", sees_all=True)
BEN = Principal("ben", sees_all=True)

#: A record type with a field of each type.
SPECIMEN = RecordType(
    name="specimen",
    comment="100% of a record's field types",
    fields=(
        Field("label", required=True),
        Field("kind", choices=("blood", "50% 'saline'")),
        Field("pieces", "integer"),
        Field("weight", "real", unit="g"),
        Field("frozen", "boolean"),
        Field("taken", "datetime"),
        Field("extra", "json"),
        Field("code", updatable=False),
        Field("order", comment="An SQL keyword"),
    ),
    subtables=(
        SubTable(
            name="part",
            key="part",
            fields=(Field("amount", "real"), Field("checked_at", "datetime")),
        ),
    ),
)


@functools.cache
def _with_schema() -> bytes:
    """Return a SQLite file with the schema: to make it takes a quarter of a second."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "template.db"
        store = Store(f"sqlite:///{file}")
        schema.migrate(store)
        store.close()
        return file.read_bytes()


def new_store(file: Path) -> Store:
    """Return a store in a new SQLite file, with the schema and an identity of its own."""
    file.write_bytes(_with_schema())
    store = Store(f"sqlite:///{file}")
    with store.write(Principal.system()) as connection:
        connection.execute(
            sa.update(common.instance).values(store_id=uuid.uuid4().hex, epoch=secrets.token_hex(8))
        )
    return store


@dataclass(frozen=True)
class StoreInstance:
    """What capabilities need of an open instance."""

    store: Store
    folder: Path
    epoch: str = "epoch"
    settings: Settings = field(default_factory=Settings)


@contextmanager
def around(store: Store) -> Iterator[sa.Connection]:
    """Give a transaction that goes around the library, as another program's would."""
    engine = sa.create_engine(store.engine.url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            if store.dialect == "sqlite":
                connection.connection.driver_connection.execute("PRAGMA foreign_keys = ON")
            with connection.begin():
                yield connection
    finally:
        engine.dispose()
