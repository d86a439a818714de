"""Making the fixed schema, and knowing which one a database has.

A new database is made by the same migrations that bring an old one up; a test compares the
outcome with the tables as they are declared.
"""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path

import sqlalchemy as sa

from keepline.errors import InstanceError, SchemaBehindError, SchemaTooNewError
from keepline.model import Principal, RecordType, utc_now
from keepline.store.engine import Store
from keepline.store.tables import LOOKUP_ROWS, common, metadata, records
from keepline.store.tables.declared import record_tables
from keepline.store.triggers import install
from keepline.store.triggers.backfill import backfill

#: Every schema revision that this version knows, oldest first.
REVISIONS = ("0001", "0002", "0003")

#: The advisory lock under which one migration waits for another; the number means nothing.
_MIGRATION_LOCK = 5_710_326_841

_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(store: Store) -> None:
    """Bring a database, empty or old, to the newest schema; in one transaction.

    Triggers that were dropped, changed or switched off are put right.
    Raises SchemaTooNewError, and changes nothing, when the schema is newer than that.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Alembic takes % for the start of an interpolation.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with store.maintenance() as connection:
        if store.dialect == "postgresql":  # on SQLite writers queue by themselves
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        if sa.inspect(connection).has_table("alembic_version"):
            _known(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        declared = declared_types(connection)
        install(connection, declared)
        _first_changes(connection)
        for each in declared:
            backfill(connection, each)
        if connection.execute(sa.select(common.instance.c.id)).first() is None:
            connection.execute(
                sa.insert(common.instance).values(
                    id=1,
                    store_id=uuid.uuid4().hex,
                    epoch=secrets.token_hex(8),
                    created_at=utc_now(),
                )
            )


def _first_changes(connection: sa.Connection) -> None:
    """Write down the applied declaration of each type that has none written down."""
    change, applied = records.record_type_change, records.record_type
    missing = applied.c.name.not_in(sa.select(change.c.record_type))
    for row in connection.execute(sa.select(applied).where(missing)).all():
        connection.execute(
            sa.insert(change).values(
                record_type=row.name,
                declaration=row.declaration,
                renames={},
                after_history=0,
                who=Principal.system().name,
                applied_at=row.applied_at,
            )
        )


def create_declared(connection: sa.Connection) -> None:
    """Make the schema straight from the declarations, for comparison with the migrations."""
    metadata.create_all(connection)
    install(connection)
    for table, names in LOOKUP_ROWS.items():
        connection.execute(sa.insert(table), [{"name": name} for name in names])


def check(store: Store) -> None:
    """Raise unless the database has the newest schema.

    Raises SchemaTooNewError, SchemaBehindError, or InstanceError for an empty database.
    """
    with store.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            where = store.engine.url.render_as_string(hide_password=True)
            raise InstanceError(
                f"there is no keepline store in {where}: set [store] url or KEEPLINE_STORE__URL "
                "to where it is, or run `keepline migrate` to make a new one there"
            )
        found = _known(connection)
    if found != REVISIONS[-1]:
        raise SchemaBehindError(
            f"the instance has schema {found}, this keepline needs {REVISIONS[-1]}; "
            "run `keepline migrate`"
        )


def _known(connection: sa.Connection) -> str:
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    if found not in REVISIONS:
        raise SchemaTooNewError(
            f"the instance has schema {found}, newer than this keepline knows; upgrade keepline"
        )
    return str(found)


def identity(store: Store) -> tuple[str, str]:
    """Return the instance's (store id, epoch)."""
    with store.read() as connection:
        row = connection.execute(
            sa.select(common.instance.c.store_id, common.instance.c.epoch)
        ).one()
    return row.store_id, row.epoch


def create_record_tables(connection: sa.Connection, declared: RecordType) -> None:
    """Make a record type's tables and triggers in the transaction of `connection`."""
    record_tables(declared).create_all(connection)
    install(connection, [declared])


def declared_types(connection: sa.Connection) -> list[RecordType]:
    """Return the record types whose declarations were applied to this database."""
    rows = connection.execute(sa.select(records.record_type.c.declaration))
    return [RecordType.from_json(row.declaration) for row in rows]
