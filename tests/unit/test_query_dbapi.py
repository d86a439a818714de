"""Connections and cursors: what PEP 249 and the seed page say."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import pytest

import keepline.query as query
from keepline.errors import NoInstanceError
from keepline.query import (
    CM_OP_SET,
    Column,
    InterfaceError,
    ModuleUnavailable,
    NotSupportedError,
    ProgrammingError,
    connect,
    request,
)
from keepline.query.module import ColumnInfo
from keepline.query.modules.memory import MemoryModule
from keepline.store.current import using
from tests.query_host import Counting, Flaky, Host, host, laboratory

DATABASE_ERRORS = [
    "DataError",
    "OperationalError",
    "IntegrityError",
    "InternalError",
    "ProgrammingError",
    "NotSupportedError",
]


def numbers(count=5, name="many"):
    module = MemoryModule(name)
    module.add_table(
        "number",
        [ColumnInfo("n", "integer", nullable=False)],
        [(n,) for n in range(count)],
        key=["n"],
    )
    return module


def all_numbers(name="many"):
    asked = request()
    asked.add_field("n", Column(name, "number", "n"))
    return asked


@pytest.fixture
def connection():
    with connect("admin", instance=host(numbers(), laboratory())) as opened:
        yield opened


@pytest.fixture
def cursor(connection):
    return connection.cursor()


def test_module_says_what_it_is():
    assert (query.apilevel, query.threadsafety, query.paramstyle) == ("2.0", 1, "qmark")


def test_exceptions_form_the_tree_of_pep_249():
    assert issubclass(query.Error, Exception)
    assert issubclass(query.Warning, Exception)
    assert issubclass(query.InterfaceError, query.Error)
    for name in [
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    ]:
        assert issubclass(getattr(query, name), query.DatabaseError)
    assert issubclass(query.ModuleUnavailable, query.OperationalError)


@pytest.mark.parametrize(
    "name",
    [
        "Warning",
        "Error",
        "InterfaceError",
        "DatabaseError",
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    ],
)
def test_exceptions_are_attributes_of_a_connection(connection, name):
    assert getattr(connection, name) is getattr(query, name)


def test_constructors_give_values_in_utc():
    assert query.Date(2020, 2, 29) == date(2020, 2, 29)
    assert query.Time(1, 2, 3) == time(1, 2, 3)
    assert query.Timestamp(2020, 2, 29, 1, 2, 3, 4) == datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC)
    assert query.DateFromTicks(86_400) == date(1970, 1, 2)
    assert query.TimeFromTicks(3_661.5) == time(1, 1, 1, 500_000)
    assert query.TimestampFromTicks(1.25) == datetime(1970, 1, 1, 0, 0, 1, 250_000, tzinfo=UTC)
    assert query.Binary(b"\x00\xff") == b"\x00\xff"


def test_connect_takes_the_current_instance():
    with pytest.raises(NoInstanceError):
        connect("ann")
    with using(host(numbers())), connect("ann") as connection:
        assert connection.username == "ann"
        assert len(connection.cursor().execute(all_numbers()).fetchall()) == 5


def test_connect_refuses_an_instance_without_modules():
    @dataclass(frozen=True)
    class Bare:
        epoch: str = "x"

    with pytest.raises(InterfaceError, match="no query modules"):
        connect("ann", instance=Bare())


def test_everything_after_close_raises():
    connection = connect("ann", instance=host(numbers()))
    cursor = connection.cursor().execute(all_numbers())
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, connection.rollback, connection.__enter__):
        with pytest.raises(query.Error, match="closed"):
            use()
    for use in (
        cursor.fetchone,
        cursor.fetchmany,
        cursor.fetchall,
        cursor.fetchrow,
        cursor.fetchrows,
        cursor.next,
        cursor.fetch_arrow_table,
        lambda: cursor.execute(all_numbers()),
        lambda: cursor.executemany(all_numbers(), []),
        lambda: cursor.setinputsizes([1]),
        lambda: cursor.setoutputsize(1),
        lambda: list(cursor.iterrow()),
        cursor.__enter__,
    ):
        with pytest.raises(query.Error, match="closed"):
            use()
    cursor.close()


def test_a_closed_cursor_leaves_the_connection_open(connection):
    with connection.cursor() as cursor:
        cursor.execute(all_numbers())
    with pytest.raises(InterfaceError):
        cursor.fetchone()
    assert connection.cursor().execute(all_numbers()).fetchone() == (0,)


def test_closing_the_connection_releases_what_a_cursor_reads():
    module = Counting(numbers(5_000))
    connection = connect("ann", instance=host(module))
    connection.cursor().execute(all_numbers())
    held = connection.cursor().execute(all_numbers())
    assert module.open >= 1
    connection.close()
    assert held.connection is connection
    assert module.open == 0


def test_a_new_execute_releases_the_old_rows():
    module = Counting(numbers(5_000))
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor().execute(all_numbers())
        cursor.execute(all_numbers())
        assert module.open == 1
        assert len(cursor.fetchall()) == 5_000
        assert module.open == 0


def test_state_before_and_after_execute(cursor):
    assert (cursor.description, cursor.rowcount, cursor.rownumber) == (None, -1, None)
    cursor.execute(all_numbers())
    assert (cursor.rowcount, cursor.rownumber) == (-1, 0)
    assert cursor.fetchone() == (0,)
    assert cursor.rownumber == 1
    assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
    assert cursor.rownumber == 4
    assert cursor.fetchall() == [(4,)]
    assert (cursor.rownumber, cursor.fetchone(), cursor.fetchall()) == (5, None, [])
    assert (cursor.fetchmany(2), cursor.fetchrow(), cursor.rownumber) == ([], None, 5)


def test_fetch_before_execute_raises(cursor):
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall, cursor.fetchrow, cursor.next):
        with pytest.raises(ProgrammingError, match="execute"):
            fetch()


def test_fetch_after_a_failed_execute_raises(cursor):
    cursor.execute(all_numbers())
    with pytest.raises(ProgrammingError):
        cursor.execute(all_numbers("nowhere"))
    assert cursor.description is None
    with pytest.raises(ProgrammingError):
        cursor.fetchall()


def test_description_has_seven_items_with_real_types(cursor):
    asked = request()
    asked.add_field("mass", Column("lab", "sample", "mass"))
    asked.add_field("id", Column("lab", "sample", "id"))
    asked.add_field("note", 5)
    cursor.execute(asked)
    assert cursor.description == (
        ("mass", query.NUMBER, None, None, None, None, True),
        ("id", query.NUMBER, None, None, None, None, False),
        ("note", query.STRING, None, None, None, None, False),
    )


def test_fetchmany_takes_arraysize_rows(cursor):
    assert cursor.arraysize == 1
    cursor.execute(all_numbers())
    assert cursor.fetchmany() == [(0,)]
    cursor.arraysize = 3
    assert cursor.fetchmany() == [(1,), (2,), (3,)]
    assert cursor.fetchmany(size=0) == []
    assert cursor.fetchmany(10) == [(4,)]


def test_a_cursor_iterates_what_is_left(cursor):
    cursor.execute(all_numbers())
    assert next(cursor) == (0,)
    assert cursor.next() == (1,)
    assert iter(cursor) is cursor
    assert list(cursor) == [(2,), (3,), (4,)]
    with pytest.raises(StopIteration):
        next(cursor)


def test_rows_have_their_index_and_fields(cursor):
    cursor.execute(all_numbers())
    cursor.fetchone()
    row = cursor.fetchrow()
    assert (row.rowid, row.op_status, row.opMsg) == (1, "SUCCESS", None)
    assert row.field_values == {"n": 1}
    assert [row.rowid for row in cursor.iterrow()] == [2, 3, 4]
    cursor.execute(all_numbers())
    assert [row.field_values["n"] for row in cursor.fetchrows()] == [0, 1, 2, 3, 4]


def test_cursors_of_one_connection_are_apart(connection):
    first = connection.cursor().execute(all_numbers())
    second = connection.cursor().execute(all_numbers())
    assert (first.fetchone(), second.fetchmany(2), first.fetchone()) == ((0,), [(0,), (1,)], (1,))


def test_sizes_change_nothing(cursor):
    cursor.setinputsizes([10, None])
    cursor.setoutputsize(10)
    cursor.setoutputsize(10, 1)
    assert cursor.execute(all_numbers()).fetchone() == (0,)


def test_commit_and_rollback_of_reading_do_nothing(connection):
    connection.cursor().execute(all_numbers())
    assert connection.commit() is None
    assert connection.rollback() is None


def test_rollback_after_a_write_says_that_it_cannot(connection):
    asked = request(CM_OP_SET)
    asked.add_param(Column("lab", "sample", "id"), 1)
    asked.add_param(Column("lab", "sample", "name"), "sugar")
    connection.cursor().execute(asked)
    with pytest.raises(NotSupportedError, match="rolled back"):
        connection.rollback()
    connection.commit()
    connection.rollback()


@pytest.mark.parametrize("wrong", [None, 5, b"select 1", ("a",)])
def test_execute_refuses_what_is_no_request(cursor, wrong):
    with pytest.raises(ProgrammingError, match="Request"):
        cursor.execute(wrong)


def test_execute_refuses_a_sequence_for_a_request(cursor):
    with pytest.raises(ProgrammingError, match="dictionary"):
        cursor.execute(all_numbers(), [1])


def test_executemany_is_for_writing(cursor):
    with pytest.raises(ProgrammingError):
        cursor.executemany(all_numbers(), [{}])
    asked = request(CM_OP_SET)
    asked.add_param(Column("lab", "sample", "id"))
    asked.add_param(Column("lab", "sample", "name"))
    cursor.executemany(
        asked, [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 9, "name": "c"}]
    )
    assert cursor.rowcount == 2
    assert cursor.description is None
    asked = request()
    asked.add_field("name", Column("lab", "sample", "name"))
    assert cursor.execute(asked).fetchall() == [("a",), ("b",), ("soil",)]


def test_without_retries_an_unavailable_module_raises():
    module = Flaky(numbers(), 1)
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor()
        assert (cursor.retries, cursor.retry_timeout) == (0, 5)
        with pytest.raises(ModuleUnavailable) as caught:
            cursor.execute(all_numbers())
    assert caught.value.module_name == "many"
    assert module.attempts == 1
    assert cursor.messages == [(ModuleUnavailable, caught.value)]


def test_retries_give_the_full_answer_and_are_noted():
    said = []
    module = Flaky(numbers(), 2)
    with connect("ann", instance=host(module), print_callback=said.append) as connection:
        cursor = connection.cursor()
        messages = cursor.messages
        cursor.retries, cursor.retry_timeout = 2, 0.01
        cursor.execute(all_numbers())
        assert len(cursor.fetchall()) == 5
        assert module.attempts == 3
        assert [kind for kind, _ in cursor.messages] == [ModuleUnavailable] * 2
        assert len(said) == 2
        assert "many" in said[0]
        cursor.execute(all_numbers())
        assert cursor.messages == []
        assert cursor.messages is messages


def test_used_up_retries_raise():
    module = Flaky(numbers(), 9)
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor()
        cursor.retries, cursor.retry_timeout = 3, 0
        with pytest.raises(ModuleUnavailable):
            cursor.execute(all_numbers())
    assert module.attempts == 4


def test_retries_serve_sql_as_well():
    module = Flaky(numbers(2_500), 2, after=1)
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor()
        cursor.retries, cursor.retry_timeout = 2, 0
        assert cursor.execute("SELECT count(*) FROM many.number").fetchall() == [(2_500,)]
    assert module.attempts == 3


def test_a_module_that_fails_on_the_way_is_never_taken_for_the_end():
    module = Flaky(numbers(2_500), 1, after=2)
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor()
        cursor.retries = 5
        cursor.execute(all_numbers())
        assert len(cursor.fetchmany(2_000)) == 2_000
        for fetch in (cursor.fetchone, cursor.fetchall, cursor.next):
            with pytest.raises(ModuleUnavailable):
                fetch()
        assert cursor.rownumber == 2_000
    assert module.attempts == 1


def test_first_row_comes_after_one_page():
    module = Counting(numbers(10_000))
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor().execute(all_numbers())
        assert cursor.fetchone() == (0,)
        assert module.open == 1


def test_vr_name_of_the_request_is_over_the_cursors():
    module = Counting(numbers())
    with connect("ann", instance=host(module)) as connection:
        cursor = connection.cursor("VR-Mgmt")
        cursor.execute(all_numbers())
        asked = all_numbers()
        asked.set_vr_name("VR-Default")
        cursor.execute(asked)
        cursor.vr_name = None
        cursor.execute(all_numbers())
    assert [scan.vr_name for scan in module.scans] == ["VR-Mgmt", "VR-Default", None]


def test_a_host_is_recognised_by_what_it_has():
    assert isinstance(Host({}), query.dbapi.QueryHost)
