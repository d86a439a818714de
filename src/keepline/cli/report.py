"""Putting results on the terminal: one JSON object, or a table for people."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

#: A column narrower than this cannot be read.
_NARROWEST = 7

console = Console(highlight=False, markup=False)
_errors = Console(stderr=True, highlight=False, markup=False)


def emit(value: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; a value that is not there shows as a dash.

    Columns for which the terminal has no room at all are left out, and counted below.
    """
    shown = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    room = max(1, (console.width - 2) // (_NARROWEST + 3))
    for column in columns[:room]:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*("–" if value is None else text(value) for value in row[:room]))
    console.print(shown)
    if len(columns) > room:
        say(f"and {', '.join(columns[room:])}: a wider terminal or --json shows them")


def say(line: str) -> None:
    """Print one line for people."""
    console.print(line, soft_wrap=True)


def warn(line: str) -> None:
    """Print one line about what went wrong on standard error."""
    sys.stderr.write(f"keepline: {line}\n")


def text(value: Any) -> str:
    """Return a value as people read it: times to the second with their zone, numbers short.

    Of bytes their number is told. What a terminal could take for a command of its own is shown
    escaped.
    """
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    shown = str(value)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def in_base64(value: bytes) -> str:
    """Return bytes as the text that an import takes for a blob."""
    return base64.b64encode(value).decode("ascii")


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Show progress on standard error while the block runs, when that is a terminal."""
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=_errors,
        disable=quiet or not _errors.is_terminal,
        transient=True,
    )
    with shown:
        yield shown


def _plain(value: Any) -> Any:
    if isinstance(value, date):  # and a datetime, which is one
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return in_base64(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
