"""Commands that check what watches over records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepline.cli.records import records
from keepline.cli.root import Json, open_here

if TYPE_CHECKING:
    from keepline.records.checks import Unrecorded


@records.command()
def verify(json: Json = False) -> None:
    """Check triggers and the history's seals."""
    from keepline.cli import report
    from keepline.records import checks

    with open_here() as instance:
        problems = list(checks.verify(instance=instance))
    if json:
        report.emit({"problems": problems})
    else:
        for line in problems:
            report.warn(line)
        report.say(f"Problems: {len(problems)}." if problems else "Everything holds.")
    if problems:
        raise typer.Exit(1)


@records.command()
def reconcile(
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Record what is there as new revisions.")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", help="With --adopt: what the history keeps as the reason.")
    ] = "adopted: it was changed while triggers were off",
    json: Json = False,
) -> None:
    """Find rows that are not as their history says."""
    from dataclasses import asdict

    from keepline.app.records import me
    from keepline.cli import report
    from keepline.records import checks

    with open_here() as instance:
        found = (
            checks.adopt_all(me(instance), reason, instance=instance)
            if adopt
            else checks.unrecorded(instance=instance)
        )
        rows = []
        for each in found:
            rows.append(asdict(each))
            if not json:
                report.say(_line(each, adopt=adopt))
    left = [row for row in rows if row["refusal"] or not adopt]
    if json:
        report.emit({"adopted": adopt, "rows": rows})
    elif not rows:
        report.say("Every row is as its history says.")
    elif left:
        report.warn(
            f"{len(left)} rows were refused: change what is named there, then adopt again"
            if adopt
            else f"{len(left)} rows changed around the triggers: look at them, then adopt them "
            "with `keepline records reconcile --adopt`"
        )
    if left:
        raise typer.Exit(1)


def _line(found: Unrecorded, *, adopt: bool) -> str:
    fields = f" ({', '.join(found.fields)})" if found.fields else ""
    outcome = ""
    if adopt:
        outcome = f": not adopted, {found.refusal}" if found.refusal else ": adopted"
    return f"{found.row}: {found.kind}{fields}{outcome}"
