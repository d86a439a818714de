"""Driver rows of records: where their columns stand, how values come out of them and go in.

A row stays as the driver gave it until somebody asks for a value; statements are compiled once
for each record type and set of fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keepline.errors import RecordError
from keepline.model import Field, Principal, RecordType
from keepline.records.values import own
from keepline.store import Store
from keepline.store.access import visible
from keepline.store.tables.declared import record_table, record_tables
from keepline.store.types import json_text

#: A row of a record type's table, with the columns of its `Layout` in their order.
Row = tuple[Any, ...]

_Convert = Callable[[Any], Any]

#: Compiled statements that a layout keeps before it begins anew.
_MOST_STATEMENTS = 500


@dataclass(frozen=True, slots=True)
class Token:
    """A row's life and state, as the database stamped them; opaque."""

    born: int
    rev: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement that takes values by the names of its parameters."""

    text: str
    #: The order of the parameters; None where the driver takes them by name.
    order: tuple[str, ...] | None
    #: Parameters whose values are part of the statement.
    fixed: Mapping[str, Any]
    binds: Mapping[str, _Convert]

    def run(self, connection: sa.Connection, values: Mapping[str, Any]) -> sa.CursorResult[Any]:
        """Execute the statement."""
        return connection.exec_driver_sql(self.text, self.given(values))

    def given(self, values: Mapping[str, Any]) -> Any:
        """Return what the driver takes with the statement's text."""
        values = {**self.fixed, **values}
        for name, bind in self.binds.items():
            values[name] = bind(values[name])
        if self.order is None:
            return values
        return tuple([values[name] for name in self.order])


class Layout:
    """The columns of one record type's rows in one store. Safe to share between threads."""

    def __init__(self, declared: RecordType, dialect: sa.Dialect) -> None:
        self.declared = declared
        self.dialect = dialect
        self.table = record_table(declared, record_tables(declared))
        self.columns = tuple(visible(self.table, Principal.system())[1])
        #: Where each column stands.
        self.at = {column.name: index for index, column in enumerate(self.columns)}
        self.fields: dict[str, Field] = {field.name: field for field in declared.fields}
        #: Fields whose values can be changed in place.
        self.mutable = frozenset(f.name for f in declared.fields if f.type == "json")
        self._converts: tuple[_Convert | None, ...] | None = None
        self._statements: dict[Any, Statement] = {}
        self._key, self._born, self._rev = map(self.at.get, ("record_key", "row_born", "row_rev"))

    # Reading

    def all_of(self, result: sa.CursorResult[Any], *, before: int = 0) -> list[Row]:
        """Return all rows of a result, as the driver gives them.

        Its columns are this layout's, with `before` others in front of them.
        """
        rows = self._fetched(result.cursor, before)
        result.close()
        return rows

    def one_of(self, result: sa.CursorResult[Any]) -> Row | None:
        """Return the row of a result that has one or none."""
        rows = self.all_of(result)
        return rows[0] if rows else None

    def again(self, connection: sa.Connection, key: str) -> Row | None:
        """Return the row called `key` on SQLite, in whose write transaction this is.

        The driver is asked straight away, which is several times faster; nobody else is writing.
        """
        driver: Any = connection.connection.dbapi_connection
        return self.first_of(
            driver.execute(self.statement("after", lambda: by_key(self)).text, (key,))
        )

    def first_of(self, cursor: Any) -> Row | None:
        """Return the row of a driver's cursor that has one or none."""
        rows = self._fetched(cursor)
        return rows[0] if rows else None

    def _fetched(self, cursor: Any, before: int = 0) -> list[Row]:
        if self._converts is None:
            self._converts = tuple(
                column.type.dialect_impl(self.dialect).result_processor(self.dialect, about[1])
                for column, about in zip(self.columns, cursor.description[before:], strict=True)
            )
        rows: list[Row] = cursor.fetchall()
        return rows

    def value(self, row: Row, name: str) -> Any:
        """Return one column's value; what can be changed in place is the caller's own."""
        index = self.at[name]
        convert = self._converts[index] if self._converts else None
        value = row[index] if convert is None else convert(row[index])
        return own(value) if name in self.mutable else value

    def values(self, row: Row) -> dict[str, Any]:
        """Return the fields' values, in the type's order, as the caller's own."""
        return {name: self.value(row, name) for name in self.fields}

    def key(self, row: Row) -> str:
        """Return the record's key."""
        return str(row[self._key])  # type: ignore[index]  # every layout has the column

    def token(self, row: Row) -> Token:
        """Return the row's token."""
        return Token(row[self._born], row[self._rev])  # type: ignore[index]  # as above

    def finalised(self, row: Row) -> bool:
        """Return whether the record is closed to changes."""
        return self.declared.finalised and bool(row[self.at["finalised"]])

    # Statements

    def statement(self, key: Any, make: Callable[[], sa.Executable]) -> Statement:
        """Return the compiled statement called `key`, made at its first use.

        A parameter called ``set_<column>`` takes that column's values.
        """
        found = self._statements.get(key)
        if found is None:
            if len(self._statements) >= _MOST_STATEMENTS:
                self._statements.clear()
            found = self._statements[key] = self._compiled(make())
        return found

    def _compiled(self, statement: Any) -> Statement:
        compiled = statement.compile(
            dialect=self.dialect, compile_kwargs={"render_postcompile": True}
        )
        binds = {f"set_{name}": self.bind(name) for name in self.at}
        given = compiled.params
        return Statement(
            str(compiled),
            tuple(compiled.positiontup) if compiled.positional else None,
            {name: value for name, value in given.items() if value is not None},
            {n: bind for n, bind in binds.items() if n in given and bind is not None},
        )

    def bind(self, name: str) -> _Convert | None:
        """Return what makes a column's value into the driver's; None when it is that already."""
        kind = self.columns[self.at[name]].type.dialect_impl(self.dialect)
        return kind.bind_processor(self.dialect)

    def array_type(self, name: str) -> Any:
        """Return the type of a column's values within an array (PostgreSQL)."""
        return sa.Text() if name in self.mutable else self.columns[self.at[name]].type

    def array_bind(self, name: str) -> _Convert:
        """Return what makes a column's value into an array's, of `array_type` (PostgreSQL)."""
        if name in self.mutable:
            return lambda value: None if value is None else json_text(value)
        return lambda value: value


