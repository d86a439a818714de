"""Finding every hole and disorder in a stream, and naming each cause once.

A hole in the numbers explains the step in time, or in the device's counter, that lies over it;
a device that started anew and a step of the host's clock explain the step in time at the same
place; a jump of the counter does, too; and quarantined messages account for the time that they
took.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepline.capture.archive.blocking import FullBlock
from keepline.capture.archive.clocks import ClockFit, HostClock, Unwrapped, fitted, unwrapped
from keepline.capture.archive.pieces import Hole
from keepline.model import TickClock

#: So many steps show what their usual length is.
_ENOUGH, _SOME = 8, 64

#: A step longer than this many declared steps is a gap.
TOLERANCE = 1.5

Int64s = NDArray[np.int64]


class Gap(NamedTuple):
    """Something wrong between message `after_seq` and the next one that is there.

    Times are those of these two, in UTC microseconds. `missing` is how many messages are,
    where that is known. Kinds: sequence, loss and damage are holes in the numbers (see Hole);
    counter is a jump of the device's counter, reset its starting anew, clock a step of the
    host's clock, time a step over 1.5 times the declared one, disorder a time or counter that
    went back, or stood still where a step is declared.
    """

    kind: str
    after_seq: int
    from_us: int
    until_us: int
    missing: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """What is known at the end of what was looked at: what the next look begins with.

    `time_us` is None before the first message; `tick` is counted on over wrap-arounds. Both
    are those of the message `last_good_seq`, the last one that could be decoded, which came at
    `arrived_us`; None: of the last message, which told no time of its own. `after_hole` says
    that messages are missing behind it.
    """

    messages: int = 0
    time_us: int | None = None
    tick: int | None = None
    clock_offset_us: int | None = None
    arrived_us: int | None = None
    last_good_seq: int | None = None
    after_hole: bool = False


class GapFinder:
    """Looks at consecutive blocks of one stream, each once, in order.

    `step_us` is the declared time between two messages, `start_us` when the session began.
    `told_times` says that the source told the time of each message, even where the messages
    do not hold it. Else what arrives at the same time, such as lines that a device sent in one
    go, is no disorder.
    """

    def __init__(
        self,
        end: StreamEnd,
        *,
        step_us: int | None,
        clock: TickClock | None,
        start_us: int,
        told_times: bool = True,
    ) -> None:
        self._step_us = step_us
        self._told_times = told_times
        self._clock = clock
        self._last_seq = end.messages - 1 if end.last_good_seq is None else end.last_good_seq
        self._last_us = end.time_us
        self._arrived_us = end.time_us if end.arrived_us is None else end.arrived_us
        self._tick = end.tick
        self._start_us = start_us
        self._host = HostClock(end.clock_offset_us)
        self._after_hole = end.after_hole
        self._fitting: list[_Fitted] = []

    @property
    def time_us(self) -> int | None:
        """Return the time of the last message that was looked at."""
        return self._last_us

    def end(self, messages: int) -> StreamEnd:
        """Return what is known after so many messages, holes' too: all that was looked at."""
        return StreamEnd(
            messages,
            self._last_us,
            self._tick,
            self._host.offset_us,
            self._arrived_us,
            self._last_seq,
            self._after_hole,
        )

    def look_at(self, full: FullBlock) -> tuple[FullBlock, list[Gap]]:
        """Return a block with its ticks counted on, and what is wrong in it or right before it."""
        series = _Series.of(full)
        until_us = int(full.run.times_us[0]) if not len(series.seqs) else int(series.times_us[0])
        gaps = self.holes(full.before, until_us)
        if not len(series.seqs):
            return full, gaps
        arrival = _steps(series.arrival_us, self._arrived_us)
        stepped = self._host_steps(full, series, arrival)
        for place, step_us in stepped.items():
            arrival[place] -= step_us
        counted = self._counted(series, arrival)
        if counted is not None:
            ticks = counted.ticks[full.block.seqs - full.first_seq] if series.all else counted.ticks
            full = replace(full, block=replace(full.block, ticks=ticks))
            self._remember_for_fit(series, counted)
        told = self._told_times or full.own_times
        gaps += self._anomalies(series, {} if full.own_times else stepped, counted, told=told)
        self._last_seq, self._last_us = int(series.seqs[-1]), int(series.times_us[-1])
        self._arrived_us = int(series.arrival_us[-1])
        self._tick = None if counted is None else int(counted.ticks[-1])
        self._after_hole = False
        return full, gaps

    def holes(self, holes: Sequence[Hole], until_us: int) -> list[Gap]:
        """Return a row for each hole before the next message, which came at `until_us`."""
        if holes:
            self._after_hole = True
        from_us = self._start_us if self._last_us is None else self._last_us
        return [
            Gap(hole.kind, hole.first_seq - 1, from_us, until_us, hole.count, hole.reason)
            for hole in holes
        ]

    def fits(self) -> list[tuple[ClockFit, bool]]:
        """Return the clock fits of what was looked at since the last call.

        With each comes whether it goes on from the messages before it.
        """
        found: list[tuple[ClockFit, bool]] = []
        for follows, group in _by_runs(self._fitting):
            ticks = np.concatenate([each.ticks for each in group])
            times = np.concatenate([each.times_us for each in group])
            fit = fitted(group[0].first_seq, group[-1].last_seq, ticks, times)
            if fit is not None:
                found.append((fit, follows))
        self._fitting = []
        return found

    def _counted(self, series: _Series, passed_us: Int64s) -> Unwrapped | None:
        if series.ticks is None or self._clock is None:
            return None
        return unwrapped(series.ticks, passed_us, self._clock, self._tick)

    def _remember_for_fit(self, series: _Series, counted: Unwrapped) -> None:
        if self._clock is None or self._clock.tick_us is None:
            return
        follows = self._tick is not None
        borders = sorted({0, *counted.resets, len(series.seqs)})
        for start, stop in itertools.pairwise(borders):
            anew = start in counted.resets or (start == 0 and not follows)
            self._fitting.append(
                _Fitted(
                    int(series.seqs[start]),
                    int(series.seqs[stop - 1]),
                    counted.ticks[start:stop],
                    series.arrival_us[start:stop],
                    not anew,
                )
            )

    def _host_steps(self, full: FullBlock, series: _Series, passed_us: Int64s) -> dict[int, int]:
        """Return the steps of the host's clock, in microseconds, by place."""
        expected = self._step_us
        if expected is None:
            # A few in the middle do: the exact step is of no matter.
            some = passed_us[len(passed_us) // 2 :][:_SOME]
            expected = int(np.median(some)) if len(some) >= _ENOUGH else 0
        marks = [(int(np.searchsorted(series.seqs, seq)), us) for seq, us in full.run.marks]
        return dict(self._host.steps(marks, passed_us, expected))

    def _anomalies(
        self,
        series: _Series,
        stepped: dict[int, int],
        counted: Unwrapped | None,
        *,
        told: bool,
    ) -> Iterator[Gap]:
        between = _steps(series.seqs, self._last_seq) - 1  # quarantined ones
        passed_us = _steps(series.times_us, self._last_us)
        ticked = {} if counted is None else dict(self._ticked(counted, between))
        wrong = self._wrong_times(passed_us, between, told=told)
        for place in sorted({*np.flatnonzero(wrong).tolist(), *stepped, *ticked}):
            found = ticked.get(place)
            if place == 0 and self._after_hole and (found is None or found[0] != "reset"):
                continue  # the hole is why
            if found is None and place in stepped:
                found = "clock", None, f"the host's clock was set by {stepped[place] / 1e6:+.3f} s"
            if found is None:
                found = self._time_fault(int(passed_us[place]))
            until_us = int(series.times_us[place])
            from_us = until_us - int(passed_us[place])
            before = int(series.seqs[place] - between[place]) - 1
            yield Gap(found[0], before, from_us, until_us, *found[1:])

    def _wrong_times(self, passed_us: Int64s, between: Int64s, *, told: bool) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = passed_us < 0
        if self._step_us is not None:
            if told:
                wrong = passed_us <= 0
            wrong |= passed_us - between * self._step_us > TOLERANCE * self._step_us
        if self._last_us is None:
            wrong[0] = False
        return wrong

    def _time_fault(self, passed_us: int) -> _Fault:
        if passed_us < 0:
            return "disorder", None, f"the time went back by {-passed_us / 1e6:g} s"
        if passed_us == 0:
            return "disorder", None, "the same time again"
        step_s = (self._step_us or 0) / 1e6
        return "time", None, f"{passed_us / 1e6:g} s between two messages instead of {step_s:g} s"

    def _ticked(self, counted: Unwrapped, between: Int64s) -> Iterator[tuple[int, _Fault]]:
        """Yield what the device's counter shows, by place."""
        for place in counted.resets:
            reason = f"the device's counter started again, and shows {counted.ticks[place]}"
            yield place, ("reset", None, reason)
        for place in counted.backs:
            yield place, ("disorder", None, "the device's counter went back")
        step = None if self._clock is None else self._clock.step
        if step is None:
            return
        steps = np.diff(
            counted.ticks, prepend=counted.ticks[0] if self._tick is None else self._tick
        )
        jumps = steps - between * step > TOLERANCE * step
        still = steps == 0
        if self._tick is None:
            jumps[0] = still[0] = False
        for place in np.flatnonzero(jumps | still).tolist():
            if place in counted.resets:
                continue
            if still[place]:
                yield place, ("disorder", None, "the device's counter shows the same again")
                continue
            missing = round(int(steps[place]) / step) - 1 - int(between[place])
            reason = f"the device's counter jumped by {steps[place]} instead of {step}"
            yield place, ("counter", missing, reason)


#: A kind of gap, how many messages are missing, the reason.
_Fault = tuple[str, int | None, str]


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Messages that a clock is fitted to, and whether they go on from those before them."""

    first_seq: int
    last_seq: int
    ticks: Int64s
    times_us: Int64s
    follows: bool


@dataclass(frozen=True, slots=True)
class _Series:
    """The messages of a block that times and ticks are compared of.

    They are all of them, or the good ones where messages tell their times or ticks.
    """

    seqs: Int64s
    times_us: Int64s
    arrival_us: Int64s
    ticks: Int64s | None
    all: bool

    @classmethod
    def of(cls, full: FullBlock) -> _Series:
        run, block = full.run, full.block
        if not (full.own_times or full.own_ticks):
            seqs = np.arange(run.first_seq, run.last_seq + 1)
            return cls(seqs, run.times_us, run.times_us, run.ticks, all=True)
        arrival = run.times_us[block.seqs - run.first_seq]
        return cls(block.seqs, block.times_us, arrival, block.ticks, all=False)


def _steps(times_us: Int64s, before_us: int | None) -> Int64s:
    """Return the time before each message; 0 before the first of all."""
    steps = np.empty_like(times_us)
    np.subtract(times_us[1:], times_us[:-1], out=steps[1:])
    steps[0] = 0 if before_us is None else times_us[0] - before_us
    return steps


def _by_runs(parts: Sequence[_Fitted]) -> Iterator[tuple[bool, list[_Fitted]]]:
    group: list[_Fitted] = []
    for part in parts:
        if group and not part.follows:
            yield group[0].follows, group
            group = []
        group.append(part)
    if group:
        yield group[0].follows, group
