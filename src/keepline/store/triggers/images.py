"""A row as the history keeps it, in the SQL of either database."""

from __future__ import annotations

import sqlalchemy as sa

from keepline.model import RecordType, SubTable
from keepline.store.triggers import postgresql_images, sqlite_images


def own_image(dialect: str, row: str, declared: RecordType) -> str:
    """Return the expression for the image of a record's own row, called `row` in a query."""
    if dialect == "sqlite":
        return sqlite_images.own_image(row, declared)
    return postgresql_images.own_image(row, declared)


def subrow_image(dialect: str, row: str, subtable: SubTable) -> str:
    """Return the expression for the image of a sub-row, called `row` in a query."""
    if dialect == "sqlite":
        return sqlite_images.subrow_image(row, subtable)
    return postgresql_images.subrow_image(row, subtable)


def plain_session(connection: sa.Connection) -> None:
    """Have this transaction's images look as those of the triggers, whatever its session set."""
    if connection.dialect.name == "postgresql":
        for setting in postgresql_images.PLAIN:
            name, _, value = setting.partition("=")
            connection.exec_driver_sql(f"SET LOCAL {name} = '{value}'")
