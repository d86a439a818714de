"""Small tables beside the archive as plain values: what `Archive.add`, `find` and so on take.

An `id` of None means that the item is not in the archive yet. Times are aware; those that are
left out are set when the item is added.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from keepline.capture.archive.readings import Value
from keepline.capture.decoders.decoder import MAX_NAME_BYTES
from keepline.errors import CaptureError, UnknownFieldError
from keepline.model import Principal, from_us, to_us, utc_now
from keepline.store.tables import capture as tables

_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Category:
    """What values are about: its name, and the unit that they have."""

    name: str
    unit: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """One of the latest values of a category, for display."""

    category_id: int
    logged_at: datetime
    value: Value
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A setting that programs keep with the data; its value is plain JSON. No secrets."""

    key: str
    value: Any
    changed_at: datetime | None = None
    who: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """What went wrong, for people to see; a higher severity is worse."""

    description: str
    severity: int = 1
    logged_at: datetime | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session that the capture store `store_id` says it has; None is the archive's own.

    It is `available` once the archive holds as many messages as are listed.
    """

    number: int
    started_at: datetime
    ended_at: datetime | None
    messages: int
    available: bool = False
    store_id: str | None = None


#: A kind of item that has a table of its own.
Item = Category | Cache | Config | Notification | ListedSession

_TABLES: dict[type[Any], sa.Table] = {
    Category: tables.category,
    Cache: tables.cached_reading,
    Config: tables.config_item,
    Notification: tables.notification,
    ListedSession: tables.listed_session,
}


def table_of(model: type[Any]) -> sa.Table:
    """Return the table of a model; raises CaptureError for a class that is none."""
    table = _TABLES.get(model)
    if table is None:
        names = ", ".join(["Reading", *(each.__name__ for each in _TABLES)])
        kind = getattr(model, "__name__", type(model).__name__)
        raise CaptureError(f"{kind} is no model of the archive; there are {names}")
    return table


def row_of(item: Item, principal: Principal, store_id: str) -> dict[str, Any]:
    """Return the columns of a new item's row.

    Raises CaptureError for an item that has an id, or a value that no database could keep.
    """
    row: dict[str, Any] = {each.name: getattr(item, each.name) for each in dataclasses.fields(item)}
    if row.pop("id", None) is not None:
        raise CaptureError(f"the {type(item).__name__} is in the archive already")
    if isinstance(item, Category) and item.unit is not None:
        storable(item.unit)
    if isinstance(item, Cache):
        row["logged_us"] = to_us(moment(row.pop("logged_at")))
        row["value"] = cached_value(item.value)
    elif isinstance(item, Config):
        row["value"] = plain_json(item.value)
        row["changed_at"] = item.changed_at or utc_now()
        row["who"] = storable(item.who or principal.name)
    elif isinstance(item, Notification):
        row["logged_at"] = item.logged_at or utc_now()
    elif isinstance(item, ListedSession):
        row["store_id"] = storable(item.store_id or store_id)
    for name in ("name", "key"):
        if name in row:
            storable_name(row[name])
    storable(row.get("description", ""))
    for name in ("severity", "category_id", "number", "messages"):
        _whole(row.get(name, 0), 31 if name == "severity" else 63)
    return row


def _whole(value: Any, bits: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**bits) <= value < 2**bits:
        raise CaptureError(f"a whole number of at most {bits + 1} bits is expected")


def item_of(model: type[Any], row: Any) -> Any:
    """Return a table's row as an item of its model."""
    values = dict(row._mapping)
    if model is Cache:
        values["logged_at"] = from_us(values.pop("logged_us"))
    return model(**values)


def condition(model: type[Any], query: Mapping[str, Any]) -> sa.ColumnElement[bool]:
    """Return the condition that each named field has the given value.

    A field `value` is JSON, which each database compares in its own way: see `has_value`.
    Raises UnknownFieldError for a name that is no field of the model.
    """
    table = table_of(model)
    check_fields(model, query)
    parts: list[sa.ColumnElement[bool]] = []
    for name, value in query.items():
        if name == "value":
            continue
        if isinstance(value, str) and not _is_storable(value):
            parts.append(sa.false())  # no item has it, and databases refuse to look for it
        elif value is None:
            parts.append(sa.false() if name == "logged_at" else table.c[name].is_(None))
        elif name == "logged_at" and model is Cache:
            parts.append(table.c.logged_us == to_us(moment(value)))
        else:
            parts.append(table.c[name] == value)
    return sa.and_(sa.true(), *parts)


def has_value(item: Any, query: Mapping[str, Any]) -> bool:
    """Return whether an item has the value that a query asks for, if it does."""
    return "value" not in query or item.value == query["value"]


def check_fields(model: type[Any], query: Mapping[str, Any]) -> None:
    """Raise UnknownFieldError unless every name in a query is a field of the model."""
    known = [each.name for each in dataclasses.fields(model)]
    for name in query:
        if name not in known:
            raise UnknownFieldError(
                f"a {model.__name__} has no field {name!r}; there are {', '.join(known)}"
            )


def moment(time: datetime | float) -> datetime:
    """Return an aware datetime, or a UNIX timestamp in seconds, as an aware datetime in UTC.

    Raises CaptureError for anything else, or a time that cannot be.
    """
    if isinstance(time, datetime) and time.tzinfo is not None:
        return time.astimezone(UTC)
    if isinstance(time, int | float) and not isinstance(time, bool):
        try:
            return from_us(round(time * 1_000_000))
        except (OverflowError, ValueError):
            pass
    raise CaptureError("a time is an aware datetime, or a UNIX timestamp in seconds")


def storable(text: str) -> str:
    """Return a text that every database can keep; raises CaptureError for another one."""
    if not isinstance(text, str):
        raise CaptureError(f"a text is expected, not {type(text).__name__}")
    if not _is_storable(text):
        raise CaptureError("a text holds NUL, or half a surrogate pair, which cannot be kept")
    return text


def storable_name(text: str) -> str:
    """Return a name that every database can keep and index; raises CaptureError for another."""
    if not 0 < len(storable(text).encode()) <= MAX_NAME_BYTES:
        raise CaptureError(f"a name has 1 to {MAX_NAME_BYTES:,} bytes in UTF-8")
    return text


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def plain_json(value: Any) -> Any:
    """Return a value that JSON can hold as it is; raises CaptureError for another one."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CaptureError("the value is not plain JSON: finite numbers, texts, ...") from error
    json.loads(text, parse_int=_check_whole)
    if "\\u0000" in text.replace("\\\\", ""):
        raise CaptureError("the value holds NUL, which cannot be kept")
    return value


def _check_whole(digits: str) -> None:
    if not -_INT64 <= int(digits) < _INT64:
        raise CaptureError("the value holds a whole number that does not fit 64 bits")


def cached_value(value: Value) -> Value:
    """Return a value that the cache can hold; raises CaptureError for another one."""
    if not isinstance(value, int | float | bool | str):
        raise CaptureError(f"a value is a number, truth or text, not {type(value).__name__}")
    plain_json(value)
    return value
