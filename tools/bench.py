"""Run the benchmarks and rewrite docs/benchmarks.md: `make bench`.

Each benchmarks/NAME.py is a program that prints one JSON object a line, one for each claim:

    {"claim": "queue() at full rate", "peer": "sqlite3, INSERT + COMMIT a message",
     "value": 23.4, "target": 10, "holds": true, "n": 20000, "how": "CPU time of all processes"}

`value` is a ratio, both sides of it measured in that one run. Lines that are no JSON object are
passed on. Ends with 1 when a benchmark crashed or a claim does not hold; the page shows either.
"""

import ast
import datetime
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
COLUMNS = ("claim", "peer", "value", "target", "holds", "n", "how")
INTRODUCTION = """\
Written by `make bench`; not to be edited. A ratio compares keepline with the peer named beside it,
both measured in the same run, so that it tells more than either figure. It holds when it reaches
its target; those that do not are shown as well."""
HEADINGS = ("claim", "peer", "ratio", "target", "holds", "n", "how")


@dataclass
class Outcome:
    """What one benchmark printed, and how it ended."""

    name: str
    title: str
    claims: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""

    def problems(self) -> list[str]:
        """Return a line for a crash and for each claim that does not hold."""
        broken = [claim["claim"] for claim in self.claims if claim["holds"] is not True]
        lines = [f"{self.name}: does not hold: {text}" for text in broken]
        return [*lines, f"{self.name}: {self.failure}"] if self.failure else lines


def main() -> int:
    """Run all benchmarks one after the other, write the page, and list the problems."""
    programs = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem[0] != "_"]
    outcomes = [run(path) for path in programs]
    PAGE.write_text(page(outcomes), encoding="utf-8")
    problems = [line for outcome in outcomes for line in outcome.problems()]
    for line in problems:
        print(line, file=sys.stderr)
    claims = sum(len(outcome.claims) for outcome in outcomes)
    print(f"{claims} claims, {len(problems)} problems: {PAGE.relative_to(ROOT)}", file=sys.stderr)
    return 1 if problems else 0


def run(path: Path) -> Outcome:
    """Run one benchmark, passing its lines on as they come."""
    outcome = Outcome(name=path.stem, title=title_of(path))
    print(f"== {path.stem}", file=sys.stderr, flush=True)
    with subprocess.Popen(
        [sys.executable, str(path)], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            take(line, outcome)
    if process.returncode != 0:
        outcome.failure = f"crashed with exit code {process.returncode}"
    elif not outcome.claims and not outcome.failure:
        outcome.failure = "made no claim"
    return outcome


def take(line: str, outcome: Outcome) -> None:
    """Keep the claim that a line holds, if it holds one."""
    try:
        claim = json.loads(line)
    except ValueError:
        return
    if not isinstance(claim, dict):
        return
    missing = [column for column in COLUMNS if column not in claim]
    if missing:
        outcome.failure = f"a claim lacks {', '.join(missing)}: {line.strip()}"
    else:
        outcome.claims.append(claim)


def title_of(path: Path) -> str:
    """Return the first line of a program's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem
    return text.splitlines()[0]


def page(outcomes: list[Outcome]) -> str:
    """Return the whole page."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    parts = [
        "# Benchmarks",
        INTRODUCTION,
        f"Last run: {today}, Python {platform.python_version()}, {machine}.",
        *(section(outcome) for outcome in outcomes),
    ]
    return "\n\n".join(parts) + "\n"


def section(outcome: Outcome) -> str:
    """Return the heading, the command and the table of one benchmark."""
    rows = [[cell(claim[column]) for column in COLUMNS] for claim in outcome.claims]
    lines = [list(HEADINGS), ["---"] * len(HEADINGS), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"## {outcome.name}", outcome.title, f"`make bench NAME={outcome.name}`"]
    if rows:
        parts.append(table)
    if outcome.failure:
        parts.append(f"**This run failed:** {outcome.failure}")
    return "\n\n".join(parts)


def cell(value: object) -> str:
    """Return a value as the text of a table cell."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
