"""What the history holds after writes by the library and around it."""

import json
import math
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa

from keepline.store import Store
from tests.stores import ANN, BEN, around
from tests.visits import (
    DOSE,
    INSERT,
    TABLE,
    VISIT,
    feed_of,
    history_of,
    index_of,
    ops_of,
    run,
)


def test_an_image_holds_every_field_as_the_database_has_it(visits: Store) -> None:
    with visits.write(ANN) as connection:
        connection.execute(
            sa.insert(TABLE).values(
                record_key="a",
                note='ü "\n',
                order=2**53 + 1,
                weight=0.1,
                fasting=True,
                day=date(2024, 2, 29),
                at=datetime(2024, 1, 1, 12, 0, 0, 5, tzinfo=UTC),
                extra={"a": [1, 1.5, None, "x"]},
                scan=b"\x00\xff",
            )
        )
    ((_, _, _, op, image),) = history_of(visits)
    assert op == "insert"
    assert set(image) == {field.name for field in VISIT.fields} | {"group_name", "finalised"}
    assert image["note"] == 'ü "\n'
    assert image["order"] == 2**53 + 1
    assert image["weight"] == 0.1
    assert image["fasting"] == True  # noqa: E712 - 1 on SQLite
    assert image["day"] == "2024-02-29"
    assert image["at"].replace("T", " ").startswith("2024-01-01 12:00:00.000005")
    assert image["extra"] == {"a": [1, 1.5, None, "x"]}
    assert image["scan"] == "00ff"
    assert image["group_name"] is None
    assert image["finalised"] == False  # noqa: E712 - 0 on SQLite


@pytest.mark.parametrize(
    "value",
    [0.1, 1 / 3, 1e300, 5e-324, 1.1779824494448059e241, 2.0**70, -1e-7, 123456789.123456789],
)
def test_reals_in_images_are_exact(visits: Store, value: float) -> None:
    with visits.write(ANN) as connection:
        connection.execute(sa.insert(TABLE).values(record_key="a", weight=value))
    assert float(history_of(visits)[0][4]["weight"]) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities_are_texts(visits: Store, value: float) -> None:
    with visits.write(ANN) as connection:
        connection.execute(sa.insert(TABLE).values(record_key="a", weight=value))
    assert history_of(visits)[0][4]["weight"] == ("Infinity" if value > 0 else "-Infinity")


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_what_a_session_set_does_not_reach_images(visits: Store) -> None:
    run(
        visits,
        "SET extra_float_digits = 0",
        "SET bytea_output = 'escape'",
        "SET TimeZone = 'Asia/Tokyo'",
        "INSERT INTO rec_visit (record_key, weight, scan, at) VALUES "
        "('a', 0.30000000000000004, '\\x00ff', '2024-01-01 00:00:00+00')",
        "INSERT INTO rec_visit__dose VALUES ('a', 'd', 0.30000000000000004, '\\x5c41')",
    )
    own, dose = history_of(visits)
    assert own[4]["weight"] == 0.30000000000000004
    assert own[4]["scan"] == "00ff"
    assert own[4]["at"] == "2024-01-01T00:00:00+00:00"
    assert dose[4] == {"amount": 0.30000000000000004, "photo": "5c41"}


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("weight", "'heavy'", "heavy"),
        ("weight", "x'00ff'", "00ff"),
        ('"order"', "1.5", 1.5),
        ("note", "x'6162'", "6162"),
        ("extra", "'{not json'", "{not json"),
        ("extra", "'[1, 2]'", [1, 2]),
        ("scan", "'text'", "text"),
        ("scan", "5", 5),
        ("day", "7", 7),
    ],
)
def test_values_of_a_wrong_type_are_kept_as_they_are(
    visits: Store, column: str, value: str, kept: object
) -> None:
    run(visits, f"INSERT INTO rec_visit (record_key, {column}) VALUES ('a', {value})")
    assert history_of(visits)[0][4][column.strip('"')] == kept


def test_a_record_of_hundreds_of_fields_has_an_image(visits: Store) -> None:
    run(visits, "INSERT INTO rec_wide (record_key, f0, f299) VALUES ('a', 1.5, 2.5)")
    image = history_of(visits, name="wide")[0][4]
    assert len(image) == 301
    assert (image["f0"], image["f1"], image["f299"]) == (1.5, None, 2.5)


def test_each_operation_leaves_its_image(raw: Store) -> None:
    first = index_of(raw).revision  # a transaction around the library is one on PostgreSQL only
    assert [row[3] for row in history_of(raw) if row[1]] == ["insert"]
    run(raw, "UPDATE rec_visit SET note = 'y'")
    run(raw, "UPDATE rec_visit__dose SET amount = 2")
    run(raw, "DELETE FROM rec_visit__dose")
    run(raw, "DELETE FROM rec_visit")
    rows = [row for row in history_of(raw) if row[0] > first]
    assert [row[:4] for row in rows] == [
        (first + 1, "", "", "update"),
        (first + 2, "", "", "update"),
        (first + 2, "dose", "d", "update"),
        (first + 3, "", "", "update"),
        (first + 3, "dose", "d", "delete"),
        (first + 4, "", "", "delete"),
    ]
    assert rows[0][4]["note"] == "y"
    assert rows[2][4] == {"amount": 2.0, "photo": None}
    assert rows[4][4] is None
    assert rows[5][4] is None


