"""XLSX (Office Open XML spreadsheet, ECMA-376 Part 1, section 18), written as a stream.

No library is used: those tried alter floats, cut long texts, or drop rows past the limit. Here
a float keeps every bit (its shortest text that reads back the same), a text is never a formula
and keeps every character, and what does not fit is an error or goes on in the next sheet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from hashlib import sha256
from itertools import chain
from math import isfinite
from typing import IO, Any, BinaryIO, Final
from xml.sax.saxutils import quoteattr
from zipfile import ZIP_DEFLATED, ZipFile

from keepline.downloads.format import WrittenPage
from keepline.downloads.pages import Column, Page, Row
from keepline.errors import DownloadError
from keepline.model import FieldType
from keepline.render.json import plain

# The limits of the format's programs: Excel specifications and limits.
MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
MAX_TEXT = 32_767
MAX_NAME = 31

#: XML of one sheet, so that no part of the archive needs ZIP64, which Excel repairs.
_SHEET_BYTES = 1 << 30

_BUFFER = 1 << 16
_EXACT_INTEGER = 2**53
# Twice as fast as level 6, for a file a tenth larger.
_DEFLATE_LEVEL = 3

#: Characters that XML cannot hold or would change, markup, and an underscore that a reader
#: would take for the start of an escape (ST_Xstring: _xHHHH_).
_SPECIAL = re.compile("[&<>\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4})")
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

#: What no sheet's name may hold, and an underscore that would start an escape.
_ILLEGAL_IN_NAME = re.compile(
    r"[\[\]:*?/\\\x00-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)"
)

#: Width of a column, in characters, by the type of its values.
_WIDTHS: dict[FieldType, int] = {
    "text": 24,
    "integer": 12,
    "real": 22,
    "boolean": 10,
    "date": 12,
    "datetime": 30,
    "json": 40,
    "blob": 40,
}
_WIDEST = 60

#: A date is a number of days; programs agree from this day on (before it they count a 29
#: February 1900 or do not).
_FIRST_DAY = date(1900, 3, 1)
_DAY_ZERO = date(1899, 12, 30).toordinal()

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"

_SHEET_START = (
    f'{_XML}<worksheet xmlns="{_MAIN}"><sheetViews><sheetView workbookViewId="0">'
    '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>'
    "</sheetView></sheetViews>"
)

# Three cell formats: 0 is plain, 1 bold for the heading, 2 a date.
_STYLES = (
    f'{_XML}<styleSheet xmlns="{_MAIN}">'
    '<numFmts count="1"><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/></numFmts>'
    '<fonts count="2"><font><sz val="11"/><name val="Calibri"/></font>'
    '<font><b/><sz val="11"/><name val="Calibri"/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill>'
    '<fill><patternFill patternType="gray125"/></fill></fills>'
    '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
    '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>'
    '<cellXfs count="3"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>'
    '<xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/>'
    '<xf numFmtId="164" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>'
    "</cellXfs>"
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles>'
    "</styleSheet>"
)

_ROOT_RELATIONS = (
    f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    "</Relationships>"
)


class XlsxFormat:
    """Writes XLSX, a sheet a page; rows past the sheet's limit go on in a next sheet.

    Numbers are finite floats and integers up to 2 to the 53rd; NaN, infinities and greater
    integers are text, times are ISO 8601 text in UTC, JSON is its text. A date is a date cell,
    shown as year-month-day; before March 1900, where programs disagree, it is ISO 8601 text. Of
    a blob its size and SHA-256 are told, as a cell has no place for bytes. No value makes an
    empty cell. The heading is bold and stays in view. Memory does not grow with the rows.
    """

    suffix: Final = ".xlsx"
    media_type: Final = f"{_TYPE}.sheet"

    def __init__(self, *, rows_per_sheet: int = MAX_ROWS) -> None:
        self._rows_per_sheet = rows_per_sheet

    def write(self, pages: Iterable[Page], file: BinaryIO) -> list[WrittenPage]:
        """Write the pages as sheets.

        Raises DownloadError for a text of more than 32,767 characters, for more than 16,384
        columns, and without any page.
        """
        names: list[str] = []
        # Entries opened by name bear the fixed date 1980-01-01.
        with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=_DEFLATE_LEVEL) as archive:
            _put(archive, "_rels/.rels", _ROOT_RELATIONS)
            written = [self._write_page(archive, page, names) for page in pages]
            if not names:
                raise DownloadError("there is nothing to download: no record type is declared")
            for part, content in _workbook(names).items():
                _put(archive, part, content)
        return written

    def _write_page(self, archive: ZipFile, page: Page, names: list[str]) -> WrittenPage:
        if len(page.columns) > MAX_COLUMNS:
            raise DownloadError(
                f"page {page.name!r} has {len(page.columns)} columns; "
                f"XLSX holds {MAX_COLUMNS}: leave some out"
            )
        rows = iter(page.rows)
        total = 0
        parts: list[str] = []
        overflow: Row | None = None
        while not parts or overflow is not None:
            name = _sheet_name(page.name, len(parts) + 1, names)
            names.append(name)
            parts.append(name)
            with archive.open(f"xl/worksheets/sheet{len(names)}.xml", "w") as part:
                ahead = [] if overflow is None else [overflow]
                count, overflow = self._write_sheet(part, page, chain(ahead, rows), total)
            total += count
        return WrittenPage(page.name, total, tuple(parts))

    def _write_sheet(
        self, part: IO[bytes], page: Page, rows: Iterator[Row], before: int
    ) -> tuple[int, Row | None]:
        """Write rows until the sheet is full; return their number and the row left over."""
        letters = [_letters(number) for number in range(len(page.columns))]
        buffer = [_SHEET_START, _widths(page.columns), "<sheetData>", _heading(page, letters)]
        size = sum(map(len, buffer))
        written = 0
        number = 1
        overflow = None
        for row in rows:
            if number == self._rows_per_sheet or written > _SHEET_BYTES:
                overflow = row
                break
            number += 1
            try:
                text = _row(row, number, letters)
            except _TooLongError as error:
                column = page.columns[letters.index(error.letters)].name
                raise DownloadError(
                    f"page {page.name!r}, row {before + number - 1}, column {column!r}: "
                    f"the text has {error.size} characters; an XLSX cell holds {MAX_TEXT}"
                ) from None
            buffer.append(text)
            size += len(text)
            if size >= _BUFFER:
                written += part.write("".join(buffer).encode())
                buffer.clear()
                size = 0
        buffer.append("</sheetData></worksheet>")
        part.write("".join(buffer).encode())
        return number - 1, overflow


class _TooLongError(Exception):
    """A text does not fit into the cell in the column called `letters`."""

    def __init__(self, letters: str, size: int) -> None:
        super().__init__(letters, size)
        self.letters = letters
        self.size = size


def _row(row: Row, number: int, letters: Sequence[str]) -> str:
    cells = [f'<row r="{number}">']
    for letter, value in zip(letters, row, strict=True):
        kind = type(value)
        if kind is float and isfinite(value):
            cells.append(f'<c r="{letter}{number}"><v>{value!r}</v></c>')
        elif kind is str:
            cells.append(_text_cell(letter, number, value))
        elif value is None:
            continue
        elif kind is bool:
            cells.append(f'<c r="{letter}{number}" t="b"><v>{value:d}</v></c>')
        elif kind is int and -_EXACT_INTEGER <= value <= _EXACT_INTEGER:
            cells.append(f'<c r="{letter}{number}"><v>{value}</v></c>')
        elif kind is date and value >= _FIRST_DAY:
            serial = value.toordinal() - _DAY_ZERO
            cells.append(f'<c r="{letter}{number}" s="2"><v>{serial}</v></c>')
        else:
            cells.append(_text_cell(letter, number, _as_text(value)))
    cells.append("</row>")
    return "".join(cells)


def _text_cell(letters: str, number: int, text: str, style: str = "") -> str:
    if len(text) > MAX_TEXT // 2:
        # A character beyond U+FFFF counts twice, as it does in the format's programs.
        size = len(text.encode("utf-16-le", "surrogatepass")) // 2
        if size > MAX_TEXT:
            raise _TooLongError(letters, size)
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(_escape, text)
    return (
        f'<c r="{letters}{number}"{style} t="inlineStr">'
        f'<is><t xml:space="preserve">{text}</t></is></c>'
    )


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _MARKUP.get(character) or f"_x{ord(character):04X}_"


def _as_text(value: Any) -> str:
    """Return a value without a cell type of its own as text."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes, SHA-256 {sha256(value).hexdigest()}"
    return str(plain(value))


