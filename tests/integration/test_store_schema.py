"""The migrated schema is the declared one; schemas of other versions are refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import keepline.store
from keepline.errors import InstanceError, SchemaBehindError, SchemaTooNewError
from keepline.model import Principal, RecordType
from keepline.records.types import apply_type
from keepline.store import Store, schema
from keepline.store.tables import LOOKUP_ROWS, capture, records
from keepline.store.tables.declared import record_tables
from keepline.store.triggers.inspection import faults
from tests.stores import SPECIMEN, around

_CATALOGUE = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid)
        FROM pg_trigger WHERE NOT tgisinternal""",
    "functions": """
        SELECT proname, prosrc, provolatile, prolang FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace""",
    "comments": """
        SELECT objoid::regclass::text, objsubid, description FROM pg_description
        WHERE classoid = 'pg_class'::regclass AND objoid IN
            (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)""",
}


def _declared(store: Store) -> None:
    with store.maintenance() as connection:
        schema.create_declared(connection)


@pytest.mark.parametrize("ahead", [schema.migrate, _declared])
def test_every_closed_set_is_filled(tmp_path: Path, ahead: Callable[[Store], None]) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    ahead(store)
    with store.read() as connection:
        for table, names in LOOKUP_ROWS.items():
            found = connection.execute(sa.select(table.c.name)).scalars().all()
            assert sorted(found) == sorted(names), table.name
    store.close()


def test_migrated_equals_declared_on_sqlite(tmp_path: Path) -> None:
    migrated, declared = _sqlite(tmp_path, schema.migrate), _sqlite(tmp_path, _declared)
    assert migrated.keys() == declared.keys()
    for name in declared:
        assert migrated[name] == declared[name], name
    assert ("trigger", "change_feed_append_only_delete") in declared


def test_migrated_equals_declared_on_postgresql(postgres_database: str) -> None:
    migrated = _postgresql(postgres_database, schema.migrate)
    with around(Store(postgres_database)) as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    declared = _postgresql(postgres_database, _declared)
    for part, rows in declared.items():
        assert migrated[part] == rows, part
    assert ("change_feed", "change_feed_append_only") in {row[:2] for row in declared["triggers"]}
    assert {"keepline_stamp", "keepline_feed"} <= {name for name, *_ in declared["functions"]}


