"""Write docs/reference/cli.md from the command line's own help: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from keepline.cli.root import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"

HEAD = """\
# The command line

Made by `make docs` from the commands' own help; a test fails when it differs.

`--instance DIR` stands before the command's name; without it the variable `KEEPLINE_INSTANCE`
counts, else the current folder. A command that fails for a reason that you can mend prints one
line (a wrong option: the usage as well) and ends with status 2; `--debug`, also before the name,
shows the traceback. With `--json` standard output is one JSON object alone.
"""


def commands(group: Any = None, path: str = "keepline") -> Iterator[tuple[str, Any]]:
    """Yield (name as typed, click command) of every command, in the order of --help."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(f"\n## {name}\n\n```\n{_help(name)}\n```\n" for name, _ in commands())


def _help(name: str) -> str:
    shown = CliRunner().invoke(app, [*name.split()[1:], "--help"], prog_name="keepline")
    return "\n".join(line.rstrip() for line in shown.output.strip().splitlines())


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {sum(1 for _ in commands())} commands\n")
