"""Every built-in transport, and the faulty double, hold what the shipped suite asks."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.delivery.transport import Transport
from keepline.delivery.transports.database import DatabaseTransport
from keepline.delivery.transports.folder import FolderTransport
from keepline.render.json import plain
from keepline.store.types import Json, UtcDateTime
from keepline.testing.transports import (
    SAMPLE_TYPE,
    FaultyTransport,
    Received,
    TransportConformance,
)

TYPES = {"boolean": sa.Boolean(), "date": sa.Date(), "datetime": UtcDateTime(), "json": Json}


def received_by_database(url: str) -> Mapping[str, Received]:
    """Read the tables by SQL alone, as the recipient's own programs would."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    typed = {each.name: TYPES[each.type] for each in SAMPLE_TYPE.fields if each.type in TYPES}
    typed["finalised"] = sa.Boolean()
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT * FROM keepline_sample").columns(**typed)
        ).mappings()
        found = {}
        for row in rows:
            peaks = connection.execute(
                sa.text(
                    "SELECT name, height FROM keepline_sample__peak "
                    "WHERE target_key = :key ORDER BY name"
                ),
                {"key": row["target_key"]},
            ).mappings()
            found[row["target_key"]] = Received(
                row["record_key"],
                row["revision"],
                {each.name: plain(row[each.name]) for each in SAMPLE_TYPE.fields},
                {"peak": [dict(peak) for peak in peaks]},
                row["subject_no"],
                row["finalised"],
            )
    engine.dispose()
    return found


class TestDatabaseTransportOnSqlite(TransportConformance):
    def transport(self, folder: Path) -> Transport:
        return DatabaseTransport("sqlite:///out.db", folder=folder)

    def unreachable(self, folder: Path) -> Transport:
        return DatabaseTransport("sqlite:///missing/folder/out.db", folder=folder)

    def received(self, folder: Path) -> Mapping[str, Received]:
        return received_by_database(f"sqlite:///{folder / 'out.db'}")


class TestDatabaseTransportOnPostgres(TransportConformance):
    @pytest.fixture(autouse=True)
    def _database(self, postgres_database: str) -> None:
        self.url = postgres_database

    def transport(self, folder: Path) -> Transport:
        return DatabaseTransport(self.url, folder=folder)

    def unreachable(self, folder: Path) -> Transport:
        gone = sa.make_url(self.url).set(database="there_is_none")
        return DatabaseTransport(gone.render_as_string(hide_password=False), folder=folder)

    def received(self, folder: Path) -> Mapping[str, Received]:
        del folder
        return received_by_database(self.url)


class TestFolderTransport(TransportConformance):
    def transport(self, folder: Path) -> Transport:
        return FolderTransport(folder / "outbox")

    def unreachable(self, folder: Path) -> Transport:
        (folder / "file").touch()
        return FolderTransport(folder / "file" / "outbox")

    def received(self, folder: Path) -> Mapping[str, Received]:
        found = {}
        for path in (folder / "outbox" / "sample").iterdir():
            assert path.suffix == ".json"
            content = json.loads(path.read_bytes())
            record = content["record"]
            assert set(record["fields"]) == {each.name for each in SAMPLE_TYPE.fields}
            found[content["target_key"]] = Received(
                record["key"],
                record["revision"],
                record["fields"],
                {"peak": record["subtables"]["peak"]},
                record["subject"],
                record["finalised"],
            )
        return found


class TestFaultyTransport(TransportConformance):
    @pytest.fixture(autouse=True)
    def _recipient(self) -> None:
        self.recipient = FaultyTransport()

    def transport(self, folder: Path) -> Transport:
        del folder
        return self.recipient

    def unreachable(self, folder: Path) -> Transport:
        del folder
        return FaultyTransport(down=True)

    def received(self, folder: Path) -> Mapping[str, Received]:
        del folder
        return {key: Received.expected(each.image) for key, each in self.recipient.objects.items()}
