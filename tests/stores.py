"""SQL stores for tests: an instance's parts that capabilities need, and ways around the library."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from keepline.config import Settings
from keepline.model import Field, Principal, RecordType, SubTable
from keepline.store import Store

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
