"""The triggers that stamp records and guard logs, one file a dialect."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from keepline.errors import ConfigError
from keepline.model import RecordType
from keepline.store.triggers import postgresql, sqlite

_DIALECTS = {"sqlite": sqlite, "postgresql": postgresql}


def install(connection: sa.Connection, declared: Iterable[RecordType] = ()) -> None:
    """Make, or make again, the triggers of the fixed tables and of record types.

    Statements that were changed by a migration in silence are so brought back; triggers that
    are not keepline's are left alone.
    """
    dialect = _DIALECTS.get(connection.dialect.name)
    if dialect is None:
        raise ConfigError("the SQL store is neither SQLite nor PostgreSQL")
    statements = [*dialect.fixed(), *(line for each in declared for line in dialect.record(each))]
    for statement in statements:
        # Without parameters, nothing is taken for a placeholder.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
