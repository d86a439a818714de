"""Transactions of a store, and who may see what."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.errors import ConfigError, InstanceError, StoreBusyError
from keepline.model import Principal
from keepline.records import put_record
from keepline.store import Store, quarantine, schema
from keepline.store.access import visible
from keepline.store.recordset import fetch
from keepline.store.tables.declared import record_table, record_tables
from tests.stores import ANN, BEN, SPECIMEN, around, on_postgresql

TABLE = record_table(SPECIMEN, record_tables(SPECIMEN))


def _put(connection: sa.Connection, key: str, group: str | None = None) -> None:
    put_record(connection, SPECIMEN, key, {"label": key}, {"part": [{"part": "p"}]}, group)


def test_a_write_that_raises_leaves_nothing(store: Store) -> None:
    def write_and_fail() -> None:
        with store.write(ANN) as connection:
            _put(connection, "a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    with store.read() as connection:
        assert list(fetch(connection, SPECIMEN, ANN)) == []
        assert connection.exec_driver_sql("SELECT count(*) FROM change_feed").scalar() == 0


def test_the_feed_names_who_wrote_and_nobody_for_writers_around_the_library(store: Store) -> None:
    with store.write(ANN) as connection:
        _put(connection, "a")
    with around(store) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET label = 'b'")
    with store.write(BEN) as connection:
        connection.execute(sa.delete(TABLE))
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT op, actor FROM change_feed ORDER BY id")
        assert list(map(tuple, rows)) == [("insert", "ann"), ("update", None), ("delete", "ben")]


def test_two_writers_queue(store: Store) -> None:
    inside = threading.Event()
    order = []

    def first() -> None:
        with store.write(ANN) as connection:
            _put(connection, "a")
            inside.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with store.write(BEN) as connection:
        # The same key, so that PostgreSQL's writers meet as well.
        connection.execute(sa.update(TABLE).values(label="b"))
        _put(connection, "b")
        order.append("second")
    thread.join()
    if store.dialect == "sqlite":
        assert order == ["first", "second"]
    with store.read() as connection:
        assert [image.key for image in fetch(connection, SPECIMEN, ANN)] == ["a", "b"]


def test_connections_that_make_a_sqlite_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    together = threading.Barrier(6)

    def connect(store: Store) -> int:
        together.wait(timeout=30)
        with store.read() as connection:
            return connection.exec_driver_sql("SELECT 1").scalar_one()

    for number in range(20):
        stores = [Store(f"sqlite:///{tmp_path / f'{number}.db'}") for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(connect, stores)) == [1] * 6
        for store in stores:
            store.close()


def test_a_busy_sqlite_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    schema.migrate(store := Store(f"sqlite:///{file}", busy_timeout_s=0.05))
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="write lock"), store.write(ANN):
        pass
    with store.read() as connection:  # readers are not concerned
        assert connection.exec_driver_sql("SELECT count(*) FROM session").scalar() == 0
    other.close()
    with store.write(ANN):
        pass
    store.close()


def test_a_full_sqlite_is_one_clear_error_and_nothing_is_written(tmp_path: Path) -> None:
    schema.migrate(store := Store(f"sqlite:///{tmp_path / 'x.db'}"))

    def fill() -> None:
        with store.write(ANN) as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")  # no fewer than it has
            rows = [(0, b"1", "why"), (1, bytes(1_000_000), "why")]
            quarantine.keep(connection, "p", "o", rows)

    with pytest.raises(InstanceError, match="disk is full"):
        fill()
    with store.read() as connection:
        assert list(quarantine.kept(connection)) == []
    store.close()


@on_postgresql
@pytest.mark.parametrize("at_commit", [False, True])
def test_a_connection_that_is_cut_within_a_write_is_one_clear_error(
    store: Store, at_commit: bool
) -> None:

    def write_and_be_cut_off() -> None:
        with store.write(ANN) as connection:
            number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with around(store) as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:n, 10000)"), {"n": number})
            if not at_commit:
                quarantine.keep(connection, "p", "o", [(0, b"1", "why")])

    with pytest.raises(InstanceError, match="the SQL store cannot be written"):
        write_and_be_cut_off()
    with store.write(ANN) as connection:
        assert quarantine.keep(connection, "p", "o", [(0, b"1", "why")]) == 1


def test_a_read_sees_one_state_and_writes_nothing(store: Store) -> None:
    with store.write(ANN) as connection:
        _put(connection, "a")
    with store.read() as connection:
        before = [image.revision for image in fetch(connection, SPECIMEN, ANN)]
        with around(store) as other:
            other.exec_driver_sql("UPDATE rec_specimen SET label = 'b'")
        assert [image.revision for image in fetch(connection, SPECIMEN, ANN)] == before == [1]
    with store.read() as connection:
        assert [image.revision for image in fetch(connection, SPECIMEN, ANN)] == [2]


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(b"this is no database at all" * 100)
    store = Store(f"sqlite:///{file}")
    with pytest.raises(InstanceError, match="cannot be opened"), store.read():
        pass
    store.close()


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:///:memory:", "mysql://x/y"])
def test_a_url_that_cannot_be_a_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Store(url)


@pytest.mark.parametrize("url", ["postgresql://ann:hunter2@host:54x/db", "ann:hunter2@host:54x"])
def test_a_url_that_cannot_be_read_does_not_show(url: str) -> None:
    with pytest.raises(ConfigError, match="not an SQLAlchemy URL") as caught:
        Store(url)
    assert not any(part in str(caught.value) for part in ("ann", "hunter2", "54x"))
    assert caught.value.__suppress_context__


def test_rejected_input_is_kept_once_and_counted_without_reading_the_rest(store: Store) -> None:
    rows = [(number, b"\x00raw", "why") for number in range(2500)]
    asked: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    with store.write(ANN) as connection:
        assert quarantine.keep(connection, "p", "o", rows[:3]) == 3
        assert quarantine.keep(connection, "p", "o", rows[1:] + rows[:9]) == 2497
        assert quarantine.keep(connection, "p", "o", rows) == 0
        assert quarantine.keep(connection, "p", "other", rows[:1]) == 1
        assert quarantine.keep(connection, "p", "o", []) == 0
    assert not [each for each in asked if each.startswith("SELECT count")]
    with store.read() as connection:
        assert len(list(quarantine.kept(connection))) == 2501


def test_no_password_shows() -> None:
    store = Store("postgresql://ann:hunter2@127.0.0.1:1/nothing")
    assert "hunter2" not in repr(store)
    with pytest.raises(InstanceError) as caught, store.read():
        pass
    assert "hunter2" not in str(caught.value)


def test_values_stay_out_of_error_texts(store: Store) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, store.write(ANN) as connection:
        connection.execute(
            sa.insert(TABLE).values(record_key="a", label=None, order="a patient's name")
        )
    assert "a patient's name" not in str(caught.value).split("DETAIL")[0]


def test_a_group_is_seen_by_its_members_alone(store: Store) -> None:
    with store.write(ANN) as connection:
        for key, group in {"all": None, "red": "red", "blue": "blue"}.items():
            _put(connection, key, group)

    def seen(**rights: object) -> list[str]:
        with store.read() as connection:
            return [image.key for image in fetch(connection, SPECIMEN, Principal("x", **rights))]

    assert seen() == ["all"]
    assert seen(groups=frozenset({"red"})) == ["all", "red"]
    assert seen(groups=frozenset({"red", "blue", "'; --"})) == ["all", "blue", "red"]
    assert seen(sees_all=True) == ["all", "blue", "red"]


def test_tables_without_groups_are_seen_and_the_databases_own_columns_are_not() -> None:
    condition, columns = visible(TABLE, Principal("x"))
    assert "rev_txn" not in [column.name for column in columns]
    assert "group_name" in str(condition)
    feed = sa.table("change_feed", sa.column("id"))
    assert str(visible(feed, Principal("x"))[0]) == "true"


def test_many_records_are_fetched_in_pages(store: Store) -> None:
    keys = [f"k{number:04}" for number in range(1203)]
    with store.write(ANN) as connection:
        connection.execute(sa.insert(TABLE), [{"record_key": key, "label": key} for key in keys])
        child = record_tables(SPECIMEN).tables["rec_specimen__part"]
        connection.execute(
            sa.insert(child),
            [{"record_key": key, "part": p} for key in keys[::100] for p in "ba"],
        )
    with store.read() as connection:
        images = list(fetch(connection, SPECIMEN, ANN))
        chosen = list(fetch(connection, SPECIMEN, ANN, [*keys[600:], "nothing"]))
    assert [image.key for image in images] == keys
    assert [image.key for image in chosen] == keys[600:]
    with_parts = [image for image in images if image.subrows["part"]]
    assert [image.key for image in with_parts] == keys[::100]
    assert [row["part"] for row in with_parts[0].subrows["part"]] == ["a", "b"]
