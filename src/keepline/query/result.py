"""An answer on its way: what its columns are, and its rows, each taken once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from keepline.errors import InterfaceError, NotSupportedError
from keepline.query.module import ColumnType
from keepline.query.types import OF_COLUMN, STRING, TypeObject

if TYPE_CHECKING:
    import pyarrow

Batch = list[tuple[Any, ...]]

#: (name, type_code, display_size, internal_size, precision, scale, null_ok), as PEP 249 says.
ColumnDescription = tuple[str, TypeObject, None, None, int | None, int | None, bool | None]
Description = tuple[ColumnDescription, ...]


class Result:
    """The rows of one execute, from batches that are asked for as they are needed.

    `description` is None when there are no rows to take. `release` gives back what the batches
    come from; it is called at the end, after a failure, and by `close`. `arrow` gives the
    whole answer as an Arrow table, where it is in Arrow.
    """

    def __init__(
        self,
        description: Description | None,
        batches: Iterator[Batch],
        release: Callable[[], object] = lambda: None,
        *,
        rowcount: int = -1,
        arrow: Callable[[], pyarrow.Table] | None = None,
    ) -> None:
        self.description = description
        self.rowcount = rowcount
        self.number = 0
        self.close = release
        self._batches = batches
        self._arrow = arrow
        self._batch: Batch = []
        self._position = 0
        self._ended = False
        self._failure: Exception | None = None

    def one(self) -> tuple[Any, ...] | None:
        """Return the next row, or None after the last."""
        if self._position >= len(self._batch) and not self._more():
            return None
        row = self._batch[self._position]
        self._position += 1
        self.number += 1
        return row

    def take(self, wanted: int | None = None) -> Batch:
        """Return the next rows, at most `wanted`, or all of them."""
        taken: Batch = []
        while wanted is None or len(taken) < wanted:
            if self._position >= len(self._batch) and not self._more():
                break
            end = None if wanted is None else self._position + wanted - len(taken)
            part = self._batch[self._position : end]
            self._position += len(part)
            self.number += len(part)
            taken += part
        return taken

    def table(self) -> pyarrow.Table:
        """Return the whole answer as an Arrow table.

        Raises NotSupportedError when it is not in Arrow, InterfaceError when rows were taken.
        """
        if self._arrow is None:
            raise NotSupportedError("only the answer of SQL text can be had as Arrow")
        if self._batch or self._ended or self._failure is not None:
            raise InterfaceError("rows were fetched already; execute again to have them as Arrow")
        self._ended = True
        try:
            return self._arrow()
        finally:
            self.close()

    def _more(self) -> bool:
        """Take the next batch that is not empty; return whether there is one."""
        if self._failure is not None:
            raise self._failure  # a part must never be taken for the whole
        if self._ended:
            return False
        try:
            batch = next((batch for batch in self._batches if batch), None)
        except Exception as error:  # whatever it was, the answer is not complete
            self._failure = error
            self.close()
            raise
        self._batch, self._position = batch or [], 0
        self._ended = batch is None
        if self._ended:
            self.close()
        return not self._ended


def described(name: str, type_: ColumnType, *, nullable: bool) -> ColumnDescription:
    """Return the description of a module's column under a label."""
    return (name, OF_COLUMN[type_], None, None, None, None, nullable)


def literal_column(name: str) -> ColumnDescription:
    """Return the description of a literal field."""
    return (name, STRING, None, None, None, None, False)
