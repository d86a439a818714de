"""From a Request to a plan: validated, its tables in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from keepline.errors import InterfaceError, NotSupportedError, ProgrammingError
from keepline.query.catalog import Catalog
from keepline.query.module import Change, ColumnInfo, Filter, Module, TableInfo, WritableModule
from keepline.query.requests import CM_OP_SET, IS_NULL, Column, Request, Table
from keepline.query.result import Description, described, literal_column
from keepline.query.values import coerce

_NUMBERS = ("integer", "real")


@dataclass(frozen=True, slots=True)
class Constant:
    """A column that must equal a value, which is made the column's type when it is sent."""

    column: ColumnInfo
    value: Any
    name: str

    def filter(self) -> Filter:
        """Return the condition as it stands now; raises DataError."""
        if self.value is IS_NULL:
            return Filter(self.column.name, "null")
        return Filter(self.column.name, "in", (coerce(self.value, self.column.type, self.name),))


@dataclass(frozen=True, slots=True)
class Step:
    """One table of a plan.

    Its `columns` are appended to the row so far; `joins` pairs own columns with the positions,
    in the row so far, of what they must equal.
    """

    module: Module
    info: TableInfo
    columns: tuple[str, ...]
    constants: tuple[Constant, ...]
    joins: tuple[tuple[ColumnInfo, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the executor does: the main table's step first, then one a joined table.

    `output` picks the fields from a row with `literals` at its end.
    """

    steps: tuple[Step, ...]
    output: tuple[int, ...]
    literals: tuple[str, ...]
    description: Description
    outer: bool
    bulk: int


def plan_get(request: Request, values: Mapping[Any, Any], catalog: Catalog) -> Plan:
    """Return the plan of a GET.

    Raises InterfaceError for a request that is not complete, ProgrammingError for what does
    not exist.
    """
    if not request.fields:
        raise InterfaceError("the request has no field: add_field(label, column)")
    found = _resolve(request, catalog)
    params = _with_values(request, values)
    order = _join_order(request)
    offsets: dict[Column, int] = {}
    steps = []
    width = 0
    for table in order:
        step = _step(table, request, params, found, offsets)
        for position, name in enumerate(step.columns):
            offsets[Column(table, name)] = width + position
        width += len(step.columns)
        steps.append(step)
    output, literals, description = _output(request, found, offsets, width)
    for constant in chain.from_iterable(step.constants for step in steps):
        if constant.column.type != "text":  # which takes anything, and is made when it is sent
            constant.filter()
    return Plan(tuple(steps), output, literals, description, request.outer_join, request.bulk)


def plan_set(
    request: Request, values: Mapping[Any, Any], catalog: Catalog, vr_name: str | None
) -> tuple[WritableModule, Change, Plan]:
    """Return what a SET asks of its module, and how its answer is shown.

    Parameters on the table's index columns select the rows; the others are assigned. Raises
    NotSupportedError for a module that cannot be written, or more than one table; else as
    `plan_get`.
    """
    if len(request.tables) > 1:
        raise NotSupportedError("a SET changes one table; it cannot join")
    found = _resolve(request, catalog)
    params = _with_values(request, values)
    ((table, (module, info)),) = found.items()
    if not isinstance(module, WritableModule):
        raise NotSupportedError(f"module {table.module_name!r} is read-only")
    if any(isinstance(value, Column) for value in params.values()):
        raise NotSupportedError("a SET takes values, not columns")
    keys = _keys(table, request, info)
    selecting = {column: value for column, value in params.items() if column.column_name in keys}
    assigned = {column: value for column, value in params.items() if column not in selecting}
    if not assigned:
        raise InterfaceError("the SET assigns nothing: add_param on a column that is no key")
    if not selecting and not request.allow_all:
        raise InterfaceError(
            f"the SET selects no row: add_param on {', '.join(keys)}, or allow_all=True"
        )
    changes = {
        column.column_name: _assignable(_info(found, column), column, value)
        for column, value in assigned.items()
    }
    filters = tuple(
        _selection(_info(found, column), column, value) for column, value in selecting.items()
    )
    columns = _columns(table, request, {}, info)
    offsets = {Column(table, name): position for position, name in enumerate(columns)}
    output, literals, description = _output(request, found, offsets, len(columns))
    shown = Plan((), output, literals, description, False, request.bulk)
    change = Change(info.name, changes, columns, catalog.principal, filters, vr_name)
    return module, change, shown


_Found = dict[Table, tuple[Module, TableInfo]]


def _resolve(request: Request, catalog: Catalog) -> _Found:
    if not request.tables:
        raise InterfaceError("the request names no table: add_field(label, column)")
    found = {table: catalog.find(table) for table in request.tables}
    named = [
        *(each for each in request.fields.values() if isinstance(each, Column)),
        *(column for columns in request.indexes.values() for column in columns),
        *request.params,
        *(each for each in request.params.values() if isinstance(each, Column)),
    ]
    missing = [str(each) for each in named if found[each.table][1].column(each.column_name) is None]
    if missing:
        raise ProgrammingError(f"there is no column {', '.join(dict.fromkeys(missing))}")
    for table, (_, info) in found.items():
        _keys(table, request, info)
    return found


def _keys(table: Table, request: Request, info: TableInfo) -> tuple[str, ...]:
    declared = tuple(column.column_name for column in request.indexes.get(table, ())) or info.key
    if not declared:
        candidates = ", ".join(column.name for column in info.columns)
        raise InterfaceError(f"{table} has no index: add_index one of {candidates}")
    return declared


def _info(found: _Found, column: Column) -> ColumnInfo:
    info = found[column.table][1].column(column.column_name)
    if info is None:
        raise ProgrammingError(f"there is no column {column}")
    return info


def _with_values(request: Request, values: Mapping[Any, Any]) -> dict[Column, Any]:
    params = dict(request.params)
    for key, value in values.items():
        column = _param_of(request, key)
        if request.params[column] is not None:
            raise ProgrammingError(f"the parameter {column} has a value already")
        if isinstance(value, Column):
            raise ProgrammingError(f"{column} is joined by add_param, not by a value")
        params[column] = value
    missing = [str(column) for column, value in params.items() if value is None]
    if missing:
        raise InterfaceError(
            f"no value for the parameter {', '.join(missing)}; IS_NULL asks for a missing one"
        )
    return params


def _param_of(request: Request, key: Any) -> Column:
    if isinstance(key, str):
        matches = [column for column in request.params if column.column_name == key]
    elif isinstance(key, tuple):
        matches = [column for column in request.params if _is_named(column, key)]
    else:
        matches = []
    if not matches:
        raise ProgrammingError(f"the request has no parameter {key!s}")
    if len(matches) > 1:
        raise ProgrammingError(f"{key!s} may be any of {', '.join(map(str, matches))}")
    return matches[0]


def _is_named(column: Column, key: tuple[Any, ...]) -> bool:
    names = (column.module_name, column.table_name, column.column_name)
    return column == key or names == key or names[1:] == key


def _join_order(request: Request) -> list[Table]:
    """Return the tables so that each comes after those it is joined to.

    Ties keep the order in which the tables were met. Raises InterfaceError for a table that
    the main table does not lead to, and for a cycle.
    """
    needs: dict[Table, set[Table]] = {table: set() for table in request.tables}
    for column, value in request.params.items():
        if isinstance(value, Column):
            needs[column.table].add(value.table)
    main = request.main_table
    if main is None:
        raise InterfaceError("the request names no table: add_field(label, column)")
    if needs[main]:
        raise InterfaceError(f"the main table {main} cannot be joined to another; see main_table")
    apart = [str(table) for table in request.tables if table != main and not needs[table]]
    if apart:
        raise InterfaceError(
            f"{', '.join(apart)} is not joined to {main}: add_param(its column, a column of {main})"
        )
    order = [main]
    waiting = [table for table in request.tables if table != main]
    while waiting:
        ready = next((table for table in waiting if needs[table] <= set(order)), None)
        if ready is None:
            raise InterfaceError(f"the joins of {', '.join(map(str, waiting))} form a cycle")
        order.append(ready)
        waiting.remove(ready)
    return order


def _step(
    table: Table,
    request: Request,
    params: Mapping[Column, Any],
    found: _Found,
    offsets: Mapping[Column, int],
) -> Step:
    module, info = found[table]
    constants = []
    joins = []
    for column, value in params.items():
        if column.table != table:
            continue
        own = _info(found, column)
        if isinstance(value, Column):
            _check_comparable(column, own, value, _info(found, value))
            joins.append((own, offsets[value]))
        else:
            constants.append(Constant(own, value, str(column)))
    columns = _columns(table, request, params, info)
    return Step(module, info, columns, tuple(constants), tuple(joins))


def _columns(
    table: Table, request: Request, params: Mapping[Column, Any], info: TableInfo
) -> tuple[str, ...]:
    """Return the columns of a table that fields, joins and checks read, each once.

    The fields come first and in order, so that a plain scan needs no projection.
    """
    used = [each for each in request.fields.values() if isinstance(each, Column)]
    for column, value in params.items():
        if isinstance(value, Column):
            used += [column, value]
        elif column.table == table and _checked_here(info, column):
            used.append(column)
    names = (column.column_name for column in used if column.table == table)
    return tuple(dict.fromkeys(names)) or (info.columns[0].name,)


def _checked_here(info: TableInfo, column: Column) -> bool:
    found = info.column(column.column_name)
    return found is not None and found.filters == "none"


def _check_comparable(column: Column, own: ColumnInfo, other: Column, its: ColumnInfo) -> None:
    same = own.type == its.type or (own.type in _NUMBERS and its.type in _NUMBERS)
    if not same:
        raise InterfaceError(
            f"{column} holds {own.type} and {other} {its.type}: they cannot be joined"
        )


def _selection(info: ColumnInfo, column: Column, value: Any) -> Filter:
    if info.filters == "none":
        raise NotSupportedError(f"module {column.module_name!r} cannot select by {column}")
    return Constant(info, value, str(column)).filter()


def _assignable(info: ColumnInfo, column: Column, value: Any) -> Any:
    if not info.writable:
        raise ProgrammingError(f"{column} cannot be assigned")
    return None if value is IS_NULL else coerce(value, info.type, str(column))


def _output(
    request: Request, found: _Found, offsets: Mapping[Column, int], width: int
) -> tuple[tuple[int, ...], tuple[str, ...], Description]:
    positions = []
    literals: list[str] = []
    description = []
    for label, source in request.fields.items():
        if isinstance(source, Column):
            positions.append(offsets[source])
            optional = request.outer_join and source.table != request.main_table
            info = _info(found, source)
            description.append(described(label, info.type, nullable=info.nullable or optional))
        else:
            positions.append(width + len(literals))
            literals.append(str(source))
            description.append(literal_column(label))
    return tuple(positions), tuple(literals), tuple(description)


def is_set(request: Request) -> bool:
    """Return whether a request writes."""
    return request.op == CM_OP_SET
