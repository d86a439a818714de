"""Objects as JSON with class hints.

The form is that of JSON-RPC 1.0, section 3, "JSON Class hinting": an object whose
``__jsonclass__`` is a list of a constructor's name and its arguments, beside the object's
own properties.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta, tzinfo
from datetime import time as clock_time
from typing import Any

from keepline.records.business import BusinessObject


def jsonclasshintify(obj: Any) -> Any:
    """Turn data into plain dicts and lists that say what they were.

    A business object becomes a dict with its fields and sub-rows and a ``__jsonclass__`` of
    its class's name, record type and key; times, time differences, zones, bytes (in base64) and
    dataclasses likewise. Lists and dicts are gone through at any depth; a number that JSON
    cannot hold becomes the hint ``Number`` with its name. Plain values stay as they are.
    """
    if isinstance(obj, BusinessObject):
        return {
            "__jsonclass__": [type(obj).__name__, [obj.record_type.name, obj.key]],
            **{name: jsonclasshintify(obj[name]) for name in obj.fields},
            **{
                subtable.name: jsonclasshintify(obj.subrows(subtable.name))
                for subtable in obj.record_type.subtables
            },
        }
    if is_dataclass(obj) and not isinstance(obj, type):
        values = {field.name: getattr(obj, field.name) for field in fields(obj)}
        return {"__jsonclass__": [type(obj).__name__, []], **jsonclasshintify(values)}
    if isinstance(obj, Mapping):
        return {str(key): jsonclasshintify(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple | set | frozenset):
        return [jsonclasshintify(each) for each in obj]
    return _hinted(obj)


def _hinted(value: Any) -> Any:
    if isinstance(value, datetime):
        hint = {"__jsonclass__": ["DateTime", [value.isoformat(timespec="microseconds")]]}
        return hint if value.tzinfo is None else hint | {"tzinfo": _hinted(value.tzinfo)}
    if isinstance(value, date | clock_time):
        return {"__jsonclass__": [type(value).__name__.capitalize(), [value.isoformat()]]}
    if isinstance(value, timedelta):
        parts = [value.days, value.seconds, value.microseconds]
        return {"__jsonclass__": ["TimeDelta", parts]}
    if isinstance(value, bytes):
        return {"__jsonclass__": ["Bytes", [base64.b64encode(value).decode("ascii")]]}
    if isinstance(value, tzinfo):
        return {"__jsonclass__": ["TimeZone", [str(value)]]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"__jsonclass__": ["Number", [repr(value)]]}
    return value
