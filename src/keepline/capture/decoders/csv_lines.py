"""Messages that are lines of CSV."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from keepline.capture.decoders.decoder import Column, Decoded
from keepline.capture.decoders.options import (
    NAMES_NO_CHANNEL,
    can_name_a_channel,
    read_options,
    shown,
)
from keepline.capture.decoders.row_batch import RowBatch, StampOptions, Stamps
from keepline.capture.decoders.typed_rows import EXACT, MAX_INT64, MIN_INT64, column_of
from keepline.errors import DecodeError
from keepline.model import Channel, DType, StreamSpec

_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "": None}


class CsvOptions(StampOptions):
    """The options of the decoder ``csv``.

    `columns` names all fields in their order. `position` is of no meaning to the decoder:
    "tick" says that a message's tick is its line number.
    """

    columns: tuple[str, ...] = Field(min_length=1)
    delimiter: str = ","
    position: str | None = None

    @field_validator("delimiter")
    @classmethod
    def _can_delimit(cls, delimiter: str) -> str:
        if not can_delimit(delimiter):
            raise ValueError(f"it has to be one ASCII character, not {delimiter!r}")
        return delimiter


class CsvDecoder:
    """Reads one line of CSV a message, with a value of its type for each declared channel.

    Options: see CsvOptions and StampOptions. Where a stream declares no channel, every field
    but the time and the tick is one of float64; `channels` lists them. Where it declares some,
    other fields are passed over. An empty field, or nan in a column of numbers, is missing. A
    field may be quoted, but not hold a line end. int64 takes whole numbers of its range, 3.0
    too; bool takes true, false, 1 and 0 in any case.

    Raises:
        DecodeError: the options are not these, or a channel is not one of the columns.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        options = read_options(CsvOptions, spec)
        self._delimiter = options.delimiter
        self._fields = len(options.columns)
        self._stamps = Stamps(options, spec)
        stamped = [name for name in (options.time, options.tick) if name is not None]
        self.channels = spec.channels or tuple(
            Channel(name) for name in options.columns if name not in stamped
        )
        _check_columns(options.columns, [*stamped, *(each.name for each in self.channels)])
        places = {name: place for place, name in enumerate(options.columns)}
        self._channels = [(places[each.name], each.name, each.dtype) for each in self.channels]
        self._time = None if options.time is None else places[options.time]
        self._tick = None if options.tick is None else places[options.tick]

    def follow(self, time_us: int) -> None:
        """Take the message before the next one to have had this time; see FollowingDecoder."""
        self._stamps.follow(time_us)

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        rows: list[list[str]] = []
        time, tick = self._time, self._tick
        batch = RowBatch(messages, times=time is not None, ticks=tick is not None)
        for place, message in enumerate(messages):
            try:
                row = csv_fields(message, self._delimiter)
                if len(row) != self._fields:
                    raise DecodeError(f"{len(row)} fields instead of {self._fields}")
                stamp = self._stamps.read(
                    None if time is None else row[time].strip() or None,
                    None if tick is None else row[tick],
                )
            except DecodeError as error:
                batch.reject(place, str(error))
            else:
                batch.add(place, stamp)
                rows.append(row)
        return batch.decoded(*self._columns(rows))

    def _columns(self, rows: Sequence[Sequence[str]]) -> tuple[dict[str, Column], dict[int, str]]:
        columns: dict[str, Column] = {}
        for place, name, dtype in self._channels:
            column = _plain_column(dtype, [row[place] for row in rows])
            if column is None:
                return self._columns_singly(rows)
            columns[name] = column
        return columns, {}

    def _columns_singly(
        self, rows: Sequence[Sequence[str]]
    ) -> tuple[dict[str, Column], dict[int, str]]:
        faults: dict[int, str] = {}
        good: list[list[Any]] = []
        for number, row in enumerate(rows):
            try:
                good.append([_value(n, dtype, row[place]) for place, n, dtype in self._channels])
            except DecodeError as error:
                faults[number] = str(error)
        return {
            name: column_of(dtype, [row[at] for row in good])
            for at, (_, name, dtype) in enumerate(self._channels)
        }, faults


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


def _check_columns(columns: Sequence[str], used: Sequence[str]) -> None:
    times = Counter(columns)
    for name in used:
        if times[name] != 1:
            raise DecodeError(f"{name!r} has to be one of the CSV columns")
        if not can_name_a_channel(name):
            raise DecodeError(f"{shown(name)} {NAMES_NO_CHANNEL}")


def _plain_column(dtype: DType, fields: Sequence[str]) -> Column | None:
    """Return fields as a column where all of them are plainly of its type, else None."""
    if dtype == "text":
        return [field or None for field in fields]
    if dtype != "bool" and "_" in "".join(fields):
        return None
    try:
        if dtype == "float64":
            return _floats(fields)
        if dtype == "int64":
            return column_of("int64", [int(f) if f.strip() else None for f in fields])
        return column_of("bool", [_TRUTHS[field.strip().lower()] for field in fields])
    except (ValueError, OverflowError, KeyError):
        return None


def _floats(fields: Sequence[str]) -> Column | None:
    try:
        numbers = np.fromiter(map(float, fields), np.float64, len(fields))
    except ValueError:  # there are empty ones
        given = [field if field.strip() else "nan" for field in fields]
        numbers = np.fromiter(map(float, given), np.float64, len(fields))
    return None if np.isinf(numbers).any() else numbers


def _value(name: str, dtype: DType, field: str) -> float | int | bool | str | None:
    """Return the value of one field, None for a missing one; raises DecodeError."""
    if dtype == "text":
        return field or None
    if not field.strip():
        return None
    if dtype == "bool":
        truth = _TRUTHS.get(field.strip().lower())
        if truth is None:
            raise DecodeError(f"{name} is neither true, false, 1 nor 0")
        return truth
    if not is_number(field):
        raise DecodeError(f"{name} is not a number")
    return float(field) if dtype == "float64" else _int64(name, field)


def _int64(name: str, field: str) -> int | None:
    try:
        whole = int(field)
    except ValueError:
        number = float(field)
        if math.isnan(number):
            return None
        if not number.is_integer() or abs(number) > EXACT:
            raise DecodeError(f"{name} is int64, not a number with a fraction") from None
        whole = int(number)
    if not MIN_INT64 <= whole <= MAX_INT64:
        raise DecodeError(f"{name} does not fit into int64")
    return whole
