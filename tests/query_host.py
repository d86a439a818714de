"""What the query tests share: an instance of modules alone, and modules that misbehave."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keepline.errors import ModuleUnavailable
from keepline.model import Principal
from keepline.query.module import ColumnInfo, Module, Scan, TableInfo
from keepline.query.modules.memory import MemoryModule

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Host:
    """An instance that has nothing but query modules; `admin` sees everything."""

    modules: Mapping[str, Module]
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def principal(self, username: str) -> Principal:
        return Principal(
            username,
            groups=self.groups.get(username, frozenset()),
            sees_all=username == "admin",
        )


def host(*modules: Module, **groups: set[str]) -> Host:
    """Return an instance of these modules; keywords are users with their groups."""
    return Host(
        {module.name: module for module in modules},
        {user: frozenset(names) for user, names in groups.items()},
    )


def laboratory() -> MemoryModule:
    """Return a module of samples and of runs, with missing, duplicate and unmatched keys."""
    module = MemoryModule("lab")
    module.add_table(
        "sample",
        [
            ColumnInfo("id", "integer", nullable=False),
            ColumnInfo("name"),
            ColumnInfo("mass", "real"),
            ColumnInfo("owner"),
        ],
        [(1, "salt", 2.5, "ann"), (2, "sand", None, "ben"), (3, "soil", 7.0, None)],
        key=["id"],
    )
    module.add_table(
        "run",
        [
            ColumnInfo("number", "integer", nullable=False),
            ColumnInfo("sample", "integer"),
            ColumnInfo("kind"),
        ],
        [(10, 1, "heat"), (11, 1, "cool"), (12, 3, "heat"), (13, None, "heat"), (14, 9, "cool")],
        key=["number"],
    )
    module.add_table("person", [ColumnInfo("user"), ColumnInfo("room")], [("ann", "A1")])
    return module


class Counting:
    """Another module's tables, with each scan that reached it; it can refuse look-ups."""

    def __init__(self, inner: Module, *, look_ups: bool = True) -> None:
        self._inner = inner
        self._look_ups = look_ups
        self.scans: list[Scan] = []
        self.open = 0

    @property
    def name(self) -> str:
        return self._inner.name

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        found = self._inner.tables(principal)
        if self._look_ups:
            return found
        return [
            TableInfo(
                info.name,
                tuple(ColumnInfo(c.name, c.type, c.nullable) for c in info.columns),
                info.key,
            )
            for info in found
        ]

    def scan(self, scan: Scan) -> Iterator[Rows]:
        self.scans.append(scan)
        self.open += 1
        try:
            yield from self._inner.scan(scan)
        finally:
            self.open -= 1


class Flaky:
    """Another module's tables, unavailable for the first `failures` scans.

    With `after` a scan fails only when it has given so many batches.
    """

    def __init__(self, inner: Module, failures: int, *, after: int = 0) -> None:
        self._inner = inner
        self._left = failures
        self._after = after
        self.attempts = 0

    @property
    def name(self) -> str:
        return self._inner.name

    def tables(self, principal: Principal) -> Sequence[TableInfo]:
        return self._inner.tables(principal)

    def scan(self, scan: Scan) -> Iterator[Rows]:
        self.attempts += 1
        failing = self._left > 0
        self._left -= 1
        for number, batch in enumerate(self._inner.scan(scan)):
            if failing and number >= self._after:
                raise ModuleUnavailable(self.name)
            yield batch
