"""The times of events, on an instrument's own clock."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.errors import SessionLogError
from keepline.model import Instrument
from keepline.sessions.times import instant

BERLIN = Instrument("m1", tz="Europe/Berlin")


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        ("2024-01-10T12:00:00", "2024-01-10T11:00:00+00:00"),  # winter
        ("2024-07-10 12:00:00.000001", "2024-07-10T10:00:00.000001+00:00"),  # summer
        ("2024-07-10T12:00:00-05:00", "2024-07-10T17:00:00+00:00"),  # its own offset
        ("2024-07-10T12:00Z", "2024-07-10T12:00:00+00:00"),
        ("2024-10-27T02:30:00", "2024-10-27T00:30:00+00:00"),  # shown twice: the first
        (datetime(2024, 7, 10, 12, tzinfo=ZoneInfo("Asia/Tokyo")), "2024-07-10T03:00:00+00:00"),
    ],
)
def test_times_become_utc(given_time: str | datetime, expected: str) -> None:
    found = instant(given_time, BERLIN)
    assert found.isoformat() == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("given_time", "said"),
    [
        ("yesterday", "ISO 8601"),
        ("", "ISO 8601"),
        ("2024-03-31T02:30:00", "skipped by the clocks of Europe/Berlin"),
        ("0001-01-01T00:00:00", "calendar"),
        (datetime(2024, 1, 1), "no time zone"),  # noqa: DTZ001 - that is the point
    ],
)
def test_what_is_no_instant_is_refused(given_time: str | datetime, said: str) -> None:
    with pytest.raises(SessionLogError, match=said):
        instant(given_time, BERLIN)


@given(
    st.datetimes(min_value=datetime(1990, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "UTC"]),
)
def test_every_local_reading_of_a_clock_is_understood(moment: datetime, tz: str) -> None:
    local = moment.astimezone(ZoneInfo(tz))
    found = instant(local.replace(tzinfo=None).isoformat(), Instrument("m1", tz=tz))
    if local.fold == 0:
        assert found == moment
    else:
        assert found < moment
