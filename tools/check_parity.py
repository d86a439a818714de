"""Check docs/seed-parity.md: what it names exists, and its tests exist and show those names.

    python tools/check_parity.py          names and tests exist
    python tools/check_parity.py --run    ... and the tests pass

A row is ``| documented | here | verdict | test |``. A row that says same or better names a
thing of keepline's, ``keepline.module.Class.attribute`` or ``keepline.function(parameter)``,
and a test in which that name is used. A row that says later begins, under `here`, with the
capability whose issue brings it, and names no test. Tests that the text between the tables
names must exist as well.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "seed-parity.md"

HEADING = ["documented", "here", "verdict", "test"]
VERDICTS = ("same", "better", "later")
ISSUES = ("capture", "records", "sessions", "query", "delivery", "downloads", "web")
NO_TEST = "—"

_NAME = re.compile(r"(keepline(?:\.\w+)+)(?:\((\w+)\))?")
_TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)+")


@dataclass(frozen=True)
class Row:
    """One documented name and what became of it."""

    line: int
    page: str
    documented: str
    here: str
    verdict: str
    test: str


class PageError(Exception):
    """A line of the page that is no row, or a test run that could not begin."""


def rows(text: str) -> list[Row]:
    """Return the rows of every table; `page` is the heading that a table stands under.

    Raises PageError for a line of a table without exactly four cells.
    """
    found = []
    page = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            page = line.lstrip("# ")
        if not line.startswith("|"):
            continue
        cells = [cell.replace("`", "").strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(HEADING):
            raise PageError(f"{PAGE.name}:{number}: {len(cells)} cells instead of {len(HEADING)}")
        if cells != HEADING and not all(set(cell) <= {"-", ":"} for cell in cells):
            found.append(Row(number, page, *cells))
    return found


def resolve(name: str) -> None:
    """Look a dotted name up, and its parameter if it has one.

    Attributes that a class sets on its instances count. Raises LookupError when something is
    missing.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise LookupError("it is not written as keepline.name or keepline.name(parameter)")
    dotted, parameter = match.groups()
    found, rest = _imported(dotted.split("."))
    for index, part in enumerate(rest, 1):
        if index == len(rest) and parameter is None and part in _instance_attributes(found):
            return
        if not hasattr(found, part):
            raise LookupError(f"{getattr(found, '__name__', found)} has no {part}")
        found = getattr(found, part)
    if parameter is not None and not (
        callable(found) and parameter in inspect.signature(found).parameters
    ):
        raise LookupError(f"{dotted} takes no {parameter}")


def _imported(parts: list[str]) -> tuple[object, list[str]]:
    """Import the longest module that the parts begin with; return it and the other parts."""
    for size in range(len(parts), 0, -1):
        module = ".".join(parts[:size])
        try:
            return importlib.import_module(module), parts[size:]
        except ModuleNotFoundError as error:
            # What such a module itself imports has to be there.
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
    raise LookupError(f"there is no module {parts[0]}")


def _instance_attributes(kind: object) -> set[str]:
    """Return the names that a class gives its instances and need not have itself."""
    if not inspect.isclass(kind):
        return set()
    names = {*getattr(kind, "model_fields", ())}  # those of a pydantic model
    if dataclasses.is_dataclass(kind):
        names.update(field.name for field in dataclasses.fields(kind))
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] == "keepline":
            names |= _assigned_to_self(each.__module__, each.__name__)
    return names


