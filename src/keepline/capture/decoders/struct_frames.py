"""Binary messages of one size, whose layout is declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.checksums import CHECKSUMS, checksums
from keepline.capture.decoders.decoder import Column, Decoded
from keepline.capture.decoders.message_times import unix_column_us
from keepline.capture.decoders.options import check_channels, read_options
from keepline.capture.decoders.struct_layout import Layout, Part, StructOptions
from keepline.capture.decoders.struct_values import values
from keepline.errors import DecodeError
from keepline.model import Channel, DType, StreamSpec


class StructDecoder:
    """Reads binary messages of one size by a declared layout, many at once.

    Options: see StructOptions. A message of another size, with another magic or checksum, a
    bool that is neither 0 nor 1, a text that is not UTF-8, or a number that its channel's type
    cannot hold exactly is rejected alone. NaN and an empty text are missing.

    A channel has the type of its field: float64 for f16 to f64 and all with scale or add, int64
    for whole numbers and several bits, bool for bool and one bit, text for char[n]. A whole
    number may be declared as float64, and is rejected beyond 2**53 then. `channels` lists them.

    Raises:
        DecodeError: the options are not these, or the declared channels do not fit the layout.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._options = read_options(StructOptions, spec)
        self._layout = Layout(self._options)
        parts = self._layout.parts
        check_channels(spec, (name for part in parts for name in part.names))
        declared = {channel.name: channel for channel in spec.channels}
        self.channels = tuple(
            declared.get(name, Channel(name, part.dtype, part.unit))
            for part in parts
            for name in part.names
        )
        types = {channel.name: channel.dtype for channel in self.channels}
        self._parts = [(part, _wanted(part, types)) for part in parts]

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        lengths = np.fromiter(map(len, messages), np.uint32, len(messages))
        return self.decode_packed(b"".join(messages), lengths)

    def decode_packed(self, raw: bytes, lengths: NDArray[np.uint32]) -> Decoded:
        """Return the values of consecutive messages that lie end to end."""
        size = self._layout.size
        places = np.flatnonzero(lengths == size)
        ends = np.cumsum(lengths, dtype=np.int64)
        faults: dict[int, str] = {}
        if len(places) < len(lengths):
            faults = {
                place: f"{lengths[place]} bytes instead of {size}"
                for place in np.flatnonzero(lengths != size).tolist()
            }
            raw_read = b"".join(raw[end - size : end] for end in ends[places].tolist())
        else:
            raw_read = raw
        frames = np.frombuffer(raw_read, self._layout.dtype)
        reading = _Reading(self._layout, self._options, self._parts, frames)
        if reading.faults:
            faults |= {int(places[place]): text for place, text in reading.faults.items()}
            frames = np.delete(frames, list(reading.faults))
            reading = _Reading(self._layout, self._options, self._parts, frames)
        return Decoded(
            len(frames),
            reading.columns,
            [
                (place, raw[ends[place] - lengths[place] : ends[place]], faults[place])
                for place in sorted(faults)
            ],
            reading.times_us,
            reading.ticks,
        )


class _Reading:
    """What frames hold. When there are `faults`, by place, the rest means nothing."""

    def __init__(
        self,
        layout: Layout,
        options: StructOptions,
        parts: Sequence[tuple[Part, DType]],
        frames: NDArray[Any],
    ) -> None:
        self.faults: dict[int, str] = {}
        self.columns: dict[str, Column] = {}
        self.times_us: NDArray[np.int64] | None = None
        self.ticks: NDArray[np.int64] | None = None
        self._check_frames(layout, options, frames)
        for part, dtype in parts:
            found = values(part, dtype, frames)
            self.columns.update(zip(part.names, found.columns, strict=True))
            self._reject(found.bad, found.reason)
        if layout.tick is not None:
            found = values(layout.tick, "int64", frames)
            self.ticks = np.asarray(found.columns[0], np.int64)
            self._reject(found.bad, found.reason)
        if layout.time is not None and options.time_format is not None:
            raw = frames[layout.time.key]
            self.times_us, valid = unix_column_us(raw, options.time_format)
            self._reject(~valid, "a time out of range")

    def _reject(self, bad: NDArray[np.bool_] | None, reason: str) -> None:
        if bad is not None and bad.any():
            for place in np.flatnonzero(bad).tolist():
                self.faults.setdefault(place, reason)

    def _check_frames(self, layout: Layout, options: StructOptions, frames: NDArray[Any]) -> None:
        if not (layout.magic or options.checksum):
            return
        rows = frames.view(np.uint8).reshape(len(frames), layout.size)
        if layout.magic:
            wanted = np.frombuffer(layout.magic, np.uint8)
            other = (rows[:, : len(wanted)] != wanted).any(axis=1)
            self._reject(other, f"does not begin with {layout.magic.hex()}")
        if options.checksum:
            width = CHECKSUMS[options.checksum].width
            order = options.checksum_byte_order or options.byte_order
            weights = 256 ** np.arange(width, dtype=np.uint32)
            given = rows[:, -width:] @ (weights if order == "little" else weights[::-1])
            wrong = checksums(options.checksum, rows[:, :-width]) != given
            self._reject(wrong, f"the checksum {options.checksum} is wrong")


def _wanted(part: Part, types: Mapping[str, DType]) -> DType:
    """Return the type of a part's channels; raises DecodeError when it cannot be that."""
    wanted = {types[name] for name in part.names}
    if len(wanted) > 1:
        raise DecodeError(f"the channels {part.names[0]} to {part.names[-1]} need one type")
    dtype = wanted.pop()
    if dtype != part.dtype and not (dtype == "float64" and part.dtype == "int64"):
        raise DecodeError(f"{part.names[0]} is {part.dtype} in the layout, and declared {dtype}")
    return dtype
