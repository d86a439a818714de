"""An instance with records of the sample type, for the tests of deliveries and downloads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keepline.config import RecipientSettings, Settings
from keepline.delivery import Dispatcher, Recipient, RecipientReport, Transport
from keepline.delivery.dispatch import Progress
from keepline.model import Principal, RecordType, utc_now
from keepline.store import Store, schema
from keepline.store.tables import records
from keepline.store.tables.declared import record_tables
from keepline.store.tables.delivery import delivery_backlog, delivery_cursor, sent_log
from keepline.testing.transports import SAMPLE_TYPE
from tests.stores import StoreInstance, new_store

SYSTEM = Principal.system("test")


@dataclass
class Host:
    """An instance, and short ways to change its records and to look at its log."""

    instance: StoreInstance
    declared: RecordType = SAMPLE_TYPE

    @property
    def store(self) -> Store:
        return self.instance.store

    @property
    def table(self) -> sa.Table:
        return record_tables(self.declared).tables[self.declared.table_name]

    @property
    def peaks(self) -> sa.Table:
        return record_tables(self.declared).tables["rec_sample__peak"]

    def add(self, *keys: str, group: str | None = None, **values: Any) -> None:
        rows = [{"record_key": key, "group_name": group, **values} for key in keys]
        with self.store.write(SYSTEM) as connection:
            connection.execute(sa.insert(self.table), rows)

    def add_peak(self, key: str, name: str, height: float) -> None:
        with self.store.write(SYSTEM) as connection:
            connection.execute(
                sa.insert(self.peaks).values(record_key=key, name=name, height=height)
            )

    def edit(self, key: str, **values: Any) -> None:
        table = self.table
        with self.store.write(SYSTEM) as connection:
            connection.execute(sa.update(table).where(table.c.record_key == key).values(**values))

    def remove(self, key: str) -> None:
        table = self.table
        with self.store.write(SYSTEM) as connection:
            connection.execute(sa.delete(table).where(table.c.record_key == key))

    def deliver(self, transport: Transport, to: Recipient | None = None) -> RecipientReport:
        return self.dispatcher(transport, to).run()

    def dispatcher(
        self, transport: Transport, to: Recipient | None = None, progress: Progress | None = None
    ) -> Dispatcher:
        return Dispatcher(
            self.instance, to or everything(), transport, principal=SYSTEM, progress=progress
        )

    def log(self) -> list[tuple[str, int, str]]:
        """Return (key, revision, state) of each attempt, in order."""
        query = sa.select(sent_log.c.record_key, sent_log.c.revision, sent_log.c.state)
        return [tuple(row) for row in self.select(query.order_by(sent_log.c.id))]

    def select(self, query: sa.Select[Any]) -> Sequence[Any]:
        with self.store.read() as connection:
            return connection.execute(query).all()

    def forget_cache(self) -> None:
        """Delete what can be made again from the feed and the log."""
        with self.store.write(SYSTEM) as connection:
            connection.execute(sa.delete(delivery_backlog))
            connection.execute(sa.delete(delivery_cursor))


def everything(name: str = "out", **changes: Any) -> Recipient:
    """Return a recipient that gets every record, less what `changes` say."""
    return Recipient(**{"name": name, "transport": "faulty", "groups": ("*",), **changes})


@contextmanager
def host(
    folder: Path,
    url: str | None = None,
    recipients: dict[str, RecipientSettings] | None = None,
    declared: RecordType = SAMPLE_TYPE,
) -> Iterator[Host]:
    """Make an instance in `folder`, by default on SQLite, with the tables of `declared`."""
    store = new_store(folder / "keepline.db") if url is None else Store(url)
    try:
        if url is not None:
            schema.migrate(store)
        with store.write(SYSTEM) as connection:
            connection.execute(
                sa.insert(records.record_type).values(
                    name=declared.name, declaration=declared.to_json(), applied_at=utc_now()
                )
            )
            schema.create_record_tables(connection, declared)
        instance = StoreInstance(
            store, folder, schema.identity(store)[1], Settings(recipients=recipients or {})
        )
        yield Host(instance, declared)
    finally:
        store.close()
