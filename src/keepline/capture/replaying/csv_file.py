"""A CSV file of readings: what it holds, found in one pass, and its rows in the next."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from keepline.capture.decoders.csv_lines import can_delimit, csv_fields, is_number
from keepline.capture.decoders.localtime import LocalClock, zone
from keepline.errors import DecodeError, ReplayError
from keepline.model import Channel

MAX_LINE_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A line of a file: its number from 1, its bytes, its time or else the fault found."""

    line: int
    raw: bytes
    at_us: int | None
    fields: list[str]
    fault: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds. `step_us` is the commonest positive step, None without any.

    `rows` counts the rows whose time can be read; times are the least and greatest of these.
    """

    digest: str
    rows: int
    faults: int
    first_us: int
    last_us: int
    step_us: int | None
    channels: tuple[Channel, ...]


class CsvFile:
    """Reads a CSV file with a header line, in UTF-8, one row a line.

    Raises:
        ReplayError: the file cannot be read, or has no such column, or the zone is unknown.
    """

    def __init__(self, path: Path, *, tz: str, time_column: str, delimiter: str) -> None:
        if not can_delimit(delimiter):
            raise ReplayError(f"the delimiter has to be one character, not {delimiter!r}")
        self.path = path
        self.delimiter = delimiter
        try:
            self._zone = zone(tz)
        except DecodeError as error:
            raise ReplayError(str(error)) from error
        self.columns = self._header()
        if time_column not in self.columns:
            raise ReplayError(
                f"{path} has no column {time_column!r}; its header has: {', '.join(self.columns)}"
            )
        self._time_place = self.columns.index(time_column)

    def rows(self) -> Iterator[Row]:
        """Yield each line below the header that is not empty, in order."""
        clock = LocalClock(self._zone)
        for number, raw in self._lines():
            if number > 1 and raw:
                yield self._row(number, raw, clock)

    def contents(self) -> Contents:
        """Read the whole file once; raises ReplayError when no row has a time."""
        digest = self.digest()
        steps: Counter[int] = Counter()
        texts: Counter[str] = Counter()
        filled: Counter[str] = Counter()
        rows = faults = 0
        first_us = last_us = previous_us = 0
        fault = ""
        for row in self.rows():
            if row.at_us is None:
                faults += 1
                fault = fault or f"; line {row.line}: {row.fault}"
                continue
            if rows:
                steps[row.at_us - previous_us] += 1
            previous_us = row.at_us
            first_us = min(first_us, row.at_us) if rows else row.at_us
            last_us = max(last_us, row.at_us) if rows else row.at_us
            rows += 1
            self._count_kinds(row, texts, filled)
        if not rows:
            raise ReplayError(f"{self.path} has no row with a time that can be read{fault}")
        return Contents(
            digest,
            rows,
            faults,
            first_us,
            last_us,
            _commonest(steps),
            self._channels(texts, filled),
        )

    def digest(self) -> str:
        """Return the SHA-256 of the file in hexadecimal."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ReplayError(f"{self.path} cannot be read: {error.strerror}") from error

    def _header(self) -> list[str]:
        for _, raw in self._lines():
            try:
                names = [name.strip() for name in csv_fields(raw, self.delimiter)]
            except DecodeError as error:
                raise ReplayError(f"the header of {self.path} cannot be read: {error}") from error
            doubled = sorted(name for name, count in Counter(names).items() if count > 1)
            if doubled or "" in names:
                fault = (
                    f"twice {doubled[0]!r}" if doubled and doubled[0] else "a column without name"
                )
                raise ReplayError(f"the header of {self.path} has {fault}")
            return names
        raise ReplayError(f"{self.path} is empty: it needs a header line and rows")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self.path.open("rb") as file:
                number = 0
                while raw := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(raw) > MAX_LINE_BYTES:
                        raise ReplayError(f"line {number} of {self.path} has more than 16 MiB")
                    if number == 1:
                        raw = raw.removeprefix(_BOM)
                    yield number, raw.removesuffix(b"\n").removesuffix(b"\r")
        except OSError as error:
            raise ReplayError(f"{self.path} cannot be read: {error.strerror}") from error

    def _row(self, number: int, raw: bytes, clock: LocalClock) -> Row:
        try:
            fields = csv_fields(raw, self.delimiter)
            if len(fields) != len(self.columns):
                raise DecodeError(f"{len(fields)} fields instead of {len(self.columns)}")
            return Row(number, raw, clock.read(fields[self._time_place]), fields, "")
        except DecodeError as error:
            return Row(number, raw, None, [], str(error))

    def _count_kinds(self, row: Row, texts: Counter[str], filled: Counter[str]) -> None:
        for name, text in zip(self.columns, row.fields, strict=True):
            if text.strip():
                filled[name] += 1
                if not is_number(text):
                    texts[name] += 1

    def _channels(self, texts: Counter[str], filled: Counter[str]) -> tuple[Channel, ...]:
        """Return the channels: of texts where most of the fields that are filled are no numbers."""
        return tuple(
            Channel(name, "text" if texts[name] * 2 > filled[name] else "float64")
            for place, name in enumerate(self.columns)
            if place != self._time_place
        )


def _commonest(steps: Counter[int]) -> int | None:
    """Return the commonest positive step, the smaller one of two as common."""
    positive = [(-count, step) for step, count in steps.items() if step > 0]
    return min(positive)[1] if positive else None
