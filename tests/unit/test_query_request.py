"""Requests: how they are built, what is refused, and what they answer."""

from datetime import UTC, datetime

import pytest

from keepline.query import (
    CM_OP_GET,
    CM_OP_SET,
    IS_NULL,
    Column,
    DataError,
    IntegrityError,
    InterfaceError,
    ModuleUnavailable,
    NotSupportedError,
    ProgrammingError,
    Request,
    Row,
    Table,
    connect,
    request,
)
from keepline.query.module import ColumnInfo
from keepline.query.modules.memory import MemoryModule
from tests.query_host import Counting, host, laboratory

SAMPLE = Table("lab", "sample")
RUN = Table("lab", "run")


@pytest.fixture
def cursor():
    with connect("admin", instance=host(laboratory())) as connection:
        yield connection.cursor()


def runs_with_samples(**options):
    """Ask for each run's number and its sample's name."""
    asked = request(**options)
    asked.add_field("number", Column(RUN, "number"))
    asked.add_field("name", Column(SAMPLE, "name"))
    asked.add_param(Column(SAMPLE, "id"), Column(RUN, "sample"))
    return asked


def ask(modules, asked, values=None):
    with connect("admin", instance=host(*modules)) as connection:
        return connection.cursor().execute(asked, values).fetchall()


def test_tables_and_columns_are_immutable_tuples():
    column = Column(("lab", "sample"), "id")
    assert column == Column(SAMPLE, "id") == Column("lab", "sample", "id")
    assert (column.table, column.column_name) == (SAMPLE, "id")
    assert (column.module_name, column.table_name) == ("lab", "sample")
    assert column == (("lab", "sample"), "id")
    assert (SAMPLE.module_name, SAMPLE.table_name) == ("lab", "sample")
    assert len({column, Column(SAMPLE, "id")}) == 1
    with pytest.raises(AttributeError):
        column.column_name = "other"
    with pytest.raises(AttributeError):
        SAMPLE.table_name = "other"


@pytest.mark.parametrize("wrong", [("lab",), ("lab", "sample"), (("lab", "sample"),), (1, 2, 3)])
def test_what_is_not_like_a_column_is_refused(wrong):
    with pytest.raises(InterfaceError, match="column is"):
        Column(*wrong)
    with pytest.raises(InterfaceError):
        request().add_index(wrong)


def test_a_request_shows_what_was_built():
    asked = request()
    assert (asked.op, asked.method, asked.outer_join, asked.order) == (
        CM_OP_GET,
        "GET",
        False,
        "FIFO",
    )
    assert (asked.main_table, asked.tables) == (None, [])
    asked.add_index((("lab", "run"), "number"))
    asked.add_param(("lab", "sample", "id"), Column(RUN, "sample"))
    asked.add_field("name", Column(SAMPLE, "name"))
    assert asked.main_table == RUN
    assert asked.tables == [RUN, SAMPLE]
    assert asked.indexes == {RUN: [Column(RUN, "number")]}
    assert asked.params == {Column(SAMPLE, "id"): Column(RUN, "sample")}
    assert asked.fields == {"name": Column(SAMPLE, "name")}
    assert request(CM_OP_SET).method == "SET"
    assert Request(CM_OP_GET, True, 10, "FIFO").bulk == 10


@pytest.mark.parametrize("wrong", [{"op": 7}, {"bulk": 0}, {"bulk": 10_001}, {"order": "LIFO"}])
def test_a_request_refuses_values_that_mean_nothing(wrong):
    with pytest.raises(InterfaceError):
        Request(**wrong)


def test_a_copy_is_changed_alone(cursor):
    asked = runs_with_samples()
    asked.set_vr_name("VR-Mgmt")
    twin = asked.copy()
    twin.add_field("kind", Column(RUN, "kind"))
    twin.add_param(Column(RUN, "kind"), "cool")
    twin.add_index(Column(RUN, "kind"))
    assert twin.vr_name == "VR-Mgmt"
    assert (len(asked.fields), len(asked.params), asked.indexes) == (2, 1, {})
    assert cursor.execute(twin).fetchall() == [(11, "salt", "cool")]
    assert len(cursor.execute(asked).fetchall()) == 3


def test_an_inner_join_leaves_out_what_does_not_match(cursor):
    assert cursor.execute(runs_with_samples()).fetchall() == [
        (10, "salt"),
        (11, "salt"),
        (12, "soil"),
    ]


