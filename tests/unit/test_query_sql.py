"""SQL text: what it answers, what reaches the modules, and what is refused."""

import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest

import keepline.query as query
from keepline.query import (
    Column,
    DatabaseError,
    DataError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    connect,
    request,
    sql,
)
from keepline.query.module import ColumnInfo, Filter
from keepline.query.modules.memory import MemoryModule
from tests.query_host import Counting, host, laboratory

AT = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)


def kinds(name="kinds"):
    module = MemoryModule(name)
    module.add_table(
        "value",
        [
            ColumnInfo("k", "integer"),
            ColumnInfo("t"),
            ColumnInfo("x", "real"),
            ColumnInfo("b", "boolean"),
            ColumnInfo("seen", "datetime"),
            ColumnInfo("j", "json"),
            ColumnInfo("raw", "binary"),
        ],
        [
            (1, "a", 1.5, True, AT, '{"a":1}', b"\x00\xff"),
            (2, "b", float("inf"), False, AT + timedelta(microseconds=1), "[]", b""),
            (3, "é'\"?", float("nan"), None, AT - timedelta(days=20_000), None, None),
            (None, None, None, None, None, None, None),
        ],
        key=["k"],
    )
    return module


def ask(modules, text, values=(), user="admin", **groups):
    with connect(user, instance=host(*modules, **groups)) as connection:
        return connection.cursor().execute(text, values).fetchall()


def scans_of(text, values=(), module=None):
    counting = Counting(module or laboratory())
    ask([counting], text, values)
    assert counting.open == 0
    return {scan.table: scan for scan in counting.scans}


@pytest.fixture
def cursor():
    with connect("admin", instance=host(laboratory(), kinds())) as connection:
        yield connection.cursor()


def test_a_select_answers_rows(cursor):
    cursor.execute(
        "SELECT id, name FROM lab.sample WHERE mass > 3 OR mass IS NULL ORDER BY id DESC"
    )
    assert cursor.fetchall() == [(3, "soil"), (2, "sand")]
    assert cursor.description == (
        ("id", query.NUMBER, None, None, None, None, True),
        ("name", query.STRING, None, None, None, None, True),
    )


def test_joins_groups_windows_and_common_tables(cursor):
    cursor.execute("""
        WITH joined AS (
            SELECT s.name, r.kind, count(*) AS n FROM lab.sample s JOIN lab.run r ON r.sample = s.id
            GROUP BY ALL
        )
        SELECT name, kind, n, sum(n) OVER () FROM joined
        UNION ALL SELECT 'all', NULL, count(*), 0 FROM lab.run ORDER BY 1, 2
    """)
    assert cursor.fetchall() == [
        ("all", None, 5, 0),
        ("salt", "cool", 1, 3),
        ("salt", "heat", 1, 3),
        ("soil", "heat", 1, 3),
    ]


def test_sql_and_a_request_give_the_same_rows(cursor):
    asked = request(outer_join=True)
    asked.add_field("number", Column("lab", "run", "number"))
    asked.add_field("name", Column("lab", "sample", "name"))
    asked.add_param(Column("lab", "sample", "id"), Column("lab", "run", "sample"))
    asked.add_param(Column("lab", "run", "kind"), "heat")
    by_request = cursor.execute(asked).fetchall()
    text = """
        SELECT r.number, s.name FROM lab.run AS r LEFT JOIN lab.sample AS s ON s.id = r.sample
        WHERE r.kind = ? ORDER BY r.number
    """
    assert cursor.execute(text, ["heat"]).fetchall() == by_request


def test_every_type_comes_back_as_it_was(cursor):
    rows = cursor.execute("SELECT * FROM kinds.value WHERE k <= 2 ORDER BY k").fetchall()
    assert rows == [
        (1, "a", 1.5, True, AT, '{"a":1}', b"\x00\xff"),
        (2, "b", float("inf"), False, AT + timedelta(microseconds=1), "[]", b""),
    ]
    assert [column[1] for column in cursor.description] == [
        query.NUMBER,
        query.STRING,
        query.NUMBER,
        query.NUMBER,
        query.DATETIME,
        query.STRING,
        query.BINARY,
    ]
    assert rows[0][4].tzinfo is UTC
    (row,) = cursor.execute("SELECT * FROM kinds.value WHERE k = 3").fetchall()
    assert row[1] == "é'\"?"
    assert row[2] != row[2]
    assert cursor.execute("SELECT * FROM kinds.value WHERE k IS NULL").fetchall() == [(None,) * 7]


