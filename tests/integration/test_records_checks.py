"""Checks of what watches over records, each against a fault made on purpose."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from keepline.model import Field
from keepline.records import checks, put_record
from keepline.records.types import apply_type
from keepline.store import Store, schema
from keepline.store.tables.records import record_type
from tests.stores import ANN, SPECIMEN, StoreInstance, around
from tests.visits import STRICT, VISIT


def _run(store: Store, *statements: str) -> None:
    with around(store) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def filled(instance: StoreInstance) -> StoreInstance:
    """An instance with records that the triggers saw."""
    with instance.store.write(ANN) as connection:
        for key in ("a", "b"):
            put_record(connection, SPECIMEN, key, {"label": key}, {"part": [{"part": "p"}]})
    return instance


def _verify(instance: StoreInstance) -> list[str]:
    return list(checks.verify(instance=instance))


def test_a_store_as_it_was_made_holds(filled: StoreInstance) -> None:
    assert _verify(filled) == []


_SABOTAGE = {
    "sqlite": {
        "DROP TRIGGER rec_specimen_update": "rec_specimen_update of rec_specimen is missing",
        "DROP TRIGGER rec_specimen__part_touch_delete": "is missing",
        "DROP TRIGGER record_history_append_only_update": "is missing",
        "DROP TRIGGER sent_log_final_delete": "is missing",
    },
    "postgresql": {
        "DROP TRIGGER zz_keepline_feed ON rec_specimen": (
            "zz_keepline_feed of rec_specimen is missing"
        ),
        "DROP TRIGGER zz_keepline_delete ON rec_specimen__part": "is missing",
        "DROP TRIGGER record_history_no_truncate ON record_history": "is missing",
        "ALTER TABLE rec_specimen DISABLE TRIGGER zz_keepline_stamp": "is off",
        "ALTER TABLE rec_specimen__part DISABLE TRIGGER ALL": "is off",
        "ALTER TABLE change_feed ENABLE REPLICA TRIGGER change_feed_append_only": "is off",
        (
            "CREATE OR REPLACE TRIGGER zz_keepline_stamp BEFORE INSERT ON rec_specimen "
            "FOR EACH ROW EXECUTE FUNCTION keepline_stamp('specimen', '', '')"
        ): "was changed",
        (
            "CREATE OR REPLACE TRIGGER zz_keepline_feed AFTER INSERT OR UPDATE OR DELETE "
            "ON rec_specimen FOR EACH ROW EXECUTE FUNCTION keepline_feed('other', '', '')"
        ): "was changed",
        (
            "CREATE OR REPLACE FUNCTION keepline_token() RETURNS bigint LANGUAGE sql VOLATILE "
            "AS $$ SELECT 1::bigint $$"
        ): "the function keepline_token was changed",
        "ALTER FUNCTION keepline_feed() RESET extra_float_digits": "keepline_feed was changed",
        "ALTER FUNCTION keepline_stamp() SECURITY DEFINER": "keepline_stamp was changed",
    },
}


@pytest.mark.parametrize(
    ("store", "statement", "expected"),
    [
        (dialect, statement, expected)
        for dialect, sabotages in _SABOTAGE.items()
        for statement, expected in sabotages.items()
    ],
    indirect=["store"],
)
def test_sabotage_is_found_and_migrate_puts_it_right(
    filled: StoreInstance, statement: str, expected: str
) -> None:
    _run(filled.store, statement)
    problems = _verify(filled)
    assert problems
    assert any(expected in line for line in problems)
    assert all(line.endswith("run `keepline migrate`") for line in problems)
    schema.migrate(filled.store)
    assert _verify(filled) == []


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_changed_trigger_of_sqlite_is_found(filled: StoreInstance) -> None:
    with around(filled.store) as connection:
        query = "SELECT sql FROM sqlite_master WHERE name = 'rec_specimen_update'"
        sql = connection.exec_driver_sql(query).scalar_one()
        connection.exec_driver_sql("DROP TRIGGER rec_specimen_update")
        connection.exec_driver_sql(sql.replace("AFTER UPDATE ON", "AFTER UPDATE OF label ON"))
    assert _verify(filled) == [
        "the trigger rec_specimen_update of rec_specimen was changed: run `keepline migrate`"
    ]
    schema.migrate(filled.store)
    assert _verify(filled) == []


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("column", ["stamp", "erasing", "txn"])
def test_a_writer_that_is_left_switched_on_is_found(filled: StoreInstance, column: str) -> None:
    _run(filled.store, f"UPDATE writer SET {column} = 1")
    (problem,) = _verify(filled)
    assert "the table writer is not empty" in problem


def test_columns_that_nobody_declared_are_found(filled: StoreInstance) -> None:
    _run(filled.store, "ALTER TABLE rec_specimen ADD COLUMN later TEXT")
    (problem,) = _verify(filled)
    assert "the column later of rec_specimen is not declared" in problem
    assert "keepline records types migrate" in problem


def test_declared_columns_that_are_not_there_are_found(filled: StoreInstance) -> None:
    with filled.store.write(ANN) as connection:
        declared = replace(SPECIMEN, fields=(*SPECIMEN.fields, Field("later")))
        connection.execute(
            sa.update(record_type)
            .where(record_type.c.name == "specimen")
            .values(declaration=declared.to_json())
        )
    assert any(
        "the column later of rec_specimen is declared and not there" in line
        for line in _verify(filled)
    )


def _found(instance: StoreInstance) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(each.row, each.kind, each.fields) for each in checks.unrecorded(instance=instance)}


def _behind(store: Store, *statements: str) -> None:
    """Run statements with no trigger looking, then put the triggers back."""
    with around(store) as connection:
        if store.dialect == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
        else:
            rows = connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            )
            for name in rows.scalars().all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.exec_driver_sql(statement)
    if store.dialect == "sqlite":
        with store.maintenance() as connection:
            schema.install(connection, schema.declared_types(connection))


def test_nothing_differs_after_writes_that_triggers_saw(filled: StoreInstance) -> None:
    _run(
        filled.store,
        "UPDATE rec_specimen SET weight = 0.1, extra = '{\"a\": 1}', taken = '2024-01-01 01:00:00'",
        "UPDATE rec_specimen__part SET amount = 1.5",
        "DELETE FROM rec_specimen__part WHERE record_key = 'b'",
        "DELETE FROM rec_specimen WHERE record_key = 'b'",
    )
    assert _found(filled) == set()


_BEHIND = {
    "UPDATE rec_specimen SET label = 'z', weight = 2 WHERE record_key = 'a'": (
        ("specimen/a", "changed", ("label", "weight")),
    ),
    "INSERT INTO rec_specimen (record_key, label) VALUES ('c', 'c')": (
        ("specimen/c", "added", ()),
    ),
    "DELETE FROM rec_specimen__part WHERE record_key = 'a'": (
        ("specimen/a part[p]", "removed", ()),
    ),
    "UPDATE rec_specimen__part SET amount = 5 WHERE record_key = 'a'": (
        ("specimen/a part[p]", "changed", ("amount",)),
    ),
    "INSERT INTO rec_specimen__part (record_key, part) VALUES ('a', 'q')": (
        ("specimen/a part[q]", "added", ()),
    ),
    "UPDATE rec_specimen SET revision = 0 WHERE record_key = 'a'": (("specimen/a", "added", ()),),
    "UPDATE record_index SET revision = 9 WHERE record_key = 'a'": (
        ("specimen/a", "misplaced", ()),
    ),
}


@pytest.mark.parametrize("statement", _BEHIND)
def test_what_changed_behind_the_triggers_is_found_and_adopted(
    filled: StoreInstance, statement: str
) -> None:
    _behind(filled.store, statement)
    expected = set(_BEHIND[statement])
    assert _found(filled) == expected
    adopted = list(checks.adopt_all(ANN, "seen by ann", instance=filled))
    assert {(each.row, each.kind, each.fields) for each in adopted} == expected
    assert all(each.refusal is None for each in adopted)
    assert _found(filled) == set()
    with filled.store.read() as connection:
        query = (
            "SELECT f.actor, h.reason FROM record_history AS h JOIN change_feed AS f ON "
            "f.record_type = h.record_type AND f.record_key = h.record_key "
            "AND f.revision = h.revision WHERE h.subtable = '' ORDER BY h.id DESC LIMIT 1"
        )
        assert tuple(connection.exec_driver_sql(query).one()) == ("ann", "seen by ann")


def test_a_record_that_went_unseen_is_adopted_with_its_subrows(filled: StoreInstance) -> None:
    _behind(
        filled.store,
        "DELETE FROM rec_specimen__part WHERE record_key = 'a'",
        "DELETE FROM rec_specimen WHERE record_key = 'a'",
    )
    expected = {("specimen/a", "removed", ()), ("specimen/a part[p]", "removed", ())}
    assert _found(filled) == expected
    list(checks.adopt_all(ANN, "seen", instance=filled))
    assert _found(filled) == set()
    _run(filled.store, "INSERT INTO rec_specimen (record_key, label) VALUES ('a', 'again')")
    assert _found(filled) == set()


def test_a_finalised_record_is_not_adopted_before_it_is_reopened(instance: StoreInstance) -> None:
    apply_type(instance.store, VISIT, ANN)
    _run(instance.store, "INSERT INTO rec_visit (record_key, finalised) VALUES ('a', true)")
    _behind(instance.store, "UPDATE rec_visit SET note = 'changed'")
    (refused,) = checks.adopt_all(ANN, "seen", instance=instance)
    assert refused.refusal is not None
    assert _found(instance) == {("visit/a", "changed", ("note",))}


def test_adopting_gives_the_reason_where_one_is_required(instance: StoreInstance) -> None:
    apply_type(instance.store, STRICT, ANN)
    _run(instance.store, "INSERT INTO rec_strict (record_key) VALUES ('a')")
    _behind(instance.store, "UPDATE rec_strict SET note = 'changed'")
    (adopted,) = checks.adopt_all(ANN, "seen", instance=instance)
    assert adopted.refusal is None
    assert _found(instance) == set()


def test_more_differences_than_a_batch_are_adopted(
    filled: StoreInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_BATCH", 7)
    _behind(
        filled.store,
        *(f"INSERT INTO rec_specimen (record_key, label) VALUES ('k{n}', 'x')" for n in range(30)),
    )
    assert len(list(checks.adopt_all(ANN, "seen", instance=filled))) == 30
    assert _found(filled) == set()
    with filled.store.read() as connection:
        born = sa.text("SELECT count(DISTINCT row_born) FROM rec_specimen WHERE row_born <> 0")
        assert connection.execute(born).scalar_one() == 32
