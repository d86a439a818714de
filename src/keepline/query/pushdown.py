"""What of an SQL text its modules can be asked for: columns, and conditions.

The text itself runs over what was scanned, so a scan may give too much, never too little.
A condition goes to a module only from the WHERE of the SELECT that reads the table, or from
the ON of a join that brings it in, and only when every join there is a plain one: then a row
that does not meet it cannot be part of the answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope
from sqlglot.schema import MappingSchema

from keepline.query.module import PYTHON_TYPES, ColumnInfo, Filter, FilterOp, TableInfo
from keepline.query.requests import MAX_BULK, Table

_COMPARISONS: dict[type[exp.Expr], tuple[FilterOp, FilterOp]] = {
    exp.EQ: ("in", "in"),
    exp.LT: ("<", ">"),
    exp.LTE: ("<=", ">="),
    exp.GT: (">", "<"),
    exp.GTE: (">=", "<="),
}

_SQL_TYPES = {
    "text": "VARCHAR",
    "integer": "BIGINT",
    "real": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "datetime": "TIMESTAMPTZ",
    "json": "VARCHAR",
    "binary": "BLOB",
}

#: Times that Python and DuckDB read the same; one without a zone is in UTC.
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,6})?(?P<zone>Z|[+-]\d\d(:\d\d)?)?)?\Z"
)

#: Dates that Python and DuckDB read the same.
_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Need:
    """What to scan of one table."""

    columns: tuple[ColumnInfo, ...]
    filters: tuple[Filter, ...]


def needs(
    statement: exp.Query,
    nodes: Sequence[tuple[exp.Table, Table]],
    infos: dict[Table, TableInfo],
    params: Sequence[Any],
) -> dict[Table, Need]:
    """Return what each table must be scanned for.

    `nodes` are the places in `statement` that name tables. Text that sqlglot cannot resolve
    gets everything; DuckDB then says what is wrong with it, or runs it.
    """
    try:
        qualified = qualify(
            statement.copy(), schema=_schema(infos), dialect="duckdb", quote_identifiers=False
        )
    except SqlglotError:
        return {table: Need(info.columns, ()) for table, info in infos.items()}
    names = _names(statement) | _names(qualified)
    keep_all = _has_whole_rows(qualified)
    filters = _filters(qualified, nodes, infos, params)
    return {
        table: Need(info.columns if keep_all else _used(info, names), tuple(filters.get(table, ())))
        for table, info in infos.items()
    }


def _schema(infos: dict[Table, TableInfo]) -> MappingSchema:
    schema: dict[str, Any] = {}
    for table, info in infos.items():
        columns = {column.name: _SQL_TYPES[column.type] for column in info.columns}
        schema.setdefault(table.module_name, {})[table.table_name] = columns
    return MappingSchema(schema, dialect="duckdb")


def _names(tree: exp.Expr) -> set[str]:
    return {identifier.name.lower() for identifier in tree.find_all(exp.Identifier)}


def _used(info: TableInfo, names: set[str]) -> tuple[ColumnInfo, ...]:
    # A column stays when its name stands anywhere in the text: seldom too many, never too few.
    used = tuple(column for column in info.columns if column.name.lower() in names)
    return used or info.columns[:1]  # count(*) needs rows, whatever is in them


def _has_whole_rows(qualified: exp.Expr) -> bool:
    """Return whether something takes all columns of a table, or takes them by position."""
    aliases = {table.alias_or_name.lower() for table in qualified.find_all(exp.Table)}
    return (
        any(not isinstance(star.parent, exp.Count) for star in qualified.find_all(exp.Star))
        or qualified.find(exp.Columns, exp.TableColumn, exp.Pivot) is not None
        or any(
            not column.table and column.name.lower() in aliases
            for column in qualified.find_all(exp.Column)
        )
        or any(table.alias_column_names for table in qualified.find_all(exp.Table))
    )


def _filters(
    qualified: exp.Expr,
    nodes: Sequence[tuple[exp.Table, Table]],
    infos: dict[Table, TableInfo],
    params: Sequence[Any],
) -> dict[Table, list[Filter]]:
    # A table that is read twice is scanned once, for both: no condition of either narrows it.
    times = Counter(table for _, table in nodes)
    by_name = {
        (table.module_name.lower(), table.table_name.lower()): table
        for table in infos
        if times[table] == 1
    }
    found: dict[Table, list[Filter]] = {}
    for scope in traverse_scope(qualified):
        select = scope.expression
        if not isinstance(select, exp.Select) or not _joins_plainly(select):
            continue
        sources = {
            node.alias_or_name: by_name[(node.db.lower(), node.name.lower())]
            for node in _direct(select)
            if (node.db.lower(), node.name.lower()) in by_name and _is_plain(node)
        }
        for condition, alias in _conditions(select):
            pair = _filter_of(condition, alias, sources, infos, params)
            if pair is not None:
                found.setdefault(pair[0], []).extend(pair[1])
    return found


def _direct(select: exp.Select) -> Iterator[exp.Table]:
    for place in (select.args.get("from_"), *select.args.get("joins", ())):
        if place is not None and isinstance(place.this, exp.Table):
            yield place.this


def _joins_plainly(select: exp.Select) -> bool:
    return not select.args.get("laterals") and all(
        not join.method
        and join.side.upper() in ("", "LEFT", "RIGHT", "FULL")
        and join.kind.upper() in ("", "INNER", "OUTER", "CROSS")
        for join in select.args.get("joins", ())
    )


def _is_plain(node: exp.Table) -> bool:
    given = {name for name, value in node.args.items() if value}
    return given <= {"this", "db", "alias"} and not node.alias_column_names


def _conditions(select: exp.Select) -> Iterator[tuple[exp.Expr, str | None]]:
    """Yield conditions, each with the alias of the only table that it may narrow, or None."""
    where = select.args.get("where")
    if where is not None:
        for condition in _conjuncts(where.this):
            yield condition, None
    for join in select.args.get("joins", ()):
        on = join.args.get("on")
        if on is not None and join.side.upper() in ("", "LEFT"):
            for condition in _conjuncts(on):
                yield condition, join.this.alias_or_name


def _conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    inner = condition.unnest()
    if isinstance(inner, exp.And):
        yield from _conjuncts(inner.left)
        yield from _conjuncts(inner.right)
    else:
        yield inner


def _filter_of(
    condition: exp.Expr,
    alias: str | None,
    sources: dict[str, Table],
    infos: dict[Table, TableInfo],
    params: Sequence[Any],
) -> tuple[Table, list[Filter]] | None:
    parts = _parts(condition)
    if parts is None:
        return None
    column, tests = parts
    table = sources.get(column.table)
    if table is None or (alias is not None and column.table != alias):
        return None
    info = next(
        (each for each in infos[table].columns if each.name.lower() == column.name.lower()), None
    )
    if info is None or info.filters == "none":
        return None
    filters = []
    for op, constants in tests:
        if op != "in" and info.filters != "range":
            return None
        values = [_constant(constant, info, params) for constant in constants]
        if None in values or len(values) > MAX_BULK:
            return None
        filters.append(Filter(info.name, op, tuple(dict.fromkeys(values))))
    return table, filters


_Tests = list[tuple[FilterOp, list[exp.Expr]]]


def _parts(condition: exp.Expr) -> tuple[exp.Column, _Tests] | None:
    """Take a condition apart into a column and what it is tested for, where it is so simple."""
    turned = _COMPARISONS.get(type(condition))
    if turned is not None:
        left, right = condition.this, condition.expression
        if isinstance(left, exp.Column):
            return left, [(turned[0], [right])]
        if isinstance(right, exp.Column):
            return right, [(turned[1], [left])]
        return None
    if not isinstance(condition.this, exp.Column):
        return None
    if isinstance(condition, exp.In) and condition.expressions:
        return condition.this, [("in", condition.expressions)]
    if isinstance(condition, exp.Between) and not condition.args.get("symmetric"):
        return condition.this, [
            (">=", [condition.args["low"]]),
            ("<=", [condition.args["high"]]),
        ]
    return None


def _constant(node: exp.Expr, info: ColumnInfo, params: Sequence[Any]) -> Any:
    """Return a constant as a value of the column's type, or None when that is not plain.

    Only constants that the module and DuckDB must compare alike: no text as a number, no
    fraction written in decimals, no null.
    """
    if info.type == "datetime":
        return _moment(_typed_time(node) if isinstance(node, exp.Cast) else _value(node, params))
    if info.type == "date":
        return _day(_typed_day(node) if isinstance(node, exp.Cast) else _value(node, params))
    value = _value(node, params)
    if info.type == "real":
        exact = isinstance(value, float) or (type(value) is int and abs(value) <= 2**53)
        return float(value) if exact and not math.isnan(value) else None
    if type(value) is not PYTHON_TYPES[info.type]:
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return value


def _value(node: exp.Expr, params: Sequence[Any]) -> Any:
    if isinstance(node, exp.Placeholder):
        return params[int(node.name) - 1]
    if isinstance(node, exp.Literal):
        if node.is_string:
            return node.name
        return int(node.name) if node.name.isdecimal() else None
    if isinstance(node, exp.Neg):
        value = _value(node.this, params) if isinstance(node.this, exp.Literal) else None
        return -value if isinstance(value, int) else None
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    return None


def _typed_day(node: exp.Cast) -> str | None:
    """Return the text of DATE '...'."""
    plain = isinstance(node.this, exp.Literal) and node.this.is_string and node.is_type("date")
    return node.this.name if plain else None


def _day(value: Any) -> date | None:
    if type(value) is date:
        return value
    if not isinstance(value, str) or not _DAY.match(value):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


def _typed_time(node: exp.Cast) -> str | None:
    """Return the text of TIMESTAMP '...' or TIMESTAMPTZ '...'."""
    if not isinstance(node.this, exp.Literal) or not node.this.is_string:
        return None
    text = node.this.name
    if node.is_type("timestamptz"):
        return text
    # Of a TIMESTAMP, DuckDB leaves the zone that the text names out of account.
    match = _TIME.match(text) if node.is_type("timestampntz", "timestamp") else None
    return text if match is not None and match["zone"] is None else None


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if not isinstance(value, str) or not _TIME.match(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
