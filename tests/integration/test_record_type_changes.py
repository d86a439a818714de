"""One declaration of a record type becomes another one, and what was in its tables stays."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from keepline.errors import DeclarationError
from keepline.model import Field, RecordType, SubTable
from keepline.records import types
from keepline.records.revisions import as_of, history
from keepline.records.type_changes import REASON, migrate_type, plan_type
from keepline.records.types import apply_type, load_type, load_types
from keepline.store import Store
from keepline.store.tables.declared import record_tables
from keepline.store.tables.records import (
    change_feed,
    record_history,
    record_index,
    record_type_change,
)
from tests.stores import ANN, BEN, StoreInstance, around
from tests.type_tables import shape

OLD = RecordType(
    "vial",
    (
        Field("label", required=True),
        Field("kind", choices=("a", "b")),
        Field("volume", "real", minimum=0, missing=((-9, "lost"),)),
        Field("pieces", "integer"),
        Field("order", comment="An SQL keyword"),
    ),
    (SubTable("thaw", "number", (Field("minutes", "real"), Field("by"))),),
)
ROWS = {
    "1": {"label": "one", "kind": "a", "volume": 0.1, "pieces": 3, "order": "x"},
    "2": {"label": "two", "kind": None, "volume": -9.0, "pieces": None, "order": None},
}


@pytest.fixture
def vials(store: Store) -> Store:
    """A store with OLD and two vials, one with two sub-rows."""
    apply_type(store, OLD, ANN)
    fill(store, OLD, ROWS)
    tables = record_tables(OLD).tables
    with store.write(ANN) as connection:
        connection.execute(
            sa.insert(tables["rec_vial__thaw"]),
            [
                {"record_key": "1", "number": "1", "minutes": 2.5, "by": "ann"},
                {"record_key": "1", "number": "2", "minutes": None, "by": None},
            ],
        )
    return store


def fill(store: Store, declared: RecordType, rows: Mapping[str, Mapping[str, Any]]) -> None:
    table = record_tables(declared).tables[declared.table_name]
    with store.write(ANN) as connection:
        for key, values in rows.items():
            connection.execute(sa.insert(table).values(record_key=key, **values))


def rows_of(store: Store, declared: RecordType, subtable: str = "") -> list[dict[str, Any]]:
    name = declared.table_name + (f"__{subtable}" if subtable else "")
    table = record_tables(declared).tables[name]
    fields = declared.subtable(subtable).fields if subtable else declared.fields
    with store.read() as connection:
        rows = connection.execute(sa.select(table).order_by(*table.primary_key))
        return [{field.name: getattr(row, field.name) for field in fields} for row in rows]


def stamps(store: Store) -> list[Any]:
    """Return what a migration that changes no value leaves alone."""
    names = ("record_key", "group_name", "row_born", "row_rev", "revision", "rev_txn")
    records = sa.table("rec_vial", *(sa.column(name) for name in names))
    with store.read() as connection:
        return [
            connection.execute(sa.select(records).order_by(records.c.record_key)).all(),
            connection.execute(sa.select(change_feed)).all(),
            connection.execute(sa.select(record_history)).all(),
            connection.execute(sa.select(record_index)).all(),
        ]


def changed(**parts: Any) -> RecordType:
    return replace(OLD, **parts)


def with_fields(*fields: Field) -> RecordType:
    """Return OLD with some fields put in the place of those of the same (former) names."""
    by_name = {field.was or field.name: field for field in fields}
    kept = tuple(by_name.pop(field.name, field) for field in OLD.fields)
    return changed(fields=(*kept, *by_name.values()))


THAW = OLD.subtable("thaw")

HARMLESS = {
    "added": with_fields(Field("box", "integer", minimum=1, comment="Which")),
    "added first": changed(fields=(Field("box", "json"), *OLD.fields)),
    "renamed": with_fields(Field("sort", choices=("a", "b"), was="kind")),
    "renamed and more": with_fields(
        Field("name", required=True, was="label"), Field("kind", comment="free")
    ),
    "widened": with_fields(Field("pieces", "real")),
    "not required": with_fields(Field("label")),
    "required": with_fields(
        Field("volume", "real", minimum=0, required=True, missing=((-9, "x"),))
    ),
    "choices": with_fields(Field("kind", choices=("a", "c", "50% 'd'"))),
    "bounds": with_fields(Field("volume", "real", minimum=-9, maximum=1)),
    "missing": with_fields(Field("volume", "real", minimum=0, missing=((-9, "x"), (-8, "y")))),
    "words": with_fields(Field("order", comment="it's", unit="g", updatable=False)),
    "no comment": with_fields(Field("order")),
    "type's words": changed(comment="Vials", summaries=("session",)),
    "order": changed(fields=OLD.fields[::-1]),
    "subject": changed(subject=True),
    "finalised": changed(finalised=True),
    "reasons": changed(reason_required=True),
    "sub-table added": changed(
        subtables=(THAW, SubTable("use", "n", (Field("x", "blob", max_bytes=3),), "said"))
    ),
    "sub-table renamed": changed(subtables=(replace(THAW, name="melt", was="thaw"),)),
    "sub-table changed": changed(
        subtables=(
            SubTable(
                "thaw",
                "round",
                (Field("min", "real", was="minutes", minimum=0), Field("by"), Field("number")),
                "said",
            ),
        )
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_migration_without_loss_gives_the_tables_of_a_new_type(vials: Store, name: str) -> None:
    new, before = HARMLESS[name], stamps(vials)
    with vials.read() as connection:
        shown = plan_type(connection, new)
    assert shown.steps
    assert shown.lost == 0
    assert stamps(vials) == before
    made = migrate_type(vials, new, BEN)
    assert made == shown
    assert stamps(vials) == before
    assert_as_new(vials, new)
    for now, old in zip(rows_of(vials, new), ROWS.values(), strict=True):
        for field in new.fields:
            if (field.was or field.name) in old:
                assert now[field.name] == old[field.was or field.name]


def assert_as_new(store: Store, declared: RecordType) -> None:
    """Compare the tables with those that the declaration gives where it is applied first."""
    copy = replace(declared, name="fresh")
    apply_type(store, copy, ANN)
    with store.read() as connection:
        assert shape(connection, declared) == shape(connection, copy)
        assert load_types(connection)[declared.name] == declared
    assert load_type(store, declared.name) == declared


def test_the_next_change_of_a_record_is_stamped_as_ever(vials: Store) -> None:
    migrate_type(vials, with_fields(Field("name", required=True, was="label")), ANN)
    with around(vials) as connection:
        connection.exec_driver_sql("UPDATE rec_vial SET name = 'new' WHERE record_key = '1'")
        connection.exec_driver_sql("UPDATE rec_vial__thaw SET minutes = 1 WHERE number = '2'")
    with vials.read() as connection:
        kept = record_history.c
        newest = connection.execute(
            sa.select(kept.image).where(kept.record_key == "1").order_by(kept.id.desc())
        ).scalars()
        assert any(image.get("name") == "new" for image in newest)


def test_sub_rows_stay_with_their_records(vials: Store) -> None:
    new = HARMLESS["sub-table changed"]
    migrate_type(vials, new, ANN)
    assert rows_of(vials, new, "thaw") == [
        {"min": 2.5, "by": "ann", "number": None},
        {"min": None, "by": None, "number": None},
    ]
    with vials.write(ANN) as connection:
        connection.exec_driver_sql("DELETE FROM rec_vial WHERE record_key = '1'")
    assert rows_of(vials, new, "thaw") == []


LOSING: dict[str, tuple[RecordType, int, str]] = {
    "dropped": (changed(fields=OLD.fields[:3]), 2, "drop the field pieces (1 lost)"),
    "no whole number": (
        with_fields(Field("volume", "integer")),
        1,
        "convert the field volume from real to integer; 1 of 2 values cannot be (1 lost)",
    ),
    "sub-table dropped": (
        changed(subtables=()),
        2,
        "drop the sub-table thaw with its rows (2 lost)",
    ),
    "sub-field dropped": (
        changed(subtables=(replace(THAW, fields=THAW.fields[:1]),)),
        1,
        "drop the field thaw.by (1 lost)",
    ),
    "was of nothing": (
        with_fields(Field("kind2", was="kindd"), Field("kind", choices=("a", "b"))),
        0,
        "add the field kind2 (text)",
    ),
}


@pytest.mark.parametrize("name", LOSING)
def test_what_would_be_lost_is_counted_and_needs_the_flag(vials: Store, name: str) -> None:
    new, lost, sentence = LOSING[name]
    with vials.read() as connection:
        plan = plan_type(connection, new)
    assert plan.lost == lost
    assert sentence in map(str, plan.steps)
    if lost:
        before = stamps(vials)
        with pytest.raises(DeclarationError, match="--allow-data-loss"):
            migrate_type(vials, new, ANN)
        assert stamps(vials) == before
        assert rows_of(vials, OLD) == list(ROWS.values())
    migrate_type(vials, new, ANN, allow_data_loss=True)
    assert_as_new(vials, new)


def test_flags_that_records_hold_are_lost_with_the_flag_alone(store: Store) -> None:
    declared = changed(finalised=True, subject=True)
    apply_type(store, declared, ANN)
    with store.write(ANN) as connection:
        connection.exec_driver_sql(
            "INSERT INTO subject (number, identifier, created_at) "
            "VALUES (7, 'x', '2026-01-01 00:00:00')"
        )
    fill(store, declared, {"1": {"label": "x", "subject_no": 7, "finalised": True}})
    with store.read() as connection:
        plan = plan_type(connection, OLD)
    assert [(step.lost, step.refused) for step in plan.steps] == [(1, ""), (1, "")]
    migrate_type(store, OLD, ANN, allow_data_loss=True)
    assert_as_new(store, OLD)
    with store.read() as connection:
        row = connection.execute(sa.select(record_index)).one()
    assert (row.subject_no, row.finalised) == (None, False)


def test_the_index_follows_a_type_that_becomes_anonymous(vials: Store) -> None:
    migrate_type(vials, changed(anonymous=True), ANN)
    with vials.read() as connection:
        assert set(connection.execute(sa.select(record_index.c.anonymous)).scalars()) == {True}


REFUSED: dict[str, tuple[RecordType, str]] = {
    "required with nulls": (
        with_fields(Field("kind", choices=("a", "b"), required=True)),
        "a value of kind is required: 1 row would have none",
    ),
    "added and required": (
        with_fields(Field("box", required=True)),
        "add the field box (text): it is required, and 2 rows there have none",
    ),
    "choices that rows break": (
        with_fields(Field("kind", choices=("b",))),
        "change the choices of kind: b: 1 row there would break it",
    ),
    "bounds that rows break": (
        with_fields(Field("pieces", "integer", maximum=2)),
        "change the maximum of pieces: 2: 1 row there would break it",
    ),
    "a missing code that rows hold": (
        with_fields(Field("volume", "real", minimum=0)),
        "change the minimum of volume: 0: 1 row there would break it",
    ),
    "required values that cannot be converted": (
        with_fields(Field("label", "integer", required=True)),
        "a value of label stays required: 2 rows would have none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_rows_break_is_refused_with_their_number(vials: Store, name: str) -> None:
    new, said = REFUSED[name]
    before = stamps(vials)
    with pytest.raises(DeclarationError) as caught:
        migrate_type(vials, new, ANN, allow_data_loss=True)
    assert any(said in mistake for mistake in caught.value.mistakes), caught.value.mistakes
    assert stamps(vials) == before
    assert rows_of(vials, OLD) == list(ROWS.values())
    assert load_type(vials, "vial") == OLD


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (
            changed(fields=(Field("label", required=True), Field("kind", was="order"))),
            "the field kind is there already, so order cannot become it",
        ),
        (
            changed(fields=(Field("x", was="label"), Field("y", was="label"))),
            "x and y both were the field label",
        ),
    ],
)
def test_a_former_name_that_could_mean_two_things_is_refused(
    vials: Store, new: RecordType, said: str
) -> None:
    with pytest.raises(DeclarationError, match=said):
        migrate_type(vials, new, ANN)


def test_a_former_name_that_is_still_there_means_nothing(vials: Store) -> None:
    new = changed(subtables=(THAW, replace(THAW, name="melt", was="thaw")))
    assert [str(step) for step in migrate_type(vials, new, ANN).steps] == ["add the sub-table melt"]
    assert len(rows_of(vials, new, "thaw")) == 2


def test_converted_values_make_revisions_and_exact_images(vials: Store) -> None:
    new = replace(
        with_fields(Field("pieces", "text"), Field("volume", "text")),
        subtables=(replace(THAW, fields=(Field("minutes", "text"), Field("by"))),),
        reason_required=True,
    )
    migrate_type(vials, new, BEN)
    assert [(row["pieces"], row["volume"]) for row in rows_of(vials, new)] == [
        ("3", "0.1"),
        (None, "-9.0"),
    ]
    instance = StoreInstance(vials, None)  # type: ignore[arg-type]  # needs no folder
    for key in ROWS:
        newest = history(new, key, instance=instance, principal=ANN)[-1]
        assert (newest.who, newest.why) == ("ben", REASON)
        assert newest.after is not None
        assert newest.after.values == rows_of(vials, new)[int(key) - 1]
    assert newest.after.subrows["thaw"] == ()
    assert_as_new(vials, new)


def test_finalised_records_are_converted_too(store: Store) -> None:
    declared = changed(finalised=True)
    apply_type(store, declared, ANN)
    fill(store, declared, {"1": {"label": "x", "pieces": 3, "finalised": True}})
    new = replace(with_fields(Field("pieces", "text")), finalised=True)
    migrate_type(store, new, ANN)
    assert rows_of(store, new)[0]["pieces"] == "3"
    with store.read() as connection:
        row = connection.execute(sa.select(record_index)).one()
    assert (row.revision, row.finalised, row.version) == (2, True, 1)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("boolean", True),
        ("date", date(2026, 1, 31)),
        ("datetime", datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)),
        ("json", {"a": [1, 2.0, None]}),
        ("blob", b"\x00\xff"),
        ("real", 0.1),
    ],
)
def test_a_value_of_each_type_becomes_text_and_back(store: Store, type_: Any, value: Any) -> None:
    typed = RecordType("vial", (Field("x", type_),))
    text = RecordType("vial", (Field("x", "text"),))
    apply_type(store, typed, ANN)
    fill(store, typed, {"1": {"x": value}})
    migrate_type(store, text, ANN)
    migrate_type(store, typed, ANN)
    found = rows_of(store, typed)[0]["x"]
    assert found == (value if type_ != "json" else '{"a": [1, 2.0, null]}')
    assert_as_new(store, typed)


def test_the_history_is_read_through_renames(vials: Store) -> None:
    new = replace(
        with_fields(Field("name", required=True, was="label")),
        subtables=(
            SubTable(
                "melt", "number", (Field("min", "real", was="minutes"), Field("by")), was="thaw"
            ),
        ),
    )
    migrate_type(vials, new, ANN)
    instance = StoreInstance(vials, None)  # type: ignore[arg-type]  # needs no folder
    newest = as_of(new, "1", datetime.now(UTC), instance=instance)
    assert newest is not None
    assert newest.values["name"] == "one"
    assert [row["min"] for row in newest.subrows["melt"]] == [2.5, None]
    with vials.read() as connection:
        row = connection.execute(
            sa.select(record_type_change).order_by(record_type_change.c.id.desc()).limit(1)
        ).one()
        last = connection.scalar(sa.select(sa.func.max(record_history.c.id)))
    assert row.renames == {"label": "name", "thaw": "melt", "thaw.minutes": "melt.min"}
    assert (row.who, row.after_history) == ("ann", last)


def test_a_rename_that_the_history_could_not_tell_is_refused(store: Store) -> None:
    old = RecordType("vial", (Field("a"),), (SubTable("a", "k", ()),))
    apply_type(store, old, ANN)
    with pytest.raises(DeclarationError, match="both a field and a sub-table are called a"):
        migrate_type(store, replace(old, fields=(Field("b", was="a"),)), ANN)


def test_what_others_made_for_a_table_stays(vials: Store) -> None:
    postgres = vials.dialect == "postgresql"
    body = "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    with vials.maintenance() as connection:
        connection.exec_driver_sql("CREATE INDEX mine ON rec_vial (kind)")
        connection.exec_driver_sql("CREATE VIEW kinds AS SELECT record_key, kind FROM rec_vial")
        connection.exec_driver_sql(
            f"CREATE TRIGGER aa_mine BEFORE UPDATE ON rec_vial FOR EACH ROW {body}"
            if postgres
            else "CREATE TRIGGER aa_mine AFTER UPDATE OF kind ON rec_vial BEGIN SELECT 1; END"
        )
    migrate_type(vials, with_fields(Field("pieces", "text"), Field("box")), ANN)
    query = (
        "SELECT tgname FROM pg_trigger WHERE tgenabled = 'O' AND tgname = 'aa_mine' "
        "UNION SELECT indexname FROM pg_indexes WHERE indexname = 'mine'"
        if postgres
        else "SELECT name FROM sqlite_master WHERE name IN ('mine', 'aa_mine')"
    )
    with vials.read() as connection:
        assert set(connection.exec_driver_sql(query).scalars()) == {"mine", "aa_mine"}
        assert connection.exec_driver_sql("SELECT count(kind) FROM kinds").scalar() == 1


def test_what_others_made_and_would_break_is_named(vials: Store) -> None:
    with vials.maintenance() as connection:
        connection.exec_driver_sql("CREATE INDEX mine ON rec_vial (pieces)")
        connection.exec_driver_sql("CREATE VIEW mine_too AS SELECT pieces FROM rec_vial")
    with pytest.raises(DeclarationError, match=r"mine|pieces"):
        migrate_type(vials, changed(fields=OLD.fields[:3]), ANN, allow_data_loss=True)
    assert rows_of(vials, OLD) == list(ROWS.values())


def test_a_declaration_that_is_applied_already_has_no_steps(vials: Store) -> None:
    assert migrate_type(vials, OLD, ANN).steps == ()
    assert migrate_type(vials, replace(OLD, name="other"), ANN).steps
    with vials.read() as connection:
        assert "other" in load_types(connection)


def test_two_programs_migrate_one_after_the_other(vials: Store) -> None:
    stores = [Store(vials.engine.url.render_as_string(hide_password=False)) for _ in range(4)]
    start = threading.Barrier(len(stores))

    def migrate(store: Store) -> int:
        start.wait()
        return len(migrate_type(store, HARMLESS["renamed"], ANN).steps)

    with ThreadPoolExecutor() as pool:
        steps = sorted(pool.map(migrate, stores))
    assert steps == [0, 0, 0, 1]
    for store in stores:
        store.close()
    assert_as_new(vials, HARMLESS["renamed"])


def test_a_migration_by_another_process_is_noticed(
    vials: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_type(vials, "vial") == OLD
    other = Store(vials.engine.url.render_as_string(hide_password=False))
    migrate_type(other, HARMLESS["renamed"], ANN)
    other.close()
    monkeypatch.setattr(types, "FRESH_S", 0.0)
    assert load_type(vials, "vial") == HARMLESS["renamed"]
