"""The shipped suite of capture stores, over the built-in ones."""

import functools
from pathlib import Path

import pytest

from keepline.capture.sqlite_store import SqliteCaptureStore
from keepline.testing.capture_stores import CaptureStoreSuite, StoreFactory


class TestSqliteCaptureStore(CaptureStoreSuite):
    @pytest.fixture(params=["stored", "fsynced"])
    def store_factory(self, tmp_path: Path, request: pytest.FixtureRequest) -> StoreFactory:
        return functools.partial(SqliteCaptureStore, tmp_path / "capture.db", level=request.param)
