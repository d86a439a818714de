"""What a user can do wrong: one clear line and status 2, and nothing good is lost."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.command import error_line, keepline, keepline_json

HEADER = "time;pressure;flow\n"
REPLAY = ("--instrument", "bench", "--time-column", "time", "--delimiter", ";")


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    folder = tmp_path / "instance"
    keepline("init", folder)
    return folder


def replay(instance: Path, file: Path, *, tz: str = "Europe/Berlin") -> tuple[str | Path, ...]:
    return ("--instance", instance, "replay", file, "--tz", tz, *REPLAY)


def write(folder: Path, *lines: bytes) -> Path:
    file = folder / "bench.csv"
    file.write_bytes(HEADER.encode() + b"".join(lines))
    return file


def test_broken_rows_are_quarantined_and_the_good_ones_kept(instance: Path, tmp_path: Path) -> None:
    broken = {
        3: b"2020-03-09 10:00:01;not a number;2\n",
        5: b"2020-03-09 10:00:03;1\n",
        6: b"yesterday;1;2\n",
        8: b"2020-03-09 10:00:06;\xff\xfe;2\n",
    }
    good = {
        2: b"2020-03-09 10:00:00;1.5;2\n",
        4: b"2020-03-09 10:00:02;2.5;3\n",
        7: b"2020-03-09 10:00:05;3.5;\n",
    }
    lines = [line for _, line in sorted({**broken, **good}.items())]
    done = keepline_json(*replay(instance, write(tmp_path, *lines)))
    assert done["quarantined"] == 4
    assert done["readings_archived"] == 5
    with sqlite3.connect(instance / "keepline.db") as database:
        kept = database.execute("SELECT position, raw, reason FROM quarantine ORDER BY position")
        rows = kept.fetchall()
    database.close()
    assert [(position, raw.rstrip(b"\r\n")) for position, raw, _ in rows] == [
        (number, line.rstrip(b"\n")) for number, line in sorted(broken.items())
    ]
    assert all(reason for _, _, reason in rows)


def test_unknown_time_zone(instance: Path, tmp_path: Path) -> None:
    file = write(tmp_path, b"2020-03-09 10:00:00;1;2\n")
    assert "Mars/Olympus" in error_line(*replay(instance, file, tz="Mars/Olympus"))


def test_missing_column(instance: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    file.write_text("when;pressure\n2020-03-09 10:00:00;1\n")
    said = error_line(*replay(instance, file))
    assert "'time'" in said
    assert "when" in said


def test_missing_file(instance: Path, tmp_path: Path) -> None:
    assert "nowhere.csv" in error_line(*replay(instance, tmp_path / "nowhere.csv"))


def test_a_bad_file_does_not_stop_the_good_ones(instance: Path, tmp_path: Path) -> None:
    good = write(tmp_path, b"2020-03-09 10:00:00;1;2\n", b"2020-03-09 10:00:01;1;2\n")
    command = replay(instance, tmp_path / "nowhere.csv")
    finished = keepline(*command, good, "--json", status=2)
    assert "nowhere.csv" in finished.stderr
    assert '"sessions": 1' in finished.stdout


def test_no_instance(tmp_path: Path) -> None:
    assert "keepline init" in error_line("capture", "list", cwd=tmp_path)


def test_instance_of_a_newer_schema(instance: Path) -> None:
    with sqlite3.connect(instance / "keepline.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert "upgrade keepline" in error_line("--instance", instance, "sessions", "list")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in error_line("init", tmp_path / "file" / "instance")
    assert "cannot be written" in error_line("demo", "--dir", tmp_path / "file" / "demo")


def test_init_twice(instance: Path) -> None:
    assert "instance already" in error_line("init", instance)


def test_demo_never_touches_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "--dir" in error_line("demo", "--dir", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[store]\nurl = 'oracle://here'\n", "sqlite or postgresql"),
        ("[store]\nuri = 'sqlite:///x.db'\n", "store.uri"),
        ("[store\n", "keepline.toml"),
        ("[capture]\nlinger_s = -1\n", "capture.linger_s"),
    ],
)
def test_mistakes_in_the_settings(instance: Path, settings: str, said: str) -> None:
    (instance / "keepline.toml").write_text(settings)
    assert said in error_line("--instance", instance, "sessions", "list")


def test_secrets_never_show(instance: Path) -> None:
    url = "postgresql://ann:hunter2@127.0.0.1:1/none"
    said = error_line("--instance", instance, "sessions", "list", KEEPLINE_STORE__URL=url)
    assert "hunter2" not in said


def test_store_file_that_is_no_database(instance: Path) -> None:
    (instance / "keepline.db").write_bytes(b"this is no database" * 100)
    assert "SQL store" in error_line("--instance", instance, "sessions", "list")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM nowhere.nothing",
        "SELEC 1",
        "DELETE FROM records.instrument_session",
        "SELECT 1; SELECT 2",
        "SELECT * FROM '/etc/passwd'",
    ],
)
def test_queries_that_cannot_be_answered(instance: Path, sql: str) -> None:
    assert error_line("--instance", instance, "query", sql)


def test_unknown_names(instance: Path) -> None:
    assert "nobody" in error_line("--instance", instance, "deliver", "run", "nobody")
    assert "pdf" in error_line("--instance", instance, "download", "--format", "pdf")
    assert "recipe" in error_line("--instance", instance, "records", "list", "--type", "recipe")
    assert "k1" in error_line("--instance", instance, "records", "show", "k1")


@pytest.mark.parametrize("step", ["inf", "1e13", "0", "-1", "nan"])
def test_steps_that_are_none(instance: Path, tmp_path: Path, step: str) -> None:
    command = replay(instance, write(tmp_path, b"2020-03-09 10:00:00;1;2\n"))
    finished = keepline(*command, "--step", step, status=2)
    assert "Traceback" not in finished.stderr
    assert keepline_json("--instance", instance, "capture", "list") == {"sessions": []}


def test_a_misspelt_variable_is_not_ignored(instance: Path) -> None:
    said = error_line("--instance", instance, "sessions", "list", KEEPLINE_STROE__URL="x")
    assert "KEEPLINE_STROE__URL" in said
    assert "KEEPLINE_STORE__*" in said


def test_a_broken_capture_store_leaves_the_rest(instance: Path) -> None:
    (instance / "capture.db").write_bytes(b"this is no database" * 100)
    sql = "SELECT count(*) FROM records.instrument_session"
    finished = keepline("--instance", instance, "query", sql, "--json")
    assert '"rows"' in finished.stdout
    assert len(finished.stderr.splitlines()) == 1
    assert "capture" in finished.stderr
    assert "capture.db" in error_line("--instance", instance, "capture", "list")


def test_output_that_cannot_be_written(instance: Path) -> None:
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [
                sys.executable,
                "-c",
                "from keepline.cli import main; main()",
                "--instance",
                str(instance),
                "query",
                "SELECT 1",
                "--format",
                "csv",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr


def test_a_query_can_be_interrupted(instance: Path) -> None:
    endless = (
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"
    )
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from keepline.cli import main; main()",
            "--instance",
            str(instance),
            "query",
            endless,
        ],
        stderr=subprocess.PIPE,
    ) as running:
        time.sleep(3)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=5) != 0


def test_instruments_can_be_declared(instance: Path) -> None:
    keepline("--instance", instance, "instruments", "add", "stm", "--tz", "Europe/Madrid")
    (declared,) = keepline_json("--instance", instance, "instruments", "list")["instruments"]
    assert (declared["name"], declared["tz"]) == ("stm", "Europe/Madrid")
    said = error_line("--instance", instance, "instruments", "add", "x", "--tz", "Mars/Olympus")
    assert "Mars/Olympus" in said


def test_tables_that_a_query_can_name(instance: Path) -> None:
    listed = keepline_json("--instance", instance, "tables")["columns"]
    assert {"table": "sessions.session", "name": "started_at", "type": "datetime"} in listed
