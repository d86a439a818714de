"""Holes and disorder in the times of a stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A step longer than this many declared steps is a gap.
TOLERANCE = 1.5


class Gap(NamedTuple):
    """Something wrong between message `after_seq` and the next one, at these times.

    `kind` is "time" for a step over 1.5 times the declared one, "disorder" for a step of
    zero or less. Times are UTC microseconds.
    """

    kind: str
    after_seq: int
    from_us: int
    until_us: int


def find_gaps(
    first_seq: int, times_us: NDArray[np.int64], previous_us: int | None, step_us: int | None
) -> list[Gap]:
    """Return the gaps among consecutive messages of a stream, in order.

    `times_us` are the times of the messages from `first_seq` on, quarantined ones included,
    and `previous_us` is that of the message before them (None: there is none). Without a
    declared step only disorder is looked for.
    """
    if previous_us is not None:
        times_us = np.concatenate((np.array([previous_us], dtype=np.int64), times_us))
        first_seq -= 1
    steps = np.diff(times_us)
    wrong = steps <= 0
    if step_us is not None:
        wrong |= steps > TOLERANCE * step_us
    return [
        Gap(
            "disorder" if steps[index] <= 0 else "time",
            first_seq + index,
            int(times_us[index]),
            int(times_us[index + 1]),
        )
        for index in np.flatnonzero(wrong).tolist()
    ]