def test_an_outer_join_keeps_every_row_of_the_main_table(cursor):
    assert cursor.execute(runs_with_samples(outer_join=True)).fetchall() == [
        (10, "salt"),
        (11, "salt"),
        (12, "soil"),
        (13, None),
        (14, None),
    ]
    assert cursor.description[1][6] is True


def test_constants_of_an_outer_joined_table_belong_to_the_join(cursor):
    asked = runs_with_samples(outer_join=True)
    asked.add_param(Column(SAMPLE, "name"), "soil")
    asked.add_param(Column(RUN, "kind"), "heat")
    assert cursor.execute(asked).fetchall() == [(10, None), (12, "soil"), (13, None)]


def test_one_row_joins_every_row_that_fits(cursor):
    asked = request(main_table=SAMPLE)
    asked.add_field("number", Column(RUN, "number"))
    asked.add_field("name", Column(SAMPLE, "name"))
    asked.add_param(Column(RUN, "sample"), Column(SAMPLE, "id"))
    assert asked.main_table == SAMPLE
    assert cursor.execute(asked).fetchall() == [(10, "salt"), (11, "salt"), (12, "soil")]


def test_joins_lead_on_from_table_to_table(cursor):
    asked = runs_with_samples(outer_join=True)
    asked.add_field("room", Column("lab", "person", "room"))
    asked.add_param(Column("lab", "person", "user"), Column(SAMPLE, "owner"))
    asked.add_index(Column("lab", "person", "user"))
    assert cursor.execute(asked).fetchall() == [
        (10, "salt", "A1"),
        (11, "salt", "A1"),
        (12, "soil", None),
        (13, None, None),
        (14, None, None),
    ]


def test_a_table_may_be_joined_to_two_others():
    module = MemoryModule("m")
    pair = [ColumnInfo("a", "integer"), ColumnInfo("b", "integer")]
    module.add_table("one", pair, [(1, 2), (3, None), (5, 6)])
    module.add_table("two", pair, [(1, 20), (3, 40), (5, 60)])
    module.add_table("both", pair, [(2, 20), (None, 40), (6, 61)])
    asked = request(outer_join=True)
    for table in ("one", "two", "both"):
        asked.add_field(table, Column("m", table, "b"))
        asked.add_index(Column("m", table, "a"))
    asked.add_param(Column("m", "both", "a"), Column("m", "one", "b"))
    asked.add_param(Column("m", "both", "b"), Column("m", "two", "b"))
    asked.add_param(Column("m", "two", "a"), Column("m", "one", "a"))
    expected = [(2, 20, 20), (None, 40, None), (6, 60, None)]
    assert ask([module], asked) == expected
    assert ask([Counting(module, look_ups=False)], asked) == expected


def test_numbers_of_both_kinds_can_be_joined():
    module = MemoryModule("m")
    module.add_table("whole", [ColumnInfo("n", "integer")], [(1,), (2,), (2**40,)], key=["n"])
    module.add_table(
        "real",
        [ColumnInfo("x", "real")],
        [(1.0,), (2.5,), (float("nan"),), (1e300,), (None,), (2.0**40,)],
        key=["x"],
    )
    asked = request()
    asked.add_field("n", Column("m", "whole", "n"))
    asked.add_param(Column("m", "real", "x"), Column("m", "whole", "n"))
    assert ask([module], asked) == [(1,), (2**40,)]
    asked = request()
    asked.add_field("x", Column("m", "real", "x"))
    asked.add_param(Column("m", "whole", "n"), Column("m", "real", "x"))
    assert ask([module], asked) == [(1.0,), (2.0**40,)]


def test_a_missing_value_and_nan_equal_nothing():
    module = MemoryModule("m")
    module.add_table("left", [ColumnInfo("x", "real")], [(None,), (float("nan"),), (1.0,)])
    module.add_table("right", [ColumnInfo("x", "real")], [(None,), (float("nan"),), (1.0,)])
    asked = request()
    asked.add_field("x", Column("m", "left", "x"))
    asked.add_param(Column("m", "right", "x"), Column("m", "left", "x"))
    asked.add_index(Column("m", "left", "x"))
    asked.add_index(Column("m", "right", "x"))
    assert ask([module], asked) == [(1.0,)]
    assert ask([Counting(module, look_ups=False)], asked) == [(1.0,)]


