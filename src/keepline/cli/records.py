"""Commands about sessions of use and the records made of them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from keepline.cli.root import Json, app, open_here

sessions = typer.Typer(no_args_is_help=True, help="The log of who used which instrument when.")
records = typer.Typer(no_args_is_help=True, help="Look at records.")
app.add_typer(sessions, name="sessions")
app.add_typer(records, name="records")

Type = Annotated[str, typer.Option("--type", help="The record type.")]


@sessions.command("list")
def list_sessions(json: Json = False) -> None:
    """List the sessions of the log with their status."""
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        rows = pipeline.list_sessions(instance)
    if json:
        report.emit({"sessions": rows})
        return
    report.table(
        "Sessions", tuple(rows[0]) if rows else ("sessions",), ([*row.values()] for row in rows)
    )


@sessions.command()
def build(json: Json = False) -> None:
    """Build records of the sessions that are ready."""
    from dataclasses import asdict

    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        result = pipeline.build_records(instance)
    if json:
        report.emit(asdict(result))
        return
    report.say(f"{len(result.built)} records built.")
    for identifier, reason in [*result.failed, *result.waiting]:
        report.say(f"{identifier}: {reason}")
    for identifier in result.no_files:
        report.say(f"{identifier}: the archive holds no readings of it")


@records.command("list")
def list_records(type_: Type = "instrument_session", json: Json = False) -> None:
    """List the records of a type."""
    from keepline.app import pipeline
    from keepline.cli import report
    from keepline.render import record_value

    with open_here() as instance:
        images = list(pipeline.records(instance, type_))
    if json:
        report.emit({"records": [record_value(image) for image in images]})
        return
    fields = [field.name for field in images[0].type.fields] if images else []
    report.table(
        f"Records of type {type_}",
        ("key", "revision", *fields),
        ((i.key, i.revision, *(i.values[name] for name in fields)) for i in images),
    )


@records.command()
def show(
    key: Annotated[str, typer.Argument(help="The record's key.")],
    type_: Type = "instrument_session",
    _json: Annotated[bool, typer.Option("--json", help="The same: it is JSON anyway.")] = False,
) -> None:
    """Show one record with its sub-rows, as JSON."""
    from keepline.app import pipeline
    from keepline.render import record_json

    with open_here() as instance:
        image = pipeline.record(instance, type_, key)
    sys.stdout.write(record_json(image, indent=2) + "\n")
