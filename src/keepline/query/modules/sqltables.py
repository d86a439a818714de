"""Tables of the SQL store as a module: filtered for the principal, in the database."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from keepline.errors import (
    DataError,
    InstanceError,
    ModuleUnavailable,
    OperationalError,
    ProgrammingError,
)
from keepline.model import Principal, from_us, to_us
from keepline.query.module import ColumnInfo, ColumnType, Filter, FilterUse, Scan, TableInfo
from keepline.render.json import dumps
from keepline.store.access import visible
from keepline.store.engine import Store
from keepline.store.types import UtcDateTime

_BATCH = 1000

_Condition = sa.ColumnElement[bool]


@dataclass(frozen=True)
class Exposure:
    """One SQL table as a table of a module.

    `name` is what queries call it. Columns in `leave_out` stay away; those in `instants` hold
    UTC microseconds and are shown as datetimes, under the given name. `parents` are tables
    that this one's rows belong to, as (own column, the parent's exposure, its column): a row
    is seen only with its parent. `rows` gives a further condition for a principal.
    """

    name: str
    table: sa.Table
    leave_out: frozenset[str] = frozenset()
    instants: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    parents: tuple[tuple[str, Exposure, str], ...] = ()
    rows: Callable[[Principal], _Condition] | None = None

    def columns(self, principal: Principal) -> dict[str, sa.ColumnElement[Any]]:
        """Return the columns that exist for `principal`, by the names that queries use."""
        _, allowed = visible(self.table, principal)
        names = {column.name for column in allowed if isinstance(column, sa.Column)}
        return {
            self.instants.get(column.name, column.name): column
            for column in self.table.c
            if column.name in names and column.name not in self.leave_out
        }

    def condition(self, principal: Principal) -> _Condition:
        """Return which rows exist for `principal`."""
        conditions, _ = visible(self.table, principal)
        if principal.sees_all:
            return conditions
        for own, parent, its in self.parents:
            belongs = self.table.c[own].in_(
                sa.select(parent.table.c[its]).where(parent.condition(principal))
            )
            conditions = sa.and_(conditions, belongs)
        return sa.and_(conditions, self.rows(principal)) if self.rows else conditions

    def info(self, principal: Principal) -> TableInfo:
        """Return the table's form for `principal`."""
        columns = self.columns(principal)
        keys = [self.instants.get(each.name, each.name) for each in self.table.primary_key]
        return TableInfo(
            self.name,
            tuple(self._column(name, each) for name, each in columns.items()),
            tuple(keys) if set(keys) <= columns.keys() else (),
        )

    def _column(self, name: str, column: sa.ColumnElement[Any]) -> ColumnInfo:
        type_ = _type_of(column, name in self.instants.values())
        nullable = bool(getattr(column, "nullable", True))
        filters = "none" if _is_foreign(column) else _FILTERS.get(type_, "none")
        return ColumnInfo(name, type_, nullable, filters)


Exposures = Sequence[Exposure] | Callable[[sa.Connection], Sequence[Exposure]]


