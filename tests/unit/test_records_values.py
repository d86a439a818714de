"""What fields take, and what they refuse."""

import math
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

import pytest

from keepline.errors import InvalidRecordError
from keepline.model import Field
from keepline.records.values import checked

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Kind(StrEnum):
    A = "a"


@pytest.mark.parametrize(
    ("type_", "value", "kept"),
    [
        ("text", "ä \U0001f9ea", "ä \U0001f9ea"),
        ("text", Kind.A, "a"),
        ("integer", 2**63 - 1, 2**63 - 1),
        ("real", 1, 1.0),
        ("real", math.inf, math.inf),
        ("boolean", True, True),
        ("datetime", NOON, NOON),
        ("date", date(2024, 2, 29), date(2024, 2, 29)),
        ("blob", b"\x00\xff", b"\x00\xff"),
        ("blob", bytearray(b"ab"), b"ab"),
        ("blob", memoryview(b"abcd")[1:3], b"bc"),
        ("json", {"a": [1, None, "x"]}, {"a": [1, None, "x"]}),
        ("json", 5, 5),
        ("text", None, None),
    ],
)
def test_a_fitting_value_is_kept(type_: Any, value: Any, kept: Any) -> None:
    found = checked(Field("f", type_), value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("type_", "value", "said"),
    [
        ("text", 5, "takes text"),
        ("text", "a\x00b", "NUL"),
        ("text", "\ud800", "surrogate"),
        ("integer", True, "takes integer, not bool"),
        ("integer", 1.0, "takes integer"),
        ("integer", "1", "takes integer"),
        ("integer", 2**63, "64 bits"),
        ("real", True, "takes real"),
        ("real", math.nan, "None says"),
        ("real", 10**400, "beyond"),
        ("boolean", 1, "takes boolean"),
        ("datetime", NOON.replace(tzinfo=None), "time zone"),
        ("datetime", datetime.fromisoformat("0001-01-01T00:00:00+14:00"), "1 to 9999"),
        ("datetime", datetime.fromisoformat("9999-12-31T23:00:00-02:00"), "1 to 9999"),
        ("datetime", "2024-05-01T12:00Z", "takes datetime"),
        ("datetime", NOON.date(), "takes datetime"),
        ("date", NOON, "takes date, not datetime"),
        ("date", "2024-05-01", "takes date"),
        ("blob", "text", "takes blob, not str"),
        ("blob", bytes(16 * 1024 * 1024 + 1), "at most 16,777,216 bytes"),
        ("json", {"a": math.nan}, "JSON"),
        ("json", {1: "a"}, "come back"),
        ("json", (1, 2), "come back"),
        ("json", {"a": object()}, "JSON"),
        ("json", ["\x00"], "NUL"),
        ("json", ["\ud800"], "JSON"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(type_: Any, value: Any, said: str) -> None:
    with pytest.raises(InvalidRecordError, match=said):
        checked(Field("f", type_), value)


def test_choices_and_required_fields() -> None:
    with pytest.raises(InvalidRecordError, match="one of: a, b"):
        checked(Field("f", choices=("a", "b")), "c")
    with pytest.raises(InvalidRecordError, match="needs a value"):
        checked(Field("f", required=True), None)
    assert checked(Field("f", choices=("a", "b")), None) is None


def test_a_json_value_is_copied() -> None:
    given = {"a": [1]}
    kept = checked(Field("f", "json"), given)
    given["a"].append(2)
    assert kept == {"a": [1]}


def test_bounds_choices_and_codes_of_numbers() -> None:
    share = Field("f", "real", minimum=0, maximum=1, missing=((-9.0, "refused"),))
    assert [checked(share, value) for value in (0, 1, 0.5, -9)] == [0.0, 1.0, 0.5, -9.0]
    for value, said in {-0.1: "at least 0", 1.1: "at most 1", math.inf: "at most 1"}.items():
        with pytest.raises(InvalidRecordError, match=said):
            checked(share, value)
    score = Field("f", "integer", choices=(0, 1), missing=((-99, "refused"),))
    assert [checked(score, value) for value in (0, 1, -99)] == [0, 1, -99]
    for wrong in (2, True):
        with pytest.raises(InvalidRecordError):
            checked(score, wrong)
    with pytest.raises(InvalidRecordError, match="one of: 0, 1, -99"):
        checked(score, 2)


def test_bytes_are_bounded_and_the_fields_own() -> None:
    given = bytearray(b"abcd")
    kept = checked(Field("f", "blob", max_bytes=4), given)
    given[0] = 0
    assert kept == b"abcd"
    with pytest.raises(InvalidRecordError, match="at most 4 bytes, not 5"):
        checked(Field("f", "blob", max_bytes=4), b"abcde")
    with pytest.raises(InvalidRecordError, match="at most 4 bytes, not 8"):
        checked(Field("f", "blob", max_bytes=4), memoryview(b"abcdefgh").cast("d"))
