"""Values of one field type as another one has them, when a migration changes the type.

Nothing is guessed: a value that the new type cannot say exactly is not converted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from keepline.errors import InvalidRecordError
from keepline.model import Field
from keepline.records.values import checked

_LARGEST = 2**63


def convert(old: Field, new: Field, value: Any) -> Any:
    """Return a value of the field `old` as `new` holds it.

    Raises InvalidRecordError when it cannot, or when it breaks a rule of `new`.
    """
    way = _WAYS.get((old.type, new.type)) or _TO_ANY.get(new.type)
    if way is None:
        raise InvalidRecordError(f"{old.type} does not become {new.type}")
    try:
        return checked(new, way(value))
    except (ValueError, OverflowError, AttributeError) as error:
        raise InvalidRecordError(f"{new.name}: not {new.type}") from error


def changes_images(old: Field, new: Field) -> bool:
    """Return whether converted values are others than those that the history holds."""
    return old.type != new.type and (old.type, new.type) != ("integer", "real")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):  # a datetime is one too, and is in UTC
        return value.isoformat()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _json(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else _text(value)


def _of_json(kind: type) -> Callable[[Any], Any]:
    def taken(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError
        return value

    return taken


def _real_of_json(value: Any) -> float:
    return _real_of_integer(value) if type(value) is int else float(_of_json(float)(value))


def _real_of_integer(value: int) -> float:
    real = float(value)
    if int(real) != value:
        raise ValueError
    return real


def _integer_of_real(value: float) -> int:
    if not math.isfinite(value) or int(value) != value or not -_LARGEST <= value < _LARGEST:
        raise ValueError
    return int(value)


def _boolean_of_integer(value: int) -> bool:
    if value not in (0, 1):
        raise ValueError
    return bool(value)


def _boolean_of_text(value: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[value.strip().lower()]


def _datetime_of_text(value: str) -> datetime:
    moment = datetime.fromisoformat(value.strip())
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


def _real_of_text(value: str) -> float:
    real = float(value)
    if math.isnan(real):
        raise ValueError
    return real


def _strict(way: Callable[[str], Any]) -> Callable[[str], Any]:
    # Python also takes 1_000 and digits of other scripts for numbers.
    def taken(value: str) -> Any:
        if "_" in value or not value.isascii():
            raise ValueError
        try:
            return way(value)
        except KeyError:
            raise ValueError from None

    return taken


_TO_ANY: dict[str, Callable[[Any], Any]] = {"text": _text, "json": _json}

_WAYS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("integer", "real"): _real_of_integer,
    ("real", "integer"): _integer_of_real,
    ("integer", "boolean"): _boolean_of_integer,
    ("boolean", "integer"): int,
    ("text", "integer"): _strict(int),
    ("text", "real"): _strict(_real_of_text),
    ("text", "boolean"): _strict(_boolean_of_text),
    ("text", "date"): lambda value: date.fromisoformat(value.strip()),
    ("text", "datetime"): _datetime_of_text,
    ("text", "blob"): bytes.fromhex,
    ("json", "text"): _text,
    ("json", "integer"): _of_json(int),
    ("json", "real"): _real_of_json,
    ("json", "boolean"): _of_json(bool),
}
