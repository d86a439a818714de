"""Commands that change one record: in the editor of one's choice, or its state."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepline.cli.records import Key, Reason, Type, records
from keepline.cli.root import open_here

if TYPE_CHECKING:
    from keepline.model import Field
    from keepline.records.outcomes import Conflict


@records.command()
def edit(key: Key, type_: Type = "instrument_session", reason: Reason = None) -> None:
    """Edit a record in $VISUAL or $EDITOR.

    When somebody else changed the same fields meanwhile, each is shown as it was, as you have
    it and as they have it, to decide. What you typed is kept in a file until it is saved.
    """
    from keepline.app import records as records_app
    from keepline.cli import report
    from keepline.errors import RecordError
    from keepline.records.editing import Desk

    if not sys.stdin.isatty():
        raise RecordError(
            "records edit needs a terminal; `keepline records checkout` and `checkin` do not"
        )
    desk = Desk(_edit, _decide, lambda said: typer.confirm(f"{said}. Edit again?", default=True))
    with open_here() as instance:
        outcome = records_app.edit(instance, type_, key, desk, reason)
    report.say(f"{type_}/{key}: {outcome.value}.")


@records.command()
def finalise(key: Key, type_: Type = "instrument_session", reason: Reason = None) -> None:
    """Close a record to changes."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        done = records_app.finalise(instance, type_, key, reason)
    report.say(f"{type_}/{key} {'is' if done else 'was'} finalised{'' if done else ' already'}.")


@records.command()
def reopen(
    key: Key,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")],
    type_: Type = "instrument_session",
) -> None:
    """Open a finalised record to changes again."""
    from keepline.app import records as records_app
    from keepline.cli import report

    with open_here() as instance:
        done = records_app.reopen(instance, type_, key, reason)
    report.say(f"{type_}/{key} {'is open again' if done else 'was open already'}.")


def _edit(path: Path) -> None:
    from keepline.errors import RecordError

    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(command), str(path)], check=True)  # noqa: S603 - one's own
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise RecordError(f"the editor {command!r} failed; set EDITOR") from None


def _decide(conflict: Conflict, field: Field) -> Any:
    from keepline.cli import report
    from keepline.errors import InvalidRecordError
    from keepline.records.editing import decided

    name = field.name
    who, at = conflict.edits.get(name, (None, None))
    theirs = f"theirs ({who or 'around keepline'}" + (f", {report.text(at)})" if at else ")")
    report.table(
        f"{name} was changed meanwhile",
        ("base", "mine", theirs),
        [(conflict.base[name], conflict.mine[name], conflict.theirs[name])],
    )
    while True:
        answer = typer.prompt(f"{name}: mine, theirs, base, or another value")
        try:
            return decided(conflict, field, answer)
        except InvalidRecordError as error:
            report.warn(str(error))
