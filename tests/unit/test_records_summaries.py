"""Summaries of records: the scores of the PHQ-9, and that missing codes never count."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.model import Field, RecordType
from keepline.records import summaries
from keepline.records.summaries import PHQ9_ITEMS, phq9, summarise
from keepline.records.types import INSTRUMENT_SESSION, PHQ9

ANSWER = st.one_of(st.none(), st.integers(0, 3))


def answers(*given_: int | None) -> dict[str, int | None]:
    return dict(zip(PHQ9_ITEMS, given_, strict=True))


@pytest.mark.parametrize(
    ("total", "band"),
    [
        (0, "minimal"),
        (4, "minimal"),
        (5, "mild"),
        (9, "mild"),
        (10, "moderate"),
        (14, "moderate"),
        (15, "moderately severe"),
        (19, "moderately severe"),
        (20, "severe"),
        (27, "severe"),
    ],
)
def test_a_band_holds_the_published_totals(total: int, band: str) -> None:
    points = [3] * (total // 3) + [total % 3] + [0] * 9
    scores = phq9(answers(*points[:9]))
    assert (scores["total"], scores["severity"]) == (total, band)
    assert (scores["answered"], scores["complete"]) == (9, True)


@pytest.mark.parametrize(
    ("given_", "syndrome"),
    [
        ((2, 2, 2, 2, 2, 0, 0, 0, 0), "major depressive"),
        ((2, 0, 2, 2, 2, 0, 0, 0, 1), "major depressive"),  # the ninth from several days on
        ((1, 1, 3, 3, 3, 3, 3, 3, 3), "none"),  # neither core symptom
        ((2, 0, 2, 2, 0, 0, 0, 0, 0), "other depressive"),
        ((0, 2, 0, 0, 0, 0, 0, 0, 1), "other depressive"),
        ((2, 1, 1, 1, 1, 1, 1, 1, 0), "none"),  # one symptom alone
        ((2, 2, 2, 2, 2, None, None, None, None), "major depressive"),
        ((2, 2, 2, 2, None, 0, 0, 0, 0), None),
        ((0, 0, None, None, None, None, None, None, None), "none"),
        ((None,) * 9, None),
    ],
)
def test_a_syndrome_is_named_as_the_manual_says(
    given_: tuple[int | None, ...], syndrome: str | None
) -> None:
    assert phq9(answers(*given_))["syndrome"] == syndrome


def test_up_to_two_missing_items_count_as_the_mean_of_the_others() -> None:
    two = phq9(answers(1, 1, 1, 1, 1, 1, 2, None, None))
    assert two["total"] is None
    assert two["prorated"] == pytest.approx(9 * 8 / 7)
    assert (two["severity"], two["answered"], two["complete"]) == ("moderate", 7, False)
    three = phq9(answers(3, 3, 3, 3, 3, 3, None, None, None))
    assert (three["prorated"], three["severity"], three["answered"]) == (None, None, 6)


@given(st.lists(ANSWER, min_size=9, max_size=9), st.integers(0, 8))
def test_another_answer_never_takes_back_what_is_certain(
    given_: list[int | None], place: int
) -> None:
    before = phq9(answers(*given_))["syndrome"]
    if before is not None and given_[place] is None:
        for answer in range(4):
            now = [answer if i == place else each for i, each in enumerate(given_)]
            assert phq9(answers(*now))["syndrome"] == before


def test_missing_codes_never_count() -> None:
    values: dict[str, Any] = {**answers(1, 1, 1, 1, 1, 1, 1, 1, -99), "difficulty": 3}
    scores = summarise(PHQ9, values)
    assert scores["phq9.answered"] == 8
    assert scores["phq9.total"] is None
    assert scores["phq9.prorated"] == 9.0


def test_a_session_has_a_duration() -> None:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    values = {"started": started, "ended": started.replace(minute=2)}
    assert summarise(INSTRUMENT_SESSION, values) == {"session.duration_s": 120.0}
    assert summarise(INSTRUMENT_SESSION, {}) == {"session.duration_s": None}


def test_names_of_summaries_are_never_those_of_fields() -> None:
    assert all("." in name for name in summarise(PHQ9, {}))


def test_a_summary_that_fails_or_is_gone_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_values: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ValueError("what a subject said")

    load: Callable[[str, str], Any] = summaries.plugins.load
    monkeypatch.setattr(
        summaries.plugins, "load", lambda kind, name: fails if name == "bad" else load(kind, name)
    )
    declared = replace(PHQ9, summaries=("bad", "gone", "phq9"))
    found = summarise(declared, {})
    assert found["bad.error"] == "ValueError"
    assert found["gone.error"] == "not installed"
    assert found["phq9.answered"] == 0


def test_a_type_without_summaries_has_none() -> None:
    assert summarise(RecordType("t", (Field("a"),)), {"a": "x"}) == {}
