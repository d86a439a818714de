"""The values of the channels of binary messages, a column of all messages at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.decoder import Column
from keepline.capture.decoders.struct_layout import Part
from keepline.model import DType

#: Below this every whole number is a float64.
_EXACT = 2**53
_MAX_INT64 = 2**63 - 1


class Values(NamedTuple):
    """The columns of a part's channels; `bad` says which messages they cannot be read from."""

    columns: list[Column]
    bad: NDArray[np.bool_] | None = None
    reason: str = ""


def values(part: Part, dtype: DType, frames: NDArray[Any]) -> Values:
    """Return the columns of a part of structured `frames`, as `dtype`.

    A column owns its memory or shares it with the other columns of its part only.
    """
    raw = frames[part.key].T  # of an array one row a channel
    if part.kind == "text":
        return _texts(part, raw)
    if part.bits:
        mask = raw.dtype.type(2**part.bits - 1)
        raw = raw >> raw.dtype.type(part.bit) & mask
    if dtype == "bool":
        bad = None if part.bits else _by_message(raw > 1)
        truths = _split(raw.astype(np.bool_, order="C"))
        return Values(truths, bad, f"{part.names[0]} is neither 0 nor 1")
    if dtype == "int64":
        return _whole(part, raw)
    return _floats(part, raw)


def _whole(part: Part, raw: NDArray[Any]) -> Values:
    bad = None
    if raw.dtype.kind == "u" and raw.dtype.itemsize == 8:
        bad = _by_message(raw > _MAX_INT64)
    numbers = _split(raw.astype(np.int64, order="C"))
    return Values(numbers, bad, f"{part.names[0]} does not fit into int64")


def _floats(part: Part, raw: NDArray[Any]) -> Values:
    with np.errstate(all="ignore"):
        numbers = raw.astype(np.float64, order="C")
        if part.scale is None and part.add is None:
            bad = None
            if raw.dtype.kind in "iu" and raw.dtype.itemsize == 8:
                bad = _by_message(~_is_exact(raw))
            return Values(_split(numbers), bad, f"{part.names[0]} is too large for float64")
        if part.scale is not None:
            numbers *= part.scale
        if part.add is not None:
            numbers += part.add
    return Values(_split(numbers))


def _texts(part: Part, raw: NDArray[Any]) -> Values:
    bad = np.zeros(raw.shape[-1], np.bool_)
    columns: list[Column] = []
    for column in [raw] if raw.ndim == 1 else raw:
        texts: list[str | None] = []
        for place, value in enumerate(column.tolist()):
            try:
                texts.append(value.partition(b"\0")[0].decode().rstrip(" ") or None)
            except UnicodeDecodeError:
                texts.append(None)
                bad[place] = True
        columns.append(texts)
    return Values(columns, bad, f"{part.names[0]} is not UTF-8")


def _is_exact(raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which whole numbers of 64 bits a float64 surely holds: up to 2**53."""
    exact: NDArray[np.bool_] = raw <= _EXACT
    return exact if raw.dtype.kind == "u" else exact & (raw >= -_EXACT)


def _by_message(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return bad if bad.ndim == 1 else np.logical_or.reduce(bad, axis=0)


def _split(numbers: NDArray[Any]) -> list[Column]:
    return [numbers] if numbers.ndim == 1 else list(numbers)
