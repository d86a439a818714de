"""Rows of named values, turned into one typed column a channel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keepline.capture.decoders.decoder import MAX_CHANNELS, Column
from keepline.capture.decoders.options import NAMES_NO_CHANNEL, can_name_a_channel, shown
from keepline.errors import DecodeError
from keepline.model import DType

#: The only two infinities that a row can have; any other was too large a number for float64.
INFINITY = float("inf")
MINUS_INFINITY = float("-inf")

#: Up to this every whole number is a float64.
EXACT = 2**53

MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1

Row = Mapping[str, Any]


class TypedRows:
    """Makes columns of rows; a channel keeps the type that it was met with.

    `types` are those that are known from the start; `whole` is what the whole numbers of a new
    channel are, int64 or float64. Values are None or NaN (missing), bool, int, float and str;
    a row with another one, or one that its channel's type cannot hold exactly, is at fault.

    float64 takes int and float, int64 int and float without a fraction, bool also 1 and 0,
    text only str.
    """

    def __init__(self, types: Mapping[str, DType], *, whole: DType) -> None:
        self._types = dict(types)
        self._new: dict[type, DType] = {bool: "bool", int: whole, float: "float64", str: "text"}
        self._numbers_are_float = whole == "float64"

    def columns(self, rows: Sequence[Row]) -> tuple[dict[str, Column], dict[int, str]]:
        """Return the columns of the rows without fault, and the others' places and faults."""
        columns = self._columns_of_good(rows)
        return (columns, {}) if columns is not None else self._columns_singly(rows)

    def _columns_of_good(self, rows: Sequence[Row]) -> dict[str, Column] | None:
        """Return the columns, or None when they have to be looked at row by row."""
        columns: dict[str, Column] = {}
        found: dict[str, DType] = {}
        for name in dict.fromkeys(itertools.chain.from_iterable(rows)):
            values = [row.get(name) for row in rows]
            kinds = set(map(type, values))
            kinds.discard(type(None))
            if not kinds:
                continue
            dtype = self._types.get(name) or self._new_type(name, kinds)
            column = None if dtype is None else _plain_column(dtype, kinds, values)
            if dtype is None or column is None:
                return None
            columns[name] = column
            found[name] = dtype
        if self._are_too_many(found):
            return None
        self._types.update(found)
        return columns

    def _columns_singly(self, rows: Sequence[Row]) -> tuple[dict[str, Column], dict[int, str]]:
        good: list[dict[str, Any]] = []
        faults: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                good.append(self._typed(row))
            except DecodeError as error:
                faults[place] = str(error)
        names = dict.fromkeys(itertools.chain.from_iterable(good))
        return {
            name: column_of(self._types[name], [row.get(name) for row in good]) for name in names
        }, faults

    def _new_type(self, name: str, kinds: set[type]) -> DType | None:
        if not can_name_a_channel(name):
            return None
        if len(kinds) == 1:
            (kind,) = kinds
            return self._new.get(kind)
        return "float64" if kinds == {int, float} and self._numbers_are_float else None

    def _typed(self, row: Row) -> dict[str, Any]:
        """Return a row's values as their channels' types have them; raises DecodeError."""
        typed: dict[str, Any] = {}
        new: dict[str, DType] = {}
        for name, value in row.items():
            if value is None:
                continue
            dtype = self._types.get(name)
            if dtype is None:
                if not can_name_a_channel(name):
                    raise DecodeError(f"{shown(name)} {NAMES_NO_CHANNEL}")
                dtype = self._new.get(type(value))
                if dtype is None:
                    raise DecodeError(f"{name} is neither number, truth nor text")
                new[name] = dtype
            typed[name] = typed_value(name, dtype, value)
        if self._are_too_many(new):
            raise DecodeError(f"more channels than the {MAX_CHANNELS:,} that a stream can have")
        self._types.update(new)
        return typed

    def _are_too_many(self, found: Mapping[str, DType]) -> bool:
        new = sum(name not in self._types for name in found)
        return new > 0 and len(self._types) + new > MAX_CHANNELS


def typed_value(name: str, dtype: DType, value: Any) -> float | int | bool | str | None:
    """Return a value as its channel's type has it; raises DecodeError when that cannot hold it.

    NaN is None, missing, where the channel is of whole numbers.
    """
    if isinstance(value, bool):
        if dtype == "bool":
            return value
        raise DecodeError(f"{name} is {dtype} in this stream, not bool")
    if isinstance(value, str):
        if dtype == "text":
            return _storable(name, value)
        raise DecodeError(f"{name} is {dtype} in this stream, not text")
    if not isinstance(value, int | float):
        raise DecodeError(f"{name} is neither number, truth nor text")
    if dtype == "float64":
        return _float64(name, value)
    if dtype == "int64":
        return _int64(name, value)
    if dtype == "bool" and isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise DecodeError(f"{name} is {dtype} in this stream, not a number")


def column_of(dtype: DType, values: Sequence[Any]) -> Column:
    """Return typed values, None for a missing one, as a column."""
    if dtype == "text":
        return list(values)
    if dtype == "float64":
        return np.array(values, np.float64)
    kind = np.int64 if dtype == "int64" else np.bool_
    if None not in values:
        return np.array(values, kind)
    mask = [value is None for value in values]
    return np.ma.MaskedArray([value or 0 for value in values], mask, kind)


def is_storable(texts: Sequence[str | None]) -> bool:
    """Return whether databases take these texts: no NUL, and no half of a surrogate pair."""
    joined = "".join(filter(None, texts))
    if "\0" in joined:
        return False
    if joined.isascii():
        return True
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    # Two halves of a pair that meet where texts are joined stay two: Python pairs none.
    return True


def _plain_column(dtype: DType, kinds: set[type], values: list[Any]) -> Column | None:
    """Return values as a column where all of them are plainly of its type, else None."""
    if dtype == "text":
        return values if kinds == {str} and is_storable(values) else None
    if dtype == "float64":
        return _plain_floats(kinds, values)
    if kinds != ({int} if dtype == "int64" else {bool}):
        return None
    try:
        return column_of(dtype, values)
    except OverflowError:
        return None


def _plain_floats(kinds: set[type], values: list[Any]) -> Column | None:
    if not kinds <= {int, float}:
        return None
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        return None
    largest = np.fmax.reduce(np.abs(numbers))
    return None if largest == INFINITY or (int in kinds and largest >= EXACT) else numbers


def _storable(name: str, text: str) -> str:
    if not is_storable([text]):
        raise DecodeError(f"{name} has a NUL or half a surrogate pair in its text")
    return text


def _float64(name: str, value: int | float) -> float:
    if isinstance(value, float):
        if math.isinf(value) and value is not INFINITY and value is not MINUS_INFINITY:
            raise DecodeError(f"{name} is a number too large for float64")
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number != value:
        raise DecodeError(f"{name} is a whole number too large for float64")
    return number


def _int64(name: str, value: int | float) -> int | None:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if not value.is_integer() or abs(value) > EXACT:
            raise DecodeError(f"{name} is int64 in this stream, not a number with a fraction")
        return int(value)
    if not MIN_INT64 <= value <= MAX_INT64:
        raise DecodeError(f"{name} is a whole number too large for int64")
    return value
