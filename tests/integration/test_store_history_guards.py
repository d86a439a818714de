"""Ways around the triggers that are closed, and logs that never change."""

from typing import Any

import pytest
import sqlalchemy as sa

from keepline.store import Store
from tests.stores import ANN, around
from tests.visits import DOSE, INSERT, feed_of, history_of, index_of, ops_of, run


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("foreign_keys", ["ON", "OFF"])
@pytest.mark.parametrize("recursive", ["ON", "OFF"])
def test_replace_is_a_deletion_and_a_new_record_on_any_connection(
    raw: Store, foreign_keys: str, recursive: str
) -> None:
    last = index_of(raw).revision
    _sqlite(
        raw, foreign_keys, recursive, "REPLACE INTO rec_visit (record_key, note) VALUES ('a', 'n')"
    )
    assert feed_of(raw)[-2:] == [(last + 1, "delete"), (last + 2, "insert")]
    new = [row for row in history_of(raw) if row[0] > last]
    assert {row[:4] for row in new} == {
        (last + 1, "dose", "d", "delete"),
        (last + 1, "", "", "delete"),
        (last + 2, "", "", "insert"),
    }
    assert (index_of(raw).revision, index_of(raw).current) == (last + 2, True)
    with raw.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rec_visit__dose").scalar() == 0
        assert connection.exec_driver_sql("SELECT stamp FROM writer").scalar() is None


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("foreign_keys", ["ON", "OFF"])
def test_a_deletion_leaves_no_subrow_behind_on_any_connection(
    raw: Store, foreign_keys: str
) -> None:
    last = index_of(raw).revision
    _sqlite(raw, foreign_keys, "OFF", "DELETE FROM rec_visit")
    assert {row[:4] for row in history_of(raw) if row[0] > last} == {
        (last + 1, "dose", "d", "delete"),
        (last + 1, "", "", "delete"),
    }
    with raw.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rec_visit__dose").scalar() == 0


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_subrows_that_come_before_their_record_are_in_its_first_revision(visits: Store) -> None:
    _sqlite(visits, "OFF", "OFF", DOSE)
    assert history_of(visits) == []
    _sqlite(visits, "OFF", "OFF", INSERT)
    assert {row[:4] for row in history_of(visits)} == {
        (1, "", "", "insert"),
        (1, "dose", "d", "insert"),
    }


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_replaced_subrow_is_a_revision(raw: Store) -> None:
    last = index_of(raw).revision
    _sqlite(raw, "OFF", "OFF", DOSE.replace("INSERT", "REPLACE").replace("1.5", "9"))
    assert index_of(raw).revision == last + 1
    assert history_of(raw)[-1][4]["amount"] == 9.0
    _sqlite(raw, "OFF", "OFF", "INSERT INTO rec_visit__dose (record_key, drug) VALUES ('a', 'e')")
    _sqlite(raw, "OFF", "OFF", "UPDATE OR REPLACE rec_visit__dose SET drug = 'd' WHERE drug = 'e'")
    assert [row[1:] for row in history_of(raw)[-2:]] == [
        ("dose", "e", "delete", None),
        ("dose", "d", "update", {"amount": None, "photo": None}),
    ]


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "REPLACE INTO rec_visit (rowid, record_key) SELECT rowid, 'b' FROM rec_visit",
        "INSERT INTO rec_visit (rowid, record_key) VALUES (-1, 'b')",
        "UPDATE OR REPLACE rec_visit SET rowid = 77",
        (
            "REPLACE INTO rec_visit__dose (rowid, record_key, drug) "
            "SELECT rowid, 'a', 'e' FROM rec_visit__dose"
        ),
        "UPDATE rec_visit__dose SET rowid = 77",
    ],
)
def test_no_row_takes_the_place_of_another_by_its_rowid(raw: Store, statement: str) -> None:
    before = history_of(raw)
    with pytest.raises(sa.exc.IntegrityError, match="rowid"):
        run(raw, statement)
    assert history_of(raw) == before


