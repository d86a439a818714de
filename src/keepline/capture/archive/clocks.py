"""Clocks: a device's counter counted on over its wrap-around, steps of the host's clock, fits.

A counter of b bits starts again at 0 after 2^b - 1. Whether it did that, or the device was
started anew, is told by the wall clock: over a wrap-around as many ticks passed as fit to the
time between two messages; a counter that started anew shows no more ticks than fit into it. A
counter whose ticks are no time wrapped around when that makes the step less than half its
range, and started anew when its new value is less than half its last one; else it went back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keepline.model import TickClock

Int64s = NDArray[np.int64]

#: A message may arrive so much later than others.
_LATE_US = 2_000_000

#: A smaller change of the host's clock is none, nor is one that its slewing may explain.
STEP_US = 50_000
_SLEWING = 0.001

#: A clock is fitted to no fewer messages.
_LEAST_FITTED = 16

#: Messages so many times further from the line than is usual are left out of a fit.
_OUTLYING = 6.0


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """Ticks counted on over wrap-arounds; where the counter started anew, or went back."""

    ticks: Int64s
    resets: frozenset[int]
    backs: frozenset[int]


def unwrapped(
    ticks: Int64s, passed_us: Int64s, clock: TickClock, last_tick: int | None
) -> Unwrapped:
    """Count on the ticks of consecutive messages, before each of which `passed_us` passed.

    `last_tick` is the counted tick of the message before them; None: there is none. After a
    reset, counting begins again at what the device shows.
    """
    size = 1 << clock.bits
    raw = ticks & (size - 1)
    before = int(raw[0]) if last_tick is None else last_tick % size
    steps = np.diff(raw, prepend=np.int64(before))
    suspicious = steps < 0
    if clock.tick_us is not None:
        suspicious |= passed_us / clock.tick_us - steps > size / 2
    if last_tick is None:
        suspicious[0] = False
    offset = 0 if last_tick is None else last_tick - before
    counted = raw + np.int64(offset)
    resets, backs = set(), set()
    places = np.flatnonzero(suspicious).tolist()
    for place, following in itertools.pairwise([*places, len(raw)]):
        kind = _what_happened(int(steps[place]), int(raw[place]), int(passed_us[place]), clock)
        if isinstance(kind, int):
            offset += kind * size
        elif kind == "reset":
            resets.add(place)
            offset = 0
        else:
            backs.add(place)
        counted[place:following] = raw[place:following] + np.int64(offset)
    return Unwrapped(counted, frozenset(resets), frozenset(backs))


def _what_happened(step: int, tick: int, passed_us: int, clock: TickClock) -> int | str:
    """Return how often a counter wrapped around, or "reset", or "back"."""
    size = 1 << clock.bits
    if clock.tick_us is None:
        if step + size < size / 2:
            return 1
        return "reset" if tick < (tick - step) / 2 else "back"
    passed = passed_us / clock.tick_us
    late = max(min(size / 4, _LATE_US / clock.tick_us), passed / 10)
    wraps = max(1 if step < 0 else 0, round((passed - step) / size))
    if abs(step + wraps * size - passed) <= late:
        return wraps
    if step >= 0:
        return 0
    return "reset" if tick <= passed + late else "back"


class HostClock:
    """Looks for steps of the host's wall clock among the messages of a stream.

    It is told by how much that clock was ahead of the monotonic one when each chunk was
    closed. A step shows as a change of that, and as the same change in the times of arrival:
    in that chunk or at the first message of the next one. Where the times show no such thing,
    there was no step. `offset_us` is where a later look has to begin.
    """

    def __init__(self, offset_us: int | None) -> None:
        self._base = offset_us  # the offset before a step that is looked for
        self._chunk = offset_us
        self._sought = self._sought_before = False

    @property
    def offset_us(self) -> int | None:
        """Return the offset up to which no step is left to be found."""
        return self._base if self._sought else self._chunk

    def steps(
        self, marks: Sequence[tuple[int, int]], passed_us: Int64s, expected_us: int
    ) -> Iterator[tuple[int, int]]:
        """Yield (place, step in microseconds) of each step among consecutive messages.

        `marks` are (place, offset) of the chunks that begin among them, and `passed_us` the
        times from the message before each, which should be `expected_us`.
        """
        starts = [place for place, _ in marks]
        if not starts or starts[0] > 0:
            yield from self._step_within(0, passed_us[: starts[0] if starts else None], expected_us)
        stops = [*starts, len(passed_us)][1:]
        for (start, offset_us), stop in zip(marks, stops, strict=True):
            self._begin(offset_us)
            yield from self._step_within(start, passed_us[start:stop], expected_us)

    def _begin(self, offset_us: int) -> None:
        if self._sought and not self._sought_before:
            self._sought_before = True
        else:
            self._base, self._sought_before = self._chunk, False
        if self._base is None:
            self._base = offset_us
        self._chunk, self._sought = offset_us, False

    def _step_within(
        self, start: int, passed_us: Int64s, expected_us: int
    ) -> Iterator[tuple[int, int]]:
        if self._base is None or self._chunk is None or not len(passed_us):
            return
        change = self._chunk - self._base
        if abs(change) <= STEP_US:
            return
        if abs(change) <= STEP_US + _SLEWING * float(np.abs(passed_us).sum()):
            return
        self._sought = True
        away = np.abs(passed_us - (expected_us + change))
        place = int(away.argmin())
        if away[place] <= abs(change) / 2:
            self._base, self._sought = self._chunk, False
            yield start + place, change


@dataclass(frozen=True, slots=True)
class ClockFit:
    """What a device's ticks are in UTC, for the messages `first_seq` to `last_seq`.

    At `first_tick` it was `origin_us`, and each tick took `tick_us`. The line is that of least
    squares through `n` messages; those that came much later than the others are left out of it
    and of `rms_residual_us`, not of `max_residual_us`, which is at most that after an extension.
    Ticks counted from `first_tick` have the mean `mean_tick` and deviate by `spread_ticks`.
    """

    first_seq: int
    last_seq: int
    first_tick: int
    origin_us: int
    tick_us: float
    rms_residual_us: float
    max_residual_us: float
    n: int
    mean_tick: float
    spread_ticks: float


def fitted(first_seq: int, last_seq: int, ticks: Int64s, times_us: Int64s) -> ClockFit | None:
    """Return the line through messages of which no two are a reset apart; None for too few."""
    if len(ticks) < _LEAST_FITTED or ticks[0] == ticks[-1]:
        return None
    x = (ticks - ticks[0]).astype(np.float64)
    y = (times_us - times_us[0]).astype(np.float64)
    line = _line(x, y)
    residuals = y - line[0] - line[1] * x
    away = np.abs(residuals - np.median(residuals))
    usual = away <= _OUTLYING * float(np.median(away)) + 1.0
    if not usual.all() and np.ptp(x[usual]) > 0:
        line = _line(x[usual], y[usual])
        residuals = y - line[0] - line[1] * x
    kept = x[usual]
    return ClockFit(
        first_seq,
        last_seq,
        int(ticks[0]),
        int(times_us[0]) + round(line[0]),
        line[1],
        math.sqrt(float(np.mean(residuals[usual] ** 2))),
        float(np.abs(residuals).max()),
        len(kept),
        float(kept.mean()),
        float(kept.std()),
    )


def extended(one: ClockFit, other: ClockFit) -> ClockFit:
    """Return the line of least squares through the messages of two fits that follow another."""
    shift = other.first_tick - one.first_tick
    n = one.n + other.n
    mean = other.mean_tick + shift - one.mean_tick
    height = (
        (other.origin_us - one.origin_us)
        + other.tick_us * other.mean_tick
        - one.tick_us * one.mean_tick
    )
    squares = [each.n * each.spread_ticks**2 for each in (one, other)]
    between = one.n * other.n / n
    spread = sum(squares) + between * mean**2
    slope = (
        one.tick_us * squares[0] + other.tick_us * squares[1] + between * mean * height
    ) / spread
    center = one.mean_tick + mean * other.n / n
    level = one.tick_us * one.mean_tick + height * other.n / n
    origin = level - slope * center
    lines = [(one, 0.0, 0.0), (other, float(shift), float(other.origin_us - one.origin_us))]
    total, most = 0.0, 0.0
    for (each, at, up), square in zip(lines, squares, strict=True):
        # How far the new line is from the old one, at its beginning, middle and end.
        first = origin + slope * at - up
        tilt = slope - each.tick_us
        middle = first + tilt * each.mean_tick
        total += each.n * (each.rms_residual_us**2 + middle**2) + tilt**2 * square
        last = first + 2 * tilt * each.mean_tick
        most = max(most, each.max_residual_us + max(abs(first), abs(last)))
    return ClockFit(
        one.first_seq,
        other.last_seq,
        one.first_tick,
        one.origin_us + round(origin),
        slope,
        math.sqrt(total / n),
        most,
        n,
        center,
        math.sqrt(spread / n),
    )


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    mean_x, mean_y = float(x.mean()), float(y.mean())
    away = x - mean_x
    slope = float(away @ (y - mean_y)) / float(away @ away)
    return mean_y - slope * mean_x, slope
