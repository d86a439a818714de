"""Random tables and requests, against a plain loop over the rows and against DuckDB."""

from collections import Counter

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from keepline.query import IS_NULL, Column, connect, request
from keepline.query.module import ColumnInfo
from keepline.query.modules.memory import MemoryModule
from tests.query_host import Counting, host

# Few values, so that keys meet, are missing and come twice.
VALUES = {
    "integer": st.none() | st.integers(-2, 3),
    "real": st.none() | st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
    "text": st.none() | st.sampled_from(["", "a", "A", "é"]),
}
TYPES = list(VALUES)
COLUMNS = ("a", "b", "c")


@st.composite
def tables(draw):
    """Draw one to four tables, as (types, rows)."""
    drawn = []
    for _ in range(draw(st.integers(1, 4))):
        types = tuple(draw(st.sampled_from(TYPES)) for _ in COLUMNS)
        row = st.tuples(*(VALUES[each] for each in types))
        drawn.append((types, draw(st.lists(row, max_size=8))))
    return drawn


@st.composite
def cases(draw):
    """Draw tables with joins, conditions and fields over them, by (table, column) numbers."""
    drawn = draw(tables())
    joins, constants = {}, {}
    for number in range(1, len(drawn)):
        own = draw(st.permutations(range(len(COLUMNS))))
        wanted = draw(st.integers(1, 2))
        for column in own[:wanted]:
            theirs = [
                (table, place)
                for table in range(number)
                for place in range(len(COLUMNS))
                if comparable(drawn[table][0][place], drawn[number][0][column])
            ]
            if theirs:
                joins[number, column] = draw(st.sampled_from(theirs))
        if not any(table == number for table, _ in joins):
            drawn = drawn[:number]
            break
    places = st.tuples(st.integers(0, len(drawn) - 1), st.integers(0, len(COLUMNS) - 1))
    for place in draw(st.lists(places, max_size=2)):
        if place not in joins:
            constants[place] = draw(VALUES[drawn[place[0]][0][place[1]]])
    literal = st.sampled_from([7, "it's"])
    fields = draw(st.lists(places | literal, min_size=1, max_size=5))
    return drawn, joins, constants, fields, draw(st.booleans())


def comparable(one, other):
    return one == other or "text" not in (one, other)


def expected(drawn, joins, constants, fields, outer):
    """Return the answer by a loop over every combination of rows."""
    answer = [(row,) for row in drawn[0][1] if fits(0, row, (), joins, constants)]
    for number in range(1, len(drawn)):
        joined = []
        for before in answer:
            found = [row for row in drawn[number][1] if fits(number, row, before, joins, constants)]
            if not found and outer:
                found = [(None,) * len(COLUMNS)]
            joined += [(*before, row) for row in found]
        answer = joined
    return [
        tuple(rows[each[0]][each[1]] if isinstance(each, tuple) else str(each) for each in fields)
        for rows in answer
    ]


def fits(number, row, before, joins, constants):
    for (table, place), (other, its) in joins.items():
        if table == number and (row[place] is None or row[place] != before[other][its]):
            return False
    return all(
        row[place] == value for (table, place), value in constants.items() if table == number
    )


def as_request(drawn, joins, constants, fields, outer, bulk):
    asked = request(outer_join=outer, bulk=bulk, main_table=("m", "t0"))
    for number in range(len(drawn)):
        asked.add_index(Column("m", f"t{number}", "a"))
    for own, theirs in joins.items():
        asked.add_param(column(own), column(theirs))
    for place, value in constants.items():
        asked.add_param(column(place), IS_NULL if value is None else value)
    for position, each in enumerate(fields):
        asked.add_field(f"f{position}", column(each) if isinstance(each, tuple) else each)
    return asked


def column(place):
    return Column("m", f"t{place[0]}", COLUMNS[place[1]])


def as_sql(drawn, joins, constants, fields, outer):
    def name(place):
        return f"t{place[0]}.{COLUMNS[place[1]]}"

    def conditions(number):
        found = [f"{name(own)} = {name(its)}" for own, its in joins.items() if own[0] == number]
        for place, value in constants.items():
            if place[0] == number:
                found.append(f"{name(place)} IS NULL" if value is None else f"{name(place)} = ?")
                if value is not None:
                    values.append(value)
        return " AND ".join(found) or "true"

    values = []
    shown = ", ".join(
        f"{name(each) if isinstance(each, tuple) else quoted(each)} AS f{position}"
        for position, each in enumerate(fields)
    )
    text = f"SELECT {shown} FROM m.t0"
    for number in range(1, len(drawn)):
        side = "LEFT" if outer else "INNER"
        text += f" {side} JOIN m.t{number} ON {conditions(number)}"
    return f"{text} WHERE {conditions(0)}", values


def quoted(value):
    return "'" + str(value).replace("'", "''") + "'"


def module_of(drawn):
    module = MemoryModule("m")
    for number, (types, rows) in enumerate(drawn):
        columns = [ColumnInfo(n, t) for n, t in zip(COLUMNS, types, strict=True)]
        module.add_table(f"t{number}", columns, rows)
    return module


def by_duckdb(drawn, text, values):
    sql_types = {"integer": "BIGINT", "real": "DOUBLE", "text": "VARCHAR"}
    with duckdb.connect(":memory:") as database:
        database.execute("CREATE SCHEMA m")
        for number, (types, rows) in enumerate(drawn):
            columns = ", ".join(f"{n} {sql_types[t]}" for n, t in zip(COLUMNS, types, strict=True))
            database.execute(f"CREATE TABLE m.t{number} ({columns})")
            for row in rows:
                database.execute(f"INSERT INTO m.t{number} VALUES (?, ?, ?)", row)
        return database.execute(text, values).fetchall()


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([1, 2, 256]))
def test_a_request_answers_what_a_plain_loop_does(case, bulk):
    """With look-ups and without: the same rows, in the order of the main table's."""
    drawn = case[0]
    want = expected(*case)
    module = module_of(drawn)
    for asked in (module, Counting(module, look_ups=False)):
        with connect("admin", instance=host(asked)) as connection:
            cursor = connection.cursor().execute(as_request(*case, bulk))
            assert cursor.fetchall() == want
            assert cursor.rownumber == len(want)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_sql_answers_what_duckdb_alone_does(case):
    """The same text over our modules and over DuckDB's own tables, and the same Request."""
    drawn = case[0]
    text, values = as_sql(*case)
    want = Counter(by_duckdb(drawn, text, values))
    with connect("admin", instance=host(module_of(drawn))) as connection:
        cursor = connection.cursor()
        assert Counter(cursor.execute(text, values).fetchall()) == want
        assert Counter(cursor.execute(as_request(*case, 256)).fetchall()) == want