def _sqlite(store: Store, foreign_keys: str, recursive: str, statement: str) -> None:
    engine = sa.create_engine(store.engine.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA foreign_keys = {foreign_keys}")
        driver.execute(f"PRAGMA recursive_triggers = {recursive}")
        with connection.begin():
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_a_transaction_number_that_comes_again_is_another_revision(raw: Store) -> None:
    last = index_of(raw).revision
    with around(raw) as connection:
        # As after a restore into a new server, which counts transactions from the beginning.
        connection.exec_driver_sql("SET session_replication_role = replica")
        connection.exec_driver_sql(
            "UPDATE rec_visit SET rev_txn = pg_current_xact_id()::text::bigint"
        )
        connection.exec_driver_sql("SET session_replication_role = origin")
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'y'")
    assert index_of(raw).revision == last + 1


_LOGS = ("change_feed", "record_history", "history_seal", "record_type_change", "erasure")


@pytest.fixture
def logged(raw: Store) -> Store:
    """A store with a row in each log about records."""
    run(
        raw,
        "INSERT INTO history_seal (history_id, salt, digest, chain) "
        "SELECT min(id), 'a', 'b', 'c' FROM record_history",
        "INSERT INTO erasure (subject_no, digest, records, images, who, reason, erased_at) "
        "VALUES (1, 'd', 1, 1, 'w', 'r', '2024-01-01')",
    )
    return raw


@pytest.mark.parametrize("table", _LOGS)
def test_logs_about_records_never_change(logged: Store, table: str) -> None:
    key = "history_id" if table == "history_seal" else "id"
    statements = [f"UPDATE {table} SET {key} = {key}", f"DELETE FROM {table}"]
    if logged.dialect == "sqlite":
        statements.append(f"REPLACE INTO {table} SELECT * FROM {table}")
    else:
        statements.append(f"TRUNCATE {table} CASCADE")
    if table == "record_history":
        statements.append("UPDATE record_history SET image = NULL")
    before = _all(logged, table)
    assert before
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match=r"append-only|never truncated"):
            run(logged, statement)
    assert _all(logged, table) == before


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        (
            "record_history SET image = NULL, reason = NULL, erased = true, record_key = 'gone'",
            True,
        ),
        ("record_history SET subject_no = 5, sub_key = 'x' WHERE subtable <> ''", True),
        ("record_history SET revision = revision + 100", False),
        ("record_history SET op = 'update'", False),
        ("record_history SET record_type = 'other'", False),
        ("change_feed SET record_key = 'gone', actor = NULL", True),
        ("change_feed SET revision = revision + 100", False),
        ("history_seal SET salt = NULL", True),
        ("history_seal SET digest = 'x'", False),
        ("erasure SET reason = 'other'", False),
    ],
)
def test_an_erasure_changes_content_and_no_proof(logged: Store, change: str, allowed: bool) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), logged.write(ANN) as connection:
        connection.exec_driver_sql(f"UPDATE {change}")
    if allowed:
        with logged.write(ANN, "asked", erasing=True) as connection:
            connection.exec_driver_sql(f"UPDATE {change}")
    else:
        refused = pytest.raises(sa.exc.DBAPIError, match="append-only")
        with refused, logged.write(ANN, "asked", erasing=True) as connection:
            connection.exec_driver_sql(f"UPDATE {change}")
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), logged.write(ANN) as connection:
        connection.exec_driver_sql(f"UPDATE {change}")


def test_an_erasure_removes_finalised_records_and_deletes_no_log(logged: Store) -> None:
    run(logged, "UPDATE rec_visit SET finalised = true")
    with logged.write(ANN, "asked", erasing=True) as connection:
        connection.exec_driver_sql("DELETE FROM rec_visit")
    assert ops_of(logged)[-1][3] == "delete"
    for table in ("change_feed", "record_history", "history_seal"):
        refused = pytest.raises(sa.exc.DBAPIError, match="append-only")
        with refused, logged.write(ANN, "asked", erasing=True) as connection:
            connection.exec_driver_sql(f"DELETE FROM {table}")


def _all(store: Store, table: str) -> list[Any]:
    with store.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
