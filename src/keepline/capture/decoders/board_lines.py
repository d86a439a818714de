"""Frames of expansion boards: lines of hexadecimal digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.decoder import Column, Decoded
from keepline.capture.decoders.options import Options, check_channels, read_options
from keepline.errors import DecodeError
from keepline.model import DType, StreamSpec, TickClock

MIN_CHARACTERS = 28

#: Where the payload begins: after 8 bits sender, 3 bits type, 5 flags, 32 bits counter.
_PAYLOAD = 6
_FLAGS = 5
_ADC_VALUES = 5
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[list(b"0123456789abcdef")] = range(16)
_DIGITS[list(b"ABCDEF")] = range(10, 16)


class BoardHeader(NamedTuple):
    """The first 48 bits of a frame; `flags` from the highest bit down.

    `counter` counts milliseconds since the start of logging, and starts again at 0 after
    2**32 - 1.
    """

    sender: int
    type: int
    flags: tuple[bool, ...]
    counter: int


class BoardOptions(Options):
    """The option of the decoder ``board``: `header` makes type and flags channels too."""

    header: bool = False


class _Payload(NamedTuple):
    """What the payload of a sender holds: so many values of a size in bits."""

    name: str
    values: int
    bits: int

    @property
    def size(self) -> int:
        return -(-self.values * self.bits // 8)


_PAYLOADS = {
    8: _Payload("adc", _ADC_VALUES, 12),
    9: _Payload("value", 3, 16),
    10: _Payload("value", 16, 32),
    11: _Payload("value", 16, 32),
}


class BoardDecoder:
    """Reads a frame a message: at least 28 hexadecimal digits in one line, many at once.

    The sender decides what the payload is: 8 gives ``board8_adc_1`` to ``board8_adc_5``, the
    12-bit values as they are; 9 ``board9_value_1`` to ``_3``, 16-bit values as they are; 10 and
    11 ``board10_value_1`` to ``_16`` (or ``board11_...``), (raw - 2e6) / 1e6 of 32-bit values;
    any other one its whole payload in hexadecimal digits as the text ``board5_payload``. What
    follows the values of 8 to 11 is passed over. With the option `header` there are
    ``board8_type`` and ``board8_flag_1`` to ``_5`` too. The ticks are the counter as it came,
    in milliseconds; `clock` is what is known of it.

    A line that is too short, or too short for what its sender sends, and one with another
    character in it, is rejected alone. Whole numbers are int64, and may be declared as float64.

    Raises:
        DecodeError: the options are not these, or a declared channel is none of those.
    """

    clock = TickClock(bits=32, tick_us=1000)

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._header = read_options(BoardOptions, spec).header
        types = dict(_all_channels(self._header))
        check_channels(spec, types)
        for channel in spec.channels:
            if channel.dtype not in (types[channel.name], _also(types[channel.name])):
                raise DecodeError(
                    f"{channel.name} is {types[channel.name]}, and declared {channel.dtype}"
                )
            types[channel.name] = channel.dtype
        self._types = types

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        frames = _Frames(messages)
        pieces: dict[str, list[tuple[NDArray[np.intp], Any]]] = {}
        good = np.zeros(len(messages), np.bool_)
        ticks = np.zeros(len(messages), np.int64)
        for places, sender, octets in frames.by_sender():
            good[places] = True
            ticks[places] = _words(octets[:, 2:_PAYLOAD], ">u4")[:, 0]
            for name, values in _values(sender, octets, self._header):
                pieces.setdefault(name, []).append((places, values))
        rows = np.cumsum(good) - 1
        count = int(good.sum())
        return Decoded(
            count,
            {
                name: _column(self._types[name], [(rows[p], v) for p, v in pieces[name]], count)
                for name in pieces
            },
            [(place, messages[place], frames.faults[place]) for place in sorted(frames.faults)],
            ticks=ticks[good],
        )


def read_header(line: bytes) -> BoardHeader:
    """Return the header of one frame; raises DecodeError when the line is none."""
    frames = _Frames([line])
    for _, sender, octets in frames.by_sender():
        kind, flags = int(octets[0, 1] >> 5), np.unpackbits(octets[0, 1:2])[3:]
        counter = int.from_bytes(octets[0, 2:_PAYLOAD].tobytes(), "big")
        return BoardHeader(sender, kind, tuple(map(bool, flags.tolist())), counter)
    raise DecodeError(frames.faults[0])


class _Frames:
    """The frames in lines, and the `faults` of other lines by place, complete once all are read."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = [line.strip() for line in lines]
        self.faults: dict[int, str] = {}

    def by_sender(self) -> Iterator[tuple[NDArray[np.intp], int, NDArray[np.uint8]]]:
        """Yield places, sender and octets (one row a frame) of frames of one size and sender."""
        lengths = np.fromiter(map(len, self._lines), np.int64, len(self._lines))
        for length in np.unique(lengths).tolist():
            places = np.flatnonzero(lengths == length)
            if length < MIN_CHARACTERS or length % 2:
                self._reject(places, _fault_of_length(length))
                continue
            digits = _DIGITS[
                np.frombuffer(b"".join([self._lines[place] for place in places]), np.uint8)
            ].reshape(len(places), length)
            other = (digits == _NO_DIGIT).any(axis=1)
            self._reject(places[other], "not all characters are hexadecimal digits")
            places, digits = places[~other], digits[~other]
            octets = digits[:, 0::2] << 4 | digits[:, 1::2]
            for sender in np.unique(octets[:, 0]).tolist():
                chosen = octets[:, 0] == sender
                needed = _PAYLOADS[sender].size if sender in _PAYLOADS else 0
                if length // 2 - _PAYLOAD >= needed:
                    yield places[chosen], sender, octets[chosen]
                else:
                    self._reject(
                        places[chosen],
                        f"the payload of sender {sender} has {length // 2 - _PAYLOAD} bytes "
                        f"instead of {needed}",
                    )

    def _reject(self, places: NDArray[np.intp], reason: str) -> None:
        self.faults.update(dict.fromkeys(places.tolist(), reason))


