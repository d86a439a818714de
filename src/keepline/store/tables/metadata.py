"""The one MetaData that Alembic compares with a database."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def lookup(name: str) -> sa.Table:
    """Return the table of a closed set of names; other tables refer to it by foreign key."""
    return sa.Table(name, metadata, sa.Column("name", sa.Text, primary_key=True))
