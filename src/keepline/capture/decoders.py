"""Decoders: how the messages of a stream become values of channels.

A decoder is found by the name in a stream's declaration, through the entry points
``keepline.decoders``; it is made anew for each pass over a stream.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from keepline.errors import DecodeError
from keepline.model import StreamSpec

DType = Literal["float64", "text"]

#: float64 values with NaN for a missing one, or a list of texts with None for a missing one.
Column = NDArray[np.float64] | list[str | None]

#: Beyond this not every whole number is a float64.
_EXACT = 2**53

_MAX_NAME = 200

#: So many channels may come in a stream. Each costs a missing value in every message without
#: it: messages with ever new names would cost their number squared.
MAX_CHANNELS = 4_096


@dataclass(frozen=True, slots=True)
class Decoded:
    """What consecutive messages hold.

    `columns` has one value a good message, in order, for each channel that these messages
    have; `good` counts these messages, and `rejected` holds the index, the bytes and the
    fault of each other one, in order.
    """

    good: int
    columns: Mapping[str, Column]
    rejected: Sequence[tuple[int, bytes, str]] = field(default=())


class Decoder(Protocol):
    """Reads the messages of one stream, in order; it may remember what it met before.

    It is called with the stream's declaration and the channels that are known so far by name
    and type, which it must not change. A channel keeps the type it was met with.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None: ...

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages; a bad one is rejected whole."""


class JsonDecoder:
    """Reads a JSON object a message: channel names with a number, truth, text or null each.

    Truths become 1.0 and 0.0; null, NaN, or a channel that is not there is missing. Channels
    come as they are met, of the type they are met with, at any message. One with a new channel
    beyond 4,096 in the stream is rejected.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._types: dict[str, DType] = {each.name: each.dtype for each in spec.channels}
        self._types.update(known)

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        rows: list[dict[str, Any]] = []
        rejected: list[tuple[int, bytes, str]] = []
        for index, message in enumerate(messages):
            try:
                rows.append(_json_object(message))
            except DecodeError as error:
                rejected.append((index, message, str(error)))
        columns = self._columns(rows)
        if columns is not None:
            return Decoded(len(rows), columns, rejected)
        return self._decode_singly(messages)

    def _columns(
        self, rows: list[dict[str, Any]], *, infinite: bool = False
    ) -> dict[str, Column] | None:
        """Return the columns of `rows`, or None when some row does not fit.

        An infinity does not fit unless `infinite`: it may be a number too large for float64.
        """
        types = dict(self._types)
        columns: dict[str, Column] = {}
        names = dict.fromkeys(name for row in rows for name in row)
        if _too_many(names, types):
            return None
        for name in names:
            values = [row.get(name) for row in rows]
            kinds = set(map(type, values))
            kinds.discard(type(None))
            dtype = types.get(name, "text" if kinds == {str} else "float64")
            if not kinds:
                continue  # only null
            if name not in types and not _can_name_a_channel(name):
                return None
            if dtype == "text":
                if not kinds <= {str}:
                    return None
                columns[name] = values
            else:
                if not kinds <= {int, float, bool} or (int in kinds and not _exact(values)):
                    return None
                numbers = np.array(values, dtype=np.float64)
                if not infinite and np.isinf(numbers).any():
                    return None
                columns[name] = numbers
            types[name] = dtype
        self._types = types
        return columns

    def _decode_singly(self, messages: Sequence[bytes]) -> Decoded:
        rows: list[dict[str, Any]] = []
        rejected: list[tuple[int, bytes, str]] = []
        types = dict(self._types)
        for index, message in enumerate(messages):
            try:
                row = _json_object(message, _finite)
                found = _row_types(row, types)
                types.update(found)
                rows.append({name: row[name] for name in found})
            except DecodeError as error:
                rejected.append((index, message, str(error)))
        columns = self._columns(rows, infinite=True)
        if columns is None:
            raise DecodeError("a message does not fit the channels' types")
        return Decoded(len(rows), columns, rejected)


