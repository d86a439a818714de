"""keepline's own triggers on a record type's tables, taken away and compared around a migration."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from keepline.errors import InstanceError
from keepline.model import Principal, RecordType
from keepline.store.triggers import install, postgresql, sqlite
from keepline.store.triggers.inspection import faults

_POSTGRESQL_WRITER = sa.text(
    "SELECT set_config('keepline.actor', :actor, true), "
    "set_config('keepline.reason', :reason, true), set_config('keepline.erasing', :erasing, true)"
)
_SQLITE_WRITER = sa.text(
    "UPDATE writer SET actor = :actor, reason = :reason, erasing = :erasing, txn = :txn"
)


def take_away(connection: sa.Connection, declared: RecordType) -> None:
    """Drop keepline's triggers on a type's tables."""
    if connection.dialect.name == "sqlite":
        for trigger in sqlite.record_triggers(declared):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger.name}")
        return
    for each in postgresql.record_triggers(declared):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {each.name} ON {each.table}")


def bring_back(connection: sa.Connection, declared: RecordType) -> None:
    """Make keepline's triggers for a declaration.

    Raises InstanceError unless they, and the tables' columns, are then as they should be.
    """
    install(connection, [declared])
    for fault in faults(connection, [declared]):
        raise InstanceError(fault)


@contextmanager
def acting(connection: sa.Connection, principal: Principal, reason: str) -> Iterator[None]:
    """Tell the triggers who writes in the block and why; finalised records take it, too."""
    writer = {"actor": principal.name, "reason": reason}
    if connection.dialect.name == "sqlite":
        more = {"erasing": 1, "txn": secrets.randbits(62)}
        connection.execute(_SQLITE_WRITER, writer | more)
        yield
        connection.execute(_SQLITE_WRITER, dict.fromkeys((*writer, *more)))
        return
    connection.execute(_POSTGRESQL_WRITER, writer | {"erasing": "on"})
    yield
    connection.execute(_POSTGRESQL_WRITER, {"actor": "", "reason": "", "erasing": ""})
