"""The query modules over PostgreSQL: the same suite, and the same answers as over SQLite."""

import gc
from collections.abc import Iterator
from functools import partial

import pytest
import sqlalchemy as sa

from keepline.query import Column, ModuleUnavailable, connect, request
from keepline.query.module import Filter, Scan
from keepline.query.modules.store import (
    archive_module,
    deliveries_module,
    records_module,
    sessions_module,
)
from keepline.store import Store
from keepline.testing.query_modules import QueryModuleConformance
from tests.query_host import host
from tests.query_store import ANN, SYSTEM, fill

MAKERS = (archive_module, sessions_module, records_module, deliveries_module)


@pytest.fixture
def store(postgres_database) -> Iterator[Store]:
    made = Store(postgres_database)
    fill(made)
    yield made
    made.close()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("who", [SYSTEM, ANN])
def test_modules_hold_the_suite(store, tmp_path, make, who):
    """One database for all of the suite's tests, which only read."""

    class Suite(QueryModuleConformance):
        def module(self, folder):
            return make(store)

        def principal(self):
            return who

    tests = [name for name in dir(Suite) if name.startswith("test_")]
    assert len(tests) >= 8
    for name in tests:
        getattr(Suite(), name)(tmp_path)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("who", [SYSTEM, ANN])
def test_answers_are_those_of_sqlite(store, tmp_path, make, who):
    other = Store(f"sqlite:///{tmp_path / 'keepline.db'}")
    fill(other)
    own = {"row_born", "row_rev"}  # random, or the time of the writing
    for info in make(store).tables(who):
        written = own | ({"created_at", "changed_at"} if info.name == "index" else set())
        names = tuple(column.name for column in info.columns if column.name not in written)
        scan = Scan(info.name, names, who)
        rows = [row for batch in make(store).scan(scan) for row in batch]
        assert rows == [row for batch in make(other).scan(scan) for row in batch]
        assert rows
    other.close()


def test_odd_values_match_nothing_and_break_nothing(store):
    text = "SELECT 1 FROM archive.session WHERE instrument = ?"
    with connect("admin", instance=host(archive_module(store))) as connection:
        cursor = connection.cursor()
        for value in ("\x00", "x'; DROP TABLE stream; --", "%s", "\\"):
            assert cursor.execute(text, [value]).fetchall() == []
    for value in (2**62, -(2**63)):
        scan = Scan("block_stat", ("n",), SYSTEM, (Filter("n", "in", (value,)),))
        assert list(archive_module(store).scan(scan)) == []


def test_rows_stream_while_look_ups_run(store):
    asked = request(bulk=1)
    asked.add_field("name", Column("archive", "channel", "name"))
    asked.add_field("number", Column("archive", "session", "number"))
    asked.add_param(Column("archive", "session", "id"), Column("archive", "channel", "session_id"))
    with connect("ann", instance=host(archive_module(store), ann={"red"})) as connection:
        cursor = connection.cursor().execute(asked)
        assert cursor.fetchone() == ("load", 1)
        assert cursor.fetchall() == [("load", 2)]
    assert store.engine.pool.checkedout() == 0


# SQLAlchemy drops a server-side cursor whose connection was lost, and psycopg says so.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_a_lost_connection_makes_the_module_unavailable_for_a_moment(store, postgres_url):
    asked = request()
    asked.add_field("number", Column("archive", "session", "number"))
    server = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    others = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")

    def cut(*_):
        with server.connect() as killer:
            killer.execute(others, {"name": store.engine.url.database})

    with connect("admin", instance=host(archive_module(store))) as connection:
        cursor = connection.cursor()
        for retries in (0, 1):
            cursor.retries, cursor.retry_timeout = retries, 5
            sa.event.listen(store.engine, "before_cursor_execute", partial(cut), once=True)
            if not retries:
                with pytest.raises(ModuleUnavailable, match="archive"):
                    cursor.execute(asked)
        assert cursor.execute(asked).fetchall() == [(1,), (2,), (3,)]
        assert [kind for kind, _ in cursor.messages] == [ModuleUnavailable]
        cursor.close()
    del cursor, connection
    gc.collect()  # within the test, where the warning is expected