def test_literals_are_echoed_as_strings(cursor):
    asked = request()
    asked.add_field("five", 5)
    asked.add_field("id", Column(SAMPLE, "id"))
    asked.add_field("pair", ("a", 1))
    asked.add_field("none", None)
    assert cursor.execute(asked).fetchone() == ("5", 1, "('a', 1)", "None")


def test_one_field_may_be_all(cursor):
    asked = request()
    asked.add_field("x", "text")
    asked.add_index(Column(SAMPLE, "id"))
    assert cursor.execute(asked).fetchall() == [("text",)] * 3


def test_fields_may_name_a_column_twice(cursor):
    asked = request()
    for label in ("a", "b"):
        asked.add_field(label, Column(SAMPLE, "id"))
    assert cursor.execute(asked).fetchall() == [(1, 1), (2, 2), (3, 3)]
    assert cursor.execute(asked).fetchrow().field_values == {"a": 1, "b": 1}


def test_a_callable_field_is_reserved():
    with pytest.raises(NotSupportedError):
        request().add_field("x", lambda: 1)


def test_a_label_is_taken_once():
    asked = request()
    asked.add_field("x", 1)
    with pytest.raises(InterfaceError, match="'x'"):
        asked.add_field("x", 2)


@pytest.mark.parametrize(
    "key",
    [
        Column(SAMPLE, "name"),
        (SAMPLE, "name"),
        (("lab", "sample"), "name"),
        ("lab", "sample", "name"),
        ("sample", "name"),
        "name",
    ],
)
def test_parameters_are_named_in_several_ways(cursor, key):
    asked = request()
    asked.add_field("id", Column(SAMPLE, "id"))
    asked.add_param(Column(SAMPLE, "name"))
    assert cursor.execute(asked, {key: "sand"}).fetchall() == [(2,)]
    assert cursor.execute(asked, {key: "salt"}).fetchall() == [(1,)]


def test_is_null_asks_for_missing_values(cursor):
    asked = request()
    asked.add_field("id", Column(SAMPLE, "id"))
    asked.add_param(Column(SAMPLE, "mass"), IS_NULL)
    assert cursor.execute(asked).fetchall() == [(2,)]
    asked.add_param(Column(SAMPLE, "owner"))
    assert cursor.execute(asked, {"owner": IS_NULL}).fetchall() == []
    assert cursor.execute(asked, {"owner": "ben"}).fetchall() == [(2,)]


def test_text_parameters_are_made_strings_when_they_are_sent(cursor):
    class Turning:
        names = iter(["salt", "sand", "soil"])

        def __str__(self):
            return next(self.names)

    asked = request()
    asked.add_field("id", Column(SAMPLE, "id"))
    asked.add_param(Column(SAMPLE, "name"), Turning())
    assert [cursor.execute(asked).fetchall() for _ in range(3)] == [[(1,)], [(2,)], [(3,)]]


