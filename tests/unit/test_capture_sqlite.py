"""The file of a SQLite capture store: upgraded from an older schema, replaced by an older copy."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from keepline.capture import SqliteCaptureStore
from keepline.capture.stores.locks import FileLock
from keepline.errors import CaptureError, ChunkConflictError, StreamLockedError
from keepline.model import StreamSpec
from keepline.testing.capture_stores import START, chunk_of, end, start

VERSION_1 = """
CREATE TABLE store (id TEXT NOT NULL);
CREATE TABLE session (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    instrument TEXT NOT NULL,
    user_name TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('running', 'complete', 'partial', 'interrupted', 'empty')),
    started_us INTEGER NOT NULL,
    ended_us INTEGER,
    origin TEXT,
    CHECK ((state = 'running') = (ended_us IS NULL)),
    CHECK (ended_us >= started_us)
);
CREATE UNIQUE INDEX session_origin ON session (instrument, origin)
    WHERE origin IS NOT NULL AND state IN ('running', 'complete');
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,
    source TEXT NOT NULL,
    spec TEXT NOT NULL,
    archived INTEGER NOT NULL DEFAULT -1,
    UNIQUE (number, source)
);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES stream ON DELETE CASCADE,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    wall_us INTEGER NOT NULL,
    monotonic_ns INTEGER NOT NULL,
    lengths BLOB NOT NULL,
    times_us BLOB NOT NULL,
    ticks BLOB NOT NULL,
    raw BLOB NOT NULL,
    UNIQUE (stream_id, first_seq)
);
INSERT INTO store VALUES ('0123456789abcdef0123456789abcdef');
INSERT INTO session VALUES (3, 'bench', 'ann', 'complete', 1000, 2000, 'sha256:1');
INSERT INTO session VALUES (7, 'bench', 'ann', 'running', 3000, NULL, NULL);
INSERT INTO stream VALUES (1, 3, 'main', '{"channels": [["a", "float64", "V"]],
    "decoder": "json", "options": {}, "source": "main", "step_us": null}', 4);
INSERT INTO stream VALUES (2, 7, 'main', '{"channels": [], "decoder": "json", "options": {},
    "source": "main", "step_us": null}', -1);
PRAGMA application_id = 1802529902;
PRAGMA user_version = 1;
"""
CHUNKS = [chunk_of(0, [b"a", b"b", b"c"]), chunk_of(3, [b"d", b"e"], ticks=True)]


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file as the first schema had it: session 3 complete, 7 running; 3 has two chunks."""
    path = tmp_path / "capture.db"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("PRAGMA journal_mode = WAL")
        file.executescript(VERSION_1)
        for c in CHUNKS:
            values = (c.first_seq, c.last_seq, c.crc, c.wall_us, c.monotonic_ns)
            blobs = (c.lengths, c.times_us, c.ticks, c.raw)
            file.execute(
                "INSERT INTO chunk VALUES (NULL, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, *blobs)
            )
    return path


def layout(path: Path) -> dict[str, list[str]]:
    """Return the columns of each table and index by name: an upgrade adds them at the end."""
    with closing(sqlite3.connect(path)) as file:
        tables = [row[0] for row in file.execute("SELECT name FROM sqlite_schema")]
        return {
            table: sorted(row[1] for row in file.execute(f"PRAGMA table_info({table})"))
            for table in tables
        }


def test_file_of_the_first_schema_is_upgraded_in_place(old_file: Path) -> None:
    with SqliteCaptureStore(old_file) as store:
        assert store.store_id == "0123456789abcdef0123456789abcdef"
        assert [info.level for info in store.sessions()] == ["stored", "stored"]
        assert list(store.chunks(3, "main")) == CHUNKS
        assert store.next_seq(3, "main") == store.message_count(3, "main") == 5
        assert (store.archived(3, "main"), store.trimmed(3, "main")) == (4, -1)
        assert store.next_seq(7, "main") == 0
        assert store.streams(3)[0].channels[0].unit == "V"
        epoch = store.epoch
        assert epoch != ""
        writer = store.open_writer(7, "main")
        assert writer.append([chunk_of(0, [b"x"])]) == ["stored"]
        writer.lose(4, "gone")
        writer.close()
        assert store.trim(3, "main", 4) == 5
        following = start(store)
        following.close()
        assert following.session.number == 8
    with SqliteCaptureStore(old_file) as again:
        assert again.epoch == epoch


def test_upgraded_file_has_the_schema_of_a_new_one(old_file: Path, tmp_path: Path) -> None:
    SqliteCaptureStore(old_file).close()
    SqliteCaptureStore(tmp_path / "new.db").close()
    assert layout(old_file) == layout(tmp_path / "new.db")


