"""What a call of a decoder has read so far, one row a message, until it is made into columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from keepline.capture.decoders.decoder import Column, Decoded
from keepline.capture.decoders.message_times import TimeFormat, TimeReader
from keepline.capture.decoders.options import Options
from keepline.capture.decoders.typed_rows import MAX_INT64, MIN_INT64
from keepline.errors import DecodeError
from keepline.model import StreamSpec


class StampOptions(Options):
    """The options `time` and `tick` name the fields that hold a message's own time and counter.

    Neither is a channel then, and a message without one of them is rejected. `time_format`
    says how the time is written: iso (ISO 8601 with an offset, or in the zone `tz`) or as a
    Unix time in unix_s, unix_ms, unix_us or unix_ns.
    """

    time: str | None = None
    time_format: TimeFormat | None = None
    tz: str | None = None
    tick: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> StampOptions:
        if self.time is None and (self.time_format or self.tz):
            raise ValueError("time_format and tz say how the field is written that time names")
        if self.time is not None and self.time == self.tick:
            raise ValueError("time and tick cannot be the same field")
        return self


class Stamp(NamedTuple):
    """The time and the tick of one message; 0 where it is not declared that it has one."""

    time_us: int
    tick: int


class Stamps:
    """Reads the times and ticks of the messages of one stream, in order.

    Raises:
        DecodeError: there is no such zone, or a declared channel is the time or the tick.
    """

    def __init__(self, options: StampOptions, spec: StreamSpec) -> None:
        self.time, self.tick = options.time, options.tick
        self._times: TimeReader | None = None
        if options.time is not None:
            self._times = TimeReader(options.time_format or "iso", options.tz)
        for channel in spec.channels:
            if channel.name in (self.time, self.tick):
                raise DecodeError(
                    f"{channel.name!r} is the messages' time or tick, and cannot be a channel too"
                )

    def follow(self, time_us: int) -> None:
        """Take the message before the next one to have had this time, in UTC microseconds."""
        if self._times is not None:
            self._times.follow(time_us)

    def read(self, time: Any, tick: Any) -> Stamp:
        """Return the stamp of the next message; a missing one is None. Raises DecodeError."""
        time_us = counted = 0
        if self._times is not None:
            if time is None:
                raise DecodeError(f"no time: {self.time} is missing")
            time_us = self._times.read(time)
        if self.tick is not None:
            counted = _tick(tick, self.tick)
        return Stamp(time_us, counted)


class RowBatch:
    """Messages with what was read from them; each is either added or rejected, in order.

    `times` and `ticks` say whether they have such of their own.
    """

    def __init__(
        self, messages: Sequence[bytes], *, times: bool = False, ticks: bool = False
    ) -> None:
        self._messages = messages
        self._times = times
        self._ticks = ticks
        self._faults: dict[int, str] = {}
        self._places: list[int] = []
        self._read: list[Stamp] = []

    def add(self, place: int, stamp: Stamp) -> None:
        """Note that a row was read from the message at `place`."""
        self._places.append(place)
        self._read.append(stamp)

    def reject(self, place: int, reason: str) -> None:
        """Note that no row could be read from the message at `place`."""
        self._faults[place] = reason

    def decoded(self, columns: Mapping[str, Column], faults: Mapping[int, str]) -> Decoded:
        """Return the result; `faults` are those of rows, by place among the rows added."""
        if faults:
            self._faults.update({self._places[row]: text for row, text in faults.items()})
            self._read = [each for row, each in enumerate(self._read) if row not in faults]
        return Decoded(
            len(self._read),
            columns,
            [(place, self._messages[place], self._faults[place]) for place in sorted(self._faults)],
            self._column(0) if self._times else None,
            self._column(1) if self._ticks else None,
        )

    def _column(self, which: int) -> NDArray[np.int64]:
        return np.fromiter((stamp[which] for stamp in self._read), np.int64, len(self._read))


def _tick(value: Any, name: str) -> int:
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else text
    if type(value) is not int:
        raise DecodeError(f"no tick: {name} is not a whole number")
    if not MIN_INT64 <= value <= MAX_INT64:
        raise DecodeError(f"{name} does not fit into int64")
    return value
