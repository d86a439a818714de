"""Requests: what is asked of which tables, built up step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, final

from keepline.errors import InterfaceError, NotSupportedError

#: Operations of a request: read rows, or assign values to them.
CM_OP_GET: Final = 2
CM_OP_SET: Final = 3

#: Most keys that one module call may carry.
MAX_BULK = 10_000


@final
class _IsNull:
    def __repr__(self) -> str:
        return "IS_NULL"


#: A parameter value that asks for rows without a value.
IS_NULL: Final = _IsNull()


class Table(NamedTuple):
    """A table within a module: the tuple (module_name, table_name)."""

    module_name: str
    table_name: str

    def __str__(self) -> str:
        return f"{self.module_name}.{self.table_name}"


class _ColumnParts(NamedTuple):
    table: Table
    column_name: str


class Column(_ColumnParts):
    """A column within a table: the tuple (table, column_name).

    The table may be given as a Table or as (module_name, table_name); the three names alone
    will do as well.

    >>> Column(("records", "sample"), "mass") == Column("records", "sample", "mass")
    True
    """

    __slots__ = ()

    def __new__(cls, table: tuple[str, str] | str, *args: str) -> Column:
        names = (*(table if isinstance(table, tuple) else (table,)), *args)
        if len(names) != 3 or not all(isinstance(name, str) for name in names):
            raise InterfaceError(
                "a column is (table, column name); a table is (module name, table name)"
            )
        return super().__new__(cls, Table(names[0], names[1]), names[2])

    @classmethod
    def of(cls, given: Column | tuple[Any, ...]) -> Column:
        """Return `given` as a Column; raises InterfaceError when it is not like one."""
        if isinstance(given, Column):
            return given
        if isinstance(given, tuple):
            return cls(*given)
        raise InterfaceError(f"expected a Column or a tuple like one, not {type(given).__name__}")

    @property
    def module_name(self) -> str:
        """Return the name of the table's module."""
        return self.table.module_name

    @property
    def table_name(self) -> str:
        """Return the name of the table."""
        return self.table.table_name

    def __str__(self) -> str:
        return f"{self.table}.{self.column_name}"


class Row:
    """One row of an answer, with its fields by label.

    `rowid` is its index in the answer, from 0; `op_status` is ``SUCCESS``; `opMsg` is what the
    module said about the row, or None.
    """

    def __init__(
        self, rowid: int, op_status: str, field_values: Mapping[str, Any] | None = None
    ) -> None:
        self.rowid = rowid
        self.op_status = op_status
        self.opMsg: str | None = None  # the seed page fixes the name
        self.field_values: dict[str, Any] = dict(field_values or {})

    def __repr__(self) -> str:
        return f"Row({self.rowid}, {self.op_status!r}, {self.field_values!r})"


class Request:
    """What is asked: fields, where they come from, and the conditions.

    Made by `request()`; `Cursor.execute` validates it. Joins lead from the main table to the
    others: `add_param(column, other)` looks up the rows whose `column` equals `other` of a
    table met before. A missing value, or NaN, equals nothing. With `outer_join` every other
    table is optional: its constants are conditions of the join, and where no row fits its
    fields are None.

    `bulk` is how many rows, or keys, go into one module call; `order` FIFO keeps the order of
    the main table's rows. `allow_all` lets a SET without a key change every row.
    """

    def __init__(
        self,
        op: int = CM_OP_GET,
        outer_join: bool = False,
        bulk: int = 256,
        order: Literal["FIFO"] = "FIFO",
        *,
        main_table: tuple[str, str] | None = None,
        allow_all: bool = False,
    ) -> None:
        if op not in (CM_OP_GET, CM_OP_SET):
            raise InterfaceError("op is CM_OP_GET or CM_OP_SET")
        if not 1 <= bulk <= MAX_BULK:
            raise InterfaceError(f"bulk is a number from 1 to {MAX_BULK}")
        if order != "FIFO":
            raise InterfaceError("order can only be FIFO")
        self.op = op
        self.outer_join = outer_join
        self.bulk = bulk
        self.order = order
        self.allow_all = allow_all
        self.vr_name: str | None = None
        self.main_table: Table | None = None
        self.tables: list[Table] = []
        self.fields: dict[str, Any] = {}
        self.indexes: dict[Table, list[Column]] = {}
        self.params: dict[Column, Any] = {}
        if main_table is not None:
            self._meet(Table(*main_table))

    @property
    def method(self) -> str:
        """Return the operation's name, GET or SET."""
        return "GET" if self.op == CM_OP_GET else "SET"

    def add_index(self, index_column: Column | tuple[Any, ...]) -> None:
        """Say that a column identifies the rows of its table.

        It takes the place of the key that the module declares; on a SET, parameters on index
        columns select rows. Every table needs one or the other.
        """
        column = self._met(index_column)
        known = self.indexes.setdefault(column.table, [])
        if column not in known:
            known.append(column)

    def add_param(self, param_column: Column | tuple[Any, ...], param_value: Any = None) -> None:
        """Set a condition on a column, or on a SET the value to assign.

        `param_value` is a constant, IS_NULL, another Column to join with, or None for a
        constant that `Cursor.execute` is given. A constant for a text column is made a string
        by `str()` each time a module is asked.
        """
        column = self._met(param_column)
        if isinstance(param_value, Column):
            self._meet(param_value.table)
        self.params[column] = param_value

    def add_field(self, field_label: str, field_source: Any) -> None:
        """Add a field to the answer: a Column's value, or else a literal, echoed as a string.

        Raises NotSupportedError for a callable, which is reserved, and InterfaceError for a
        label that is taken.
        """
        if callable(field_source):
            raise NotSupportedError("a field cannot be a callable yet")
        if field_label in self.fields:
            raise InterfaceError(f"the request has a field {field_label!r} already")
        if isinstance(field_source, Column):
            self._meet(field_source.table)
        self.fields[field_label] = field_source

    def copy(self) -> Request:
        """Return a request that can be changed without changing this one; values are shared."""
        twin = Request(self.op, self.outer_join, self.bulk, self.order, allow_all=self.allow_all)
        twin.vr_name = self.vr_name
        twin.main_table = self.main_table
        twin.tables = list(self.tables)
        twin.fields = dict(self.fields)
        twin.indexes = {table: list(columns) for table, columns in self.indexes.items()}
        twin.params = dict(self.params)
        return twin

    def set_vr_name(self, vr: str | None) -> None:
        """Set the context that modules are told, over the cursor's `vr_name`."""
        self.vr_name = vr

    def _met(self, given: Column | tuple[Any, ...]) -> Column:
        column = Column.of(given)
        self._meet(column.table)
        return column

    def _meet(self, table: Table) -> None:
        if table not in self.tables:
            self.tables.append(table)
        if self.main_table is None:
            self.main_table = table


def request(
    op: int = CM_OP_GET,
    outer_join: bool = False,
    *,
    bulk: int = 256,
    main_table: tuple[str, str] | None = None,
    allow_all: bool = False,
) -> Request:
    """Return a new Request; see there for the arguments.

    Raises InterfaceError for a value that an argument cannot have.
    """
    return Request(op, outer_join, bulk, main_table=main_table, allow_all=allow_all)
