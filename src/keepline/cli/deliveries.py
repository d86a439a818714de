"""Commands about what goes out: deliveries and downloads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from keepline.cli.root import Json, app, open_here

deliver = typer.Typer(no_args_is_help=True, help="Send records to recipients.")
app.add_typer(deliver, name="deliver")

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[RECIPIENT...]", help="All of them when not given.")
]


@deliver.command()
def run(recipients: Names = None, json: Json = False) -> None:
    """Send every recipient what it has not been sent yet."""
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance, report.progress(quiet=json) as shown:
        task = shown.add_task("delivering", total=None, note="")
        outcome = pipeline.deliver(
            instance,
            recipients or None,
            progress=lambda name, done, total: shown.update(
                task, completed=done, total=total, note=name
            ),
        )
    if json:
        report.emit(asdict(outcome))
    elif not outcome.recipients:
        report.say("keepline.toml declares no recipients; it has an example of one.")
    else:
        columns = ["sent", "failed", "gone", "remaining"]
        if any(each.withdrawn for each in outcome.recipients.values()):
            columns.insert(1, "withdrawn")
        report.table(
            "Deliveries",
            ("recipient", *columns),
            (
                (name, *(getattr(each, column) for column in columns))
                for name, each in outcome.recipients.items()
            ),
        )
    for name, each in outcome.recipients.items():
        if each.held_back:
            report.warn(f"{name}: {each.held_back} changes held back by an open transaction")
        for key, reason in each.failures:
            report.warn(f"{name}: {key}: {reason}")
        if each.error:
            report.warn(f"{name}: {each.error}")
    if not outcome.ok:
        raise typer.Exit(2)


@deliver.command()
def queue(recipients: Names = None, json: Json = False) -> None:
    """Show what the next run would send or take back."""
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        if not json:
            pipeline.show_queue(instance, recipients or None)
            return
        report.emit({"pending": [asdict(each) for each in pipeline.queue(instance, recipients)]})


@app.command()
def download(
    directory: Annotated[Path, typer.Option("--dir", help="Where to write the file.")] = Path(),
    format_: Annotated[str, typer.Option("--format", help="xlsx")] = "xlsx",
    json: Json = False,
) -> None:
    """Write the records into a spreadsheet file."""
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        result = pipeline.download(instance, format_, directory)
    if json:
        report.emit(asdict(result))
        return
    report.say(f"{result.path}  ({result.size_bytes} bytes)")
