"""Running a plan: a scan of the main table, and its rows joined page by page.

A table that can be looked up is asked for the distinct keys of a page, `bulk` at a time, and
what it answered is kept for the rest of the execute; another one is read once and hashed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from typing import Any

from keepline.model import Principal
from keepline.query.module import Filter, Module, Scan
from keepline.query.planner import Plan, Step
from keepline.query.result import Batch

#: Joined rows that a look-up join remembers before it forgets them and asks again.
_CACHE_ROWS = 100_000

_Row = tuple[Any, ...]


def run(plan: Plan, principal: Principal, vr_name: str | None) -> Generator[Batch]:
    """Yield the answer's rows, in the order of the main table's, in batches that are not empty.

    Nothing is asked before the first batch is taken. Raises what a module raises.
    """
    main, *others = plan.steps
    reader = _Reader(main, principal, vr_name)
    joins = [_join(_Reader(step, principal, vr_name), plan) for step in others]
    project = projection(plan)
    with reader.open() as batches:
        for batch in batches:
            for page in _pages(batch, plan.bulk) if joins else (batch,):
                rows = page
                for join in joins:
                    rows = join(rows)
                if rows:
                    yield project(rows)


def projection(plan: Plan) -> Callable[[Batch], Batch]:
    """Return what makes rows of fields from a batch of joined rows."""
    if not plan.literals and plan.output == tuple(range(sum(len(s.columns) for s in plan.steps))):
        return lambda rows: rows
    literals = plan.literals
    if len(plan.output) == 1:
        (only,) = plan.output
        return lambda rows: [((row + literals)[only],) for row in rows]
    pick: Callable[[_Row], _Row] = itemgetter(*plan.output)
    if not literals:
        return lambda rows: list(map(pick, rows))
    return lambda rows: [pick(row + literals) for row in rows]


@contextmanager
def opened(module: Module, scan: Scan) -> Iterator[Iterator[Batch]]:
    """Give the batches of a scan, and close the module's iterator at the end of the block."""
    batches = module.scan(scan)
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


class _Reader:
    """The scans of one step; what the module does not filter is checked here."""

    def __init__(self, step: Step, principal: Principal, vr_name: str | None) -> None:
        self.step = step
        self._principal = principal
        self._vr_name = vr_name

    @contextmanager
    def open(self, *keys: Filter) -> Iterator[Iterator[Batch]]:
        """Give the batches of one scan, narrowed by `keys`; the module's iterator is closed."""
        step = self.step
        taken = list(keys)
        checks = []
        for constant in step.constants:
            filter_ = constant.filter()
            if constant.column.filters == "none":
                checks.append((step.columns.index(filter_.column), filter_.accepts()))
            else:
                taken.append(filter_)
        scan = Scan(step.info.name, step.columns, self._principal, tuple(taken), self._vr_name)
        with opened(step.module, scan) as batches:
            yield _checked(batches, checks) if checks else batches


def _checked(
    batches: Iterator[Batch], checks: Sequence[tuple[int, Callable[[Any], bool]]]
) -> Iterator[Batch]:
    for batch in batches:
        rows = batch
        for position, accepts in checks:
            rows = [row for row in rows if accepts(row[position])]
        yield rows


class _Join(ABC):
    """What a joined table answered so far, by the values that its rows must equal."""

    def __init__(self, reader: _Reader, plan: Plan) -> None:
        step = reader.step
        self.reader = reader
        self.bulk = plan.bulk
        self.joins = step.joins
        self._own = _key_of([step.columns.index(column.name) for column, _ in step.joins])
        self._theirs = _key_of([position for _, position in step.joins])
        self._missing: list[_Row] = [(None,) * len(step.columns)] if plan.outer else []
        self.known: dict[Any, Batch] = {}
        self.size = 0

    def __call__(self, rows: Batch) -> Batch:
        """Return the rows, each with every row that fits it; the order is kept."""
        self.prepare(rows)
        known, theirs, missing = self.known, self._theirs, self._missing
        return [row + more for row in rows for more in known.get(theirs(row), missing)]

    @abstractmethod
    def prepare(self, rows: Batch) -> None:
        """Ask for what `rows` need and is not known yet."""

    def learn(self, rows: Batch) -> None:
        """Keep the joined table's rows; one without a key, or with NaN in it, equals nothing."""
        known, own = self.known, self._own
        for row in rows:
            key = own(row)
            if _comparable(key):
                known.setdefault(key, []).append(row)
        self.size += len(rows)


class _HashJoin(_Join):
    """Reads the whole table when the first rows come."""

    _read = False

    def prepare(self, rows: Batch) -> None:
        if self._read or not rows:
            return
        with self.reader.open() as batches:
            for batch in batches:
                self.learn(batch)
        self._read = True


class _LookUpJoin(_Join):
    """Asks for the keys of each page, by the first column that the module looks up."""

    def __init__(self, reader: _Reader, plan: Plan) -> None:
        super().__init__(reader, plan)
        self._column, self._position = next(
            (column, position) for column, position in self.joins if column.filters != "none"
        )
        self._asked: set[Any] = set()

    def prepare(self, rows: Batch) -> None:
        if self.size > _CACHE_ROWS:
            self.known.clear()
            self._asked.clear()
            self.size = 0
        position, asked = self._position, self._asked
        # A dict keeps the order of the rows, so that the calls are the same every time.
        wanted = dict.fromkeys(row[position] for row in rows)
        keys = [key for key in wanted if key not in asked and _comparable(key)]
        for part in _pages(keys, self.bulk):
            values = tuple(self._typed(part))
            if values:
                with self.reader.open(Filter(self._column.name, "in", values)) as batches:
                    self.learn(list(chain.from_iterable(batches)))
            asked.update(part)

    def _typed(self, keys: Sequence[Any]) -> Iterator[Any]:
        """Yield number keys as the column's own type; those that it cannot hold match nothing."""
        for key in keys:
            if self._column.type == "real":
                yield float(key)
            elif self._column.type == "integer" and isinstance(key, float):
                if key.is_integer() and abs(key) < 2**63:
                    yield int(key)
            else:
                yield key


def _join(reader: _Reader, plan: Plan) -> _Join:
    can_look_up = any(column.filters != "none" for column, _ in reader.step.joins)
    return _LookUpJoin(reader, plan) if can_look_up else _HashJoin(reader, plan)


def _comparable(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_comparable, key))
    return key is not None and key == key


def _key_of(positions: Sequence[int]) -> Callable[[_Row], Any]:
    return itemgetter(*positions)


def _pages(rows: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
