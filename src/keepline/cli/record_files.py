"""Commands that take records in from files, and along in bundles."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepline.cli.records import Reason, counted, records
from keepline.cli.root import Json, open_here

if TYPE_CHECKING:
    from keepline.records.checkins import CheckInReport
    from keepline.records.importing import ImportReport

proposals = typer.Typer(no_args_is_help=True, help="Values that wait for a decision.")
records.add_typer(proposals, name="proposals")

TypeName = Annotated[str, typer.Option("--type", help="The record type.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything, and take it back.")]
Numbers = Annotated[list[int], typer.Argument(metavar="ID...", help="The proposals' numbers.")]


@records.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="The first line names columns.")],
    type_: TypeName,
    key: Annotated[
        str | None, typer.Option(help="The column of the keys; else record_key or key.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=FIELD", help="COLUMN= leaves the column out."),
    ] = None,
    delimiter: Annotated[str, typer.Option(help="What separates the cells; tab for one.")] = ",",
    encoding: Annotated[str, typer.Option(help="A byte order mark goes before it.")] = "utf-8",
    tz: Annotated[
        str | None, typer.Option(help="The IANA zone of times without an offset.")
    ] = None,
    date_format: Annotated[
        str | None, typer.Option(help="Such as %d.%m.%Y; else ISO 8601.")
    ] = None,
    time_format: Annotated[
        str | None, typer.Option(help="Such as '%d.%m.%Y %H:%M'; else ISO 8601.")
    ] = None,
    decimal: Annotated[str, typer.Option(help="The point or the comma of numbers.")] = ".",
    true: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Says true, too; may be repeated.")
    ] = None,
    false: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Says false, too; may be repeated.")
    ] = None,
    update: Annotated[
        bool,
        typer.Option("--update/--insert-only", help="Whether records that are there change."),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over what people edited, too.")
    ] = False,
    group: Annotated[
        str | None, typer.Option(help="The group of new records; everybody's when not given.")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="The file for rejected rows; else beside FILE.")
    ] = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Import a CSV file into records, typed, safe to repeat.

    A row's key says which record it is about. A field that somebody edited since the last
    import is not overwritten: the cell is kept as a proposal. The exit status is 1 when rows
    were rejected.
    """
    from keepline.app import records as records_app
    from keepline.cli import report
    from keepline.records.csv_rows import CsvForm
    from keepline.records.importing import ImportOptions

    form = CsvForm(
        key,
        _mapped(map_ or []),
        "\t" if delimiter in ("tab", "\\t") else delimiter,
        encoding,
        tz,
        date_format,
        time_format,
        decimal,
        tuple(true or ()),
        tuple(false or ()),
    )
    options = ImportOptions(update, overwrite, group, reason, dry_run, rejects)
    with open_here() as instance, report.progress(quiet=json) as shown:
        task = shown.add_task("importing", total=None, note="")

        def step(rows: int, done: int, total: int) -> None:
            shown.update(task, completed=done, total=total, note=f"{rows} rows")

        result = records_app.import_csv(instance, file, type_, form, options, step)
    if json:
        report.emit(asdict(result))
    else:
        _say_imported(result)
    if result.rejected:
        raise typer.Exit(1)


@records.command()
def checkout(
    type_: TypeName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle, a new file.")],
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="The records' keys.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All records of the type.")] = False,
    json: Json = False,
) -> None:
    """Write records into a file, to edit them elsewhere."""
    from keepline.app import records as records_app
    from keepline.cli import report

    if bool(keys) == all_:
        raise typer.BadParameter("name the records' keys, or say --all")
    with open_here() as instance:
        bundle = records_app.checkout(instance, type_, keys or None, out)
    if json:
        report.emit({"bundle": bundle.id, "records": len(bundle.records), "file": out})
        return
    report.say(f"{counted(len(bundle.records))} in {out}; edit the values, then check it in.")


@records.command()
def checkin(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, edited.")],
    reason: Reason = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Merge a bundle's edits into the records.

    Where somebody else changed the same field, their value stays and the bundle's is kept as a
    proposal. The exit status is 1 when a record was refused: its edits are in the bundle alone.
    """
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        result = records_app.checkin(instance, file, reason=reason, dry_run=dry_run)
    if json:
        report.emit(asdict(result))
    else:
        _say_checked_in(result)
    if result.refused:
        raise typer.Exit(1)


@proposals.command("list")
def list_proposals(
    type_: Annotated[str | None, typer.Option("--type", help="Of this record type alone.")] = None,
    settled: Annotated[bool, typer.Option("--settled", help="Those that were decided.")] = False,
    json: Json = False,
) -> None:
    """List values that came in and could not be written."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        found = records_app.proposals(instance, type_, settled=settled)
    if json:
        report.emit({"proposals": [{**asdict(each), "record": each.record} for each in found]})
        return
    report.table(
        "Proposals",
        ("id", "record", "field", "base", "proposed", "now", "who", "when", "state"),
        (
            (p.id, p.record, p.field, p.base, p.mine, p.now, p.who, p.proposed_at, p.state)
            for p in found
        ),
    )


@proposals.command("take")
def take_proposals(
    ids: Numbers,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Though the field was changed since.")
    ] = False,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Write proposed values into their records."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        taken = records_app.take_proposals(instance, ids, anyway=anyway, reason=reason)
    if json:
        report.emit({"records": [str(each) for each in taken]})
        return
    for each in taken:
        report.say(f"{each} is changed.")


@proposals.command("drop")
def drop_proposals(ids: Numbers, json: Json = False) -> None:
    """Decide against proposed values."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        records_app.drop_proposals(instance, ids)
    if json:
        report.emit({"dropped": sorted(set(ids))})
        return
    report.say(f"{len(set(ids))} dropped.")


def _mapped(given: list[str]) -> dict[str, str]:
    names = {}
    for each in given:
        column, equals, name = each.partition("=")
        if not equals or not column:
            raise typer.BadParameter("--map takes COLUMN=FIELD")
        names[column] = name
    return names


def _say_imported(result: ImportReport) -> None:
    from keepline.cli import report

    would = " would be" if result.dry_run else ""
    rows = "1 row" if result.rows == 1 else f"{result.rows} rows"
    report.say(
        f"{rows}:{would} {result.inserted} inserted, {result.updated} updated, "
        f"{result.unchanged} unchanged, {result.existing} left alone, "
        f"{result.overlapping} overlapping with edits, {result.rejected} rejected."
    )
    if result.proposed:
        cells = "1 cell was" if result.proposed == 1 else f"{result.proposed} cells were"
        report.say(f"{cells} edited here since: see keepline records proposals list")
    for line, reason in result.rejects[:20]:
        report.warn(f"line {line}: {reason}")
    if result.rejects_file is not None:
        report.warn(f"the rejected rows are in {result.rejects_file}")


def _say_checked_in(result: CheckInReport) -> None:
    from keepline.cli import report

    rows: list[tuple[Any, ...]] = [
        (
            each.key,
            "taken before" if each.again else each.outcome.value,
            ", ".join(each.written) or None,
            ", ".join(each.proposed) or None,
            each.message or None,
        )
        for each in result.records
    ]
    if rows:
        report.table("", ("record", "outcome", "written", "proposed", "remark"), rows)
    tail = "; this was a dry run" if result.dry_run else ""
    report.say(
        f"{counted(len(result.records))} edited, {result.untouched} untouched, "
        f"{len(result.refused)} refused{tail}."
    )
    if any(each.proposed for each in result.records) and not result.dry_run:
        report.say("What others changed meanwhile stays: see keepline records proposals list")
