"""Record types from the command line: declared in a file, looked at, migrated."""

from pathlib import Path

import pytest

from tests.acceptance.command import error_line, keepline, keepline_json

FIRST = """comment = "A vial"
[fields]
label = { required = true }
volume = { type = "real", unit = "mL" }
"""
SECOND = """comment = "A vial"
[fields]
name = { required = true, was = "label" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keepline("init", tmp_path / "lab")
    (tmp_path / "lab" / "types").mkdir()
    return tmp_path / "lab"


def test_a_type_is_declared_shown_and_migrated(folder: Path) -> None:
    file = folder / "types" / "vial.toml"
    file.write_text(FIRST)
    states = keepline_json("records", "types", "list", cwd=folder)["types"]
    assert {each["name"]: each["state"] for each in states} == {
        "instrument_session": "applied",
        "phq9": "available",
        "vial": "available",
    }
    shown = keepline_json("records", "types", "migrate", "--dry-run", cwd=folder)
    assert [(each["record_type"], each["done"]) for each in shown["migrations"]] == [
        ("vial", False)
    ]
    assert "vial (done):" in keepline("records", "types", "migrate", cwd=folder).stdout
    assert "as declared" in keepline("records", "types", "migrate", cwd=folder).stdout
    file.write_text(SECOND)
    states = keepline_json("records", "types", "list", cwd=folder)["types"]
    assert {each["name"]: each["state"] for each in states}["vial"] == "changed"
    steps = keepline("records", "types", "migrate", cwd=folder).stdout
    assert "drop the field volume" in steps
    assert "rename the field label to name" in steps
    assert keepline_json("records", "types", "show", "vial", cwd=folder)["fields"][0]["name"] == (
        "name"
    )


def test_a_shipped_type_is_applied_by_its_name(folder: Path) -> None:
    keepline("records", "types", "migrate", "phq9", cwd=folder)
    assert "-99 declined" in keepline("records", "types", "show", "phq9", cwd=folder).stdout
    line = error_line("records", "types", "migrate", "phq8", cwd=folder)
    assert line.startswith("phq8 is neither a TOML file nor an available type; there are: ")


def test_every_mistake_has_a_line(folder: Path) -> None:
    (folder / "types" / "vial.toml").write_text("subjct = true\n[fields]\na = { typ = 'text' }\n")
    failed = keepline("records", "types", "migrate", cwd=folder, status=2)
    assert failed.stdout == ""
    assert {line.partition("vial.toml: ")[2] for line in failed.stderr.splitlines()} == {
        "subjct: no such key; did you mean subject?",
        "fields.a.typ: no such key; did you mean type?",
    }


def test_a_dry_run_is_refused_as_the_migration_would_be(folder: Path) -> None:
    file = folder / "types" / "vial.toml"
    file.write_text(FIRST)
    keepline("records", "types", "migrate", cwd=folder)
    (folder / "in.csv").write_text("key,label,volume\nv1,x,1.5\n")
    keepline("records", "import", "in.csv", "--type", "vial", cwd=folder)
    file.write_text(SECOND)
    migrate = ("records", "types", "migrate")
    dry = keepline(*migrate, "--dry-run", cwd=folder, status=2)
    assert "vial (would be refused):" in dry.stdout
    assert "--allow-data-loss" in dry.stderr
    assert dry.stderr == keepline(*migrate, cwd=folder, status=2).stderr
    allowed = keepline(*migrate, "--dry-run", "--allow-data-loss", cwd=folder)
    assert "vial (would be done):" in allowed.stdout


def test_an_applied_type_that_no_file_declares_is_said(folder: Path) -> None:
    file = folder / "types" / "vial.toml"
    file.write_text(FIRST)
    keepline("records", "types", "migrate", cwd=folder)
    file.unlink()
    said = keepline("records", "types", "migrate", cwd=folder).stdout
    assert "vial is applied and no file declares it" in said
    assert keepline_json("records", "types", "migrate", cwd=folder)["undeclared"] == ["vial"]
