"""Three-way merge by field, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any

from keepline.model import FieldGroup
from keepline.records.values import same


class FieldState(StrEnum):
    """What happened to one field since both sides read the same base."""

    UNCHANGED = "unchanged"
    MINE = "mine"
    THEIRS = "theirs"
    AGREED = "agreed"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Merge:
    """The outcome of a merge: the state of every field and, without conflicts, the values.

    Where a field is in conflict `values` holds mine.
    """

    values: Mapping[str, Any] = field(repr=False)
    states: Mapping[str, FieldState]

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Return the fields that both sides changed to different values."""
        return self.fields_in(FieldState.CONFLICT)

    def fields_in(self, state: FieldState) -> tuple[str, ...]:
        """Return the fields in `state`, in the record's order."""
        return tuple(name for name, found in self.states.items() if found is state)


def merge(
    base: Mapping[str, Any],
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    groups: Iterable[FieldGroup] = (),
) -> Merge:
    """Merge two sets of changes of the same fields.

    A field that one side changed takes that side's value; one that both changed to the same
    value takes it; one that both changed to different values is a conflict. So is every field
    of a group that the two sides want to be different, when both changed something in the group.
    """
    states = {name: _state(base[name], mine[name], theirs[name]) for name in base}
    for group in groups:
        states |= _together({name: states[name] for name in group.fields if name in states})
    values = {
        name: theirs[name] if state is FieldState.THEIRS else mine[name]
        for name, state in states.items()
    }
    return Merge(values, states)


def together_with(groups: Iterable[FieldGroup], names: Collection[str]) -> set[str]:
    """Return the fields of all groups that one of `names` belongs to."""
    touched = (group.fields for group in groups if not set(group.fields).isdisjoint(names))
    return set(chain.from_iterable(touched))


def _together(states: Mapping[str, FieldState]) -> dict[str, FieldState]:
    """Return the states that change when one side's values are taken for all fields or none."""
    differing = (FieldState.MINE, FieldState.THEIRS, FieldState.CONFLICT)
    changed_by_us = any(s not in (FieldState.UNCHANGED, FieldState.THEIRS) for s in states.values())
    changed_by_them = any(s not in (FieldState.UNCHANGED, FieldState.MINE) for s in states.values())
    if not (changed_by_us and changed_by_them):
        return {}
    return {name: FieldState.CONFLICT for name, state in states.items() if state in differing}


def _state(base: Any, mine: Any, theirs: Any) -> FieldState:
    if same(mine, base):
        return FieldState.UNCHANGED if same(theirs, base) else FieldState.THEIRS
    if same(theirs, base):
        return FieldState.MINE
    return FieldState.AGREED if same(mine, theirs) else FieldState.CONFLICT
