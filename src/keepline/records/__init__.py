"""Records that many people edit at once, with no edit lost in silence."""

from __future__ import annotations

from keepline.records.business import BusinessObject, business_class
from keepline.records.classhints import jsonclasshintify
from keepline.records.outcomes import Conflict, Outcome, SaveResult
from keepline.records.put import put_record
from keepline.records.types import INSTRUMENT_SESSION, apply_type, load_type, load_types

__all__ = [
    "INSTRUMENT_SESSION",
    "BusinessObject",
    "Conflict",
    "Outcome",
    "SaveResult",
    "apply_type",
    "business_class",
    "jsonclasshintify",
    "load_type",
    "load_types",
    "put_record",
]
