"""Every built-in query module holds what the shipped suite asks."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepline.capture.archive.readings import ArchiveReader
from keepline.capture.stores.sqlite import SqliteCaptureStore
from keepline.query.module import ColumnInfo
from keepline.query.modules.capture import CaptureModule
from keepline.query.modules.memory import MemoryModule
from keepline.query.modules.readings import ReadingsModule
from keepline.query.modules.store import (
    archive_module,
    deliveries_module,
    records_module,
    sessions_module,
)
from keepline.store import Store
from keepline.testing.query_modules import QueryModuleConformance
from tests.archived import STORE_ID, SYSTEM, fill_readings
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


@pytest.fixture(scope="module")
def filled_readings(tmp_path_factory) -> Path:
    """A store with readings of every type, which the suite only reads."""
    file = tmp_path_factory.mktemp("readings") / "keepline.db"
    store = Store(f"sqlite:///{file}")
    fill_readings(store)
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


class TestReadings(QueryModuleConformance):
    @pytest.fixture(autouse=True)
    def opened(self, filled_readings) -> Iterator[None]:
        store = Store(f"sqlite:///{filled_readings}")
        self.archive = ArchiveReader(store, STORE_ID, principal=SYSTEM)
        yield
        store.close()

    def module(self, folder):
        return ReadingsModule("readings", self.archive)


class TestReadingsOfAGroup(TestReadings):
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


class Broken(MemoryModule):
    """Breaks one promise of a module."""

    def __init__(self, promise):
        super().__init__("broken")
        self.promise = promise
        self.add_table(
            "t",
            [ColumnInfo("k", "integer", nullable=False), ColumnInfo("v")],
            [(1, "a"), (2, None), (3, "a")],
            key=["k"],
        )

    def tables(self, principal):
        (info,) = super().tables(principal)
        if self.promise == "key":
            return [replace(info, key=("v",))]
        if self.promise == "nullable":
            return [replace(info, columns=tuple(replace(c, nullable=False) for c in info.columns))]
        return [info]

    def scan(self, scan):
        if self.promise == "filters":
            scan = replace(scan, filters=scan.filters[:1])
        if self.promise == "a filter":
            scan = replace(scan, filters=())
        if self.promise == "columns":
            scan = replace(scan, columns=tuple(sorted(scan.columns)))
        if self.promise == "existence" and scan.table != "t":
            return
        for batch in super().scan(scan):
            if self.promise == "types":
                yield [tuple(map(str, row)) for row in batch]
            else:
                yield batch
                if self.promise == "once":
                    yield batch


@pytest.mark.parametrize(
    "promise",
    ["key", "nullable", "filters", "a filter", "columns", "existence", "types", "once", None],
)
def test_the_suite_finds_what_is_broken(tmp_path, promise):
    class Suite(QueryModuleConformance):
        def module(self, folder):
            return Broken(promise)

    failed = []
    for name in (each for each in dir(Suite) if each.startswith("test_")):
        try:
            getattr(Suite(), name)(tmp_path)
        except AssertionError:
            failed.append(name)
    assert bool(failed) == (promise is not None)
