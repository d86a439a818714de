"""What differs between two declarations of a record type; nothing here asks a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from keepline.errors import DeclarationError
from keepline.model import Field, RecordType, SubTable

Named = TypeVar("Named", Field, SubTable)


@dataclass(frozen=True, slots=True)
class FieldPair:
    """A field that both declarations have, perhaps under another name or of another type."""

    old: Field
    new: Field

    @property
    def renamed(self) -> bool:
        return self.old.name != self.new.name

    @property
    def converted(self) -> bool:
        return self.old.type != self.new.type


@dataclass(frozen=True, slots=True)
class TableChange:
    """What becomes of a table that stays: the records' own (no sub-tables), or a sub-table's."""

    old_table: str
    new_table: str
    kept: tuple[FieldPair, ...]
    added: tuple[Field, ...]
    dropped: tuple[Field, ...]
    subtables: tuple[SubTable, SubTable] | None = None

    @property
    def place(self) -> str:
        """Return what stands before a field's name in a sentence about it."""
        return f"{self.subtables[1].name}." if self.subtables else ""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one declaration of a type becomes another one.

    `renames` maps former names to new ones, as `record_type_change` keeps them.
    """

    old: RecordType
    new: RecordType
    tables: tuple[TableChange, ...]
    added: tuple[SubTable, ...]
    dropped: tuple[SubTable, ...]
    renames: dict[str, str]


def difference(old: RecordType, new: RecordType) -> Difference:
    """Return how `old` becomes `new`.

    A field or sub-table is renamed when its `was` names one of the old declaration and its own
    name is new there; a `was` that is done with, or never was, means nothing. Raises
    DeclarationError, with every mistake, for a `was` that could mean two things.
    """
    mistakes: list[str] = []
    subtables = _pairs(old.subtables, new.subtables, "sub-table", mistakes)
    tables = [_table(old, new, None, mistakes)]
    tables += [_table(old, new, pair, mistakes) for pair in subtables]
    found = Difference(
        old,
        new,
        tuple(tables),
        _others(new.subtables, [pair[1] for pair in subtables]),
        _others(old.subtables, [pair[0] for pair in subtables]),
        _renames(tables),
    )
    mistakes += _ambiguous(found)
    if mistakes:
        raise DeclarationError([f"{new.name}: {mistake}" for mistake in mistakes])
    return found


def _table(
    old: RecordType,
    new: RecordType,
    pair: tuple[SubTable, SubTable] | None,
    mistakes: list[str],
) -> TableChange:
    was, now = pair or (old, new)
    kept = _pairs(was.fields, now.fields, "field", mistakes)
    return TableChange(
        old.subtable_name(pair[0]) if pair else old.table_name,
        new.subtable_name(pair[1]) if pair else new.table_name,
        tuple(FieldPair(*each) for each in kept),
        _others(now.fields, [each[1] for each in kept]),
        _others(was.fields, [each[0] for each in kept]),
        pair,
    )


def _pairs(
    old: Iterable[Named], new: Iterable[Named], what: str, mistakes: list[str]
) -> list[tuple[Named, Named]]:
    former, current = {each.name: each for each in old}, {each.name: each for each in new}
    pairs: dict[str, tuple[Named, Named]] = {}
    for each in current.values():
        name = each.name
        if each.was in former and each.was not in current:
            if name in former:
                mistakes.append(
                    f"the {what} {name} is there already, so {each.was} cannot become it; "
                    f"drop or rename {name} first, in a migration of its own"
                )
            name = each.was
        if name in pairs:
            mistakes.append(f"{pairs[name][1].name} and {each.name} both were the {what} {name}")
        if name in former:
            pairs[name] = former[name], each
    return list(pairs.values())


def _others(every: Iterable[Named], paired: list[Named]) -> tuple[Named, ...]:
    names = {each.name for each in paired}
    return tuple(each for each in every if each.name not in names)


def _renames(tables: Iterable[TableChange]) -> dict[str, str]:
    renames: dict[str, str] = {}
    for table in tables:
        was, now = "", ""
        if table.subtables:
            was, now = (f"{each.name}." for each in table.subtables)
            if was != now:
                renames[was[:-1]] = now[:-1]
        for pair in table.kept:
            if pair.renamed:
                renames[f"{was}{pair.old.name}"] = f"{now}{pair.new.name}"
    return renames


def _ambiguous(found: Difference) -> Iterable[str]:
    # A former name alone has to say whether a field had it, or a sub-table.
    fields = {field.name for field in found.old.fields}
    subtables = {subtable.name for subtable in found.old.subtables}
    for name in sorted(fields & subtables & found.renames.keys()):
        yield (
            f"both a field and a sub-table are called {name}, so that the history could not "
            "tell which of them is renamed; leave both names as they are"
        )
