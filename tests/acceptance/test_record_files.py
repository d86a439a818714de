"""Records edited at a terminal, imported and checked in: what is asked, said, and answered."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.command import PROGRAM, environment, error_line, keepline, keepline_json

#: An editor: puts `note = "mine"` into the draft, and once saves another note around it.
EDITOR = """
import subprocess, sys
from pathlib import Path

draft = Path(sys.argv[-1])
text = draft.read_text()
draft.write_text(text.replace('note = "first"', 'note = "mine"'))
subprocess.run([*{program!r}, "records", "import", "theirs.csv", "--type", "visit", "--key", "key"],
               check=True, stdout=subprocess.DEVNULL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An instance with the record `v1` of a type `visit`, whose note is "first"."""
    lab = tmp_path / "lab"
    keepline("init", lab)
    (lab / "types").mkdir()
    (lab / "types" / "visit.toml").write_text(
        "[fields]\nnote = {}\npieces = { type = 'integer' }\n"
    )
    keepline("records", "types", "migrate", cwd=lab)
    _import(lab, "v1,first,1")
    return lab


def _import(folder: Path, *rows: str, status: int = 0) -> str:
    (folder / "in.csv").write_text("\n".join(["key,note,pieces", *rows, ""]))
    arguments = ("records", "import", "in.csv", "--type", "visit", "--key", "key")
    done = keepline(*arguments, cwd=folder, status=status)
    return done.stdout + done.stderr


def _at_a_terminal(folder: Path, *arguments: str, answer: tuple[str, str], **env: str) -> str:
    """Run `keepline` at a terminal and return what that shows; answer[0] is answered once."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=folder, stdin=its, stdout=its, stderr=its,
        env=environment(**env), start_new_session=True,
    )  # fmt: skip
    os.close(its)
    shown, answered, until = "", False, time.monotonic() + 60
    try:
        while time.monotonic() < until:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            shown += part.decode(errors="replace")
            if answer[0] in shown and not answered:
                os.write(ours, f"{answer[1]}\n".encode())
                answered = True
        assert process.wait(timeout=60) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown


def test_a_conflict_is_decided_at_the_terminal(folder: Path) -> None:
    (folder / "theirs.csv").write_text("key,note\nv1,theirs\n")
    editor = folder / "editor.py"
    editor.write_text(EDITOR.format(program=PROGRAM))
    shown = _at_a_terminal(
        folder,
        *("records", "edit", "v1", "--type", "visit", "--reason", "read again"),
        answer=("mine, theirs, base, or another value", "both of us"),
        VISUAL="",
        EDITOR=f"{sys.executable} {editor}",
    )
    assert "note was changed meanwhile" in shown
    assert all(each in shown for each in ("base", "first", "mine", "theirs"))
    assert "visit/v1: saved." in shown
    record = json.loads(keepline("records", "show", "v1", "--type", "visit", cwd=folder).stdout)
    assert record["fields"]["note"] == "both of us"
    revisions = keepline_json("records", "history", "v1", "--type", "visit", cwd=folder)
    assert revisions["revisions"][-1]["why"] == "read again"


def test_without_a_terminal_nothing_is_edited(folder: Path) -> None:
    told = error_line("records", "edit", "v1", "--type", "visit", cwd=folder, stdin="")
    assert "needs a terminal" in told


def test_an_import_with_rejected_rows_ends_with_1(folder: Path) -> None:
    assert "1 inserted" in _import(folder, "v2,second,2")
    said = _import(folder, "v2,second,2", "v3,third,many", status=1)
    assert "1 rejected" in said
    assert "keepline: line 3: " in said
    told = error_line(
        "records", "import", "none.csv", "--type", "visit", "--key", "key", cwd=folder
    )
    assert "none.csv" in told


def test_a_check_in_with_refused_records_ends_with_1(folder: Path) -> None:
    keepline("records", "checkout", "v1", "--type", "visit", "-o", "out.json", cwd=folder)
    bundle = json.loads((folder / "out.json").read_text())
    bundle["records"][0]["values"]["pieces"] = 7
    (folder / "good.json").write_text(json.dumps(bundle))
    assert "0 refused" in keepline("records", "checkin", "good.json", cwd=folder).stdout
    bundle["records"][0]["values"]["pieces"] = "many"
    (folder / "bad.json").write_text(json.dumps(bundle))
    assert "1 refused" in keepline("records", "checkin", "bad.json", cwd=folder, status=1).stdout
    assert "none.json" in error_line("records", "checkin", "none.json", cwd=folder)
