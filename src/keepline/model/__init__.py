"""Frozen values that cross folders; nothing here does I/O or loads a heavy library."""

from __future__ import annotations

from keepline.model.capture import (
    CAPTURE_STATES,
    DTYPES,
    LEVELS,
    MAX_STEP_US,
    CaptureState,
    Channel,
    Chunk,
    DType,
    Level,
    Loss,
    SessionInfo,
    StreamSpec,
    TickClock,
)
from keepline.model.common import Instrument, Principal, stable_hash
from keepline.model.records import (
    Field,
    FieldGroup,
    FieldType,
    RecordImage,
    RecordKey,
    RecordType,
    Scalar,
    SubTable,
)
from keepline.model.times import EPOCH, from_us, to_us, utc_now

__all__ = [
    "CAPTURE_STATES",
    "DTYPES",
    "EPOCH",
    "LEVELS",
    "MAX_STEP_US",
    "CaptureState",
    "Channel",
    "Chunk",
    "DType",
    "Field",
    "FieldGroup",
    "FieldType",
    "Instrument",
    "Level",
    "Loss",
    "Principal",
    "RecordImage",
    "RecordKey",
    "RecordType",
    "Scalar",
    "SessionInfo",
    "StreamSpec",
    "SubTable",
    "TickClock",
    "from_us",
    "stable_hash",
    "to_us",
    "utc_now",
]
