"""Commands about the instance itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepline.cli.root import Json, app, folder


@app.command()
def init(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder; made when missing.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an instance: a folder with settings and empty stores."""
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
