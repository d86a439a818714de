"""The root command: options that stand before every command's name, and the error boundary."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from keepline.app.instance import Instance


class AllCommands(TyperGroup):
    """A group whose help lists the commands of its groups too, a line each."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:  # pydantic, which typer checks values with, adds this
            error.message = error.message.removeprefix("Value error, ")
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = []
        for name, command in self.commands.items():
            for inner, each in getattr(command, "commands", {"": command}).items():
                rows.append((f"{name} {inner}".strip(), each.get_short_help_str(limit=80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="keepline",
    cls=AllCommands,
    context_settings={"max_content_width": 100},
    help="The data backbone of instruments, test benches and research clinics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

_folder: Path | None = None
_debug = False


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keepline {importlib.metadata.version('keepline')}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]


@app.callback()
def root(
    instance: Annotated[
        Path | None,
        typer.Option(
            "--instance",
            envvar="KEEPLINE_INSTANCE",
            help="The instance's folder; the current folder when not given.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show keepline's version and end.",
            is_eager=True,
            callback=_show_version,
        ),
    ] = False,
) -> None:
    """The data backbone of instruments, test benches and research clinics."""
    global _folder, _debug
    _folder, _debug = instance, debug


def folder() -> Path | None:
    """Return the folder given with --instance, if any."""
    return _folder


def open_here() -> Instance:
    """Open the instance that the command is about."""
    from keepline.app.instance import open_instance

    return open_instance(_folder)


def main() -> None:
    """Run the command line; an error that a user can cause is one line, and exit status 2."""
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("keepline: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        line = _line(error)
        if _debug or line is None:
            raise
        sys.stderr.write(f"keepline: {line}\n")
        sys.exit(2)


def _line(error: Exception) -> str | None:
    """Return what to say of an error that a user can cause; None for a fault of ours."""
    from keepline.errors import KeeplineError  # late: --help loads nothing but the CLI

    if isinstance(error, KeeplineError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the output'}: {error.strerror}"
    return None
