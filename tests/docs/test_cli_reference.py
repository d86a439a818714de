"""Every command has a line of help and its place in docs/reference/cli.md."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools import cli_reference


@pytest.mark.parametrize("name", [name for name, _ in cli_reference.commands()])
def test_command_has_one_line_of_help(name: str) -> None:
    command = dict(cli_reference.commands())[name]
    first = (command.help or "").strip().splitlines()[0]
    assert 10 <= len(first) <= 60
    assert first.endswith(".")


@pytest.mark.parametrize("name", [name for name, _ in cli_reference.commands()])
def test_every_option_has_help(name: str) -> None:
    command = dict(cli_reference.commands())[name]
    assert [each.name for each in command.params if not (each.help or "").strip()] == []


def test_page_is_what_the_commands_say() -> None:
    assert cli_reference.PAGE.read_text(encoding="utf-8") == cli_reference.page(), (
        "docs/reference/cli.md is out of date: make docs"
    )


def test_root_help_lists_every_command_in_one_line() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from keepline.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    ).stdout.splitlines()
    for name, command in cli_reference.commands():
        words = name.split()[1:]
        # Of a group within a group, such as `records types`, the group itself is listed.
        line = next(each for each in shown if each.startswith(f"  {' '.join(words[:2])} "))
        if len(words) < 3:
            assert line.endswith((command.help or "").strip().splitlines()[0])


HEAVY = ("sqlalchemy", "numpy", "pyarrow", "duckdb", "pandas", "fastapi", "typer", "psutil")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [("import keepline", set()), ("from keepline.cli import main", {"typer"})],
)
def test_import_loads_nothing_heavy(statement: str, allowed: set[str]) -> None:
    program = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in HEAVY if name in loaded} <= allowed
    ours = {name for name in loaded if name.startswith("keepline.")}
    assert {name for name in ours if not name.startswith("keepline.cli")} == set()