def _heading(page: Page, letters: Sequence[str]) -> str:
    cells = [
        _text_cell(letter, 1, column.name, ' s="1"')
        for letter, column in zip(letters, page.columns, strict=True)
    ]
    return f'<row r="1">{"".join(cells)}</row>'


def _widths(columns: Sequence[Column]) -> str:
    if not columns:
        return ""
    widths = [min(max(_WIDTHS[each.type], len(each.name) + 3), _WIDEST) for each in columns]
    return (
        "<cols>"
        + "".join(
            f'<col min="{number}" max="{number}" width="{width}" customWidth="1"/>'
            for number, width in enumerate(widths, start=1)
        )
        + "</cols>"
    )


def _letters(number: int) -> str:
    """Return the name of a column, from 0: A, B, ... Z, AA, ..."""
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


def _sheet_name(page: str, part: int, taken: Sequence[str]) -> str:
    """Return a legal name for a sheet that no other has, whatever its case."""
    plain_name = _ILLEGAL_IN_NAME.sub("-", page).strip("'") or "sheet"
    if plain_name.casefold() == "history":  # Excel keeps this name for itself
        plain_name += "_"
    used = {name.casefold() for name in taken}
    number = part
    while True:
        suffix = f" ({number})" if number > 1 else ""
        name = _cut(plain_name, MAX_NAME - len(suffix)).rstrip("'") + suffix
        if name.casefold() not in used:
            return name
        number += 1


