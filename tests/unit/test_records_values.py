"""What fields take, and what they refuse."""

import math
from datetime import UTC, datetime
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
        ("datetime", "2024-05-01T12:00Z", "takes datetime"),
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