def test_computed_types_are_plain_python(cursor):
    cursor.execute("""
        SELECT sum(k), avg(k), max(seen), min(seen)::DATE, 1.25::DECIMAL(5, 2), list(k ORDER BY k),
               TIMESTAMP '2020-01-01 10:00:00', date_trunc('day', max(seen))
        FROM kinds.value
    """)
    assert cursor.fetchall() == [
        (
            6, 2.0, AT + timedelta(microseconds=1), date(1969, 5, 28), Decimal("1.25"),
            [1, 2, 3, None], datetime(2020, 1, 1, 10, tzinfo=UTC),
            datetime(2024, 2, 29, tzinfo=UTC),
        )
    ]  # fmt: skip
    assert cursor.description[4][4:6] == (5, 2)


def test_parameters_are_bound_in_order(cursor):
    text = (
        "SELECT ?, number, '?' FROM lab.run WHERE kind = ? AND number > ? ORDER BY 2 LIMIT ? -- ?"
    )
    assert cursor.execute(text, ("x' OR 1=1", "heat", 10, 1)).fetchall() == [("x' OR 1=1", 12, "?")]


@pytest.mark.parametrize(
    "value", [7, -1.5, "text", "", True, None, b"\x00", AT, date(2020, 1, 1), Decimal("1.5")]
)
def test_parameters_keep_their_value(cursor, value):
    assert cursor.execute("SELECT ?", [value]).fetchone() == (value,)


def test_a_parameters_zone_is_respected(cursor):
    there = AT.astimezone(timezone(timedelta(hours=-5)))
    assert cursor.execute("SELECT k FROM kinds.value WHERE seen = ?", [there]).fetchall() == [(1,)]
    with pytest.raises(DataError, match="zone"):
        cursor.execute("SELECT ?", [datetime(2020, 1, 1)])  # noqa: DTZ001 - refused


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("SELECT ?", []),
        ("SELECT 1", [1]),
        ("SELECT ?", "x"),
        ("SELECT ?", {"a": 1}),
        ("SELECT $1", [1]),
        ("SELECT :a", []),
        ("SELECT $a", []),
    ],
)
def test_wrong_parameters_are_refused(cursor, text, values):
    with pytest.raises(ProgrammingError):
        cursor.execute(text, values)


@pytest.mark.parametrize(
    "text",
    [
        "", "-- nothing", "SELEC 1", "SELECT FROM WHERE", "SELECT 1; SELECT 2", "SELECT 'open",
        "SELECT * FROM nowhere.run", "SELECT * FROM lab.nothing", "SELECT * FROM run",
        "SELECT * FROM x.lab.run", "SELECT nothing FROM lab.run",
        "SELECT number FROM lab.run GROUP BY kind",
        "SELECT id FROM lab.sample a JOIN lab.sample b ON true", "SELECT nofunction(1)",
        "SELECT number + 'x' || [1] FROM lab.run, lab.sample WHERE",
    ],
)  # fmt: skip
def test_wrong_text_is_refused(cursor, text):
    with pytest.raises(ProgrammingError) as caught:
        cursor.execute(text)
    assert "\n" not in str(caught.value)
    assert cursor.description is None


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO lab.run VALUES (1, 2, 'x')", "UPDATE lab.run SET kind = 'x'",
        "DELETE FROM lab.run", "DROP TABLE lab.run", "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW lab.v AS SELECT 1", "PRAGMA database_list", "SET threads = 1", "RESET threads",
        "COPY (SELECT 1) TO '{path}'", "COPY lab.run FROM '{path}'", "ATTACH '{path}' AS x",
        "DETACH lab", "USE memory", "INSTALL httpfs", "LOAD httpfs", "EXPLAIN SELECT 1", "CALL x()",
        "EXPORT DATABASE '{path}'", "VACUUM", "BEGIN", "SUMMARIZE lab.run", "DESCRIBE lab.run",
        "WITH x AS (INSERT INTO lab.run VALUES (1, 2, 'x')) SELECT 1", "SELECT 1 INTO lab.run",
        "SELECT * FROM '{path}'", "FROM '{path}'", 'SELECT * FROM "{path}"',
        "SELECT * FROM read_csv('{path}')", "SELECT * FROM read_text('{path}')",
        "SELECT * FROM read_parquet('{path}')", "SELECT * FROM read_json_auto('{path}')",
        "SELECT * FROM glob('/*')", "SELECT * FROM sniff_csv('{path}')",
        "SELECT (SELECT content FROM read_text('{path}'))",
        "WITH t AS (FROM read_blob('{path}')) SELECT * FROM t",
        "SELECT * FROM query('SELECT 1')", "SELECT * FROM query_table('run')",
        "SELECT * FROM duckdb_settings()", "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM pragma_database_list()", "SELECT * FROM information_schema.tables",
        "SELECT * FROM pg_catalog.pg_tables", "SELECT * FROM sqlite_master",
        "SELECT * FROM __scan0", "SELECT * FROM main.__scan0", "SELECT * FROM temp.main.__scan0",
        "SELECT getenv('HOME')", "SELECT * FROM rows", "SELECT * FROM cursor",
    ],
)  # fmt: skip
def test_only_tables_can_be_read(cursor, tmp_path, text):
    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises((ProgrammingError, NotSupportedError)):
        cursor.execute(text.replace("{path}", str(path)))
    assert [each.name for each in tmp_path.iterdir()] == ["secret.csv"]
    assert len(cursor.execute("SELECT * FROM lab.run").fetchall()) == 5


