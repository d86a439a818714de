"""What a query module is, and what the query front end needs of an instance.

A module owns tables, says what they look like to a principal, and answers scans. The engine
joins, checks and projects; a module that can do no more than yield its rows is complete.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, Protocol, runtime_checkable

from keepline.errors import InterfaceError
from keepline.model import Principal

#: Python types: str, int, float, bool, date, aware datetime in UTC, str (JSON text), bytes.
ColumnType = Literal["text", "integer", "real", "boolean", "date", "datetime", "json", "binary"]

PYTHON_TYPES: dict[ColumnType, type] = {
    "text": str,
    "integer": int,
    "real": float,
    "boolean": bool,
    "date": date,
    "datetime": datetime,
    "json": str,
    "binary": bytes,
}

#: Which filters a module takes on a column, exactly: none at all; `in` and `null`; or these
#: and the four comparisons.
FilterUse = Literal["none", "equal", "range"]

FilterOp = Literal["in", "null", "<", "<=", ">", ">="]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column of a module's table, as one principal sees it.

    `writable` says that a SET may assign it.
    """

    name: str
    type: ColumnType = "text"
    nullable: bool = True
    filters: FilterUse = "none"
    writable: bool = False


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One table of a module, as one principal sees it; `key` names what identifies a row.

    Raises InterfaceError when two columns differ by nothing but case, which SQL cannot tell
    apart, or a key names no column.
    """

    name: str
    columns: tuple[ColumnInfo, ...]
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names or len({name.lower() for name in names}) < len(names):
            raise InterfaceError(f"table {self.name!r} needs columns whose names differ")
        missing = [name for name in self.key if name not in names]
        if missing:
            raise InterfaceError(f"table {self.name!r}: the key names no column {missing[0]!r}")

    def column(self, name: str) -> ColumnInfo | None:
        """Return the column called `name`, if the table has one."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one column: `in` any of `values`, `null`, or compared with one value.

    Values are of the column's own type and never None or NaN; text compares by code points.
    """

    column: str
    op: FilterOp
    values: tuple[Any, ...] = ()

    def accepts(self) -> Callable[[Any], bool]:
        """Return a function that says whether a value of the column meets the condition.

        A missing value meets `null` alone. NaN is above every number, as in PostgreSQL and
        DuckDB.
        """
        if self.op == "null":
            return lambda value: value is None
        if self.op == "in":
            return frozenset(self.values).__contains__
        compare, (bound,) = _COMPARE[self.op], self.values
        above = self.op in (">", ">=")

        def compared(value: Any) -> bool:
            if value is None:
                return False
            return above if value != value else compare(value, bound)

        return compared


@dataclass(frozen=True, slots=True)
class Scan:
    """What is asked of a module: these columns of the rows that meet every filter.

    There is at least one column. Filters stand only on columns that the module declared to
    take them. `vr_name` is the context that the caller named, which a module may ignore.
    """

    table: str
    columns: tuple[str, ...]
    principal: Principal
    filters: tuple[Filter, ...] = ()
    vr_name: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a SET asks of a module: assign `values` to the rows that meet every filter.

    `columns` of each changed row, as it is afterwards, are the answer; there is at least one.
    """

    table: str
    values: Mapping[str, Any]
    columns: tuple[str, ...]
    principal: Principal
    filters: tuple[Filter, ...] = ()
    vr_name: str | None = None


class Module(Protocol):
    """Tables that can be asked. Must be safe to use from several threads."""

    @property
    def name(self) -> str:
        """Return the name that queries call the module by."""
        ...

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        """Return the tables and columns that exist for `principal`.

        A module without any does not exist for it. Raises ModuleUnavailable.
        """
        ...

    def scan(self, scan: Scan) -> Iterator[list[tuple[Any, ...]]]:
        """Yield batches of rows, tuples in the order of `scan.columns`.

        Every row that `scan.principal` may see and that meets all filters comes once; a
        repeated scan of unchanged data gives the same order. The engine closes a generator
        that it does not drain. Raises ModuleUnavailable, ProgrammingError for a table or
        column that does not exist.
        """
        ...


@runtime_checkable
class WritableModule(Protocol):
    """A module whose rows a SET can change."""

    def update(self, change: Change) -> list[tuple[Any, ...]]:
        """Make the change, all of it or nothing, and return the changed rows.

        Raises IntegrityError when a value breaks a rule of the table, ModuleUnavailable only
        when nothing was changed.
        """
        ...


@runtime_checkable
class QueryHost(Protocol):
    """What `connect` needs of an instance."""

    @property
    def modules(self) -> Mapping[str, Module]:
        """Return the modules that can be asked, by name."""
        ...

    def principal(self, username: str) -> Principal:
        """Return who `username` is, with its groups."""
        ...
