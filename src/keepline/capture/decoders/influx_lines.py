"""Messages that are lines of the InfluxDB line protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from keepline.capture.decoders.decoder import MAX_NAME_BYTES, NO_TIME, Decoded
from keepline.capture.decoders.message_times import TimeFormat, unix_us
from keepline.capture.decoders.options import Options, declared_types, read_options
from keepline.capture.decoders.row_batch import RowBatch, Stamp
from keepline.capture.decoders.typed_rows import MAX_INT64, MIN_INT64, TypedRows
from keepline.errors import DecodeError
from keepline.model import DType, StreamSpec

#: What a timestamp counts: how many units of a Unix time.
_UNITS: dict[str, tuple[int, TimeFormat]] = {
    "h": (3_600, "unix_s"),
    "m": (60, "unix_s"),
    "s": (1, "unix_s"),
    "ms": (1, "unix_ms"),
    "us": (1, "unix_us"),
    "ns": (1, "unix_ns"),
}

_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_NUMBER_ENDS = frozenset("0123456789.")
_WHOLE = re.compile(r"-?[0-9]{1,20}\Z")
_TRUTHS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}

#: Up to a space that is not escaped; up to an unescaped comma or = of a part of that.
_SERIES = re.compile(r"(?:[^\\ ]|\\.?)+", re.DOTALL)
_PART = re.compile(r"(?:[^\\,]|\\.?)+", re.DOTALL)
_KEY = re.compile(r"(?:[^\\=, ]|\\.?)+", re.DOTALL)
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|[^", ]+', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')

#: So many series are remembered, so that their tags are sorted only once.
_MAX_SERIES = 4_096


class InfluxOptions(Options):
    """The option of the decoder ``influx``: what the timestamps count, `m` being minutes."""

    precision: Literal["ns", "us", "ms", "s", "m", "h"] = "ns"


class InfluxDecoder:
    """Reads one line of the InfluxDB line protocol (version 2) a message.

    A channel is named by measurement, tags sorted by their key, a space, and the field, with
    escapes kept as they are written: the field usage of ``cpu,region=eu,host=a usage=0.5`` is
    ``cpu,host=a,region=eu usage``. A field without suffix is float64, with i or u int64, a
    truth bool, and one in quotes text; each has the type that it is declared or first met with,
    and a line that does not fit is rejected. So is one with a tag or field twice, a number that
    does not fit into float64 or int64, or a new channel beyond 4,096.

    The timestamp is the message's time, cut to microseconds; without one it has that of its
    arrival. A line that is empty, or a comment, is a good message without values.

    Options: see InfluxOptions.

    Raises:
        DecodeError: the options are not these.
    """

    def __init__(self, spec: StreamSpec, known: Mapping[str, DType]) -> None:
        self._times, self._time_format = _UNITS[read_options(InfluxOptions, spec).precision]
        self._rows = TypedRows(declared_types(spec, known), whole="int64")
        self._series: dict[str, str] = {}

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        """Return the values of consecutive messages."""
        batch = RowBatch(messages, times=True)
        rows: list[dict[str, Any]] = []
        for place, message in enumerate(messages):
            try:
                row, time_us = self._read(message)
            except DecodeError as error:
                batch.reject(place, str(error))
            else:
                batch.add(place, Stamp(time_us, 0))
                rows.append(row)
        return batch.decoded(*self._rows.columns(rows))

    def _read(self, message: bytes) -> tuple[dict[str, Any], int]:
        try:
            text = message.decode().strip(" \r\n")
        except UnicodeDecodeError as error:
            raise DecodeError(f"not UTF-8 from byte {error.start} on") from error
        if not text or text[0] == "#":
            return {}, NO_TIME
        if text.isascii() and "\\" not in text and '"' not in text:
            series, fields, stamp = _plain_parts(text)
        else:
            series, fields, stamp = _parts(text)
        start = self._name(series)
        row: dict[str, Any] = {}
        for key, value in fields:
            name = start + key
            if name in row:
                raise DecodeError(f"the field {key[:60]!r} is there twice")
            row[name] = value
        if stamp is None:
            return row, NO_TIME
        return row, unix_us(stamp * self._times, self._time_format)

    def _name(self, series: str) -> str:
        """Return how the names of a series' channels begin."""
        known = self._series.get(series)
        if known is None:
            known = _series_name(series) + " "
            if len(self._series) >= _MAX_SERIES:
                self._series.clear()
            if len(series) <= MAX_NAME_BYTES:
                self._series[series] = known
        return known


