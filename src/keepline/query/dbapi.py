"""Connections and cursors, as PEP 249 describes them and the seed page extends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakSet

from keepline import errors
from keepline.errors import (
    InterfaceError,
    ModuleUnavailable,
    NotSupportedError,
    ProgrammingError,
)
from keepline.model import Principal
from keepline.query import executor, planner, sql
from keepline.query.catalog import Catalog
from keepline.query.module import QueryHost
from keepline.query.requests import Request, Row
from keepline.query.result import Description, Result
from keepline.store.current import Current, current

if TYPE_CHECKING:
    import pyarrow

SUCCESS = "SUCCESS"


def connect(
    username: str,
    *,
    instance: Current | None = None,
    print_callback: Callable[[str], None] | None = None,
) -> Connection:
    """Return a connection to the modules of an instance that sees what `username` may see.

    `print_callback` is called with each message that a cursor notes, as one line. Raises
    NoInstanceError, and InterfaceError when the instance has no query modules.
    """
    host = current(instance)
    if not isinstance(host, QueryHost):
        raise InterfaceError("this instance has no query modules: open it with open_instance")
    return Connection(username, print_callback, host=host)


class Connection:
    """A user's view of the modules; made by `connect`.

    Nothing is held open between executes. Leaving a `with` block closes the connection.
    """

    Warning: ClassVar = errors.Warning
    Error: ClassVar = errors.Error
    InterfaceError: ClassVar = errors.InterfaceError
    DatabaseError: ClassVar = errors.DatabaseError
    DataError: ClassVar = errors.DataError
    OperationalError: ClassVar = errors.OperationalError
    IntegrityError: ClassVar = errors.IntegrityError
    InternalError: ClassVar = errors.InternalError
    ProgrammingError: ClassVar = errors.ProgrammingError
    NotSupportedError: ClassVar = errors.NotSupportedError

    def __init__(
        self,
        username: str,
        print_callback: Callable[[str], None] | None = None,
        *,
        host: QueryHost,
    ) -> None:
        self.username = username
        self.print_callback = print_callback
        self._host = host
        self._principal = host.principal(username)
        self._cursors: WeakSet[Cursor] = WeakSet()
        self._closed = False
        self._wrote = False

    @property
    def principal(self) -> Principal:
        """Return who asks."""
        return self._principal

    def cursor(self, vr_name: str | None = None) -> Cursor:
        """Return a new cursor; several can be in use at once."""
        self._check_open()
        cursor = Cursor(self, vr_name)
        self._cursors.add(cursor)
        return cursor

    def commit(self) -> None:
        """Do nothing: a SET is final when its execute returns."""
        self._check_open()
        self._wrote = False

    def rollback(self) -> None:
        """Do nothing, when nothing was written since the last commit.

        Raises NotSupportedError otherwise, since a SET is final when its execute returns.
        """
        self._check_open()
        if self._wrote:
            raise NotSupportedError("what a SET has written cannot be rolled back")

    def close(self) -> None:
        """Close the connection and its cursors; closing it again does nothing."""
        self._closed = True
        for cursor in list(self._cursors):
            cursor.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("the connection is closed")

    def catalog(self) -> Catalog:
        """Return what exists for the user, to be looked up in one execute."""
        return Catalog(self._host.modules, self._principal)

    def note_written(self) -> None:
        """Remember that a cursor has written, for `rollback`."""
        self._wrote = True


class Cursor:
    """One request at a time, and its rows; made by `Connection.cursor`.

    `retries` is how often an execute is tried again when a module is unavailable, each time
    after at most `retry_timeout` seconds; it is never tried again once a row was there, nor
    when it writes. `arraysize` is how many rows `fetchmany` takes.
    """

    def __init__(self, connection: Connection, vr_name: str | None = None) -> None:
        self.retries = 0
        self.retry_timeout: float = 5
        self.vr_name = vr_name
        self.arraysize = 1
        self._connection = connection
        self._messages: list[tuple[type[Exception], Exception]] = []
        self._closed = False
        self._result: Result | None = None

    @property
    def connection(self) -> Connection:
        """Return the connection that the cursor belongs to."""
        return self._connection

    @property
    def messages(self) -> list[tuple[type[Exception], Exception]]:
        """Return what happened during the execute, as (class, exception); always one list."""
        return self._messages

    @property
    def description(self) -> Description | None:
        """Return seven items a column; None before an execute, and when it has no rows."""
        return self._result.description if self._result is not None else None

    @property
    def rowcount(self) -> int:
        """Return how many rows a SET changed; -1 for anything else."""
        return self._result.rowcount if self._result is not None else -1

    @property
    def rownumber(self) -> int | None:
        """Return the index of the next row, from 0; None when there are no rows to fetch."""
        if self._result is None or self._result.description is None:
            return None
        return self._result.number

    def execute(
        self,
        req_or_sql: Request | str,
        param_values: Mapping[Any, Any] | Sequence[Any] | None = None,
    ) -> Self:
        """Run a Request or the text of one SELECT, and be ready to fetch its rows.

        `param_values` of a Request map parameters (a Column, a tuple like one, a (table,
        column) pair of names, or a column's name when it is the only one) to values; those of
        SQL text are a sequence, one a ``?``. Times must have a zone. The first rows of a
        Request are asked for at once, so that what is wrong shows here.

        Raises InterfaceError for a request that is not complete, ProgrammingError for what
        does not exist, ModuleUnavailable when the retries are used up.
        """
        self._check_open()
        self._release()
        self._messages.clear()
        attempts = 0
        while True:
            try:
                self._result = self._run(req_or_sql, param_values)
                return self
            except ModuleUnavailable as error:
                self._note(error)
                writes = isinstance(req_or_sql, Request) and planner.is_set(req_or_sql)
                if writes or attempts >= self.retries:
                    raise
                attempts += 1
                error.when_ready(timeout=self.retry_timeout)

    def executemany(
        self,
        req_or_sql: Request | str,
        seq_of_param_values: Sequence[Mapping[Any, Any]],
    ) -> Self:
        """Run a SET once for each of several values; `rowcount` is their sum.

        Raises ProgrammingError for what gives rows to read. Earlier ones stay done when a
        later one fails.
        """
        self._check_open()
        if not isinstance(req_or_sql, Request) or not planner.is_set(req_or_sql):
            raise ProgrammingError("executemany is for a SET; use execute for what gives rows")
        changed = 0
        for values in seq_of_param_values:
            self.execute(req_or_sql, values)
            changed += max(0, self.rowcount)
        self._release()
        self._result = Result(None, iter(()), rowcount=changed)
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, or None after the last."""
        return self._fetchable().one()

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """Return at most `size` rows, `arraysize` when it is not given."""
        return self._fetchable().take(self.arraysize if size is None else size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all remaining rows.

        When a module fails on the way it raises, and the rows that were taken are lost.
        """
        return self._fetchable().take()

    def fetchrow(self) -> Row | None:
        """Return the next row as a Row, or None after the last."""
        result = self._fetchable()
        number = result.number
        values = result.one()
        if values is None:
            return None
        labels = (column[0] for column in result.description or ())
        return Row(number, SUCCESS, dict(zip(labels, values, strict=True)))

    def fetchrows(self) -> list[Row]:
        """Return all remaining rows as Rows."""
        return list(self.iterrow())

    def iterrow(self) -> Iterator[Row]:
        """Yield all remaining rows as Rows, as they come."""
        while (row := self.fetchrow()) is not None:
            yield row

    def fetch_arrow_table(self) -> pyarrow.Table:
        """Return the whole answer of SQL text as an Arrow table.

        Raises NotSupportedError for a Request, InterfaceError when rows were fetched before.
        """
        return self._fetchable().table()

    def next(self) -> tuple[Any, ...]:
        """Return the next row; raises StopIteration after the last."""
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    __next__ = next

    def __iter__(self) -> Self:
        """Return the cursor, which yields all remaining rows as they come."""
        return self

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Do nothing: values have their sizes."""
        self._check_open()

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Do nothing: columns have their sizes."""
        self._check_open()

    def close(self) -> None:
        """Close the cursor and release what it reads from; closing it again does nothing."""
        self._closed = True
        self._release()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, req_or_sql: Request | str, param_values: Any) -> Result:
        catalog = self._connection.catalog()
        if isinstance(req_or_sql, str):
            values = () if param_values is None else param_values
            return sql.execute(req_or_sql, values, catalog, self.vr_name)
        if not isinstance(req_or_sql, Request):
            raise ProgrammingError("execute takes a Request or the text of a SELECT")
        values = {} if param_values is None else param_values
        if not isinstance(values, Mapping):
            raise ProgrammingError("the parameters of a Request are a dictionary")
        vr_name = req_or_sql.vr_name or self.vr_name
        if planner.is_set(req_or_sql):
            return self._write(req_or_sql, values, catalog, vr_name)
        plan = planner.plan_get(req_or_sql, values, catalog)
        batches = executor.run(plan, catalog.principal, vr_name)
        # The first batch is taken here, so that what is wrong shows at once.
        first = next(batches, [])
        return Result(plan.description, chain([first], batches), batches.close)

    def _write(
        self, request: Request, values: Mapping[Any, Any], catalog: Catalog, vr_name: str | None
    ) -> Result:
        module, change, shown = planner.plan_set(request, values, catalog, vr_name)
        changed = module.update(change)
        self._connection.note_written()
        rows = executor.projection(shown)(changed) if shown.output else []
        return Result(shown.description or None, iter([rows]), rowcount=len(changed))

    def _note(self, error: Exception) -> None:
        self._messages.append((type(error), error))
        if self._connection.print_callback is not None:
            self._connection.print_callback(str(error))

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("the cursor is closed")

    def _fetchable(self) -> Result:
        self._check_open()
        if self._result is None:
            raise ProgrammingError("nothing to fetch: execute a request first")
        if self._result.description is None:
            raise ProgrammingError("nothing to fetch: the request gives no rows")
        return self._result

    def _release(self) -> None:
        result, self._result = self._result, None
        if result is not None:
            result.close()