def test_files_stay_closed_where_sqlglot_would_not_see_them(tmp_path):
    """The database itself is closed too, whatever the text that reaches it."""
    from keepline.query import duck

    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")
    for text in (
        f"SELECT * FROM '{path}'",
        f"SELECT * FROM read_text('{path}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'new'}'",
        f"ATTACH '{tmp_path / 'new'}' AS x",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "LOAD httpfs",
        "SELECT getenv('HOME')",
        "SELECT * FROM path",
    ):
        with pytest.raises(query.Error):
            duck.run(text, [], {}).take()
    assert [each.name for each in tmp_path.iterdir()] == ["secret.csv"]


def test_the_engine_tells_nothing_of_the_servers_folders(cursor):
    names = ["allowed_directories", "allowed_paths", "extension_directory", "file_search_path"]
    names += ["home_directory", "secret_directory", "temp_directory"]
    row = cursor.execute(f"SELECT {', '.join(f'current_setting({n!r})' for n in names)}").fetchone()
    assert not any(row)


def test_a_module_may_be_called_memory():
    module = MemoryModule("memory")
    module.add_table("t", [ColumnInfo("x", "integer")], [(1,), (2,)])
    assert ask([module], "SELECT memory.t.x FROM memory.t WHERE memory.t.x > 1") == [(2,)]


def test_a_reserved_module_name_is_said():
    module = MemoryModule("temp")
    module.add_table("t", [ColumnInfo("x", "integer")], [(1,)])
    with pytest.raises(NotSupportedError, match="temp"):
        ask([module], "SELECT * FROM temp.t")


