"""The instruments whose use is logged."""

from __future__ import annotations

from dataclasses import fields
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.errors import SessionLogError
from keepline.model import Instrument, Principal
from keepline.store.current import Current, current
from keepline.store.tables.common import instrument as instrument_table

_DEFAULTS = {field.name: field.default for field in fields(Instrument) if field.name != "name"}


def add_instrument(instrument: Instrument, *, instance: Current | None = None) -> bool:
    """See to it that the session log knows `instrument`; return whether it was new.

    Of one that is known already, what is given explicitly (anything but the default of
    `Instrument`) replaces what was kept; the rest stays, so that naming an instrument again
    never takes its zone or group away. Raises SessionLogError for a zone that is not an IANA
    time zone, or an empty name.
    """
    if not instrument.name.strip():
        raise SessionLogError("an instrument needs a name")
    zone_of(instrument)
    values = {
        "name": instrument.name,
        "tz": instrument.tz,
        "group_name": instrument.group,
        "comment": instrument.comment,
    }
    with current(instance).store.write(Principal.system()) as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(instrument_table).values(values).on_conflict_do_nothing()
        if connection.execute(insert.returning(instrument_table.c.name)).first():
            return True
        if explicit := _explicit(instrument):
            connection.execute(
                sa.update(instrument_table)
                .where(instrument_table.c.name == instrument.name)
                .values(explicit)
            )
    return False


def list_instruments(*, instance: Current | None = None) -> list[Instrument]:
    """Return the known instruments, by name."""
    with current(instance).store.read() as connection:
        rows = connection.execute(sa.select(instrument_table).order_by(instrument_table.c.name))
        return [instrument_of(row) for row in rows]


def find_instrument(connection: sa.Connection, name: str) -> Instrument | None:
    """Return the instrument called `name`, or None."""
    query = sa.select(instrument_table).where(instrument_table.c.name == name)
    row = connection.execute(query).one_or_none()
    return None if row is None else instrument_of(row)


def instrument_of(row: sa.Row[tuple[object, ...]]) -> Instrument:
    """Return the instrument that a row of the table `instrument` holds."""
    return Instrument(row.name, tz=row.tz, group=row.group_name, comment=row.comment)


def zone_of(instrument: Instrument) -> ZoneInfo:
    """Return the time zone of an instrument's clock; raises SessionLogError."""
    try:
        return ZoneInfo(instrument.tz)
    except (KeyError, ValueError, OSError):
        raise SessionLogError(
            f"{instrument.tz!r} is not an IANA time zone such as Europe/Berlin"
        ) from None


def _explicit(instrument: Instrument) -> dict[str, object]:
    columns = {"tz": "tz", "group": "group_name", "comment": "comment"}
    return {
        column: getattr(instrument, name)
        for name, column in columns.items()
        if getattr(instrument, name) != _DEFAULTS[name]
    }