def _cut(text: str, units: int) -> str:
    return text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", "ignore")


def _put(archive: ZipFile, path: str, content: str) -> None:
    with archive.open(path, "w") as part:
        part.write(content.encode())


def _workbook(names: Sequence[str]) -> dict[str, str]:
    """Return the parts, by path, that name the sheets and tie everything together."""
    numbers = range(1, len(names) + 1)
    sheets = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="rId{number}"/>'
        for number, name in zip(numbers, names, strict=True)
    )
    relations = "".join(
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/worksheet" '
        f'Target="worksheets/sheet{number}.xml"/>'
        for number in numbers
    )
    types = "".join(
        f'<Override PartName="/xl/worksheets/sheet{number}.xml" '
        f'ContentType="{_TYPE}.worksheet+xml"/>'
        for number in numbers
    )
    workbook = (
        f'{_XML}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
        f"<bookViews><workbookView/></bookViews><sheets>{sheets}</sheets></workbook>"
    )
    relationships = (
        f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">{relations}'
        f'<Relationship Id="rId{len(names) + 1}" Type="{_OFFICE}/styles" Target="styles.xml"/>'
        "</Relationships>"
    )
    content_types = (
        f'{_XML}<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/>'
        f"{types}</Types>"
    )
    return {
        "xl/styles.xml": _STYLES,
        "xl/workbook.xml": workbook,
        "xl/_rels/workbook.xml.rels": relationships,
        "[Content_Types].xml": content_types,
    }
