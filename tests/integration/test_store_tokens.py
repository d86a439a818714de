"""The promises of tokens, revisions and the change feed, by raw SQL around the library."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from keepline.model import utc_now
from keepline.records import put_record
from keepline.store import Store
from keepline.store.tables import common
from keepline.store.tables.declared import record_table, record_tables
from tests.stores import ANN, BEN, SPECIMEN, around

TABLE = record_table(SPECIMEN, record_tables(SPECIMEN))
UPDATE = "UPDATE rec_specimen SET pieces = coalesce(pieces, 0) + 1 WHERE record_key = 'a'"
INSERT = "INSERT INTO rec_specimen (record_key, label) VALUES ('a', 'raw')"
DELETE = "DELETE FROM rec_specimen WHERE record_key = 'a'"


class Watched:
    """A record whose tokens are looked at again and again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.seen: set[int] = set()
        with store.write(ANN) as connection:
            put_record(connection, SPECIMEN, "a", {"label": "a"}, {"part": [{"part": "p"}]})
        self.born, self.rev, self.revision = self.state()
        self.seen.add(self.rev)

    def state(self) -> tuple[int, int, int]:
        with self.store.read() as connection:
            query = "SELECT row_born, row_rev, revision FROM rec_specimen WHERE record_key = 'a'"
            return tuple(connection.exec_driver_sql(query).one())

    def feed(self) -> list[tuple[int, str]]:
        with self.store.read() as connection:
            query = (
                "SELECT revision, op FROM change_feed WHERE record_type = 'specimen' "
                "AND record_key = 'a' ORDER BY id"
            )
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    @contextmanager
    def changes(self, *, born: bool = False, steps: int | None = 1) -> Iterator[sa.Connection]:
        """Expect new tokens, and `steps` more revisions, after the raw transaction."""
        with around(self.store) as connection:
            yield connection
        self.expect(born=born, steps=steps)

    def expect(self, *, born: bool = False, steps: int | None = 1) -> None:
        now_born, now_rev, now_revision = self.state()
        assert (now_born != self.born) is born
        assert now_rev not in self.seen
        assert 0 < now_rev < 2**63
        assert now_revision > self.revision
        if steps is not None:
            assert now_revision == self.revision + steps
        assert self.feed()[-1][0] == now_revision
        self.seen.add(now_rev)
        self.born, self.rev, self.revision = now_born, now_rev, now_revision


@pytest.fixture
def watched(store: Store) -> Watched:
    return Watched(store)


def test_a_record_and_its_subrows_are_one_revision(watched: Watched) -> None:
    assert watched.revision == 1
    assert watched.feed() == [(1, "insert")]


def test_raw_updates_change_the_token(watched: Watched) -> None:
    for _ in range(3):
        with watched.changes() as connection:
            connection.exec_driver_sql(UPDATE)


def test_an_update_that_changes_no_value_changes_the_token(watched: Watched) -> None:
    with watched.changes() as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET label = label")


def test_two_updates_in_one_transaction_give_two_tokens(watched: Watched) -> None:
    with watched.changes(steps=None) as connection:
        connection.exec_driver_sql(UPDATE)
        between = connection.exec_driver_sql("SELECT row_rev FROM rec_specimen").scalar_one()
        connection.exec_driver_sql(UPDATE)
    assert between not in watched.seen


def test_a_rolled_back_token_never_comes_again(watched: Watched) -> None:
    with around(watched.store) as connection:
        connection.exec_driver_sql(UPDATE)
        lost = connection.exec_driver_sql("SELECT row_rev FROM rec_specimen").scalar_one()
        connection.rollback()
    assert watched.state() == (watched.born, watched.rev, watched.revision)
    assert watched.feed() == [(1, "insert")]
    watched.seen.add(lost)
    with watched.changes() as connection:
        connection.exec_driver_sql(UPDATE)


def test_a_rolled_back_savepoint_leaves_one_revision(watched: Watched) -> None:
    with watched.changes() as connection:
        with connection.begin_nested() as savepoint:
            connection.exec_driver_sql(UPDATE)
            savepoint.rollback()
        connection.exec_driver_sql(UPDATE)


