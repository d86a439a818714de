"""The rows of a CSV file as values of a record type: each is good, or rejected with its reason.

Nothing is guessed: a cell is what its field's type reads, or the row is rejected; an empty cell
is no value. A reason names the row's key and columns, and holds no other cell's content.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Field, RecordType
from keepline.records.csv_cells import Cells
from keepline.records.csv_keys import Keys
from keepline.records.values import checked

#: Columns of a file of rejected rows, which may be mended and imported in its turn.
REJECTED_COLUMNS = ("rejected_line", "rejected_because")

#: The column of the person that a record is about, in a type whose records are about one.
SUBJECT = "subject"

#: No line is longer than this; a file of another kind may be one line.
_MAX_LINE = 16 * 1024 * 1024

#: PostgreSQL indexes no longer ones.
_MAX_KEY = 500

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

#: What separates the cells of other files, and how one says it.
_DELIMITERS = {";": "';'", "\t": "tab", ",": "','", "|": "'|'"}

_KEY = Field("the key", required=True)
_SUBJECT = Field("the subject", required=True)


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a file is to be read.

    `key` names the column of the records' keys (else ``record_key`` or ``key``), `names` maps
    columns to fields, to "" where a column is left out. A byte order mark goes before
    `encoding`. `tz` is the zone of times without one; `date_format` and `time_format` are
    strptime's, ISO 8601 when None. `decimal` is the point or the comma of numbers; `true` and
    `false` are words for booleans beside the English ones.
    """

    key: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    encoding: str = "utf-8"
    tz: str | None = None
    date_format: str | None = None
    time_format: str | None = None
    decimal: str = "."
    true: Sequence[str] = ()
    false: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class GoodRow:
    """A row that fits the type: its line, its text, and what it says of the record `key`."""

    line: int
    cells: list[str] = field(repr=False)
    raw: bytes = field(repr=False)
    key: str
    values: Mapping[str, Any] = field(repr=False)
    subject: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was not taken: its line, its cells, its text, and why.

    `broken` text is no row of cells, and stands in `cells` as it is.
    """

    line: int
    cells: list[str] = field(repr=False)
    raw: bytes = field(repr=False)
    reason: str
    broken: bool = False


class CsvRows:
    """The rows of one CSV file. Raises RecordError for a file that is none of this type.

    `digest` is the SHA-256 of the file's bytes, `header` the names of its columns.
    """

    def __init__(self, path: Path, declared: RecordType, form: CsvForm) -> None:
        self.path = path
        self.declared = declared
        self._form = form
        self._cells = Cells(
            form.tz,
            form.date_format,
            form.time_format,
            decimal=form.decimal,
            true=form.true,
            false=form.false,
        )
        if len(form.delimiter) != 1 or form.delimiter in '"\r\n':
            raise RecordError("the delimiter is one character, and no quote or line end")
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.size_bytes = file.tell()
        self._encoding = self._found_encoding()
        with self._opened() as (reader, _):
            self.header = self._header(reader)
        self._columns = self._mapped()

    def __iter__(self) -> Iterator[tuple[GoodRow | Reject, int]]:
        """Yield each row, in the file's order, and how many bytes of it were read by then.

        A line of nothing is no row. A key that stands on an earlier line rejects its row, even
        where that line was rejected itself: whichever of them is right, nobody guesses.
        """
        with Keys() as keys, self._opened() as (reader, lines):
            self._header(reader)
            lines.taken()
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield self._broken(lines, str(error)), lines.read_bytes
                    continue
                line, text = lines.taken()
                if cells:
                    yield self._read(line, cells, self._raw(text), keys), lines.read_bytes

    def _found_encoding(self) -> str:
        with self.path.open("rb") as file:
            start = file.read(4)
        for mark, encoding in _BOMS:
            if start.startswith(mark):
                return encoding
        return self._form.encoding

    @contextmanager
    def _opened(self) -> Iterator[tuple[Iterator[list[str]], _Lines]]:
        try:
            text = self.path.open(encoding=self._encoding, errors="surrogateescape", newline="")
        except LookupError:
            raise RecordError(f"there is no text encoding {self._encoding!r}") from None
        with text:
            lines = _Lines(text, self.path, self._encoding)
            yield csv.reader(lines, delimiter=self._form.delimiter, strict=True), lines

    def _header(self, reader: Iterator[list[str]]) -> tuple[str, ...]:
        try:
            cells = next(reader, [])
        except csv.Error as error:
            raise RecordError(f"{self.path}: the first line is no header: {error}") from None
        names = tuple(cell.strip() for cell in cells)
        if not any(names):
            raise RecordError(f"{self.path} has no header: its first line names the columns")
        for name in names:
            if not name or names.count(name) > 1:
                raise RecordError(f"{self.path}: each column needs a name of its own, not {name!r}")
        return names

    def _mapped(self) -> dict[str, tuple[int, Field | None]]:
        """Return the place and field of each column that is read, by the field's name."""
        form, fields = self._form, {each.name: each for each in self.declared.fields}
        if missing := sorted({*form.names, *([form.key] if form.key else [])} - {*self.header}):
            raise RecordError(f"{self.path} has no column {missing[0]!r}; {self._there()}")
        key = form.key or next((n for n in ("record_key", "key") if n in self.header), None)
        if key is None:
            raise RecordError(
                f"{self.path} has no column record_key: {self._there('name one with --key; ')}"
            )
        found: dict[str, tuple[int, Field | None]] = {"": (self.header.index(key), None)}
        for place, column in enumerate(self.header):
            name = form.names.get(column, column)
            plain = column not in form.names
            if not name or (plain and column in REJECTED_COLUMNS):
                continue
            if name == SUBJECT and self.declared.subject and name not in fields:
                known = None
            elif name in fields:
                known = fields[name]
            elif column == key and plain:
                continue
            else:
                raise RecordError(
                    f"{self.declared.name} has no field {name!r}; say --map {column}=FIELD, "
                    f"or --map {column}= to leave the column out"
                )
            if name in found:
                raise RecordError(f"two columns are the field {name!r}; map one to nothing")
            found[name] = (place, known)
        return found

    def _there(self, otherwise: str = "") -> str:
        """Say which columns there are, and which delimiter the header suggests."""
        if len(self.header) == 1:
            for mark, name in _DELIMITERS.items():
                if mark != self._form.delimiter and mark in self.header[0]:
                    return f"its header is one column that holds {name}: say --delimiter {name}"
        return f"{otherwise}its columns are {', '.join(map(repr, self.header))}"

    def _broken(self, lines: _Lines, said: str) -> Reject:
        line, text = lines.taken()
        if "limit" in said or "unexpected end" in said:
            said = "a quote is not closed, or a cell is too long"
        raw = self._raw(text)
        return Reject(line, [text], raw, said, broken=True)

    def _raw(self, text: str) -> bytes:
        encoding = "utf-8" if self._encoding == "utf-8-sig" else self._encoding
        return text.encode(encoding, "surrogateescape")

    def _read(self, line: int, cells: list[str], raw: bytes, keys: Keys) -> GoodRow | Reject:
        said: list[str] = []
        key = self._key(cells, said)
        if key and (first := keys.first(key, line)) != line:
            said.append(f"the key stands on line {first} already")
        values: dict[str, Any] = {}
        subject = None
        if len(cells) != len(self.header):
            said = [f"it has {len(cells)} cells, not {len(self.header)}", *said]
        elif any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
            said = [f"it is not {self._encoding}; name the right --encoding"]
        else:
            values, subject = self._typed(cells, said)
        if said or key is None:
            named = f"{key}: " if key else ""
            return Reject(line, cells, raw, named + "; ".join(said))
        return GoodRow(line, cells, raw, key, values, subject)

    def _key(self, cells: list[str], said: list[str]) -> str | None:
        """Return a row's key; when it has none that is usable, say so and return None."""
        place = self._columns[""][0]
        try:
            key = checked(_KEY, cells[place].strip() or None) if place < len(cells) else ""
            if len(key) <= _MAX_KEY:
                return str(key)
            said.append(f"the key is longer than {_MAX_KEY} characters")
        except InvalidRecordError as error:
            said.append(str(error))
        return None

    def _typed(self, cells: list[str], said: list[str]) -> tuple[dict[str, Any], str | None]:
        """Return a row's values and subject, having said what is wrong with each cell."""
        values, subject = {}, None
        for name, (place, known) in self._columns.items():
            if not name:
                continue
            column = self.header[place]
            try:
                if known is not None:
                    values[name] = self._cells.value(known, cells[place])
                else:
                    subject = checked(_SUBJECT, cells[place].strip() or None)
            except InvalidRecordError as error:
                said.append(str(error) if column == name else f"column {column!r}: {error}")
        return values, subject


class _Lines:
    """The lines of a file, of which those that made up the last row can be had."""

    def __init__(self, text: io.TextIOWrapper, path: Path, encoding: str) -> None:
        self._text = text
        self._path = path
        self._encoding = encoding
        self._taken: list[str] = []
        self._first = 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(_MAX_LINE)
        except UnicodeDecodeError:
            raise RecordError(
                f"{self._path} is not {self._encoding}; name its encoding with --encoding"
            ) from None
        if not line:
            raise StopIteration
        if len(line) == _MAX_LINE:
            raise RecordError(f"{self._path} has a line of 16 million characters; is it CSV?")
        self._taken.append(line)
        return line

    @property
    def read_bytes(self) -> int:
        """Return how many bytes of the file were read so far."""
        buffer: Any = self._text.buffer
        return int(buffer.tell())

    def taken(self) -> tuple[int, str]:
        """Return the number of the first line since the last call, and all of their text."""
        first, text = self._first, "".join(self._taken)
        self._first += len(self._taken)
        self._taken.clear()
        return first, text
