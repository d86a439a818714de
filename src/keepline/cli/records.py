"""Commands about sessions of use and the records made of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepline.cli.root import Json, app, open_here

if TYPE_CHECKING:
    from keepline.records.revisions import Change, Differences, Revision

sessions = typer.Typer(no_args_is_help=True, help="The log of who used which instrument when.")
records = typer.Typer(no_args_is_help=True, help="Records: look, edit, import, take along.")
app.add_typer(sessions, name="sessions")
app.add_typer(records, name="records")

Type = Annotated[str, typer.Option("--type", help="The record type.")]
Key = Annotated[str, typer.Argument(help="The record's key.")]
Reason = Annotated[str | None, typer.Option(help="Why; it is kept in the history.")]


#: The digest of a file that was imported, of which a table shows the first digits.
_DIGEST = re.compile(r"^(import )sha256:([0-9a-f]{8})[0-9a-f]{56}")


def counted(records: int) -> str:
    """Return how many records, in words."""
    return "1 record" if records == 1 else f"{records} records"


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
    report.say(f"{counted(len(result.built))} built.")
    for identifier, reason in [*result.failed, *result.waiting]:
        report.say(f"{identifier}: {reason}")
    for identifier in result.no_files:
        report.say(f"{identifier}: the archive holds no readings of it")


@records.command("list")
def list_records(type_: Type = "instrument_session", json: Json = False) -> None:
    """List the records of a type, with their summaries."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        images = list(records_app.records(instance, type_))
    shown = [records_app.shown(image) for image in images]
    if json:
        report.emit({"records": shown})
        return
    fields = [field.name for field in images[0].type.fields] if images else []
    summaries = list(dict.fromkeys(name for each in shown for name in each.get("summaries", ())))
    report.table(
        f"Records of type {type_}",
        ("key", "revision", *summaries, *fields),
        (
            (
                image.key,
                image.revision,
                *(each.get("summaries", {}).get(name) for name in summaries),
                *(image.values[name] for name in fields),
            )
            for image, each in zip(images, shown, strict=True)
        ),
    )


@records.command()
def show(
    key: Key,
    type_: Type = "instrument_session",
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As it was then: ISO 8601 with an offset or Z."),
    ] = None,
    _json: Annotated[bool, typer.Option("--json", help="The same: it is JSON anyway.")] = False,
) -> None:
    """Show one record with its sub-rows, as JSON."""
    from keepline.app import records as records_app
    from keepline.render.json import dumps

    moment = None if at is None else _moment(at)
    with open_here() as instance:
        image = records_app.record(instance, type_, key, moment)
    sys.stdout.write(dumps(records_app.shown(image), indent=2) + "\n")


@records.command()
def history(key: Key, type_: Type = "instrument_session", json: Json = False) -> None:
    """Show who changed a record, when, why, and what."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        found = records_app.revisions(instance, type_, key)
    if json:
        report.emit({"revisions": [_revision(each) for each in found]})
        return
    report.table(
        f"History of {type_}/{key} (times are UTC)",
        ("revision", "what", "who", "when", "why", "changed"),
        (
            (
                each.number,
                each.op,
                each.who or "went around keepline",
                each.at,
                _short(each.why),
                "erased" if each.erased else _names(each),
            )
            for each in found
        ),
    )


@records.command()
def diff(
    key: Key,
    older: Annotated[
        int | None, typer.Argument(metavar="[REV", help="A revision; the one before if left out.")
    ] = None,
    newer: Annotated[
        int | None, typer.Argument(metavar="[REV]]", help="Another; the latest if left out.")
    ] = None,
    type_: Type = "instrument_session",
    json: Json = False,
) -> None:
    """Show what differs between two revisions of a record."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        first, last, found = records_app.differences(instance, type_, key, older, newer)
    if json:
        report.emit({"older": first, "newer": last, **_differences(found)})
        return
    rows = [(name, each.before, each.after) for name, each in found.fields.items()]
    for row in found.subrows:
        rows += [
            (f"{row.subtable}[{row.key}].{name}", each.before, each.after)
            for name, each in row.fields.items()
        ] or [(f"{row.subtable}[{row.key}]", None, row.op)]
    report.table(f"{type_}/{key}", ("field", f"revision {first or '–'}", f"revision {last}"), rows)


def _moment(text: str) -> datetime:
    from keepline.errors import RecordError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        day = text if len(text) == 10 and moment is not None else "2026-03-02"
        raise RecordError(
            f"--at takes a time with its zone, such as {day}T10:00:00Z; "
            f"{day}T23:59:59Z is the end of that day in UTC"
        )
    return moment


def _short(why: str | None) -> str | None:
    return why and _DIGEST.sub(r"\1\2", why)


def _revision(found: Revision) -> dict[str, Any]:
    return {
        "revision": found.number,
        "op": found.op,
        "who": found.who,
        "at": found.at,
        "why": found.why,
        "erased": found.erased,
        **_differences(found),
    }


def _differences(found: Revision | Differences) -> dict[str, Any]:
    return {
        "fields": _changes(found.fields),
        "subrows": [
            {
                "subtable": each.subtable,
                "key": each.key,
                "op": each.op,
                "fields": _changes(each.fields),
            }
            for each in found.subrows
        ],
    }


def _changes(fields: Mapping[str, Change]) -> Any:
    from keepline.render.json import plain

    return plain(
        {name: {"before": each.before, "after": each.after} for name, each in fields.items()}
    )


def _names(found: Revision) -> str:
    rows = (f"{each.subtable}[{each.key}]" for each in found.subrows)
    return ", ".join([*found.fields, *rows])
