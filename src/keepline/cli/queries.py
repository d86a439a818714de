"""The query command."""

from __future__ import annotations

import csv
import signal
import sys
from enum import StrEnum
from typing import Annotated

import typer

from keepline.cli.root import Json, app, open_here


class Shape(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over module.table.")],
    shape: Annotated[Shape, typer.Option("--format", help="How to print the rows.")] = Shape.table,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Ask one SQL question over every module.

    `keepline tables` lists what can be named. Ctrl-C ends it at any time.
    """
    from keepline.app import pipeline
    from keepline.cli import report

    # The engine computes outside Python, where no KeyboardInterrupt can be raised; a query
    # changes nothing, so the process may simply end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with open_here() as instance, pipeline.connect(instance) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        names = [column[0] for column in cursor.description or ()]
        if json or shape is Shape.json:
            report.emit({"columns": names, "rows": cursor.fetchall()})
        elif shape is Shape.csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(names)
            for row in cursor:
                writer.writerow([report.in_base64(v) if isinstance(v, bytes) else v for v in row])
        else:
            report.table("", names, cursor)


@app.command()
def tables(json: Json = False) -> None:
    """List the tables and columns that a query can name."""
    from keepline.app import pipeline
    from keepline.cli import report

    with open_here() as instance:
        rows = list(pipeline.tables(instance))
    if json:
        report.emit(
            {"columns": [dict(zip(("table", "name", "type"), r, strict=True)) for r in rows]}
        )
        return
    names: dict[str, list[str]] = {}
    for table, column, kind in rows:
        names.setdefault(table, []).append(f"{column} {kind}")
    report.table("", ("table", "columns"), ((n, ", ".join(c)) for n, c in names.items()))
