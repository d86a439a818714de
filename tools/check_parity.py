"""Check docs/seed-parity.md: every name in it exists, every test in it is collected and passes.

    python tools/check_parity.py          names and tests exist
    python tools/check_parity.py --run    ... and the tests pass

A row is ``| documented | here | verdict | test |``. The verdict is same, better or later; a
row that says later names nothing that exists, and any other names a thing and a test.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "seed-parity.md"
VERDICTS = ("same", "better", "later")


@dataclass(frozen=True)
class Row:
    """One documented name and what became of it."""

    line: int
    documented: str
    here: str
    verdict: str
    test: str


def rows(text: str) -> list[Row]:
    """Return the rows of every table on the page."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or set(cells[0]) <= {"-", ":"}:
            continue
        if cells[0] != "documented":
            found.append(Row(number, *cells))
    return found


def resolve(dotted: str) -> None:
    """Import the longest module of a dotted name and look the rest up; raise when missing."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for index, name in enumerate(parts[size:], size):
            annotated = getattr(found, "__annotations__", {})
            if index == len(parts) - 1 and (name in annotated or name in _instance_names(found)):
                return
            found = getattr(found, name)
        return
    raise ModuleNotFoundError(dotted)


def _instance_names(found: object) -> set[str]:
    """Return the attributes that a class sets on its instances, read from its source."""
    import inspect

    if not inspect.isclass(found):
        return set()
    names: set[str] = set()
    for each in found.__mro__[:-1]:
        names |= set(re.findall(r"self\.(\w+)\s*(?::[^=\n]+)?=[^=]", inspect.getsource(each)))
    return names


def mistakes(table: list[Row]) -> list[str]:
    """Return what is wrong with the page's rows, a line each."""
    wrong = []
    seen: set[tuple[str, str]] = set()
    for row in table:
        where = f"{PAGE.name}:{row.line}: {row.documented}"
        if row.verdict not in VERDICTS:
            wrong.append(f"{where}: verdict {row.verdict!r} is none of {', '.join(VERDICTS)}")
        elif row.verdict == "later":
            if row.test != "—":
                wrong.append(f"{where}: is for later, yet names a test")
        else:
            try:
                resolve(row.here)
            except (ImportError, AttributeError) as error:
                wrong.append(f"{where}: {row.here} does not exist: {error}")
            if "::" not in row.test:
                wrong.append(f"{where}: names no test")
        if (row.documented, row.here) in seen:
            wrong.append(f"{where}: stands twice")
        seen.add((row.documented, row.here))
    return wrong


def main() -> int:
    """Check the page; return the exit status."""
    table = rows(PAGE.read_text(encoding="utf-8"))
    wrong = mistakes(table)
    tests = sorted({row.test for row in table if row.verdict in ("same", "better")})
    options = [] if "--run" in sys.argv[1:] else ["--collect-only"]
    if tests and not wrong:
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", *options, *tests]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if finished.returncode:
            wrong.append(finished.stdout.strip() or finished.stderr.strip())
    sys.stdout.write("\n".join(wrong) + "\n" if wrong else f"{len(table)} rows hold\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
