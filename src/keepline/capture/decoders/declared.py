"""Making and calling the decoder that a stream declares, whoever wrote it.

A declaration comes with the data, and a decoder may be a plug-in: whatever is wrong with either
is a DecodeError about this one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.decoder import (
    MAX_NAME_BYTES,
    Decoded,
    Decoder,
    FollowingDecoder,
    PackedDecoder,
)
from keepline.capture.decoders.options import declared_types, shown
from keepline.capture.decoders.typed_rows import is_storable
from keepline.errors import DecodeError, KeeplineError
from keepline.model import Channel, DType, StreamSpec, TickClock
from keepline.store import plugins


class DeclaredDecoder:
    """The decoder of a stream's declaration, with what it returns checked.

    `channels` and `clock` are what the decoder knows of them by itself, if anything.

    Raises:
        PluginError: no decoder of this name is installed.
        DecodeError: the decoder cannot be used as it is declared.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._name = spec.decoder
        self._types = declared_types(spec, known)
        try:
            self._decoder: Decoder = plugins.load("decoders", spec.decoder)(spec, known)
            self.channels: tuple[Channel, ...] = tuple(getattr(self._decoder, "channels", ()))
            self.clock: TickClock | None = getattr(self._decoder, "clock", None)
        except KeeplineError:
            raise
        except Exception as error:  # a plug-in may raise anything
            raise DecodeError(
                f"the decoder {self._name!r} cannot be used as source {spec.source!r} declares "
                f"it: {_reason(error)}"
            ) from error

    @property
    def is_packed(self) -> bool:
        """Return whether the decoder reads messages that lie end to end; see PackedDecoder."""
        return isinstance(self._decoder, PackedDecoder)

    def follow(self, time_us: int | None, rejected: Iterable[Sequence[bytes]]) -> None:
        """Go on after messages that another pass read, if that is of any matter.

        The last good one had the time `time_us` (UTC microseconds; None: there was none), and
        `rejected` are all after it, some at a time: a time that is right counts there, too.
        """
        if not isinstance(self._decoder, FollowingDecoder):
            return
        if time_us is not None:
            self._decoder.follow(time_us)
        for messages in rejected:
            self.decode(messages)

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages; raises DecodeError when there are none."""
        return self._checked(lambda: self._decoder.decode(messages), len(messages))

    def decode_packed(self, raw: bytes, lengths: NDArray[np.uint32]) -> Decoded:
        """Return the values of consecutive messages that lie end to end, of a packed decoder.

        Raises DecodeError when there are none.
        """
        decoder = self._decoder
        if not isinstance(decoder, PackedDecoder):
            raise DecodeError(f"the decoder {self._name!r} reads messages one by one only")
        return self._checked(lambda: decoder.decode_packed(raw, lengths), len(lengths))

    def _checked(self, decode: Callable[[], Decoded], messages: int) -> Decoded:
        try:
            decoded = decode()
            fault = self._fault(decoded, messages)
        except KeeplineError:
            raise
        except Exception as error:  # a plug-in may raise anything
            raise DecodeError(f"the decoder {self._name!r} failed: {_reason(error)}") from error
        if fault:
            raise DecodeError(f"the decoder {self._name!r} is at fault: it returned {fault}")
        return decoded

    def _fault(self, decoded: Decoded, messages: int) -> str:
        places = [place for place, _, _ in decoded.rejected]
        if sorted(set(places)) != places or any(not 0 <= place < messages for place in places):
            return "rejected messages out of order"
        if decoded.good + len(places) != messages:
            return f"{decoded.good} good and {len(places)} rejected messages of {messages}"
        for what, stamps in (("times_us", decoded.times_us), ("ticks", decoded.ticks)):
            if stamps is not None and not _is_whole_column(stamps, decoded.good):
                return f"other than one int64 a good message as {what}"
        for name, column in decoded.columns.items():
            if not _can_name(name):
                return f"{shown(name)}, which cannot name a channel"
            dtype = _dtype(column)
            if dtype is None or len(column) != decoded.good:
                return f"other than one value a good message for {name!r}"
            if self._types.setdefault(name, dtype) != dtype:
                return f"{dtype} for {name!r}, which is {self._types[name]} in this stream"
        return ""


def _can_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name != ""
        and is_storable([name])
        and len(name.encode()) <= MAX_NAME_BYTES
    )


def _is_whole_column(column: object, length: int) -> bool:
    return (
        isinstance(column, np.ndarray)
        and not isinstance(column, np.ma.MaskedArray)
        and column.dtype == np.int64
        and column.shape == (length,)
    )


def _dtype(column: object) -> DType | None:
    """Return the type of a column's values, None when it is no column."""
    if isinstance(column, list):
        is_text = set(map(type, column)) <= {str, type(None)} and is_storable(column)
        return "text" if is_text else None
    if not isinstance(column, np.ndarray) or column.ndim != 1:
        return None
    if column.dtype == np.float64:
        return None if isinstance(column, np.ma.MaskedArray) else "float64"
    if column.dtype == np.int64:
        return "int64"
    return "bool" if column.dtype == np.bool_ else None


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
