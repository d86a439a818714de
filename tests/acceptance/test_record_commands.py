"""What the commands about records say: closing, looking back, and tables for people."""

import json
from pathlib import Path

import pytest

from keepline import open_instance
from keepline.app import records as records_app
from keepline.errors import RecordError
from keepline.records.editing import Desk
from tests.acceptance.command import error_line, keepline, keepline_json

VISIT = ("--type", "visit")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An instance with the records `v1` and `v2` of a type `visit`."""
    lab = tmp_path / "lab"
    keepline("init", lab)
    (lab / "types").mkdir()
    (lab / "types" / "visit.toml").write_text(
        "finalised = true\n[fields]\nnote = {}\nsmoker = { type = 'boolean' }\n"
    )
    keepline("records", "types", "migrate", cwd=lab)
    (lab / "in.csv").write_text("key;note;smoker\nv1;first;ja\nv2;second;nein\n")
    words = ("--true", "ja", "--false", "nein", "--decimal", ",", "--delimiter", ";")
    keepline("records", "import", "in.csv", *VISIT, *words, cwd=lab)
    return lab


def test_a_record_is_finalised_and_reopened_with_a_reason(folder: Path) -> None:
    finalise = ("records", "finalise", "v1", *VISIT, "--reason", "checked")
    assert "visit/v1 is finalised." in keepline(*finalise, cwd=folder).stdout
    assert "finalised already" in keepline(*finalise, cwd=folder).stdout
    reopen = ("records", "reopen", "v1", *VISIT)
    assert "--reason" in keepline(*reopen, cwd=folder, status=2).stderr
    assert "--reason" in error_line(*reopen, "--reason", " ", cwd=folder)
    assert "open again" in keepline(*reopen, "--reason", "a slip", cwd=folder).stdout
    assert "was open already" in keepline(*reopen, "--reason", "a slip", cwd=folder).stdout
    found = keepline_json("records", "history", "v1", *VISIT, cwd=folder)["revisions"]
    assert [each["why"] for each in found[1:]] == ["checked", "a slip"]
    assert "no" in error_line("records", "finalise", "none", *VISIT, cwd=folder)


def test_a_time_before_the_record_is_told_and_a_day_is_no_time(folder: Path) -> None:
    show = ("records", "show", "v1", *VISIT, "--at")
    assert "visit/v1 was not there yet: it is from 2" in error_line(
        *show, "2001-01-01T00:00:00Z", cwd=folder
    )
    assert "2026-11-22T23:59:59Z" in error_line(*show, "2026-11-22", cwd=folder)


def test_tables_say_booleans_and_imports_in_few_words(folder: Path) -> None:
    listed = keepline("records", "list", *VISIT, cwd=folder).stdout
    assert "true" in listed
    assert "True" not in listed
    shown = keepline("records", "history", "v1", *VISIT, cwd=folder).stdout
    (revision,) = keepline_json("records", "history", "v1", *VISIT, cwd=folder)["revisions"]
    digest = revision["why"].removeprefix("import sha256:").removesuffix(" in.csv")
    assert len(digest) == 64
    assert f"import {digest[:8]} in.csv" in shown
    assert digest not in shown


def test_a_check_in_says_where_what_waits_is_listed(folder: Path) -> None:
    said = keepline("records", "checkout", "v1", *VISIT, "-o", "one.json", cwd=folder).stdout
    assert "1 record in one.json" in said
    keepline("records", "checkout", "v1", *VISIT, "-o", "two.json", cwd=folder)
    for name, note in (("one", "mine"), ("two", "theirs")):
        bundle = json.loads((folder / f"{name}.json").read_text())
        bundle["records"][0]["values"]["note"] = note
        (folder / f"{name}.json").write_text(json.dumps(bundle))
    listing = "keepline records proposals list"
    first = keepline("records", "checkin", "one.json", cwd=folder).stdout
    assert "1 record edited" in first
    assert listing not in first
    assert listing in keepline("records", "checkin", "two.json", cwd=folder).stdout


def test_who_ends_the_input_is_told_where_the_draft_is(folder: Path) -> None:
    class InputEndedError(Exception):
        """As typer raises it, without a word."""

    def end(_said: str) -> bool:
        raise InputEndedError

    desk = Desk(lambda path: path.write_text("note = nonsense"), lambda *_: None, end)
    with (
        open_instance(folder) as instance,
        pytest.raises(RecordError, match="no answer was given; what"),
    ):
        records_app.edit(instance, "visit", "v1", desk)