def test_one_transaction_of_the_library_is_one_row_of_history(visits: Store) -> None:
    with visits.write(BEN, "because") as connection:
        connection.exec_driver_sql(INSERT)
        connection.exec_driver_sql(DOSE)
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'z'")
        connection.exec_driver_sql("UPDATE rec_visit__dose SET amount = 7")
    assert ops_of(visits) == [(1, "", "", "insert"), (1, "dose", "d", "insert")]
    assert history_of(visits)[0][4]["note"] == "z"
    assert history_of(visits)[1][4]["amount"] == 7.0
    with visits.write(BEN) as connection:
        connection.exec_driver_sql("DELETE FROM rec_visit__dose")
        connection.exec_driver_sql(DOSE)
    assert ops_of(visits)[2:] == [(2, "", "", "update"), (2, "dose", "d", "update")]
    assert feed_of(visits) == [(1, "insert"), (2, "update")]


def test_what_is_rolled_back_leaves_nothing(raw: Store) -> None:
    before = history_of(raw), feed_of(raw), index_of(raw)
    with around(raw) as connection:
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'lost'")
        connection.exec_driver_sql("DELETE FROM rec_visit__dose")
        connection.rollback()
    assert (history_of(raw), feed_of(raw), index_of(raw)) == before
    with raw.write(ANN) as connection:
        with connection.begin_nested() as savepoint:
            connection.exec_driver_sql("UPDATE rec_visit SET note = 'lost'")
            savepoint.rollback()
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'kept'")
    assert [row[4]["note"] for row in history_of(raw)[len(before[0]) :]] == ["kept"]


def test_a_subrow_that_is_renamed_or_moved_leaves_a_deletion(raw: Store) -> None:
    run(raw, "INSERT INTO rec_visit (record_key) VALUES ('b')")
    count = len(history_of(raw))
    run(raw, "UPDATE rec_visit__dose SET drug = 'e'")
    ops = {row[1:4] for row in history_of(raw)[count:]}
    assert ops == {("", "", "update"), ("dose", "d", "delete"), ("dose", "e", ops_of_new(raw))}
    count = len(history_of(raw))
    run(raw, "UPDATE rec_visit__dose SET record_key = 'b'")
    assert [row[1:4] for row in history_of(raw)[count:]] == [
        ("", "", "update"),
        ("dose", "e", "delete"),
    ]
    assert history_of(raw, "b")[-1][1:3] == ("dose", "e")
    assert history_of(raw, "b")[-1][4]["amount"] == 1.5


def ops_of_new(store: Store) -> str:
    """Return what a row under a new name is called: SQLite's triggers see its former name."""
    return "update" if store.dialect == "sqlite" else "insert"


def test_a_deletion_takes_the_history_of_subrows_along(raw: Store) -> None:
    before = index_of(raw)
    run(raw, "DELETE FROM rec_visit")
    gone = [row for row in history_of(raw) if row[0] == before.revision + 1]
    assert {row[1:] for row in gone} == {
        ("dose", "d", "delete", None),
        ("", "", "delete", None),
    }


def test_images_hold_what_other_triggers_made_of_a_row(raw: Store) -> None:
    body = "UPDATE rec_visit SET weight = coalesce(weight, 0) + 1 WHERE record_key = NEW.record_key"
    condition = (
        "NEW.note IS NOT OLD.note"
        if raw.dialect == "sqlite"
        else ("NEW.note IS DISTINCT FROM OLD.note")
    )
    if raw.dialect == "sqlite":
        run(
            raw,
            f"CREATE TRIGGER aa AFTER UPDATE ON rec_visit WHEN {condition} BEGIN {body}; END",
        )
    else:
        run(
            raw,
            "CREATE FUNCTION aa() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN {body}; RETURN NULL; END$$",
            f"CREATE TRIGGER aa AFTER UPDATE ON rec_visit FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION aa()",
        )
    with raw.write(ANN) as connection:
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'y'")
    with raw.read() as connection:
        row = connection.exec_driver_sql("SELECT note, weight, revision FROM rec_visit").one()
    revision, _, _, _, image = history_of(raw)[-1]
    assert (image["note"], image["weight"], revision) == tuple(row) == ("y", 1.0, row.revision)


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_one_statement_on_many_subrows_is_one_revision_of_each_record(visits: Store) -> None:
    with visits.write(ANN) as connection:
        for key in "cab":
            connection.exec_driver_sql(f"INSERT INTO rec_visit (record_key) VALUES ('{key}')")
        connection.exec_driver_sql(
            "INSERT INTO rec_visit__dose (record_key, drug) "
            "SELECT k, n::text FROM unnest(ARRAY['b', 'c', 'a']) AS k, generate_series(1, 50) AS n"
        )
    run(visits, "UPDATE rec_visit__dose SET amount = 1")
    for key in "abc":
        assert feed_of(visits, key) == [(1, "insert"), (2, "update")]
        assert len([row for row in history_of(visits, key) if row[0] == 2]) == 51


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_copied_rows_have_histories(visits: Store) -> None:
    with around(visits) as connection:
        cursor = connection.connection.driver_connection.cursor()
        with cursor.copy("COPY rec_visit (record_key, note) FROM STDIN") as copy:
            copy.write_row(("a", "n"))
        with cursor.copy("COPY rec_visit__dose (record_key, drug) FROM STDIN") as copy:
            copy.write_row(("a", "d"))
    assert ops_of(visits) == [(1, "", "", "insert"), (1, "dose", "d", "insert")]


def test_images_are_plain_json_text_on_sqlite_too(raw: Store) -> None:
    with raw.read() as connection:
        query = "SELECT CAST(image AS TEXT) FROM record_history WHERE op <> 'delete'"
        for (text,) in connection.exec_driver_sql(query):
            assert isinstance(json.loads(text), dict)