@cache
def _assigned_to_self(module: str, name: str) -> frozenset[str]:
    """Return the attributes of `self` that the methods of a module's class assign to."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    classes = [
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return frozenset(
        node.attr
        for each in classes
        for node in ast.walk(each)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def mistakes(table: Collection[Row]) -> list[str]:
    """Return what is wrong with the rows by themselves, a line each."""
    wrong = []
    seen: set[tuple[str, str]] = set()
    for row in table:
        wrong += [_told(row, what) for what in _row_mistakes(row)]
        if (row.page, row.documented) in seen:
            wrong.append(_told(row, "stands twice in its table"))
        seen.add((row.page, row.documented))
    return wrong


def _row_mistakes(row: Row) -> Iterator[str]:
    if row.verdict not in VERDICTS:
        yield f"verdict {row.verdict!r} is none of {', '.join(VERDICTS)}"
    elif row.verdict == "later":
        if row.test != NO_TEST:
            yield "is for later, yet names a test"
        if row.here.partition(":")[0] not in ISSUES:
            yield f"is for later, yet {row.here!r} begins with none of {', '.join(ISSUES)}"
    else:
        try:
            resolve(row.here)
        except (LookupError, ImportError) as error:
            yield f"{row.here} does not exist: {error}"
        if not _TEST.fullmatch(row.test):
            yield f"{row.test!r} is no test"


def mistakes_in_tests(table: Collection[Row], text: str) -> list[str]:
    """Return which tests do not exist, and which do not use the name that they are to show."""
    named = {row.test for row in table} | set(_TEST.findall(text))
    there = collected({test.partition("::")[0] for test in named if _TEST.fullmatch(test)})
    wrong = []
    for row in table:
        if not _TEST.fullmatch(row.test):
            continue
        if row.test not in there:
            wrong.append(_told(row, f"there is no test {row.test}"))
        elif not uses(row.test, _word(row.here)):
            wrong.append(_told(row, f"{row.test} does not use {_word(row.here)}"))
    between = set(_TEST.findall(text)) - {row.test for row in table} - there
    return wrong + [f"{PAGE.name}: there is no test {test}" for test in sorted(between)]


def collected(files: Collection[str]) -> set[str]:
    """Return the tests, without their parameters, that pytest finds in these files.

    Raises PageError when it cannot read them.
    """
    present = sorted(name for name in files if (ROOT / name).is_file())
    if not present:
        return set()
    finished = _pytest("--collect-only", *present)
    if finished.returncode:
        raise PageError(finished.stdout.strip() or finished.stderr.strip())
    lines = (line.partition("[")[0] for line in finished.stdout.splitlines())
    return {line for line in lines if _TEST.fullmatch(line)}


def uses(test: str, word: str) -> bool:
    """Return whether a test, or what its file has beside tests and imports, uses a word.

    Case does not matter: a `Cursor` may well be called cursor.
    """
    file, *_, function = test.split("::")
    return re.search(rf"\b{re.escape(word)}\b", _source(file, function), re.IGNORECASE) is not None


def _source(file: str, function: str) -> str:
    return "\n".join(
        text for name, text in _parts(file) if name == function or not name.startswith("test_")
    )


@cache
def _parts(file: str) -> list[tuple[str, str]]:
    """Return what stands at a file's top, each with its name and source, without the imports."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.splitlines()
    parts = []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            decorators = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(each.lineno for each in decorators)])
            parts.append((getattr(node, "name", ""), "\n".join(lines[first - 1 : node.end_lineno])))
    return parts


def _word(here: str) -> str:
    """Return what a test of this name has to use; an operator's method has no name in it."""
    match = _NAME.fullmatch(here)
    if match is None:
        return ""
    parts = [*match[1].split("."), *([match[2]] if match[2] else [])]
    operator = parts[-1].startswith("__") and parts[-1] != "__package__"
    return "" if operator else parts[-1]


def run(tests: Collection[str]) -> list[str]:
    """Run the tests; return what did not pass. A test that is skipped shows nothing."""
    finished = _pytest("-rs", *sorted(tests))
    said = finished.stdout.strip() or finished.stderr.strip()
    skipped = re.search(r"\d+ skipped", said.rpartition("\n")[2])
    return [said] if finished.returncode or skipped else []


def _pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _told(row: Row, what: str) -> str:
    return f"{PAGE.name}:{row.line}: {row.documented}: {what}"


def main(arguments: Collection[str]) -> int:
    """Check the page; return the exit status."""
    text = PAGE.read_text(encoding="utf-8")
    table: list[Row] = []
    try:
        table = rows(text)
        wrong = mistakes(table) + mistakes_in_tests(table, text)
        if "--run" in arguments and not wrong:
            wrong = run(set(_TEST.findall(text)))
    except PageError as error:
        wrong = [str(error)]
    counts = {verdict: sum(row.verdict == verdict for row in table) for verdict in VERDICTS}
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    sys.stdout.write("\n".join(wrong or [f"{len(table)} rows hold: {told}"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
