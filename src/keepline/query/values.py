"""Making a caller's value one of a column's type."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from keepline.errors import DataError
from keepline.query.module import ColumnType


def coerce(value: Any, type_: ColumnType, name: str) -> Any:
    """Return `value` as the Python type of a column; `name` is the column's, for the error.

    Text takes anything, by `str()`; the others take their own type and its text, a date and a
    datetime as ISO 8601, the latter with a zone. Raises DataError, which does not show the value.
    """
    try:
        return _COERCE[type_](value)
    except (ValueError, TypeError, OverflowError):
        kind = type(value).__name__
        raise DataError(f"{name} holds {_MEANING[type_]}, which this {kind} is not") from None


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    try:
        number = operator.index(value)
    except TypeError:
        number = int(str(value))
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def _real(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value if hasattr(value, "__float__") else str(value))
    if math.isnan(number):
        raise ValueError
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    name = str(value).lower()
    if name not in ("true", "false"):
        raise ValueError
    return name == "true"


def _date(value: Any) -> date:
    if isinstance(value, datetime):  # which of its days is meant depends on a zone
        raise TypeError
    return value if isinstance(value, date) else date.fromisoformat(str(value))


def _datetime(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _binary(value: Any) -> bytes:
    return bytes(memoryview(value))


_COERCE: dict[ColumnType, Callable[[Any], Any]] = {
    "text": str,
    "integer": _integer,
    "real": _real,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "json": _json,
    "binary": _binary,
}

_MEANING: dict[ColumnType, str] = {
    "text": "text",
    "integer": "whole numbers of 64 bits",
    "real": "numbers",
    "boolean": "true or false",
    "date": "dates",
    "datetime": "times with a zone",
    "json": "JSON",
    "binary": "bytes",
}
