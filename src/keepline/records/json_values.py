"""How a record's values look in files that people edit: plain JSON values.

Dates and times are ISO 8601, times with their zone; blobs are base64 (RFC 4648, section 4),
numbers without an end ``"Infinity"`` or ``"-Infinity"``, no value is null; everything else is as
JSON has it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from keepline.errors import InvalidRecordError
from keepline.model import Field, RecordType
from keepline.records.values import checked

_DEEPEST = 100
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def plain_value(value: Any) -> Any:
    """Return a field's value as JSON has it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    return value


def typed_value(field: Field, plain: Any) -> Any:
    """Return a JSON value as `field` keeps it; raises InvalidRecordError for any other."""
    if isinstance(plain, str) and field.type in _READERS:
        try:
            plain = _READERS[field.type](plain)
        except (KeyError, ValueError, OverflowError):
            raise InvalidRecordError(f"{field.name} takes {_SHAPES[field.type]}") from None
    return checked(field, plain)


def updatable(declared: RecordType) -> tuple[Field, ...]:
    """Return the fields that people may set."""
    return tuple(field for field in declared.fields if field.updatable)


def digest_of(content: Any) -> str:
    """Return the SHA-256 (hex) of plain values, the same for the same content."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(text: str) -> Any:
    """Return what JSON text says; raises ValueError where two readers might differ about it.

    A name that stands twice in an object, numbers that JSON does not have, and more than 100
    levels are refused.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return found
    raise ValueError("it is nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice in one object")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f'{name} is no JSON; write "Infinity" as text, or null')


_READERS: dict[str, Any] = {
    "real": _INFINITE.__getitem__,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "blob": partial(base64.b64decode, validate=True),
}

_SHAPES = {
    "real": "a number",
    "date": "a date such as 2026-03-02",
    "datetime": "a time such as 2026-03-02T10:00:00Z",
    "blob": "bytes in base64",
}
