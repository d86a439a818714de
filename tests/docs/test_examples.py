"""Every program in examples/ runs, and prints what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"

EXPECTED = {
    "ask_own_module.py": ["by SQL: [('ann', 100.0)]", "as a Request: [('ann', 40.0)]"],
    "log_a_sensor.py": [
        "stored up to message 569",
        "570 readings, 1 gap",
        "175.00 to 185.00 over 570 readings",
    ],
}


def test_every_example_is_expected() -> None:
    assert {each.name for each in FOLDER.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, FOLDER / name, tmp_path / "instance"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == EXPECTED[name]