class CsvDecoder:
    """Reads one line of CSV a message, with one number or text for each declared channel.

    Options: `columns`, the names of all fields in order, of which those that are no channel
    (the time) are passed over; `delimiter`, a comma when absent. An empty field, or nan in a
    column of numbers, is missing. A field may be quoted, but not hold a line end.

    Raises:
        DecodeError: the options are not these, or a channel is not one of the columns.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._names = _csv_columns(spec)
        self._delimiter: str = spec.options.get("delimiter", ",")
        if not can_delimit(self._delimiter):
            raise DecodeError(
                f"the CSV option delimiter has to be one ASCII character, not {self._delimiter!r}"
            )
        places = {name: place for place, name in enumerate(self._names)}
        self._channels = [(places[each.name], each.name, each.dtype) for each in spec.channels]

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        rows: list[Sequence[str]] = []
        rejected: list[tuple[int, bytes, str]] = []
        for index, message in enumerate(messages):
            try:
                row = csv_fields(message, self._delimiter)
                self._check(row)
                rows.append(row)
            except DecodeError as error:
                rejected.append((index, message, str(error)))
        columns = list(zip(*rows, strict=True)) or [()] * len(self._names)
        return Decoded(
            len(rows),
            {
                name: _numbers(columns[place]) if dtype == "float64" else _texts(columns[place])
                for place, name, dtype in self._channels
            },
            rejected,
        )

    def _check(self, row: Sequence[str]) -> None:
        if len(row) != len(self._names):
            raise DecodeError(f"{len(row)} fields instead of {len(self._names)}")
        for place, name, dtype in self._channels:
            text = row[place]
            if text and dtype == "float64" and not is_number(text) and text.strip():
                raise DecodeError(f"{name} is not a number")


def can_delimit(text: object) -> bool:
    """Return whether the fields of a line of CSV can be kept apart by `text`."""
    return isinstance(text, str) and len(text) == 1 and text.isascii() and text not in '"\r\n\0'


def csv_fields(line: bytes, delimiter: str) -> list[str]:
    """Return the fields of one line of CSV in UTF-8, without its line end.

    Raises DecodeError for bytes that are no text, a NUL, or a quote that is not closed.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8 from byte {error.start} on") from error
    if "\0" in text:
        raise DecodeError("a NUL byte")
    if '"' not in text and "\r" not in text:
        return text.split(delimiter)
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DecodeError(f"not a line of CSV: {error}") from error
    return rows[0] if rows else [""]


def is_number(text: str) -> bool:
    """Return whether a field of CSV is a number as float() reads it, but without ``_``.

    A number too large for float64 is none: it would become infinite in silence.
    """
    try:
        value = float(text)
    except ValueError:
        return False
    return "_" not in text and (not math.isinf(value) or not any(map(str.isdigit, text)))


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise DecodeError("a number is too large for float64")
    return value


def _json_object(
    message: bytes, parse_float: Callable[[str], float] | None = None
) -> dict[str, Any]:
    try:
        value = json.loads(message.decode(), parse_float=parse_float)
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8 from byte {error.start} on") from error
    except RecursionError as error:
        raise DecodeError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DecodeError("not a JSON object")
    return value


def _row_types(row: Mapping[str, Any], types: Mapping[str, DType]) -> dict[str, DType]:
    """Return the types of a row's values; raises DecodeError when one does not fit."""
    found: dict[str, DType] = {}
    for name, value in row.items():
        if value is None:
            continue
        if not isinstance(value, str | int | float):
            raise DecodeError(f"{name} is neither number, truth nor text")
        dtype: DType = "text" if isinstance(value, str) else "float64"
        if name not in types and not _can_name_a_channel(name):
            raise DecodeError(f"{name!r} cannot name a channel")
        if types.get(name, dtype) != dtype:
            raise DecodeError(f"{name} is {types[name]} in this stream, not {dtype}")
        if not _exact([value]):
            raise DecodeError(f"{name} is a whole number too large for float64")
        found[name] = dtype
    if _too_many(found, types):
        raise DecodeError(f"more channels than the {MAX_CHANNELS:,} that a stream can have")
    return found


def _too_many(names: Iterable[str], types: Mapping[str, DType]) -> bool:
    new = sum(name not in types for name in names)
    return new > 0 and len(types) + new > MAX_CHANNELS


def _can_name_a_channel(name: str) -> bool:
    # Databases take neither NUL nor half a surrogate pair in a text.
    return bool(name) and name.isprintable() and len(name) <= _MAX_NAME


def _csv_columns(spec: StreamSpec) -> list[str]:
    columns = spec.options.get("columns")
    if not isinstance(columns, list | tuple) or not all(isinstance(each, str) for each in columns):
        raise DecodeError(
            "the CSV option columns has to list the names of all fields in their order"
        )
    times = Counter(columns)
    for channel in spec.channels:
        if times[channel.name] != 1:
            raise DecodeError(f"the channel {channel.name!r} has to be one of the CSV columns")
    return list(columns)


def _exact(values: Iterable[Any]) -> bool:
    return all(
        -_EXACT <= value <= _EXACT or _is_exact(value) for value in values if type(value) is int
    )


def _is_exact(value: int) -> bool:
    try:
        return float(value) == value
    except OverflowError:
        return False


def _numbers(fields: Sequence[str]) -> NDArray[np.float64]:
    try:
        return np.fromiter(map(float, fields), np.float64, len(fields))
    except ValueError:  # there are empty ones
        given = [field if field.strip() else "nan" for field in fields]
        return np.fromiter(map(float, given), np.float64, len(fields))


def _texts(fields: Iterable[str]) -> list[str | None]:
    return [field or None for field in fields]