@pytest.mark.parametrize("together", [True, False])
def test_a_deleted_and_recreated_record_is_another(watched: Watched, together: bool) -> None:
    if together:
        with watched.changes(born=True, steps=2) as connection:
            connection.exec_driver_sql(DELETE)
            connection.exec_driver_sql(INSERT)
    else:
        with around(watched.store) as connection:
            connection.exec_driver_sql(DELETE)
        with watched.changes(born=True, steps=2) as connection:
            connection.exec_driver_sql(INSERT)
    assert watched.feed() == [(1, "insert"), (2, "delete"), (3, "insert")]


def test_a_bulk_update_changes_every_token(watched: Watched) -> None:
    with watched.store.write(ANN) as connection:
        rows = [{"record_key": f"b{n}", "label": "b"} for n in range(50)]
        connection.execute(sa.insert(TABLE), rows)
    with watched.changes() as connection:
        connection.exec_driver_sql("UPDATE rec_specimen SET weight = 1.5")
    with watched.store.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT revision, row_rev, row_born FROM rec_specimen WHERE record_key <> 'a'"
        ).all()
    assert {row.revision for row in rows} == {2}
    assert len({row.row_rev for row in rows} | {row.row_born for row in rows}) == 100


def test_an_upsert_changes_the_token(watched: Watched) -> None:
    with watched.changes() as connection:
        connection.exec_driver_sql(
            INSERT + " ON CONFLICT (record_key) DO UPDATE SET label = excluded.label"
        )


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_replace_makes_another_record(watched: Watched) -> None:
    with watched.changes(born=True, steps=2) as connection:
        connection.exec_driver_sql(INSERT.replace("INSERT", "REPLACE"))
    assert watched.feed() == [(1, "insert"), (2, "delete"), (3, "insert")]


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_copy_stamps_rows(watched: Watched) -> None:
    with around(watched.store) as connection:
        driver = connection.connection.driver_connection
        with driver.cursor().copy("COPY rec_specimen (record_key, label) FROM STDIN") as copy:
            copy.write_row(("b", "b"))
    with watched.store.read() as connection:
        query = "SELECT revision, row_born FROM rec_specimen WHERE record_key = 'b'"
        revision, born = connection.exec_driver_sql(query).one()
    assert revision == 1
    assert born != 0


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rec_specimen__part (record_key, part) VALUES ('a', 'q')",
        "UPDATE rec_specimen__part SET amount = 1",
        "DELETE FROM rec_specimen__part",
    ],
)
def test_a_change_of_a_subrow_is_a_revision_of_its_record(watched: Watched, statement: str) -> None:
    with watched.changes() as connection:
        connection.exec_driver_sql(statement)


def test_a_subrow_that_moves_changes_both_records(watched: Watched) -> None:
    with watched.store.write(ANN) as connection:
        put_record(connection, SPECIMEN, "b", {"label": "b"})
    with watched.changes() as connection:
        connection.exec_driver_sql("UPDATE rec_specimen__part SET record_key = 'b'")
    with watched.store.read() as connection:
        query = "SELECT revision FROM rec_specimen WHERE record_key = 'b'"
        assert connection.exec_driver_sql(query).scalar_one() == 2


def test_deleting_a_record_takes_its_subrows_along_in_one_revision(watched: Watched) -> None:
    with watched.store.write(ANN) as connection:
        connection.execute(sa.delete(TABLE))
    assert watched.feed() == [(1, "insert"), (2, "delete")]
    with watched.store.read() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM rec_specimen__part").scalar_one()
    assert left == 0


def test_a_transaction_of_the_library_is_one_revision(watched: Watched) -> None:
    with watched.store.write(BEN) as connection:
        for _ in range(3):
            connection.exec_driver_sql(UPDATE)
        connection.exec_driver_sql("UPDATE rec_specimen__part SET amount = 1")
        connection.exec_driver_sql("DELETE FROM rec_specimen__part")
    watched.expect()
    with watched.store.write(ANN) as connection:
        connection.exec_driver_sql(UPDATE)
    watched.expect()
    assert watched.feed() == [(1, "insert"), (2, "update"), (3, "update")]


