"""`keepline demo` does what it says, and its figures agree with what lies in the stores."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import python_calamine

from tests.acceptance.command import keepline, keepline_json


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo") / "instance"
    return keepline_json("demo", "--dir", folder, "--seconds", "2")


def ask(database: str | Path, sql: str) -> Any:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchone()[0]


def test_nothing_is_lost_on_the_way(result: dict[str, Any]) -> None:
    assert result["messages_sent"] == result["messages_stored"] == result["messages_archived"]
    assert result["messages_sent"] > 19_000
    assert result["sessions"] == result["records_built"] == 2


def test_figures_are_those_of_the_stores(result: dict[str, Any]) -> None:
    archive = Path(result["instance"]) / "keepline.db"
    assert result["readings_archived"] == ask(archive, "SELECT sum(n) FROM block_stat")
    assert result["gaps"] == ask(archive, "SELECT count(*) FROM gap WHERE kind = 'time'")
    assert result["records_built"] == ask(archive, "SELECT count(*) FROM rec_instrument_session")


def test_edits(result: dict[str, Any]) -> None:
    outcomes = [edit["outcome"] for edit in result["edits"]]
    assert outcomes[:4] == ["saved", "merged", "saved", "conflict"]
    conflict = result["edits"][3]
    assert len({conflict["base"], conflict["mine"], conflict["theirs"]}) == 3
    last = result["edits"][-1]
    assert last["outcome"] == "saved"
    assert conflict["mine"] in last["mine"]
    assert conflict["theirs"] in last["mine"]


def test_query(result: dict[str, Any]) -> None:
    assert result["query_rows"] == len(result["query_result"]) > 0
    assert result["request_agrees"] is True


def test_deliveries(result: dict[str, Any]) -> None:
    assert result["delivered"] == {"ledger": 2, "files": 2}
    assert result["delivered_again"] == {"ledger": 0, "files": 0}
    assert result["delivered_after_edit"] == {"ledger": 1, "files": 1}
    instance = Path(result["instance"])
    assert ask(instance / "ledger.db", "SELECT count(*) FROM keepline_instrument_session") == 2
    assert len(list((instance / "outbox").rglob("*.json"))) == 2


def test_download_opens(result: dict[str, Any]) -> None:
    (path,) = result["downloads"]
    sheet = python_calamine.CalamineWorkbook.from_path(path).get_sheet_by_name("instrument_session")
    assert len(sheet.to_python()) == 3


def test_people_get_tables(tmp_path: Path) -> None:
    shown = keepline("demo", "--dir", tmp_path / "demo", "--seconds", "0.5").stdout
    for heading in (
        "1. Captured",
        "2. 2 records",
        "3. Two editors",
        "4. One question",
        "5. Delivered",
    ):
        assert heading in shown
    assert str(tmp_path / "demo" / "keepline.db") in shown


def test_demo_replaces_its_own_folder_and_keeps_it_when_asked(tmp_path: Path) -> None:
    first = keepline_json("demo", "--seconds", "0.5", cwd=tmp_path)
    again = keepline_json("demo", "--seconds", "0.5", cwd=tmp_path)
    kept = keepline_json("demo", "--seconds", "0.5", "--keep", cwd=tmp_path)
    assert first["instance"] == again["instance"] == str(tmp_path / "keepline-demo")
    assert kept["instance"] == str(tmp_path / "keepline-demo-2")
