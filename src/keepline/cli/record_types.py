"""Commands about record types: what is declared, and making a store so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from keepline.cli.records import records
from keepline.cli.root import Json, open_here

if TYPE_CHECKING:
    from keepline.app.record_types import TypeMigration
    from keepline.model import Field

types = typer.Typer(no_args_is_help=True, help="What kinds of records there are.")
records.add_typer(types, name="types")


@types.command("list")
def list_types(json: Json = False) -> None:
    """List the record types that are applied or available."""
    from dataclasses import asdict

    from keepline.app import record_types
    from keepline.cli import report

    with _all_mistakes(), open_here() as instance:
        listed = record_types.list_types(instance)
    if json:
        report.emit({"types": [asdict(each) for each in listed]})
        return
    report.table(
        "Record types",
        ("name", "state", "declared by", "comment"),
        ((each.name, each.state, each.origin or None, each.comment) for each in listed),
    )


@types.command()
def show(name: Annotated[str, typer.Argument(help="The record type.")], json: Json = False) -> None:
    """Show the fields and rules of a record type."""
    from keepline.app import record_types
    from keepline.cli import report

    with _all_mistakes(), open_here() as instance:
        declared = record_types.show_type(instance, name)
    if json:
        report.emit(declared.to_json())
        return
    report.say(f"{declared.name}: {declared.comment or 'no comment'}")
    flags = ("subject", "anonymous", "finalised", "reason_required")
    said = [flag for flag in flags if getattr(declared, flag)]
    if said:
        report.say(f"flags: {', '.join(said)}")
    if declared.summaries:
        report.say(f"summaries: {', '.join(declared.summaries)}")
    for group in declared.groups:
        report.say(f"group {group.name}: {', '.join(group.fields)}")
    report.table("Fields", _COLUMNS, map(_row, declared.fields))
    for subtable in declared.subtables:
        title = f"Rows of {subtable.name}, by {subtable.key}"
        report.table(title, _COLUMNS, map(_row, subtable.fields))


_COLUMNS = ("name", "type", "unit", "rules", "comment")


def _row(field: Field) -> tuple[str | None, ...]:
    rules = ["required"] if field.required else []
    rules += [] if field.updatable else ["not editable"]
    rules += ["one of " + ", ".join(map(str, field.choices))] if field.choices else []
    for word, value in (("from", field.minimum), ("to", field.maximum), ("<=", field.max_bytes)):
        rules += [] if value is None else [f"{word} {value:g}"]
    rules += [f"{code} {meaning}" for code, meaning in field.missing]
    return (
        field.name,
        field.type,
        field.unit,
        "; ".join(rules) or None,
        field.comment or None,
    )


@types.command()
def migrate(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE...]",
            help="TOML files, or names of available types; else the instance's own and those "
            "that are applied.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    allow_data_loss: Annotated[
        bool, typer.Option("--allow-data-loss", help="Make steps that lose values or rows, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Make the store's record types what is declared."""
    from keepline.app import record_types
    from keepline.app.records import me
    from keepline.cli import report

    with _all_mistakes(), open_here() as instance:
        made = record_types.migrate_types(
            instance,
            wanted or (),
            principal=me(instance),
            dry_run=dry_run,
            allow_data_loss=allow_data_loss,
        )
        without = [] if wanted else record_types.undeclared(instance)
    if json:
        report.emit({"migrations": [each.to_json() for each in made], "undeclared": without})
    else:
        _show(made, dry_run=dry_run)
        for name in without:
            report.say(f"{name} is applied and no file declares it; its records stay.")
    for each in made:
        for mistake in each.mistakes:
            report.warn(mistake)
    if any(each.mistakes for each in made):
        raise typer.Exit(2)


def _show(made: list[TypeMigration], *, dry_run: bool) -> None:
    from keepline.cli import report

    if not made:
        report.say("Every record type is as declared.")
    for each in made:
        state = "done" if each.done else "not done"
        if dry_run:
            state = "would be refused" if each.mistakes else "would be done"
        report.say(f"{each.plan.declared.name} ({state}):")
        for step in each.plan.steps:
            report.say(f"  {step}")


@contextmanager
def _all_mistakes() -> Iterator[None]:
    """Say each mistake of a declaration on a line of its own."""
    from keepline.cli import report
    from keepline.errors import DeclarationError

    try:
        yield
    except DeclarationError as error:
        for mistake in error.mistakes:
            report.warn(mistake)
        raise typer.Exit(2) from None
