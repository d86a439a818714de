"""Archived readings as a module: a row a reading, out of the compressed blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress, repeat
from typing import Any, Protocol

import sqlalchemy as sa

from keepline.errors import (
    CaptureError,
    DataError,
    InstanceError,
    ModuleUnavailable,
    OperationalError,
    ProgrammingError,
)
from keepline.model import DType, Principal, from_us, to_us
from keepline.query.module import ColumnInfo, Filter, Scan, TableInfo

_READING = TableInfo(
    "reading",
    (
        ColumnInfo("session", nullable=False, filters="equal"),
        ColumnInfo("source", nullable=False, filters="equal"),
        ColumnInfo("channel", nullable=False, filters="equal"),
        ColumnInfo("seq", "integer", nullable=False, filters="range"),
        ColumnInfo("taken_at", "datetime", nullable=False, filters="range"),
        ColumnInfo("value_real", "real"),
        ColumnInfo("value_integer", "integer"),
        ColumnInfo("value_boolean", "boolean"),
        ColumnInfo("value_text"),
        ColumnInfo("unit", filters="equal"),
    ),
    key=("session", "source", "channel", "seq"),
)

_VALUE_COLUMNS: dict[DType, str] = {
    "float64": "value_real",
    "int64": "value_integer",
    "bool": "value_boolean",
    "text": "value_text",
}

_BATCH = 1000


class ReadingRun(Protocol):
    """Consecutive readings of one channel; the lists are as long as each other.

    Times are UTC microseconds. No value is missing.
    """

    @property
    def session(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def channel(self) -> str: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def unit(self) -> str | None: ...
    @property
    def seqs(self) -> list[int]: ...
    @property
    def times_us(self) -> list[int]: ...
    @property
    def values(self) -> list[Any]: ...


class ReadingsSource(Protocol):
    """What the module needs of an archive."""

    def reading_runs(
        self,
        principal: Principal,
        *,
        sessions: Collection[str] | None = None,
        sources: Collection[str] | None = None,
        channels: Collection[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> Iterator[ReadingRun]:
        """Yield the readings that the principal may see, always in the same order.

        None means all. Runs lie near the range of times, from `start_us` to before `end_us`,
        but may go beyond it.
        """
        ...


class ReadingsModule:
    """The readings of an archive: the table `reading`.

    One of the columns `value_real`, `value_integer`, `value_boolean` and `value_text` has the
    value, as the channel's type says. Only the blocks that filters on session, source, channel
    and time leave are read, a few at a time. Safe to use from several threads as far as the
    source is.
    """

    def __init__(self, name: str, source: ReadingsSource) -> None:
        self._name = name
        self._source = source

    @property
    def name(self) -> str:
        """Return the name that queries call the module by."""
        return self._name

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        """Return the table; it exists for everybody."""
        return (_READING,)

    def scan(self, scan: Scan) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows by session, source and block, then channel by channel.

        Raises ModuleUnavailable when the store cannot be opened, OperationalError when it
        cannot be read.
        """
        if scan.table != _READING.name:
            raise ProgrammingError(f"there is no table {self._name}.{scan.table}")
        if any(_READING.column(name) is None for name in scan.columns):
            raise ProgrammingError(f"{scan.table} has no such column")
        if any(each.op == "null" and each.column != "unit" for each in scan.filters):
            return  # nothing but a unit is ever missing
        with self._translated():
            for run in self._source.reading_runs(
                scan.principal,
                sessions=_names(scan, "session"),
                sources=_names(scan, "source"),
                channels=_names(scan, "channel"),
                start_us=_bound(scan, (">", ">="), max),
                end_us=_bound(scan, ("<", "<="), min),
            ):
                yield from _batches(run, scan)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise DataError(f"module {self._name!r} cannot take a value: not Unicode") from error
        except InstanceError as error:
            raise ModuleUnavailable(self._name) from error
        except CaptureError as error:
            raise OperationalError(f"module {self._name!r} cannot be read: {error}") from error
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise ModuleUnavailable(self._name) from error
            # The database's own text may quote values, so it is not repeated.
            kind = type(error.orig).__name__
            raise OperationalError(f"module {self._name!r} cannot be read: {kind}") from error


def _names(scan: Scan, column: str) -> set[str] | None:
    """Return the names that the filters leave of a column of texts, or None for all."""
    found: set[str] | None = None
    for each in scan.filters:
        if each.column == column:
            asked = set(each.values)
            found = asked if found is None else found & asked
    return found


def _bound(scan: Scan, ops: tuple[str, str], tightest: Callable[[list[int]], int]) -> int | None:
    """Return how far the filters on the time reach: the first microsecond, or past the last."""
    bounds = []
    for each in scan.filters:
        if each.column != "taken_at":
            continue
        if each.op == "in":
            times = list(map(to_us, each.values))
            bounds.append(min(times) if tightest is max else max(times) + 1)
        elif each.op in ops:
            inclusive = each.op in (">=", "<")
            bounds.append(to_us(each.values[0]) + (0 if inclusive else 1))
    return tightest(bounds) if bounds else None


def _batches(run: ReadingRun, scan: Scan) -> Iterator[list[tuple[Any, ...]]]:
    chosen = _Chosen(run, scan.filters)
    if not chosen.count:
        return
    rows = list(zip(*(chosen.column(name) for name in scan.columns), strict=True))
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]


class _Chosen:
    """Those of a run's readings that meet every filter."""

    def __init__(self, run: ReadingRun, filters: Sequence[Filter]) -> None:
        self._run = run
        self._met: list[bool] | None = None
        self.count = len(run.seqs)
        for each in filters:
            accepts = _on_microseconds(each) if each.column == "taken_at" else each.accepts()
            if each.column == "seq":
                self._narrow(list(map(accepts, run.seqs)))
            elif each.column == "taken_at":
                self._narrow(list(map(accepts, run.times_us)))
            elif not accepts(getattr(run, each.column)):
                self.count = 0

    def _narrow(self, met: list[bool]) -> None:
        if self._met is not None:
            met = [one and other for one, other in zip(self._met, met, strict=True)]
        self._met = met
        self.count = min(self.count, sum(met))

    def column(self, name: str) -> list[Any]:
        """Return the values of one column of the table."""
        run = self._run
        if name == "seq":
            return self._of(run.seqs)
        if name == "taken_at":
            return list(map(from_us, self._of(run.times_us)))
        if name == _VALUE_COLUMNS[run.dtype]:
            return self._of(run.values)
        value = None if name in _VALUE_COLUMNS.values() else getattr(run, name)
        return list(repeat(value, self.count))

    def _of(self, values: list[Any]) -> list[Any]:
        return values if self._met is None else list(compress(values, self._met))


def _on_microseconds(asked: Filter) -> Callable[[Any], bool]:
    """Return a time's filter for microseconds, so that only what is asked for becomes a time."""
    return Filter(asked.column, asked.op, tuple(map(to_us, asked.values))).accepts()
