"""What exists for one principal: modules, their tables, their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keepline.errors import ProgrammingError
from keepline.model import Principal
from keepline.query.module import Module, TableInfo
from keepline.query.requests import Table


class Catalog:
    """The tables that a principal can name, asked of their modules once an execute.

    What a principal may not see does not exist: the error is the same.
    """

    def __init__(self, modules: Mapping[str, Module], principal: Principal) -> None:
        self.principal = principal
        self._modules = modules
        self._tables: dict[str, dict[str, TableInfo]] = {}

    def find(self, table: Table) -> tuple[Module, TableInfo]:
        """Return a table's module and form; raises ProgrammingError when there is no such table."""
        info = self._of_module(table.module_name).get(table.table_name)
        if info is None:
            raise ProgrammingError(f"there is no table {table}")
        return self._modules[table.module_name], info

    def match(self, module_name: str, table_name: str) -> Table:
        """Return the table that SQL text names, whatever the case of its letters.

        Raises ProgrammingError when none, or more than one, is called so.
        """
        found = [
            Table(module, table)
            for module in _like(module_name, list(self._modules))
            for table in _like(table_name, list(self._of_module(module)))
        ]
        if not found:
            raise ProgrammingError(f"there is no table {Table(module_name, table_name)}")
        if len(found) > 1:
            raise ProgrammingError(f"{Table(module_name, table_name)} may be any of several tables")
        return found[0]

    def _of_module(self, name: str) -> dict[str, TableInfo]:
        known = self._tables.get(name)
        if known is None:
            module = self._modules.get(name)
            known = {info.name: info for info in module.tables(self.principal)} if module else {}
            self._tables[name] = known
        return known


def _like(name: str, names: Sequence[str]) -> list[str]:
    if name in names:
        return [name]
    return [each for each in names if each.lower() == name.lower()]
