"""Values of one field type as another one has them: exactly the same, or not at all."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.errors import InvalidRecordError
from keepline.model import Field
from keepline.records.conversions import convert
from keepline.records.values import same

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def as_(old: str, new: str, value: Any, **rules: Any) -> Any:
    return convert(Field("f", old), Field("f", new, **rules), value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "value", "expected"),
    [
        ("integer", "real", 3, 3.0),
        ("real", "integer", -3.0, -3),
        ("integer", "boolean", 1, True),
        ("boolean", "integer", False, 0),
        ("text", "integer", " 12 ", 12),
        ("text", "real", "1e3", 1000.0),
        ("text", "boolean", "FALSE", False),
        ("text", "date", "2026-01-31", date(2026, 1, 31)),
        ("text", "datetime", "2026-01-31T13:00:00+01:00", NOON),
        ("text", "blob", "00ff", b"\x00\xff"),
        ("text", "json", "x", "x"),
        ("json", "text", {"a": [1.0]}, '{"a": [1.0]}'),
        ("json", "integer", 5, 5),
        ("json", "real", 5, 5.0),
        ("json", "boolean", True, True),
        ("date", "text", date(2026, 1, 31), "2026-01-31"),
        ("datetime", "json", NOON, "2026-01-31T12:00:00+00:00"),
        ("boolean", "text", True, "true"),
        ("real", "text", 0.1, "0.1"),
    ],
)
def test_what_says_the_same_is_converted(old: str, new: str, value: Any, expected: Any) -> None:
    assert same(as_(old, new, value), expected)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("integer", "real", 2**53 + 1),
        ("real", "integer", 0.5),
        ("real", "integer", 1e19),
        ("real", "integer", float("inf")),
        ("real", "json", float("inf")),
        ("integer", "boolean", 2),
        ("integer", "datetime", 1),
        ("text", "integer", "1_000"),
        ("text", "integer", "٣"),
        ("text", "integer", "99999999999999999999"),
        ("text", "real", "nan"),
        ("text", "boolean", "yes"),
        ("text", "datetime", "2026-01-31T12:00:00"),
        ("text", "date", "31.1.2026"),
        ("text", "blob", "xyz"),
        ("json", "integer", True),
        ("json", "integer", 1.0),
        ("json", "date", "2026-01-31"),
        ("datetime", "date", NOON),
        ("blob", "integer", b"1"),
    ],
)
def test_what_would_have_to_be_guessed_is_not(old: str, new: str, value: Any) -> None:
    with pytest.raises(InvalidRecordError):
        as_(old, new, value)


def test_a_converted_value_keeps_the_new_rules() -> None:
    assert as_("text", "integer", "3", minimum=3) == 3
    with pytest.raises(InvalidRecordError):
        as_("text", "integer", "2", minimum=3)


SCALARS = {
    "integer": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "date": st.dates(),
    "datetime": st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 - the zone is drawn
        max_value=datetime(9998, 1, 1),  # noqa: DTZ001
        timezones=st.just(timezone(timedelta(hours=5))),
    ).map(lambda moment: moment.astimezone(UTC)),
    "blob": st.binary(),
}


@given(st.sampled_from(sorted(SCALARS)).flatmap(lambda k: st.tuples(st.just(k), SCALARS[k])))
def test_a_text_turns_back_into_what_it_was(drawn: tuple[str, Any]) -> None:
    kind, value = drawn
    assert same(as_("text", kind, as_(kind, "text", value)), value)
