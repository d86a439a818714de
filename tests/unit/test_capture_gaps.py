"""Gaps: every hole and disorder is found, each cause is named once, wherever blocks end."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.capture.archive.blocking import FullBlock
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.clocks import ClockFit, HostClock, extended, fitted, unwrapped
from keepline.capture.archive.gaps import Gap, GapFinder, StreamEnd
from keepline.capture.archive.pieces import Hole, Run
from keepline.model import TickClock

SECOND = 1_000_000
MS = 1_000


def block(
    times_us: list[int],
    *,
    first_seq: int = 0,
    ticks: list[int] | None = None,
    bad: tuple[int, ...] = (),
    before: tuple[Hole, ...] = (),
    marks: tuple[tuple[int, int], ...] = (),
    own_times: bool = False,
) -> FullBlock:
    """Return a block of messages that came, or say that they were sent, at these times."""
    times, n = np.array(times_us, np.int64), len(times_us)
    good = np.delete(np.arange(n), list(bad))
    raw_ticks = None if ticks is None else np.array(ticks, np.int64)
    run = Run(first_seq, b"x" * n, np.ones(n, np.uint32), times, raw_ticks, marks)
    kept = None if raw_ticks is None else raw_ticks[good]
    made = Block(times[good], first_seq + good, {}, kept)
    return FullBlock(run, 0, made, [], before, own_times, own_ticks=False)


def gaps(
    blocks: list[FullBlock],
    *,
    step_us: int | None = None,
    clock: TickClock | None = None,
    end: StreamEnd | None = None,
) -> list[tuple[str, int, int, int, int | None]]:
    """Return what is wrong with consecutive blocks, without the reasons."""
    finder = GapFinder(end or StreamEnd(), step_us=step_us, clock=clock, start_us=0)
    found = [gap for each in blocks for gap in finder.look_at(each)[1]]
    assert all(gap.reason and "\n" not in gap.reason for gap in found)
    return [gap[:5] for gap in found]


def test_gaps_are_found_across_borders() -> None:
    times = [100, 110, 125, 141, 141, 130]
    within = [
        ("time", 9, 125, 141, None),
        ("disorder", 10, 141, 141, None),
        ("disorder", 11, 141, 130, None),
    ]

    def found(before: int | None, step_us: int | None) -> list[tuple[str, int, int, int, None]]:
        end = StreamEnd(7, before)
        return gaps([block(times, first_seq=7)], step_us=step_us, end=end)

    assert found(None, 10) == within
    assert found(85, 10) == within  # 15 is not over 1.5 times 10
    assert found(84, 10) == [("time", 6, 84, 100, None), *within]


def test_without_a_step_only_a_time_that_goes_back_is_disorder() -> None:
    assert gaps([block([100, 100, 900, 800])]) == [("disorder", 2, 900, 800, None)]


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=40), st.integers(1, 40))
def test_gaps_do_not_depend_on_where_blocks_end(steps: list[int], size: int) -> None:
    times = np.cumsum(np.array(steps, dtype=np.int64)).tolist()
    whole = gaps([block(times)], step_us=1000)
    parts = [
        block(times[start : start + size], first_seq=start) for start in range(0, len(times), size)
    ]
    assert gaps(parts, step_us=1000) == whole
    assert len(whole) == sum(1 for a, b in itertools.pairwise(times) if b - a <= 0 or b - a > 1500)


def test_hole_in_the_numbers_explains_the_step_over_it() -> None:
    hole = Hole("sequence", 2, 4, "gone")
    blocks = [block([0, 10]), block([50, 60, 99], first_seq=5, before=(hole,))]
    assert gaps(blocks, step_us=10) == [
        ("sequence", 1, 10, 50, 3),
        ("time", 6, 60, 99, None),
    ]


def test_holes_side_by_side_are_a_row_each() -> None:
    holes = (Hole("loss", 0, 9, "restored"), Hole("sequence", 10, 11, "gone"))
    assert gaps([block([70, 80], first_seq=12, before=holes)], step_us=10) == [
        ("loss", -1, 0, 70, 10),
        ("sequence", 9, 0, 70, 2),
    ]


def test_quarantined_message_accounts_for_its_time() -> None:
    times = [0, 10, 999, 30, 70]
    assert gaps([block(times, bad=(2,), own_times=True)], step_us=10) == [("time", 3, 30, 70, None)]


def test_next_look_knows_what_the_last_one_ended_with() -> None:
    hole = Hole("damage", 6, 8, "damaged")
    parts = [
        block([0, 10, 20, 30], bad=(2, 3), own_times=True),
        block([40, 50], first_seq=4, own_times=True),
        block([90, 100], first_seq=9, own_times=True),
    ]
    end = StreamEnd()
    for part in parts:
        finder = GapFinder(end, step_us=10, clock=None, start_us=0)
        assert finder.look_at(part)[1] == []
        if part.last_seq == 5:
            assert [gap.kind for gap in finder.holes([hole], 50)] == ["damage"]
        end = finder.end(9 if part.last_seq == 5 else part.last_seq + 1)
    assert end == StreamEnd(11, 100, arrived_us=100, last_good_seq=10)


CLOCK = TickClock(bits=32, tick_us=1000, step=20)


def test_jump_of_the_counter_says_how_many_are_missing_and_explains_the_time() -> None:
    ticks = [0, 20, 40, 140, 160]
    times = [tick * MS for tick in ticks]
    found = gaps([block(times, ticks=ticks)], step_us=20 * MS, clock=CLOCK)
    assert found == [("counter", 2, 40 * MS, 140 * MS, 4)]


def test_counter_that_starts_again_is_one_reset() -> None:
    ticks = [100_000, 100_020, 100_040, 15, 35]
    times = [0, 20 * MS, 40 * MS, 3 * SECOND, 3 * SECOND + 20 * MS]
    found = gaps([block(times, ticks=ticks)], step_us=20 * MS, clock=CLOCK)
    assert found == [("reset", 2, 40 * MS, 3 * SECOND, None)]


def test_counter_that_wraps_around_after_49_days_is_no_fault() -> None:
    top = 2**32
    ticks = [(top - 30 + 20 * index) % top for index in range(6)]
    times = [20 * MS * index for index in range(6)]
    assert gaps([block(times, ticks=ticks)], step_us=20 * MS, clock=CLOCK) == []
    finder = GapFinder(StreamEnd(), step_us=None, clock=CLOCK, start_us=0)
    seen, _ = finder.look_at(block(times, ticks=ticks))
    assert seen.block.ticks is not None
    assert np.diff(seen.block.ticks).tolist() == [20] * 5
    # Counting goes on in the next call.
    later = GapFinder(finder.end(6), step_us=None, clock=CLOCK, start_us=0)
    seen, found = later.look_at(block([120 * MS], first_seq=6, ticks=[(ticks[-1] + 20) % top]))
    assert found == []
    assert seen.block.ticks is not None
    assert seen.block.ticks.tolist() == [top - 30 + 120]


def test_counter_of_few_bits_is_counted_on_over_a_pause_by_the_wall_clock() -> None:
    clock = TickClock(bits=16, tick_us=1000)
    passed = np.array([0, 20 * MS, 100 * SECOND, 20 * MS], np.int64)
    ticks = np.array([10, 30, (30 + 100_000) % 65_536, (50 + 100_000) % 65_536], np.int64)
    found = unwrapped(ticks, passed, clock, None)
    assert found.ticks.tolist() == [10, 30, 100_030, 100_050]
    assert not found.resets


def test_counter_of_messages_wraps_around_or_starts_again() -> None:
    clock = TickClock(bits=8, step=1)
    passed = np.zeros(4, np.int64)
    wrapped = unwrapped(np.array([254, 255, 0, 1]), passed, clock, None)
    assert (wrapped.ticks.tolist(), wrapped.resets) == ([254, 255, 256, 257], frozenset())
    again = unwrapped(np.array([100, 101, 0, 1]), passed, clock, None)
    assert (again.ticks.tolist(), again.resets) == ([100, 101, 0, 1], frozenset({2}))


def test_counter_that_goes_back_a_little_is_disorder() -> None:
    ticks = [1_000_000, 1_000_020, 1_000_060, 1_000_040, 1_000_080]
    times = [20 * MS * index for index in range(5)]
    found = gaps([block(times, ticks=ticks)], clock=TickClock(bits=32, tick_us=1000))
    assert found == [("disorder", 2, 40 * MS, 60 * MS, None)]


@pytest.mark.parametrize("change_us", [-3_600 * SECOND, -70 * MS, 200 * MS, 3_600 * SECOND])
@pytest.mark.parametrize("at", [8, 10, 12, 15])
@pytest.mark.parametrize("step_us", [10 * MS, None])
@pytest.mark.parametrize("size", [3, 16])
def test_step_of_the_hosts_clock_is_named_once(
    change_us: int, at: int, step_us: int | None, size: int
) -> None:
    """Chunks of four messages; the clock is set before message `at`, in the chunk closed after."""
    times = [10 * MS * index + (change_us if index >= at else 0) for index in range(20)]
    offsets = [(first, change_us if first + 3 >= at else 0) for first in range(0, 20, 4)]
    if at % 4 == 0:  # or the chunk before it was closed after that
        offsets[at // 4 - 1] = (at - 4, change_us)
    parts = [
        block(
            times[start : start + size],
            first_seq=start,
            marks=tuple(each for each in offsets if start <= each[0] < start + size),
        )
        for start in range(0, 20, size)
    ]
    assert gaps(parts, step_us=step_us) == [("clock", at - 1, times[at - 1], times[at], None)]


def test_other_offset_without_an_anomaly_is_no_step() -> None:
    times = [10 * MS * index for index in range(20)]
    marks = tuple((first, first * SECOND) for first in range(0, 20, 5))
    assert gaps([block(times, marks=marks)], step_us=10 * MS) == []


def test_pause_is_a_time_gap_though_the_clock_was_slewed() -> None:
    times = [10 * MS * index + (5 * SECOND if index >= 10 else 0) for index in range(20)]
    marks = ((0, 0), (10, 60 * MS))
    assert gaps([block(times, marks=marks)], step_us=10 * MS) == [
        ("time", 9, times[9], times[10], None)
    ]


def test_host_clock_goes_on_where_the_last_look_ended() -> None:
    clock = HostClock(None)
    passed = np.full(4, 10 * MS, np.int64)
    assert list(clock.steps([(0, 77)], passed, 10 * MS)) == []
    again = HostClock(clock.offset_us)
    passed[0] += SECOND
    assert list(again.steps([(0, 77 + SECOND)], passed, 10 * MS)) == [(0, SECOND)]


def line(
    first_seq: int, n: int, *, late: tuple[int, ...] = (), first_tick: int = 0
) -> ClockFit | None:
    """Return a fit of a device whose tick takes 1000.05 us, with jitter and late arrivals."""
    ticks = first_tick + np.arange(n, dtype=np.int64) * 20
    jitter = np.random.default_rng(first_seq).integers(-300, 300, n)
    times = 5 * SECOND + np.round(ticks * 1000.05).astype(np.int64) + jitter
    times[list(late)] += SECOND
    return fitted(first_seq, first_seq + n - 1, ticks, times)


def test_clock_fit_and_its_residuals() -> None:
    fit = line(0, 5_000)
    assert fit is not None
    assert fit.tick_us == pytest.approx(1000.05, abs=0.001)
    assert fit.origin_us == pytest.approx(5 * SECOND, abs=30)
    assert fit.rms_residual_us == pytest.approx(300 / np.sqrt(3), rel=0.05)
    assert fit.max_residual_us < 320
    late = line(0, 5_000, late=(17, 4_000))
    assert late is not None
    assert late.tick_us == pytest.approx(1000.05, abs=0.001)
    assert late.rms_residual_us < 200
    assert late.max_residual_us == pytest.approx(SECOND, rel=0.01)
    assert line(0, 10) is None


def test_fit_that_is_extended_is_that_of_all() -> None:
    fits = [line(first, 1_000, first_tick=first * 20) for first in range(0, 5_000, 1_000)]
    total = fits[0]
    for fit in fits[1:]:
        assert total is not None
        assert fit is not None
        total = extended(total, fit)
    assert total is not None
    assert (total.first_seq, total.last_seq) == (0, 4_999)
    assert total.tick_us == pytest.approx(1000.05, abs=0.001)
    assert total.rms_residual_us == pytest.approx(300 / np.sqrt(3), rel=0.05)
    assert 280 < total.max_residual_us < 600
    assert total.spread_ticks == pytest.approx(5_000 * 20 / np.sqrt(12), rel=0.01)


def test_gap_says_why() -> None:
    finder = GapFinder(StreamEnd(), step_us=SECOND, clock=None, start_us=0)
    _, (found,) = finder.look_at(block([0, 5 * SECOND]))
    assert found == Gap("time", 0, 0, 5 * SECOND, None, "5 s between two messages instead of 1 s")


def test_messages_that_arrive_together_are_no_disorder_unless_their_times_were_told() -> None:
    times = [100, 110, 110, 110, 125, 124]
    live = GapFinder(StreamEnd(), step_us=10, clock=None, start_us=0, told_times=False)
    assert [gap[:2] for gap in live.look_at(block(times))[1]] == [("disorder", 4)]
    own = GapFinder(StreamEnd(), step_us=10, clock=None, start_us=0, told_times=False)
    assert [gap[:2] for gap in own.look_at(block(times, own_times=True))[1]] == [
        ("disorder", 1),
        ("disorder", 2),
        ("disorder", 4),
    ]
