"""What the history keeps of a row, read back as the values that reading the row gives.

An image is a JSON object that a trigger wrote, under the names that the fields had then. What
comes back is the same value, but for the sign of a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from keepline.model import Field, RecordType
from keepline.store.tables.records import record_type_change

#: What an image holds beside the fields.
GROUP, FINALISED = "group_name", "finalised"

_INFINITE = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


@dataclass(frozen=True, slots=True)
class Renaming:
    """New names that a type got at once: former name -> name, sub-tables' fields with a dot.

    Images up to the history's row `after` have the former names.
    """

    after: int
    names: Mapping[str, str]


def renamings(connection: sa.Connection, record_type: str) -> tuple[Renaming, ...]:
    """Return the renamings of a record type, the oldest first."""
    change = record_type_change.c
    rows = connection.execute(
        sa.select(change.after_history, change.renames)
        .where(change.record_type == record_type)
        .order_by(change.id)
    )
    return tuple(Renaming(row.after_history, row.renames) for row in rows if row.renames)


def later_than(history_id: int, renames: Iterable[Renaming]) -> tuple[Renaming, ...]:
    """Return the renamings that came after a row of the history was written."""
    return tuple(each for each in renames if history_id <= each.after)


def decode(
    declared: RecordType,
    image: Mapping[str, Any],
    *,
    subtable: str = "",
    renames: Iterable[Renaming] = (),
) -> dict[str, Any]:
    """Return an image's values by the names of today, as reading the row would give them.

    `subtable` is the one that the row belonged to, by its name then; "" is the record itself.
    `renames` are those since the image was written, the oldest first. A field that the type
    no longer has keeps its name and its JSON value; one that it has got since is not there. A
    value that is not of its field's type, as SQLite may hold, stays as it is.
    """
    table, names = subtable, {name: name for name in image}
    for each in renames:
        table, names = _renamed(table, names, each.names)
    known = {field.name: field for field in _fields(declared, table)}
    return {
        name: decode_value(known[name], image[former]) if name in known else image[former]
        for former, name in names.items()
    }


def subtable_name(name: str, renames: Iterable[Renaming]) -> str:
    """Return today's name of the sub-table that was called `name` before `renames`."""
    for each in renames:
        name = each.names.get(name, name) if name else name
    return name


def decode_value(field: Field, value: Any) -> Any:
    """Return one value of an image as reading the field gives it."""
    if value is None or field.type not in _DECODERS:
        return value
    decoded = _DECODERS[field.type](value)
    return value if decoded is None else decoded


def _renamed(
    table: str, names: Mapping[str, str], new: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    if not table:
        return table, {former: new.get(name, name) for former, name in names.items()}
    found = {former: new.get(f"{table}.{name}", name) for former, name in names.items()}
    return new.get(table, table), {n: now.rpartition(".")[2] for n, now in found.items()}


def _fields(declared: RecordType, table: str) -> tuple[Field, ...]:
    if not table:
        return declared.fields
    return next((each.fields for each in declared.subtables if each.name == table), ())


def _real(value: Any) -> float | None:
    if isinstance(value, str):
        return _INFINITE.get(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return None


def _boolean(value: Any) -> bool | None:
    return bool(value) if isinstance(value, int) else None


def _date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _datetime(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
        # SQLite holds UTC without saying so.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _blob(value: Any) -> bytes | None:
    try:
        return bytes.fromhex(value.removeprefix("\\x"))
    except (AttributeError, ValueError):
        return None


_DECODERS: dict[str, Any] = {
    "real": _real,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "blob": _blob,
}
