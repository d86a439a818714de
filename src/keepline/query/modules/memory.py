"""Tables held in memory; they can be written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any

from keepline.errors import DataError, IntegrityError, ProgrammingError
from keepline.model import Principal
from keepline.query.module import PYTHON_TYPES, Change, ColumnInfo, Filter, Scan, TableInfo
from keepline.store.access import may_see_group

_BATCH = 1000

_Row = tuple[Any, ...]


@dataclass(slots=True)
class _Held:
    info: TableInfo
    # Replaced as a whole by every change, so that a scan reads one state of it.
    rows: tuple[_Row, ...]


class MemoryModule:
    """A module whose tables are lists of rows. Safe to use from several threads.

    Every column can be filtered, and assigned when it is not of the key. A row belongs to the
    group that a text column `group_name` names, and is seen by its members.
    """

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Return the name that queries call the module by."""
        return self._name

    def add_table(
        self,
        name: str,
        columns: Sequence[ColumnInfo],
        rows: Iterable[Sequence[Any]] = (),
        *,
        key: Sequence[str] = (),
    ) -> TableInfo:
        """Make a table, in place of one of the same name; return its form.

        Raises DataError for a value of another type than its column's, IntegrityError for a
        missing one or a key that comes twice.
        """
        usable = tuple(
            replace(column, filters="range", writable=column.name not in key) for column in columns
        )
        info = TableInfo(name, usable, tuple(key))
        held = tuple(_checked(info, tuple(row)) for row in rows)
        _check_keys(info, held)
        with self._lock:
            self._held[name] = _Held(info, held)
        return info

    def add_rows(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows, all or none; raises as `add_table`."""
        with self._lock:
            held = self._table(table)
            more = (*held.rows, *(_checked(held.info, tuple(row)) for row in rows))
            _check_keys(held.info, more)
            held.rows = more

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        """Return the tables, by name; they exist for everybody."""
        return [self._held[name].info for name in sorted(self._held)]

    def scan(self, scan: Scan) -> Iterator[list[_Row]]:
        """Yield the rows that the principal may see, in the order in which they were added.

        One scan sees one state of the table.
        """
        held = self._table(scan.table)
        rows = held.rows
        tests = _tests(held.info, scan.filters, scan.principal)
        columns = _positions(held.info, scan.columns)
        pick = None if columns == list(range(len(held.info.columns))) else _picker(columns)
        for start in range(0, len(rows), _BATCH):
            part: Iterable[_Row] = rows[start : start + _BATCH]
            for position, accepts in tests:
                part = [row for row in part if accepts(row[position])]
            batch = list(map(pick, part)) if pick else list(part)
            if batch:
                yield batch

    def update(self, change: Change) -> list[_Row]:
        """Assign values to the rows that meet the filters and that the principal may see.

        Raises DataError or IntegrityError for a value that the table cannot hold.
        """
        with self._lock:
            held = self._table(change.table)
            info = held.info
            tests = _tests(info, change.filters, change.principal)
            assigned = dict(
                zip(_positions(info, tuple(change.values)), change.values.values(), strict=True)
            )
            pick = _picker(_positions(info, change.columns))
            changed = []
            rows = list(held.rows)
            for number, row in enumerate(rows):
                if all(accepts(row[position]) for position, accepts in tests):
                    values = [assigned.get(place, value) for place, value in enumerate(row)]
                    rows[number] = _checked(info, tuple(values))
                    changed.append(pick(rows[number]))
            held.rows = tuple(rows)
        return changed

    def _table(self, name: str) -> _Held:
        held = self._held.get(name)
        if held is None:
            raise ProgrammingError(f"there is no table {self._name}.{name}")
        return held


def _positions(info: TableInfo, names: Sequence[str]) -> list[int]:
    places = {column.name: position for position, column in enumerate(info.columns)}
    try:
        return [places[name] for name in names]
    except KeyError as error:
        raise ProgrammingError(f"{info.name} has no column {error.args[0]}") from None


def _picker(positions: Sequence[int]) -> Callable[[_Row], _Row]:
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda row: tuple(row[position] for position in positions)


def _tests(
    info: TableInfo, filters: Sequence[Filter], principal: Principal
) -> list[tuple[int, Callable[[Any], bool]]]:
    positions = _positions(info, [each.column for each in filters])
    tests = [(position, each.accepts()) for position, each in zip(positions, filters, strict=True)]
    group = info.column("group_name")
    if group is not None and not principal.sees_all:
        (place,) = _positions(info, ["group_name"])
        tests.append((place, lambda name: may_see_group(name, principal)))
    return tests


def _checked(info: TableInfo, row: _Row) -> _Row:
    if len(row) != len(info.columns):
        raise DataError(f"a row of {info.name} has {len(info.columns)} values, not {len(row)}")
    for column, value in zip(info.columns, row, strict=True):
        if value is None:
            if not column.nullable:
                raise IntegrityError(f"{info.name}.{column.name} needs a value")
        elif type(value) is not PYTHON_TYPES[column.type]:
            raise DataError(f"{info.name}.{column.name} holds {column.type} only")
        elif isinstance(value, datetime) and value.tzinfo is None:
            raise DataError(f"{info.name}.{column.name} refuses a time without a zone")
    return row


def _check_keys(info: TableInfo, rows: Sequence[_Row]) -> None:
    if not info.key:
        return
    pick = _picker(_positions(info, info.key))
    if len({pick(row) for row in rows}) < len(rows):
        raise IntegrityError(f"a key of {info.name} comes twice")
