"""Thirty real sessions of a water-circulation bench, replayed as a user would.

The files (github.com/waico/SKAB) are not part of this repository: KEEPLINE_TEST_SKAB names
their folder; without it they are looked for in ``../shared/data/skab``.
"""

from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from keepline.app.instance import open_instance
from keepline.model import to_us
from tests.acceptance.command import keepline, keepline_json
from tests.needs import give_up

FOLDER = Path(
    os.environ.get("KEEPLINE_TEST_SKAB")
    or Path(__file__).parents[2].parent / "shared" / "data" / "skab"
)
RECIPIENT = '\n[recipients.ledger]\ntransport = "database"\nurl = "sqlite:///ledger.db"\n'
OPTIONS = ("--instrument", "bench", "--tz", "Europe/Moscow", "--time-column", "datetime")

if not FOLDER.is_dir():
    give_up(f"no SKAB files in {FOLDER}: set KEEPLINE_TEST_SKAB to have them")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(FOLDER.glob("*/*.csv"))


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skab") / "instance"
    keepline("init", folder)
    with (folder / "keepline.toml").open("a") as settings:
        settings.write(RECIPIENT)
    return folder


@pytest.fixture(scope="module")
def replayed(instance: Path, files: list[Path]) -> dict[str, object]:
    return keepline_json("--instance", instance, "replay", *files, *OPTIONS, "--delimiter", ";")


def test_counts(replayed: dict[str, object], files: list[Path]) -> None:
    assert len(files) == 30
    assert replayed["readings_archived"] == 33_089 * 10
    assert replayed["sessions"] == 30
    assert replayed["gaps"] == 1_707
    assert replayed["disorder"] == 0
    assert replayed["overlaps"] == 4
    assert replayed["quarantined"] == 0
    assert replayed["records_built"] == 30


@pytest.mark.usefixtures("replayed")
def test_archive_equals_the_files(instance: Path, files: list[Path]) -> None:
    with open_instance(instance) as opened:
        number = {session.started: session.number for session in opened.capture_store.sessions()}
        assert len(number) == 30
        for file in files:
            rows = list(_rows(file))
            session = number[_moscow(rows[0]["datetime"])]
            for channel in list(rows[0])[1:]:
                times_us, values = opened.archive.read(session, channel)
                assert values.tolist() == [float(row[channel]) for row in rows]
                assert times_us[-1] == to_us(_moscow(rows[-1]["datetime"]))


@pytest.mark.usefixtures("replayed")
def test_replaying_again_adds_nothing(instance: Path, files: list[Path]) -> None:
    again = keepline_json("--instance", instance, "replay", *files, *OPTIONS, "--delimiter", ";")
    assert (again["readings_archived"], again["sessions"], again["records_built"]) == (0, 0, 0)


@pytest.mark.usefixtures("replayed")
def test_records_are_delivered_once(instance: Path) -> None:
    first = keepline_json("--instance", instance, "deliver", "run")
    again = keepline_json("--instance", instance, "deliver", "run")
    assert first["recipients"]["ledger"]["sent"] == 30
    assert again["recipients"]["ledger"]["sent"] == 0
    with closing(sqlite3.connect(instance / "ledger.db")) as ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master")]
        assert "keepline_instrument_session" in tables
        counted = ledger.execute("SELECT count(*) FROM keepline_instrument_session")
        assert counted.fetchone() == (30,)


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(newline="") as lines:
        yield from csv.DictReader(lines, delimiter=";")


def _moscow(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Moscow"))