class SqlTablesModule:
    """Tables of a store, read only. Each scan is one read transaction, streamed.

    `exposures` are the tables, or a function that tells them, asked in every transaction.
    Filters are bound parameters of the database. Safe to use from several threads.
    """

    def __init__(self, name: str, store: Store, exposures: Exposures) -> None:
        self._name = name
        self._store = store
        self._exposures = exposures

    @property
    def name(self) -> str:
        """Return the name that queries call the module by."""
        return self._name

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        """Return the tables that exist for `principal`; raises ModuleUnavailable."""
        if not callable(self._exposures):
            return [exposure.info(principal) for exposure in self._exposures]
        with self._reading() as connection:
            return [exposure.info(principal) for exposure in self._exposures(connection)]

    def scan(self, scan: Scan) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows that the principal may see, by primary key, a thousand at a time."""
        with self._reading() as connection:
            exposure = self._find(connection, scan.table)
            statement, converters = _select(exposure, _askable(scan, self._store.dialect))
            streamed = connection.execution_options(yield_per=_BATCH).execute(statement)
            try:
                for part in streamed.partitions():
                    yield _converted(part, converters)
            finally:
                streamed.close()

    def _find(self, connection: sa.Connection, name: str) -> Exposure:
        known = self._exposures(connection) if callable(self._exposures) else self._exposures
        for exposure in known:
            if exposure.name == name:
                return exposure
        raise ProgrammingError(f"there is no table {self._name}.{name}")

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._store.read() as connection:
                yield connection
        except UnicodeEncodeError as error:
            raise DataError(f"module {self._name!r} cannot take a value: not Unicode") from error
        except InstanceError as error:  # the store cannot be opened
            raise ModuleUnavailable(self._name, self._answers) from error
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise ModuleUnavailable(self._name, self._answers) from error
            # The database's own text may quote values, so it is not repeated.
            kind = type(error.orig).__name__
            if isinstance(error, sa.exc.DataError):
                raise DataError(f"module {self._name!r} cannot take a value: {kind}") from error
            raise OperationalError(f"module {self._name!r} cannot be read: {kind}") from error

    def _answers(self) -> bool:
        try:
            with self._store.read() as connection:
                connection.execute(sa.select(1))
        except (InstanceError, sa.exc.DBAPIError):
            return False
        return True


_FILTERS: dict[ColumnType, FilterUse] = {
    # Text is compared by a database's own order, which need not be that of code points.
    "text": "equal",
    "integer": "range",
    "real": "range",
    "date": "range",
    "datetime": "range",
    "boolean": "equal",
}

_Converters = dict[int, Callable[[Any], Any]]


def _select(exposure: Exposure, scan: Scan) -> tuple[sa.Select[Any], _Converters]:
    columns = exposure.columns(scan.principal)
    missing = [name for name in scan.columns if name not in columns]
    if missing:
        raise ProgrammingError(f"{exposure.name} has no column {missing[0]}")
    chosen = [columns[name] for name in scan.columns]
    statement = sa.select(*chosen).where(exposure.condition(scan.principal))
    instants = set(exposure.instants.values())
    for each in scan.filters:
        statement = statement.where(_where(columns[each.column], each, each.column in instants))
    converters: _Converters = {}
    for position, (name, column) in enumerate(zip(scan.columns, chosen, strict=True)):
        if name in instants:
            converters[position] = from_us
        elif _type_of(column, False) == "json":
            converters[position] = dumps
        elif _is_foreign(column):
            converters[position] = str
    return statement.order_by(*exposure.table.primary_key), converters


def _askable(scan: Scan, dialect: str) -> Scan:
    """Return the scan without text that PostgreSQL holds in no column and refuses to look for."""
    if dialect != "postgresql":
        return scan
    filters = tuple(
        replace(each, values=tuple(value for value in each.values if not _has_zero(value)))
        for each in scan.filters
    )
    return replace(scan, filters=filters)


def _has_zero(value: Any) -> bool:
    return isinstance(value, str) and "\x00" in value


def _where(column: sa.ColumnElement[Any], asked: Filter, instant: bool) -> _Condition:
    if asked.op == "null":
        return column.is_(None)
    values = [to_us(value) for value in asked.values] if instant else list(asked.values)
    if isinstance(column.type, sa.Integer):
        # A value may be wider than the column, which PostgreSQL's cast would refuse.
        column = sa.type_coerce(column, sa.BigInteger)
    if asked.op == "in":
        return column.in_(values)
    return _COMPARE[asked.op](column, values[0])


_COMPARE: dict[str, Callable[[sa.ColumnElement[Any], Any], _Condition]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _converted(part: Iterable[Any], converters: _Converters) -> list[tuple[Any, ...]]:
    if not converters:
        return list(map(tuple, part))
    columns = list(zip(*part, strict=True))
    for position, convert in converters.items():
        columns[position] = tuple(
            None if value is None else convert(value) for value in columns[position]
        )
    return list(zip(*columns, strict=True))


def _type_of(column: sa.ColumnElement[Any], instant: bool) -> ColumnType:
    if instant:
        return "datetime"
    type_ = column.type
    if isinstance(type_, UtcDateTime):
        return "datetime"
    for kind, name in _KINDS:
        if isinstance(type_, kind):
            return name
    return "text"


def _is_foreign(column: sa.ColumnElement[Any]) -> bool:
    """Return whether a column is of a type that queries do not have; it is shown as text."""
    known = (UtcDateTime, sa.String, *(kind for kind, _ in _KINDS))
    return not isinstance(column.type, known)


_KINDS: tuple[tuple[type[Any], ColumnType], ...] = (
    (sa.Boolean, "boolean"),
    (sa.Integer, "integer"),
    (sa.Float, "real"),
    (sa.Date, "date"),
    (sa.JSON, "json"),
    (sa.LargeBinary, "binary"),
)
