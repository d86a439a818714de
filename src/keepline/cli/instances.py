"""Commands about the instance itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepline.cli.root import Json, app, folder, open_here

instruments = typer.Typer(no_args_is_help=True, help="The instruments whose use is logged.")
app.add_typer(instruments, name="instruments")


@app.command()
def init(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder; made when missing.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an instance: a folder with settings and stores."""
    from keepline.app.instance import init_instance
    from keepline.cli.report import emit, say

    with init_instance(directory or folder() or Path()) as instance:
        if json:
            emit({"instance": instance.folder, "store_id": instance.store_id})
            return
        say(f"Made an instance in {instance.folder}.")
        say("Its settings, recipients among them, are in keepline.toml there.")


@app.command()
def migrate(json: Json = False) -> None:
    """Bring the instance up to this version of keepline."""
    from keepline.app.instance import migrate_instance
    from keepline.cli.report import emit, say
    from keepline.store.schema import REVISIONS

    with migrate_instance(folder()) as instance:
        if json:
            emit({"instance": instance.folder, "schema": REVISIONS[-1]})
            return
        say(f"{instance.folder} has the newest schema, {REVISIONS[-1]}.")


@instruments.command("list")
def list_instruments(json: Json = False) -> None:
    """List the declared instruments."""
    from dataclasses import asdict

    from keepline import sessions
    from keepline.cli import report

    with open_here() as instance:
        found = sessions.list_instruments(instance=instance)
    if json:
        report.emit({"instruments": [asdict(each) for each in found]})
        return
    report.table(
        "Instruments",
        ("name", "zone", "group", "comment"),
        ((each.name, each.tz, each.group, each.comment) for each in found),
    )


@instruments.command()
def add(
    name: Annotated[str, typer.Argument(help="What the instrument is called.")],
    tz: Annotated[str, typer.Option(help="The IANA zone of its clock.")] = "UTC",
    group: Annotated[
        str | None, typer.Option(help="Whose records it makes; everybody's when not given.")
    ] = None,
    comment: Annotated[str, typer.Option(help="What people should know of it.")] = "",
) -> None:
    """Declare an instrument, or change what is declared."""
    from keepline import sessions
    from keepline.model import Instrument

    with open_here() as instance:
        sessions.add_instrument(Instrument(name, tz, group, comment), instance=instance)
