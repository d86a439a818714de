"""A record as JSON: one canonical form, the same bytes for the same content."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from keepline.model import RecordImage


def record_value(image: RecordImage) -> dict[str, Any]:
    """Return a record as JSON values: type, key, revision, group, fields, sub-tables' rows.

    The number of its subject, and whether it is finalised, stand there where its type has them.
    Dates and times are ISO 8601, times in UTC with microseconds; bytes are base64 (RFC 4648,
    section 4); a number that JSON cannot hold is the text ``NaN``, ``Infinity`` or ``-Infinity``.
    """
    found: dict[str, Any] = plain(_content(image))
    return found


def record_json(image: RecordImage, *, indent: int | None = None) -> str:
    """Return `record_value` as JSON text, keys sorted."""
    return dumps(_content(image), indent=indent)


def _content(image: RecordImage) -> dict[str, Any]:
    content = {
        "type": image.type.name,
        "key": image.key,
        "revision": image.revision,
        "group": image.group,
        "fields": image.values,
        "subtables": image.subrows,
    }
    if image.type.subject:
        content["subject"] = image.subject
    if image.type.finalised:
        content["finalised"] = image.finalised
    return content


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return JSON text with sorted keys and no escapes that UTF-8 does not need."""
    separators = (",", ":") if indent is None else None
    return json.dumps(
        plain(value),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        indent=indent,
        separators=separators,
    )


def plain(value: Any) -> Any:
    """Return `value` with dates, times, bytes and numbers that JSON cannot hold as text."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return value
