"""DuckDB as the engine of SQL text: a private database in memory for each execute.

It sees Arrow tables that were filtered for the principal, and nothing else: no file, no
network, no extension, no variable of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from keepline.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from keepline.query.arrow import description_of, rows_of
from keepline.query.requests import Table
from keepline.query.result import Batch, Result

if TYPE_CHECKING:
    import duckdb
    import pyarrow

#: Schemas that DuckDB keeps for itself: a module of this name cannot be asked by SQL.
RESERVED = frozenset({"temp", "system", "main", "pg_catalog", "information_schema"})

_BATCH_ROWS = 1024

# Set before the lock, which no later statement can lift.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # no Python variable is a table
    "memory_limit": "1GB",
    "temp_directory": "",
}
_PREPARE = (
    "SET TimeZone = 'UTC'",
    "SET streaming_buffer_size = '64KB'",  # the default holds the first row back by seconds
    # A catalog called `memory` would hide a module of that name.
    "ATTACH ':memory:' AS __keepline",
    "USE __keepline",
    "DETACH memory",
    # current_setting() would tell of this process's folders. Given at the start, the first two
    # are not emptied, and external access adds the current folder to the third.
    "SET home_directory = ''",
    "SET secret_directory = ''",
    "SET allowed_paths = []",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def run(sql: str, params: Sequence[Any], tables: Mapping[Table, pyarrow.Table]) -> Result:
    """Run one SELECT over `tables`, each called ``module.table`` in it; ``$1`` is the first
    of `params`.

    The rows stream; whoever takes the result closes it. Raises PEP 249 errors.
    """
    import duckdb

    with ExitStack() as stack:
        try:
            connection = stack.enter_context(duckdb.connect(":memory:", config=_CONFIG))
            for statement in _PREPARE:
                connection.execute(statement)
            _register(connection, tables)
            relation = connection.sql(sql, params=list(params) or None)
            if relation is None:
                raise NotSupportedError("only a SELECT can be asked")
            reader = relation.to_arrow_reader(_BATCH_ROWS)
        except duckdb.Error as error:
            raise _translated(error) from error
        stack.callback(reader.close)
        description = tuple(map(description_of, reader.schema))
        return Result(description, _rows(reader), stack.pop_all().close, arrow=_rest_of(reader))


def _register(connection: duckdb.DuckDBPyConnection, tables: Mapping[Table, pyarrow.Table]) -> None:
    for number, (table, rows) in enumerate(tables.items()):
        if table.module_name.lower() in RESERVED:
            raise NotSupportedError(f"SQL cannot name a module {table.module_name!r}")
        connection.register(f"__scan{number}", rows)
        schema = _quoted(table.module_name)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        # Names are quoted; a view cannot be made with bound parameters.
        view = f"CREATE VIEW {schema}.{_quoted(table.table_name)} AS FROM __scan{number}"
        connection.execute(view)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _rows(reader: pyarrow.RecordBatchReader) -> Iterator[Batch]:
    import pyarrow as pa

    try:
        yield from rows_of(reader)
    except (pa.ArrowException, OSError) as error:  # what DuckDB's errors become on their way
        raise DatabaseError(_first_line(error)) from error


def _rest_of(reader: pyarrow.RecordBatchReader) -> Callable[[], pyarrow.Table]:
    def rest() -> pyarrow.Table:
        import pyarrow as pa

        try:
            return reader.read_all()
        except (pa.ArrowException, OSError) as error:
            raise DatabaseError(_first_line(error)) from error

    return rest


def _translated(error: duckdb.Error) -> Error:
    import duckdb

    message = _first_line(error)
    for theirs, ours in (
        (duckdb.DataError, DataError),
        (duckdb.IntegrityError, IntegrityError),
        (duckdb.InternalError, InternalError),
        (duckdb.NotSupportedError, NotSupportedError),
        (duckdb.ProgrammingError, ProgrammingError),
    ):
        if isinstance(error, theirs):
            return ours(message)
    return OperationalError(message)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
