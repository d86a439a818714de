"""Instants: aware datetimes, and UTC microseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Return an aware datetime as UTC microseconds since 1970, exactly.

    Raises ValueError for a naive datetime, TypeError for anything else.
    """
    if not isinstance(moment, datetime):
        raise TypeError(f"a time is an aware datetime, not {type(moment).__name__}")
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is refused; give it an explicit time zone")
    return (moment - EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Return UTC microseconds since 1970 as an aware datetime in UTC, exactly."""
    return EPOCH + timedelta(microseconds=microseconds)


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)
