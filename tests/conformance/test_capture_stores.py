"""The shipped suite of capture stores, over the built-in ones."""

import functools
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keepline.capture.store import CaptureStore
from keepline.capture.stores.redis import RedisCaptureStore
from keepline.capture.stores.sqlite import SqliteCaptureStore
from keepline.errors import AlreadyCapturedError
from keepline.model import StreamSpec
from keepline.testing.capture_stores import (
    CaptureStoreSuite,
    StoreFactory,
    chunk_of,
    end,
    start,
)
from tests.needs import needed


class TestSqliteCaptureStore(CaptureStoreSuite):
    @pytest.fixture(params=["stored", "fsynced"])
    def store_factory(self, tmp_path: Path, request: pytest.FixtureRequest) -> StoreFactory:
        self.path = tmp_path / "capture.db"
        return functools.partial(SqliteCaptureStore, self.path, level=request.param)

    def damage(self, store: CaptureStore, number: int, source: str, first_seq: int) -> None:
        self.change("UPDATE chunk SET raw = zeroblob(length(raw))", number, source, first_seq)

    def remove(self, store: CaptureStore, number: int, source: str, first_seq: int) -> None:
        self.change("DELETE FROM chunk", number, source, first_seq)

    def change(self, statement: str, number: int, source: str, first_seq: int) -> None:
        with closing(sqlite3.connect(self.path)) as file, file:
            changed = file.execute(
                f"{statement} WHERE first_seq = ? AND stream_id ="
                " (SELECT id FROM stream WHERE number = ? AND source = ?)",
                (first_seq, number, source),
            )
            assert changed.rowcount == 1


class TestRedisCaptureStore(CaptureStoreSuite):
    @pytest.fixture(params=["valkey_url", "redis_url", "valkey_cluster_url"])
    def store_factory(self, request: pytest.FixtureRequest) -> Iterator[StoreFactory]:
        redis = needed("redis")
        url = request.getfixturevalue(request.param)
        cluster = request.param == "valkey_cluster_url"
        prefix = self.key_prefix = f"test-{uuid.uuid4().hex}"
        self.server: Any = (redis.RedisCluster if cluster else redis.Redis).from_url(url)
        yield functools.partial(RedisCaptureStore, url, prefix=prefix, cluster=cluster, lease_s=1.0)
        for key in self.server.scan_iter(f"{prefix}*"):
            self.server.unlink(key)
        self.server.close()

    def damage(self, store: CaptureStore, number: int, source: str, first_seq: int) -> None:
        key = self.key(number, source, "chunks")
        entries = self.server.xrange(key)
        self.server.delete(key)
        for name, fields in entries:
            if name == f"{first_seq + 1}-0".encode():
                fields[b"r"] = bytes(len(fields[b"r"]))
            self.server.xadd(key, fields, id=name)

    def remove(self, store: CaptureStore, number: int, source: str, first_seq: int) -> None:
        assert self.server.xdel(self.key(number, source, "chunks"), f"{first_seq + 1}-0") == 1

    def expire(self, store: CaptureStore, writer: Any) -> None:
        # As if the process had been stopped for longer than the lease.
        writer._keeper.remove(writer)
        key = self.key(writer.session.number, writer.source, "meta")
        self.server.hset(key, "until", "0")

    def key(self, number: int, source: str, name: str) -> str:
        (key,) = self.server.scan_iter(f"{self.key_prefix}:*:{number}:{source}}}:{name}")
        return str(key.decode())

    def test_flushed_store_leaves_no_key_but_its_own(self, store: CaptureStore) -> None:
        assert store.sessions() == []  # which makes it
        prefix = self.key_prefix
        own = set(self.server.scan_iter(f"{prefix}*"))
        for state in ("complete", "interrupted", "partial"):
            writer = start(store, origin=f"sha256:{state}")
            store.add_stream(writer.session.number, StreamSpec(source="second"))
            writer.append([chunk_of(0, [b"a"])])
            writer.lose(3, "gone")
            end(store, writer, state=state)
        start(store).close()  # an orphan
        assert set(self.server.scan_iter(f"{prefix}*")) > own
        store.flush()
        assert set(self.server.scan_iter(f"{prefix}*")) == own
        assert len(own) == 1

    def test_session_that_is_refused_leaves_no_key(self, store: CaptureStore) -> None:
        start(store, origin="sha256:1").close()
        before = set(self.server.scan_iter(f"{self.key_prefix}*"))
        with pytest.raises(AlreadyCapturedError):
            start(store, origin="sha256:1")
        assert set(self.server.scan_iter(f"{self.key_prefix}*")) == before
