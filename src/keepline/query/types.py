"""The type objects and constructors of PEP 249. Every time is aware and in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from keepline.query.module import ColumnType


class TypeObject:
    """A kind of column; the second item of a description is one of these."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: Text, and JSON as text.
STRING = TypeObject("STRING")
#: Bytes.
BINARY = TypeObject("BINARY")
#: Integers, floats, decimals and booleans.
NUMBER = TypeObject("NUMBER")
#: Instants, dates, times of day and intervals.
DATETIME = TypeObject("DATETIME")
#: Row ids; no module has any yet.
ROWID = TypeObject("ROWID")

OF_COLUMN: dict[ColumnType, TypeObject] = {
    "text": STRING,
    "integer": NUMBER,
    "real": NUMBER,
    "boolean": NUMBER,
    "date": DATETIME,
    "datetime": DATETIME,
    "json": STRING,
    "binary": BINARY,
}

Date = date
Time = time
Binary = bytes


def Timestamp(  # noqa: N802 - PEP 249 fixes the name
    year: int,
    month: int,
    day: int,
    hour: int = 0,
    minute: int = 0,
    second: int = 0,
    microsecond: int = 0,
) -> datetime:
    """Return an instant given in UTC."""
    return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=UTC)


def DateFromTicks(ticks: float) -> date:  # noqa: N802 - PEP 249 fixes the name
    """Return the UTC date of a number of seconds since 1970."""
    return TimestampFromTicks(ticks).date()


def TimeFromTicks(ticks: float) -> time:  # noqa: N802 - PEP 249 fixes the name
    """Return the UTC time of day of a number of seconds since 1970."""
    return TimestampFromTicks(ticks).time()


def TimestampFromTicks(ticks: float) -> datetime:  # noqa: N802 - PEP 249 fixes the name
    """Return the instant, in UTC, of a number of seconds since 1970."""
    return datetime.fromtimestamp(ticks, UTC)
