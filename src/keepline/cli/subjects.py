"""Commands about the people that records are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepline.cli.root import Json, app, open_here

if TYPE_CHECKING:
    from keepline.records.erasing import Erased

subjects = typer.Typer(no_args_is_help=True, help="The people that records are about.")
app.add_typer(subjects, name="subjects")

Identifier = Annotated[str, typer.Argument(metavar="ID", help="The subject's identifier.")]


@subjects.command("list")
def list_(json: Json = False) -> None:
    """List the subjects; erased ones have their number alone."""
    from dataclasses import asdict

    from keepline.cli import report
    from keepline.records.subjects import subjects as known

    with open_here() as instance:
        found = known(instance=instance)
    if json:
        report.emit({"subjects": [asdict(each) for each in found]})
        return
    report.table(
        "Subjects",
        ("number", "identifier", "group", "added", "erased"),
        ((s.number, s.identifier, s.group, s.created_at, s.erased_at) for s in found),
    )


@subjects.command()
def add(
    identifier: Identifier,
    group: Annotated[
        str | None, typer.Option(help="Who may see the subject; everybody when not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a subject, and say its number."""
    from dataclasses import asdict

    from keepline.cli import report
    from keepline.model import Principal
    from keepline.records.subjects import add as add_subject

    with open_here() as instance:
        found = add_subject(
            identifier, group=group, instance=instance, principal=Principal.system()
        )
    if json:
        report.emit(asdict(found))
        return
    report.say(f"It has the number {found.number}.")


@subjects.command()
def erase(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The subject's identifier; its number when it is erased already."
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why; it is kept, and must not name anybody.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    json: Json = False,
) -> None:
    """Remove a subject's records and all that is kept of them.

    It shows what it will remove and what it cannot reach, asks, and erases for good. Without
    --yes and a terminal, and with --json, it only shows.
    """
    import sys
    from dataclasses import asdict

    from keepline.app import subjects as erasing
    from keepline.app.records import me
    from keepline.cli import report
    from keepline.errors import InvalidRecordError

    with open_here() as instance:
        who = me(instance)
        found = erasing.find(instance, identifier, who)
        if yes and not reason.strip():
            raise InvalidRecordError("an erasure needs a reason: --reason TEXT")
        result = None if yes else erasing.preview(instance, found, who)
        if result is not None and not json:
            _show(result, "would be removed")
            if sys.stdin.isatty() and reason.strip():
                yes = typer.confirm("Erase it for good?", default=False)
            else:
                report.say("Nothing is erased; --reason TEXT --yes does it.")
        if yes:
            result = erasing.erase(instance, found, who, reason)
    if json and result is not None:
        plain = asdict(result)
        del plain["tables"]
        report.emit({**plain, "erased": yes})
    elif yes and result is not None:
        _show(result, "removed")


def _show(result: Erased, what: str) -> None:
    from keepline.cli import report

    report.say(f"Subject {result.number}:")
    for name, count in result.removed.items():
        report.say(f"  {count} {name} {what}")
    if result.renamed:
        report.say(f"  {result.renamed} records whose key names it go on under another key")
    report.say("Out of reach:")
    for line in result.out_of_reach:
        report.say(f"  {line}")
