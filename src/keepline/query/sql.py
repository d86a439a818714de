"""SQL text: one SELECT over tables called ``module.table``.

sqlglot reads the text; each table is scanned once, for the columns and rows that the text can
use; the text itself then runs in DuckDB over what was scanned.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from keepline.errors import DataError, NotSupportedError, ProgrammingError
from keepline.query.catalog import Catalog
from keepline.query.executor import opened
from keepline.query.module import Scan
from keepline.query.requests import Table
from keepline.query.result import Result

if TYPE_CHECKING:
    import pyarrow
    from sqlglot import exp

    from keepline.query.pushdown import Need

#: How much all tables of one query may take in memory.
INPUT_BYTES = 1 << 30


def execute(sql: str, params: Sequence[Any], catalog: Catalog, vr_name: str | None) -> Result:
    """Run one SELECT; its parameters are written ``?``. The whole of each table that it reads
    is scanned before the first row; rows then stream.

    Raises NotSupportedError for another statement, or when keepline[sql] is not installed;
    ProgrammingError for a wrong text or a table that does not exist; what a module raises.
    """
    _require_packages()
    from keepline.query import duck, pushdown

    numbered, count = _number_parameters(sql)
    values = _checked(params, count)
    try:
        statement = _parse(numbered)
        nodes = list(_tables(statement, catalog))
        infos = {table: catalog.find(table)[1] for _, table in nodes}
        needs = pushdown.needs(statement, nodes, infos, values)
    except RecursionError:
        raise ProgrammingError("the query is nested too deeply") from None
    scanned = {}
    budget = INPUT_BYTES
    for table, need in needs.items():
        scanned[table] = _scan(table, need, catalog, vr_name, budget)
        budget -= scanned[table].nbytes
    return duck.run(numbered, values, scanned)


def _number_parameters(sql: str) -> tuple[str, int]:
    """Return the text with ``$1``, ``$2``, ... for each ``?``, and how many there are.

    The number says which value a node of the parsed text stands for, wherever it ends up.
    """
    from sqlglot import TokenType
    from sqlglot.dialects.duckdb import DuckDB
    from sqlglot.errors import SqlglotError

    try:
        tokens = DuckDB().tokenize(sql)
    except SqlglotError as error:
        raise ProgrammingError(_first_line(error)) from error
    if any(token.token_type == TokenType.PARAMETER for token in tokens):
        raise ProgrammingError("parameters are written ?")
    parts = []
    end = count = 0
    for token in tokens:
        if token.token_type == TokenType.PLACEHOLDER:
            count += 1
            parts += [sql[end : token.start], f"${count}"]
            end = token.end + 1
    return "".join([*parts, sql[end:]]), count


def _checked(params: Sequence[Any], count: int) -> list[Any]:
    if isinstance(params, str | bytes) or not isinstance(params, Sequence):
        raise ProgrammingError("the parameters of SQL text are a sequence, one a ?")
    if len(params) != count:
        raise ProgrammingError(f"the text has {count} parameters, but {len(params)} values came")
    return [_bindable(value) for value in params]


def _bindable(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise DataError("a time without a zone is refused; give it an explicit time zone")
    return value.astimezone(UTC)


def _parse(sql: str) -> exp.Query:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        statements = [each for each in sqlglot.parse(sql, read="duckdb") if each is not None]
    except SqlglotError as error:
        raise ProgrammingError(_first_line(error)) from error
    if len(statements) != 1:
        raise ProgrammingError(f"the text must be one statement, not {len(statements)}")
    (statement,) = statements
    if not isinstance(statement, exp.Select | exp.SetOperation | exp.Subquery):
        raise NotSupportedError("only a SELECT can be asked: this is another statement")
    if statement.find(exp.DDL, exp.DML, exp.Into, exp.Command) is not None:
        raise NotSupportedError("only a SELECT can be asked: this one writes")
    if not all(place.name.isdecimal() for place in statement.find_all(exp.Placeholder)):
        raise ProgrammingError("parameters are written ?")
    return statement


def _tables(statement: exp.Query, catalog: Catalog) -> Iterator[tuple[exp.Table, Table]]:
    """Yield the places that name a module's table; refuse those that name anything else."""
    from sqlglot import exp

    within = {cte.alias_or_name.lower() for cte in statement.find_all(exp.CTE)}
    for node in statement.find_all(exp.Table):
        if isinstance(node.this, exp.GenerateSeries):
            continue
        if not isinstance(node.this, exp.Identifier):
            raise ProgrammingError("only module.table can be read, not a function's rows")
        if not node.db and not node.catalog and node.name.lower() in within:
            continue
        if not node.db or node.catalog:
            raise ProgrammingError(
                f"there is no table {node.sql(dialect='duckdb')}; tables are called module.table"
            )
        yield node, catalog.match(node.db, node.name)


def _scan(
    table: Table, need: Need, catalog: Catalog, vr_name: str | None, budget_bytes: int
) -> pyarrow.Table:
    from keepline.query.arrow import table_of

    module, info = catalog.find(table)
    names = tuple(column.name for column in need.columns)
    scan = Scan(info.name, names, catalog.principal, need.filters, vr_name)
    with opened(module, scan) as batches:
        return table_of(str(table), need.columns, batches, budget_bytes)


def _require_packages() -> None:
    for package in ("duckdb", "pyarrow", "sqlglot"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise NotSupportedError(
                f"SQL text needs {package}: pip install 'keepline[sql]'"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
