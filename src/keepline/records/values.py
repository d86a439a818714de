"""The values that a field takes, and when two of them are the same."""

from __future__ import annotations

import copy
import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

from keepline.errors import InvalidRecordError
from keepline.model import Field
from keepline.store.tables.declared import MAX_BYTES

_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "real": (int, float),
    "boolean": (bool,),
    "date": (date,),
    "datetime": (datetime,),
    "blob": (bytes, bytearray, memoryview),
}


def checked(field: Field, value: Any) -> Any:
    """Return `value` as `field` keeps it, on any database; raises InvalidRecordError.

    Nothing is guessed: text is no number, a boolean no integer and a time no date. A whole
    number becomes a real one where the field is real; a time needs a zone; a number that is
    not one is refused, since None says that a value is missing; JSON values and bytes are
    copied. The field's codes for missing values are taken beside its choices and bounds.
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
    value = _CHECKS[field.type](field, value)
    if value not in field.missing_codes:
        _check_range(field, value)
    return value


def _check_range(field: Field, value: Any) -> None:
    if field.choices and value not in field.choices:
        allowed = ", ".join(map(str, (*field.choices, *field.missing_codes)))
        raise InvalidRecordError(f"{field.name} is one of: {allowed}")
    if field.minimum is not None and value < field.minimum:
        raise InvalidRecordError(f"{field.name} is at least {field.minimum:g}")
    if field.maximum is not None and value > field.maximum:
        raise InvalidRecordError(f"{field.name} is at most {field.maximum:g}")


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


def _date(field: Field, value: date) -> date:
    if isinstance(value, datetime):
        raise InvalidRecordError(f"{field.name} takes date, not datetime")
    return value


def _blob(field: Field, value: bytes | bytearray | memoryview) -> bytes:
    size = value.nbytes if isinstance(value, memoryview) else len(value)
    if size > (most := field.max_bytes or MAX_BYTES):
        raise InvalidRecordError(f"{field.name} holds at most {most:,} bytes, not {size:,}")
    return bytes(value)


def _datetime(field: Field, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InvalidRecordError(f"{field.name} needs a time zone")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise InvalidRecordError(f"{field.name} is, in UTC, not within years 1 to 9999") from None
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
    "date": _date,
    "datetime": _datetime,
    "blob": _blob,
}