def test_names_need_quotes_only_when_they_are_odd():
    module = MemoryModule("Odd One")
    module.add_table('the "t"', [ColumnInfo("Select", "integer"), ColumnInfo("b c")], [(1, "x")])
    text = 'SELECT "select", t."B C" FROM "odd one"."the ""t""" AS t WHERE "SELECT" = 1'
    assert ask([module], text) == [(1, "x")]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("SELECT name FROM lab.sample", {"name"}),
        ("SELECT count(*) FROM lab.sample", {"id"}),
        ("SELECT * FROM lab.sample", {"id", "name", "mass", "owner"}),
        ("SELECT s.* FROM lab.sample s", {"id", "name", "mass", "owner"}),
        ("SELECT * EXCLUDE (name) FROM lab.sample", {"id", "name", "mass", "owner"}),
        ("SELECT id FROM lab.sample ORDER BY mass", {"id", "mass"}),
        ("SELECT s.id FROM lab.sample s JOIN lab.person p ON p.user = s.owner", {"id", "owner"}),
        ("SELECT s FROM lab.sample s", {"id", "name", "mass", "owner"}),
        ("SELECT c FROM lab.sample AS s(a, b, c, d)", {"id", "name", "mass", "owner"}),
        ("SELECT COLUMNS('na.*') FROM lab.sample", {"id", "name", "mass", "owner"}),
        ("SELECT 1 FROM lab.run r WHERE EXISTS (SELECT 1 FROM lab.sample WHERE mass > r.number)",
         {"mass"}),
    ],
)  # fmt: skip
def test_only_columns_that_the_text_uses_are_scanned(text, columns):
    assert set(scans_of(text)["sample"].columns) == columns


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("SELECT * FROM lab.run WHERE number = 11", [("number", "in", (11,))]),
        ("SELECT * FROM lab.run WHERE 11 <= number", [("number", ">=", (11,))]),
        ("SELECT * FROM lab.run WHERE number IN (11, 12, -1)", [("number", "in", (11, 12, -1))]),
        ("SELECT * FROM lab.run WHERE number BETWEEN 11 AND ?",
         [("number", ">=", (11,)), ("number", "<=", (12,))]),
        ("SELECT * FROM lab.run r WHERE (kind = 'heat' AND r.number < ?) AND sample > number",
         [("kind", "in", ("heat",)), ("number", "<", (12,))]),
        ("SELECT kind FROM lab.sample s LEFT JOIN lab.run r ON r.sample = s.id AND r.number > 11",
         [("number", ">", (11,))]),
        ("SELECT kind FROM lab.sample s LEFT JOIN lab.run r ON r.sample = s.id WHERE number = 11",
         [("number", "in", (11,))]),
        ("WITH w AS (SELECT * FROM lab.run WHERE number = 11) SELECT * FROM w, w AS v",
         [("number", "in", (11,))]),
        ("SELECT * FROM lab.sample WHERE id IN (SELECT sample FROM lab.run WHERE number = 11)",
         [("number", "in", (11,))]),
        # What must stay:
        ("SELECT * FROM lab.run WHERE number = 11 OR kind = 'heat'", []),
        ("SELECT * FROM lab.run WHERE NOT (number = 11)", []),
        ("SELECT * FROM lab.run WHERE number NOT IN (11)", []),
        ("SELECT * FROM lab.run WHERE number + 0 = 11", []),
        ("SELECT * FROM lab.run WHERE number = '11'", []),
        ("SELECT * FROM lab.run WHERE number = 11.0", []),
        ("SELECT * FROM lab.run WHERE number = NULL", []),
        ("SELECT * FROM lab.run WHERE number IN (11, NULL)", []),
        ("SELECT * FROM lab.run WHERE sample IS NULL", []),
        ("SELECT * FROM lab.run a, lab.run b WHERE a.number = 11", []),
        ("SELECT * FROM lab.run UNION SELECT * FROM lab.run WHERE number = 11", []),
        ("SELECT id FROM lab.run LEFT JOIN lab.sample ON id = sample AND number = 11", []),
        ("SELECT 1 FROM lab.sample RIGHT JOIN lab.run ON id = sample AND number = 11", []),
        ("SELECT 1 FROM lab.sample FULL JOIN lab.run ON id = sample AND number = 11", []),
        ("SELECT 1 FROM lab.sample ASOF JOIN lab.run ON id >= sample WHERE number < 12", []),
        ("SELECT * FROM lab.run AS r(number, sample, kind) WHERE sample = 11", []),
        ("SELECT count(*) FROM lab.run HAVING count(*) = 11", []),
        ("SELECT kind AS number FROM (SELECT kind FROM lab.run) WHERE kind = 'heat'", []),
        ("SELECT * FROM (SELECT *, row_number() OVER () n FROM lab.run) WHERE number = 11", []),
        ("SELECT * FROM (SELECT * FROM lab.run LIMIT 1) AS l WHERE number = 11", []),
    ],
)  # fmt: skip
def test_conditions_reach_a_module_only_where_that_is_safe(text, filters):
    values = (12,) * text.count("?")
    scan = scans_of(text, values)["run"]
    assert list(scan.filters) == [Filter(*each) for each in filters]
    with_look_ups = ask([laboratory()], text, values)
    without = ask([Counting(laboratory(), look_ups=False)], text, values)
    assert sorted(with_look_ups, key=repr) == sorted(without, key=repr)


