"""Making the archive's tables anew, and the items that a new one begins with."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.model import Principal, to_us, utc_now
from keepline.store import Store, schema
from keepline.store.tables import capture as tables
from keepline.store.tables import metadata
from keepline.store.triggers import install

#: Settings, with the values that they begin with.
CONFIGURATION: dict[str, Any] = {"sample_rate_hz": 50, "chart_points": 2000}

#: Categories to try a display with: their unit, and values a second apart.
TESTING: dict[str, tuple[str | None, tuple[float | str, ...]]] = {
    "temperature": ("°C", (20.5, 20.75, 21.0)),
    "pressure": ("kPa", (101.3, 101.25, 101.4)),
    "state": (None, ("idle", "running", "idle")),
}


def fill(connection: sa.Connection, principal: Principal, *, testing: bool) -> None:
    """Add the settings and, for `testing`, the categories that are not there yet."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    now = utc_now()
    settings = [
        {"key": key, "value": value, "changed_at": now, "who": principal.name}
        for key, value in CONFIGURATION.items()
    ]
    connection.execute(dialect.insert(tables.config_item).on_conflict_do_nothing(), settings)
    if not testing:
        return
    category = tables.category
    for name, (unit, values) in TESTING.items():
        insert = dialect.insert(category).values(name=name, unit=unit).on_conflict_do_nothing()
        made = connection.execute(insert.returning(category.c.id)).scalar()
        if made is None:
            continue
        connection.execute(
            sa.insert(tables.cached_reading),
            [
                {"category_id": made, "logged_us": to_us(now) + place * 1_000_000, "value": value}
                for place, value in enumerate(values)
            ],
        )


def make_again(store: Store) -> None:
    """Drop the archive's tables and make them again, empty, in one transaction."""
    mine = [each for each in vars(tables).values() if isinstance(each, sa.Table)]
    with store.maintenance() as connection:
        metadata.drop_all(connection, tables=mine)
        metadata.create_all(connection, tables=mine)
        install(connection, schema.declared_types(connection))
        for table, names in tables.ROWS.items():
            connection.execute(sa.insert(table), [{"name": name} for name in names])
