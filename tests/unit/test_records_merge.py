"""The laws of the three-way merge, and of sameness."""

import math
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.model import FieldGroup
from keepline.records.merge import FieldState, merge
from keepline.records.values import own, same

NAMES = ("a", "b", "c", "d")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=True)
    | st.text(max_size=2)
    | st.datetimes(timezones=st.just(UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner),
    max_leaves=4,
)
FEW = st.sampled_from([None, 0, 1, True, 1.0, math.nan, "x", [1], [True]])
ROWS = st.fixed_dictionaries(dict.fromkeys(NAMES, FEW))


@given(ROWS, ROWS, ROWS)
def test_every_field_is_decided_by_who_changed_it(base: dict, mine: dict, theirs: dict) -> None:
    merged = merge(base, mine, theirs)
    assert tuple(merged.values) == tuple(merged.states) == tuple(base)
    for name in NAMES:
        by_me = not same(mine[name], base[name])
        by_them = not same(theirs[name], base[name])
        expected = {
            (False, False): (FieldState.UNCHANGED, base),
            (True, False): (FieldState.MINE, mine),
            (False, True): (FieldState.THEIRS, theirs),
            (True, True): (FieldState.CONFLICT, mine),
        }[by_me, by_them]
        if by_me and by_them and same(mine[name], theirs[name]):
            expected = (FieldState.AGREED, mine)
        assert merged.states[name] is expected[0]
        assert same(merged.values[name], expected[1][name])


@given(ROWS, ROWS, ROWS)
def test_sides_can_be_swapped(base: dict, mine: dict, theirs: dict) -> None:
    one, other = merge(base, mine, theirs), merge(base, theirs, mine)
    assert one.conflicts == other.conflicts
    for name in NAMES:
        if name not in one.conflicts:
            assert same(one.values[name], other.values[name])


@given(ROWS, ROWS)
def test_one_side_alone_never_conflicts(base: dict, mine: dict) -> None:
    for merged in (merge(base, mine, base), merge(base, base, mine), merge(base, mine, mine)):
        assert not merged.conflicts
        assert all(same(merged.values[name], mine[name]) for name in NAMES)


@given(ROWS, ROWS, st.sets(st.sampled_from(NAMES)))
def test_disjoint_changes_are_both_kept(base: dict, changed: dict, whose: set) -> None:
    mine = {name: changed[name] if name in whose else base[name] for name in NAMES}
    theirs = {name: base[name] if name in whose else changed[name] for name in NAMES}
    merged = merge(base, mine, theirs)
    assert not merged.conflicts
    assert all(same(merged.values[name], changed[name]) for name in NAMES)


@given(VALUES)
def test_every_value_is_the_same_as_itself_and_its_copy(value: object) -> None:
    assert same(value, value)
    assert same(value, own(value))


@given(VALUES, VALUES, VALUES)
def test_sameness_is_symmetric_and_transitive(one: object, two: object, three: object) -> None:
    assert same(one, two) == same(two, one)
    if same(one, two) and same(two, three):
        assert same(one, three)


BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, True, False),
        (0, False, False),
        (1, 1.0, False),
        (None, "", False),
        (math.nan, math.nan, True),
        (math.inf, -math.inf, False),
        (0.0, -0.0, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": [1, {"b": math.nan}]}, {"a": [1, {"b": math.nan}]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        (NOON, NOON.astimezone(BERLIN), True),
        (NOON, NOON.astimezone(timezone(timedelta(hours=5))), True),
        (NOON, NOON + timedelta(microseconds=1), False),
        (NOON, NOON.replace(tzinfo=None), False),
        (
            datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=0),
            datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
            False,
        ),
    ],
)
def test_sameness_is_typed_and_by_instant(one: object, other: object, expected: bool) -> None:
    assert same(one, other) is expected


AMOUNT = (FieldGroup("amount", ("a", "b")),)


@pytest.mark.parametrize(
    ("mine", "theirs", "conflicts"),
    [
        ({"a": 2}, {"b": 2}, ("a", "b")),
        ({"a": 2}, {"c": 2}, ()),
        ({"a": 2, "b": 2}, {}, ()),
        ({"a": 2, "b": 2}, {"a": 2, "b": 2}, ()),
        ({"a": 2}, {"a": 2, "b": 2}, ("b",)),
        ({"a": 2, "b": 2}, {"a": 2, "b": 3}, ("b",)),
        ({"c": 2}, {"c": 3, "a": 2}, ("c",)),
    ],
)
def test_fields_of_a_group_conflict_as_one(
    mine: dict[str, int], theirs: dict[str, int], conflicts: tuple[str, ...]
) -> None:
    base = dict.fromkeys("abc", 1)
    merged = merge(base, base | mine, base | theirs, AMOUNT)
    assert merged.conflicts == conflicts