class PlainLayout(Layout):
    """The layout of rows whose values are Python's already."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.declared, layout.dialect)
        self._converts = (None,) * len(self.columns)

    def row_of(self, given: Mapping[str, Any]) -> Row:
        """Return a row from a mapping of the columns; raises RecordError when one is missing."""
        for name in ("row_born", *self.at):
            if name not in given:
                raise RecordError(f"the row lacks the column {name}")
        return tuple(given[name] for name in self.at)


_layouts: WeakKeyDictionary[Store, dict[RecordType, Layout]] = WeakKeyDictionary()


def layout_of(store: Store, declared: RecordType) -> Layout:
    """Return the layout of a record type's rows in `store`; the same one every time."""
    known = _layouts.setdefault(store, {})
    found = known.get(declared)
    if found is None:
        found = known[declared] = Layout(declared, store.engine.dialect)
    return found


def allowed(layout: Layout, principal: Principal) -> tuple[Any, sa.ColumnElement[bool]]:
    """Return what tells principals with the same rights apart from others, and their condition."""
    rights = None if principal.sees_all else principal.groups
    return rights, visible(layout.table, principal)[0]


def read_rows(
    connection: sa.Connection,
    layout: Layout,
    principal: Principal,
    where: Sequence[sa.ColumnElement[bool]] = (),
    limit: int | None = None,
) -> list[Row]:
    """Return the rows that `principal` may see and that `where` picks, by key."""
    query = (
        sa.select(*layout.columns)
        .where(allowed(layout, principal)[1], *where)
        .order_by(layout.table.c.record_key)
        .limit(limit)
    )
    return layout.all_of(connection.execute(query))


def read_row(
    connection: sa.Connection, layout: Layout, key: str, principal: Principal
) -> Row | None:
    """Return the row called `key`, or None when it cannot be seen."""
    rights, condition = allowed(layout, principal)
    statement = layout.statement(("read", rights), lambda: by_key(layout).where(condition))
    return layout.one_of(statement.run(connection, {"at_key": key}))


def lock_row(
    connection: sa.Connection, layout: Layout, key: str, *, to_delete: bool = False
) -> Row | None:
    """Return the row called `key`, whoever may see it, and keep others from changing it."""
    statement = layout.statement(
        ("lock", to_delete), lambda: by_key(layout).with_for_update(key_share=not to_delete)
    )
    return layout.one_of(statement.run(connection, {"at_key": key}))


def update_row(
    connection: sa.Connection,
    layout: Layout,
    key: str,
    token: Token,
    principal: Principal,
    changes: Mapping[str, Any],
) -> Row | None:
    """Change a row that still has `token`; return it with its new token, else None."""
    rights, condition = allowed(layout, principal)
    returning = layout.dialect.name == "postgresql"
    statement = layout.statement(
        ("update", tuple(changes), rights),
        lambda: update_by_token(layout, changes, condition, returning=returning),
    )
    values = {f"set_{name}": value for name, value in changes.items()}
    values |= {"at_key": key, "at_born": token.born, "at_rev": token.rev}
    result = statement.run(connection, values)
    if returning:
        return layout.one_of(result)
    if result.rowcount != 1:
        return None
    # RETURNING would show the old token on SQLite, where it is stamped after the update.
    return layout.again(connection, key)


def delete_row(
    connection: sa.Connection, layout: Layout, key: str, token: Token, principal: Principal
) -> bool:
    """Delete a row that still has `token`; return whether it was there."""
    rights, condition = allowed(layout, principal)
    statement = layout.statement(
        ("delete", rights), lambda: sa.delete(layout.table).where(*_guard(layout), condition)
    )
    values = {"at_key": key, "at_born": token.born, "at_rev": token.rev}
    return statement.run(connection, values).rowcount == 1


def _given(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, None)  # a value to compile with; each run has its own


def by_key(layout: Layout) -> Any:
    """Return the query for the row called `at_key`."""
    return sa.select(*layout.columns).where(layout.table.c.record_key == _given("at_key"))


def _guard(layout: Layout) -> tuple[sa.ColumnElement[bool], ...]:
    columns = layout.table.c
    return (
        columns.record_key == _given("at_key"),
        columns.row_born == _given("at_born"),
        columns.row_rev == _given("at_rev"),
    )


def update_by_token(
    layout: Layout,
    names: Iterable[str],
    condition: sa.ColumnElement[bool],
    *,
    returning: bool = False,
) -> Any:
    """Return the update of the columns `names` of a row that still has its token."""
    values: dict[str, Any] = {name: _given(f"set_{name}") for name in names}
    statement = sa.update(layout.table).where(*_guard(layout), condition).values(values)
    return statement.returning(*layout.columns) if returning else statement