@pytest.mark.parametrize(
    ("condition", "values", "count"),
    [
        ("seen > '2024-02-29'", (), 1),
        ("seen = '2024-02-29 12:00:00.123456'", (), 1),
        ("seen = '2024-02-29T13:00:00.123456+01:00'", (), 1),
        ("seen >= TIMESTAMPTZ '2024-02-29 12:00:00.123457+00'", (), 1),
        ("seen < TIMESTAMP '2000-01-01 00:00:00'", (), 1),
        ("seen = TIMESTAMP '2024-02-29 12:00:00.123456+02:00'", (), 0),
        ("seen > TIMESTAMP '2024-02-29 12:00:00-05'", (), 0),
        ("seen = TIMESTAMP '2024-02-29 12:00:00.123456Z'", (), 0),
        ("seen = CAST('2024-02-29 12:00:00.123456+02' AS TIMESTAMP)", (), 0),
        ("seen = TIMESTAMPTZ '2024-02-29 14:00:00.123456+02:00'", (), 1),
        ("seen = ?", (AT,), 1),
        ("seen >= '2024-02-29 12:00:00.1234567'", (), 0),
        ("x = 1.5", (), 0),
        ("x = ?", (1.5,), 1),
        ("x > 1", (), 1),
        ("x >= ?", (float("nan"),), 0),
        ("b = true", (), 1),
        ("b", (), 0),
        ("t = 'a'", (), 1),
        ("t = 'a' COLLATE NOCASE", (), 0),
        ("raw = ?", (b"",), 1),
        ("k = 99999999999999999999999", (), 0),
        ("k = ?", (True,), 0),
        ("k > -2", (), 1),
    ],
)
def test_constants_are_pushed_only_when_both_read_them_alike(condition, values, count):
    text = f"SELECT k FROM kinds.value WHERE {condition}"
    scan = scans_of(text, values, kinds())["value"]
    assert len(scan.filters) == count
    assert ask([kinds()], text, values) == ask([Counting(kinds(), look_ups=False)], text, values)


def test_text_that_is_compared_with_a_time_is_compared_as_a_time():
    module = MemoryModule("m")
    module.add_table("z", [ColumnInfo("t")], [("2024-01-01",), ("2024-01-01 00:00:00",)])
    text = "SELECT count(*) FROM m.z WHERE t = TIMESTAMP '2024-01-01 00:00:00'"
    assert ask([module], text) == [(2,)]


def test_a_wide_scan_stops_at_the_budget(monkeypatch):
    monkeypatch.setattr(sql, "INPUT_BYTES", 20_000)
    module = MemoryModule("m")
    module.add_table("t", [ColumnInfo("x")], [("x" * 100,)] * 5_000)
    counting = Counting(module)
    with pytest.raises(OperationalError, match="WHERE"):
        ask([counting], "SELECT * FROM m.t")
    assert counting.open == 0


def test_a_failing_row_is_an_error_and_not_the_end():
    module = MemoryModule("m")
    rows = [(str(n),) for n in range(50_000)]
    rows[-1] = ("not a number",)
    module.add_table("t", [ColumnInfo("x")], rows)
    with connect("admin", instance=host(module)) as connection:
        cursor = connection.cursor()
        with pytest.raises(DatabaseError):
            cursor.execute("SELECT x::INTEGER FROM m.t").fetchall()
        with pytest.raises(query.Error):
            cursor.fetchone()


def test_a_module_that_breaks_its_word_is_named():
    class Lying(Counting):
        def scan(self, scan):
            yield [("text",) * len(scan.columns)]

    with pytest.raises(DataError, match=r"lab\.sample"):
        ask([Lying(laboratory())], "SELECT id FROM lab.sample")


def test_errors_of_a_module_come_as_they_are():
    class Broken(Counting):
        def scan(self, scan):
            raise ZeroDivisionError("the module's own")

    with pytest.raises(ZeroDivisionError, match="own"):
        ask([Broken(laboratory())], "SELECT id FROM lab.sample")


