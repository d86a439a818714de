"""The pages of a download: typed columns and a stream of rows, nothing held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from keepline.downloads.options import EVERY, DownloadOptions
from keepline.errors import UnknownRecordTypeError
from keepline.model import Field, FieldType, Principal, RecordImage, RecordType, SubTable
from keepline.render.json import dumps
from keepline.store.recordset import fetch
from keepline.store.schema import declared_types
from keepline.store.tables.declared import record_tables

#: Names of the pages about the others; no record type's name starts with an underscore.
COLUMNS_PAGE = "_columns"
SCHEMA_PAGE = "_information_schema_columns"

Row = Sequence[Any]

#: Called with each record that goes into a download.
Taking = Callable[[RecordImage], None]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a page."""

    name: str
    type: FieldType = "text"
    unit: str | None = None
    comment: str = ""

    @classmethod
    def of(cls, field: Field) -> Column:
        """Return the column that shows a declared field."""
        return cls(field.name, field.type, field.unit, field.comment)


@dataclass(frozen=True, slots=True)
class Page:
    """A table of a download. `rows` can be read once; a value is None or as its column's type.

    Values are str, int, float, bool, bytes, a date or an aware datetime; of a column of type
    json, its text.
    """

    name: str
    columns: tuple[Column, ...]
    rows: Iterable[Row]


def pages(
    connection: sa.Connection, principal: Principal, options: DownloadOptions, taking: Taking
) -> list[Page]:
    """Return the pages of what `principal` may see, to be read in order on `connection`.

    `taking` is called with each record when its row is read. Raises UnknownRecordTypeError.
    """
    chosen = _chosen(connection, options)
    contents: list[Page] = []
    for declared in chosen:
        contents.append(_record_page(connection, declared, principal, options, taking))
        if not options.spreadsheet_simplified:
            contents += [
                _subtable_page(connection, declared, subtable, principal)
                for subtable in declared.subtables
            ]
    if options.spreadsheet_sort_by_heading:
        contents = [_sorted_by_heading(page) for page in contents]
    about: list[Page] = []
    if options.include_summary_schema:
        about.append(_columns_page(contents))
    if options.include_information_schema_columns:
        about.append(_schema_page(connection, chosen))
    return contents + about


def _chosen(connection: sa.Connection, options: DownloadOptions) -> list[RecordType]:
    declared = {each.name: each for each in declared_types(connection)}
    if EVERY in options.record_types:
        return [declared[name] for name in sorted(declared)]
    for name in options.record_types:
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none"
            raise UnknownRecordTypeError(f"no record type {name!r}; there are: {known}")
    return [declared[name] for name in dict.fromkeys(options.record_types)]


def _record_page(
    connection: sa.Connection,
    declared: RecordType,
    principal: Principal,
    options: DownloadOptions,
    taking: Taking,
) -> Page:
    values_of = _values_of(declared.fields)
    keys = [Column("record_key", comment="the record's name within its type")]
    own = [
        Column("revision", "integer", comment="counts the record's changes from 1"),
        Column("group_name", comment="the group that the record belongs to, if any"),
    ]
    if declared.finalised:
        own.append(Column("finalised", "boolean", comment="whether it is closed to changes"))
    if declared.subject:
        keys.append(Column("subject_no", "integer", comment="the person that it is about"))
    simplified = options.spreadsheet_simplified

    def rows() -> Iterator[Row]:
        # Without its sub-tables: they have pages of their own.
        alone = replace(declared, subtables=())
        for image in fetch(connection, alone, principal):
            taking(image)
            about = (image.subject,) if declared.subject else ()
            bookkeeping = () if simplified else _bookkeeping(image)
            yield (image.key, *about, *bookkeeping, *values_of(image.values))

    fields = map(Column.of, declared.fields)
    return Page(declared.name, (*keys, *(() if simplified else own), *fields), rows())


def _bookkeeping(image: RecordImage) -> tuple[Any, ...]:
    finalised = (image.finalised,) if image.type.finalised else ()
    return (image.revision, image.group, *finalised)


def _subtable_page(
    connection: sa.Connection, declared: RecordType, subtable: SubTable, principal: Principal
) -> Page:
    values_of = _values_of(subtable.fields)

    def rows() -> Iterator[Row]:
        alone = replace(declared, subtables=(subtable,))
        for image in fetch(connection, alone, principal):
            for row in image.subrows[subtable.name]:
                yield (image.key, row[subtable.key], *values_of(row))

    columns = (
        Column("record_key", comment="the record that the row belongs to"),
        Column(subtable.key, comment="tells the record's rows apart"),
        *map(Column.of, subtable.fields),
    )
    return Page(f"{declared.name}__{subtable.name}", columns, rows())


def _values_of(fields: Sequence[Field]) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return what takes the fields' values out of a row, in order, JSON as text."""
    names = [field.name for field in fields]
    json_places = [number for number, field in enumerate(fields) if field.type == "json"]

    def values_of(row: Mapping[str, Any]) -> list[Any]:
        values = [row[name] for name in names]
        for place in json_places:
            if values[place] is not None:
                values[place] = dumps(values[place])
        return values

    return values_of


def _sorted_by_heading(page: Page) -> Page:
    order = sorted(range(len(page.columns)), key=lambda number: page.columns[number].name)
    if len(order) < 2:  # itemgetter of one item would not give a row
        return page
    pick = itemgetter(*order)
    return Page(page.name, pick(page.columns), map(pick, page.rows))


def _columns_page(contents: Iterable[Page]) -> Page:
    columns = tuple(map(Column, ("page", "column", "type", "unit", "comment")))
    rows = [
        [page.name, column.name, column.type, column.unit, column.comment]
        for page in contents
        for column in page.columns
    ]
    return Page(COLUMNS_PAGE, columns, rows)


def _schema_page(connection: sa.Connection, chosen: Iterable[RecordType]) -> Page:
    rows = [
        [
            str(table.name),  # not the quoted names of SQLAlchemy
            str(column.name),
            position,
            column.type.compile(dialect=connection.dialect),
            bool(column.nullable),
            column.comment,
        ]
        for declared in chosen
        for table in record_tables(declared).sorted_tables
        for position, column in enumerate(table.columns, start=1)
    ]
    columns = (
        Column("table_name"),
        Column("column_name"),
        Column("ordinal_position", "integer"),
        Column("data_type"),
        Column("is_nullable", "boolean"),
        Column("column_comment"),
    )
    return Page(SCHEMA_PAGE, columns, rows)
