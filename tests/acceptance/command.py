"""Running the command line as a user does: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: What runs the command line, whatever is on the PATH.
PROGRAM = (sys.executable, "-c", "from keepline.cli import main; main()")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's variables, without settings of keepline, and with `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KEEPLINE_")}
    return {**kept, "COLUMNS": "200", **variables}


def keepline(
    *arguments: str | Path,
    status: int = 0,
    cwd: Path | None = None,
    stdin: str | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run `keepline` and return what it printed; fails unless it ends with `status`."""
    finished = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        input=stdin,
        env=environment(**variables),
        timeout=300,
    )
    assert finished.returncode == status, finished.stdout + finished.stderr
    return finished


def keepline_json(*arguments: str | Path, **options: Any) -> dict[str, Any]:
    """Run `keepline ... --json`; standard output must be one JSON object alone."""
    found = json.loads(keepline(*arguments, "--json", **options).stdout)
    assert isinstance(found, dict)
    return found


def error_line(*arguments: str | Path, **options: Any) -> str:
    """Run a command that must fail; return the one line that it says."""
    finished = keepline(*arguments, status=2, **options)
    assert finished.stdout == ""
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("keepline: ")
    return lines[0].removeprefix("keepline: ")
