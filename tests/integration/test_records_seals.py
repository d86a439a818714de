"""The proof of the history: what was changed around the library is named, row by row."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from keepline.records import put_record, seals
from keepline.store import Store
from tests.stores import ANN, SPECIMEN, around


def _save(store: Store, *keys: str) -> None:
    for key in keys:
        with store.write(ANN) as connection:
            put_record(connection, SPECIMEN, key, {"label": key, "weight": 1e-7, "extra": [1.0]})


def _found(store: Store, anchor: seals.Head | None = None) -> list[str]:
    with store.read() as connection:
        return list(seals.check(connection, anchor))


@contextmanager
def _tampering(store: Store) -> Iterator[sa.Connection]:
    """Give a transaction of somebody who owns the database: neither triggers nor keys hold."""
    engine = sa.create_engine(store.engine.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if store.dialect == "sqlite":
            names = connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).scalars()
            for name in names.all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("SET session_replication_role = replica")
        yield connection
        connection.commit()
    engine.dispose()


def test_what_was_sealed_holds_and_new_rows_are_sealed_in_turn(store: Store) -> None:
    _save(store, "a", "b")
    assert seals.seal(store) == 2
    assert seals.seal(store) == 0
    with store.read() as connection:
        kept = seals.head(connection)
    _save(store, "c")
    assert seals.seal(store) == 1
    assert _found(store, kept) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE record_history SET reason = 'x' WHERE id = {0}", "it was changed after"),
        ("UPDATE record_history SET record_key = 'x' WHERE id = {0}", "it was changed after"),
        ("DELETE FROM record_history WHERE id = {0}", "and is missing"),
        ("UPDATE history_seal SET salt = NULL WHERE history_id = {0}", "has lost the salt"),
        ("DELETE FROM history_seal WHERE history_id = {0}", "inserted among sealed rows"),
        ("UPDATE history_seal SET chain = digest WHERE history_id = {0}", "the chain breaks"),
    ],
)
def test_each_way_of_tampering_is_named(store: Store, statement: str, said: str) -> None:
    _save(store, "a", "b", "c")
    seals.seal(store)
    with _tampering(store) as connection:
        middle = connection.exec_driver_sql(
            "SELECT id FROM record_history WHERE record_key = 'b'"
        ).scalar_one()
        connection.exec_driver_sql(statement.format(middle))
    lines = _found(store)
    assert any(said in line and f"row {middle}" in line for line in lines), lines


def test_content_taken_away_as_if_erased_is_named(store: Store) -> None:
    _save(store, "a")
    seals.seal(store)
    with _tampering(store) as connection:
        connection.exec_driver_sql("UPDATE record_history SET image = NULL, erased = true")
        connection.exec_driver_sql("UPDATE history_seal SET salt = NULL")
    assert _found(store) == ["erased history rows of no subject: there are 1, its erasures say 0"]


def test_a_cut_off_end_is_noticed_with_a_head_that_was_kept(store: Store) -> None:
    _save(store, "a", "b")
    seals.seal(store)
    with store.read() as connection:
        kept = seals.head(connection)
    with _tampering(store) as connection:
        last = "(SELECT max(id) FROM record_history)"
        connection.exec_driver_sql(f"DELETE FROM history_seal WHERE history_id = {last}")
        connection.exec_driver_sql(f"DELETE FROM record_history WHERE id = {last}")
    assert _found(store) == []
    assert [line.split(": ")[1] for line in _found(store, kept)] == [
        "the proof ends before the head that was kept"
    ]


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)  # on SQLite writers queue
def test_sealing_waits_for_a_row_that_comes_before_one_that_is_there(store: Store) -> None:
    done: list[int] = []
    sealing = threading.Thread(target=lambda: done.append(seals.seal(store)))
    with around(store) as early:
        early.exec_driver_sql("INSERT INTO rec_specimen (record_key, label) VALUES ('a', 'a')")
        _save(store, "b")  # its row has the greater number, and is committed first
        sealing.start()
        sealing.join(0.5)
        assert sealing.is_alive()
    sealing.join(30)
    assert done == [2]
    assert _found(store) == []
