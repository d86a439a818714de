"""The time that a message itself gives, and how it is written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.localtime import LocalClock, zone
from keepline.errors import DecodeError
from keepline.model import to_us

TimeFormat = Literal["iso", "unix_s", "unix_ms", "unix_us", "unix_ns"]

#: How many microseconds one unit has, or how many units make a microsecond, below 1.
_UNITS: dict[str, tuple[int, int]] = {
    "unix_s": (1_000_000, 1),
    "unix_ms": (1_000, 1),
    "unix_us": (1, 1),
    "unix_ns": (1, 1_000),
}

#: The times that a datetime can hold.
_FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US = to_us(datetime.max.replace(tzinfo=UTC))

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}\Z")


class TimeReader:
    """Reads the times of one stream, in order.

    `tz` is the zone of ISO times without an offset; see LocalClock for those that a clock shows
    twice or never.

    Raises:
        DecodeError: there is no such zone, or a zone with a Unix time.
    """

    def __init__(self, time_format: TimeFormat, tz: str | None) -> None:
        if tz is not None and time_format != "iso":
            raise DecodeError("tz is for time_format iso only: Unix times are in UTC")
        self._format = time_format
        self._clock = None if tz is None else LocalClock(zone(tz))

    def follow(self, time_us: int) -> None:
        """Take the message before the next one to have had this time, in UTC microseconds."""
        if self._clock is not None:
            self._clock.follow(time_us)

    def read(self, value: Any) -> int:
        """Return a time, given as text or a number, as UTC microseconds.

        A Unix time is cut to microseconds when it is whole, and rounded else. Raises
        DecodeError for what is no time.
        """
        if self._format == "iso":
            return _iso_us(value, self._clock)
        return unix_us(value, self._format)


def unix_us(value: Any, time_format: TimeFormat) -> int:
    """Return a Unix time, a number or its text, as UTC microseconds; raises DecodeError."""
    number: Any = _number(value.strip()) if isinstance(value, str) else value
    kind = type(number)
    if kind is not int and kind is not float:
        raise DecodeError("the time is not a number")
    times, parts = _UNITS[time_format]
    found: int | float = number * times // parts if kind is int else number * times / parts
    if _FIRST_US <= found <= _LAST_US:
        return round(found)
    raise DecodeError("the time is not a number" if found != found else "a time out of range")


def unix_column_us(
    values: NDArray[Any], time_format: TimeFormat
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a column of Unix times as UTC microseconds, and which of them are times.

    `values` is one-dimensional, of any type of whole numbers or floats.
    """
    times, parts = _UNITS[time_format]
    if values.dtype.kind == "f":
        with np.errstate(all="ignore"):
            found = np.rint(values.astype(np.float64) * times / parts)
            valid: NDArray[np.bool_] = (found >= _FIRST_US) & (found <= _LAST_US)
        return np.where(valid, found, 0).astype(np.int64), valid
    lowest, highest = -(-_FIRST_US * parts // times), _LAST_US * parts // times
    limits = np.iinfo(values.dtype)
    valid = (values >= max(lowest, limits.min)) & (values <= min(highest, limits.max))
    return np.where(valid, values, 0).astype(np.int64) * times // parts, valid


def _iso_us(value: Any, clock: LocalClock | None) -> int:
    if not isinstance(value, str):
        raise DecodeError("the time is not a text in ISO 8601")
    if clock is not None:
        return clock.read(value)
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError as error:
        raise DecodeError("not a time in ISO 8601") from error
    if moment.tzinfo is None:
        raise DecodeError("a time without an offset; name its zone with the option tz")
    found = to_us(moment)
    if not _FIRST_US <= found <= _LAST_US:
        raise DecodeError("a time out of range")
    return found


def _number(text: str) -> int | float | None:
    if _WHOLE.match(text):
        return int(text)
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