def _plain_parts(text: str) -> tuple[str, list[tuple[str, Any]], int | None]:
    """Return series, fields and timestamp of a line without escapes and quotes."""
    parts = text.split(" ")
    if "" in parts:
        parts = [part for part in parts if part]
    if not 2 <= len(parts) <= 3:
        raise DecodeError("not a series, its fields and perhaps a timestamp, with spaces between")
    fields = []
    for field in parts[1].split(","):
        key, equals, value = field.partition("=")
        if not key or not equals:
            raise DecodeError(f"{field[:60]!r} is not a field with a value")
        fields.append((key, _value(key, value)))
    return parts[0], fields, _timestamp(parts[2]) if len(parts) == 3 else None


def _parts(text: str) -> tuple[str, list[tuple[str, Any]], int | None]:
    """Return series, fields and timestamp of any line."""
    found = _SERIES.match(text)
    if found is None:
        raise DecodeError("no measurement")
    series, position = found.group(), found.end()
    while text[position : position + 1] == " ":
        position += 1
    fields = []
    while True:
        key = _KEY.match(text, position)
        value = _VALUE.match(text, key.end() + 1) if key else None
        if key is None or value is None or text[key.end()] != "=":
            raise DecodeError(f"{text[position : position + 60]!r} is not a field with a value")
        fields.append((key.group(), _value(key.group(), value.group())))
        position = value.end() + 1
        if text[value.end() : position] != ",":
            break
    rest = text[value.end() :]
    if rest and rest[0] != " ":
        raise DecodeError(f"{rest[:60]!r} follows the value of a field")
    return series, fields, _timestamp(rest.strip(" ")) if rest.strip(" ") else None


def _value(key: str, text: str) -> float | int | bool | str:
    if text[-1:] in _NUMBER_ENDS and _FLOAT.match(text):
        return float(text)
    if text[-1:] in ("i", "u") and _WHOLE.match(text[:-1]):
        value = int(text[:-1])
        if MIN_INT64 <= value <= MAX_INT64 and (value >= 0 or text[-1] == "i"):
            return value
        raise DecodeError(f"{key[:60]!r} does not fit into int64")
    if text[:1] == '"':
        return _ESCAPED.sub(r"\1", text[1:-1])
    if text in _TRUTHS:
        return _TRUTHS[text]
    raise DecodeError(f"{key[:60]!r} is neither number, truth nor text in quotes")


def _timestamp(text: str) -> int:
    if not _WHOLE.match(text) or not MIN_INT64 <= (stamp := int(text)) <= MAX_INT64:
        raise DecodeError(f"{text[:60]!r} is not a timestamp")
    return stamp


def _series_name(series: str) -> str:
    """Return measurement and tags, sorted by key; raises DecodeError."""
    measurement = _PART.match(series)
    if measurement is None:
        raise DecodeError("no measurement")
    tags: dict[str, str] = {}
    position = measurement.end()
    while position < len(series):
        key = _KEY.match(series, position + 1)
        value = _KEY.match(series, key.end() + 1) if key else None
        if key is None or value is None or series[key.end()] != "=":
            raise DecodeError(f"{series[position + 1 :][:60]!r} is not a tag with a value")
        if key.group() in tags:
            raise DecodeError(f"the tag {key.group()[:60]!r} is there twice")
        tags[key.group()] = value.group()
        position = value.end()
        if series[position : position + 1] not in ("", ","):
            raise DecodeError(f"{series[position:][:60]!r} follows the value of a tag")
        if series[position:] == ",":
            raise DecodeError("a comma without a tag after it")
    return ",".join([measurement.group(), *(f"{key}={tags[key]}" for key in sorted(tags))])