@pytest.mark.parametrize(
    "assignment",
    [
        "row_rev = row_rev + 1",
        "row_rev = 5",
        "row_born = 5",
        "revision = revision + 1",
        "revision = 1000, label = 'x'",
        "rev_txn = 1",
        "record_key = 'z'",
    ],
)
def test_nobody_writes_what_the_database_stamps(watched: Watched, assignment: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="keepline: "), around(watched.store) as connection:
        connection.exec_driver_sql(f"UPDATE rec_specimen SET {assignment}")
    assert watched.state() == (watched.born, watched.rev, watched.revision)


def test_tokens_given_at_insertion_are_not_taken(watched: Watched) -> None:
    with around(watched.store) as connection:
        connection.exec_driver_sql(
            "INSERT INTO rec_specimen (record_key, label, row_born, row_rev, revision, rev_txn) "
            "VALUES ('b', 'b', 5, 5, 5, 5)"
        )
    with watched.store.read() as connection:
        row = connection.exec_driver_sql(
            "SELECT row_born, row_rev, revision FROM rec_specimen WHERE record_key = 'b'"
        ).one()
    assert row.revision == 1
    assert row.row_born == row.row_rev != 5


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_records_are_never_truncated(watched: Watched) -> None:
    for table in ("rec_specimen CASCADE", "rec_specimen__part", "change_feed", "sent_log"):
        refused = pytest.raises(sa.exc.DBAPIError, match="never truncated")
        with refused, around(watched.store) as connection:
            connection.exec_driver_sql(f"TRUNCATE {table}")


_ROWS = {
    "session_event": (
        "INSERT INTO session_event (id, session_identifier, instrument, happened_at, event_type, "
        "recorded_at) VALUES (1, 's', 'i', '2024-01-01', 'START', '2024-01-01')"
    ),
    "session_change": (
        "INSERT INTO session_change (id, session_identifier, status, changed_at, who, host, "
        "reason) VALUES (1, 's', 'ERROR', '2024-01-01', 'w', 'h', 'r')"
    ),
    "capture_session_change": (
        "INSERT INTO capture_session_change (id, session_name, state, changed_at, who, reason) "
        "VALUES (1, 'g', 'empty', '2024-01-01', 'w', 'r')"
    ),
    "change_feed": (
        "INSERT INTO change_feed (id, record_type, record_key, revision, op, txid, changed_at) "
        "VALUES (99, 't', 'k', 1, 'insert', 0, '2024-01-01')"
    ),
}


_CAPTURE_SESSION = (
    "INSERT INTO capture_session (id, store_id, number, global_name, instrument, user_name, "
    "state, started_at, level) VALUES (1, 'x', 1, 'g', 'i', 'u', 'empty', '2024-01-01', 'stored')"
)


@pytest.fixture
def logs(store: Store) -> Store:
    with around(store) as connection:
        for statement in (
            "INSERT INTO instrument (name, tz, comment) VALUES ('i', 'UTC', '')",
            "INSERT INTO session (identifier, instrument, status) VALUES ('s', 'i', 'ERROR')",
            _CAPTURE_SESSION,
            *_ROWS.values(),
        ):
            connection.exec_driver_sql(statement)
    return store