def test_file_is_upgraded_once_by_many(old_file: Path) -> None:
    def opened(_: int) -> str:
        with SqliteCaptureStore(old_file) as store:
            return store.epoch

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(opened, range(6)))) == 1


def test_file_is_not_upgraded_under_a_writer(old_file: Path) -> None:
    locks = old_file.with_name("capture.db-locks")
    locks.mkdir()
    lock = FileLock(locks / "7.main.lock")
    with pytest.raises(StreamLockedError, match=r"7\.main"):
        SqliteCaptureStore(old_file)
    with closing(sqlite3.connect(old_file)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
    lock.release()
    SqliteCaptureStore(old_file).close()


def test_file_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "capture.db"
    SqliteCaptureStore(path).close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(CaptureError, match="schema 99"):
        SqliteCaptureStore(path)


def started(store: SqliteCaptureStore) -> int:
    """Return the number of a session that has begun and ended."""
    writer = start(store)
    end(store, writer)
    return writer.session.number


def copy_of(path: Path) -> Path:
    """Return a copy of a store's file, which nobody has open."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    return copy


def put_back(copy: Path, path: Path) -> None:
    """Put a copy in the place of a store's file."""
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    shutil.copy(copy, path)


def test_older_copy_gives_no_number_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store:
        end(store, start(store))
    copy = copy_of(path)
    with SqliteCaptureStore(path) as store:
        before = store.epoch
        numbers = {started(store) for _ in range(3)}
    put_back(copy, path)
    with SqliteCaptureStore(path) as store:
        assert "has gone back" in caplog.text
        renewed = store.epoch
        assert renewed != before
        assert started(store) > max(numbers)
    caplog.clear()
    with SqliteCaptureStore(path) as store:  # noticed once
        assert store.epoch == renewed
        assert "has gone back" not in caplog.text


def test_older_copy_is_noticed_without_new_sessions(tmp_path: Path) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store:
        start(store).close()
    copy = copy_of(path)
    with SqliteCaptureStore(path) as store:
        before = store.epoch
        store.close_session(1, "complete", START)
    put_back(copy, path)
    with SqliteCaptureStore(path) as store:
        assert store.epoch != before


def test_new_file_in_an_old_ones_place_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store:
        for _ in range(3):
            end(store, start(store))
    path.unlink()
    with SqliteCaptureStore(path) as store:
        writer = start(store)
        writer.close()
        assert writer.session.number == 1
    assert caplog.text == ""


def test_spoilt_mark_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store:
        end(store, start(store))
        epoch = store.epoch
    (tmp_path / "capture.db-locks" / "mark").write_bytes(b"\0\xff 7")
    with SqliteCaptureStore(path) as store:
        assert store.epoch == epoch
        end(store, start(store))


def test_writer_notices_an_older_copy_under_it(tmp_path: Path) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        writer = start(store)
        number = writer.session.number
        writer.append([chunk_of(0, [b"a", b"b"])])
        with closing(sqlite3.connect(path)) as file:
            file.backup(copy)
        writer.append([chunk_of(2, [b"c", b"d"])])
        with closing(sqlite3.connect(path)) as file:
            copy.backup(file)
        with pytest.raises(ChunkConflictError) as conflict:
            writer.append([chunk_of(4, [b"e"])])
        assert conflict.value.following == writer.next_seq == 2
        loss = writer.lose(3, "the store went back")
        assert (loss.first_seq, loss.last_seq) == (2, 3)
        assert writer.append([chunk_of(4, [b"e"])]) == ["stored"]
        writer.close()
        assert store.last_messages(number, "main", 9) == [b"a", b"b", b"e"]


def test_counts_cost_the_same_however_long_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store:
        writer = start(store)
        writer.append([chunk_of(n, [b"a"]) for n in range(300)])
        writer.close()
        with closing(sqlite3.connect(path)) as file:
            file.execute("DELETE FROM chunk")
            file.commit()
        assert store.message_count(1, "main") == store.next_seq(1, "main") == 300


def test_orphan_with_a_damaged_end_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "capture.db"
    with SqliteCaptureStore(path) as store:
        writer = start(store)
        writer.append([chunk_of(0, [b"a"]), chunk_of(1, [b"b"])])
        writer.close()
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("UPDATE chunk SET times_us = x'00' WHERE first_seq = 1")
        closed = store.close_orphan(1)
        assert closed is not None
        assert (closed.state, closed.ended) == ("interrupted", START)


def test_fsynced_session_syncs_each_commit(tmp_path: Path) -> None:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        found = {}
        for level in store.levels:
            writer = store.create_session("bench", "ann", StreamSpec(), started=START, level=level)
            found[level] = writer._connection.execute("PRAGMA synchronous").fetchone()[0]
            writer.close()
    normal, full = 1, 2
    assert found == {"accepted": normal, "stored": normal, "fsynced": full, "archived": normal}
