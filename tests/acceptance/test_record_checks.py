"""What watches over records, checked and put right from the command line."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.command import keepline, keepline_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keepline("init", tmp_path / "lab")
    return tmp_path / "lab"


def _run(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "keepline.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_dropped_trigger_is_told_and_put_back(folder: Path) -> None:
    assert keepline("records", "verify", cwd=folder).stdout == "Everything holds.\n"
    _run(folder, "DROP TRIGGER rec_instrument_session_update")
    done = keepline("records", "verify", cwd=folder, status=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("keepline: the trigger rec_instrument_session_update")
    assert line.endswith("run `keepline migrate`")
    assert done.stdout == "Problems: 1.\n"
    shown = keepline_json("records", "verify", cwd=folder, status=1)
    assert len(shown["problems"]) == 1
    keepline("migrate", cwd=folder)
    assert keepline_json("records", "verify", cwd=folder) == {"problems": []}


def test_a_row_that_changed_unseen_is_told_and_adopted(folder: Path) -> None:
    _run(
        folder,
        "INSERT INTO rec_instrument_session (record_key, instrument) VALUES ('k', 'i')",
        "DROP TRIGGER rec_instrument_session_update",
        "DROP TRIGGER rec_instrument_session_guard",
        "UPDATE rec_instrument_session SET instrument = 'other'",
    )
    keepline("migrate", cwd=folder)
    done = keepline("records", "reconcile", cwd=folder, status=1)
    assert done.stdout == "instrument_session/k: changed (instrument)\n"
    assert "--adopt" in done.stderr
    shown = keepline_json("records", "reconcile", "--adopt", "--reason", "seen", cwd=folder)
    assert shown["adopted"]
    (row,) = shown["rows"]
    assert (row["kind"], row["fields"], row["refusal"]) == ("changed", ["instrument"], None)
    done = keepline("records", "reconcile", cwd=folder)
    assert done.stdout == "Every row is as its history says.\n"
