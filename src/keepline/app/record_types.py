"""The record types of an instance: what is applied, what is declared, and migrating to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepline.app.instance import Instance
from keepline.errors import DeclarationError, UnknownRecordTypeError
from keepline.model import Principal, RecordType
from keepline.records.declarations import available, read
from keepline.records.type_changes import migrate_type, plan_type, refusals
from keepline.records.type_plan import TypePlan
from keepline.records.types import load_types


@dataclass(frozen=True, slots=True)
class ListedType:
    """A record type: `state` is applied, changed (declared otherwise by now) or available."""

    name: str
    state: str
    origin: str
    comment: str


@dataclass(frozen=True, slots=True)
class TypeMigration:
    """What was done, or would be, to one record type; `mistakes` say why it was not."""

    plan: TypePlan
    done: bool
    mistakes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "record_type": self.plan.declared.name,
            "done": self.done,
            "steps": [
                {"step": step.sentence, "lost": step.lost, "refused": step.refused or None}
                for step in self.plan.steps
            ],
            "mistakes": list(self.mistakes),
        }


def list_types(instance: Instance) -> list[ListedType]:
    """Return every type that is applied or can be, by name.

    Raises DeclarationError with every mistake in the instance's declarations.
    """
    with instance.store.read() as connection:
        applied = load_types(connection)
    found = available(types_folder(instance))
    listed = []
    for name in sorted(applied.keys() | found.keys()):
        declared = found[name].declared if name in found else applied[name]
        state = "available" if name not in applied else "applied"
        if state == "applied" and declared != applied[name]:
            state = "changed"
        origin = found[name].origin if name in found else ""
        listed.append(ListedType(name, state, origin, declared.comment))
    return listed


def show_type(instance: Instance, name: str) -> RecordType:
    """Return a type as it is applied, else as it is declared.

    Raises UnknownRecordTypeError, naming those that there are.
    """
    with instance.store.read() as connection:
        applied = load_types(connection)
    found = {
        each.declared.name: each.declared for each in available(types_folder(instance)).values()
    }
    known = found | applied
    if name not in known:
        there = ", ".join(sorted(known))
        raise UnknownRecordTypeError(f"no record type {name!r}; there are: {there}")
    return known[name]


def migrate_types(
    instance: Instance,
    wanted: Sequence[str] = (),
    *,
    principal: Principal,
    dry_run: bool = False,
    allow_data_loss: bool = False,
) -> list[TypeMigration]:
    """Make the store's record types what their declarations say, each in its own transaction.

    `wanted` are TOML files, or names of types that are available; without them those of the
    instance's folder, and those of plug-ins that are applied. A refused one does not stop the
    others. Types that are already so are left out. A dry run tells what would be refused.
    Raises DeclarationError for files that declare nothing valid, before anything is changed.
    """
    migrations = []
    for declared in _wanted(instance, wanted):
        with instance.store.read() as connection:
            plan = plan_type(connection, declared)
        if not plan.steps:
            continue
        if dry_run:
            mistakes = refusals(plan, allow_data_loss=allow_data_loss)
            migrations.append(TypeMigration(plan, done=False, mistakes=tuple(mistakes)))
            continue
        try:
            plan = migrate_type(
                instance.store, declared, principal, allow_data_loss=allow_data_loss
            )
        except DeclarationError as error:
            migrations.append(TypeMigration(plan, done=False, mistakes=error.mistakes))
        else:
            migrations.append(TypeMigration(plan, done=True))
    return migrations


def undeclared(instance: Instance) -> list[str]:
    """Return the applied types that nothing declares, by name: their files may be gone.

    Raises DeclarationError with every mistake in the instance's declarations.
    """
    with instance.store.read() as connection:
        applied = load_types(connection)
    return sorted(applied.keys() - available(types_folder(instance)).keys())


def _wanted(instance: Instance, wanted: Sequence[str]) -> list[RecordType]:
    folder = types_folder(instance)
    if not wanted:
        with instance.store.read() as connection:
            applied = load_types(connection)
        return [
            found.declared
            for name, found in sorted(available(folder).items())
            if name in applied or Path(found.origin).parent == folder
        ]
    declared: list[RecordType] = []
    mistakes: list[str] = []
    for each in wanted:
        try:
            if each.endswith(".toml") or Path(each).exists():
                declared.append(read(Path(each)))
                continue
        except DeclarationError as error:
            mistakes += error.mistakes
            continue
        known = available(folder)
        if each in known:
            declared.append(known[each].declared)
        else:
            mistakes.append(
                f"{each} is neither a TOML file nor an available type; "
                f"there are: {', '.join(sorted(known))}"
            )
    if mistakes:
        raise DeclarationError(mistakes)
    return declared


def types_folder(instance: Instance) -> Path:
    """Return where an instance's own declarations lie."""
    return instance.folder / instance.settings.records.types
