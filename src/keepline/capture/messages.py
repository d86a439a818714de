"""Messages as callers give them: what a recording keeps of them, and what it refuses."""

from __future__ import annotations

import operator
from datetime import UTC, datetime

from keepline.model import to_us

_INT64 = 1 << 63
_FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US = to_us(datetime.max.replace(tzinfo=UTC))


def payload_of(message: object) -> bytes:
    """Return a message's bytes, text as UTF-8; raises TypeError for anything else."""
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    raise TypeError(f"a message is bytes or text, not {type(message).__name__}")


def checked_us(at_us: int) -> int:
    """Return UTC microseconds since 1970 that a datetime can hold.

    Raises TypeError for what is no whole number, ValueError for years other than 1 to 9999.
    """
    at_us = operator.index(at_us)
    if not _FIRST_US <= at_us <= _LAST_US:
        raise ValueError("at_us is UTC microseconds since 1970, from year 1 to 9999")
    return at_us


def checked_tick(tick: int) -> int:
    """Return a device's counter; raises TypeError or ValueError unless 64 bits hold it."""
    tick = operator.index(tick)
    if not -_INT64 <= tick < _INT64:
        raise ValueError("a tick has to fit 64 bits")
    return tick
