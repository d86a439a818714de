"""One record with a value of every field type, a subject and an end, on each way out."""

import base64
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from python_calamine import CalamineWorkbook

from keepline import config
from keepline.app.instance import Instance, init_instance
from keepline.query import Column, connect, request
from keepline.records import apply_type, business_class, jsonclasshintify, subjects
from tests.acceptance.command import keepline, keepline_json
from tests.planted import RECIPIENTS
from tests.stores import ANN
from tests.visits import VISIT

SCAN = bytes(range(256))
IN_BASE64 = base64.b64encode(SCAN).decode()
DAY = date(2026, 3, 2)
AT = datetime(2026, 3, 2, 10, 0, 0, 250_000, tzinfo=UTC)
VALUES: dict[str, Any] = {
    "note": "é",
    "order": 2**53 + 1,
    "weight": 0.1 + 0.2,
    "fasting": True,
    "day": DAY,
    "at": AT,
    "extra": {"a": [1, None]},
    "scan": SCAN,
}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    folder = tmp_path / "lab"
    init_instance(folder).close()
    with (folder / config.FILE_NAME).open("a") as settings:
        settings.write(RECIPIENTS)
    with Instance(folder, config.load(folder)) as made:
        apply_type(made.store, VISIT, ANN)
        number = subjects.add("P-1", instance=made).number
        visit = business_class(VISIT).create("v1", VALUES, subject=number, instance=made)
        assert visit.finalise()
        yield made


def test_sql_and_requests_give_the_values(instance: Instance) -> None:
    names = [*VALUES, "subject_no", "finalised"]
    expected = (*(VALUES | {"extra": '{"a":[1,null]}'}).values(), 1, True)
    quoted = ", ".join(f'"{name}"' for name in names)
    with connect("ann", instance=instance) as connection:
        cursor = connection.cursor()
        for condition in ("DATE '2026-03-02'", "'2026-03-02'", "?"):
            text = f"SELECT {quoted} FROM records.visit WHERE day = {condition}"
            cursor.execute(text, [DAY] if condition == "?" else None)
            assert cursor.fetchall() == [expected]
        cursor.execute("SELECT record_key FROM records.visit WHERE day > DATE '2026-03-02'")
        assert cursor.fetchall() == []
        for wanted in (DAY, "2026-03-02"):
            asked = request()
            for name in names:
                asked.add_field(name, Column("records", "visit", name))
            asked.add_param(Column("records", "visit", "day"), wanted)
            cursor.execute(asked)
            assert cursor.fetchall() == [expected]


def test_a_download_has_a_date_cell_and_tells_of_the_blob(instance: Instance) -> None:
    path = keepline_json("download", "--dir", "out", cwd=instance.folder)["path"]
    page = CalamineWorkbook.from_path(str(instance.folder / path)).get_sheet_by_name("visit")
    heading, row = page.to_python()
    found = dict(zip(heading, row, strict=True))
    assert (found["day"], found["subject_no"], found["finalised"]) == (DAY, 1.0, True)
    assert found["scan"] == f"256 bytes, SHA-256 {hashlib.sha256(SCAN).hexdigest()}"
    assert (found["at"], found["order"]) == ("2026-03-02T10:00:00.250000Z", str(2**53 + 1))


def test_both_transports_deliver_everything(instance: Instance, tmp_path: Path) -> None:
    keepline("deliver", "run", cwd=instance.folder)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        ledger.row_factory = sqlite3.Row
        row = dict(ledger.execute("SELECT * FROM keepline_visit").fetchone())
    assert (row["subject_no"], row["finalised"]) == (1, 1)
    assert (row["day"], row["scan"], row["weight"]) == ("2026-03-02", SCAN, 0.1 + 0.2)
    (file,) = (tmp_path / "outbox" / "visit").iterdir()
    record = json.loads(file.read_text())["record"]
    assert (record["subject"], record["finalised"]) == (1, True)
    assert record["fields"]["day"] == "2026-03-02"
    assert record["fields"]["scan"] == IN_BASE64


def test_the_command_line_shows_it(instance: Instance) -> None:
    folder = instance.folder
    shown = json.loads(keepline("records", "show", "v1", "--type", "visit", cwd=folder).stdout)
    assert keepline_json("records", "list", "--type", "visit", cwd=folder)["records"] == [shown]
    assert (shown["subject"], shown["finalised"], shown["fields"]["day"]) == (1, True, "2026-03-02")
    assert shown["fields"]["scan"] == IN_BASE64
    listed = keepline("records", "list", "--type", "visit", cwd=folder, COLUMNS="250").stdout
    assert "256 bytes" in listed
    assert "2026-03-02" in listed
    text = "SELECT day, scan FROM records.visit"
    assert keepline_json("query", text, cwd=folder)["rows"] == [["2026-03-02", IN_BASE64]]
    assert keepline("query", text, "--format", "csv", cwd=folder).stdout == (
        f"day,scan\n2026-03-02,{IN_BASE64}\n"
    )


def test_class_hints_say_what_each_value_was(instance: Instance) -> None:
    hinted = jsonclasshintify(business_class(VISIT)("v1", instance=instance))
    assert json.loads(json.dumps(hinted)) == hinted
    assert hinted["__jsonclass__"] == ["Visit", ["visit", "v1"]]
    assert hinted["day"] == {"__jsonclass__": ["Date", ["2026-03-02"]]}
    assert hinted["at"]["__jsonclass__"] == ["DateTime", [AT.isoformat(timespec="microseconds")]]
    assert hinted["scan"] == {"__jsonclass__": ["Bytes", [IN_BASE64]]}
    assert (hinted["order"], hinted["extra"]) == (2**53 + 1, {"a": [1, None]})