@pytest.mark.parametrize("table", _ROWS)
def test_rows_of_logs_never_change(logs: Store, table: str) -> None:
    with logs.read() as connection:
        before = [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
    attempts = [f"UPDATE {table} SET id = id + 1", f"DELETE FROM {table}"]
    if logs.dialect == "sqlite":
        attempts += [
            _ROWS[table].replace("INSERT", "REPLACE"),
            f"UPDATE OR REPLACE {table} SET id = 7",
        ]
        if table in ("session_event", "change_feed"):
            other_id = _ROWS[table].replace("INSERT", "REPLACE")
            attempts.append(other_id.replace("(1, ", "(50, ").replace("(99, ", "(50, "))
    for statement in attempts:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), around(logs) as connection:
            connection.exec_driver_sql(statement)
    with logs.read() as connection:
        after = [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
    assert after == before
    assert len(after) == 1


def test_a_sent_row_never_changes(store: Store) -> None:
    insert = (
        "INSERT INTO sent_log (recipient, record_type, record_key, revision, target_key, "
        "send_key, state, started_at) VALUES ('r', 't', 'k', 1, 'tk', 'sk', 'sending', "
        "'2024-01-01')"
    )
    with around(store) as connection:
        connection.exec_driver_sql(insert)
        connection.exec_driver_sql("UPDATE sent_log SET state = 'sent'")
    for statement in ("UPDATE sent_log SET state = 'failed'", "DELETE FROM sent_log"):
        with pytest.raises(sa.exc.DBAPIError, match="never changed"), around(store) as connection:
            connection.exec_driver_sql(statement)
    with pytest.raises(sa.exc.IntegrityError), around(store) as connection:
        connection.exec_driver_sql(insert.replace("sending", "sent"))


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "REPLACE INTO {row} VALUES (1, 'sk2', 'failed', 'r', 't', 'k', 1, 'tk', '2024-01-01')",
        "REPLACE INTO {row} VALUES (3, 'sk', 'sent', 'r', 't', 'k', 1, 'tk', '2024-01-01')",
        "UPDATE OR REPLACE sent_log SET id = 1 WHERE id = 2",
        "UPDATE OR REPLACE sent_log SET send_key = 'sk', state = 'sent' WHERE id = 2",
    ],
)
def test_a_sent_row_is_never_replaced(store: Store, statement: str) -> None:
    row = (
        "sent_log (id, send_key, state, recipient, record_type, record_key, revision, "
        "target_key, started_at)"
    )
    values = "'r', 't', 'k', 1, 'tk', '2024-01-01'"
    with around(store) as connection:
        for start in ("1, 'sk', 'sent'", "2, 'sk2', 'sending'", "4, 'sk', 'failed'"):
            connection.exec_driver_sql(f"INSERT INTO {row} VALUES ({start}, {values})")
    query = "SELECT id, send_key, state FROM sent_log ORDER BY id"
    with store.read() as connection:
        before = connection.exec_driver_sql(query).all()
    with pytest.raises(sa.exc.DBAPIError, match="never changed"), around(store) as connection:
        connection.exec_driver_sql(statement.format(row=row))
    with store.read() as connection:
        assert connection.exec_driver_sql(query).all() == before
    with around(store) as connection:  # what was not sent is still open to everything
        connection.exec_driver_sql(f"REPLACE INTO {row} VALUES (4, 'sk4', 'sending', {values})")
        connection.exec_driver_sql("UPDATE sent_log SET state = 'sent' WHERE id IN (2, 4)")


def restored(store: Store) -> None:
    """Make the store one that was restored, from a copy of now."""
    with store.write(ANN) as connection:
        connection.execute(
            sa.insert(common.restored).values(
                epoch="before", after_feed=0, revision_floor=1_000, restored_at=utc_now()
            )
        )


def test_a_restored_record_gets_no_revision_again_that_it_may_have_had(watched: Watched) -> None:
    restored(watched.store)
    with watched.changes(steps=1_000) as connection:
        connection.exec_driver_sql(UPDATE)
    with watched.changes() as connection:
        connection.exec_driver_sql(UPDATE)


def test_a_restored_record_is_deleted_above_all_it_may_have_had(watched: Watched) -> None:
    restored(watched.store)
    with around(watched.store) as connection:
        connection.exec_driver_sql(DELETE)
    assert watched.feed()[-1] == (1_001, "delete")
    with watched.store.read() as connection:
        history = "SELECT DISTINCT revision FROM record_history WHERE op = 'delete'"
        assert connection.exec_driver_sql(history).scalars().all() == [1_001]
        index = "SELECT revision FROM record_index WHERE record_key = 'a'"
        assert connection.exec_driver_sql(index).scalar_one() == 1_001
    with watched.changes(born=True, steps=1_001) as connection:
        connection.exec_driver_sql(INSERT)


def test_a_record_deleted_before_a_restore_is_made_anew_above_all_it_may_have_had(
    watched: Watched,
) -> None:
    with around(watched.store) as connection:
        connection.exec_driver_sql(DELETE)
    restored(watched.store)
    with watched.changes(born=True, steps=1_000) as connection:
        connection.exec_driver_sql(INSERT)


def test_a_record_made_after_a_restore_counts_from_one(watched: Watched) -> None:
    restored(watched.store)
    with around(watched.store) as connection:
        connection.exec_driver_sql(INSERT.replace("'a'", "'new'"))
    with watched.store.read() as connection:
        query = "SELECT revision FROM rec_specimen WHERE record_key = 'new'"
        assert connection.exec_driver_sql(query).scalar_one() == 1
