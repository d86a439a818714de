"""keepline's own triggers on a record type's tables, taken away and compared around a migration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from keepline.errors import InstanceError
from keepline.model import Principal, RecordType
from keepline.store.engine import announce
from keepline.store.triggers import install, postgresql, sqlite
from keepline.store.triggers.inspection import faults


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
    announce(connection, principal.name, reason, erasing=True)
    yield
    announce(connection, None)
