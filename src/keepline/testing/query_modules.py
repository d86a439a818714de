"""What every query module must hold.

A plug-in's author runs the suite with pytest::

    class TestMyModule(QueryModuleConformance):
        def module(self, folder): ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from keepline.errors import ProgrammingError
from keepline.model import Principal
from keepline.query.module import PYTHON_TYPES, ColumnInfo, Filter, Module, Scan, TableInfo

_Row = tuple[Any, ...]


class QueryModuleConformance:
    """The tests; a subclass says how a module with some rows in its tables is made."""

    def module(self, folder: Path) -> Module:
        """Return a module; at least one of its tables has rows for `principal`."""
        raise NotImplementedError

    def principal(self) -> Principal:
        """Return who asks."""
        return Principal.system("conformance")

    def test_tables_are_well_formed(self, tmp_path: Path) -> None:
        """Names differ, keys are columns that are never missing, some table has rows."""
        module = self.module(tmp_path)
        tables = module.tables(self.principal())
        names = [info.name.lower() for info in tables]
        _same(sorted(names), sorted(set(names)), "table names, whatever their case")
        for info in tables:
            _true(info.columns, f"{info.name} has columns")
            for name in info.key:
                _true(not _column(info, name).nullable, f"key {info.name}.{name} has a value")
        _true(any(self._rows(module, info) for info in tables), "some table has rows")

    def test_values_have_the_declared_types(self, tmp_path: Path) -> None:
        """Each value is of its column's Python type, or missing where that is declared."""
        for _module, info, rows in self._all(tmp_path):
            for position, column in enumerate(info.columns):
                for row in rows:
                    _check_value(info, column, row[position])

    def test_keys_identify_rows(self, tmp_path: Path) -> None:
        """No two rows have the same key."""
        for _module, info, rows in self._all(tmp_path):
            places = [_place(info, name) for name in info.key]
            keys = [tuple(row[place] for place in places) for row in rows]
            if places:
                _same(len(set(keys)), len(keys), f"different keys of {info.name}")

    def test_scan_gives_the_columns_that_are_asked(self, tmp_path: Path) -> None:
        """Any choice of columns, in any order, is that part of the whole rows."""
        for module, info, rows in self._all(tmp_path):
            names = [column.name for column in info.columns]
            for chosen in (names[::-1], names[:1], names[-1:], names[1:2] * 2):
                places = [names.index(name) for name in chosen]
                expected = [tuple(row[place] for place in places) for row in rows]
                if chosen:
                    found = self._rows(module, info, columns=chosen)
                    _same(found, expected, f"{info.name}: {chosen}")

    def test_scan_is_repeatable(self, tmp_path: Path) -> None:
        """The same rows come in the same order."""
        for module, info, rows in self._all(tmp_path):
            _same(self._rows(module, info), rows, f"{info.name} again")

    def test_filters_are_exact(self, tmp_path: Path) -> None:
        """A filter that a column takes gives the rows that meet it, all and no others."""
        for module, info, rows in self._all(tmp_path):
            for place, column in enumerate(info.columns):
                for filter_ in _filters(column, [row[place] for row in rows]):
                    accepts = filter_.accepts()
                    expected = [row for row in rows if accepts(row[place])]
                    found = self._rows(module, info, filters=[filter_])
                    _same(found, expected, f"{info.name}: {filter_.op} on {column.name}")

    def test_filters_are_all_met(self, tmp_path: Path) -> None:
        """Filters on several columns narrow one another."""
        for module, info, rows in self._all(tmp_path):
            taken = [column for column in info.columns if column.filters != "none"]
            # Values of one row, and of two rows in turns, which seldom meet in any.
            for pair in [*zip(rows[:3], rows[:3], strict=True), *pairwise(rows[:4])]:
                filters = [
                    _equal(column, pair[number % 2][_place(info, column.name)])
                    for number, column in enumerate(taken)
                ]
                tests = [(_place(info, each.column), each.accepts()) for each in filters]
                expected = [
                    row for row in rows if all(accepts(row[place]) for place, accepts in tests)
                ]
                found = self._rows(module, info, filters=filters)
                _same(found, expected, f"{info.name}: {filters}")

    def test_scan_can_be_left(self, tmp_path: Path) -> None:
        """A scan that is closed early leaves the module usable."""
        for module, info, rows in self._all(tmp_path):
            for _ in range(30):
                scan: Any = module.scan(self._scan(info, _names(info), ()))
                with closing(scan):
                    next(scan, None)
            _same(self._rows(module, info), rows, f"{info.name} after scans were left")

    def test_scans_can_overlap(self, tmp_path: Path) -> None:
        """Two scans at once each give every row."""
        for module, info, rows in self._all(tmp_path):
            first: Any = module.scan(self._scan(info, _names(info), ()))
            with closing(first):
                begun: list[_Row] = next(first, [])
                _same(self._rows(module, info), rows, f"{info.name} meanwhile")
                whole = [*begun, *(row for batch in first for row in batch)]
            _same(whole, rows, f"{info.name} scanned slowly")

    def test_what_is_not_there_is_refused(self, tmp_path: Path) -> None:
        """A table that does not exist raises ProgrammingError."""
        module = self.module(tmp_path)
        missing = TableInfo("no_such_table", (ColumnInfo("x"),))
        try:
            self._rows(module, missing)
        except ProgrammingError:
            return
        raise AssertionError("a table that does not exist was scanned")

    def _all(self, folder: Path) -> Iterator[tuple[Module, TableInfo, list[_Row]]]:
        module = self.module(folder)
        for info in module.tables(self.principal()):
            yield module, info, self._rows(module, info)

    def _scan(self, info: TableInfo, columns: Sequence[str], filters: Sequence[Filter]) -> Scan:
        return Scan(info.name, tuple(columns), self.principal(), tuple(filters))

    def _rows(
        self,
        module: Module,
        info: TableInfo,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Filter] = (),
    ) -> list[_Row]:
        scan = self._scan(info, columns or _names(info), filters)
        return [row for batch in module.scan(scan) for row in batch]


