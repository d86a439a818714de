"""Every built-in query module holds what the shipped suite asks."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepline.capture.sqlite_store import SqliteCaptureStore
from keepline.query.module import ColumnInfo
from keepline.query.modules.capture import CaptureModule
from keepline.query.modules.memory import MemoryModule
from keepline.query.modules.store import (
    archive_module,
    deliveries_module,
    records_module,
    sessions_module,
)
from keepline.store import Store
from keepline.testing.query_modules import QueryModuleConformance
from tests.query_host import laboratory
from tests.query_live import fill_capture
from tests.query_store import ANN, fill

AT = datetime(2024, 2, 29, tzinfo=UTC)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A store that the suite only reads."""
    file = tmp_path_factory.mktemp("filled") / "keepline.db"
    store = Store(f"sqlite:///{file}")
    fill(store)
    store.close()
    return file


class TestMemory(QueryModuleConformance):
    def module(self, folder):
        return laboratory()


class TestMemoryOfEveryType(QueryModuleConformance):
    def module(self, folder):
        module = MemoryModule("m")
        module.add_table(
            "t",
            [
                ColumnInfo("k", "integer", nullable=False),
                ColumnInfo("text"),
                ColumnInfo("real", "real"),
                ColumnInfo("flag", "boolean"),
                ColumnInfo("seen", "datetime"),
                ColumnInfo("raw", "binary"),
            ],
            [
                (1, "a", 1.0, True, AT, b"x"),
                (2, "A", float("inf"), False, AT, b""),
                (-(2**63), "", -0.0, True, None, b"\x00"),
                *((n, str(n), n / 3, None, None, None) for n in range(10, 2_500)),
            ],
            key=["k"],
        )
        module.add_table("nothing", [ColumnInfo("x")])
        return module


class TestCapture(QueryModuleConformance):
    @pytest.fixture(autouse=True)
    def live(self, tmp_path) -> Iterator[None]:
        with SqliteCaptureStore(tmp_path / "capture.db") as self.store:
            fill_capture(self.store)
            yield

    def module(self, folder):
        return CaptureModule("capture", self.store, {}.get)


class StoreModules(QueryModuleConformance):
    @pytest.fixture(autouse=True)
    def opened(self, filled) -> Iterator[None]:
        self.store = Store(f"sqlite:///{filled}")
        yield
        self.store.close()

    def module(self, folder):
        return self.make(self.store)


class TestArchive(StoreModules):
    make = staticmethod(archive_module)


class TestArchiveOfAGroup(TestArchive):
    def principal(self):
        return ANN


class TestSessions(StoreModules):
    make = staticmethod(sessions_module)


class TestRecords(StoreModules):
    make = staticmethod(records_module)


class TestRecordsOfAGroup(TestRecords):
    def principal(self):
        return ANN


class TestDeliveries(StoreModules):
    make = staticmethod(deliveries_module)


class TestDeliveriesOfAGroup(TestDeliveries):
    def principal(self):
        return ANN
