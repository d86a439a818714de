"""Making and calling the decoder that a stream declares, whoever wrote it.

A declaration comes with the data, and a decoder may be a plug-in: whatever is wrong with either
is a DecodeError about this one stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keepline.capture.decoders import Decoded, Decoder, DType
from keepline.errors import DecodeError, KeeplineError
from keepline.model import StreamSpec
from keepline.store import plugins


class DeclaredDecoder:
    """The decoder of a stream's declaration, with what it returns checked.

    Raises:
        PluginError: no decoder of this name is installed.
        DecodeError: the decoder cannot be used as it is declared.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._name = spec.decoder
        self._types = dict(known)
        try:
            self._decoder: Decoder = plugins.load("decoders", spec.decoder)(spec, known)
        except KeeplineError:
            raise
        except Exception as error:  # a plug-in may raise anything
            raise DecodeError(
                f"the decoder {self._name!r} cannot be used as source {spec.source!r} declares "
                f"it: {_reason(error)}"
            ) from error

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages; raises DecodeError when there are none."""
        try:
            decoded = self._decoder.decode(messages)
            fault = self._fault(decoded, len(messages))
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
        for name, column in decoded.columns.items():
            if not _is_storable(name):
                return f"{name!r}, which cannot name a channel"
            dtype = _dtype(column)
            if dtype is None or len(column) != decoded.good:
                return f"other than one value a good message for {name!r}"
            if self._types.setdefault(name, dtype) != dtype:
                return f"{dtype} for {name!r}, which is {self._types[name]} in this stream"
        return ""


def _is_storable(name: object) -> bool:
    # Databases take neither NUL nor half a surrogate pair in a text.
    return (
        isinstance(name, str)
        and name != ""
        and "\0" not in name
        and not any("\ud800" <= letter <= "\udfff" for letter in name)
    )


def _dtype(column: object) -> DType | None:
    if isinstance(column, list):
        return "text"
    if isinstance(column, np.ndarray) and column.dtype == np.float64 and column.ndim == 1:
        return "float64"
    return None


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
