"""Commands that put an instance into one file, and take it out again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepline.cli.root import Json, app, folder, open_here


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there.")],
    json: Json = False,
) -> None:
    """Write all of the instance into one file.

    Others go on writing meanwhile. It prints the head of the history's proof: kept elsewhere, it
    shows later that nothing before it was changed.
    """
    from dataclasses import asdict

    from keepline.app import backups
    from keepline.cli import report

    with open_here() as instance:
        made = backups.backup(instance, file)
    if json:
        report.emit(asdict(made))
        return
    report.say(f"{made.file}  ({made.size_bytes} bytes)")
    if made.head is not None:
        report.say(f"The proof ends at row {made.head.history_id}: {made.head.chain}")
    for line in made.not_included:
        report.say(f"Not in it: {line}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `keepline backup` wrote.")],
    into: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new folder; that of --instance when not given."),
    ] = None,
    erasures: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The erasures.jsonl of the instance that was lost."),
    ] = None,
    json: Json = False,
) -> None:
    """Make an instance of a backup, in a new folder.

    What the list of erasures names is erased again. Nothing is written when the file is damaged,
    of another schema, or when anything is in the way.
    """
    from dataclasses import asdict

    from keepline.app import backups
    from keepline.cli import report

    made = backups.restore(file, into or folder() or Path(), erasures=erasures)
    if json:
        report.emit(asdict(made))
        return
    report.say(f"Restored into {made.folder}, as it was at {made.made_at}.")
    for number in made.erased_again:
        report.say(f"Subject {number} is erased again.")
    for line in made.warnings:
        report.warn(line)
