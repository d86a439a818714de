"""Recording, looking, stopping, archiving, exporting and deleting, as a user types it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.command import PROGRAM, environment, error_line, keepline, keepline_json

STREAM = """
[streams.bench]
instrument = "bench"
step_s = 1.0
options = { time = "t", time_format = "unix_s" }
channels = [
    { name = "pressure", unit = "bar" },
    { name = "count", dtype = "int64" },
]
"""


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """An instance with one declared stream, whose messages hold their own times."""
    folder = tmp_path / "instance"
    keepline("init", folder)
    with (folder / "keepline.toml").open("a") as settings:
        settings.write(STREAM)
    return folder


def lines(first: int, last: int) -> str:
    """Return the messages `first` to `last`, a second apart."""
    return "".join(
        json.dumps({"t": 1_770_000_000 + n, "pressure": n / 4, "count": n}) + "\n"
        for n in range(first, last + 1)
    )


@contextmanager
def recording(instance: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `keepline capture start` on a pipe until the context ends."""
    command = ("--instance", str(instance), "capture", "start", "--stream", "bench")
    with subprocess.Popen(
        [*PROGRAM, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Recording capture session 1.\n"
        try:
            yield process
        finally:
            process.kill()


def test_lines_become_a_session_that_can_be_shown_and_exported(
    instance: Path, tmp_path: Path
) -> None:
    here = ("--instance", instance)
    text = lines(0, 4) + "this is no JSON\n" + lines(8, 9)
    started = keepline_json(*here, "capture", "start", "--stream", "bench", stdin=text)
    assert started["messages"] == 8
    assert started["session"]["state"] == "complete"
    assert keepline_json(*here, "capture", "show", "1")["archive"] is None

    archived = keepline_json(*here, "archive")
    assert (archived["messages"], archived["readings"], archived["quarantined"]) == (8, 14, 1)
    shown = keepline_json(*here, "capture", "show", "1")
    assert shown["live"] is False
    assert shown["streams"][0]["archived_seq"] == 7
    assert shown["archive"]["gaps"] == {"time": 1}
    assert shown["archive"]["missing"] == []

    for form in ("csv", "parquet"):
        file = tmp_path / f"session.{form}"
        keepline(*here, "capture", "export", "1", file)
        assert "exists" in error_line(*here, "capture", "export", "1", file)
        keepline(*here, "capture", "export", "1", file, "--overwrite")
    with (tmp_path / "session.csv").open(newline="") as exported:
        rows = list(csv.DictReader(exported))
    assert [float(row["pressure"]) for row in rows] == [0, 0.25, 0.5, 0.75, 1, 2, 2.25]
    assert [int(row["count"]) for row in rows] == [0, 1, 2, 3, 4, 8, 9]

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "session.parquet")
    assert table["count"].to_pylist() == [0, 1, 2, 3, 4, 8, 9]
    assert str(table.schema.field("count").type) == "int64"


def test_recorder_is_stopped_from_another_shell_and_keeps_what_it_took(instance: Path) -> None:
    here = ("--instance", instance)
    with recording(instance) as process:
        assert process.stdin is not None
        process.stdin.write(lines(0, 99))
        process.stdin.flush()
        (session,) = keepline_json(*here, "capture", "list")["sessions"]
        assert session["state"] == "running"
        tail = subprocess.Popen(
            [*PROGRAM, *map(str, here), "capture", "tail", "1", "--from", "0", "--follow"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        (stopped,) = keepline_json(*here, "capture", "stop", "1")["sessions"]
        assert process.wait(timeout=30) == 0
        followed, _ = tail.communicate(timeout=30)
    assert stopped["state"] == "complete"
    assert followed == lines(0, 99)
    assert keepline_json(*here, "archive")["messages"] == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_recording_with_what_was_read(instance: Path, number: signal.Signals) -> None:
    with recording(instance) as process:
        assert process.stdin is not None
        process.stdin.write(lines(0, 9) + "half a li")
        process.stdin.flush()
        wait_for_messages(instance, 10)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    assert keepline_json("--instance", instance, "archive")["messages"] == 11


def test_last_messages_are_shown(instance: Path) -> None:
    here = ("--instance", instance)
    keepline(*here, "capture", "start", "--stream", "bench", stdin=lines(0, 19))
    assert keepline(*here, "capture", "tail", "1").stdout == lines(10, 19)
    assert keepline(*here, "capture", "tail", "1", "--from", "15").stdout == lines(15, 19)
    batch, end = map(
        json.loads,
        keepline(*here, "capture", "tail", "1", "--from", "18", "--json").stdout.splitlines(),
    )
    assert (batch["first_seq"], len(batch["messages"])) == (18, 2)
    assert batch["epoch"] == end["epoch"] != ""
    assert (end["next_seq"], end["messages"], end["state"]) == (20, [], "complete")


def test_session_is_deleted_only_when_archived_or_forced(instance: Path) -> None:
    here = ("--instance", instance)
    for _ in range(2):
        keepline(*here, "capture", "start", "--stream", "bench", stdin=lines(0, 3))
    refused = error_line(*here, "capture", "delete", "1")
    assert refused.startswith("4 messages of capture session 1 are not archived")
    keepline(*here, "capture", "delete", "1", "--force")
    keepline(*here, "archive")
    keepline(*here, "capture", "delete", "2")
    assert keepline_json(*here, "capture", "list") == {"sessions": []}
    assert keepline_json(*here, "query", "SELECT number FROM archive.session")["rows"] == [[2]]
    keepline(*here, "capture", "delete", "2", "--archive")
    assert keepline_json(*here, "query", "SELECT number FROM archive.session")["rows"] == []
    assert "no capture session 2" in error_line(*here, "capture", "delete", "2")
    keepline(*here, "capture", "start", "--stream", "bench", stdin=lines(0, 3))
    (session,) = keepline_json(*here, "capture", "list")["sessions"]
    assert session["number"] == 3


def test_unknown_stream_and_level_say_what_to_do(instance: Path) -> None:
    here = ("--instance", instance, "capture", "start", "--stream")
    assert "bench" in error_line(*here, "nothing", stdin="")
    said = keepline(*here, "bench", "--level", "quick", stdin="", status=2).stderr
    levels = "'accepted', 'stored', 'fsynced', 'archived'"
    assert said.endswith(f"Error: Invalid value for '--level': 'quick' is not one of {levels}.\n")


def test_blank_lines_are_no_messages(instance: Path) -> None:
    here = ("--instance", instance, "capture")
    stdin = '\n{"a": 1}\n\n\r\n{"a": 2}\r\n\n'
    found = keepline_json(*here, "start", "--stream", "bench", stdin=stdin)
    assert (found["read"], found["messages"]) == (2, 2)
    assert keepline(*here, "tail", "1").stdout == '{"a": 1}\n{"a": 2}\n'


def test_early_interrupt_is_one_line() -> None:
    while_loading = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from keepline.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", while_loading], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "keepline: interrupted\n")


def wait_for_messages(instance: Path, count: int) -> None:
    """Return once the session has so many stored messages."""
    while True:
        (stream,) = keepline_json("--instance", instance, "capture", "show", "1")["streams"]
        if stream["messages"] >= count:
            return
