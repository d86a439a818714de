"""What the index counts, and what the database refuses of closed records and without a reason."""

import pytest
import sqlalchemy as sa

from keepline.store import Store
from keepline.store.tables.records import record_history
from tests.stores import ANN, on_sqlite
from tests.visits import DOSE, INSERT, history_of, index_of, run


def test_a_reason_stands_on_the_records_own_row_and_ends_with_its_transaction(
    visits: Store,
) -> None:
    with visits.write(ANN, "typing error") as connection:
        connection.exec_driver_sql(INSERT)
        connection.exec_driver_sql(DOSE)
    with visits.write(ANN) as connection:
        connection.exec_driver_sql("UPDATE rec_visit SET note = 'y'")
    run(visits, "UPDATE rec_visit SET note = 'z'")
    with visits.read() as connection:
        rows = connection.execute(
            sa.select(record_history.c.subtable, record_history.c.reason).order_by(
                record_history.c.id
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        ("", "typing error"),
        ("dose", None),
        ("", None),
        ("", None),
    ]


def test_the_index_follows_a_records_life(visits: Store) -> None:
    with visits.write(ANN) as connection:
        connection.exec_driver_sql(
            "INSERT INTO subject (identifier, created_at) VALUES ('s', '2024-01-01')"
        )
        connection.exec_driver_sql(INSERT)
    made = index_of(visits)
    assert (made.revision, made.current, made.finalised, made.anonymous) == (1, True, False, False)
    assert made.created_at == made.changed_at
    run(visits, "UPDATE rec_visit SET group_name = 'g', subject_no = 1")
    changed = index_of(visits)
    assert (changed.revision, changed.group_name, changed.subject_no) == (2, "g", 1)
    assert changed.created_at == made.created_at
    assert changed.changed_at >= made.changed_at
    run(visits, "DELETE FROM rec_visit")
    gone = index_of(visits)
    assert (gone.revision, gone.current) == (3, False)
    run(visits, INSERT)
    again = index_of(visits)
    assert (again.revision, again.current, again.subject_no) == (4, True, None)
    assert again.created_at >= gone.changed_at


def test_versions_count_how_often_a_record_was_finalised(visits: Store) -> None:
    run(visits, INSERT)
    assert index_of(visits).version == 0
    for version in (1, 2):
        run(visits, "UPDATE rec_visit SET finalised = true")
        assert (index_of(visits).version, index_of(visits).finalised) == (version, True)
        run(visits, "UPDATE rec_visit SET finalised = false")
        assert (index_of(visits).version, index_of(visits).finalised) == (version, False)


_CLOSED = [
    "UPDATE rec_visit SET note = 'y'",
    "UPDATE rec_visit SET note = 'y', finalised = true",
    "DELETE FROM rec_visit",
    "UPDATE rec_visit__dose SET amount = 2",
    "DELETE FROM rec_visit__dose",
    "INSERT INTO rec_visit__dose (record_key, drug) VALUES ('a', 'e')",
]


@on_sqlite  # PostgreSQL has no REPLACE
def test_a_finalised_record_is_not_replaced_until_it_is_reopened(raw: Store) -> None:
    test_a_finalised_record_is_closed_until_it_is_reopened(raw, INSERT.replace("INSERT", "REPLACE"))


@pytest.mark.parametrize("statement", _CLOSED)
def test_a_finalised_record_is_closed_until_it_is_reopened(raw: Store, statement: str) -> None:
    run(raw, "UPDATE rec_visit SET finalised = true")
    before = history_of(raw)
    with pytest.raises(sa.exc.DBAPIError, match="keepline: the record is finalised") as refused:
        run(raw, statement)
    if raw.dialect == "postgresql":
        assert getattr(refused.value.orig, "sqlstate", None) == "KL002"
    assert history_of(raw) == before
    run(raw, "UPDATE rec_visit SET finalised = false, note = 'w'")
    run(raw, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rec_strict SET note = 'y'",
        "DELETE FROM rec_strict",
        "INSERT INTO rec_strict__line (record_key, line) VALUES ('a', 'm')",
        "UPDATE rec_strict__line SET text = 'y'",
        "DELETE FROM rec_strict__line",
    ],
)
def test_a_change_without_a_reason_is_refused_where_one_is_required(
    visits: Store, statement: str
) -> None:
    with visits.write(ANN) as connection:  # making a record needs none, with its sub-rows
        connection.exec_driver_sql("INSERT INTO rec_strict (record_key) VALUES ('a')")
        connection.exec_driver_sql(
            "INSERT INTO rec_strict__line (record_key, line) VALUES ('a', 'l')"
        )
    assert index_of(visits, name="strict").anonymous
    for reason in (None, ""):
        refusal = pytest.raises(sa.exc.DBAPIError, match="a reason is required")
        with refusal as refused, visits.write(ANN, reason) as connection:
            connection.exec_driver_sql(statement)
        if visits.dialect == "postgresql":
            assert getattr(refused.value.orig, "sqlstate", None) == "KL003"
    with visits.write(ANN, "why") as connection:
        connection.exec_driver_sql(statement)
    assert index_of(visits, name="strict").revision == 2


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_replacing_a_record_needs_the_reason_too(visits: Store) -> None:
    run(visits, "INSERT INTO rec_strict (record_key) VALUES ('a')")
    with pytest.raises(sa.exc.DBAPIError, match="a reason is required"):
        run(visits, "REPLACE INTO rec_strict (record_key) VALUES ('a')")
