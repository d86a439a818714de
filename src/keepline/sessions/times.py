"""The time of an event, as people and other software write it."""

from __future__ import annotations

from datetime import UTC, datetime

from keepline.errors import SessionLogError
from keepline.model import Instrument
from keepline.sessions.instruments import zone_of


def instant(timestamp: str | datetime, instrument: Instrument) -> datetime:
    """Return an event's time in UTC.

    Text is ISO 8601; without an offset it is read on the instrument's local clock: where that
    clock is set back and shows a time twice the first one is meant. A datetime needs a zone.
    Raises SessionLogError, also for a time that the clock never showed.
    """
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise SessionLogError(f"{timestamp} has no time zone; give it one")
        return timestamp.astimezone(UTC)
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        raise SessionLogError(f"{timestamp!r} is not an ISO 8601 time") from None
    if moment.tzinfo is not None:
        return _in_utc(moment, timestamp)
    local = moment.replace(tzinfo=zone_of(instrument))
    utc = _in_utc(local, timestamp)
    if utc.astimezone(local.tzinfo).replace(tzinfo=None) != moment:
        raise SessionLogError(f"{timestamp} was skipped by the clocks of {instrument.tz}")
    return utc


def _in_utc(moment: datetime, given: str) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise SessionLogError(f"{given} is beyond the calendar") from None
