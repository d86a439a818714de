"""Running the command line as a user does: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def keepline(
    *arguments: str | Path, status: int = 0, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `keepline` and return what it printed; fails unless it ends with `status`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KEEPLINE_")}
    finished = subprocess.run(
        [sys.executable, "-c", "from keepline.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**environment, "COLUMNS": "200", **variables},
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
