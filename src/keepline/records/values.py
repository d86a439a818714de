"""The values that a field takes, and when two of them are the same."""

from __future__ import annotations

import copy
import json
import math
from datetime import datetime, timedelta
from typing import Any

from keepline.errors import InvalidRecordError
from keepline.model import Field

_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "real": (int, float),
    "boolean": (bool,),
    "datetime": (datetime,),
}


def checked(field: Field, value: Any) -> Any:
    """Return `value` as `field` keeps it, on any database; raises InvalidRecordError.

    Nothing is guessed: text is no number and a boolean no integer. A whole number becomes a
    real one where the field is real; a time needs a zone; a number that is not one is refused,
    since None says that a value is missing; a JSON value is copied.
    """
    if value is None:
        if field.required:
            raise InvalidRecordError(f"{field.name} needs a value")
        return None
    if field.type == "json":
        return _json(field, value)
    kinds = _KINDS[field.type]
    if not isinstance(value, kinds) or (isinstance(value, bool) and field.type != "boolean"):
        raise InvalidRecordError(f"{field.name} takes {field.type}, not {type(value).__name__}")
    if field.choices and value not in field.choices:
        raise InvalidRecordError(f"{field.name} is one of: {', '.join(field.choices)}")
    return _CHECKS[field.type](field, value)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to a field, at any depth.

    1 is not True and 1 is not 1.0; a number that is not one equals itself; times are the same
    when they are the same instant, whatever their zones and folds.
    """
    if isinstance(one, datetime) and isinstance(other, datetime):
        # Within one zone Python itself compares clock readings, and folds are lost.
        return (one.utcoffset() is None) == (other.utcoffset() is None) and _utc(one) == _utc(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return bool(one == other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def own(value: Any) -> Any:
    """Return a value that no later change in place of `value` reaches."""
    return copy.deepcopy(value) if isinstance(value, dict | list) else value


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None, fold=0) - (moment.utcoffset() or timedelta())


def _text(field: Field, value: str) -> str:
    if "\x00" in value:
        raise InvalidRecordError(f"{field.name} cannot hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRecordError(f"{field.name} holds half a surrogate pair") from None
    return str.__str__(value)  # a subclass has equality of its own


def _integer(field: Field, value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidRecordError(f"{field.name} is beyond 64 bits")
    return int(value)


def _real(field: Field, value: float) -> float:
    try:
        real = float(value)
    except OverflowError:
        raise InvalidRecordError(f"{field.name} is beyond what a real number holds") from None
    if math.isnan(real):
        raise InvalidRecordError(f"{field.name} is not a number; None says that it is missing")
    return real


def _boolean(_field: Field, value: bool) -> bool:
    return value


def _datetime(field: Field, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InvalidRecordError(f"{field.name} needs a time zone")
    return value


def _json(field: Field, value: Any) -> Any:
    try:
        text = json.dumps(value, allow_nan=False)
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"{field.name} does not fit into JSON: {error}") from None
    plain = json.loads(text)
    if not same(plain, value):
        raise InvalidRecordError(f"{field.name} does not come back from JSON as it went in")
    if "\\u0000" in text.replace("\\\\", ""):
        raise InvalidRecordError(f"{field.name} cannot hold a NUL character")
    return plain


_CHECKS: dict[str, Any] = {
    "text": _text,
    "integer": _integer,
    "real": _real,
    "boolean": _boolean,
    "datetime": _datetime,
}
