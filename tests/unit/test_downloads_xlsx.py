"""XLSX, read back cell by cell: by our own reading of the standard, and by two libraries."""

import hashlib
import io
import math
import re
import time
import tracemalloc
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from xml.etree import ElementTree

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from keepline.downloads.formats.xlsx import MAX_COLUMNS, MAX_TEXT, XlsxFormat
from keepline.downloads.pages import Column, Page
from keepline.errors import DownloadError

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def page(rows: Iterable[Sequence[Any]], width: int = 1, name: str = "page") -> Page:
    return Page(name, tuple(Column(f"column{number}") for number in range(width)), rows)


def written(*pages: Page, **options: Any) -> bytes:
    file = io.BytesIO()
    XlsxFormat(**options).write(pages, file)
    return file.getvalue()


def read(body: bytes) -> dict[str, list[dict[int, Any]]]:
    """Read every sheet as ECMA-376 says: rows of column number to str, bool or float text.

    Numbers come as the text that stands in the file; the heading is left out.
    """
    sheets = {}
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        relations = parsed(archive.read("xl/_rels/workbook.xml.rels"))
        targets = {each.get("Id"): each.get("Target") for each in relations}
        for sheet in parsed(archive.read("xl/workbook.xml")).iter(f"{MAIN}sheet"):
            root = parsed(archive.read(f"xl/{targets[sheet.get(RELATION)]}"))
            rows = [
                {column_of(cell): value_of(cell) for cell in row} for row in root.iter(f"{MAIN}row")
            ]
            sheets[sheet.attrib["name"]] = rows[1:]
    return sheets


