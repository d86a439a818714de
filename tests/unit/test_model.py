"""Frozen values: what cannot be right is refused when it is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.model import (
    MAX_STEP_US,
    Channel,
    Field,
    RecordType,
    StreamSpec,
    SubTable,
    from_us,
    stable_hash,
    to_us,
)


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])))
def test_times_come_back_exactly(moment: datetime) -> None:
    assert from_us(to_us(moment)) == moment


def test_only_aware_datetimes_are_times() -> None:
    with pytest.raises(ValueError, match="zone"):
        to_us(datetime(2026, 3, 2))  # noqa: DTZ001 - naive on purpose
    with pytest.raises(TypeError, match="str"):
        to_us("2026-03-02")  # type: ignore[arg-type]


@pytest.mark.parametrize("step_us", [0, -5, MAX_STEP_US + 1, 10**20])
def test_steps_have_bounds(step_us: int) -> None:
    with pytest.raises(ValueError, match="100 years"):
        StreamSpec(step_us=step_us)


def test_channels_are_named_once() -> None:
    with pytest.raises(ValueError, match="'t' is declared twice"):
        StreamSpec(channels=(Channel("t"), Channel("u"), Channel("t")))
    with pytest.raises(ValueError, match="name"):
        Channel("")
    with pytest.raises(ValueError, match="'nope'"):
        Channel("t", dtype="nope")  # type: ignore[arg-type]


def test_declarations_come_back_from_json() -> None:
    declared = RecordType(
        "sample",
        (Field("kind", choices=("a", "b")), Field("mass", "real", unit="g", required=True)),
        (SubTable("part", "name", (Field("note"),), comment="its parts"),),
        comment="a sample",
    )
    assert RecordType.from_json(declared.to_json()) == declared


@given(st.lists(st.text()), st.lists(st.text()))
def test_other_parts_have_another_hash(one: list[str], other: list[str]) -> None:
    assert (stable_hash(*one) == stable_hash(*other)) == (one == other)
