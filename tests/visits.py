"""Record types for tests of what the database keeps about records, and looks at what it kept."""

from typing import Any

import sqlalchemy as sa

from keepline.model import Field, RecordType, SubTable
from keepline.store import Store
from keepline.store.tables.declared import record_table, record_tables
from keepline.store.tables.records import change_feed, record_history, record_index
from tests.stores import around

VISIT = RecordType(
    name="visit",
    fields=(
        Field("note"),
        Field("order", "integer"),
        Field("weight", "real"),
        Field("fasting", "boolean"),
        Field("day", "date"),
        Field("at", "datetime"),
        Field("extra", "json"),
        Field("scan", "blob"),
    ),
    subtables=(SubTable("dose", "drug", (Field("amount", "real"), Field("photo", "blob"))),),
    subject=True,
    finalised=True,
)

STRICT = RecordType(
    name="strict",
    fields=(Field("note"),),
    subtables=(SubTable("line", "line", (Field("text"),)),),
    reason_required=True,
    anonymous=True,
)

WIDE = RecordType(name="wide", fields=tuple(Field(f"f{n}", "real") for n in range(300)))

TABLE = record_table(VISIT, record_tables(VISIT))

INSERT = "INSERT INTO rec_visit (record_key, note) VALUES ('a', 'x')"

DOSE = "INSERT INTO rec_visit__dose (record_key, drug, amount) VALUES ('a', 'd', 1.5)"


def history_of(store: Store, key: str = "a", name: str = "visit") -> list[tuple[Any, ...]]:
    h = record_history.c
    query = (
        sa.select(h.revision, h.subtable, h.sub_key, h.op, h.image)
        .where(h.record_type == name, h.record_key == key)
        .order_by(h.id)
    )
    with store.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def ops_of(store: Store, key: str = "a", name: str = "visit") -> list[tuple[Any, ...]]:
    return [row[:4] for row in history_of(store, key, name)]


def index_of(store: Store, key: str = "a", name: str = "visit") -> Any:
    i = record_index.c
    query = sa.select(record_index).where(i.record_type == name, i.record_key == key)
    with store.read() as connection:
        return connection.execute(query).one()


def feed_of(store: Store, key: str = "a") -> list[tuple[int, str]]:
    f = change_feed.c
    query = sa.select(f.revision, f.op).where(f.record_key == key).order_by(f.id)
    with store.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def run(store: Store, *statements: str) -> None:
    with around(store) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