def test_an_answer_can_be_had_as_arrow(cursor):
    table = cursor.execute("SELECT k, seen FROM kinds.value ORDER BY k").fetch_arrow_table()
    assert table.column("k").to_pylist() == [1, 2, 3, None]
    assert str(table.schema.field("seen").type) == "timestamp[us, tz=UTC]"
    assert cursor.fetchall() == []
    cursor.execute("SELECT k FROM kinds.value")
    cursor.fetchone()
    with pytest.raises(InterfaceError):
        cursor.fetch_arrow_table()
    asked = request()
    asked.add_field("k", Column("kinds", "value", "k"))
    with pytest.raises(NotSupportedError):
        cursor.execute(asked).fetch_arrow_table()


def test_rows_stream_and_a_cursor_can_be_left(cursor):
    cursor.execute("SELECT * FROM range(10000000)")
    assert cursor.fetchmany(3) == [(0,), (1,), (2,)]
    assert cursor.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize("package", ["duckdb", "pyarrow", "sqlglot"])
def test_without_the_extra_the_error_names_it(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotSupportedError, match=rf"{package}.*keepline\[sql\]"):
        ask([laboratory()], "SELECT 1")


def grouped():
    module = MemoryModule("m")
    module.add_table(
        "t",
        [ColumnInfo("x", "integer"), ColumnInfo("group_name")],
        [(1, None), (2, "red"), (3, "blue"), (4, "red")],
        key=["x"],
    )
    return module


class Private(MemoryModule):
    """Tables that exist for admin alone, and a column that does."""

    def tables(self, principal):
        return super().tables(principal) if principal.sees_all else []


def test_rows_that_may_not_be_seen_do_not_exist():
    users = {"ann": {"red"}, "ben": set()}
    asked = request()
    asked.add_field("x", Column("m", "t", "x"))
    expected = {"ann": [(1,), (2,), (4,)], "ben": [(1,)], "admin": [(1,), (2,), (3,), (4,)]}
    for user, rows in expected.items():
        assert ask([grouped()], "SELECT x FROM m.t", user=user, **users) == rows
        assert ask([grouped()], "SELECT count(*) FROM m.t", user=user, **users) == [(len(rows),)]
        assert ask([grouped()], "SELECT max(x) FROM m.t", user=user, **users) == [rows[-1]]
        assert ask([grouped()], asked, {}, user=user, **users) == rows
    assert (
        ask([grouped()], "SELECT x FROM m.t WHERE group_name = 'blue'", user="ann", **users) == []
    )


def test_rows_that_may_not_be_seen_cannot_be_set():
    asked = request(query.CM_OP_SET)
    asked.add_index(Column("m", "t", "group_name"))
    asked.add_param(Column("m", "t", "group_name"), "blue")
    asked.add_param(Column("m", "t", "x"), 9)
    module = grouped()
    module.add_table("t", [ColumnInfo("x", "integer"), ColumnInfo("group_name")], [(3, "blue")])
    with connect("ann", instance=host(module, ann={"red"})) as connection:
        assert connection.cursor().execute(asked).rowcount == 0
    assert ask([module], "SELECT x FROM m.t") == [(3,)]


def test_modules_that_may_not_be_seen_do_not_exist():
    secret = Private("secret")
    secret.add_table("t", [ColumnInfo("x", "integer")], [(1,)], key=["x"])
    asked = request()
    asked.add_field("x", Column("secret", "t", "x"))
    nowhere = request()
    nowhere.add_field("x", Column("nowhere", "t", "x"))
    assert ask([secret], "SELECT * FROM secret.t") == [(1,)]
    for text in ("SELECT * FROM {}.t", "SELECT count(*) FROM {}.t"):
        errors = []
        for name in ("secret", "nowhere"):
            with pytest.raises(ProgrammingError) as caught:
                ask([secret], text.format(name), user="ann")
            errors.append(str(caught.value).replace(name, "_"))
        assert errors[0] == errors[1]
    for one, name in ((asked, "secret"), (nowhere, "nowhere")):
        with pytest.raises(ProgrammingError, match=rf"there is no table {name}\.t"):
            ask([secret], one, {}, user="ann")


def test_nesting_without_end_is_refused(cursor):
    with pytest.raises(ProgrammingError, match="too deeply"):
        cursor.execute("SELECT " + "(" * 20_000 + "1" + ")" * 20_000)
