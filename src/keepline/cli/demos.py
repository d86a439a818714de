"""The demonstration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepline.cli.root import Json, app

if TYPE_CHECKING:
    from keepline.app.demo import DemoResult


@app.command()
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where to make the instance; ./keepline-demo when not given."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.5, max=3600, help="How long to record this machine.")
    ] = 10.0,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep an earlier demo's folder; this one takes the next free name."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show the whole path; this machine is the instrument."""
    from keepline.app.demo import prepare_folder, run_demo
    from keepline.cli import report

    folder = prepare_folder(directory, keep=keep)
    with report.progress(quiet=json) as shown:
        task = shown.add_task("starting", total=1.0, note="")

        def on_progress(doing: str, done: float, note: str) -> None:
            shown.update(task, description=doing, completed=done, note=note)

        result = run_demo(folder, seconds=seconds, progress=on_progress)
    if json:
        report.emit(asdict(result))
    else:
        _tell(result)


def _tell(result: DemoResult) -> None:
    from keepline.cli import report

    report.table(
        "1. Captured and archived",
        ("messages queued", "stored", "archived", "readings", "gaps", "sessions"),
        [
            (
                result.messages_sent,
                result.messages_stored,
                result.messages_archived,
                result.readings_archived,
                result.gaps,
                result.sessions,
            )
        ],
    )
    columns = ("who", "instrument", "started", "ended", "gaps")
    report.table(
        f"2. {result.records_built} records built",
        columns,
        ([record[name] for name in columns] for record in result.records),
    )
    figures = ("channel", "readings", "minimum", "mean", "maximum")
    report.table(
        "   with the figures of each channel (three of each record here)",
        ("instrument", *figures),
        (
            (record["instrument"], *(channel[name] for name in figures))
            for record in result.records
            for channel in record["channels"][:3]
        ),
    )
    report.table(
        "3. Two editors, one record",
        ("edit", "outcome", "base", "mine", "theirs"),
        (
            (e["edit"], e["outcome"], e.get("base"), e.get("mine"), e.get("theirs"))
            for e in result.edits
        ),
    )
    same = "the same rows" if result.request_agrees else "OTHER ROWS"
    report.say(f"4. One question, asked by SQL and as a Request: {same}\n\n{result.sql}")
    report.table("", result.query_columns, result.query_result)
    report.table(
        "5. Delivered",
        ("recipient", "first run", "second run", "after one edit"),
        (
            (
                name,
                result.delivered[name],
                result.delivered_again[name],
                result.delivered_after_edit[name],
            )
            for name in result.delivered
        ),
    )
    report.table("6. Where everything is", ("what", "where"), result.places.items())
