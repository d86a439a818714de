"""docs/seed-parity.md names what exists and is shown; its checker notices what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_parity
from tools.check_parity import PageError, mistakes, mistakes_in_tests, resolve, rows, run, uses

TEXT = check_parity.PAGE.read_text(encoding="utf-8")
HERE = "tests/docs/test_seed_parity.py"
SHOWN = f"{HERE}::test_names_that_exist_are_found"


def table(*lines: str) -> list[check_parity.Row]:
    return rows("\n".join(["## page", "| documented | here | verdict | test |", *lines]))


def test_there_is_a_table_for_each_seed_page() -> None:
    tables = dict.fromkeys(row.page[:3] for row in rows(TEXT))
    assert list(tables) == ["000", "001", "002", "003", "004"]


def test_names_exist() -> None:
    assert mistakes(rows(TEXT)) == []


def test_tests_exist_and_use_the_names() -> None:
    assert mistakes_in_tests(rows(TEXT), TEXT) == []


@pytest.mark.parametrize(
    "name",
    [
        "keepline.query.CM_OP_GET",  # a constant
        "keepline.query.types.STRING",  # of a module that is no package
        "keepline.query.Cursor.retries",  # set by __init__
        "keepline.query.Table.module_name",  # of a named tuple
        "keepline.records.BusinessObject.original_payload",  # set by another method
        "keepline.capture.Archive.get_session_readings",  # inherited
        "keepline.capture.Archive.sql_store",  # set by an inherited __init__
        "keepline.records.Outcome.SAVED",  # of an enumeration
        "keepline.model.SessionInfo.started",  # of a dataclass with slots
        "keepline.delivery.report.RecipientReport.failures",  # one with a default factory
        "keepline.config.StoreSettings.url",  # of a pydantic model
        "keepline.delivery.export(all_recipients)",
        "keepline.query.Request(bulk)",
        "keepline.sessions.Session.update_session_status(status)",
    ],
)
def test_names_that_exist_are_found(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize(
    "name",
    [
        "keepline.query.nothing",
        "keepline.nothing.Cursor",
        "keepline.query.Cursor.nothing",
        "keepline.query.Cursor.retries.nothing",
        "keepline.query.Cursor.attempts",  # local to a method
        "keepline.records.BusinessObject._shown",
        "keepline.delivery.export(nothing)",
        "keepline.query.CM_OP_GET(nothing)",
        "keepline.query.Cursor.retries(nothing)",
        "keepline.query.Cursor()",
        "os.path.join",
        "keepline",
        "",
    ],
)
def test_names_that_do_not_exist_are_told(name: str) -> None:
    with pytest.raises(LookupError):
        resolve(name)
    (wrong,) = mistakes(table(f"| `x` | `{name}` | same | `{SHOWN}` |"))
    assert wrong.startswith(f"seed-parity.md:3: x: {name} does not exist")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"| x | keepline.query.connect | equal | {SHOWN} |", "verdict 'equal'"),
        ("| x | keepline.query.connect | same | — |", "'—' is no test"),
        ("| x | keepline.query.connect | same | tests/docs |", "'tests/docs' is no test"),
        (f"| x | query: soon | later | {SHOWN} |", "names a test"),
        ("| x | some day | later | — |", "begins with none of"),
    ],
)
def test_rows_that_say_nothing_are_told(line: str, said: str) -> None:
    (wrong,) = mistakes(table(line))
    assert said in wrong


def test_a_doubled_row_is_told() -> None:
    line = f"| `x` | `keepline.query.connect` | same | `{SHOWN}` |"
    other = line.replace("connect", "request")
    assert mistakes(table(line, other)) == ["seed-parity.md:4: x: stands twice in its table"]
    assert mistakes(table(line, "## another page", other)) == []


def test_a_line_with_other_cells_is_told() -> None:
    with pytest.raises(PageError, match=r":3: 3 cells instead of 4"):
        table("| x | query: soon | later |")


def test_wrong_tests_are_told() -> None:
    lines = [
        f"| a | keepline.query.CM_OP_GET | same | {SHOWN} |",
        f"| b | keepline.query.CM_OP_GET | same | {HERE}::test_nothing |",
        "| c | keepline.query.CM_OP_GET | same | tests/docs/test_nothing.py::test_nothing |",
        f"| d | keepline.query.TimestampFromTicks | same | {SHOWN} |",
        "| e | query: soon | later | — |",
    ]
    between = f"shown by `{HERE}::test_missing` and `{HERE}::test_names_exist`"
    found = mistakes_in_tests(table(*lines), "\n".join([*lines, between]))
    assert [each.partition(": ")[2] for each in found] == [
        f"b: there is no test {HERE}::test_nothing",
        "c: there is no test tests/docs/test_nothing.py::test_nothing",
        f"d: {SHOWN} does not use TimestampFromTicks",
        f"there is no test {HERE}::test_missing",
    ]


def test_only_the_test_itself_and_what_it_shares_count_as_use() -> None:
    assert uses(f"{HERE}::test_names_exist", "ROWS")
    assert uses(f"{HERE}::test_names_exist", "Row")  # by a function beside the tests
    assert uses(SHOWN, "original_payload")  # by its parameters
    assert not uses(f"{HERE}::test_names_exist", "original_payload")
    assert not uses(f"{HERE}::test_names_exist", "Path")  # only imported there
    assert not uses(f"{HERE}::test_names_exist", "row_")


@pytest.mark.parametrize(
    ("body", "holds"),
    [("pass", True), ("raise ValueError('broken')", False), ("pytest.skip('missing')", False)],
)
def test_a_test_that_fails_or_is_skipped_is_told(tmp_path: Path, body: str, holds: bool) -> None:
    file = tmp_path / "test_one.py"
    file.write_text(f"import pytest\n\n\ndef test_one():\n    {body}\n")
    found = run([f"{file}::test_one"])
    assert (found == []) is holds
    assert holds or any(word in found[0] for word in ("broken", "missing"))
