"""What a decoder is: how the messages of a stream become values of channels.

A decoder is found by the name in a stream's declaration, through the entry points
``keepline.decoders``; it is made anew for each pass over a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from keepline.model import DType, StreamSpec

#: The values of one channel, one a good message. float64: an array with NaN for a missing
#: value; int64 or bool: an array when none is missing, else a numpy.ma.MaskedArray; text: a
#: list with None for a missing one.
Column = NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_] | list[str | None]

#: A channel's name has at most so many bytes in UTF-8. PostgreSQL's index of channels takes
#: 2,704 a row, with the session and the source.
MAX_NAME_BYTES = 1_000

#: Stands in `Decoded.times_us` for a message without a time of its own: that of arrival holds.
NO_TIME = -(2**63)

#: So many channels may come in a stream. Each costs a missing value in every message without
#: it: messages with ever new names would cost their number squared.
MAX_CHANNELS = 4_096


@dataclass(frozen=True, slots=True)
class Decoded:
    """What consecutive messages hold.

    `columns` has one value a good message, in order, for each channel that these messages
    have; `good` counts these messages, and `rejected` holds the index, the bytes and the
    fault of each other one, in order. Where the messages hold them, `times_us` (int64, UTC
    microseconds) and `ticks` (int64, the device's own counter, as it came) have one value a
    good message; they replace the time of arrival, and the ticks given beside the messages.
    Only where a message has NO_TIME, its time of arrival stays.
    """

    good: int
    columns: Mapping[str, Column]
    rejected: Sequence[tuple[int, bytes, str]] = field(default=())
    times_us: NDArray[np.int64] | None = None
    ticks: NDArray[np.int64] | None = None


class Decoder(Protocol):
    """Reads the messages of one stream, in order; it may remember what it met before.

    It is called with the stream's declaration and the channels that are known so far by name
    and type, which it must not change. A channel keeps the type it was met with.

    A decoder whose channels are fixed may list them as `channels`, a tuple of Channel, and one
    that knows its device's counter give that as `clock`, a TickClock: a declaration without
    them takes them over.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None: ...

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages; a bad one is rejected whole."""


@runtime_checkable
class FollowingDecoder(Decoder, Protocol):
    """A decoder that reads a message's time by that of the one before it."""

    def follow(self, time_us: int) -> None:
        """Take the message before the next one to have had this time, in UTC microseconds.

        It is called where a stream goes on that another pass read up to there.
        """


@runtime_checkable
class PackedDecoder(Decoder, Protocol):
    """A decoder that can also read messages without cutting them apart, for speed."""

    def decode_packed(self, raw: bytes, lengths: NDArray[np.uint32]) -> Decoded:
        """Return what `decode` does of messages that lie end to end, with their lengths."""
