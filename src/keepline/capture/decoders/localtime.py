"""Times as files and messages hold them, turned into UTC."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime

from keepline.errors import DecodeError
from keepline.model import to_us


def zone(name: str) -> zoneinfo.ZoneInfo:
    """Return the IANA time zone of this name; raises DecodeError."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DecodeError(
            f"there is no time zone {name!r}; give an IANA name such as UTC or Europe/Berlin"
        ) from error


class LocalClock:
    """Reads the ISO 8601 times of one file or stream, row after row, in the zone of its clock.

    A time with an offset of its own keeps that. A local time that the clock showed twice,
    when it was put back, is the first one, unless the row before it is already later. One
    that the clock never showed, when it was put forward, is refused.
    """

    def __init__(self, tz: zoneinfo.ZoneInfo) -> None:
        self._tz = tz
        self._previous_us: int | None = None

    def follow(self, time_us: int) -> None:
        """Take the row before the next one to have had this time, in UTC microseconds."""
        self._previous_us = time_us

    def read(self, text: str) -> int:
        """Return a time as UTC microseconds; raises DecodeError."""
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise DecodeError("not a time in ISO 8601") from error
        try:
            found = self._local(moment) if moment.tzinfo is None else to_us(moment.astimezone(UTC))
        except OverflowError as error:
            raise DecodeError("a time out of range") from error
        self._previous_us = found
        return found

    def _local(self, moment: datetime) -> int:
        first = moment.replace(tzinfo=self._tz)
        second = first.replace(fold=1)
        before, after = first.utcoffset(), second.utcoffset()
        # to_us would subtract two clock readings of one zone, so both go through UTC.
        first_us = to_us(first.astimezone(UTC))
        if before == after or before is None or after is None:
            return first_us
        if before < after:
            raise DecodeError(f"{moment} does not exist in {self._tz.key}: clocks went forward")
        if self._previous_us is not None and self._previous_us > first_us:
            return to_us(second.astimezone(UTC))
        return first_us