def parsed(xml: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - what we wrote ourselves


def column_of(cell: ElementTree.Element) -> int:
    number = 0
    for letter in re.match("[A-Z]+", cell.attrib["r"])[0]:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def value_of(cell: ElementTree.Element) -> Any:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        text = cell.find(f"{MAIN}is/{MAIN}t").text or ""
        return re.sub("_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)
    content = cell.find(f"{MAIN}v").text
    return {"b": content == "1", "n": Number(content)}[kind]


class Number(str):
    """The text of a number, so that it is not mistaken for a text."""

    __slots__ = ()


def agrees(found: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return found is value
    if isinstance(value, float) and math.isfinite(value):
        return (
            isinstance(found, Number)
            and math.copysign(1, float(found)) == math.copysign(1, value)
            and float(found) == value
        )
    if isinstance(value, int) and abs(value) <= 2**53:
        return isinstance(found, Number) and int(found) == value
    if isinstance(value, float):
        value = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if type(value) is date and value >= date(1900, 3, 1):
        return isinstance(found, Number) and date(1899, 12, 30) + timedelta(int(found)) == value
    if isinstance(value, bytes):
        value = f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, datetime):
        value = value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return not isinstance(found, Number) and found == str(value)


NASTY = st.sampled_from(
    ["_x000D_", "_x005F_x000D_", "_x0041\x01", "=1+1", "+1", "@x", "'x", "00123", " x ", "\r\n"]
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None), max_size=20),
    st.text("_x0D5Fab\x01\r<&", max_size=20),
    NASTY,
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.binary(max_size=20),
    TEXTS,
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=8))
def test_every_cell_reads_back(rows: list[list[Any]]) -> None:
    found = read(written(page(rows, 3)))["page"]
    assert len(found) == len(rows)
    for cells, row in zip(found, rows, strict=True):
        assert set(cells) == {number for number, value in enumerate(row) if value is not None}
        assert all(agrees(cells[number], row[number]) for number in cells)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
            st.integers(-(2**53), 2**53),
            st.text(st.characters(exclude_categories=("C",)), min_size=1),
            st.dates(date(1900, 3, 1)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_calamine_and_openpyxl_read_the_same(rows: list[tuple[Any, ...]]) -> None:
    rows = [row for row in rows if not re.search("_x[0-9A-Fa-f]{4}", row[3])]
    body = written(page(rows, 5))
    heading = [f"column{number}" for number in range(5)]
    by_calamine = CalamineWorkbook.from_filelike(io.BytesIO(body)).get_sheet_by_name("page")
    assert by_calamine.to_python() == [heading, *map(list, rows)]
    book = openpyxl.load_workbook(io.BytesIO(body))
    sheet = book["page"]
    assert [[cell.value for cell in row[:4]] for row in sheet.rows] == [
        heading[:4],
        *(list(row[:4]) for row in rows),
    ]
    days = [row[4] for row in sheet.iter_rows(min_row=2)]
    assert all(cell.is_date for cell in days)
    assert [cell.value.date() for cell in days] == [row[4] for row in rows]
    book.close()


def test_text_is_never_a_formula() -> None:
    texts = ["=1+1", "=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "http://x.example/", "00123", "1e5"]
    body = written(page([[text] for text in texts]))
    book = openpyxl.load_workbook(io.BytesIO(body))
    cells = [row[0] for row in book["page"].iter_rows(min_row=2)]
    assert [cell.value for cell in cells] == texts
    assert not any(cell.hyperlink for cell in cells)
    assert b"<f>" not in zipfile.ZipFile(io.BytesIO(body)).read("xl/worksheets/sheet1.xml")
    book.close()


def test_heading_is_bold_and_stays_in_view() -> None:
    book = openpyxl.load_workbook(io.BytesIO(written(page([["x"]], 1))))
    sheet = book["page"]
    assert sheet.freeze_panes == "A2"
    assert sheet["A1"].font.bold
    assert not sheet["A2"].font.bold
    assert sheet.column_dimensions["A"].width > 10
    book.close()


def test_every_part_is_well_formed_and_declared() -> None:
    body = written(page([["x"]]), page([["y"]], name="second"))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        types = parsed(archive.read("[Content_Types].xml"))
        declared = {each.get("PartName") for each in types if each.get("PartName")}
        extensions = {each.get("Extension") for each in types if each.get("Extension")}
        for name in archive.namelist():
            parsed(archive.read(name))
            assert f"/{name}" in declared or name.rsplit(".", 1)[1] in extensions
        assert declared == {
            f"/{name}" for name in archive.namelist() if "/_rels/" not in f"/{name}"
        } - {"/[Content_Types].xml"}


def test_same_input_gives_the_same_bytes() -> None:
    first = written(page([["x", 1.5]], 2))
    time.sleep(2.1)  # the resolution of a date in a ZIP file
    assert written(page([["x", 1.5]], 2)) == first


def test_rows_go_on_in_the_next_sheet() -> None:
    file = io.BytesIO()
    result = XlsxFormat(rows_per_sheet=4).write(
        [page([number] for number in range(7)), page([], name="empty")], file
    )
    assert [(each.name, each.rows, each.parts) for each in result] == [
        ("page", 7, ("page", "page (2)", "page (3)")),
        ("empty", 0, ("empty",)),
    ]
    sheets = read(file.getvalue())
    assert [len(rows) for rows in sheets.values()] == [3, 3, 1, 0]
    assert [int(row[0]) for rows in sheets.values() for row in rows] == list(range(7))


def test_exactly_full_sheet_needs_no_other() -> None:
    assert list(read(written(page([[1], [2]]), rows_per_sheet=3))) == ["page"]


@settings(max_examples=100, deadline=None)
@given(names=st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_sheet_names_are_legal_and_unique(names: list[str]) -> None:
    file = io.BytesIO()
    result = XlsxFormat().write([page([[1]], name=name) for name in names], file)
    parts = [each.parts[0] for each in result]
    assert [each.name for each in result] == names
    assert len({part.casefold() for part in parts}) == len(names)
    assert list(read(file.getvalue())) == parts
    for part in parts:
        assert 0 < len(part.encode("utf-16-le")) <= 62
        assert not set(part) & set("[]:*?/\\")
        assert not part.startswith("'")
        assert not part.endswith("'")


def test_names_that_share_their_start_are_kept_apart() -> None:
    long = "instrument_session_of_the_lab__channel"
    result = XlsxFormat().write(
        [page([[1]], name=name) for name in (long, long + "2", "History", "PAGE", "page")],
        io.BytesIO(),
    )
    assert [each.parts[0] for each in result] == [
        long[:31],
        long[:27] + " (2)",
        "History_",
        "PAGE",
        "page (2)",
    ]


def test_text_that_does_not_fit_names_its_cell() -> None:
    assert read(written(page([["x" * MAX_TEXT]])))["page"][0][0] == "x" * MAX_TEXT
    for text in ("x" * (MAX_TEXT + 1), "\U0001f600" * (MAX_TEXT // 2 + 1)):
        with pytest.raises(DownloadError, match=r"page 'page', row 2, column 'column1': .*32767"):
            written(page([[1, "fine"], [2, text]], 2))


def test_more_columns_than_a_sheet_holds_is_an_error() -> None:
    with pytest.raises(DownloadError, match=r"page 'page' has 16385 columns"):
        written(page([], MAX_COLUMNS + 1))
    found = read(written(page([[1] * MAX_COLUMNS], MAX_COLUMNS)))["page"][0]
    assert sorted(found) == list(range(MAX_COLUMNS))


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(DownloadError, match="nothing to download"):
        written()


def test_times_in_other_zones_keep_their_offset() -> None:
    moment = datetime(2024, 2, 29, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert read(written(page([[moment]])))["page"] == [{0: "2024-02-29T01:00:00.000000+05:30"}]


def test_memory_does_not_grow_with_the_rows() -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        with open("/dev/null", "wb") as sink:  # noqa: PTH123 - no path, a sink
            XlsxFormat().write(
                [page(([str(number), number / 7] for number in range(rows)), 2)], sink
            )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20_000) < peak(2_000) + 200_000