def _filters(column: ColumnInfo, values: Sequence[Any]) -> Iterator[Filter]:
    """Yield the filters that a column takes, around the values that it has."""
    if column.filters == "none":
        return
    present = sorted({value for value in values if value is not None and value == value})
    absent = _absent(column)
    yield Filter(column.name, "null")
    yield Filter(column.name, "in", (absent,))
    yield Filter(column.name, "in", (absent, *present[:200]))
    for value in present[:: max(1, len(present) // 3)]:
        yield Filter(column.name, "in", (value,))
        if column.filters == "range":
            yield from (Filter(column.name, op, (value,)) for op in ("<", "<=", ">", ">="))


def _absent(column: ColumnInfo) -> Any:
    return {
        "text": "no such text ' \" \\ %_ é",
        "integer": -(2**62) - 1,
        "real": math.pi * 1e200,
        "boolean": True,
        "date": date(1905, 6, 7),
        "datetime": datetime(1905, 6, 7, 8, 9, 10, 11, tzinfo=UTC),
        "json": '"no such JSON"',
        "binary": b"\x00no such bytes",
    }[column.type]


def _equal(column: ColumnInfo, value: Any) -> Filter:
    if value is None or value != value:
        return Filter(column.name, "null")
    return Filter(column.name, "in", (value,))


def _check_value(info: TableInfo, column: ColumnInfo, value: Any) -> None:
    name = f"{info.name}.{column.name}"
    if value is None:
        _true(column.nullable, f"{name} may be missing")
        return
    _same(type(value), PYTHON_TYPES[column.type], f"the type of {name}")
    if isinstance(value, datetime):
        _same(value.utcoffset(), timedelta(0), f"the zone of {name}")
    if column.type == "integer":
        _true(-(2**63) <= value < 2**63, f"{name} has 64 bits")


def _column(info: TableInfo, name: str) -> ColumnInfo:
    return info.columns[_place(info, name)]


def _place(info: TableInfo, name: str) -> int:
    return _names(info).index(name)


def _names(info: TableInfo) -> list[str]:
    return [column.name for column in info.columns]


def _true(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(f"it must hold that {what}")


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")
