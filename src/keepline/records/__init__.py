"""Records that many people edit at once, with no edit lost in silence."""

from __future__ import annotations

from keepline.records.batch import save_all
from keepline.records.bundles import Bundle, checkout
from keepline.records.business import BusinessObject, business_class
from keepline.records.checkins import checkin
from keepline.records.classhints import jsonclasshintify
from keepline.records.composite import CompositeObject, CompositeResult, Part
from keepline.records.etag import ETag
from keepline.records.importing import import_csv
from keepline.records.index import Indexed, find
from keepline.records.outcomes import Conflict, Outcome, SaveResult
from keepline.records.put import put_record
from keepline.records.revisions import as_of, differences, history
from keepline.records.types import INSTRUMENT_SESSION, apply_type, load_type, load_types

__all__ = [
    "INSTRUMENT_SESSION",
    "Bundle",
    "BusinessObject",
    "CompositeObject",
    "CompositeResult",
    "Conflict",
    "ETag",
    "Indexed",
    "Outcome",
    "Part",
    "SaveResult",
    "apply_type",
    "as_of",
    "business_class",
    "checkin",
    "checkout",
    "differences",
    "find",
    "history",
    "import_csv",
    "jsonclasshintify",
    "load_type",
    "load_types",
    "put_record",
    "save_all",
]
