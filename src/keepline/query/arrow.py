"""Rows to Arrow and back, by the types that modules declare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from keepline.errors import DataError, OperationalError
from keepline.model import EPOCH
from keepline.query.module import ColumnInfo, ColumnType
from keepline.query.result import Batch, ColumnDescription
from keepline.query.types import BINARY, DATETIME, NUMBER, STRING

if TYPE_CHECKING:
    import pyarrow


def schema_of(columns: Sequence[ColumnInfo]) -> pyarrow.Schema:
    """Return the Arrow schema of a module's columns; datetimes are UTC microseconds."""
    import pyarrow as pa

    types: dict[ColumnType, pa.DataType] = {
        "text": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "datetime": pa.timestamp("us", "UTC"),
        "json": pa.string(),
        "binary": pa.binary(),
    }
    return pa.schema([pa.field(column.name, types[column.type]) for column in columns])


def table_of(
    name: str, columns: Sequence[ColumnInfo], batches: Iterator[Batch], budget_bytes: int
) -> pyarrow.Table:
    """Return a scan's rows as an Arrow table.

    Raises OperationalError when they take more than `budget_bytes`, DataError when a value is
    not of its column's type.
    """
    import pyarrow as pa

    schema = schema_of(columns)
    made = []
    size = 0
    for batch in batches:
        if not batch:
            continue
        try:
            arrays = [
                pa.array(values, type_)
                for values, type_ in zip(zip(*batch, strict=True), schema.types, strict=True)
            ]
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{name} gave a value that is not of its column's type") from error
        made.append(pa.record_batch(arrays, schema=schema))
        size += made[-1].nbytes
        if size > budget_bytes:
            raise OperationalError("the query reads too much at once; narrow it with WHERE")
    return pa.Table.from_batches(made, schema)


def rows_of(reader: pyarrow.RecordBatchReader) -> Iterator[Batch]:
    """Yield a reader's batches as rows; instants are aware datetimes in UTC."""
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        if batch.num_rows:
            yield list(zip(*map(_values, batch.columns), strict=True))


def description_of(field: pyarrow.Field) -> ColumnDescription:
    """Return the PEP 249 description of a field of an answer."""
    import pyarrow.types as kinds

    type_ = field.type
    if kinds.is_decimal(type_):
        return (field.name, NUMBER, None, None, type_.precision, type_.scale, field.nullable)
    if kinds.is_integer(type_) or kinds.is_floating(type_) or kinds.is_boolean(type_):
        code = NUMBER
    elif kinds.is_temporal(type_):
        code = DATETIME
    elif kinds.is_binary(type_) or kinds.is_large_binary(type_):
        code = BINARY
    else:
        code = STRING
    return (field.name, code, None, None, None, None, field.nullable)


def _values(column: pyarrow.Array) -> list[Any]:
    import pyarrow as pa

    type_ = column.type
    if pa.types.is_timestamp(type_):
        # pyarrow's own conversion looks the zone up for each value, six times slower. A
        # timestamp without a zone is the wall clock of DuckDB's session, which is UTC.
        ticks = column.cast(pa.timestamp("us", type_.tz), safe=False).cast(pa.int64()).to_pylist()
        try:
            return [None if t is None else EPOCH + timedelta(microseconds=t) for t in ticks]
        except OverflowError:
            raise DataError("the answer holds a time that Python cannot represent") from None
    if pa.types.is_decimal(type_) and type_.scale == 0:  # DuckDB's sum of whole numbers
        return [None if value is None else int(value) for value in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values