@pytest.mark.parametrize(
    ("type_", "given", "held"),
    [
        ("integer", "7", 7),
        ("real", "2.5", 2.5),
        ("real", 2, 2.0),
        ("boolean", "true", True),
        ("boolean", False, False),
        ("text", 12, "12"),
        ("binary", bytearray(b"\x00"), b"\x00"),
        ("datetime", "2020-01-01T01:00:00+01:00", datetime(2020, 1, 1, tzinfo=UTC)),
        ("datetime", datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_parameters_become_the_columns_type(type_, given, held):
    module = MemoryModule("m")
    module.add_table("t", [ColumnInfo("x", type_)], [(held,), (None,)])
    asked = request()
    asked.add_field("x", Column("m", "t", "x"))
    asked.add_index(Column("m", "t", "x"))
    asked.add_param(Column("m", "t", "x"), given)
    assert ask([module], asked) == [(held,)]


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        ("integer", "secret7x"),
        ("integer", 2.5),
        ("integer", True),
        ("integer", 2**63),
        ("real", float("nan")),
        ("real", "secret"),
        ("boolean", 1),
        ("binary", "text"),
        ("datetime", datetime(2020, 1, 1)),  # noqa: DTZ001 - that is what is refused
        ("datetime", "2020-01-01"),
    ],
)
def test_parameters_of_another_type_are_refused_without_showing_them(type_, given):
    module = MemoryModule("m")
    module.add_table("t", [ColumnInfo("x", type_)])
    asked = request()
    asked.add_field("x", Column("m", "t", "x"))
    asked.add_index(Column("m", "t", "x"))
    asked.add_param(Column("m", "t", "x"), given)
    with pytest.raises(DataError, match=r"m\.t\.x") as caught:
        ask([module], asked)
    assert "secret" not in str(caught.value)


def incomplete():
    """Yield requests that are not complete, each with what the error must name."""
    yield "no fields", request(main_table=SAMPLE), "field"
    no_table = request()
    no_table.add_field("x", 1)
    yield "no table", no_table, "table"
    no_index = request()
    no_index.add_field("x", Column("lab", "person", "user"))
    yield "no index", no_index, "user, room"
    no_value = request()
    no_value.add_field("x", Column(SAMPLE, "id"))
    no_value.add_param(Column(SAMPLE, "name"))
    no_value.add_param(Column(SAMPLE, "mass"))
    yield "no value", no_value, r"lab\.sample\.name, lab\.sample\.mass"
    apart = request()
    apart.add_field("x", Column(SAMPLE, "id"))
    apart.add_field("y", Column(RUN, "number"))
    yield "apart", apart, r"lab\.run is not joined"
    backwards = request()
    backwards.add_field("x", Column(SAMPLE, "id"))
    backwards.add_param(Column(SAMPLE, "id"), Column(RUN, "sample"))
    yield "main table joined", backwards, "main_table"
    cycle = request(main_table=("lab", "person"))
    cycle.add_index(Column("lab", "person", "user"))
    cycle.add_field("x", Column(SAMPLE, "id"))
    cycle.add_param(Column(SAMPLE, "id"), Column(RUN, "sample"))
    cycle.add_param(Column(RUN, "number"), Column(SAMPLE, "id"))
    yield "cycle", cycle, "cycle"
    itself = runs_with_samples()
    itself.add_param(Column(SAMPLE, "name"), Column(SAMPLE, "owner"))
    yield "joined to itself", itself, "cycle"
    types = request()
    types.add_field("x", Column(SAMPLE, "id"))
    types.add_param(Column(RUN, "kind"), Column(SAMPLE, "id"))
    yield "other types", types, "cannot be joined"


@pytest.mark.parametrize(
    ("asked", "named"), [pytest.param(*rest, id=n) for n, *rest in incomplete()]
)
def test_an_incomplete_request_is_refused_by_name(cursor, asked, named):
    with pytest.raises(InterfaceError, match=named):
        cursor.execute(asked)


def test_what_does_not_exist_is_named(cursor):
    asked = request()
    asked.add_field("x", Column("lab", "nothing", "id"))
    with pytest.raises(ProgrammingError, match=r"no table lab\.nothing"):
        cursor.execute(asked)
    asked = request()
    asked.add_field("x", Column(SAMPLE, "colour"))
    asked.add_index(Column(SAMPLE, "size"))
    with pytest.raises(ProgrammingError, match=r"lab\.sample\.colour, lab\.sample\.size"):
        cursor.execute(asked)


def test_wrong_parameter_names_are_refused(cursor):
    asked = runs_with_samples()
    asked.add_param(Column(RUN, "kind"))
    with pytest.raises(ProgrammingError, match="no parameter colour"):
        cursor.execute(asked, {"kind": "heat", "colour": "red"})
    with pytest.raises(ProgrammingError, match="value already"):
        cursor.execute(asked, {"kind": "heat", "id": 1})
    with pytest.raises(ProgrammingError, match="no parameter 5"):
        cursor.execute(asked, {"kind": "heat", 5: 1})
    with pytest.raises(InterfaceError, match=r"lab\.run\.kind"):
        cursor.execute(asked, {"kind": None})
    with pytest.raises(ProgrammingError, match="add_param"):
        cursor.execute(asked, {"kind": Column(SAMPLE, "name")})


def test_an_ambiguous_parameter_name_is_refused():
    module = MemoryModule("m")
    for table in ("a", "b"):
        module.add_table(
            table, [ColumnInfo("k", "integer"), ColumnInfo("v")], [(1, table)], key=["k"]
        )
    asked = request()
    asked.add_field("x", Column("m", "a", "v"))
    asked.add_param(Column("m", "b", "k"), Column("m", "a", "k"))
    asked.add_param(Column("m", "a", "v"))
    asked.add_param(Column("m", "b", "v"))
    with pytest.raises(ProgrammingError, match=r"m\.a\.v, m\.b\.v"):
        ask([module], asked, {"v": "a"})
    assert ask([module], asked, {("a", "v"): "a", ("b", "v"): "b"}) == [("a",)]


def test_look_ups_are_batched_and_asked_once():
    module = MemoryModule("m")
    module.add_table(
        "many",
        [ColumnInfo("n", "integer"), ColumnInfo("k", "integer")],
        [(n, n % 10) for n in range(2_500)],
        key=["n"],
    )
    module.add_table(
        "few",
        [ColumnInfo("k", "integer"), ColumnInfo("v")],
        [(k, str(k)) for k in range(10)],
        key=["k"],
    )
    counting = Counting(module)
    asked = request(bulk=4)
    asked.add_field("n", Column("m", "many", "n"))
    asked.add_field("v", Column("m", "few", "v"))
    asked.add_param(Column("m", "few", "k"), Column("m", "many", "k"))
    assert ask([counting], asked) == [(n, str(n % 10)) for n in range(2_500)]
    look_ups = [scan.filters[0].values for scan in counting.scans if scan.table == "few"]
    assert look_ups == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert counting.open == 0


def test_a_module_without_look_ups_is_read_once():
    counting = Counting(laboratory(), look_ups=False)
    expected = [(10, "salt"), (11, "salt"), (12, "soil")]
    assert ask([counting], runs_with_samples(bulk=1)) == expected
    assert [scan.table for scan in counting.scans] == ["run", "sample"]
    assert all(scan.filters == () for scan in counting.scans)


def test_conditions_that_a_module_does_not_take_are_checked():
    counting = Counting(laboratory(), look_ups=False)
    asked = runs_with_samples()
    asked.add_param(Column(RUN, "kind"), "heat")
    asked.add_param(Column(SAMPLE, "name"), "soil")
    assert ask([counting], asked) == [(12, "soil")]


def test_only_needed_columns_are_asked():
    counting = Counting(laboratory())
    ask([counting], runs_with_samples())
    assert {scan.table: set(scan.columns) for scan in counting.scans} == {
        "run": {"number", "sample"},
        "sample": {"name", "id"},
    }


def test_conditions_that_a_module_takes_need_no_column():
    counting = Counting(laboratory())
    asked = request()
    asked.add_field("x", "found")
    asked.add_param(Column(SAMPLE, "name"), "soil")
    assert ask([counting], asked) == [("found",)]
    assert counting.scans[0].columns == ("id",)


def setting(**options):
    asked = request(CM_OP_SET, **options)
    asked.add_param(Column(SAMPLE, "id"))
    asked.add_param(Column(SAMPLE, "name"), "sugar")
    return asked


def test_a_set_changes_the_rows_of_a_key(cursor):
    cursor.execute(setting(), {"id": 2})
    assert (cursor.rowcount, cursor.description, cursor.rownumber) == (1, None, None)
    with pytest.raises(ProgrammingError, match="no rows"):
        cursor.fetchone()
    asked = request()
    asked.add_field("name", Column(SAMPLE, "name"))
    assert cursor.execute(asked).fetchall() == [("salt",), ("sugar",), ("soil",)]


def test_a_set_answers_with_the_changed_rows(cursor):
    asked = setting()
    asked.add_field("name", Column(SAMPLE, "name"))
    asked.add_field("owner", Column(SAMPLE, "owner"))
    asked.add_param(Column(SAMPLE, "owner"), IS_NULL)
    row = cursor.execute(asked, {"id": 1}).fetchrow()
    assert isinstance(row, Row)
    assert (row.op_status, row.field_values) == ("SUCCESS", {"name": "sugar", "owner": None})
    assert (cursor.rowcount, cursor.fetchrow()) == (1, None)
    assert cursor.execute(asked, {"id": 99}).fetchall() == []
    assert cursor.rowcount == 0


def test_an_index_of_ones_own_selects(cursor):
    asked = request(CM_OP_SET)
    asked.add_index(Column(SAMPLE, "owner"))
    asked.add_param(Column(SAMPLE, "owner"), "ben")
    asked.add_param(Column(SAMPLE, "mass"), 9)
    assert cursor.execute(asked).rowcount == 1


def test_a_set_without_a_key_needs_allow_all(cursor):
    asked = request(CM_OP_SET)
    asked.add_param(Column(SAMPLE, "name"), "sugar")
    with pytest.raises(InterfaceError, match="id"):
        cursor.execute(asked)
    asked.allow_all = True
    assert cursor.execute(asked).rowcount == 3


def test_a_set_that_cannot_be_is_refused(cursor):
    nothing = request(CM_OP_SET)
    nothing.add_param(Column(SAMPLE, "id"), 1)
    with pytest.raises(InterfaceError, match="assigns nothing"):
        cursor.execute(nothing)
    key = request(CM_OP_SET)
    key.add_index(Column(SAMPLE, "name"))
    key.add_param(Column(SAMPLE, "name"), "salt")
    key.add_param(Column(SAMPLE, "id"), 5)
    with pytest.raises(ProgrammingError, match=r"lab\.sample\.id cannot be assigned"):
        cursor.execute(key)
    joined = setting()
    joined.add_param(Column(RUN, "kind"), "x")
    with pytest.raises(NotSupportedError, match="one table"):
        cursor.execute(joined, {"id": 1})
    columns = setting()
    columns.add_param(Column(SAMPLE, "owner"), Column(SAMPLE, "name"))
    with pytest.raises(NotSupportedError):
        cursor.execute(columns, {"id": 1})
    selected = request(CM_OP_SET)
    selected.add_param(Column(SAMPLE, "id"), Column(SAMPLE, "mass"))
    selected.add_param(Column(SAMPLE, "name"), "x")
    with pytest.raises(NotSupportedError):
        cursor.execute(selected)


def test_a_read_only_module_is_not_written():
    with pytest.raises(NotSupportedError, match="read-only"):
        ask([Counting(laboratory())], setting(), {"id": 1})


def test_a_set_keeps_the_rules_of_the_table():
    module = MemoryModule("m")
    module.add_table(
        "t",
        [ColumnInfo("k", "integer"), ColumnInfo("v", nullable=False)],
        [(1, "a"), (2, "b")],
        key=["k"],
    )
    asked = request(CM_OP_SET)
    asked.add_param(Column("m", "t", "k"), 1)
    asked.add_param(Column("m", "t", "v"), IS_NULL)
    with pytest.raises(IntegrityError):
        ask([module], asked)
    asked = request()
    asked.add_field("v", Column("m", "t", "v"))
    assert ask([module], asked) == [("a",), ("b",)]


def test_a_set_is_never_tried_again():
    class Failing(MemoryModule):
        attempts = 0

        def update(self, change):
            self.attempts += 1
            raise ModuleUnavailable(self.name)

    module = Failing("lab")
    module.add_table(
        "sample", [ColumnInfo("id", "integer"), ColumnInfo("name")], [(1, "a")], key=["id"]
    )
    with connect("admin", instance=host(module)) as connection:
        cursor = connection.cursor()
        cursor.retries = 3
        with pytest.raises(ModuleUnavailable):
            cursor.execute(setting(), {"id": 1})
    assert module.attempts == 1


def test_memory_tables_refuse_what_they_cannot_hold():
    module = MemoryModule("m")
    columns = [ColumnInfo("k", "integer", nullable=False), ColumnInfo("at", "datetime")]
    module.add_table("t", columns, [(1, None)], key=["k"])
    for error, row in (
        (DataError, (2,)),
        (DataError, ("2", None)),
        (DataError, (True, None)),
        (DataError, (2, datetime(2020, 1, 1))),  # noqa: DTZ001 - that is what is refused
        (IntegrityError, (None, None)),
        (IntegrityError, (1, None)),
    ):
        with pytest.raises(error):
            module.add_rows("t", [row])
    with pytest.raises(ProgrammingError):
        module.add_rows("nothing", [])
    with pytest.raises(InterfaceError):
        module.add_table("u", [ColumnInfo("a"), ColumnInfo("A")])
    with pytest.raises(InterfaceError):
        module.add_table("u", [ColumnInfo("a")], key=["b"])
    module.add_rows("t", [(2, datetime(2020, 1, 1, tzinfo=UTC))])
    asked = request()
    asked.add_field("k", Column("m", "t", "k"))
    assert ask([module], asked) == [(1,), (2,)]