def test_migrating_again_changes_nothing_and_brings_triggers_back(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    schema.migrate(store)
    apply_type(store, SPECIMEN, Principal.system())
    before, identity = _sqlite_objects(store), schema.identity(store)
    with around(store) as connection:
        connection.exec_driver_sql("DROP TRIGGER rec_specimen_update")
        connection.exec_driver_sql("DROP TRIGGER change_feed_append_only_delete")
    schema.migrate(store)
    assert _sqlite_objects(store) == before
    assert schema.identity(store) == identity
    store.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_migrations_at_once_make_one_schema(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_database")
    stores = [Store(url) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(schema.migrate, stores))
    assert len({schema.identity(store) for store in stores}) == 1
    for store in stores:
        store.close()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_the_first_schema_held_is_kept(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_database")
    store = Store(url)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with store.maintenance() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (*_old_triggers(store.dialect), *_OLD_ROWS):
            connection.exec_driver_sql(statement)
    schema.migrate(store)
    with store.read() as connection:
        (change,) = connection.execute(sa.select(capture.capture_session_change)).all()
        (session,) = connection.execute(sa.select(capture.capture_session)).all()
        (stream,) = connection.execute(sa.select(capture.stream)).all()
    assert (change.id, change.session_name, change.reason) == (7, "capture:s:1", "began")
    assert change.changed_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert (session.level, stream.messages, stream.lost, stream.clock) == ("stored", 5, 0, None)
    with store.write(Principal.system()) as connection:
        values = {"session_name": "x", "state": "running", "changed_at": change.changed_at}
        made = connection.execute(
            sa.insert(capture.capture_session_change)
            .values(**values, who="ann", reason="new")
            .returning(capture.capture_session_change.c.id)
        ).scalar_one()
        assert made > 7
    store.close()


_MIGRATIONS = Path(keepline.store.__file__).parent / "migrations"


def _old_triggers(dialect: str) -> tuple[str, ...]:
    """Return what made some triggers of the second schema, and the table that they read."""
    if dialect == "sqlite":
        return (
            (
                "CREATE TABLE writer (id INTEGER PRIMARY KEY CHECK (id = 1), actor TEXT, "
                "txn INTEGER, stamp INTEGER)"
            ),
            "INSERT INTO writer (id) VALUES (1)",
            (
                "CREATE TRIGGER change_feed_append_only_update BEFORE UPDATE ON change_feed "
                "BEGIN SELECT RAISE(ABORT, 'keepline: change_feed is append-only'); END"
            ),
        )
    return (
        (
            "CREATE FUNCTION keepline_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'keepline: append-only' USING ERRCODE = 'KL001'; END$$"
        ),
        (
            "CREATE TRIGGER change_feed_append_only BEFORE UPDATE OR DELETE ON change_feed "
            "FOR EACH ROW EXECUTE FUNCTION keepline_append_only()"
        ),
        (
            "CREATE FUNCTION keepline_touch() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RETURN NULL; END$$"
        ),
    )


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_records_of_the_second_schema_get_index_and_history(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_database")
    store = Store(url)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with store.maintenance() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        record_tables(SPECIMEN).create_all(connection)
        for statement in (*_old_triggers(store.dialect), *_OLD_RECORDS):
            connection.exec_driver_sql(statement)
        if store.dialect == "postgresql":
            connection.exec_driver_sql(
                "CREATE TRIGGER zz_keepline_touch AFTER INSERT OR UPDATE OR DELETE ON "
                "rec_specimen__part FOR EACH ROW EXECUTE FUNCTION keepline_touch()"
            )
        connection.execute(
            sa.insert(records.record_type).values(
                name="specimen", declaration=_second_form(SPECIMEN), applied_at=_THEN
            )
        )
    for _ in range(2):  # the second time it has nothing to do
        schema.migrate(store)
        found = _history_and_index(store)
        assert found["history"] == [
            (3, "part", "p", "insert", {"amount": 1.5, "checked_at": None}),
            (3, "", "", "update", found["history"][1][4]),
        ]
        image = found["history"][1][4]
        assert (image["label"], image["pieces"], image["group_name"]) == ("x", 5, "g")
        assert found["index"] == [
            ("a", 3, "g", "2026-01-01", "2026-01-03", True),
            ("b", 2, None, "2026-01-01", "2026-01-02", False),
        ]
        assert found["types"] == [("specimen", {}, 0, "keepline", _THEN)]
    with store.write(Principal("ann")) as connection:
        connection.exec_driver_sql("UPDATE rec_specimen__part SET amount = 2")
    assert [row[:4] for row in _history_and_index(store)["history"]][2:] == [
        (4, "", "", "update"),
        (4, "part", "p", "update"),
    ]
    assert list(_faults(store)) == []
    store.close()


def _faults(store: Store) -> list[str]:
    """Return what is wrong with the triggers of a store."""
    with store.read() as connection:
        return list(faults(connection, schema.declared_types(connection)))


_THEN = datetime(2026, 1, 1, tzinfo=UTC)

_OLD_RECORDS = (
    (
        "INSERT INTO rec_specimen (record_key, group_name, label, pieces, row_born, row_rev, "
        "revision) VALUES ('a', 'g', 'x', 5, 11, 12, 3)"
    ),
    "INSERT INTO rec_specimen__part (record_key, part, amount) VALUES ('a', 'p', 1.5)",
    *(
        "INSERT INTO change_feed (record_type, record_key, revision, op, txid, changed_at) "
        f"VALUES ('specimen', '{key}', {revision}, '{op}', 0, "
        f"'2026-01-0{revision} 00:00:00.000000+00:00')"
        for key, revision, op in (
            ("a", 1, "insert"),
            ("a", 2, "update"),
            ("a", 3, "update"),
            ("b", 1, "insert"),
            ("b", 2, "delete"),
        )
    ),
)


def _second_form(declared: RecordType) -> dict[str, Any]:
    """Return a declaration as it was stored before types had more than fields."""
    parts = declared.to_json()
    kept = {key: parts[key] for key in ("name", "fields", "subtables", "comment")}
    old = ("name", "type", "unit", "comment", "required", "updatable", "choices")
    for each in (kept, *kept["subtables"]):
        each["fields"] = [{key: field[key] for key in old} for field in each["fields"]]
    return kept


def _history_and_index(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    h, i, c = records.record_history.c, records.record_index.c, records.record_type_change.c
    queries = {
        "history": sa.select(h.revision, h.subtable, h.sub_key, h.op, h.image).order_by(h.id),
        "index": sa.select(
            i.record_key, i.revision, i.group_name, i.created_at, i.changed_at, i.current
        ).order_by(i.record_key),
        "types": sa.select(c.record_type, c.renames, c.after_history, c.who, c.applied_at),
    }
    with store.read() as connection:
        found = {
            name: [tuple(row) for row in connection.execute(query)]
            for name, query in queries.items()
        }
    found["index"] = [
        (*row[:3], str(row[3])[:10], str(row[4])[:10], row[5]) for row in found["index"]
    ]
    return found


#: A session as the first schema has it.
_OLD_ROWS = (
    "INSERT INTO instrument (name, tz, comment) VALUES ('bench', 'UTC', '')",
    (
        "INSERT INTO capture_session (id, store_id, number, global_name, instrument, user_name,"
        " state, started_at) VALUES (3, 's', 1, 'capture:s:1', 'bench', 'ann', 'running',"
        " '2026-01-01 00:00:00+00:00')"
    ),
    (
        "INSERT INTO capture_session_change (id, session_id, state, changed_at, who, reason) VALUES"
        " (7, 3, 'running', '2026-01-01 00:00:00.000000+00:00', 'ann', 'began')"
    ),
    (
        "INSERT INTO stream (session_id, source, decoder, options, messages, readings, quarantined)"
        " VALUES (3, 'main', 'json', '{}', 5, 5, 0)"
    ),
    "INSERT INTO channel (session_id, source, name, dtype) VALUES (3, 'main', 'a', 'float64')",
)


def test_the_newest_revision_is_known() -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [schema.REVISIONS[-1]]
    assert [each.revision for each in script.walk_revisions()] == list(reversed(schema.REVISIONS))


def test_a_newer_schema_is_refused_and_left_alone(store: Store) -> None:
    with around(store) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNewError, match="9999"):
        schema.check(store)
    with pytest.raises(SchemaTooNewError, match="upgrade keepline"):
        schema.migrate(store)
    with around(store) as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    assert found == "9999"


def test_an_older_schema_asks_to_be_migrated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.check(store)
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    with pytest.raises(SchemaBehindError, match="keepline migrate"):
        schema.check(store)


def test_an_empty_database_asks_to_be_made(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(InstanceError, match="run `keepline migrate` to make"):
        schema.check(store)
    store.close()


def test_a_migration_that_breaks_a_reference_is_undone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    schema.migrate(store)
    with pytest.raises(InstanceError, match="broken references"), store.maintenance() as connection:
        connection.exec_driver_sql("INSERT INTO session VALUES ('s', 'no', 0, 0, 0, 'ERROR', 0)")
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM session").scalar() == 0
    store.close()


def _sqlite(folder: Path, make: Callable[[Store], None]) -> dict[tuple[str, str], object]:
    store = Store(f"sqlite:///{folder / make.__name__}.db")
    make(store)
    found = _sqlite_objects(store)
    store.close()
    return found


def _parts(sql: str) -> list[str]:
    """Split a table's definition at its outer commas: constraints come in any order.

    SQLite puts a name in quotes when a migration gave it to the table.
    """
    parts, depth = [""], 0
    for letter in " ".join(sql.replace('"', "").split()):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 1:
            parts.append("")
        else:
            parts[-1] += letter
    return sorted(part.strip(" )") for part in parts)


def _sqlite_objects(store: Store) -> dict[tuple[str, str], object]:
    query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%'"
    with store.read() as connection:
        return {
            (row.type, row.name): _parts(row.sql) if row.type == "table" else row.sql
            for row in connection.exec_driver_sql(query)
            if not row.name.startswith("sqlite_autoindex_alembic")
        }


def _postgresql(url: str, make: Callable[[Store], None]) -> dict[str, list[Any]]:
    store = Store(url)
    make(store)
    with store.read() as connection:
        found = {
            part: sorted((tuple(row) for row in connection.exec_driver_sql(query)), key=repr)
            for part, query in _CATALOGUE.items()
        }
    store.close()
    return {
        part: [row for row in rows if "alembic_version" not in map(str, row)]
        for part, rows in found.items()
    }