def _fault_of_length(length: int) -> str:
    if length < MIN_CHARACTERS:
        return f"{length} characters instead of at least {MIN_CHARACTERS}"
    return f"{length} characters, an odd number of hexadecimal digits"


def _values(
    sender: int, octets: NDArray[np.uint8], header: bool
) -> Iterator[tuple[str, NDArray[Any] | list[str]]]:
    """Yield the channels of frames of one sender, with a value a frame each."""
    payload = octets[:, _PAYLOAD:]
    if header:
        yield f"board{sender}_type", octets[:, 1] >> 5
        flags = np.unpackbits(octets[:, 1:2], axis=1)[:, -_FLAGS:]
        for number in range(_FLAGS):
            yield f"board{sender}_flag_{number + 1}", flags[:, number]
    if sender not in _PAYLOADS:
        yield f"board{sender}_payload", [row.tobytes().hex() for row in payload]
        return
    name, count, bits = _PAYLOADS[sender]
    if bits == 12:
        word = _words(payload[:, :8], ">u8")[:, 0]
        values = np.stack([word >> (52 - 12 * place) & 0xFFF for place in range(count)])
    else:
        values = _words(payload[:, : count * bits // 8], f">u{bits // 8}").T
    if bits == 32:
        values = (values - 2e6) / 1e6
    for place in range(count):
        yield f"board{sender}_{name}_{place + 1}", values[place]


def _words(octets: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    """Return rows of octets as rows of big-endian numbers."""
    return np.ascontiguousarray(octets).view(kind)


def _column(dtype: DType, pieces: Sequence[tuple[NDArray[np.intp], Any]], count: int) -> Column:
    """Return a column of `count` values from values with their rows; other rows are missing."""
    if dtype == "text":
        texts: list[str | None] = [None] * count
        for rows, values in pieces:
            for row, value in zip(rows.tolist(), values, strict=True):
                texts[row] = value
        return texts
    if dtype == "float64":
        numbers = np.full(count, np.nan)
        for rows, values in pieces:
            numbers[rows] = values
        return numbers
    whole: NDArray[Any] = np.zeros(count, np.int64 if dtype == "int64" else np.bool_)
    missing = np.ones(count, np.bool_)
    for rows, values in pieces:
        whole[rows] = values
        missing[rows] = False
    return np.ma.MaskedArray(whole, missing) if missing.any() else whole


def _also(dtype: DType) -> DType:
    """Return what a channel of this type may be declared as, too."""
    return "float64" if dtype == "int64" else dtype


def _all_channels(header: bool) -> Iterator[tuple[str, DType]]:
    """Yield every channel that there can be, with its type."""
    for sender in range(256):
        if header:
            yield f"board{sender}_type", "int64"
            for number in range(1, _FLAGS + 1):
                yield f"board{sender}_flag_{number}", "bool"
        if sender not in _PAYLOADS:
            yield f"board{sender}_payload", "text"
            continue
        name, count, bits = _PAYLOADS[sender]
        for number in range(1, count + 1):
            yield f"board{sender}_{name}_{number}", "float64" if bits == 32 else "int64"
