"""Making writers of a table wait for one another."""

from __future__ import annotations

import sqlalchemy as sa


def queue_writers(connection: sa.Connection, table: sa.Table) -> None:
    """Let nobody else write `table` until this transaction ends; readers go on.

    What is decided from the table's rows then still holds when it is written. SQLite's write
    transactions queue by themselves. Take it before anything else in a transaction, so that
    two writers never wait for each other.
    """
    if connection.dialect.name == "postgresql":
        name = connection.dialect.identifier_preparer.format_table(table)
        connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
